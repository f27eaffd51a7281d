"""`simulated_life`: a cohort of any size in every modality: body, voice, face, words and phone, with documented effects.

It tests code and trade-offs: what a method finds here is what was put in. It proves nothing about people (docs/simulated.md).

**Two modes.** `lab`: recordings of `seconds` with wrist physiology, an inertial sensor at the waist, voice, face, gaze, head and
transcript; the label is `stress`. `days`: recordings of whole days from midnight on with calls, messages, activities,
daily steps and the heart rate by the minute; the label is `depression`, of the weeks: half of a person's weeks are an
episode, so that who somebody is does not tell the label. A person of one seed is the same in both modes.

**Traits.** Sessions, dates, sex, age, outliers and the five wrist streams are those of `simulated` (its formula, its
switches; other persons). What is more (`LAB`, `DAYS`) follows the same formula

    person + session + label + sex + age + outlier, in between-person standard deviations

and each effect is removed by its 0. In days mode the label acts through `DAYS` only (of the heart rate +3 beats/min). **Habits** are
preferences as logits, HABIT * (person_effect * N(0, 1) + session_jitter * N(0, 1)) each: which filler a person says,
what they speak about, whom they call. A contact has one number in all recordings of a person; low numbers are called more.

**What hangs together** (`coupling` times; 0 removes it):

  voice and mouth     lips part and jaw drops (AU25 +1.8, AU26 +1.1 at the most) with each syllable, and the head nods
  walking and heart   lab: +20 beats/min if the recording is all walking, in proportion; days: +25 walking, +60 running, by the minute
  walking and wrist   lab: the wrist's movement grows by up to e (if all of it is walking)

and always: the voice says the transcript's syllables at the transcript's times, vowel by vowel; steps are the walks' and runs';
asleep the heart rate is 8 lower. `missing` leaves out each stream of each recording with that chance, independently
(but never all of them); a stream that is left out is absent, and the others stay what they were.

**Signals.** Words come from a small grammar of invented sentences; `tense` is the chance that its adjective is a strained
one. The voice is a harmonic source with a falling pitch through three resonances per vowel; gait is steps and strides of one phase;
action units wander log-normally around their level, and blinks are Poisson; calls are Poisson, at night (0–6 h) with
chance `night`. `data/behaviour.py` has the details. One unit and one range to a stream, so an inertial sensor is two.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from ...core.console import progress
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Consent, Recording, Signal, Stream, StreamSpec, Text
from .. import behaviour
from . import simulated as sim
from .simulated import Trait

VERSION = 1
SIMULATED = True  # nobody's recordings: a public base may be pretrained on them
_SEED = 0x4C494645  # other persons than `simulated`'s of the same seed
HABIT = 0.8
HABITS = {"fillers": len(behaviour.FILLERS), "topics": len(behaviour.TOPICS), "contacts": 12}
STREAMS = {
    "lab": {
        **sim.STREAMS,
        "imu_acc": StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=50.0, range=(-4.0, 4.0)),
        "imu_gyro": StreamSpec(channels=("x", "y", "z"), unit="rad/s", rate_hz=50.0, range=(-10.0, 10.0)),
        "voice": StreamSpec(channels=("voice",), unit="full scale", rate_hz=16000.0, range=(-1.0, 1.0)),
        "face": StreamSpec(
            channels=tuple(f"AU{a}_r" for a in behaviour.AUS), unit="intensity", rate_hz=30.0, range=(0.0, 5.0)
        ),
        "gaze": StreamSpec(channels=("gaze_angle_x", "gaze_angle_y"), unit="rad", rate_hz=30.0, range=(-1.2, 1.2)),
        "head": StreamSpec(channels=("pose_Rx", "pose_Ry", "pose_Rz"), unit="rad", rate_hz=30.0, range=(-1.2, 1.2)),
        "transcript": StreamSpec(channels=("participant",), kind="text"),
    },
    "days": {
        "calls": StreamSpec(channels=("in", "out", "missed"), kind="events"),
        "messages": StreamSpec(channels=("received", "sent"), kind="events"),
        "activities": StreamSpec(channels=("sleeping", "walking", "running"), kind="events"),
        "steps": StreamSpec(channels=("steps",), unit="1/day", rate_hz=1 / sim.DAY_S, range=(0.0, 60000.0)),
        "hr": StreamSpec(channels=("hr",), unit="bpm", rate_hz=1 / 60, range=(30.0, 220.0)),
    },
}
LABELS = {"lab": ("stress", ("calm", "stress")), "days": ("depression", ("no", "yes"))}
_SMILES = {"04": (0.5, 1.2), "06": (0.5, -0.4), "07": (0.5, 0.6), "12": (0.8, -0.8), "20": (0.2, 0.6)}  # level, label


def _log(centre: float, unit: float, limits: tuple[float, float] = (0.0, math.inf), **weights: float) -> Trait:
    return Trait(math.log(centre), unit, True, limits, **weights)


LAB = {
    # Hz; by sex some 115 and 205
    "f0": _log(154.0, 0.12, (60.0, 500.0), label=1.0, sex=4.8, age=-0.3),
    # formants relative to the middle: the length of the vocal tract
    "tract": _log(1.0, 0.04, (0.7, 1.4), sex=3.6),
    # syllables/s while speaking
    "rate": Trait(4.5, 0.45, False, (2.0, 9.0), label=1.0, age=-0.6),
    # s between utterances, mean
    "pause": _log(0.9, 0.3, (0.1, 10.0), label=-0.5, age=0.3),
    # root mean square while speaking, of full scale
    "loudness": _log(0.06, 0.25, (0.005, 0.12), label=0.5),
    # logit of the chance of a strained word
    "tense": Trait(-0.7, 0.7, label=2.0),
    # share of the recording that is walking
    "walking": Trait(0.35, 0.12, False, (0.0, 0.9), age=-0.3),
    # steps/s
    "cadence": Trait(1.85, 0.1, False, (1.2, 2.6), label=0.5, sex=0.6, age=-0.4),
    # g: vertical swing of a step
    "stride": _log(0.25, 0.25, (0.02, 1.0), sex=-0.2, age=-0.5),
    # blinks/min
    "blinks": Trait(17.0, 5.0, False, (1.0, 60.0), label=1.0),
    # rad: how far the eyes stray
    "gaze": _log(0.12, 0.25, (0.02, 0.4), label=0.6),
    # mean level of each action unit, 0 … 5; that of AU45 without blinks
    **{
        f"au{a}": _log(_SMILES.get(a, (0.3, 0))[0], 0.35, (0.0, 4.0), label=_SMILES.get(a, (0, 0.0))[1])
        for a in behaviour.AUS
    },
}
DAYS = {
    # calls and messages per day
    "calls": _log(5.0, 0.35, (0.0, 60.0), label=-0.9),
    "messages": _log(25.0, 0.5, (0.0, 200.0), label=-0.5, age=-0.8),
    # logits: the chance that a call is at night, and that it is missed
    "night": Trait(-2.75, 0.5, label=1.5),
    "missed": Trait(-1.4, 0.4, label=1.0),
    # s: a call's usual length
    "talk": _log(120.0, 0.5, (1.0, 7200.0), label=-0.5, sex=0.3),
    # how much rarer the next contact is called than the one before (logit)
    "focus": Trait(0.4, 0.12, False, (0.0, 3.0), label=0.5),
    # hours since midnight
    "rise": Trait(7.2, 0.7, False, (4.0, 12.0), label=0.8, age=-0.5),
    "bed": Trait(23.2, 0.7, False, (20.0, 27.0), label=0.8, age=-0.4),
    # bouts per day
    "walks": _log(8.0, 0.3, (0.0, 40.0), label=-0.8),
    "runs": Trait(0.3, 0.15, False, (0.0, 3.0), label=-1.0, age=-0.5),
    "cadence": LAB["cadence"]._replace(label=0.0),
    "hr": sim.TRAITS["hr"]._replace(label=0.375),
}
_LOGITS = ("tense", "night", "missed")
# one draw per name and person, whatever the mode: a person walks in the lab as they do outside
_ALL = [n for n in dict.fromkeys([*LAB, *DAYS]) if n not in sim.TRAITS]


class Config(sim.Config):
    """`simulated`'s keys (its persons, sessions, seed and every effect, with the same meaning), and

    mode: lab or days; seconds: of a lab recording; days: of a days recording; streams: those wanted (none named: all of
    the mode; the voice is nine tenths of the bytes: some 2 MB for 30 s); missing: the chance that a stream of a recording is
    absent; coupling: times all that hangs together (see the module's head).
    """

    persons: int = Field(20, ge=2)
    seconds: float = Field(30.0, ge=10, le=600)
    mode: Literal["lab", "days"] = "lab"
    days: int = Field(7, ge=1, le=31)
    streams: tuple[str, ...] = ()
    missing: float = Field(0.0, ge=0, lt=1)
    coupling: float = Field(1.0, ge=0)


@dataclass(frozen=True, kw_only=True)
class Life:
    """What one recording is made from. session: `simulated`'s latents (in days mode without the label); z: trait of LAB or DAYS
    -> value in units; habits: logits; start_s: of the recording; label: whether it is the second class."""

    session: sim.Session
    z: Mapping[str, float]
    habits: Mapping[str, np.ndarray]
    start_s: float
    label: bool
    mode: str

    def value(self, name: str) -> float:
        """In physical units (of a logit: the chance), within the trait's limits."""
        t = (LAB if self.mode == "lab" else DAYS)[name]
        value = t.centre + t.unit * self.z[name]
        if name in _LOGITS:
            return 1 / (1 + math.exp(-value))
        return min(max(math.exp(value) if t.log else value, t.limits[0]), t.limits[1])


def load(config: Config) -> Cohort:
    """Labels: stress (calm, stress) or depression (no, yes). Attributes: sex, age, outlier. Persons: life<seed>-00000 …

    Not marked synthetic: the simulated persons play the private cohort, with consents, budget and all. Raises MienError
    for a stream that the mode does not have.
    """
    task, classes = LABELS[config.mode]
    card = CohortCard(
        name="simulated_life",
        licence="none needed: simulated",
        consent="simulated persons",
        tasks={task: classes},
        attributes=("sex", "age", "outlier"),
        streams={n: STREAMS[config.mode][n] for n in wanted(config)},
        source=f"mien.data.datasets.simulated_life v{VERSION}",
    )
    text = json.dumps({"version": VERSION, "simulated": sim.VERSION, **config.model_dump()}, sort_keys=True)
    key = f"simulated_life-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    consents = {_name(config, p): Consent() for p in range(config.persons)}
    return Cohort.build(_recordings(config), card=card, consents=consents, cache=cache_home() / "cohorts", key=key)


def wanted(config: Config) -> tuple[str, ...]:
    """The names of the streams to make, in the card's order."""
    known = STREAMS[config.mode]
    for name in config.streams:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise MienError(f"simulated_life has no stream {name!r} in mode {config.mode}; {hint}")
    return tuple(n for n in known if not config.streams or n in config.streams)


def lives(config: Config, person: int) -> list[Life]:
    """The latents of one person's recordings, by date. They depend on `config` and the person's number only."""
    days = config.mode == "days"
    base = config.model_copy(update={"seed": config.seed + _SEED, **({"label_effect": 0.0} if days else {})})
    rng = np.random.default_rng([base.seed, person, 3])
    own, extreme = rng.normal(size=len(_ALL)), rng.choice([-1.0, 1.0], size=len(_ALL))
    jitter = rng.normal(size=(config.sessions, len(_ALL)))
    liking = {k: rng.normal(size=(1 + config.sessions, n)) for k, n in HABITS.items()}
    made, free = [], 0.0
    for i, s in enumerate(sim.sessions(base, person)):
        z = {}
        for name, trait in (DAYS if days else LAB).items():
            if name in sim.TRAITS:  # the same heart as in the lab, with this mode's label
                z[name] = s.z[name] + config.label_effect * trait.label * s.stress
                continue
            j = _ALL.index(name)
            z[name] = float(
                config.person_effect * own[j]
                + config.session_jitter * jitter[i, j]
                + config.label_effect * trait.label * s.stress
                + config.sex_effect * trait.sex * (0.5 if s.sex == "f" else -0.5)
                + config.age_effect * trait.age * (s.age - 45) / 20
                + (config.outlier_sd * extreme[j] if s.outlier else 0.0)
            )
        habits = {
            k: HABIT * (config.person_effect * n[0] + config.session_jitter * n[1 + i]) for k, n in liking.items()
        }
        start = max(0.0, 30 + 10 * s.date)
        if days:  # from a midnight on, and nobody lives a day twice
            start = max(float(round(start)), free)
            free = start + config.days
        made.append(
            Life(
                session=replace(s, person=_name(config, person)), z=z, habits=habits, label=s.stress, mode=config.mode,
                start_s=float(round(start * sim.DAY_S)),
            )
        )  # fmt: skip
    return made


def _name(config: Config, person: int) -> str:
    return f"life{config.seed}-{person:05d}"  # another seed, other persons


def _recordings(config: Config) -> Iterator[Recording]:
    """One session at a time: memory stays constant, whatever the number of persons."""
    with progress("simulating", config.persons) as bar:
        for p in range(config.persons):
            for life in lives(config, p):
                yield record(life, config)
            bar.step()


def record(life: Life, config: Config) -> Recording:
    """The streams of one session."""
    names = wanted(config)
    if config.missing:
        rng = _generator(life, 0)
        there, one = rng.uniform(size=len(STREAMS[config.mode])) >= config.missing, rng.uniform()
        kept = [n for n in names if there[list(STREAMS[config.mode]).index(n)]]
        names = tuple(kept) or (names[int(one * len(names))],)
    make = _lab if config.mode == "lab" else _days
    s = life.session
    task, classes = LABELS[config.mode]
    return Recording(
        id=f"{s.person}-{s.index:03d}",
        person=s.person,
        session=f"s{s.index:03d}",
        start_s=life.start_s,
        streams=make(life, config, names),
        labels={task: classes[life.label]},
        attributes={"sex": s.sex, "age": s.age, "outlier": s.outlier},
    )


def _generator(life: Life, part: int) -> np.random.Generator:
    """Of one part of a recording, so that what is made beside it does not change it (and asking twice is no draw)."""
    seed = life.session.seed
    return np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, part)))


