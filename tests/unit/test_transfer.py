"""Protocols over persons: exact tests against enumeration, selection that never sees test persons, refusals, metrics."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.data.datasets import simulated
from mien.evaluation import transfer
from mien.evaluation.transfer import Predicted, Probe, Represented


def cohort(
    persons: int = 6, each: int = 12, a: float = 2.0, b: float = 0.5, seed: int = 0, name: str = "P"
) -> Represented:
    """Two classes in turn; modality a tells them by `a` deviations, b by `b`; c is noise. One recording per person."""
    rng, n = np.random.default_rng(seed), persons * each
    y = np.tile(np.arange(each) % 2, persons)
    X = {m: rng.normal(size=(n, 3)) for m in "abc"}
    X["a"][:, 0] += a * y
    X["b"][:, 1] += b * y
    person = np.repeat([f"{name}-{i:03d}" for i in range(persons)], each).astype(object)
    return Represented(
        X=X, person=person, recording=np.array([f"{p}-r" for p in person], dtype=object),
        time_s=np.tile(10.0 * np.arange(each), persons), seconds=10.0,
        labels={"mood": np.array(["calm", "stress"], dtype=object)[y], "level": y + 0.1 * rng.normal(size=n)},
        classes={"mood": ("calm", "stress")}, groups={"sex": np.repeat(list("fm" * persons)[:persons], each).astype(object)},
    )  # fmt: skip


# --- paired tests --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_the_sign_flip_test_is_exact(differences):
    """Against every one of the 2^n signs, written out; whole numbers make ties common."""
    d = np.array(differences, dtype=float)
    sums = [
        abs(sum(s * v for s, v in zip(signs, differences, strict=True))) for signs in product((-1, 1), repeat=len(d))
    ]
    assert transfer.sign_flip(d) == np.mean([s >= abs(sum(differences)) for s in sums])


def test_the_sampled_sign_flip_is_near_the_exact_one_and_never_zero():
    d = np.random.default_rng(1).normal(0.4, 1, transfer.EXACT)
    exact = transfer.sign_flip(d)
    assert transfer.sign_flip(np.r_[d, 0.0], draws=20_000) == pytest.approx(exact, abs=0.015)
    assert transfer.sign_flip(np.ones(40), draws=1000) == 1 / 1001


def test_sign_flip_holds_its_level():
    rng = np.random.default_rng(0)
    p = np.array([transfer.sign_flip(rng.normal(size=8)) for _ in range(400)])
    assert np.mean(p <= 0.05) < 0.09


def test_a_gain_is_paired_and_the_better_way_up():
    y, person = np.tile([0, 1], 20), np.repeat([f"P-{i}" for i in range(10)], 4)
    right = np.eye(2)[y] * 0.8 + 0.1
    one, other = (Predicted(y=y, given=g, person=person) for g in (right, 1 - right))
    assert transfer.gain("x", one, other, "macro-F1").mean.value == 1.0
    assert transfer.gain("x", one, other, "Brier").mean.value > 0
    assert transfer.gain("x", one, other, "macro-F1").wins.low == pytest.approx(0.6915, abs=1e-3)  # 10 of 10
    assert transfer.gain("x", one, one, "macro-F1").wins.value == 0.5
    with pytest.raises(MienError, match="different windows"):
        transfer.gain("x", one, Predicted(y=1 - y, given=right, person=person), "macro-F1")


def test_the_bootstrap_resamples_persons_not_windows():
    """Twenty equal windows a person: over windows it would be √20 shorter."""
    rng = np.random.default_rng(0)
    value, person = np.repeat(rng.normal(size=30), 20), np.repeat(np.arange(30), 20)
    found = transfer.bootstrap(lambda v: float(v.mean()), person, value, draws=500)
    expected = 2 * 1.96 * value[::20].std() / np.sqrt(30)
    assert found.high is not None
    assert found.low is not None
    assert found.high - found.low == pytest.approx(expected, rel=0.2)


# --- protocols -----------------------------------------------------------------------------------------------------


def test_nested_selection_never_sees_the_test_persons(monkeypatch):
    """Every fit is recorded: none holds a person of its own fold's test side, and turning the test persons' modality around
    changes no choice."""
    data, fits = cohort(4, 12, a=4.0), []
    kept = Probe.fit

    def watched(self, train, task):
        fits.append(frozenset(train.persons))
        return kept(self, train, task)

    monkeypatch.setattr(Probe, "fit", watched)
    found, count = transfer.best_single(data, "mood", Probe(), inner=2)
    assert count == {"a": 4, "b": 0, "c": 0}
    assert found.y.tolist() == data.truth("mood").tolist()
    assert max(map(len, fits)) == 3  # never all four
    monkeypatch.undo()
    spoilt = replace(data, labels={**data.labels, "mood": data.labels["mood"].copy()})
    mine = data.person == data.persons[0]
    spoilt.labels["mood"][mine] = spoilt.labels["mood"][mine][::-1]  # person 0's labels now speak against a
    again, _ = transfer.best_single(spoilt, "mood", Probe(), inner=2)
    first, _ = transfer.best_single(data, "mood", Probe(), inner=2)
    assert np.array_equal(again.given[mine], first.given[mine])  # their own labels had no say in their predictions


def test_multimodal_beats_the_best_single_where_both_tell():
    found = transfer.multimodal(cohort(12, 30, a=1.3, b=1.3), "mood", Probe(), k=3, inner=2)
    assert found.mean.low is not None
    assert found.mean.low > 0
    assert found.p < 0.05


def test_k_shot_learns_only_the_first_k_in_time(monkeypatch):
    data, seen = cohort(), []
    kept = Probe.fit

    def watched(self, train, task):
        seen.append(train)
        return kept(self, train, task)

    monkeypatch.setattr(Probe, "fit", watched)
    shuffled = data.rows(np.random.default_rng(0).permutation(len(data)))
    transfer.k_shot(shuffled, "mood", Probe(), 2)
    assert len(seen) == 6
    for train in seen:
        assert len(train) == 5 * 4
        assert set(train.time_s) == {0.0, 10.0, 20.0, 30.0}


def test_missing_at_test_is_compared_with_never_there():
    found = transfer.missing(cohort(8, a=1.5, b=1.5), "mood", Probe(absent=True), k=4)
    assert set(found) == {"a", "b", "c"}
    assert abs(found["c"].mean.value) < 0.1


def test_across_cohorts_and_tasks_refuse_shared_persons_without_naming_them():
    data, other = cohort(), cohort(seed=1, name="Q")
    assert len(transfer.across_cohorts(data, other, "mood", Probe()).y) == len(other)
    for call in (
        lambda: transfer.across_cohorts(data, data.rows(data.person == "P-001"), "mood", Probe()),
        lambda: transfer.across_tasks(data, ["P-001", "Z-9"], "mood", Probe()),
    ):
        with pytest.raises(MienError, match=r"1 of \d persons") as error:
            call()
        assert "P-001" not in str(error.value)


def test_across_tasks_finds_what_adapting_added():
    after = cohort(10, a=2.0)
    before = replace(after, X={**after.X, "a": after.X["c"]})
    one, other = (transfer.across_tasks(d, ["Z-1"], "mood", Probe(), k=5) for d in (after, before))
    assert transfer.gain("adapted", one, other, "macro-F1").p < 0.05


def test_the_worst_group_ignores_small_cells():
    y = np.tile([0, 1], 24)
    person = np.repeat([f"P-{i}" for i in range(12)], 4)
    sex = np.repeat(["f"] * 5 + ["m"] * 6 + ["other"], 4)
    given = np.eye(2)[np.where((sex == "other") | ((sex == "m") & (np.arange(48) % 4 == 0)), 1 - y, y)]
    found = Predicted(y=y, given=given, person=person, groups={"sex": sex})
    worst = transfer.worst_group(found, "sex", "balanced accuracy")
    assert worst.note.startswith("m:")
    assert "1 group(s) of fewer than 5 persons" in worst.note
    assert worst.value == 0.75
    assert transfer.worst_group(found, "sex", "balanced accuracy", least=1).note.startswith("other")
    assert transfer.worst_group(found, "sex", "balanced accuracy", least=6).value is None
    assert transfer.measured(found)[-2].value == 0.0  # the worst person is judged all the same


@pytest.mark.parametrize("kind", ["logistic", "ordinal", "forest"])
def test_probes_of_classes(kind):
    results = {
        r.metric: r for r in transfer.measured(transfer.held_out(cohort(), "mood", Probe(kind=kind, trees=20), k=3))
    }
    assert results["AUROC"].value > 0.8
    assert not results["ECE"].higher_is_better
    assert results["macro-F1"].n_persons == 6


def test_what_windows_do_not_define_is_not_measured():
    found = Predicted(y=np.zeros(8, int), given=np.tile([0.9, 0.1], (8, 1)), person=np.repeat(list("abcd"), 2))
    results = {r.metric: r for r in transfer.measured(found)}
    assert results["AUROC"].value is None
    assert "not measured" in results["AUROC"].note
    assert results["macro-F1"].value == 1.0


def test_ridge_and_its_metrics():
    found = transfer.held_out(cohort(a=3.0), "level", Probe(kind="ridge"), k=3)
    assert {r.metric for r in transfer.measured(found)} >= {"CCC", "MAE"}
    assert transfer.ccc(found.y, found.y) == pytest.approx(1.0)
    assert transfer.ccc(found.y, found.y + 1) < 0.5
    assert transfer.mae(found.y, found.y + 1) == pytest.approx(1.0)


def test_an_ordinal_probe_gives_probabilities_in_order():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 30)
    data = replace(
        cohort(10, 12), X={"a": (y + 0.5 * rng.normal(size=120))[:, None]}, classes={"grade": tuple("0123")},
        labels={"grade": np.array([str(v) for v in y[np.argsort(np.arange(120) % 10, kind="stable")]], dtype=object)},
    )  # fmt: skip
    data = replace(data, X={"a": data.truth("grade")[:, None] + 0.5 * rng.normal(size=(120, 1))})
    found = transfer.held_out(data, "grade", Probe(kind="ordinal"), k=5)
    assert np.allclose(found.given.sum(1), 1)
    assert (found.given >= 0).all()
    assert transfer.mae(found.y, found.given) < 0.6


def test_calibration_measures():
    y = np.repeat([0, 1], [200, 800])
    sure = np.tile([0.2, 0.8], (1000, 1))
    assert transfer.ece(y, sure) == pytest.approx(0.0, abs=1e-12)
    assert transfer.ece(y, np.tile([0.0, 1.0], (1000, 1))) == pytest.approx(0.2)
    assert transfer.brier(y, np.tile([0.0, 1.0], (1000, 1))) == pytest.approx(0.4)  # both classes counted
    assert transfer.brier(y, np.eye(2)[y]) == 0.0


BAD = {
    "rows for": lambda d: replace(d, time_s=d.time_s[1:]),
    "no finite matrix": lambda d: replace(d, X={"a": np.full((len(d), 2), np.inf)}),
    "not among its classes": lambda d: replace(d, classes={"mood": ("calm",)}),
    "classes and no labels": lambda d: replace(d, labels={"level": d.labels["level"]}),
    "two persons": lambda d: replace(d, recording=np.full(len(d), "r", dtype=object)),
    "changes within a person": lambda d: replace(d, groups={"sex": np.arange(len(d)).astype(object)}),
    "no modality 'z'": lambda d: d.without("z"),
    "no task 'x'": lambda d: transfer.held_out(d, "x", Probe()),
    "cannot learn it": lambda d: transfer.held_out(d, "mood", Probe(kind="ridge")),
    "is a number": lambda d: transfer.held_out(d, "level", Probe()),
    "takes two": lambda d: transfer.held_out(d.rows(d.person == "P-000"), "mood", Probe()),
    "overlap in time": lambda d: transfer.k_shot(
        replace(d, recording=np.arange(len(d)).astype(str).astype(object), time_s=np.zeros(len(d)), seconds=0.0),
        "mood",
        Probe(),
        1,
    ),
    "k is 0": lambda d: transfer.k_shot(d, "mood", Probe(), 0),
    "no metric": lambda d: transfer.multimodal(d, "mood", Probe(), metric="CCC"),
    "folds: 9 of 6": lambda d: transfer.held_out(d, "mood", Probe(), k=9),
    "where there is another": lambda d: transfer.missing(d.only(["a"]), "mood", Probe()),
}


@pytest.mark.parametrize("message", list(BAD))
def test_bad_input(message):
    with pytest.raises(MienError, match=message):
        BAD[message](cohort())


def test_unlabelled_windows_are_not_learnt_from_and_not_judged():
    data = cohort()
    labels = data.labels["mood"].copy()
    labels[::3] = None
    found = transfer.held_out(replace(data, labels={"mood": labels}), "mood", Probe())
    assert len(found.y) == 48
    assert set(found.y) == {0, 1}


def test_window_statistics_become_modalities():
    made = simulated.load(simulated.Config(persons=4, sessions=2, seconds=20.0))
    data = transfer.statistics(made, seconds=10.0, stride_s=10.0, groups=("sex", "age"))
    assert set(data.X) == set(simulated.STREAMS)
    assert len(data) == 4 * 2 * 2
    assert set(data.groups["sex"]) <= {"f", "m"}
    assert len(set(data.time_s)) > 8
    assert set(data.groups["age"]) <= {"18–29", "30–44", "45–59", "60–"}
