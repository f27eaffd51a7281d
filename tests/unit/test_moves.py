"""The simulated expert's rules for a wrist that moves, where no vital sign is to be seen."""

from __future__ import annotations

import numpy as np
import pytest

from mien.alignment import experts
from mien.core.records import Recording, Signal
from mien.data.datasets import motion
from mien.data.vitals import roles_of

RATE = 50.0


def wrist(seed: int = 0, **more) -> Recording:
    """Ten seconds of a wrist that turns about one axis under gravity, its gyroscope beside it."""
    t = np.arange(0, 10, 1 / RATE)
    rng = np.random.default_rng(seed)
    angle = np.cumsum(np.where((t // 2) % 2 == 0, 0.02, 0.004) * rng.uniform(0.8, 1.2))
    acc = np.stack([np.sin(angle), np.zeros_like(t), np.cos(angle)], 1)
    gyro = np.stack([np.zeros_like(t), np.gradient(angle) * RATE, np.zeros_like(t)], 1)
    streams = {
        n: Signal(values=x.astype(np.float32), rate_hz=RATE, channels=("x", "y", "z"), unit=unit)
        for n, x, unit in (("acc", acc, "g"), ("gyro", gyro, "rad/s"))
    }
    return Recording(id="r", person="p", streams={**streams, **more}, labels={"exercise": "arc"})


def signs(r: Recording) -> dict[str, float]:
    return experts.moves(r.streams, roles_of(r.streams))


def test_a_wrist_that_turns_under_gravity():
    found = signs(wrist())
    assert found["gravity"] == pytest.approx(1.0, abs=1e-3)
    assert found["slow movement"] > 0.99
    assert found["turn and tilt"] > 0.9


def test_what_is_broken_is_seen():
    r, expert = wrist(), experts.Expert.of()
    noise = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    acc = r.streams["acc"]
    shaken = Signal(values=acc.values + 3 * noise, rate_hz=RATE, channels=acc.channels, unit="g")
    turned = Signal(
        values=np.roll(r.streams["gyro"].values, 100, axis=0), rate_hz=RATE, channels=acc.channels, unit="rad/s"
    )
    good = expert.utility(r)
    assert good > expert.utility(wrist(acc=shaken)) + 1
    assert expert.utility(wrist(gyro=turned), "held_out") < expert.utility(r, "held_out") - 1
    assert signs(wrist(acc=shaken))["slow movement"] < 0.7


def test_units_do_not_matter():
    r = wrist()
    acc = r.streams["acc"]
    metric = Signal(values=acc.values * 9.80665, rate_hz=RATE, channels=acc.channels, unit="m/s2")
    assert signs(wrist(acc=metric)) == pytest.approx(signs(r), abs=1e-5)


def test_beside_a_vital_sign_movement_is_not_judged():
    pulse = Signal(values=np.zeros((500, 1), np.float32), rate_hz=RATE, channels=("bvp",), unit="")
    assert all(np.isnan(v) for v in signs(wrist(bvp=pulse)).values())


def test_simulated_arms_please_more_than_the_same_with_another_gyroscope():
    cohort = list(motion.load(motion.Config(persons=2, recordings_per_person=4, seconds=12)))
    expert = experts.Expert.of()
    own = [expert.utility(r, "held_out") for r in cohort]
    mixed = [
        expert.utility(Recording(id="x", person="p", streams={**r.streams, "gyro": o.streams["gyro"]}), "held_out")
        for r, o in zip(cohort, cohort[1:] + cohort[:1], strict=True)
    ]
    assert np.nanmean(own) > np.nanmean(mixed)
