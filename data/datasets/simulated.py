"""`simulated`: a cohort of any size with wrist physiology, and effects that are injected and documented.

It tests code and trade-offs: what a method finds here is what was put in. It proves nothing about people.

**Traits.** Eight numbers make a recording (`TRAITS`: centre, unit, weights). A recording's trait, in units, is

    person + session + label + sex + age + outlier            (device drift acts on the sensors, not on the traits)

      person   person_effect * N(0, 1), once per person
      session  session_jitter * N(0, 1), anew for each recording: identity is no constant
      label    label_effect * weight for "stress", nothing for "calm"
      sex      sex_effect * weight * (+1/2 for f, -1/2 for m)
      age      age_effect * weight * (years - 45) / 20, years uniform on 20 … 70
      outlier  `outliers` persons, drawn at random: outlier_sd * (+1 or -1 per trait), in all sessions

so each effect is in between-person standard deviations (those of person_effect = 1), and 0 removes it. At 1, stress
means +8 beats/min, 0.8 units less RSA, +2 breaths/min, and so on: size times weight times unit, up to the trait's
limits. Sex is a coin per person.

**Dates.** Recordings are spread over some 60 days: `start_s` is 30 days + 10 days * x, where x has variance 1 and
correlates with the label by exactly `date_confound` (in expectation). `device_drift` lets the EDA gain grow by that
many units of its trait (0.5 ln) and the skin temperature by that many (0.8 °C) per unit of x. Together they confound.

**Signals.** One model makes all five, so that they agree: breathing is a phase with a wandering rate; the interval
between beats is 60/hr + rsa * sin(breathing phase) + a 0.1 Hz wave + jitter; the integral of its inverse is the
cardiac phase, of which the pulse wave is a function (two bumps, whose width and distance are a trait). EDA is a tonic
level plus Poisson responses of Bateman shape. This is written here rather than taken from neurokit2's simulators: there
beats do not follow the breathing, and a pulse has no shape of its own; the tests let neurokit2 find the beats.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.console import progress
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Consent, Recording, Signal, StreamSpec

VERSION = 3
DAY_S = 86400.0
STREAMS = {
    "bvp": StreamSpec(channels=("bvp",), unit="au", rate_hz=64.0, range=(-3.0, 3.0)),
    "eda": StreamSpec(channels=("eda",), unit="uS", rate_hz=4.0, range=(0.0, 60.0)),
    "resp": StreamSpec(channels=("resp",), unit="au", rate_hz=25.0, range=(-3.0, 3.0)),
    "temp": StreamSpec(channels=("temp",), unit="degC", rate_hz=4.0, range=(20.0, 42.0)),
    "acc": StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=32.0, range=(-2.0, 2.0)),
}


class Trait(NamedTuple):
    """centre and unit (the between-person standard deviation); log: both are natural logarithms; limits: of the
    value, after all effects; label, sex, age: the weights of the module's head, in units."""

    centre: float
    unit: float
    log: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)
    label: float = 0.0
    sex: float = 0.0
    age: float = 0.0


TRAITS = {
    # beats/min
    "hr": Trait(70.0, 8.0, limits=(40.0, 180.0), label=1.0, sex=0.6),
    # s: amplitude of the swing of the beat interval with breathing
    "rsa": Trait(math.log(0.04), 0.4, log=True, limits=(0.0, 0.2), label=-0.8, sex=0.2, age=-0.8),
    # breaths/min
    "breathing": Trait(15.0, 2.0, limits=(6.0, 40.0), label=1.0, sex=0.3, age=0.2),
    # uS
    "tonic": Trait(math.log(4.0), 0.5, log=True, limits=(0.05, 40.0), label=0.5, sex=-0.5, age=-0.4),
    # skin conductance responses/min, expected
    "scr": Trait(5.0, 1.5, limits=(0.0, 30.0), label=2.0, sex=-0.2, age=-0.4),
    # degC, skin
    "temp": Trait(33.0, 0.8, limits=(22.0, 40.0), label=-0.5, sex=-0.6, age=-0.2),
    # g: standard deviation of linear acceleration while moving
    "movement": Trait(math.log(0.03), 0.5, log=True, label=0.4, age=-0.3),
    # width of the pulse's bumps relative to the usual: tells who somebody is, and nothing about stress
    "pulse": Trait(0.0, 0.12, log=True, sex=-0.5, age=0.7),
}


SIMULATED = True  # nobody's recordings: a public base may be pretrained on them


