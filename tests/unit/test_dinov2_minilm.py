"""The pair of DINOv2 and MiniLM: rows stand alone, cut towers are whole ones, every person's gradient is its own; and, slow,
the real weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.adapters.lora import Lora
from mien.adapters.representation import _targets
from mien.backbones import dinov2_minilm as ours
from mien.backbones._binder import Absent, collate
from mien.core import assets
from mien.core.errors import MienError
from mien.core.records import Text, Video

from ..conftest import fetched
from .person_by_person import adapted, assert_the_same
from .pictured import SHOWN, drawn


@pytest.fixture
def binder():
    return ours.load(ours.Config(model="tiny", side=56, tokens=12, frames=2))


def rows(binder, modality):
    return collate([binder.towers[modality].prepare(s) for s in SHOWN[modality]])


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_row_has_unit_length_and_does_not_see_the_others(binder, modality):
    inputs = rows(binder, modality)
    binder.model.train()  # frozen layers stay still: no dropout, no statistics of the batch
    made = binder.embed(binder.model, modality, inputs)
    assert made.shape == (3, binder.dim)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(3))
    assert (made[0] - made[1]).abs().max() > 1e-4
    alone = binder.embed(binder.model, modality, {k: v[:1] for k, v in inputs.items()})
    torch.testing.assert_close(alone[0], made[0], atol=1e-6, rtol=0)


def test_padding_is_not_read(binder):
    short = binder.towers["text"].prepare("ab")
    longer = ours.load(ours.Config(model="tiny", side=56, tokens=30)).towers["text"].prepare("ab")
    one, two = (binder.embed(binder.model, "text", collate([r])) for r in (short, longer))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_a_cut_tower_is_the_whole_one(binder, modality, k):
    inputs, tower = rows(binder, modality), binder.towers[modality]
    before = tower.early(binder.model, inputs, k)
    found = tower.late(binder.model, before, k)
    torch.testing.assert_close(found, binder.embed(binder.model, modality, inputs), atol=1e-6, rtol=0)
    assert tower.late(binder.model, torch.zeros_like(before), k).isfinite().all()  # what stands in for a missing stream


@pytest.mark.parametrize("modality", ["image", "text"])
def test_gradients_of_persons_are_those_of_one_at_a_time(binder, modality):
    targets = _targets(binder, [modality], Lora(rank=2))
    assert any(t.endswith("join") for t in targets)
    model = adapted(binder.model, targets)
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in rows(binder, modality).items()}
    away = torch.randn(binder.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_the_same(
        model, lambda keep: binder.embed(model, modality, {k: v[keep] for k, v in inputs.items()}) @ away,
        torch.tensor([0, 1, 0]),
    )  # fmt: skip


def test_the_start_has_the_same_bits_on_any_number_of_threads():
    """An adapter was refused by the verb after it: its base had another fingerprint on two threads than on one."""
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            made.append(ours.rotation(384, 384).float())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(made[0], m) for m in made)
    torch.testing.assert_close(made[0] @ made[0].T, torch.eye(384), atol=1e-5, rtol=0)


def test_late_layers_alone(binder):
    found = _targets(binder, ["image"], Lora(rank=2, layers=1, targets="attention"))
    assert found == [f"image.encoder.encoder.layer.2.attention.{n}_proj" for n in "koqv"]
    assert _targets(binder, ["text"], Lora(rank=2, targets=("query",)))[0].startswith("text.encoder.encoder.layer.0")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda b: ours.load(ours.Config(side=100)), "no multiple of 14"),
        (lambda b: b.towers["image"].prepare("words"), "takes video"),
        (lambda b: b.towers["text"].prepare(drawn(0)), "takes text"),
        (lambda b: ours.sentences(assets.cache_home()), "mien assets fetch minilm"),
    ],
)
def test_bad_input(binder, home, call, says):
    with pytest.raises(MienError, match=says):
        call(binder)


def test_nothing_said_is_absent(binder):
    silent = Text(times_s=np.zeros(0), ends_s=np.zeros(0), text=(), speakers=(), seconds=5.0)
    with pytest.raises(Absent, match="no words"):
        binder.towers["text"].prepare(silent)
    grey = Video(frames=np.zeros((1, 90, 60, 3), np.uint8), rate_hz=1)
    assert binder.towers["image"].prepare(grey)["values"].shape == (2, 3, 56, 56)


@pytest.mark.slow
@pytest.mark.skipif(not fetched(*ours.PARTS), reason="needs `mien assets fetch dinov2-s minilm`")
def test_the_real_weights():
    binder = ours.load(ours.Config())
    assert (binder.dim, binder.identity) == (384, "mien-assets/dinov2-minilm")
    assert [len(t.layers) for t in binder.towers.values()] == [12, 6]
    said = ["I am stressed by my exam", "an anxious test taker", "a cat on a mat"]
    words = binder.embed(binder.model, "text", collate([binder.towers["text"].prepare(s) for s in said]))
    near = words @ words.T
    assert near[0, 1] > near[0, 2] + 0.2
    shown = [drawn(1), Video(frames=drawn(1).frames[:, :, ::-1].copy(), rate_hz=2), drawn(2)]
    seen = binder.embed(binder.model, "image", collate([binder.towers["image"].prepare(s) for s in shown]))
    near = seen @ seen.T
    assert near[0, 1] > near[0, 2]  # its mirror image is nearer than another picture
