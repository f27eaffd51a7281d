"""Splits: disjoint persons, shares by stratum, membership by chance."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

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


def test_fresh_recordings_are_kept_out_of_training_alike(home):
    cohort = Cohort.build(recordings(6), card=CARD)
    each = Counter(cohort.column("person"))
    s = splits.draw(cohort, holdout=3, fresh=1, seed=3)
    owner = dict(zip(cohort.column("id"), cohort.column("person"), strict=True))
    assert Counter(owner[r] for r in s.fresh) == {p: min(1, n - 1) for p, n in each.items() if n > 1}
    for w in cohort.windows(2.0, 2.0):
        side = s.side(w)
        if w.person in s.train:
            assert side == ("fresh" if w.recording in s.fresh else "train")
        else:
            assert side == "holdout"


def test_coins_are_independent_and_fair(home):
    cohort = Cohort.build(recordings(24), card=CARD)
    sizes = [len(splits.draw(cohort, coins=True, seed=i).train) for i in range(200)]
    assert len(set(sizes)) > 6  # not a fixed number
    assert abs(sum(sizes) / 200 - 12) < 0.6
    s = splits.draw(cohort, coins=True, fresh=1, seed=0)
    assert s.coins
    assert set(s.train) | set(s.holdout) == set(cohort.persons)
    for wrong in ({"holdout": 0.4}, {"validation": 2}, {"stratify": ["sex"]}):
        with pytest.raises(MienError, match="fair coin"):
            splits.draw(cohort, coins=True, seed=0, **wrong)
    with pytest.raises(MienError, match="20 or more"):
        splits.draw(Cohort.build(recordings(6), card=CARD), coins=True)


def test_a_split_comes_back_with_its_coins_and_fresh_recordings(home, tmp_path):
    s = splits.draw(Cohort.build(recordings(24), card=CARD), coins=True, fresh=1, seed=0)
    s.write(tmp_path / "splits.json")
    assert splits.Splits.read(tmp_path / "splits.json") == s


# --- splits that are given -----------------------------------------------------------------------------------------


def dated(days, by="date", start=None):
    """One recording per entry (person, day): an attribute says the day."""
    made = []
    for i, (p, day) in enumerate(days):
        r = recordings(p + 1, 1)[p]
        facts = {"sex": "f"} if day is None else {"sex": "f", by: day}
        made.append(replace(r, id=f"{i}", attributes=facts, start_s=0.0 if start is None else start[i]))
    return Cohort.build(made, card=replace(CARD, attributes=("sex", by)))


DAYS = [
    (0, "2020-04-13"),
    (1, "2020-05-01"),
    (2, "2020-06-30"),
    (3, "2020-12-01"),
    (4, "2021-01-09"),
    (5, "2021-05-01"),
]


@pytest.mark.parametrize(
    ("days", "options", "late", "validation", "gone"),
    [
        (DAYS, {"holdout": 2}, {4, 5}, set(), set()),
        (DAYS[::-1], {"holdout": 0.5}, {3, 4, 5}, set(), set()),
        (DAYS, {"holdout": 2, "validation": 1}, {4, 5}, {3}, set()),
        ([*DAYS, (4, "2020-04-14")], {"holdout": 2}, {3, 5}, set(), {4}),  # persons go by their first day
        ([*DAYS, (2, "2021-03-01")], {"holdout": 2}, {4, 5}, set(), {2}),  # on both sides of the cut
        ([*DAYS, (6, None)], {"holdout": 2}, {4, 5}, set(), {6}),
        ([(p, "2021-01-09" if p > 2 else d) for p, d in DAYS], {"holdout": 1}, {3, 4, 5}, set(), set()),  # one day
        ([(p, float(p)) for p in range(6)], {"holdout": 3}, {3, 4, 5}, set(), set()),
    ],
)  # fmt: skip
def test_in_time_who_came_last_is_held_out(home, capsys, days, options, late, validation, gone):
    cohort = dated(days)
    s = splits.draw(cohort, kind="time", by="date", **options)
    name = {p: f"p{p:02d}" for p in range(7)}
    assert set(s.holdout) == {name[p] for p in late}
    assert set(s.validation) == {name[p] for p in validation}
    assert set(s.train) == {name[p] for p, _ in days} - {name[p] for p in late | validation | gone}
    assert ("left out" in capsys.readouterr().out) == bool(gone)
    assert "given (time)" in splits.warnings(s)[0]


def test_without_a_column_time_is_the_start_of_recordings(home):
    s = splits.draw(dated(DAYS, start=[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]), kind="time", holdout=2)
    assert s.holdout == ("p00", "p01")


def test_an_official_side_is_kept(home, tmp_path, capsys):
    said = ["train", "dev", "Test", "training", " test ", None]
    s = splits.draw(dated(list(enumerate(said)), by="side"), kind="official", by="side")
    assert (s.train, s.validation, s.holdout) == (("p00", "p03"), ("p01",), ("p02", "p04"))
    assert "1 person(s) left out: no side" in capsys.readouterr().out
    s.write(tmp_path / "s.json")
    assert splits.Splits.read(tmp_path / "s.json") == s


@pytest.mark.parametrize(
    ("days", "options", "says"),
    [
        ([(0, "train"), (1, "test"), (1, "train")], {"kind": "official", "by": "date"}, "one person into holdout and train"),
        ([(0, "train"), (1, "fold 3")], {"kind": "official", "by": "date"}, "'fold 3'"),
        ([(0, "train"), (1, "dev")], {"kind": "official", "by": "date"}, "0 to test on"),
        ([(0, "train"), (1, "test")], {"kind": "official"}, "needs split.by"),
        ([(0, "train"), (1, "test")], {"kind": "official", "by": "date", "holdout": 1}, "no holdout"),
        ([(0, "train"), (1, "test")], {"kind": "official", "by": "when"}, "no attribute 'when'"),
        (DAYS, {"kind": "time", "by": "date", "stratify": ["sex"]}, "nothing to draw"),
        (DAYS, {"kind": "time", "by": "date", "coins": True}, "nothing to draw"),
        (DAYS, {"by": "date"}, "for the kinds time and official"),
        ([(p, "2020-04-13") for p in range(4)], {"kind": "time", "by": "date"}, "share one date"),
        ([(0, "2020-04-13"), (1, 7.0)], {"kind": "time", "by": "date"}, "of one kind"),
        ([(0, None), (1, None)], {"kind": "time", "by": "date"}, "0 person"),
    ],
)  # fmt: skip
def test_given_splits_that_cannot_be_are_refused(home, days, options, says):
    with pytest.raises(MienError, match=says):
        splits.draw(dated(days), **options)
