"""Records and cohorts: what is refused, what survives a round trip, who is left out."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.core.records import Cohort, Consent, Recording, Signal, cut, recording_windows

from ..conftest import CARD, consents, recordings


def signal(values: np.ndarray, **kw) -> Signal:
    return Signal(**{"values": values, "rate_hz": 10.0, "channels": ("a",), "unit": "g", **kw})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: signal(np.full((5, 1), np.nan)), "NaN"),
        (lambda: signal(np.full((5, 1), np.inf)), "NaN or infinite"),
        (lambda: signal(np.zeros((5, 2))), "channels"),
        (lambda: signal(np.zeros((5, 1)), rate_hz=0), "rate"),
        (lambda: signal(np.zeros((5, 1)), rate_hz=float("nan")), "rate"),
        (lambda: signal(np.zeros((5, 1)), valid=np.ones(4, bool)), "one flag per sample"),
        (lambda: Recording(id="r", person="", streams={}), "no person"),
        (lambda: Recording(id="r", person="  ", streams={}), "no person"),
        (lambda: Recording(id="", person="p", streams={}), "without an id"),
        (lambda: Consent(purposes=("fun",)), "unknown consent purpose"),
    ],
)
def test_refused(make, says):
    with pytest.raises(MienError, match=says):
        make()


def test_gaps_are_marked_not_filled():
    s = signal(np.array([[1.0], [np.nan], [3.0]]), valid=np.array([True, False, True]))
    r = Recording(id="r", person="p", streams={"a": s})
    window = next(recording_windows(r, 0.3, 0.3))
    assert cut(r, window) == ({}, "a gap in a")


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    masked=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_is_exact(home, tmp_path_factory, lengths, masked, seed):
    rng = np.random.default_rng(seed)
    made = []
    for i, n in enumerate(lengths):
        values = rng.normal(size=(n, 3)).astype(np.float32)
        valid = rng.random(n) < 0.7 if masked else None
        if valid is not None:
            values[~valid] = np.nan
        s = Signal(values=values, rate_hz=20.0, channels=("x", "y", "z"), unit="g", offset_s=0.5, valid=valid)
        made.append(Recording(id=f"r{i}", person=f"p{i % 2}", streams={"acc": s}, labels={"activity": "rest"}))
    folder = tmp_path_factory.mktemp("c") / "cohort"
    built = Cohort.build(made, card=CARD, consents={"p0": Consent(expires=date(2030, 1, 1))})
    built.write(folder)
    again = Cohort.read(folder)
    assert again.fingerprint == built.fingerprint
    assert again.card == CARD
    assert again.consents == built.consents
    for a, b in zip(made, again, strict=True):
        assert (a.id, a.person, dict(a.labels)) == (b.id, b.person, dict(b.labels))
        x, y = a.streams["acc"], b.streams["acc"]
        assert np.array_equal(x.values, y.values, equal_nan=True)
        assert (x.valid is None) == (y.valid is None)
        assert x.valid is None or np.array_equal(x.valid, y.valid)
        assert y.offset_s == 0.5


def test_fingerprint_moves_with_one_sample(home):
    one = recordings()
    two = recordings()
    two[3].streams["acc"].values[5, 1] += 1e-3
    fingerprints = {Cohort.build(r, card=CARD).fingerprint for r in (one, one, two)}
    assert len(fingerprints) == 2


def test_consent_leaves_out_and_counts(home):
    given_consent = consents() | {
        "p00": Consent(withdrawn=date(2026, 1, 1)),
        "p01": Consent(expires=date(2026, 1, 1)),
        "p02": Consent(purposes=("audit",)),
    }
    cohort = Cohort.build(recordings(5), card=CARD, consents=given_consent)
    rest, counts = cohort.for_purpose("training", date(2026, 6, 1))
    assert rest.persons == ["p03"]
    assert counts == {"withdrawn": 1, "expired": 1, "not agreed to training": 1, "no consent recorded": 1}
    assert rest.fingerprint != cohort.fingerprint
    with pytest.raises(MienError, match="nobody"):
        cohort.for_purpose("sharing", date(2099, 1, 1)) if not cohort.consents.pop("p03") else cohort.for_purpose(
            "sharing"
        )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "cohort.json").unlink(), "cohort.json is missing"),
        (lambda f: (f / "cohort.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "data-00000.parquet").unlink(), "should hold 1"),
        (
            lambda f: (f / "data-00000.parquet").write_bytes((f / "data-00000.parquet").read_bytes()[:300]),
            "truncated",
        ),
        (lambda f: (f / "data-00000.parquet").write_bytes(b"hello"), "truncated or not parquet"),
        (lambda f: (f / "cohort.json").write_text(json.dumps({"format": 99})), "format 99"),
    ],
)
def test_spoilt_folders_are_named(cohort: Cohort, tmp_path: Path, spoil, says):
    folder = tmp_path / "c"
    cohort.write(folder)
    spoil(folder)
    with pytest.raises(MienError, match=says) as e:
        Cohort.read(folder)
    assert str(folder) in str(e.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda s: Signal(values=s.values, rate_hz=10.0, channels=s.channels, unit=s.unit),
            "10 Hz.*declares 20 Hz",
        ),
        (lambda s: Signal(values=s.values, rate_hz=20.0, channels=s.channels, unit="m/s2"), "m/s2"),
    ],
)
def test_two_rates_or_units_for_one_stream(home, change, says):
    made = recordings()
    odd = Recording(id="odd", person="p00", streams={"acc": change(made[0].streams["acc"])})
    with pytest.raises(MienError, match=says):
        Cohort.build([*made, odd], card=CARD)


def test_empty_and_double(home):
    with pytest.raises(MienError, match="empty"):
        Cohort.build([], card=CARD)
    made = recordings()
    with pytest.raises(MienError, match="two recordings"):
        Cohort.build([made[0], made[0]], card=CARD)


def test_a_failed_write_leaves_nothing(home, tmp_path):
    def some():
        yield recordings()[0]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        Cohort.build(some(), card=CARD, cache=tmp_path / "k", key="a")
    assert list((tmp_path / "k").iterdir()) == []
