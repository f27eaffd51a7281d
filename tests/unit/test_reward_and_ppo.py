"""A reward model over behaviour tokens, and PPO towards it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy import stats
from torch.optim.optimizer import register_optimizer_step_post_hook

from mien.adapters import lora, world
from mien.alignment import beside, decoded, dpo, ppo, reward
from mien.alignment.pairs import Pairs
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.generation import sample
from mien.generation.adapted import rows_to_train
from mien.generation.grammar import MASKED
from mien.generation.layout import Layout
from mien.generation.vocabulary import EOS, PAD, RELATION_0, RELATIONS

from ..conftest import CARD
from .test_alignment import base, setting  # noqa: F401 - a fixture


def fresh(layout, backbone):
    """A value model that knows nothing yet."""
    eos, pad = (int(backbone.own_ids(np.array(t))) for t in (EOS, PAD))
    return reward.fresh(base(layout).model, layout.vocabulary.digest, eos, pad, 0)


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
    steps: list[object] = []
    counted = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    log = ppo.train(
        model, backbone, layout, made, fresh(layout, backbone), asked, seed=0, folder=tmp_path / "p",
        accelerator=world.accelerator(threads=1),
    )  # fmt: skip
    counted.remove()
    assert len(steps) == 4  # one for each minibatch
    assert abs(log[0]["objective/kl"]) < 1e-2  # policy and reference are one at the start
    for name, p in model.named_parameters():
        if f".{beside.ALIGNED}." not in name:
            assert torch.equal(p, before[name]), name
    assert any(bool(p.any()) for n, p in model.named_parameters() if f"lora_B.{beside.ALIGNED}" in n)
    assert np.array_equal(dpo.reference(backbone, model, data, layout.prompt_length), reference)
    docs = sample.documents(model, layout, backbone.own_ids, [layout.prompt("walk")] * 8, temperature=1.0, seed=1)
    assert all(layout.grammar.accepts(d[d != PAD].tolist()) for d in docs)


def test_ppo_lets_nothing_be_given_that_nobody_gives(tmp_path):
    """An adapter that was conditioned on recordings knows documents that open with one: half of what it would write, at random.
    In PPO none does, policy and reference agree at the start, and afterwards it may be given one as before."""
    layout = Layout.of(
        CARD, seconds=2.0, task="activity", codec=Plugin(name="transform"), conditioned=True, streams=("acc",)
    )
    backbone = base(layout)
    model = lora.attach(backbone, lora.Lora(rank=2, alpha=4), rows_to_train(layout, backbone), 0)
    beside.attach(model, beside.Aligned(rank=2), 1)
    seen: list[np.ndarray] = []

    def read(docs: list[np.ndarray]) -> list[np.ndarray]:
        seen.extend(docs)
        return [np.full(len(d), float(d.mean())) for d in docs]

    spy = decoded.Decoded(signs=decoded.Signs(layout=layout), linear=None, centre={}, least={})._read(backbone, read)  # type: ignore[arg-type]
    ids = backbone.own_ids(np.array([layout.prompt("walk")]))
    before = model(input_ids=torch.as_tensor(ids)).logits
    asked = ppo.Ppo(episodes=16, batch=8, epochs=1, minibatches=1, lr=1e-6)
    log = ppo.train(
        model, backbone, layout, spy, fresh(layout, backbone), asked, seed=0, folder=tmp_path,
        accelerator=world.accelerator(threads=1),
    )  # fmt: skip
    assert abs(log[0]["objective/kl"]) < 1e-2
    whole = [d for d in seen if d[-1] == EOS]
    assert len(whole) >= 16
    assert all(layout.grammar.accepts(d) for d in whole)
    assert not any(np.isin(RELATION_0 + np.arange(len(RELATIONS)), d).any() for d in seen)
    after = model(input_ids=torch.as_tensor(ids)).logits
    assert torch.allclose(after, before, atol=1e-2)
    assert (after[0, -1, RELATION_0 : RELATION_0 + len(RELATIONS)] > MASKED / 2).all()


def test_a_reward_of_another_vocabulary_is_refused(rewarded, tmp_path):
    layout, backbone, model, _, made, _ = rewarded
    made.config.behaviour_vocabulary = "other"
    beside.attach(model, beside.Aligned(rank=2), 1)
    with pytest.raises(MienError, match="other behaviour tokens"):
        ppo.train(
            model, backbone, layout, made, None, ppo.Ppo(), seed=0, folder=tmp_path,
            accelerator=world.accelerator(threads=1),
        )  # fmt: skip


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_temperature_is_the_best_on_a_grid(scale):
    rng = np.random.default_rng(0)
    d = scale * (0.5 + rng.normal(size=400))
    best = reward.calibrate(d)

    def loss(t):
        return np.logaddexp(0, -d / t).mean()

    assert all(loss(best) <= loss(best * f) + 1e-9 for f in np.geomspace(0.2, 5, 41))


def chain(edges):
    """Pairs of documents by number: (chosen, rejected)."""
    n = len(edges)
    of = [[np.array([e[side]], np.int32) for e in edges] for side in (0, 1)]
    text = {k: np.array([""] * n, object) for k in ("pair", "rater", "person")}
    return Pairs(chosen=of[0], rejected=of[1], private=np.zeros(n, bool), weight=np.ones(n), **text)


def slow_variance(right, edges):
    """Of the mean over dyads, by walking over all pairs of them; at least that of answers about the same two."""
    rest, linked, same = right - right.mean(), 0.0, 0.0
    for i, e in enumerate(edges):
        for j, f in enumerate(edges):
            linked += rest[i] * rest[j] * bool(set(e) & set(f))
            same += rest[i] * rest[j] * (set(e) == set(f))
    return max(same, linked) / len(edges) ** 2


@pytest.mark.parametrize("seed", [1, 3, 6])
def test_the_share_of_pairs_that_hang_together_has_an_interval(seed):
    """Though all of them are linked, so that no group of pairs is left to compare with another."""
    rng = np.random.default_rng(seed)
    edges = [(i, i + 1) for i in range(40)] + [(i + 1, i) for i in range(0, 40, 3)]
    right = (rng.uniform(size=len(edges)) < 0.7).astype(float)
    found = reward.share(right, chain(edges))
    assert found.value == right.mean()
    assert found.n_persons == 41
    half = stats.t.ppf(0.975, 40) * np.sqrt(slow_variance(right, edges)) / (found.value * (1 - found.value))
    middle = np.log(found.value / (1 - found.value))
    assert np.allclose([found.low, found.high], 1 / (1 + np.exp(-(middle + np.array([-half, half])))))
    assert found.low < found.value < found.high
    lonely = reward.share(right, chain([(2 * i, 2 * i + 1) for i in range(len(edges))]))
    assert 0 < lonely.high - lonely.low < 1


def test_where_every_pair_is_right_only_separate_pairs_count():
    star = reward.share(np.ones(6), chain([(0, i) for i in range(1, 7)]))
    assert star.low == pytest.approx(0.025)  # one pair's worth
    apart = reward.share(np.ones(6), chain([(2 * i, 2 * i + 1) for i in range(6)]))
    assert apart.low == pytest.approx(0.025 ** (1 / 6))
    assert reward.share(np.ones(1), chain([(0, 1)])).low is None


def test_reliable_raters_count_more(setting, tmp_path):  # noqa: F811
    """A pair of weight 0 is never drawn: the adapter learns the other order of the same documents."""
    layout, backbone, model, data = setting
    turned = dataclasses.replace(
        Pairs.join([data, data]), chosen=[*data.chosen, *data.rejected], rejected=[*data.rejected, *data.chosen],
        weight=np.repeat([0.0, 2.0], 20),
    )  # fmt: skip
    reference = dpo.margins(backbone, model, data, layout.prompt_length)
    beside.attach(model, beside.Aligned(rank=3, alpha=6), 1)
    dpo.train(
        model, backbone, layout, turned, dpo.Dpo(steps=12, batch=4, lr=1e-2), seed=0, folder=tmp_path,
        accelerator=world.accelerator(threads=1),
    )  # fmt: skip
    moved = (dpo.margins(backbone, model, data, layout.prompt_length) - reference) @ [1, -1]
    assert moved.mean() < -0.1


def test_a_weighted_draw_is_in_proportion_and_the_same_everywhere():
    data = dataclasses.replace(chain([(2 * i, 2 * i + 1) for i in range(4000)]), weight=np.tile([1.0, 3.0], 2000))
    one, two = (list(dpo.weighted(data, 5)) for _ in range(2))
    assert one == two
    assert np.mean(np.array(one) % 2) == pytest.approx(0.75, abs=0.03)
    assert dpo.weighted(dataclasses.replace(data, weight=np.full(4000, 0.5)), 5) is None
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(MienError, match="weights of preferences"):
            dpo.weighted(dataclasses.replace(data, weight=np.full(4000, wrong)), 5)


def test_a_reward_is_calibrated_on_pairs_of_which_it_learned_nothing():
    n, blank = 60, np.array([""] * 60, object)
    data = Pairs(
        chosen=[np.array([i]) for i in range(n)], rejected=[np.array([i]) for i in range(n)],
        pair=np.array([f"q{i // 3}" for i in range(n)], object), rater=np.array([f"r{i % 3}" for i in range(n)], object),
        person=blank, private=np.zeros(n, bool), weight=np.ones(n),
    )  # fmt: skip
    kept = reward.calibration(data, 0.2, 0)
    assert not set(data.pair[kept]) & set(data.pair[~kept])
    assert 9 <= kept.sum() <= 15
    assert (kept != reward.calibration(data, 0.2, 1)).any()
    assert not (~reward.calibration(data.rows(np.arange(3)), 0.2, 0)).any()  # one pair alone cannot do both


def test_an_answer_that_taught_is_told_from_another():
    """Against the definition, pair by pair; and where nothing was learned by heart, the interval holds ½ as often as it says."""
    taught, kept = chain([(0, 1), (1, 2), (3, 4), (5, 6)]), chain([(7, 8), (2, 9), (10, 11)])
    inside, outside = np.array([0.1, 0.4, 0.4, -1.0]), np.array([0.4, -0.3, 0.0])
    found = reward.told_apart(inside, outside, taught, kept)
    assert found.value == np.mean([(x > y) + 0.5 * (x == y) for x in inside for y in outside])
    assert found.n_persons == 12
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < found.value < found.high < 1
    apart = reward.told_apart(inside + 5, outside, taught, kept)
    assert apart.value == apart.high == 1
    assert apart.low is not None
    assert apart.low < 0.9  # of four answers and three
    assert reward.told_apart(inside[:1], outside, chain([(0, 1)]), kept).low is None

    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        ends = [tuple(rng.choice(40, 2, replace=False)) for _ in range(80)]
        of_recording = rng.normal(size=40)  # answers about a recording move together
        moves = np.array([of_recording[a] - of_recording[b] for a, b in ends]) + rng.normal(size=80)
        null = reward.told_apart(moves[:60], moves[60:], chain(ends[:60]), chain(ends[60:]))
        assert null.low is not None
        assert null.high is not None
        hits += null.low <= 0.5 <= null.high
    assert hits >= 0.93 * 300
