"""Streams in other units, axes and kinds, through towers and into other cohorts: the same recordings are the same, or refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mien.adapters.windows import encode
from mien.backbones import _behaviour, behaviour
from mien.core.errors import MienError
from mien.core.records import Cohort, Events, Signal, StreamSpec
from mien.core.units import alike, conversion
from mien.data.datasets import crema_d, globem, phone, simulated, wesad

from ..conftest import CARD, recordings

SHAPE = behaviour.Shape(width=16, layers=1, heads=2, patches=4, dim=8)


def spec(channels=("v",), unit="", range=None, **more):
    return StreamSpec(channels=channels, unit=unit, rate_hz=4.0, range=range, **more)


@pytest.mark.parametrize(
    ("value", "unit", "wanted", "ours"),
    [(2, "g", 19.6133, "m/s2"), (9.80665, "m/s2", 1, "g"), (180, "deg/s", np.pi, "rad/s"), (1500, "nS", 1.5, "uS"),
     (300, "K", 26.85, "degC"), (0.7, "V", 700, "mV"), (1.5, "Hz", 90, "bpm"), (60, "1/min", 60, "bpm")],
)  # fmt: skip
def test_units_convert_as_the_tables_say(value, unit, wanted, ours):
    turn, _ = conversion(spec(unit=unit), spec(unit=ours), "here")
    made = turn(Signal(values=np.full((8, 1), value), rate_hz=4.0, channels=("v",), unit=unit))
    assert made.values == pytest.approx(wanted, rel=1e-6)
    assert made.unit == ours or unit == "1/min"  # which is the same number


@pytest.mark.parametrize(
    ("theirs", "ours", "says"),
    [
        (spec(unit="g"), spec(unit="uS"), "is in 'g', and 'uS' is wanted"),
        (spec(unit="a.u."), spec(unit="g"), "is in 'a.u.', and 'g' is wanted"),
        (spec(unit="a.u."), spec(unit="au", range=(-3, 3)), "declares no range"),
        (spec(("x", "y")), spec(("a", "b")), "x, y there, and a, b is wanted"),
        (spec(("x", "y")), spec(("x",)), "signal of 2 .x, y., and signal of 1"),
        (spec(kind="events"), spec(unit="g"), "events of 1"),
    ],
)
def test_what_does_not_convert_is_refused_by_name(theirs, ours, says):
    with pytest.raises(MienError, match=f"here: {says}"):
        conversion(theirs, ours, "here")


def test_kinds_of_event_keep_their_meaning_in_another_order():
    theirs, ours = (spec(k, kind="events") for k in (("missed", "in", "out"), ("in", "out", "missed")))
    log = Events(times_s=[0, 1, 2, 3], durations_s=[0, 5, 6, 0], codes=[0, 1, 2, 0], kinds=theirs.channels, seconds=9.0)
    made = conversion(theirs, ours, "here")[0](log)
    assert [made.kinds[c] for c in made.codes] == [log.kinds[c] for c in log.codes]
    assert made.kinds == ours.channels


def elsewhere(change, **changes):
    """The invented persons' recordings as another device has them."""
    card = dataclasses.replace(
        CARD, streams={n: dataclasses.replace(s, **changes.get(n, {})) for n, s in CARD.streams.items()}
    )

    def of(r):
        streams = {n: change.get(n, lambda s: s)(s) for n, s in r.streams.items()}
        streams = {
            n: dataclasses.replace(s, unit=card.streams[n].unit, channels=card.streams[n].channels)
            for n, s in streams.items()
        }
        return dataclasses.replace(r, streams=streams)

    return Cohort.build([of(r) for r in recordings()], card=card)


def in_si(s):
    return dataclasses.replace(s, values=s.values[:, ::-1] * 9.80665)


SI = {"unit": "m/s2", "channels": ("z", "y", "x"), "range": (-40.0, 40.0)}


