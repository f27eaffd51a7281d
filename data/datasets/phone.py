"""`phone`: simulated phones, for pretraining a public base model on days of calls, talk and steps. No person is involved.

Nothing here is taken from recordings: every rate is a round number chosen beforehand. Streams, kinds and rates of `calls`,
`messages`, `conversation` and `activity` are those of `studentlife`; `calls_a_day` and `steps_a_day` are days as `globem`
has them, with days that are missing.

A simulated person sleeps about eight hours, and calls, writes, talks and walks as a Poisson process whose rate follows the
waking hours and the person's own habits. In a "low" recording they are less in touch (half the calls and messages, at equal
habits), talk and walk less, and miss more calls.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Events, Recording, Signal, Stream, StreamSpec
from .studentlife import ACTIVITY

VERSION = 1
SIMULATED = True  # nobody's recordings: a public base may be pretrained on them
_BIN_S = 600.0
_KINDS = {"calls": ("in", "out", "missed"), "messages": ("received", "sent"), "conversation": ("conversation",)}
_PER_HOUR = {"calls": 0.3, "messages": 1.5, "conversation": 1.2}  # while awake
_MINUTES = {"calls": 3.0, "messages": 0.0, "conversation": 12.0}  # how long one lasts in the middle
_DAILY = {
    "calls_a_day": StreamSpec(channels=("incoming", "outgoing", "missed"), unit="1/day", rate_hz=1 / 86400, range=(0.0, 100.0)),
    "steps_a_day": StreamSpec(channels=("steps",), unit="1/day", rate_hz=1 / 86400, range=(0.0, 40000.0)),
}  # fmt: skip


class Config(Section):
    """persons; recordings_per_person, each of `hours`; daily: in place of events, one sample a day; missing: the share of
    ten minutes (or of days) without a sample; seed: of everything random."""

    persons: int = Field(200, ge=1)
    recordings_per_person: int = Field(6, ge=1)
    hours: float = Field(6.0, ge=1, le=24 * 90)
    daily: bool = False
    missing: float = Field(0.1, ge=0, lt=1)
    seed: int = 0


def load(config: Config) -> Cohort:
    """Label: mood (fine, low). A synthetic cohort: no consent, no guarantee needed."""
    events = {n: StreamSpec(channels=k, kind="events") for n, k in _KINDS.items()} | {"activity": ACTIVITY}
    card = CohortCard(
        name="phone",
        licence="none needed: simulated",
        consent="no person is involved: simulated phones",
        tasks={"mood": ("fine", "low")},
        streams=_DAILY if config.daily else events,
        source=f"mien.data.datasets.phone v{VERSION}",
        synthetic=True,
        guarantee="none needed: simulated, no recording of a person was used",
    )
    text = json.dumps({"version": VERSION, **config.model_dump()}, sort_keys=True)
    key = f"phone-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return Cohort.build(_recordings(config), card=card, cache=cache_home() / "cohorts", key=key)


def _recordings(config: Config) -> Iterator[Recording]:
    for p in range(config.persons):
        rng = np.random.default_rng([config.seed, p])
        habits = {n: float(np.exp(0.6 * rng.normal())) for n in (*_KINDS, "steps")}
        wakes = 7.5 + rng.normal()
        for i in range(config.recordings_per_person):
            low = (p + i) % 2 == 1
            start = float(rng.integers(0, 24 * 6)) * _BIN_S + 86400.0 * i
            made = _days(config, habits, low, rng) if config.daily else _stretch(config, habits, wakes, start, low, rng)
            yield Recording(
                id=f"phone-{p:04d}-{i:02d}", person=f"phone-{p:04d}", start_s=start, streams=made,
                labels={"mood": "low" if low else "fine"},
            )  # fmt: skip


def _awake(hour: np.ndarray, wakes: float) -> np.ndarray:
    """1 in the sixteen hours after waking, 0.02 in the others."""
    return np.where((hour - wakes) % 24 < 16, 1.0, 0.02)


def _stretch(
    config: Config, habits: dict[str, float], wakes: float, start: float, low: bool, rng: np.random.Generator
) -> dict[str, Stream]:
    bins = max(1, round(config.hours * 3600 / _BIN_S))
    seconds = bins * _BIN_S
    awake = _awake((start + np.arange(bins) * _BIN_S) / 3600 % 24, wakes)
    out: dict[str, Stream] = {}
    for name, kinds in _KINDS.items():
        rate = _PER_HOUR[name] * habits[name] * (0.5 if low else 1.0) * _BIN_S / 3600
        counts = rng.poisson(rate * awake)
        times = np.sort(np.repeat(np.arange(bins), counts) * _BIN_S + rng.uniform(0, _BIN_S - 1, counts.sum()))
        n = len(times)
        length = _MINUTES[name] * 60 * np.exp(rng.normal(size=n))
        shares = [0.35, 0.35, 0.3] if low else [0.45, 0.45, 0.1]
        codes = rng.choice(len(kinds), n, p=shares if name == "calls" else None)
        if name == "calls":
            length[codes == 2] = 0.0
        party = -np.ones(n) if name == "conversation" else np.minimum(rng.geometric(0.35, n) - 1, 15)
        out[name] = Events(
            times_s=times, durations_s=np.round(length), codes=codes, kinds=kinds, seconds=seconds, party=party
        )
    moving = rng.beta(0.3, 2.0 + 2.0 * low, bins) * awake * min(2.0, habits["steps"]) / 2
    running = moving * rng.beta(0.2, 4.0, bins)
    values = np.stack([1 - moving, moving - running, running], axis=1)
    out["activity"] = _signal(values, ACTIVITY, config.missing, rng)
    return out


def _days(config: Config, habits: dict[str, float], low: bool, rng: np.random.Generator) -> dict[str, Stream]:
    days = max(1, round(config.hours / 24))
    calls = 4.0 * habits["calls"] * (0.5 if low else 1.0) * np.array([0.45, 0.45, 0.3 if low else 0.1])
    steps = 8000 * habits["steps"] * (0.7 if low else 1.0) * np.exp(0.4 * rng.normal(size=(days, 1)))
    made = {"calls_a_day": rng.poisson(calls, (days, 3)).clip(0, 100), "steps_a_day": steps.clip(0, 40000)}
    return {n: _signal(v, _DAILY[n], config.missing, rng) for n, v in made.items()}


def _signal(values: np.ndarray, spec: StreamSpec, missing: float, rng: np.random.Generator) -> Signal:
    """With samples missing at random, the first never."""
    there = rng.random(len(values)) >= missing
    there[0] = True
    values = np.where(there[:, None], values, np.nan)
    valid = None if there.all() else there
    return Signal(values=values, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit, valid=valid)
