"""Personal probes: one tail for all, the first k in time, no label of the tail, gains where they were planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mien.core.errors import MienError
from mien.evaluation import personal, transfer
from mien.evaluation.personal import METHODS, Person
from mien.evaluation.transfer import Probe, Represented

from .test_transfer import cohort


def offsets(persons: int = 10, each: int = 40, sd: float = 3.0) -> Represented:
    """Every person has a level of their own in the column that tells the classes."""
    data = cohort(persons, each, a=2.0, b=0.0)
    level = dict(zip(data.persons, sd * np.random.default_rng(5).normal(size=persons), strict=True))
    a = data.X["a"].copy()
    a[:, 0] += [level[p] for p in data.person]
    return replace(data, X={"a": a})


def test_one_tail_for_all_methods_and_all_k():
    found = personal.compare(offsets(6, 24), "mood", Probe(), (1, 3)).found
    rows = {(tuple(p.y), tuple(p.person)) for p in found.values()}
    assert len(rows) == 1
    assert {n for n, _ in found} == set(METHODS)
    assert {k for n, k in found if n == "personal"} == {1, 3}


def test_what_a_method_sees():
    """Shots are the first k in time; calibration and tail carry no label; none of the tail is handed out to learn from."""
    data, seen = offsets(4, 20), []

    def watching(p: Person) -> np.ndarray:
        seen.append(p)
        return personal.generic(p)

    shuffled = data.rows(np.random.default_rng(2).permutation(len(data)))
    personal.compare(shuffled, "mood", Probe(), (2,), methods={"generic": personal.generic, "watching": watching})
    assert len(seen) == 4
    for p in seen:
        (who,) = set(p.shots.person)
        assert who not in p.others.person
        assert sorted(p.shots.time_s) == [0.0, 10.0, 20.0, 30.0]
        assert sorted(p.calibration.time_s) == [0.0, 10.0, 20.0, 30.0]
        assert min(p.tail.time_s) >= 40.0
        assert len(p.tail) == 16
        assert not p.tail.known("mood").any()
        assert not p.calibration.known("mood").any()
        assert list(p.tail.labels) == ["mood"]


def test_personal_and_label_free_gain_where_persons_differ():
    found = personal.compare(offsets(), "mood", Probe(), (5,))
    for method in (("personal", 5), ("baseline normalised", 0)):
        gain = found.gains[method]
        assert gain.mean.low is not None
        assert gain.mean.low > 0, method
        assert gain.wins.value > 0.5
    names = [r.metric for r in found.results()]
    assert "personal, k = 5 macro-F1" in names
    assert "personal, k = 5 − generic: share of persons who gain" in names


def test_the_correction_is_what_a_slow_search_finds():
    rng = np.random.default_rng(0)
    Z, start, y = rng.normal(size=(12, 2)), rng.normal(size=(12, 2)), rng.integers(0, 2, 12)
    W = personal._shift_logits(Z, start, y)

    def loss(V: np.ndarray) -> float:
        p = personal._softmax(start + Z @ V)
        return float(-np.log(p[np.arange(12), y]).sum() + 0.5 * (V**2).sum())

    assert all(loss(W) <= loss(W + 0.02 * rng.normal(size=W.shape)) for _ in range(300))


def test_numbers_can_be_personal_too():
    data = cohort(8, 30, a=1.0)
    level = {p: 2.0 * i for i, p in enumerate(data.persons)}
    data = replace(data, labels={"level": data.labels["level"] + np.array([level[p] for p in data.person])}, classes={})
    methods = {n: METHODS[n] for n in ("generic", "personal")}
    found = personal.compare(data, "level", Probe(kind="ridge"), (5,), metric="MAE", methods=methods)
    assert found.gains["personal", 5].mean.value > 0


def blocks() -> Represented:
    """Calm first, stress later, as most studies have it."""
    data = cohort(5, 20)
    order = np.tile(np.r_[0:20:2, 1:20:2], 5) + np.repeat(20 * np.arange(5), 20)
    return replace(data.rows(order), time_s=data.time_s)


def test_blocks_need_a_tail_per_class():
    with pytest.raises(MienError, match="tail: class"):
        personal.compare(blocks(), "mood", Probe(), (10,))
    found = personal.compare(blocks(), "mood", Probe(), (3,), tail="class", calibration=3)
    assert set(found.found["generic", 0].y) == {0, 1}
    assert "per class" in found.note


def test_overlapping_windows_and_shared_recordings_stay_out_of_the_tail():
    data = replace(offsets(4, 20), seconds=20.0)  # windows of 20 s every 10 s
    kept, early, _ = personal.cut(data, "mood", 2, 4)
    assert min(data.time_s[kept]) == 50.0  # 40 s overlaps the last that was learnt from
    data = replace(data, seconds=10.0, recording=np.array(
        [f"{p}-{int(t >= 100)}" for p, t in zip(data.person, data.time_s, strict=True)], dtype=object
    ))  # fmt: skip
    kept, _, note = personal.cut(data, "mood", 2, 4, apart=True)
    assert min(data.time_s[kept]) == 100.0
    assert "other recordings only" in note


def twice(d: Represented) -> Represented:
    """Each person's second half as another recording, at the same time."""
    late = d.time_s >= 100
    name = np.array([f"{r}{int(v)}" for r, v in zip(d.recording, late, strict=True)], dtype=object)
    return replace(d, recording=name, time_s=np.where(late, d.time_s - 100, d.time_s))


BAD = {
    "overlap in time": lambda d: personal.compare(twice(d), "mood", Probe(), (1,)),
    "k is 1 or more": lambda d: personal.compare(d, "mood", Probe(), (0,)),
    "generic must be among": lambda d: personal.compare(d, "mood", Probe(), methods={"pooled": personal.pooled}),
    r"0 person\(s\) have 50 windows": lambda d: personal.compare(d, "mood", Probe(), (50,)),
    "no logits": lambda d: personal.compare(d, "mood", Probe(kind="ordinal"), (1,)),
}


@pytest.mark.parametrize("message", list(BAD))
def test_bad_input(message):
    with pytest.raises(MienError, match=message):
        BAD[message](offsets(4, 20))


def test_retrieval_takes_the_like():
    """Two kinds of people whose classes lie the other way round: those who are alike help."""
    data = cohort(12, 24, a=2.0)
    odd = np.array([int(p[-1]) % 2 for p in data.person])
    a = data.X["a"].copy()
    a[:, 0] *= np.where(odd, -1, 1)
    a[:, 2] += 4 * odd
    data = replace(data, X={"a": a})
    found = personal.compare(data, "mood", Probe(), (2,), methods={n: METHODS[n] for n in ("generic", "retrieval")})
    assert found.gains["retrieval", 0].mean.value > 0.2
    assert transfer.LOWER
