"""`motion`: simulated smart-watch movement, for pretraining a public base model. No person is involved.

Nothing here is taken from recordings: every number is a property of arms, watches or sensors chosen beforehand, and no
statistic of the `watch` set (or of any other) was used. Streams, units, rates and ranges are those of `watch`.

A recording is a forearm that turns about one to three axes, over and over. The phase of the repetitions has jittered
durations, an asymmetric way out and back, and pauses; each axis turns by harmonics of it. From the orientation R(t),
sensor to world, follow both sensors, so they agree with each other as in a real device:
    gyro = rate of turn in the sensor's frame + bias + noise                                             [rad/s]
    acc  = R(t)^T up + (alpha x r + omega x (omega x r)) / 9.81, r the lever from the elbow, + bias + noise    [g]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Recording, Signal, StreamSpec
from .watch import STREAMS as WATCH_STREAMS

VERSION = 1
FAMILIES = 8
G = 9.81


SIMULATED = True  # nobody's recordings: a public base may be pretrained on them


class Config(Section):
    """persons: simulated wearers (they differ in range, tempo, wearing of the watch and length of the arm);
    recordings_per_person, each of `seconds` at `rate_hz`; seed: of everything random."""

    persons: int = Field(60, ge=1)
    recordings_per_person: int = Field(8, ge=1)
    seconds: float = Field(24.0, gt=1)
    rate_hz: float = Field(50.0, ge=20)
    seed: int = 0


def load(config: Config) -> Cohort:
    """Labels: movement (8 families of random parameters). A synthetic cohort: no consent, no guarantee needed."""
    card = CohortCard(
        name="motion",
        licence="none needed: simulated",
        consent="no person is involved: simulated movement",
        tasks={"movement": tuple(f"movement-{k}" for k in range(FAMILIES))},
        streams={
            k: StreamSpec(channels=s.channels, unit=s.unit, rate_hz=config.rate_hz, range=s.range)
            for k, s in WATCH_STREAMS.items()
        },
        source=f"mien.data.datasets.motion v{VERSION}",
        synthetic=True,
        guarantee="none needed: simulated, no recording of a person was used",
    )
    text = json.dumps({"version": VERSION, **config.model_dump()}, sort_keys=True)
    key = f"motion-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return Cohort.build(_recordings(config), card=card, cache=cache_home() / "cohorts", key=key)


def _recordings(config: Config) -> Iterator[Recording]:
    families = [_family(np.random.default_rng([config.seed, 0, k])) for k in range(FAMILIES)]
    for p in range(config.persons):
        rng = np.random.default_rng([config.seed, 1, p])
        wearer = {
            "range": np.exp(0.2 * rng.normal()),
            "tempo": np.exp(0.15 * rng.normal()),
            "mount": 0.25 * rng.normal(size=3),
            "lever": rng.uniform(0.18, 0.28),
        }
        for i in range(config.recordings_per_person):
            k = (p + i) % FAMILIES
            acc, gyro = simulate(families[k], wearer, config.seconds, config.rate_hz, rng)
            yield Recording(
                id=f"motion-{p:04d}-{i:02d}",
                person=f"motion-{p:04d}",
                streams={
                    "acc": Signal(values=acc, rate_hz=config.rate_hz, channels=("x", "y", "z"), unit="g"),
                    "gyro": Signal(values=gyro, rate_hz=config.rate_hz, channels=("x", "y", "z"), unit="rad/s"),
                },
                labels={"movement": f"movement-{k}"},
            )


def _family(rng: np.random.Generator) -> dict[str, Any]:
    """The random parameters of one kind of movement; angles in radians, times in seconds."""
    axes = rng.normal(size=(rng.integers(1, 4), 3))
    amplitude = np.deg2rad(np.exp(rng.uniform(np.log(10), np.log(150))))
    harmonics = rng.normal(size=(len(axes), 3)) * [1.0, 0.35, 0.15]
    harmonics[0] = [1.0, *harmonics[0, 1:]]
    return {
        "axes": axes / np.linalg.norm(axes, axis=1, keepdims=True),
        "turn": amplitude * np.array([1.0, *rng.uniform(0.1, 0.6, size=len(axes) - 1)]),
        "harmonics": harmonics,
        "shift": rng.uniform(0, 2 * np.pi, size=(len(axes), 3)),
        "period": np.exp(rng.uniform(np.log(1.5), np.log(6.0))),
        "out": rng.uniform(0.3, 0.7),  # the share of a repetition that its way out takes
        "pause": rng.choice([0.0, 0.0, 0.3, 1.0]),
        "posture": rng.normal(size=4),
    }


def simulate(
    family: dict[str, Any], wearer: dict[str, Any], seconds: float, rate_hz: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One recording: acc [T, 3] in g and gyro [T, 3] in rad/s."""
    acc, gyro, _ = trajectory(family, wearer, seconds, rate_hz, rng)
    n = len(acc)
    # white noise and bias of a small inertial sensor, and a tremor of 6-10 Hz seen by both
    tremor = 0.01 * np.sin(2 * np.pi * rng.uniform(6, 10) * np.arange(n) / rate_hz + rng.uniform(0, 6.3))[:, None]
    acc = acc + tremor * rng.normal(size=3) + 0.01 * rng.normal(size=3) + 0.01 * rng.normal(size=(n, 3))
    gyro = gyro + 3 * tremor * rng.normal(size=3) + 0.01 * rng.normal(size=3) + 0.02 * rng.normal(size=(n, 3))
    return acc, gyro


