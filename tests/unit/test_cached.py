"""Late layers from cached features end where the naive loop ends, and clip per person as it does."""

from __future__ import annotations

import stat
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mien.adapters.cached import cached
from mien.adapters.lora import Lora
from mien.adapters.representation import Represent, attach
from mien.adapters.windows import Windows
from mien.backbones import dinov2_minilm
from mien.core.errors import MienError
from mien.privacy.flat import Flat
from mien.privacy.gradients import PersonGradients

from .pictured import SHOWN, drawn

CARD = SimpleNamespace(name="invented", tasks={"mood": ("calm", "tense")})
N = 12


@pytest.fixture
def binder():
    return dinov2_minilm.load(dinov2_minilm.Config(model="tiny", side=56, tokens=12, frames=2))


def windows(binder, seed: int = 0) -> Windows:
    towers = binder.towers
    arrays = [
        {"image": towers["image"].prepare(drawn(seed + i)), "text": towers["text"].prepare(SHOWN["text"][i % 3])}
        for i in range(N)
    ]
    del arrays[4]["image"]  # nobody was filmed
    return Windows(
        modalities=("image", "text"), arrays=arrays, persons=list("abcd"), person=np.arange(N) % 4, recordings=list("abcd"),
        recording=np.arange(N) % 4, session=np.full(N, "1", object), start_s=np.zeros(N),
        labels={"mood": np.arange(N) % 3 % 2 * 1.0},
    )  # fmt: skip


def made(binder, k: int):
    chosen = {"image": "image", "text": "text"}
    return attach(binder, Represent(bind="batch"), Lora(rank=2, layers=k), "mood", CARD, chosen, seed=3)  # type: ignore[arg-type]


def trained(binder, rows_of: Windows, k: int, steps: int = 6) -> dict[str, torch.Tensor]:
    """The naive loop: whatever the towers are, forward, backward, a step."""
    representer = made(binder, k)
    wanted = [p for p in representer.model.parameters() if p.requires_grad]
    # with a smaller eps, numbers whose gradient is near 0 move by the sign of rounding
    optimizer = torch.optim.Adam(wanted, lr=1e-2, eps=1e-4)
    representer.model.train()
    rng = np.random.default_rng(1)
    for _ in range(steps):
        batch = representer.batch(rows_of, rng.choice(N, 5, replace=False))
        optimizer.zero_grad()
        representer.losses(representer.model, batch).mean().backward()
        optimizer.step()
    return {n: p.detach().clone() for n, p in representer.model.named_parameters() if p.requires_grad}


def again():
    return dinov2_minilm.load(dinov2_minilm.Config(model="tiny", side=56, tokens=12, frames=2))


@pytest.mark.parametrize("towers", [("image",), ("text",), ("image", "text")])
@pytest.mark.parametrize("k", [1, 2])
def test_training_ends_where_the_naive_loop_ends(binder, tmp_path, k, towers):
    known = trained(binder, windows(binder), k)
    binder = again()
    given = binder, windows(binder)
    for modality in towers:
        given = cached(*given, modality, k, tmp_path / "frozen")
    found = trained(*given, k)
    assert known.keys() == found.keys()
    assert any(f"layer.{3 - k}." in n and "image" in n for n in known)
    start = {n: p for n, p in made(again(), k).model.named_parameters() if p.requires_grad}
    assert all((known[n] - start[n]).abs().max() > 1e-3 for n in known if "image" in n and "lora_B" in n)
    for name in known:
        torch.testing.assert_close(found[name], known[name], atol=1e-5, rtol=0, msg=name)


def test_gradients_are_clipped_per_person_as_without_it(binder, tmp_path):
    def clipped(binder, rows_of, picked):
        representer = made(binder, 1)
        for name, p in representer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(p, 0.05)
        flat = Flat(representer.model)
        flat.constant()
        representer.options = Represent(bind="none")
        batch = representer.batch(rows_of, picked)
        persons, slots = torch.unique(batch.person, return_inverse=True)
        gradients = PersonGradients(flat)
        with gradients.collect(slots, len(persons)) as buffer:
            representer.losses(representer.model, batch).sum().backward()
        out = buffer * (0.5 / buffer.norm(dim=1, keepdim=True)).clamp(max=1)
        gradients.detach()
        return dict(zip(persons.tolist(), out.clone(), strict=True))

    known = clipped(binder, windows(binder), np.arange(N))
    binder = again()
    found = clipped(*cached(binder, windows(binder), "image", 1, tmp_path), np.arange(N))
    binder = again()
    alone = clipped(*cached(binder, windows(binder), "image", 1, tmp_path), np.array([1, 5, 9]))
    for person, gradient in known.items():
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(found[person], gradient, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone[1], known[1], atol=1e-5, rtol=0)  # whoever else is in the batch


def test_a_cache_is_of_its_weights_and_windows(binder, tmp_path, monkeypatch):
    calls = []
    tower = binder.towers["image"]
    object.__setattr__(tower, "early", lambda *a, early=tower.early: calls.append(1) or early(*a))
    folder = tmp_path / "frozen"
    for seed, k, fresh in [(0, 1, True), (0, 1, False), (50, 1, True), (50, 2, True), (50, 2, False)]:
        before = len(calls)
        cached(binder, windows(binder, seed), "image", k, folder)
        assert (len(calls) > before) == fresh, (seed, k)
    before, binder.fingerprint = len(calls), "of other weights"
    cached(binder, windows(binder, 50), "image", 2, folder)
    assert len(calls) > before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "image.npy").stat().st_mode) == 0o600


def test_a_broken_off_cache_is_made_anew(binder, tmp_path):
    _, known = cached(binder, windows(binder), "image", 1, tmp_path)
    kept = np.array(known.arrays[0]["image"]["frozen"])
    (tmp_path / "image.json").unlink()
    np.save(tmp_path / "image.npy", np.zeros((1, 2), np.float32))
    _, found = cached(binder, windows(binder), "image", 1, tmp_path)
    np.testing.assert_array_equal(found.arrays[0]["image"]["frozen"], kept)


@pytest.mark.parametrize(
    ("modality", "k", "says"),
    [
        ("whole", 1, "cannot be cut for a cache; towers that can: image, text"),
        ("image", 9, "has 3"),
        ("sound", 1, "cannot be cut"),
    ],
)
def test_what_cannot_be_cached(binder, tmp_path, modality, k, says):
    binder.towers = {**binder.towers, "whole": replace(binder.towers["text"], early=None)}
    with pytest.raises(MienError, match=says):
        cached(binder, windows(binder), modality, k, tmp_path)


def test_not_with_an_adapter_on_it(binder, tmp_path):
    rows_of = windows(binder)
    made(binder, 1)
    with pytest.raises(MienError, match="before an adapter is attached"):
        cached(binder, rows_of, "image", 1, tmp_path)
