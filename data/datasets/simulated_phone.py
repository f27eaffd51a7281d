"""`simulated_phone`: `simulated_life`'s lab with the log of a phone that lies beside each person: every modality in one recording.

It tests code and trade-offs: what a method finds here is what was put in. It proves nothing about people. The other streams are
those of `simulated_life` of the same seed, to the bit: the phone draws from generators of its own.

**What is logged.** One stream, `phone`, in whole seconds, and with whom as the number of a contact, as in `simulated_life`'s days:

    received   a message comes in
    sent       one goes out, as the screen goes dark
    screen     it is on, from … for …; never twice at once
    app        an app is in the foreground, from the second after the screen went on until it goes dark
    call       it rings, for …; nobody takes a call in the lab

**Who it is, and the label** (`PHONE`): how often and how long, by `simulated_life`'s formula. Under stress people reach for the phone
more often, and for shorter. Whom they write to is their `contacts` habit there.

**What hangs together**, by `coupling`: the second after a message came in the screen goes on with a chance of 0.6, and what is sent
then is to whom it was from. Messages and calls come as a Poisson process each, and so does what people reach for unasked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from ...core.console import progress
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import Cohort, CohortCard, Consent, Events, Recording, StreamSpec
from .. import behaviour
from . import simulated_life as life
from .simulated import Trait

VERSION = 1
SIMULATED = True  # nobody's recordings: a public base may be pretrained on them
NAME = "phone"
SPEC = StreamSpec(channels=("received", "sent", "screen", "app", "call"), kind="events")
RECEIVED, SENT, SCREEN, APP, CALL = range(5)
ANSWERED = 0.6
_FOCUS = life.DAYS["focus"].centre  # how much rarer the next contact writes than the one before
_RING_S = 8.0
_SEED = 0x50484F4E

PHONE = {
    # 1/min: messages that come in
    "received": Trait(math.log(3.0), 0.4, True, (0.0, 20.0), age=-0.5),
    # 1/min: how often the screen goes on unasked
    "looks": Trait(math.log(5.0), 0.4, True, (0.2, 30.0), label=0.8, age=-0.4),
    # s: how long it stays on
    "hold": Trait(math.log(3.0), 0.4, True, (1.0, 30.0), label=-0.5),
    # logit of the chance that something is sent before it goes dark
    "sent": Trait(-0.7, 0.6, age=-0.3),
    # 1/min: calls
    "calls": Trait(math.log(0.5), 0.4, True, (0.0, 5.0)),
}


class Config(life.Config):
    """`simulated_life`'s keys in its lab mode, where `streams` may also name the `phone` (none named: that and all others)."""


def load(config: Config) -> Cohort:
    """Labels, attributes and persons are those of `simulated_life` of the same seed. MienError for days mode (whose logs are
    calls, messages and activities) and an unknown stream."""
    if config.mode != "lab":
        raise MienError("simulated_phone logs a phone in the lab; use mode: lab, or simulated_life for days")
    task, classes = life.LABELS["lab"]
    asked = _others(config)
    streams = {} if asked is None else {n: life.STREAMS["lab"][n] for n in life.wanted(asked)}
    if _logged(config):
        streams[NAME] = SPEC
    card = CohortCard(
        name="simulated_phone",
        licence="none needed: simulated",
        consent="simulated persons",
        tasks={task: classes},
        attributes=("sex", "age", "outlier"),
        streams=streams,
        source=f"mien.data.datasets.simulated_phone v{VERSION}, simulated_life v{life.VERSION}",
    )
    text = json.dumps({"version": [VERSION, life.VERSION, life.sim.VERSION], **config.model_dump()}, sort_keys=True)
    key = f"simulated_phone-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    consents = {life.lives(config, p)[0].session.person: Consent() for p in range(config.persons)}
    return Cohort.build(_recordings(config), card=card, consents=consents, cache=cache_home() / "cohorts", key=key)


def _logged(config: Config) -> bool:
    return not config.streams or NAME in config.streams


def _others(config: Config) -> life.Config | None:
    """What `simulated_life` makes beside the phone, or None."""
    rest = tuple(n for n in config.streams if n != NAME)
    return life.Config(**{**config.model_dump(), "streams": rest}) if rest or not config.streams else None


def _recordings(config: Config) -> Iterator[Recording]:
    """One recording at a time: memory stays constant, whatever the number of persons."""
    with progress("simulating", config.persons) as bar:
        for p in range(config.persons):
            for one, use in zip(life.lives(config, p), uses(config, p), strict=True):
                yield record(one, use, config)
            bar.step()


