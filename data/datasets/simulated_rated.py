"""`simulated_rated`: the persons of `simulated`, with a second and a third label: what does a model of stress know of these?

The signals, persons and `stress` are those of `simulated` to the bit. Two labels are added:

    moving    "active" where the session's movement trait lies above its centre, else "still": in the acceleration, and
              nearly independent of stress (whose weight on movement is 0.4)
    arousal   a number of 1 to 9, as somebody would rate themselves against their own usual state: 5 + 1.5 s + 0.5 N(0, 1),
              where s is the mean over heart rate, breathing and skin conductance responses of the session's trait less
              the same person's mean over all their sessions

It tests transfer between tasks. It proves nothing about people, and nothing about raters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...core.console import progress
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Consent, Recording
from . import simulated
from .simulated import Session

VERSION = 1
SIMULATED = True
RANGE = (1.0, 9.0)
AROUSED = ("hr", "breathing", "scr")


class Config(simulated.Config):
    """As of `simulated`."""


def load(config: Config) -> Cohort:
    """Labels: stress (calm, stress), moving (still, active), arousal (a number). Attributes and persons: as of `simulated`."""
    card = CohortCard(
        name="simulated_rated",
        licence="none needed: simulated",
        consent="simulated persons",
        tasks={"stress": ("calm", "stress"), "moving": ("still", "active"), "arousal": ()},
        attributes=("sex", "age", "outlier"),
        streams=simulated.STREAMS,
        source=f"mien.data.datasets.simulated_rated v{VERSION}, simulated v{simulated.VERSION}",
    )
    text = json.dumps({"version": [VERSION, simulated.VERSION], **config.model_dump()}, sort_keys=True)
    key = f"simulated_rated-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    every = [simulated.sessions(config, p) for p in range(config.persons)]
    consents = {s[0].person: Consent() for s in every}
    return Cohort.build(
        _recordings(config, every), card=card, consents=consents, cache=cache_home() / "cohorts", key=key
    )


def ratings(config: Config, person: int, sessions: list[Session]) -> np.ndarray:
    """float64[sessions]: arousal, in the order of `sessions`. person: its number."""
    z = np.array([[s.z[t] for t in AROUSED] for s in sessions])
    noise = np.random.default_rng([config.seed, person, 3]).normal(size=len(sessions))
    return np.clip(5 + 1.5 * (z - z.mean(0)).mean(1) + 0.5 * noise, *RANGE)


def _recordings(config: Config, every: list[list[Session]]) -> Iterator[Recording]:
    with progress("simulating", config.persons) as bar:
        for p, sessions in enumerate(every):
            for s, arousal in zip(sessions, ratings(config, p, sessions), strict=True):
                made = simulated.record(s, config)
                more = {"moving": "active" if s.z["movement"] > 0 else "still", "arousal": round(float(arousal), 2)}
                yield replace(made, labels={**made.labels, **more})
            bar.step()
