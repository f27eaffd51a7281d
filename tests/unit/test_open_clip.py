"""OpenCLIP's towers: linear attention is the same attention, rows stand alone, every person's gradient is its own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from mien.adapters.lora import Lora
from mien.adapters.representation import _targets
from mien.backbones._binder import Absent, collate
from mien.core.errors import MienError
from mien.core.records import Text, Video

from .person_by_person import adapted, assert_the_same
from .pictured import SHOWN, drawn

open_clip = pytest.importorskip("open_clip", reason="needs the extra `clip`")
from mien.backbones import open_clip as ours  # noqa: E402 - after the skip


@pytest.fixture(scope="module")
def binder():
    return ours.load(ours.Config(model="tiny", frames=2))


def rows(binder, modality):
    return collate([binder.towers[modality].prepare(s) for s in SHOWN[modality]])


def test_linear_attention_computes_what_torchs_does():
    torch.manual_seed(1)
    shown = open_clip.CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=32)
    theirs = open_clip.CLIP(16, shown, open_clip.CLIPTextCfg(context_length=16, width=32, heads=2, layers=2)).eval()
    mine = ours.linear_attention(copy.deepcopy(theirs))
    assert not any(isinstance(m, torch.nn.MultiheadAttention) for m in mine.modules())
    pixels, ids = torch.randn(3, 3, 32, 32), open_clip.SimpleTokenizer(context_length=16)(SHOWN["text"])
    for known, found in zip(theirs(pixels, ids)[:2], mine(pixels, ids)[:2], strict=True):
        torch.testing.assert_close(found, known, atol=1e-5, rtol=0)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_row_has_unit_length_and_does_not_see_the_others(binder, modality):
    inputs = rows(binder, modality)
    made = binder.embed(binder.model, modality, inputs)
    assert made.shape == (3, binder.dim)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(3))
    other = {k: torch.cat([v[:1], v[1:].flip(0)]) for k, v in inputs.items()}
    torch.testing.assert_close(binder.embed(binder.model, modality, other)[0], made[0], atol=1e-6, rtol=0)
    alone = binder.embed(binder.model, modality, {k: v[:1] for k, v in inputs.items()})
    torch.testing.assert_close(alone[0], made[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_gradients_of_persons_are_those_of_one_at_a_time(modality):
    binder = ours.load(ours.Config(model="tiny"))
    tower = binder.towers[modality]
    model = adapted(binder.model, binder.lora_targets)
    for name, p in model.named_parameters():
        inside = any(layer in name for layer in tower.layers) and (modality == "image") == ("visual." in name)
        p.requires_grad_(p.requires_grad and inside)
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in rows(binder, modality).items()}
    away = torch.randn(binder.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_the_same(
        model, lambda keep: binder.embed(model, modality, {k: v[keep] for k, v in inputs.items()}) @ away,
        torch.tensor([0, 1, 0]),
    )  # fmt: skip


def test_a_representation_finds_its_linear_layers(binder):
    for modality in ("image", "text"):
        found = _targets(binder, [modality], Lora(rank=2, layers=1))
        assert found
        assert all(n.startswith(binder.towers[modality].layers[-1]) for n in found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "ViT-Z-1"}, "no architecture"),
        ({}, "name a file of weights, or a tag of ViT-B-32"),
        ({"pretrained": "nowhere.safetensors"}, "cannot load"),
    ],
)
def test_what_cannot_be_loaded_is_named(change, says):
    with pytest.raises(MienError, match=says):
        ours.load(ours.Config(**change))


def test_streams_a_tower_cannot_take(binder):
    with pytest.raises(MienError, match="takes video"):
        binder.towers["image"].prepare("words")
    silent = Text(times_s=np.zeros(0), ends_s=np.zeros(0), text=(), speakers=(), seconds=5.0)
    with pytest.raises(Absent, match="no words"):
        binder.towers["text"].prepare(silent)
    one = Video(frames=drawn(0).frames[:1], rate_hz=1)
    assert binder.towers["image"].prepare(one)["values"].shape == (2, 3, 32, 32)
