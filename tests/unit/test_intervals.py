# pyright: reportArgumentType=false, reportOptionalOperand=false, reportOperatorIssue=false
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.core import intervals
from mien.core.errors import MienError

CASES = json.loads((Path(__file__).parent.parent / "reference" / "attacks.json").read_text())
GOLD = {c["name"]: c for c in CASES}
SCORES = st.lists(st.integers(-4, 4), min_size=1, max_size=12)


def slow_auc(inside, outside):
    return sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside) / (len(inside) * len(outside))


def slow_tpr(inside, outside, fpr):
    best = 0.0
    for t in sorted({*inside, *outside, math.inf}):
        if sum(b >= t for b in outside) / len(outside) <= fpr:
            best = max(best, sum(a >= t for a in inside) / len(inside))
    return best


def flat(inside, outside):
    return np.array([*inside, *outside], float), np.arange(len(inside) + len(outside)) < len(inside)


def test_gold_clopper_pearson():
    case = GOLD["cp_two_sided_5_of_100"]
    assert intervals.clopper_pearson(5, 100) == pytest.approx(case["expected"], abs=case["tolerance"])
    case = GOLD["cp_upper_zero_successes"]
    upper = intervals.clopper_pearson(0, 1000, 2 * case["inputs"]["one_sided_alpha"])[1]
    assert upper == pytest.approx(case["expected"], abs=case["tolerance"])


def test_gold_tpr_hanley_certifiable():
    case = GOLD["tpr_at_fpr_step"]["inputs"]
    scores, member = flat(case["pos"], case["neg"])
    got = [intervals.tpr_at_fpr(scores, member, f, resolve=False) for f in case["fpr"]]
    assert got == GOLD["tpr_at_fpr_step"]["expected"]
    assert intervals.tpr_at_fpr(scores, member, 0.05) is None  # 10 non-members cannot show 5 %
    assert intervals.tpr_at_fpr(scores, member, 0.1) == 0.75
    case = GOLD["hanley_mcneil_se"]
    assert intervals.hanley_mcneil_se(0.8, 50, 50) == pytest.approx(case["expected"], abs=case["tolerance"])
    assert intervals.certifiable(0.001) == GOLD["min_nonmembers_to_resolve_fpr"]["expected"]
    assert (1 - 0.001) ** 2995 <= 0.05 < (1 - 0.001) ** 2994


@settings(max_examples=60, deadline=None)
@given(SCORES, SCORES, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_fast_routines_equal_the_slow_ones(inside, outside, fpr):
    scores, member = flat(inside, outside)
    assert intervals.auc(np.array(inside), np.array(outside)) == pytest.approx(slow_auc(inside, outside))
    assert intervals.tpr_at_fpr(scores, member, fpr, resolve=False) == slow_tpr(inside, outside, fpr)
    x, y = intervals.roc(scores, member)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum()) == pytest.approx(slow_auc(inside, outside))
    t = intervals.threshold_at_fpr(scores, member, fpr)
    assert np.mean(scores[~member] >= t) <= fpr
    assert np.mean(scores[member] >= t) == intervals.tpr_at_fpr(scores, member, fpr, resolve=False)


@settings(max_examples=60, deadline=None)
@given(SCORES, SCORES, st.randoms(use_true_random=False))
def test_auc_properties(inside, outside, random):
    a, b = np.array(inside, float), np.array(outside, float)
    value = intervals.auc(a, b)
    assert intervals.auc(b, a) == pytest.approx(1 - value)
    assert intervals.auc(np.exp(a) * 3 + 1, np.exp(b) * 3 + 1) == pytest.approx(value)
    assert intervals.auc(-a, -b) == pytest.approx(1 - value)
    random.shuffle(inside)
    assert intervals.auc(np.array(inside, float), b) == pytest.approx(value)


@pytest.mark.parametrize("shared", [False, True])
def test_deleting_persons_fast_equals_deleting_them(shared, monkeypatch):
    """auc_interval's one-pass delete-one AUCs against computing each from scratch."""
    rng = np.random.default_rng(3)
    persons = np.repeat(np.arange(7), [3, 5, 2, 6, 4, 1, 3])
    member = rng.random(len(persons)) < 0.5 if shared else persons < 4
    scores = rng.integers(0, 5, len(persons)) + member.astype(float)
    left = np.array([slow_auc(scores[member & (persons != p)], scores[~member & (persons != p)]) for p in range(7)])
    if shared:
        variance, df = 6 / 7 * ((left - left.mean()) ** 2).sum(), 6
    else:
        a, b = left[:4], left[4:]
        variance, df = 3 / 4 * ((a - a.mean()) ** 2).sum() + 2 / 3 * ((b - b.mean()) ** 2).sum(), 2
    seen = {}
    real = intervals._auc_limits
    monkeypatch.setattr(intervals, "_auc_limits", lambda *a: seen.setdefault("args", a) and real(*a))
    found = intervals.auc_interval(scores, member, persons)
    value, got, _, _, got_df, _ = seen["args"]
    assert value == pytest.approx(slow_auc(scores[member], scores[~member]))
    assert got == pytest.approx(variance)
    assert got_df == df
    assert found.low < found.value < found.high


