"""`motion`: simulated arm movement as a smart-watch sees it, to pretrain a public base on. No person is involved.

A forearm's orientation follows a periodic path (a family's axis, size, period and harmonics, varied by recording,
repetition and drift). From that one path follow both streams, as in a real sensor: gravity and the lever arm's
acceleration in the sensor's frame (acc, g), and the angular rate (gyro, rad/s). Families and variations are drawn
from the ranges written below; nothing here was fitted to, or looked up in, recordings of people.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Cohort, CohortCard, Consent, Recording, Signal, StreamSpec

RATE_HZ = 50.0
AXES = ("x", "y", "z")
FAMILIES = 8
STREAMS = {
    "acc": StreamSpec(channels=AXES, unit="g", rate_hz=RATE_HZ, range=(-8.0, 8.0)),
    "gyro": StreamSpec(channels=AXES, unit="rad/s", rate_hz=RATE_HZ, range=(-35.0, 35.0)),
}
_G = 9.81


class Config(Section):
    """persons x recordings_per_person recordings of `seconds`; recordings cycle through the eight families."""

    persons: int = 60
    recordings_per_person: int = 8
    seconds: float = 24.0
    seed: int = 0


def load(config: Config) -> Cohort:
    """The cohort, in memory. Same seed, same bits."""
    if config.persons < 1 or config.recordings_per_person < 1 or config.seconds < 1:
        raise MienError("motion: persons, recordings_per_person and seconds must be at least 1")
    card = CohortCard(
        name="motion",
        licence="none needed: simulated",
        consent="simulated persons",
        tasks={"movement": tuple(f"family-{i}" for i in range(FAMILIES))},
        streams=STREAMS,
        source=f"simulated, seed {config.seed}",
    )
    persons = {f"simulated-{p:04d}": Consent() for p in range(config.persons)}
    return Cohort.build(_recordings(config, list(persons)), card=card, consents=persons)


def _recordings(config: Config, persons: list[str]) -> Iterator[Recording]:
    rng = np.random.default_rng([config.seed, 0xFA])
    families = [
        {
            "axis": rng.normal(size=3),
            "size": rng.uniform(0.2, 1.6),  # rad, half the swing
            "period": rng.uniform(1.5, 5.0),  # s
            "harmonics": rng.normal(size=(3, 3)) * np.array([[0.1], [0.3], [0.15]]),
            "posture": rng.normal(size=4),  # a quaternion, any direction of gravity
        }
        for _ in range(FAMILIES)
    ]
    for p, person in enumerate(persons):
        for j in range(config.recordings_per_person):
            acc, gyro = _movement(families[j % FAMILIES], config, np.random.default_rng([config.seed, p, j]))
            parts = {"acc": acc, "gyro": gyro}
            yield Recording(
                id=f"{person}-{j}",
                person=person,
                streams={
                    n: Signal(values=np.clip(v, *STREAMS[n].range), rate_hz=RATE_HZ, channels=AXES, unit=STREAMS[n].unit)
                    for n, v in parts.items()
                },
                labels={"movement": f"family-{j % FAMILIES}"},
            )


def _movement(family: dict, config: Config, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """acc float64[T, 3] in g and gyro float64[T, 3] in rad/s of one recording."""
    from scipy.spatial.transform import Rotation

    n = round(config.seconds * RATE_HZ)
    speed = np.exp(np.convolve(rng.normal(size=n + 100), np.ones(100) / 100, "same")[:n])  # uneven repetitions
    phase = 2 * np.pi * np.cumsum(speed / (family["period"] * np.exp(0.25 * rng.normal()))) / RATE_HZ
    phase += rng.uniform(0, 2 * np.pi)
    axis = family["axis"] + 0.4 * rng.normal(size=3)
    size = family["size"] * np.exp(0.3 * rng.normal())
    harmonics = family["harmonics"] + 0.15 * rng.normal(size=(3, 3))
    angle = np.outer(np.sin(phase), axis / np.linalg.norm(axis))
    angle += sum(np.outer(np.sin((k + 1) * phase + rng.uniform(0, 2 * np.pi)), harmonics[k]) for k in range(3))
    angle = size * angle + 0.003 * rng.normal(size=(n, 3)).cumsum(0)  # posture drifts
    turn = Rotation.from_quat(family["posture"] + 0.3 * rng.normal(size=4)) * Rotation.from_rotvec(angle)
    rate = (turn[:-1].inv() * turn[1:]).as_rotvec() * RATE_HZ
    rate = np.vstack([rate, rate[-1:]])
    arm = np.array([0.3, 0.05, 0.05])  # m from the elbow to the watch
    swing = np.cross(np.gradient(rate, 1 / RATE_HZ, axis=0), arm) + np.cross(rate, np.cross(rate, arm))
    acc = turn.inv().apply([0.0, 0.0, 1.0]) + swing / _G + 0.02 * rng.normal(size=(n, 3))
    return acc, rate + 0.03 * rng.normal(size=(n, 3))
