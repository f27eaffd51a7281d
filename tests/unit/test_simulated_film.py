"""Drawn faces: what an action unit moves, whom a face tells apart and at which switch it does not, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from mien.core.errors import MienError
from mien.core.records import Recording, Signal, Video
from mien.data import behaviour, drawn
from mien.data.datasets import simulated_film as film
from mien.data.datasets import simulated_life as life

LOOK = {name: trait.centre for name, trait in film.LOOKS.items()}
WALL = (120.0, 140.0, 160.0)
SIDE = 64


def picture(units: dict[str, float] | None = None, gaze=(0.0, 0.0), head=(0.0, 0.0, 0.0), **look: float) -> np.ndarray:
    row = np.array([[(units or {}).get(a, 0.0) for a in behaviour.AUS]])
    return drawn.film(row, np.array([gaze]), np.array([head]), {**LOOK, **look}, WALL, SIDE)[0].astype(int)


def rows_that_change(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The first and last row of the picture, 0 … 1, in which anything differs."""
    changed = np.flatnonzero((a != b).any(axis=(1, 2)))
    assert len(changed), "nothing moved"
    return changed[0] / SIDE, (changed[-1] + 1) / SIDE


@pytest.mark.parametrize("unit", behaviour.AUS)
def test_an_action_unit_moves_its_part_of_the_face_and_more_of_it_moves_it_more(unit):
    # lids and brows lie above .5 of the picture, nose and mouth below .4; the jaw makes the whole face longer
    top, bottom = (0.2, 0.55) if int(unit) <= 7 or unit == "45" else (0.4, 0.95) if unit != "26" else (0.2, 1.0)
    rest, weak, strong = picture(), picture({unit: 1.0}), picture({unit: 4.0})
    first, last = rows_that_change(rest, strong)
    assert top <= first < last <= bottom, (first, last)
    assert np.abs(strong - rest).sum() > np.abs(weak - rest).sum() > 0


def test_brows_sink_and_lids_close():
    def brow(units: dict[str, float]) -> float:
        """The mean row of what is dark about the brows."""
        strip = picture(units, brows=0.03)[int(0.28 * SIDE) : int(0.5 * SIDE)]
        return float(np.nonzero(strip.sum(2) < 200)[0].mean())

    def white(units: dict[str, float]) -> int:
        return int((picture(units).min(2) > 235).sum())

    assert brow({"04": 4.0}) > brow({"01": 4.0, "02": 4.0}) + 1
    assert white({"05": 3.0}) > white({}) > white({"45": 3.5}) == 0


@pytest.mark.parametrize(
    "way", [{"gaze": (0.6, 0.0)}, {"head": (0.3, 0, 0)}, {"head": (0, 0.3, 0)}, {"head": (0, 0, 0.3)}]
)
def test_eyes_and_head_move(way):
    assert (picture(**way) != picture()).any()
    if way.get("head", (1,))[0] == 0:  # turned or tilted: its mirror image is turned or tilted the other way
        other = picture(head=tuple(-x for x in way["head"]))
        apart = np.abs(other[:, ::-1] - picture(**way)).mean()  # but for steps of its lines
        assert apart < 0.3 * np.abs(other - picture(**way)).mean()


@pytest.mark.parametrize("name", film.LOOKS)
def test_every_number_of_a_look_shows(name):
    trait = film.LOOKS[name]
    assert (picture(**{name: trait.limits[0]}) != picture(**{name: trait.limits[1]})).any()


NONE = {"person_effect": 0.0, "session_jitter": 0.0, "sex_effect": 0.0, "age_effect": 0.0}


