# pyright: reportArgumentType=false, reportOptionalOperand=false, reportOperatorIssue=false
import numpy as np
import pytest

from mien.attacks.judge import judge, roc_points
from mien.core.errors import MienError
from mien.core.intervals import Interval
from mien.core.scores import Scores


def make(n=10, members=5, score=None, **changes):
    people = [f"p{i}" for i in range(n)]
    fields = {
        "ids": people,
        "persons": people,
        "member": np.arange(n) < members,
        "score": np.arange(n, dtype=float) if score is None else score,
        "attack": "loss",
        "unit": "person",
    }
    return Scores(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"members": 10}, "10 members and 0 non-members"),
        ({"members": 0}, "0 members"),
        ({"score": np.r_[np.arange(9.0), np.nan]}, "'loss': 1 of 10 scores are NaN"),
        ({"score": np.r_[np.arange(8.0), np.inf, -np.inf]}, "2 of 10"),
        ({"score": np.arange(9.0)}, "differ in shape"),
        ({"ids": ["a"] * 10}, "9 ids are repeated"),
        ({"persons": ["a"] * 10}, "1 persons are member and non-member"),
        ({"persons": ["a"] * 10, "allow_shared_persons": True}, "no membership"),
        ({"member": np.arange(10)}, "true or false"),
    ],
)
def test_bad_scores_are_refused_in_one_line(changes, says):
    with pytest.raises(MienError, match=says) as error:
        make(**changes)
    assert "\n" not in str(error.value)


def test_shared_persons_need_saying_so():
    s = make(persons=["a", "b"] * 5, allow_shared_persons=True, unit="window")
    assert "random by window" in judge(s)[0].note


def test_judge_says_what_few_persons_support():
    auc, *rates = judge(make(score=np.r_[np.arange(5.0) + 2, np.arange(5.0)]), fprs=(0.001, 0.2))
    assert auc.metric == "loss.auc"
    assert auc.value == 20.5 / 25  # 2..6 against 0..4, three ties
    assert not auc.higher_is_better
    assert auc.n_persons == 10
    assert "5 + 5 persons: no rate below 20 % can be resolved" in auc.note
    assert "no blind attack" in auc.note
    assert [b.name for b in auc.baselines] == ["chance", "blind"]
    assert rates[0].value is None
    assert "needs 1000" in rates[0].note
    assert rates[1].value is not None
    assert "certifying" in rates[1].note


def test_windows_do_not_make_persons():
    n = 4000
    persons = [f"p{i % 10}" for i in range(n)]
    member = np.array([i % 10 < 5 for i in range(n)])
    s = make(n=n, ids=range(n), persons=persons, member=member, unit="window")
    assert judge(s, fprs=(0.01,))[1].value is None


def test_a_blind_success_withholds_every_headline():
    found = judge(make(), fprs=(0.2,), blind=Interval(value=0.9, low=0.6, high=0.99, n_persons=10))
    assert all(r.value is r.low is r.high is None for r in found)
    assert all("withheld" in r.note and "0.90" in r.note for r in found)
    assert found[0].baselines[1].value == 0.9
    fair = judge(make(), blind=Interval(value=0.6, low=0.3, high=0.8, n_persons=10))
    assert fair[0].value is not None


def test_judge_is_invariant_to_row_order():
    rng = np.random.default_rng(0)
    score = rng.integers(0, 6, 40).astype(float)
    s = make(n=40, members=20, score=score)
    order = rng.permutation(40)
    t = Scores(ids=s.ids[order], persons=s.persons[order], member=s.member[order], score=s.score[order],
               attack="loss", unit="person")  # fmt: skip
    for a, b in zip(judge(s), judge(t), strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
        assert a.note == b.note


def test_ties_everywhere_are_chance_and_flag_nobody():
    auc, rate = judge(make(score=np.zeros(10)), fprs=(0.2,))
    assert auc.value == 0.5
    assert rate.value == 0.0
    fpr, tpr = roc_points(make(score=np.zeros(10)))
    assert fpr.tolist() == tpr.tolist() == [0.0, 1.0]


def test_single_person_has_no_interval():
    auc = judge(make(members=1))[0]
    assert auc.low is None
    assert "supports no interval" in auc.note


def test_judge_refuses_impossible_rates():
    with pytest.raises(MienError, match="between 0 and 1"):
        judge(make(), fprs=(0.0,))