def test_pairs_interval_equals_auc_interval_when_pairs_are_pooled():
    rng = np.random.default_rng(5)
    persons = np.repeat(np.arange(9), [2, 3, 4, 1, 2, 3, 5, 2, 2])
    member, scores = persons < 4, rng.standard_normal(24)
    wins = [[sum(a > b for a in scores[persons == i] for b in scores[persons == j]) for j in range(4, 9)]
            for i in range(4)]  # fmt: skip
    pairs = [[(persons == i).sum() * (persons == j).sum() for j in range(4, 9)] for i in range(4)]
    got, want = intervals.pairs_interval(wins, pairs), intervals.auc_interval(scores, member, persons)
    assert (got.value, got.low, got.high) == pytest.approx((want.value, want.low, want.high))


def test_jackknife_of_a_mean_is_the_t_interval_over_person_means():
    x = np.array([1.0, 4.0, 2.0, 8.0])
    found = intervals.over_persons(np.mean, np.arange(4), x, bounds=None)
    half = 3.182446305 * x.std(ddof=1) / 2
    assert (found.low, found.high) == pytest.approx((x.mean() - half, x.mean() + half))


def test_degenerate_intervals_are_wide_or_absent():
    persons = np.repeat(np.arange(5), 100)
    right = intervals.over_persons(np.mean, persons, np.ones(500))
    assert (right.low, right.high) == pytest.approx((0.025**0.2, 1.0))
    half = intervals.over_persons(np.mean, persons, np.tile([0.0, 1.0], 250))
    assert half.low < 0.2
    assert half.high > 0.8
    one = intervals.over_persons(np.mean, np.zeros(100), np.ones(100))
    assert (one.value, one.low, one.high, one.n_persons) == (1.0, None, None, 1)
    assert not one.excludes(0.5)
    apart = intervals.auc_interval(np.r_[np.ones(5), np.zeros(5)], np.arange(10) < 5, np.arange(10))
    assert (apart.low, apart.high) == pytest.approx((0.6427, 1.0), abs=1e-3)
    below = intervals.auc_interval(np.r_[np.zeros(5), np.ones(5)], np.arange(10) < 5, np.arange(10))
    assert (below.low, below.high) == pytest.approx((0.0, 1 - apart.low), abs=1e-6)
    tied = intervals.auc_interval(np.zeros(10), np.arange(10) < 5, np.arange(10))
    assert tied.low < 0.3 < tied.value == 0.5 < 0.7 < tied.high
    lone = intervals.auc_interval(np.arange(6.0), np.arange(6) < 1, np.arange(6))
    assert lone.low is None


@pytest.mark.parametrize("n", [5, 20])
def test_coverage_of_a_mean_over_persons(n):
    rng = np.random.default_rng(n)
    persons = np.repeat(np.arange(n), 20)
    for mean in (0.5, 0.8, 0.9):
        hits, trials = 0, 250
        for _ in range(trials):
            p = rng.beta(mean * 5, (1 - mean) * 5, n)
            x = (rng.random(20 * n) < p[persons]).astype(float)
            hits += not intervals.over_persons(np.mean, persons, x).excludes(mean)
        assert hits / trials >= 0.90, mean


@pytest.mark.parametrize("n", [5, 20])
def test_coverage_of_the_auc_over_clustered_windows(n):
    rng = np.random.default_rng(n)
    persons = np.repeat(np.arange(2 * n), 20)
    member = persons < n
    for true, shift in ((0.5, 0.0), (0.7, 0.741614), (0.9, 1.812388)):
        hits, trials = 0, 250
        for _ in range(trials):
            own = rng.standard_normal(2 * n)[persons]
            x = math.sqrt(0.5) * own + math.sqrt(0.5) * rng.standard_normal(40 * n) + shift * member
            hits += not intervals.auc_interval(x, member, persons).excludes(true)
        assert hits / trials >= 0.90, true


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: intervals.auc(np.array([]), np.ones(3)), "0 members"),
        (lambda: intervals.auc(np.ones(3), np.array([np.nan, 1])), "1 scores are NaN"),
        (lambda: intervals.roc(np.ones(3), np.ones(3, bool)), "0 non-members"),
        (lambda: intervals.tpr_at_fpr(np.ones(2), np.array([True, False]), 1.5), "in \\[0, 1\\]"),
        (lambda: intervals.over_persons(np.mean, np.arange(3), np.ones(4)), "equal number"),
        (lambda: intervals.over_persons(np.mean, np.arange(2), np.array([1.0, np.nan])), "finite"),
        (lambda: intervals.over_persons(np.mean, np.arange(2), np.array([1.0, 5.0])), "bounds"),
        (lambda: intervals.clopper_pearson(3, 2), "proportion"),
        (lambda: intervals.certifiable(0), "certifying"),
    ],
)
def test_bad_input_is_one_line(call, says):
    with pytest.raises(MienError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
