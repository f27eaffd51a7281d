"""`simulated_film`: `simulated_life`'s lab with a film of each person's face, drawn from its action units, gaze and head.

It tests code and trade-offs: what a method finds here is what was put in. It proves nothing about people. No picture of
anybody was used: a face is an ellipse with lines, as in a children's book (`data/drawn.py`).

**What moves.** Each picture shows the action units of its moment, the direction of the eyes, and the head (turned and nodded:
the features slide over the face; tilted: all of it turns). Brows rise with AU01 and AU02 and sink with AU04; lids open with
AU05 and close with AU06, AU07 and AU45; AU12 lifts and AU15 lowers the corners of the mouth, AU20 widens it; AU25 and AU26
open it. What the label does to action units shows in the picture so far and no further.

**Who it is** (`LOOKS`). Nine numbers of a face follow `simulated_life`'s formula without a label: person + session + sex +
age + outlier. `person_effect: 0` with `sex_effect: 0` and `age_effect: 0` leaves faces that nobody is told apart by, but for
their action units. The wall behind is drawn anew for each recording.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from pydantic import Field

from ...core.console import progress
from ...core.errors import MienError
from ...core.paths import cache_home
from ...core.records import RGB, Cohort, CohortCard, Consent, Recording, Signal, StreamSpec, Video
from .. import drawn
from . import simulated_life as life

VERSION = 1
SIMULATED = True  # nobody's recordings: a public base may be pretrained on them
FILM = "film"
DRAWN = ("face", "gaze", "head")
_HZ = life.STREAMS["lab"]["face"].rate_hz
_SEED = 0x46494C4D


class Look(NamedTuple):
    """centre, unit (the between-person standard deviation) and limits; sex, age: as in `simulated.Trait`."""

    centre: float
    unit: float
    limits: tuple[float, float]
    sex: float = 0.0
    age: float = 0.0


LOOKS = {
    # half width of the face, of the picture's side
    "width": Look(0.27, 0.018, (0.2, 0.34), sex=-0.6, age=0.4),
    # half height
    "height": Look(0.36, 0.014, (0.3, 0.42), sex=-0.4),
    # from the middle to an eye
    "eyes": Look(0.115, 0.009, (0.08, 0.15)),
    # length of the nose
    "nose": Look(0.11, 0.014, (0.06, 0.17), sex=-0.3, age=0.4),
    # half width of the mouth at rest
    "mouth": Look(0.095, 0.01, (0.06, 0.14)),
    # of a brow's line
    "brows": Look(0.018, 0.004, (0.008, 0.035), sex=-0.8),
    # 0 (light) … 1 (dark) of the skin
    "skin": Look(0.4, 0.25, (0.0, 1.0)),
    # 0 (light) … 1 (dark) of the hair, which age makes grey
    "hair": Look(0.6, 0.25, (0.0, 1.0), age=-0.8),
    # how far the hair falls, of the face's height: 0 to the brow, 1 to the chin
    "length": Look(0.45, 0.22, (0.05, 1.1), sex=1.2),
}


class Config(life.Config):
    """`simulated_life`'s keys in its lab mode, where `streams` may also name the `film` (none named: that and all others), and

    side: of the pictures, pixels; film_hz: pictures a second. 30 s at 1 Hz and 96 pixels are 0.8 MB.
    """

    streams: tuple[str, ...] = (FILM, "transcript")
    side: int = Field(96, ge=32, le=512)
    film_hz: float = Field(1.0, gt=0, le=30)


def load(config: Config) -> Cohort:
    """Labels, attributes and persons are those of `simulated_life` of the same seed: the same person speaks and is seen.
    MienError for days mode (nobody is filmed then), an unknown stream, and a film without a picture."""
    if config.mode != "lab":
        raise MienError("simulated_film films recordings in the lab; use mode: lab, or simulated_life for days")
    if round(config.seconds * config.film_hz) < 1:
        raise MienError(f"film_hz: at {config.film_hz:g} Hz no picture falls into {config.seconds:g} s; raise it")
    task, classes = life.LABELS["lab"]
    asked = _others(config)
    streams = {} if asked is None else {n: life.STREAMS["lab"][n] for n in life.wanted(asked)}
    if _filmed(config):
        streams[FILM] = StreamSpec(channels=RGB, rate_hz=config.film_hz, kind="video")
    card = CohortCard(
        name="simulated_film",
        licence="none needed: simulated",
        consent="simulated persons",
        tasks={task: classes},
        attributes=("sex", "age", "outlier"),
        streams=streams,
        source=f"mien.data.datasets.simulated_film v{VERSION}",
    )
    text = json.dumps({"version": [VERSION, life.VERSION, life.sim.VERSION], **config.model_dump()}, sort_keys=True)
    key = f"simulated_film-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    consents = {life.lives(config, p)[0].session.person: Consent() for p in range(config.persons)}
    return Cohort.build(_recordings(config), card=card, consents=consents, cache=cache_home() / "cohorts", key=key)


def _filmed(config: Config) -> bool:
    return not config.streams or FILM in config.streams


def _others(config: Config) -> life.Config | None:
    """What `simulated_life` makes beside the film, or None."""
    rest = tuple(n for n in config.streams if n != FILM)
    return life.Config(**{**_plain(config), "streams": rest}) if rest or not config.streams else None


def _plain(config: Config) -> dict[str, object]:
    return {k: v for k, v in config.model_dump().items() if k in life.Config.model_fields}


def _recordings(config: Config) -> Iterator[Recording]:
    """One recording at a time: memory stays constant, whatever the number of persons."""
    with progress("filming", config.persons) as bar:
        for p in range(config.persons):
            for one, look in zip(life.lives(config, p), looks(config, p), strict=True):
                yield record(one, look, config)
            bar.step()


def looks(config: Config, person: int) -> list[dict[str, float]]:
    """LOOKS in their units, of each of a person's recordings by date. They depend on `config` and the person's number only."""
    rng = np.random.default_rng([config.seed, person, _SEED])
    own, extreme = rng.normal(size=len(LOOKS)), rng.choice([-1.0, 1.0], size=len(LOOKS))
    jitter = rng.normal(size=(config.sessions, len(LOOKS)))
    made = []
    for one, moved in zip(life.lives(config, person), jitter, strict=True):
        s, values = one.session, {}
        for j, (name, trait) in enumerate(LOOKS.items()):
            z = (
                config.person_effect * own[j]
                + config.session_jitter * moved[j]
                + config.sex_effect * trait.sex * (0.5 if s.sex == "f" else -0.5)
                + config.age_effect * trait.age * (s.age - 45) / 20
                + (config.outlier_sd * extreme[j] if s.outlier else 0.0)
            )
            values[name] = float(np.clip(trait.centre + trait.unit * z, *trait.limits))
        made.append(values)
    return made


def record(one: life.Life, look: dict[str, float], config: Config) -> Recording:
    """The streams of one session: `simulated_life`'s as they are there, and the film."""
    asked = _others(config)
    seen = life.record(one, life.Config(**{**_plain(config), "streams": DRAWN, "missing": 0.0}))
    made = replace(seen, streams={}) if asked is None else life.record(one, asked)
    if not _filmed(config):
        return made
    rng = np.random.default_rng([*np.atleast_1d(one.session.seed.generate_state(2)).tolist(), _SEED])
    wall = rng.uniform(60, 220, size=3)
    if asked is not None and rng.uniform() < config.missing:
        return made
    moments = ((np.arange(round(config.seconds * config.film_hz)) + 0.5) / config.film_hz * _HZ).astype(int)
    rows = [_values(seen, n)[moments] for n in DRAWN]
    frames = drawn.film(*rows, look=look, wall=wall.tolist(), side=config.side)
    return replace(made, streams={**made.streams, FILM: Video(frames=frames, rate_hz=config.film_hz)})


def _values(r: Recording, name: str) -> np.ndarray:
    s = r.streams[name]
    assert isinstance(s, Signal)
    return s.values