def test_another_device_is_read_alike():
    first, other = Cohort.build(recordings(), card=CARD), elsewhere({"acc": in_si}, acc=SI)
    same, said = alike(other, CARD, ("acc", "eda"), "there")
    assert len(said) == 1
    assert "z, y, x put in the order x, y, z; m/s2 turned into g" in said[0]
    for a, b in zip(first, same, strict=True):
        assert b.streams["acc"].values == pytest.approx(a.streams["acc"].values, abs=1e-5)
        assert (b.streams["acc"].unit, b.streams["acc"].channels) == ("g", ("x", "y", "z"))
    assert same.card.streams == CARD.streams
    with pytest.raises(MienError, match="there is no stream 'eda'"):
        alike(without_eda(other), CARD, ("acc", "eda"), "there")
    for i, r in enumerate(same):  # one by one, and some of them, as all in turn
        np.testing.assert_array_equal(same[i].streams["acc"].values, r.streams["acc"].values)
        np.testing.assert_array_equal(next(iter(same.select([i]))).streams["acc"].values, r.streams["acc"].values)


def without_eda(cohort):
    card = dataclasses.replace(cohort.card, streams={"acc": cohort.card.streams["acc"]})
    return Cohort(card=card, rows=cohort.rows, consents={}, fingerprint="")


def arrays(cohort, binder):
    return encode(cohort, binder, {"acc": "acc", "eda": "eda"}, {}, seconds=4.0, stride_s=4.0, quiet=True).arrays


def test_a_tower_sees_the_same_movement_in_other_units():
    binder = behaviour.binder(_behaviour.fresh(behaviour.shaped(CARD, SHAPE, 4.0), 0), "", "")
    first, other = Cohort.build(recordings(), card=CARD), elsewhere({"acc": in_si}, acc=SI)
    for a, b in zip(arrays(first, binder), arrays(other, binder), strict=True):
        assert b["acc"]["values"] == pytest.approx(a["acc"]["values"], abs=1e-5)
    with pytest.raises(MienError, match=r"tower 'acc'.*is in 'rad/s', and 'g' is wanted"):
        arrays(elsewhere({}, acc={"unit": "rad/s"}), binder)


def test_an_arbitrary_unit_is_scaled_by_its_own_range():
    """A wristband's pulse of ±500 through a tower made on ±3 is a wave, and was a square one."""
    wave = dataclasses.replace(CARD, streams={**CARD.streams, "eda": spec(("eda",), "au", (-3.0, 3.0))})
    binder = behaviour.binder(_behaviour.fresh(behaviour.shaped(wave, SHAPE, 4.0), 0), "", "")

    def pulse(s):
        return dataclasses.replace(s, values=60 * np.sin(np.arange(len(s.values))[:, None]).astype(np.float32))

    seen = arrays(elsewhere({"eda": pulse}, eda={"unit": "a.u.", "range": (-500.0, 500.0)}), binder)
    values = np.concatenate([a["eda"]["values"] for a in seen])
    assert np.abs(values).max() == pytest.approx(60 / 500, rel=0.01)


def test_a_tower_from_before_units_were_kept_says_so(capsys):
    config = behaviour.shaped(CARD, SHAPE, 4.0)
    for s in (config.streams or {}).values():
        del s["unit"], s["names"]
    binder = behaviour.binder(_behaviour.fresh(config, 0), "", "")
    first = Cohort.build(recordings(), card=CARD)
    encode(first, binder, {"acc": "acc"}, {}, seconds=4.0, stride_s=4.0)
    told = capsys.readouterr()
    assert "made before towers kept their units" in told.out + told.err


def test_towers_that_scale_otherwise_are_another_base(tmp_path):
    config = behaviour.shaped(CARD, SHAPE, 4.0)
    _behaviour.fresh(config, 0).save_pretrained(tmp_path / "one")
    (config.streams or {})["acc"]["unit"] = "m/s2"
    _behaviour.fresh(config, 0).save_pretrained(tmp_path / "two")
    one, two = (behaviour.load(behaviour.Config(weights=str(tmp_path / n))) for n in ("one", "two"))
    assert one.fingerprint != two.fingerprint
    assert one.identity != two.identity


SHIPPED = [
    *((n, wesad.WRIST[n][2], simulated.STREAMS[n]) for n in ("bvp", "eda", "temp", "acc")),
    ("calls", globem.SENSORS["calls"][1]["calls"].spec, phone._DAILY["calls_a_day"]),
    ("audio", crema_d.AUDIO, spec(("voice",), "full scale", (-1.0, 1.0))),
]


@pytest.mark.parametrize(("name", "theirs", "ours"), SHIPPED, ids=[n for n, *_ in SHIPPED])
def test_real_cards_fit_the_towers_that_shipped_recipes_give_them(name, theirs, ours):
    _, said = conversion(theirs, ours, name)
    assert bool(said) == (name == "bvp")  # the one stream in a unit of its own