def _lab(life: Life, config: Config, names: tuple[str, ...]) -> dict[str, Stream]:
    s, v = life.session, {n: life.value(n) for n in LAB}
    values: dict[str, np.ndarray] = {}
    if set(names) & set(sim.STREAMS):
        z = {**s.z, "hr": s.z["hr"] + config.coupling * 20 / sim.TRAITS["hr"].unit * v["walking"]}
        z["movement"] += config.coupling / sim.TRAITS["movement"].unit * v["walking"]
        drift = config.device_drift * s.date
        values |= sim.signals(replace(s, z=z), config.seconds, drift, _generator(life, 1))
    if {"imu_acc", "imu_gyro"} & set(names):
        rng = _generator(life, 2)
        bouts = behaviour.moving(v["walking"], config.seconds, rng)
        values["imu_acc"], values["imu_gyro"] = behaviour.inertial(bouts, v, config.seconds, rng)
    said = behaviour.speech(v, life.habits, config.seconds, _generator(life, 3))
    if {"face", "gaze", "head"} & set(names):
        rng = _generator(life, 4)
        values["face"], values["gaze"], values["head"] = behaviour.face(said, v, config.seconds, config.coupling, rng)
    if "voice" in names:
        values["voice"] = behaviour.voice(said, v, config.seconds, _generator(life, 5))[:, None]
    made: dict[str, Stream] = {n: _signal("lab", n, values[n]) for n in names if n in values}
    if "transcript" in names:
        made["transcript"] = Text(
            times_s=said.start, ends_s=said.end, text=said.text, speakers=("participant",) * len(said.text),
            seconds=config.seconds,
        )  # fmt: skip
    return made


def _days(life: Life, config: Config, names: tuple[str, ...]) -> dict[str, Stream]:
    v = {n: life.value(n) for n in DAYS}
    w = behaviour.week(v, life.habits, config.days, config.coupling, _generator(life, 1))
    made: dict[str, Stream] = {
        "calls": w.calls, "messages": w.messages, "activities": w.activities, "steps": _signal("days", "steps", w.steps),
        "hr": _signal("days", "hr", w.hr),
    }  # fmt: skip
    return {n: made[n] for n in names}


def _signal(mode: str, name: str, values: np.ndarray) -> Signal:
    spec = STREAMS[mode][name]
    return Signal(values=values, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit)