def trajectory(
    family: dict[str, Any], wearer: dict[str, Any], seconds: float, rate_hz: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same without noise and bias: acc, gyro, and gravity's part of acc alone (each [T, 3])."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.spatial.transform import Rotation

    margin = 4  # samples on either side, for the derivatives
    n = round(seconds * rate_hz)
    t = np.arange(-margin, n + margin) / rate_hz
    phase, strength = _phase(family, wearer["tempo"], t, rng)
    smooth = 0.06 * rate_hz  # muscles do not start or stop at once
    turn = Rotation.from_quat(family["posture"]) * Rotation.from_rotvec(0.2 * rng.normal(size=3))
    for axis, size, h, shift in zip(family["axes"], family["turn"], family["harmonics"], family["shift"], strict=True):
        wave = sum(h[m] * np.cos((m + 1) * phase + (shift[m] if m else 0)) for m in range(3))
        angle = 0.5 * size * wearer["range"] * strength * wave  # 0.5: `turn` is from one end to the other
        angle = gaussian_filter1d(angle + _drift(t, 0.08, rng), smooth, mode="nearest")
        turn = turn * Rotation.from_rotvec(angle[:, None] * axis)
    turn = turn * Rotation.from_rotvec(wearer["mount"] + 0.05 * rng.normal(size=3))
    rate = np.zeros((len(t), 3))
    rate[1:-1] = (turn[:-2].inv() * turn[2:]).as_rotvec() * rate_hz / 2
    lever = np.array([wearer["lever"], 0.0, 0.0])
    alpha = np.gradient(rate, 1 / rate_hz, axis=0)
    linear = (np.cross(alpha, lever) + np.cross(rate, np.cross(rate, lever))) / G
    gravity = turn.inv().apply([0.0, 0.0, 1.0])
    inside = slice(margin, margin + n)
    return (gravity + linear)[inside], rate[inside], gravity[inside]


def _phase(
    family: dict[str, Any], tempo: float, t: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Phase [rad] (a repetition is 2 pi, its turning point pi) and strength (1 = the family's range) at the times t."""
    from scipy.interpolate import PchipInterpolator

    mean = family["period"] * tempo
    count = int(2 * (t[-1] - t[0]) / (0.5 * mean)) + 4
    period = mean * np.exp(0.1 * rng.normal(size=count)).clip(0.6, 1.6)
    out = np.clip(family["out"] + 0.04 * rng.normal(size=count), 0.2, 0.8)
    pause = family["pause"] * rng.uniform(0, 1, size=count) * (rng.uniform(size=count) < 0.5) + 1e-3
    steps = np.stack([period * out, period * (1 - out), pause], axis=1).ravel()
    knots = np.concatenate([[0.0], np.cumsum(steps)]) + t[0] - rng.uniform(0, mean)
    values = np.concatenate([[0.0], np.cumsum(np.tile([np.pi, np.pi, 0.0], count))])
    ends = knots[::3]
    strength = PchipInterpolator(ends, np.exp(0.12 * rng.normal(size=len(ends))))(t)
    return PchipInterpolator(knots, values)(t), strength


def _drift(t: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """A slow wander of about `size` radians, with a knot every four seconds."""
    from scipy.interpolate import CubicSpline

    knots = np.arange(t[0] - 4, t[-1] + 8, 4.0)
    return CubicSpline(knots, size * rng.normal(size=len(knots)))(t)
