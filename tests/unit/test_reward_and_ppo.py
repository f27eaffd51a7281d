"""A reward model over behaviour tokens, and PPO towards it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mien.adapters import world
from mien.alignment import beside, dpo, ppo, reward
from mien.core.errors import MienError
from mien.generation import sample
from mien.generation.vocabulary import PAD

from .test_alignment import base, setting  # noqa: F401 - a fixture


@pytest.fixture
def rewarded(setting, tmp_path):  # noqa: F811
    layout, backbone, model, data = setting
    asked = reward.Reward(rank=2, steps=20, batch=8, lr=1e-2)
    made, temperature = reward.train(
        backbone,
        base(layout).model,
        layout,
        data,
        asked,
        seed=0,
        folder=tmp_path / "r",
        accelerator=world.accelerator(threads=1),
    )
    return layout, backbone, model, data, made, temperature


def test_a_reward_model_orders_what_it_learnt_from_and_is_kept(rewarded, tmp_path):
    layout, backbone, _, data, made, temperature = rewarded
    assert temperature > 0
    assert reward.accuracy(backbone, made, data).value > 0.7
    reward.save(made, tmp_path / "kept", temperature, backbone.identity)
    back = reward.load(tmp_path / "kept", layout)
    assert np.allclose(reward.score(backbone, back, data.chosen), reward.score(backbone, made, data.chosen), atol=1e-5)
    config = json.loads((tmp_path / "kept" / "config.json").read_text())
    (tmp_path / "kept" / "config.json").write_text(json.dumps(config | {"behaviour_vocabulary": "other"}))
    with pytest.raises(MienError, match="other behaviour tokens"):
        reward.load(tmp_path / "kept", layout)
    with pytest.raises(MienError, match="holds no reward model"):
        reward.load(tmp_path / "nothing", layout)


def test_ppo_leaves_the_private_adapter_alone_and_every_sample_valid(rewarded, tmp_path):
    layout, backbone, model, data, made, _ = rewarded
    before = {n: p.clone() for n, p in model.named_parameters()}
    reference = dpo.margins(backbone, model, data, layout.prompt_length)
    beside.attach(model, beside.Aligned(rank=2), 1)
    asked = ppo.Ppo(episodes=16, batch=8, epochs=1, minibatches=2, lr=1e-2)
    log = ppo.train(
        model, backbone, layout, made, asked, seed=0, folder=tmp_path / "p", accelerator=world.accelerator(threads=1)
    )
    assert abs(log[0]["objective/kl"]) < 1e-2  # policy and reference are one at the start
    for name, p in model.named_parameters():
        if f".{beside.ALIGNED}." not in name:
            assert torch.equal(p, before[name]), name
    assert any(bool(p.any()) for n, p in model.named_parameters() if f"lora_B.{beside.ALIGNED}" in n)
    assert np.array_equal(dpo.reference(backbone, model, data, layout.prompt_length), reference)
    docs = sample.documents(model, layout, backbone.own_ids, [layout.prompt("walk")] * 8, temperature=1.0, seed=1)
    assert all(layout.grammar.accepts(d[d != PAD].tolist()) for d in docs)


def test_a_reward_of_another_vocabulary_is_refused(rewarded, tmp_path):
    layout, backbone, model, _, made, _ = rewarded
    made.config.behaviour_vocabulary = "other"
    beside.attach(model, beside.Aligned(rank=2), 1)
    with pytest.raises(MienError, match="other behaviour tokens"):
        ppo.train(
            model, backbone, layout, made, ppo.Ppo(), seed=0, folder=tmp_path, accelerator=world.accelerator(threads=1)
        )


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_temperature_is_the_best_on_a_grid(scale):
    rng = np.random.default_rng(0)
    d = scale * (0.5 + rng.normal(size=400))
    best = reward.calibrate(d)

    def loss(t):
        return np.logaddexp(0, -d / t).mean()

    assert all(loss(best) <= loss(best * f) + 1e-9 for f in np.geomspace(0.2, 5, 41))


def test_pairs_that_share_a_recording_are_one_cluster(setting):  # noqa: F811
    *_, data = setting
    chain = data.rows(np.array([0, 1, 2]))
    linked = type(chain)(
        chosen=[data.chosen[0], data.chosen[0], data.chosen[5]], rejected=[data.rejected[0], data.rejected[1], data.rejected[6]],
        pair=chain.pair, rater=chain.rater, person=chain.person, private=chain.private, weight=chain.weight,
    )  # fmt: skip
    names = reward.clusters(linked)
    assert names[0] == names[1] != names[2]