class Config(Section):
    """The cohort's size, and every effect's (see the module's head for the formula; 0 removes an effect).

    persons; sessions: recordings per person, half of them (rounded at random) under stress; seconds of each; seed.
    label_effect, person_effect, session_jitter, sex_effect, age_effect, outlier_sd: in between-person standard
    deviations; outliers: how many persons; date_confound: correlation of date and label; device_drift: units per
    standard deviation of the date.
    """

    persons: int = Field(40, ge=2)
    sessions: int = Field(4, ge=2)
    seconds: float = Field(60.0, ge=10)
    seed: int = Field(0, ge=0)
    label_effect: float = 1.0
    person_effect: float = Field(1.0, ge=0)
    session_jitter: float = Field(0.5, ge=0)
    sex_effect: float = 1.0
    age_effect: float = 1.0
    date_confound: float = Field(0.3, ge=-1, le=1)
    device_drift: float = 0.2
    outliers: int = Field(0, ge=0)
    outlier_sd: float = 4.0


@dataclass(frozen=True, kw_only=True)
class Session:
    """What one recording is made from. date: x of the module's head; z: trait -> value in units;
    seed: of its signals."""

    person: str
    index: int
    stress: bool
    sex: str
    age: int
    outlier: bool
    date: float
    z: dict[str, float]
    seed: np.random.SeedSequence

    def trait(self, name: str) -> float:
        """In physical units (not their logarithm), within the trait's limits."""
        t = TRAITS[name]
        value = t.centre + t.unit * self.z[name]
        return min(max(math.exp(value) if t.log else value, t.limits[0]), t.limits[1])


def load(config: Config) -> Cohort:
    """Labels: stress (calm, stress). Attributes: sex, age, outlier. Persons: sim<seed>-00000 …

    Not marked synthetic: the simulated persons play the private cohort, with consents, budget and all.
    """
    card = CohortCard(
        name="simulated",
        licence="none needed: simulated",
        consent="simulated persons",
        tasks={"stress": ("calm", "stress")},
        attributes=("sex", "age", "outlier"),
        streams=STREAMS,
        source=f"mien.data.datasets.simulated v{VERSION}",
    )
    text = json.dumps({"version": VERSION, **config.model_dump()}, sort_keys=True)
    key = f"simulated-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    consents = {_name(config, p): Consent() for p in range(config.persons)}
    return Cohort.build(_recordings(config), card=card, consents=consents, cache=cache_home() / "cohorts", key=key)


def sessions(config: Config, person: int) -> list[Session]:
    """The latents of one person's recordings, by date. They depend on `config` and the person's number only."""
    rng = np.random.default_rng([config.seed, person, 0])
    sex, age = ("f", "m")[rng.integers(2)], int(rng.integers(20, 71))
    own = rng.normal(size=len(TRAITS))
    extreme = rng.choice([-1.0, 1.0], size=len(TRAITS))
    more = config.sessions // 2 + (config.sessions % 2) * int(rng.integers(2))
    stress = rng.permutation(np.arange(config.sessions) < more)
    jitter = rng.normal(size=(config.sessions, len(TRAITS)))
    noise = rng.normal(size=config.sessions)
    c = config.date_confound
    date = c * np.where(stress, 1.0, -1.0) + math.sqrt(1 - c * c) * noise
    outlier = person in _outliers(config.seed, config.persons, config.outliers)
    seeds = np.random.SeedSequence([config.seed, person, 1]).spawn(config.sessions)
    made = []
    for index, i in enumerate(np.argsort(date, kind="stable")):
        z = {}
        for j, (name, trait) in enumerate(TRAITS.items()):
            z[name] = float(
                config.person_effect * own[j]
                + config.session_jitter * jitter[i, j]
                + config.label_effect * trait.label * stress[i]
                + config.sex_effect * trait.sex * (0.5 if sex == "f" else -0.5)
                + config.age_effect * trait.age * (age - 45) / 20
                + (config.outlier_sd * extreme[j] if outlier else 0.0)
            )
        made.append(
            Session(
                person=_name(config, person),
                index=index,
                stress=bool(stress[i]),
                sex=sex,
                age=age,
                outlier=outlier,
                date=float(date[i]),
                z=z,
                seed=seeds[i],
            )
        )
    return made


@lru_cache(maxsize=4)
def _outliers(seed: int, persons: int, count: int) -> frozenset[int]:
    rng = np.random.default_rng([seed, persons, 2])
    return frozenset(rng.choice(persons, size=min(count, persons), replace=False).tolist())


def _name(config: Config, person: int) -> str:
    return f"sim{config.seed}-{person:05d}"  # another seed, other persons


def _recordings(config: Config) -> Iterator[Recording]:
    """One session at a time (about a millisecond each): memory stays constant, whatever the number of persons."""
    with progress("simulating", config.persons) as bar:
        for p in range(config.persons):
            for s in sessions(config, p):
                yield record(s, config)
            bar.step()


def record(s: Session, config: Config) -> Recording:
    """The signals of one session."""
    rng = np.random.default_rng(s.seed)
    values = signals(s, config.seconds, config.device_drift * s.date, rng)
    return Recording(
        id=f"{s.person}-{s.index:03d}",
        person=s.person,
        session=f"s{s.index:03d}",
        start_s=round(max(0.0, 30 + 10 * s.date) * DAY_S),
        streams={
            k: Signal(values=v, rate_hz=STREAMS[k].rate_hz, channels=STREAMS[k].channels, unit=STREAMS[k].unit)
            for k, v in values.items()
        },
        labels={"stress": "stress" if s.stress else "calm"},
        attributes={"sex": s.sex, "age": s.age, "outlier": s.outlier},
    )


