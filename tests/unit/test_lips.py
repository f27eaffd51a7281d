"""Voice and lips: found where the simulator couples them, beside real persons; and any misalignment lowers it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mien.core.config import parse
from mien.core.errors import MienError
from mien.core.intervals import over_persons
from mien.core.records import CohortCard, Signal, cut, recording_windows
from mien.data.datasets import simulated_life as life
from mien.data.features import of_windows
from mien.evaluation.fidelity import lips
from mien.evaluation.protocols import Inputs, Tables, Windows

SECONDS = 10.0


def windows(first: int, count: int, **options):
    config = life.Config(persons=60, sessions=2, seconds=SECONDS, streams=("voice", "face"), **options)
    made = [life.record(x, config) for p in range(first, first + count) for x in life.lives(config, p)]
    return [(r, w, cut(r, w)[0]) for r in made for w in recording_windows(r, SECONDS, SECONDS)]


@pytest.fixture(scope="module")
def sides():
    return windows(0, 6), windows(6, 6), windows(12, 8)


def card(*names: str) -> CohortCard:
    streams = {n: life.STREAMS["lab"][n] for n in names or ("voice", "face")}
    return CohortCard(name="x", licence="", consent="", tasks={"stress": ("calm", "stress")}, streams=streams)


def measured(train, test, made, *names: str):
    about = card("face")  # whose statistics are sooner made, and who and what are all that is read of them
    real = of_windows(train + test, about, about, "stress")
    at = np.arange(len(real)) < len(train)
    tables = Tables(
        train=real.rows(at), test=real.rows(~at), synthetic=of_windows(made, about, about, "stress"), classes=("calm", "stress")
    )  # fmt: skip
    a, b, c = ([s for *_, s in rows] for rows in (train, test, made))
    shown = Windows(train=a, test=b, synthetic=c, card=card(*names), seconds=SECONDS, valid_sequences=1.0)
    return {r.metric: r for r in lips.measure(Inputs(tables=tables, windows=shown), lips.Config())}


def late(rows, seconds: float):
    """The face comes so much later than the voice, and its end first."""
    return [
        (r, w, s | {"face": replace(s["face"], values=np.roll(s["face"].values, round(30 * seconds), axis=0))})
        for r, w, s in rows
    ]


def swapped(rows, share: float):
    """In so many of the windows it is somebody else's face."""
    k = round(share * len(rows))
    return [
        (r, w, s | {"face": rows[(i + 3) % len(rows)][2]["face"]} if i < k else s) for i, (r, w, s) in enumerate(rows)
    ]


@pytest.mark.parametrize(("spoil", "much"), [(late, (0.0, 0.05, 0.1)), (swapped, (0.0, 0.3, 0.6, 1.0))])
def test_misalignment_lowers_it_and_raises_its_distance(sides, spoil, much):
    train, test, made = sides
    found = [measured(train, test, spoil(made, m)) for m in much]
    mean, distance = ([f[f"{name} {lips.METRIC}"].value for f in found] for name in ("mean", "KS"))
    assert mean[0] > 0.5
    assert (np.diff(mean) < 0).all(), mean
    assert (np.diff(distance) >= 0).all(), distance
    assert distance[-1] > distance[0] + 0.2
    assert found[-1][f"KS {lips.METRIC}"].baselines[0].value == found[0][f"KS {lips.METRIC}"].baselines[0].value < 0.5


def test_the_mean_is_that_of_frames_read_one_by_one_and_beside_it_stands_the_real_one(sides):
    train, test, made = sides
    found = measured(train, test, made)[f"mean {lips.METRIC}"]

    def slowly(s) -> float:
        loud = [
            np.sqrt(np.mean(s["voice"].values[round(i * 16000 / 30) : round((i + 1) * 16000 / 30)] ** 2))
            for i in range(300)
        ]
        return float(np.corrcoef(loud, s["face"].values[:, s["face"].channels.index("AU25_r")])[0, 1])

    assert found.value == pytest.approx(np.mean([slowly(s) for *_, s in made]), abs=1e-3)
    assert found.baselines[0].value == pytest.approx(np.mean([slowly(s) for *_, s in train]), abs=1e-3)


def test_what_is_not_coupled_has_none():
    found = lips.table([s for *_, s in windows(0, 10, coupling=0.0)], "voice", "face")
    assert abs(found.mean()) < 4 * found.std(ddof=1) / np.sqrt(len(found))


def test_only_windows_with_both_count(sides):
    train, test, made = sides
    some = [(r, w, s if i < 6 else {"voice": s["voice"]}) for i, (r, w, s) in enumerate(made)]
    found = measured(train, test, some)
    assert "6 of 16 synthetic windows have both" in found[f"KS {lips.METRIC}"].note
    few = [(r, w, s if i < 4 else {"voice": s["voice"]}) for i, (r, w, s) in enumerate(made)]
    assert measured(train, test, few)[f"KS {lips.METRIC}"].value is None


def test_the_real_mean_may_be_negative_and_is_of_those_who_have_both():
    train = windows(0, 10, coupling=0.0)
    person = train[-1][0].person
    half = [(r, w, {"voice": s["voice"]} if r.person == person else s) for r, w, s in train]
    found = measured(half, windows(10, 8), windows(20, 8))
    real = found[f"mean {lips.METRIC}"].baselines[0]
    values = lips.table([s for *_, s in half], "voice", "face")
    there = np.array([r.person for r, *_ in half])[np.isfinite(values)]
    expected = over_persons(lambda v: float(v.mean()), there, values[np.isfinite(values)], bounds=None)
    assert (real.value, real.low, real.high) == (expected.value, expected.low, expected.high)
    assert real.low < 0
    assert found[f"KS {lips.METRIC}"].n_persons == len({r.person for r, *_ in train}) - 1


def test_silence_still_lips_and_gaps_are_no_number(sides):
    s = sides[0][0][2]
    voice, face = s["voice"], s["face"]
    assert isinstance(voice, Signal)
    assert isinstance(face, Signal)
    gap = np.ones(len(face.values), bool)
    gap[5] = False
    rows = [
        {"voice": replace(voice, values=0 * voice.values), "face": face},
        {"voice": voice, "face": replace(face, values=0 * face.values)},
        {"voice": voice, "face": replace(face, valid=gap)},
        {"voice": voice}, {"face": face}, {},
    ]  # fmt: skip
    assert np.isnan(lips.table(rows, "voice", "face")).all()


@pytest.mark.parametrize(
    ("asked", "says"), [({"voice": "face"}, "lips.voice: 'face' is no voice"), ({"face": "fase"}, "there are face")]
)
def test_bad_input(asked, says):
    with pytest.raises(MienError, match=says):
        lips.streams(card(), lips.Config(**asked))
    with pytest.raises(MienError, match="most"):
        parse(lips.Config, {"most": 3}, "lips")


@pytest.mark.parametrize(("left", "why"), [("voice", "action unit 25"), ("face", "sound of one channel")])
def test_a_cohort_without_voice_or_face_is_told_so(sides, left, why):
    (found,) = measured(*sides, left).values()
    assert found.value is None
    assert why in found.note
