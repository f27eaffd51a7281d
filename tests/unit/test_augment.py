"""Fresh samples ordered by the reward that experts' answers taught: what is paired with what, and what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mien.alignment import augment, linear, rounds
from mien.alignment.augment import Augment
from mien.core.errors import MienError

LABELS = ["calm"] * 11 + ["stress"] * 8
DOCS = [np.array([i, i + 1], dtype=np.int32) for i in range(len(LABELS))]


def made(score, seed=0, private=False, **asked):
    return augment.labelled(DOCS, LABELS, np.asarray(score, float), Augment(per_label=8, **asked), private, seed)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_the_best_of_a_class_are_set_against_its_worst(share):
    score = np.random.default_rng(3).normal(size=len(DOCS))
    data = made(score, pairs=30, share=share)
    assert len(data) == 30
    by = {"calm": list(range(11)), "stress": list(range(11, 19))}
    for c, r in zip(data.chosen, data.rejected, strict=True):
        a, b = int(c[0]), int(r[0])
        assert LABELS[a] == LABELS[b]
        mine = sorted(by[LABELS[a]], key=lambda i: score[i])  # the obvious way
        size = int(share * len(mine))
        assert a in mine[-size:]
        assert b in mine[:size]
    for side in (data.chosen, data.rejected):
        for kind in by:
            times = Counter(int(d[0]) for d in side if LABELS[int(d[0])] == kind)
            assert sum(times.values()) == 15
            assert len(times) == int(share * len(by[kind]))  # nobody is left out
            assert max(times.values()) - min(times.values()) <= 1
    assert len(set(data.pair)) == 30
    assert set(data.rater) == {augment.RATER}


def test_pairs_follow_from_the_seed_and_stay_as_private_as_the_answers():
    score = np.arange(len(DOCS))
    one, same, other = made(score, 4), made(score, 4, private=True), made(score, 5)
    assert [d[0] for d in one.chosen] == [d[0] for d in same.chosen]
    assert [d[0] for d in one.chosen] != [d[0] for d in other.chosen]
    assert not one.private.any()
    assert same.private.all()


def test_a_sample_without_any_vital_sign_is_the_worst():
    x = np.array([[-1.0, -2.0], [0.0, 0.0], [-3.0, 0.0]])
    found = augment.score(linear.Linear(names=("a", "b"), w=np.array([1.0, 1.0])), x)
    assert found[0] == -3
    assert found[2] == -3
    assert found[1] < -3  # its reward would be 0, the best


def test_a_reward_that_orders_nothing_is_refused():
    with pytest.raises(MienError, match="samples of calm to order them by"):
        made(np.zeros(len(DOCS)))


@pytest.mark.parametrize(
    "bad", [{"per_label": -1}, {"pairs": 0}, {"share": 0.0}, {"share": 0.6}, {"per_label": 3, "share": 0.1}]
)
def test_what_cannot_be_asked(bad):
    with pytest.raises(ValueError, match=r"augment|per_label|pairs|share"):
        Augment(**bad)


def test_labels_that_all_raters_taught_are_not_for_private_training():
    asked = rounds.Asked.model_validate(
        {"augment": {"per_label": 8}, "privacy": {"unit": "rater", "noise_multiplier": 1.0, "delta": 1e-5, "batch": 3}}
    )
    with pytest.raises(MienError, match="augment: fresh samples"):
        asked.inputs({})
