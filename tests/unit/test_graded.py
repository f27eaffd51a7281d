"""Scores instead of classes: nobody tests on themselves, a recording counts once, and a planted effect is found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.data.features import WindowTable
from mien.evaluation import graded
from mien.evaluation import leave_one_out as lo

from ..conftest import CARD


def table(persons=8, recordings=2, each=3, effect=1.0, seed=0) -> WindowTable:
    """Windows whose first statistic is the recording's score times `effect`, beside noise."""
    rng = np.random.default_rng(seed)
    of = [(f"p{p}", f"p{p}-{r}") for p in range(persons) for r in range(recordings)]
    score = rng.integers(0, 25, len(of)).astype(float)
    n = len(of) * each
    X = rng.normal(size=(n, 4))
    X[:, 0] += effect * np.repeat(score, each)
    X[0, 1] = np.nan
    return WindowTable(
        X=X, meta=np.ones((n, 3)), label=np.array([str(s) for s in np.repeat(score, each)], dtype=object),
        person=np.array([p for p, _ in of for _ in range(each)], dtype=object),
        recording=np.array([r for _, r in of for _ in range(each)], dtype=object), skipped={},
    )  # fmt: skip


def bar(t: WindowTable, k=None):
    made = lo.folds(t, (), k)
    return made, lo.predict(made, graded.usual(trees=30, seeds=2))


def test_a_planted_effect_beats_the_mean_and_noise_does_not():
    made, found = bar(table(persons=20))
    of = {r.metric: r for r in graded.results(made, found, "random forest", ("mean", "metadata only", "majority"))}
    assert of["mean − random forest MAE"].low > 2
    assert of["random forest CCC"].low > 0.8
    assert {b.name for b in of["random forest RMSE"].baselines} == {
        "ridge regression", "mean", "attributes only", "metadata only",
    }  # fmt: skip
    assert not of["random forest MAE"].higher_is_better
    assert "majority − random forest MAE" not in of
    made, found = bar(table(persons=20, effect=0.0))
    of = {r.metric: r for r in graded.results(made, found, "random forest", ("mean",))}
    assert of["mean − random forest MAE"].low < 0
    assert of["random forest CCC"].low < 0.2


@given(st.integers(2, 5), st.integers(1, 3), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_every_recording_counts_once(persons, recordings, each, seed):
    t = table(persons, recordings, each, seed=seed)
    made = lo.folds(t, ())
    rng = np.random.default_rng(seed)
    p = rng.normal(size=(len(t), 2, 1))
    y, person, found = graded.per_recording(made, {"x": p})
    rows = lo.tested(made)
    names = sorted(set(t.recording))
    assert len(y) == len(names)
    for i, name in enumerate(names):  # one recording at a time
        mine = [k for k, r in enumerate(rows) if t.recording[r] == name]
        assert y[i] == float(t.label[rows[mine[0]]])
        assert person[i] == name.split("-")[0]
        assert found["x"][i] == pytest.approx(p[mine, :, 0].mean(0))


def test_the_metrics_by_hand():
    y, given_ = np.array([0.0, 4.0, 8.0]), np.array([1.0, 4.0, 10.0])
    found = {n: m(y, given_) for n, (m, _) in graded.METRICS.items()}
    assert found["MAE"] == pytest.approx(1.0)
    assert found["RMSE"] == pytest.approx(np.sqrt(5 / 3))
    assert found["CCC"] == pytest.approx(2 * 12 / (32 / 3 + 14 + 1))  # Lin's: 2 cov / (var + var + (1)²)


def test_the_mean_counts_persons_and_not_their_windows():
    t = table(persons=3, recordings=1, each=1)
    long = np.array([0] * 50 + [1, 2])
    t = t.rows(long)
    made = lo.folds(t, ())
    last = next(f for f in made if t.person[f.test[0]] == "p2")
    assert graded.mean(last, 0)[0, 0] == pytest.approx(np.mean([float(t.label[0]), float(t.label[50])]))


def test_windows_of_one_recording_with_two_scores_are_refused():
    t = table()
    t.label[0] = "25.0"
    made = lo.folds(t, ())
    with pytest.raises(MienError, match="several scores"):
        graded.per_recording(made, {"x": np.zeros((len(t), 1, 1))})


def test_a_task_is_of_classes_or_a_number_or_refused(home):
    from mien.core.records import Cohort, Recording, Signal

    rng = np.random.default_rng(0)
    name, spec = next(iter(CARD.streams.items()))
    signal = Signal(
        values=rng.uniform(*(spec.range or (0, 1)), size=(80, len(spec.channels))), rate_hz=spec.rate_hz,
        channels=spec.channels, unit=spec.unit,
    )  # fmt: skip
    task = next(iter(CARD.tasks))
    made = [
        Recording(
            id=f"r{i}", person=f"p{i}", session="s", streams={name: signal},
            labels={task: CARD.tasks[task][0], "score": float(i), "note": "x", "mixed": ("low", 3)[i]},
        )
        for i in range(2)
    ]  # fmt: skip
    cohort = Cohort.build(made, card=CARD)
    assert graded.classes(cohort, task) == tuple(CARD.tasks[task])
    assert graded.classes(cohort, "score") == ()
    for other in ("note", "nothing", "mixed"):
        with pytest.raises(MienError, match=f"no '{other}'.*{task}.*score"):
            graded.classes(cohort, other)
