"""An adapter beside the private one: where it starts, what DPO does to it, and the one plain adapter that comes out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mien.adapters import lora, world
from mien.alignment import beside, dpo, pairs, preferences
from mien.alignment.pairs import Pairs
from mien.backbones import tiny
from mien.backbones.causal_lm import CausalBackbone, linear_names
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.generation import sample
from mien.generation.adapted import rows_to_train
from mien.generation.grammar import constrain
from mien.generation.layout import Layout
from mien.generation.vocabulary import PAD
from mien.privacy.plan import PrivacySpec

from ..conftest import CARD

SHAPE = tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48)


def base(layout: Layout):
    model = constrain(tiny.fresh(SHAPE, layout.vocabulary.size, 0), layout.grammar, 0)
    model.requires_grad_(False)
    return CausalBackbone(
        model=model, identity="test/tiny", revision=None, fingerprint="", offset=0, lora_targets=linear_names(model),
        speaks_behaviour=True,
    )  # fmt: skip


@pytest.fixture
def setting():
    """A private adapter that has learnt something (random), and twenty pairs of its own documents."""
    layout = Layout.of(CARD, seconds=2.0, task="activity", codec=Plugin(name="transform"))
    backbone = base(layout)
    model = lora.attach(backbone, lora.Lora(rank=4, alpha=8, dropout=0.1), rows_to_train(layout, backbone), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    model.eval()
    docs = sample.documents(model, layout, backbone.own_ids, [layout.prompt("rest")] * 40, temperature=1.0, seed=0)
    docs = sorted((d[d != PAD] for d in docs), key=lambda d: float(d.mean()))
    data = Pairs(
        chosen=docs[20:], rejected=docs[:20], pair=np.array([f"q{i}" for i in range(20)], object),
        rater=np.array(["ann", "ben"] * 10, object), person=np.array([f"p{i % 5}" for i in range(20)], object),
        private=np.zeros(20, bool), weight=np.ones(20),
    )  # fmt: skip
    return layout, backbone, model, data


def aligned(setting, tmp_path, *, steps=12, seed=0):
    layout, backbone, model, data = setting
    beside.attach(model, beside.Aligned(rank=3, alpha=6), 1)
    asked = dpo.Dpo(steps=steps, batch=4, lr=1e-2)
    dpo.train(
        model, backbone, layout, data, asked, seed=seed, folder=tmp_path, accelerator=world.accelerator(threads=1)
    )
    return model


def test_at_the_start_nothing_has_changed_and_the_margin_is_zero(setting):
    layout, backbone, model, data = setting
    alone = dpo.margins(backbone, model, data, layout.prompt_length)
    beside.attach(model, beside.Aligned(), 1)
    assert np.array_equal(dpo.margins(backbone, model, data, layout.prompt_length), alone)
    assert np.array_equal(dpo.reference(backbone, model, data, layout.prompt_length), alone)
    loss = dpo.losses(backbone, 0.1)
    ref = alone[:, 0] - alone[:, 1]
    batch = pairs.batch(backbone, data, range(5), ref, layout.prompt_length, "cpu")
    assert torch.allclose(loss(model, batch), torch.full((5,), float(np.log(2))), atol=1e-5)
    # what PEFT would have taken for the reference is the bare base, which never saw a recording
    with model.disable_adapter():
        assert not np.allclose(dpo.margins(backbone, model, data, layout.prompt_length), alone, atol=1e-2)


def test_dpo_moves_the_new_adapter_alone_and_widens_the_margin(setting, tmp_path, capsys):
    layout, backbone, model, data = setting
    before = {n: p.clone() for n, p in model.named_parameters()}
    reference = dpo.margins(backbone, model, data, layout.prompt_length)
    aligned(setting, tmp_path)
    told = capsys.readouterr().out
    assert "DPO on 20 pairs: 12/12" in told
    assert "{'loss'" not in told  # numbers that TRL would print
    now = dpo.margins(backbone, model, data, layout.prompt_length)
    assert ((now - reference) @ [1, -1]).mean() > 0.1
    for name, p in model.named_parameters():
        if f".{beside.ALIGNED}." not in name:
            assert torch.equal(p, before[name]), name
    assert np.array_equal(dpo.reference(backbone, model, data, layout.prompt_length), reference)
    assert beside.active(model) == (beside.PRIVATE, beside.ALIGNED)


def test_every_sequence_is_valid_after_dpo(setting, tmp_path):
    layout, backbone, *_ = setting
    model = aligned(setting, tmp_path)
    made = sample.documents(model, layout, backbone.own_ids, [layout.prompt("walk")] * 16, temperature=1.0, seed=3)
    assert all(layout.grammar.accepts(d[d != PAD].tolist()) for d in made)


def test_both_become_one_plain_adapter(setting, tmp_path):
    from peft import PeftModel

    layout, backbone, _, data = setting
    model = aligned(setting, tmp_path / "run")
    beside.export(model, tmp_path / "adapter", backbone)
    plain = PeftModel.from_pretrained(base(layout).model, str(tmp_path / "adapter")).eval()
    one = dpo.margins(backbone, plain, data, layout.prompt_length)
    both = dpo.margins(backbone, model, data, layout.prompt_length)
    assert np.abs(one - both).max() < 1e-3  # sums of some hundred tokens, each equal to 1e-5
    ours = lora.restore(base(layout), tmp_path / "adapter")
    assert np.allclose(dpo.margins(backbone, ours, data, layout.prompt_length), one, atol=1e-4)


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.1])
def test_what_was_learned_can_be_kept_in_part(setting, tmp_path, strength):
    layout, backbone, _, data = setting
    model = aligned(setting, tmp_path)
    prompt = layout.prompt_length
    whole, private = dpo.margins(backbone, model, data, prompt), dpo.reference(backbone, model, data, prompt)
    update = {n: m.get_delta_weight(beside.ALIGNED) for n, m in lora.layers(model)}
    alone = {n: m.get_delta_weight(beside.PRIVATE) for n, m in lora.layers(model)}
    beside.keep(model, strength)
    for n, m in lora.layers(model):
        assert torch.allclose(m.get_delta_weight(beside.ALIGNED), strength * update[n], atol=1e-7)
        assert torch.equal(m.get_delta_weight(beside.PRIVATE), alone[n])
    now = dpo.margins(backbone, model, data, prompt)
    moved = ((now - private) @ [1, -1]).mean() / ((whole - private) @ [1, -1]).mean()
    assert strength / 2 < moved <= 1.001  # of a small update, about its share


def test_private_preferences_are_for_private_trainers(setting, tmp_path):
    layout, backbone, model, data = setting
    hidden = dataclasses.replace(data, private=np.arange(20) == 7)
    beside.attach(model, beside.Aligned(), 1)
    with pytest.raises(MienError, match="1 of 20 preferences are private"):
        dpo.train(
            model,
            backbone,
            layout,
            hidden,
            dpo.Dpo(steps=1),
            seed=0,
            folder=tmp_path,
            accelerator=world.accelerator(threads=1),
        )


def test_dpo_under_privacy_clips_each_persons_pairs(setting, tmp_path):
    layout, backbone, model, data = setting
    data = dataclasses.replace(data, private=np.ones(20, bool))
    beside.attach(model, beside.Aligned(rank=2), 1)
    with torch.no_grad():  # a zero B has no gradient into A yet
        for n, p in model.named_parameters():
            if f".{beside.ALIGNED}." in n:
                p.add_(0.05 * torch.randn(p.shape))
    plan = PrivacySpec(noise_multiplier=1.0, delta=1e-5, batch=3, rows=2).plan(n=5, steps=2)
    asked = dpo.Dpo(steps=2, batch=3, lr=1e-3, micro_batch=2)
    dpo.train_private(
        model, backbone, layout, data, asked, plan, seed=0, folder=tmp_path, accelerator=world.accelerator(threads=1)
    )
    assert plan.guarantee().epsilon > 0


def test_a_pairs_loss_depends_on_no_other(setting):
    layout, backbone, model, data = setting
    beside.attach(model, beside.Aligned(), 1)
    loss, ref = dpo.losses(backbone, 0.1), np.linspace(-1, 1, 20)
    alone = loss(model, pairs.batch(backbone, data, [4], ref, layout.prompt_length, "cpu"))
    for others in ([4, 1], [4, 19, 2, 8]):
        both = loss(model, pairs.batch(backbone, data, others, ref, layout.prompt_length, "cpu"))
        assert torch.allclose(both[:1], alone, atol=1e-5)


def test_rows_for_trl_come_back(setting):
    layout, _, _, data = setting
    back = Pairs.of(data.columns(layout), layout)
    assert all(
        np.array_equal(a, b) for a, b in zip(back.chosen + back.rejected, [*data.chosen, *data.rejected], strict=True)
    )
    assert back.rater.tolist() == data.rater.tolist()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r | {"chosen": "<no.such.token>"}, "another vocabulary"),
        (lambda r: r | {"chosen": " ".join(r["chosen"].split()[:3])}, "no whole document"),
        (lambda r: r | {"chosen": r["rejected"]}, "prefers a recording to itself"),
        (lambda r: {k: v for k, v in r.items() if k != "rejected"}, "is no column"),
    ],
)
def test_rows_that_are_no_pair(setting, change, says):
    layout, _, _, data = setting
    row = data.columns(layout)[0]
    with pytest.raises(MienError, match=says):
        Pairs.of([change(row)], layout)
    with pytest.raises(MienError, match="no preference is left"):
        Pairs.of([], layout)


@pytest.mark.parametrize("text", ["{", "[1, 2]", '"x"'])
def test_files_that_hold_no_rows(tmp_path, text):
    (tmp_path / "p.jsonl").write_text('{"a": 1}\n\n' + text + "\n")
    with pytest.raises(MienError, match="line 3: not a JSON object"):
        preferences.rows(tmp_path / "p.jsonl")
