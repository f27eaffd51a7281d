"""Splits: disjoint persons, shares by stratum, membership by chance."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.core.records import Cohort
from mien.data import splits

from ..conftest import CARD, consents, recordings


@given(persons=st.integers(2, 12), seed=st.integers(0, 99), share=st.floats(0.2, 0.7))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_disjoint_and_complete(home, persons, seed, share):
    cohort = Cohort.build(recordings(persons), card=CARD)
    try:
        s = splits.draw(cohort, holdout=share, seed=seed)
    except MienError:
        assert round(share * persons) in (0, persons)
        return
    assert set(s.train) | set(s.holdout) == set(cohort.persons)
    assert not set(s.train) & set(s.holdout)
    assert len(s.holdout) == round(share * persons)


def test_strata_get_their_share(home):
    cohort = Cohort.build(recordings(12), card=CARD)
    for seed in range(10):
        s = splits.draw(cohort, holdout=6, stratify=["sex"], seed=seed)
        assert sorted(Counter(int(p[1:]) % 2 for p in s.holdout).values()) == [3, 3]


def test_everyone_is_held_out_equally_often(home):
    cohort = Cohort.build(recordings(6), card=CARD)
    counts = Counter(p for seed in range(600) for p in splits.draw(cohort, holdout=3, seed=seed).holdout)
    assert all(240 < counts[p] < 360 for p in cohort.persons)  # 300 +- 5 sd


def test_random_windows_only_by_name(home, tmp_path):
    cohort = Cohort.build(recordings(4), card=CARD, consents=consents())
    s = splits.draw(cohort, kind="random_window", seed=1)
    assert s.train == s.holdout
    sides = Counter(s.side(w) for w in cohort.windows(2.0, 0.5))
    assert set(sides) == {"train", "holdout"}
    assert min(sides.values()) > 0.35 * sum(sides.values())
    s.write(tmp_path / "s.json")
    assert splits.Splits.read(tmp_path / "s.json") == s


@pytest.mark.parametrize(
    ("persons", "kw", "says"),
    [
        (1, {}, "at least two"),
        (4, {"holdout": 4}, "nobody to train on"),
        (4, {"holdout": 0}, "nobody held out"),
        (4, {"holdout": -1}, "number of persons or a share"),
        (4, {"holdout": 2, "stratify": ["activity"]}, "differs within one person"),
    ],
)
def test_bad_splits(home, persons, kw, says):
    with pytest.raises(MienError, match=says):
        splits.draw(Cohort.build(recordings(persons), card=CARD), **kw)
    with pytest.raises(MienError, match="two parts"):
        splits.Splits(kind="person", train=("a",), validation=(), holdout=("a",), seed=0)