def uses(config: Config, person: int) -> list[dict[str, float]]:
    """PHONE of each of a person's recordings by date, standardised. They depend on `config` and the person's number only."""
    rng = np.random.default_rng([config.seed, person, _SEED])
    own, extreme = rng.normal(size=len(PHONE)), rng.choice([-1.0, 1.0], size=len(PHONE))
    jitter = rng.normal(size=(config.sessions, len(PHONE)))
    made = []
    for one, moved in zip(life.lives(config, person), jitter, strict=True):
        s, z = one.session, {}
        for j, (name, trait) in enumerate(PHONE.items()):
            z[name] = float(
                config.person_effect * own[j]
                + config.session_jitter * moved[j]
                + config.label_effect * trait.label * one.label
                + config.sex_effect * trait.sex * (0.5 if s.sex == "f" else -0.5)
                + config.age_effect * trait.age * (s.age - 45) / 20
                + (config.outlier_sd * extreme[j] if s.outlier else 0.0)
            )
        made.append(z)
    return made


def values(use: Mapping[str, float]) -> dict[str, float]:
    """`uses` in physical units (of the logit: the chance), within the traits' limits."""
    raw = {n: t.centre + t.unit * use[n] for n, t in PHONE.items()}
    held = {n: min(max(math.exp(raw[n]), t.limits[0]), t.limits[1]) for n, t in PHONE.items() if t.log}
    return {**held, "sent": 1 / (1 + math.exp(-raw["sent"]))}


def record(one: life.Life, use: Mapping[str, float], config: Config) -> Recording:
    """The streams of one session: `simulated_life`'s as they are there, and the phone's log."""
    asked = _others(config)
    made = life.record(one, asked or life.Config(**{**config.model_dump(), "streams": ("transcript",)}))
    if asked is None:
        made = replace(made, streams={})
    if not _logged(config):
        return made
    rng = np.random.default_rng([*np.atleast_1d(one.session.seed.generate_state(2)).tolist(), _SEED])
    gone = (
        rng.uniform() < config.missing
    )  # drawn even where the last stream standing stays, so that its log is the same
    if gone and asked is not None:
        return made
    return replace(made, streams={**made.streams, NAME: log(values(use), one.habits, config, rng)})


def log(v: Mapping[str, float], habits: Mapping[str, np.ndarray], config: Config, rng: np.random.Generator) -> Events:
    """A phone's log of `config.seconds`; v: PHONE in its units."""
    whole, minutes = int(config.seconds), config.seconds / 60

    def poisson(rate: float) -> np.ndarray:
        """Whole seconds at which something happens, ascending."""
        return np.sort(np.floor(rng.uniform(0, whole, size=rng.poisson(rate * minutes))))

    contacts = behaviour.softmax(habits["contacts"] - _FOCUS * np.arange(len(habits["contacts"])))
    came, rings, looks = (poisson(v[n]) for n in ("received", "calls", "looks"))
    sender, caller = (rng.choice(len(contacts), size=len(t), p=contacts) for t in (came, rings))
    answered = rng.uniform(size=len(came)) < ANSWERED * config.coupling
    start = np.r_[came[answered] + 1, looks]
    to = np.r_[sender[answered], np.full(len(looks), -1)]
    start, first = np.unique(start, return_index=True)  # one screen
    to = np.where(to[first] < 0, rng.choice(len(contacts), size=len(first), p=contacts), to[first])
    start, to = start[start < whole], to[start < whole]
    end = np.minimum(start + np.maximum(1, np.rint(v["hold"] * np.exp(0.4 * rng.normal(size=len(start))))), whole)
    end = np.minimum(end, np.r_[start[1:], np.inf])
    writes, used = rng.uniform(size=len(start)) < v["sent"], end > start + 1
    length = np.maximum(1, np.rint(_RING_S * np.exp(0.4 * rng.normal(size=len(rings)))))
    rows = [
        (came, 0 * came, RECEIVED, sender),
        (end[writes] - 1, 0 * end[writes], SENT, to[writes]),
        (start, end - start, SCREEN, np.full(len(start), -1)),
        (start[used] + 1, (end - start - 1)[used], APP, np.full(int(used.sum()), -1)),
        (rings, np.minimum(length, whole - rings), CALL, caller),
    ]
    time, length, party = (np.concatenate([r[i] for r in rows]) for i in (0, 1, 3))
    code = np.concatenate([np.full(len(r[0]), r[2]) for r in rows])
    order = np.lexsort([code, time])
    return Events(
        times_s=time[order], durations_s=length[order], codes=code[order], party=party[order], kinds=SPEC.channels,
        seconds=config.seconds,
    )  # fmt: skip
