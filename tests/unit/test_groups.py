"""Groups of persons that are clipped as one: what a step is, by how much one person moves it, and what is charged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.adapters import training, world
from mien.core.errors import MienError
from mien.privacy import noise, sampling
from mien.privacy.flat import Flat
from mien.privacy.noise import Secret
from mien.privacy.plan import PrivacySpec
from mien.privacy.sampling import Units

from .test_representation import made_of, people  # noqa: F401 - a fixture

SPEC = {"epsilon": 4.0, "batch": 4, "n": 40, "delta": 1e-5}


def test_twice_the_noise_for_the_same_price():
    plain, groups = (PrivacySpec.model_validate({**SPEC, **more}).plan(n=40, steps=50) for more in ({}, {"groups": 2}))
    assert groups.gradient_noise == pytest.approx(2 * plain.gradient_noise)
    assert groups.events() == plain.events()
    assert groups.guarantee().epsilon == plain.guarantee().epsilon
    assert "2 groups (sensitivity 2 C)" in groups.guarantee().clipping
    assert (plain.expected_batch, groups.expected_batch) == (4, 2)
    assert groups.fingerprint != plain.fingerprint
    with pytest.raises(MienError, match="adaptive clipping counts"):
        PrivacySpec.model_validate({**SPEC, "groups": 2, "clipping": "adaptive"}).plan(n=40, steps=50)


@settings(max_examples=30, deadline=None)
@given(units=st.integers(0, 12), groups=st.integers(1, 5))
def test_every_drawn_unit_is_in_one_group_whole(units, groups):
    batch = [np.arange(10 * u, 10 * u + 1 + u % 3) for u in range(units)]
    made = sampling.grouped(batch, groups, Secret())
    assert len(made) <= groups
    assert sorted(np.concatenate(made).tolist() if made else []) == sorted(
        np.concatenate(batch).tolist() if batch else []
    )
    for rows in batch:
        assert sum(set(rows.tolist()) <= set(g.tolist()) for g in made) == 1
    assert all(m.closes == m.open == 1 and not m.slot.any() for m in sampling.whole(made))


def test_groups_are_chosen_evenly():
    counts = np.bincount(Secret().places(6000, 3), minlength=3)
    assert counts.sum() == 6000
    assert (abs(counts - 2000) < 250).all()  # seven deviations


def gradient(made, windows, rows, clip):
    """The oracle: the mean loss of a group, its rows contrasted with each other, by ordinary autograd, clipped."""
    flat = Flat(made.model)
    flat.differentiable()
    flat.grad.zero_()
    batch = made.batch(windows, rows)
    batch.group = torch.zeros(len(rows), dtype=torch.long)
    made.losses(made.model, batch).mean().backward()
    g = flat.grad.double().clone()
    flat.release()
    return g * min(1.0, clip / float(g.norm()))


def test_a_step_is_the_sum_of_clipped_groups(people, monkeypatch, tmp_path):  # noqa: F811
    made, windows = made_of(people, bind="group")
    units = Units.of(windows.person)
    drawn, clip = [units.rows[u][:3] for u in (0, 1, 2, 4)], 0.05
    groups = [np.concatenate([drawn[0], drawn[2]]), np.concatenate([drawn[1], drawn[3]])]
    want = sum(gradient(made, windows, g, clip) for g in groups)
    seen = []
    monkeypatch.setattr(sampling, "draw", lambda *a: drawn)
    monkeypatch.setattr(sampling, "grouped", lambda *a: groups)
    monkeypatch.setattr(noise, "noised", lambda total, z, c, secret: seen.append((total.clone(), z, c)) or total)
    plan = PrivacySpec(noise_multiplier=1.5, delta=1e-5, batch=4, groups=2, clip_norm=clip).plan(n=6, steps=1)
    training.fit(
        made.model, made.losses, lambda rows: made.batch(windows, rows), len(windows),
        training.Train(max_steps=1, micro_batch=2, lr=1e-9, log_every=1), seed=0, folder=tmp_path,
        accelerator=world.accelerator(threads=1),
        private=training.Private(plan=plan, units=units, probes=lambda: made.probes(windows)),
    )  # fmt: skip
    ((total, z, c),) = seen
    assert (z, c) == (3.0, pytest.approx(clip))
    assert (total - want).abs().max() < 1e-5 * max(1.0, float(want.abs().max()))


@pytest.mark.parametrize("who", [0, 3, 5])
def test_one_person_moves_one_group_by_twice_the_clip_norm_at_most(people, who):  # noqa: F811
    made, windows = made_of(people, bind="group")
    units, clip = Units.of(windows.person), 0.05
    with_, others = (
        [units.rows[u][:3] for u in (who, (who + 1) % 6)],
        [units.rows[u][:3] for u in ((who + 2) % 6, (who + 4) % 6)],
    )
    a = gradient(made, windows, np.concatenate(with_), clip)
    b = gradient(made, windows, with_[1], clip)
    assert float((a - b).norm()) <= 2 * clip + 1e-6
    # and the other group does not see them: it runs forward by itself
    alone = gradient(made, windows, np.concatenate(others), clip)
    batch = made.batch(windows, np.concatenate([*others, *with_]))
    batch.group = torch.tensor([0] * 6 + [1] * 6)
    both = made.losses(made.model, batch)[:6]
    batch = made.batch(windows, np.concatenate(others))
    batch.group = torch.zeros(6, dtype=torch.long)
    assert torch.allclose(both, made.losses(made.model, batch), atol=1e-5)
    assert float(alone.norm()) <= clip + 1e-6