@pytest.mark.parametrize(
    ("switch", "same_person", "same_everybody"),
    [
        ({}, True, True), ({"person_effect": 1.0}, True, False), ({"session_jitter": 0.5}, False, False),
        ({"sex_effect": 1.0}, True, False), ({"age_effect": 1.0}, True, False),
    ],
)  # fmt: skip
def test_a_face_is_told_apart_by_what_its_switches_say(switch, same_person, same_everybody):
    config = film.Config(persons=8, sessions=3, **{**NONE, **switch})
    found = np.array([[list(x.values()) for x in film.looks(config, p)] for p in range(8)])  # [person, session, look]
    assert (np.ptp(found, axis=1).max() == 0) == same_person
    assert (np.ptp(found[:, 0], axis=0).max() == 0) == same_everybody


def test_the_label_shows_in_the_picture_through_action_units_alone():
    config = film.Config(persons=2, sessions=2, **{**NONE, "label_effect": 3.0})
    for p in range(2):
        a, b = film.looks(config, p)
        assert a == b
    # the same person, calm and tense, by the mean picture: a lowered brow, fewer smiles
    pictures = {x.label: film.record(x, film.looks(config, 0)[0], config) for x in life.lives(config, 0)}
    means = [frames(r).mean(0)[20:60, 24:72] for r in pictures.values()]
    assert np.abs(means[0] - means[1]).mean() > 1


def frames(r: Recording) -> np.ndarray:
    s = r.streams["film"]
    assert isinstance(s, Video)
    return s.frames.astype(float)


def test_a_cohort_is_simulated_lifes_with_a_film(home):
    options = {"persons": 2, "sessions": 2, "seconds": 10.0}
    asked = film.Config(**options, side=32, film_hz=2.0, streams=("film", "transcript", "head"))
    cohort = film.load(asked)
    known = list(life.load(life.Config(**options, streams=("head", "transcript"))))
    assert cohort.card.streams["film"].kind == "video"
    for r, other in zip(cohort, known, strict=True):
        assert (r.id, r.person, r.labels, r.attributes, r.start_s) == (
            other.id, other.person, other.labels, other.attributes, other.start_s,
        )  # fmt: skip
        assert set(r.streams) == {"film", "transcript", "head"}
        mine, theirs = r.streams["head"], other.streams["head"]
        assert isinstance(mine, Signal)
        assert isinstance(theirs, Signal)
        np.testing.assert_array_equal(mine.values, theirs.values)
        assert r.streams["transcript"].text == other.streams["transcript"].text  # type: ignore[union-attr]
        assert frames(r).shape == (20, 32, 32, 3)
    assert film.load(asked).fingerprint == cohort.fingerprint


def test_frames_are_those_of_their_moments():
    config = film.Config(persons=2, streams=("film", *film.DRAWN), film_hz=1.0, side=32)
    one, look = life.lives(config, 1)[0], film.looks(config, 1)[0]
    r = film.record(one, look, config)
    rows = [r.streams[n].values for n in film.DRAWN]  # type: ignore[union-attr]
    alone = drawn.film(*(v[[15 + 30 * 7]] for v in rows), look=look, wall=wall_of(r), side=32)[0]
    assert np.abs(alone.astype(int) - frames(r)[7])[:, 4:28].max() <= 1
    again = film.record(one, look, config.model_copy(update={"streams": ("film",)}))
    np.testing.assert_array_equal(frames(again), frames(r))
    assert list(again.streams) == ["film"]


def wall_of(r: Recording) -> list[float]:
    return frames(r)[0, 0, 0].tolist()


def test_a_film_goes_missing_like_any_stream():
    config = film.Config(persons=30, sessions=4, seconds=10, missing=0.5, streams=("film", "eda"), side=32, film_hz=0.1)
    made = [
        film.record(x, k, config)
        for p in range(30)
        for x, k in zip(life.lives(config, p), film.looks(config, p), strict=True)
    ]
    share = np.mean(["film" in r.streams for r in made])
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(made))
    assert all(r.streams for r in made)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "days"}, "use mode: lab"),
        ({"streams": ("flim",)}, "no stream 'flim'"),
        ({"film_hz": 0.01}, "no picture falls into 30 s"),
    ],
)
def test_bad_input(home, options, says):
    with pytest.raises(MienError, match=says):
        film.load(film.Config(**options))