def signals(s: Session, seconds: float, drift: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Stream name -> float[T, C] in the units of STREAMS. drift: the device's, in units of tonic and temp."""
    base = 64.0
    t = np.arange(round(seconds * base)) / base
    breath_hz = s.trait("breathing") / 60 * np.exp(0.08 * _wander(t, 6.0, rng))
    breath = 2 * np.pi * (rng.uniform() + np.cumsum(breath_hz) / base)
    depth = np.exp(0.12 * _wander(t, 8.0, rng))

    mayer = 0.012 * np.sin(2 * np.pi * (0.1 * t + rng.uniform()))
    interval = 60 / s.trait("hr") + mayer + 0.008 * _wander(t, 1.0, rng) + s.trait("rsa") * np.sin(breath)
    cardiac = 2 * np.pi * (rng.uniform() + np.cumsum(1 / np.clip(interval, 0.3, 2.0)) / base)
    moving = _wander(t, 4.0, rng) > 0.8  # a fifth of the time or so
    size = s.trait("movement")
    artefact = 2 * size * moving * _wander(t, 0.25, rng)
    width = s.trait("pulse")
    bvp = _bump(cardiac - 1.6, 3.5 / width**2) + 0.35 * _bump(cardiac - 1.6 - 2.1 * width, 3.0 / width**2)
    bvp = np.exp(0.2 * rng.normal()) * depth * (bvp - 0.4) * (1 + 0.1 * np.sin(breath)) + 0.1 * _wander(t, 5.0, rng)
    bvp = bvp + artefact + 0.02 * rng.normal(size=len(t))

    tr = np.arange(round(seconds * 25)) / 25
    resp = np.interp(tr, t, depth * (np.sin(breath) + 0.15 * np.sin(2 * breath + 0.6)))
    resp = resp + 0.03 * rng.normal(size=len(tr))

    te = np.arange(round(seconds * 4)) / 4
    tonic = s.trait("tonic") * np.exp(0.03 * _wander(te, 15.0, rng))
    eda = tonic + _responses(te, s.trait("scr"), seconds, rng)
    eda = np.clip(eda * math.exp(drift * TRAITS["tonic"].unit) + 0.005 * rng.normal(size=len(te)), 0.02, None)

    temp = s.trait("temp") + drift * TRAITS["temp"].unit + 0.05 * _wander(te, 20.0, rng)
    temp = temp + 0.01 * rng.normal(size=len(te))

    ta = np.arange(round(seconds * 32)) / 32
    up = (
        np.array([0.2, -0.3, 0.9])
        + 0.35 * rng.normal(size=3)
        + 0.1 * np.stack([_wander(ta, 10.0, rng) for _ in "xyz"], 1)
    )
    acc = up / np.linalg.norm(up, axis=1, keepdims=True)
    still = 0.1 + 0.9 * np.interp(ta, t, moving.astype(float))
    acc = acc + size * still[:, None] * np.stack([_wander(ta, 0.15, rng) for _ in "xyz"], axis=1)
    acc = acc + 0.004 * rng.normal(size=acc.shape)
    return {
        "bvp": bvp[:, None],
        "eda": eda[:, None],
        "resp": resp[:, None],
        "temp": temp[:, None],
        "acc": acc,
    }


def _wander(t: np.ndarray, every_s: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random curve of mean 0 and variance 1 with a knot every `every_s` seconds."""
    knots = rng.normal(size=int(t[-1] / every_s) + 3)
    x = t / every_s
    i = x.astype(int)
    w = x - i
    w = w * w * (3 - 2 * w)
    return ((1 - w) * knots[i] + w * knots[i + 1]) / np.sqrt(w * w + (1 - w) ** 2)


def _bump(angle: np.ndarray, sharpness: float) -> np.ndarray:
    """A periodic bump of height 1 at angle 0."""
    return np.exp(sharpness * (np.cos(angle) - 1))


def _responses(t: np.ndarray, per_minute: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Skin conductance responses [uS]: Poisson in time (from 20 s before the start), log-normal in size."""
    count = rng.poisson(per_minute * (seconds + 20) / 60)
    start = rng.uniform(-20, seconds, size=count)
    size = 0.25 * np.exp(0.4 * rng.normal(size=count))
    since = np.clip(t[:, None] - start, 0, None)
    rise, decay = 0.75, 3.0
    peak = (rise / decay) ** (rise / (decay - rise)) - (rise / decay) ** (decay / (decay - rise))
    return (size * (np.exp(-since / decay) - np.exp(-since / rise)) / peak).sum(axis=1)
