"""Matched persons: as many of each class in every group, nobody else; and a result that was the confounder's is gone there."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.data.features import WindowTable
from mien.data.matching import Match, alike
from mien.evaluation import leave_one_out as lo

NAMES = ("age", "sex", "fever")


def cohort(attributes):
    """person -> attributes, as far as `alike` looks at a cohort."""
    persons, said = list(attributes), list(attributes.values())
    columns = {"person": persons, "attributes": said}
    return SimpleNamespace(card=SimpleNamespace(name="invented", attributes=NAMES), column=columns.__getitem__)


def table(label, X=None) -> WindowTable:
    """label: person -> class or classes, a window each."""
    rows = [(p, c) for p, of in label.items() for c in ([of] if isinstance(of, str) else of)]
    person, classes = (np.array(x, dtype=object) for x in zip(*rows, strict=True))
    X = np.zeros((len(rows), 1)) if X is None else X
    return WindowTable(X=X, meta=np.zeros((len(rows), 2)), label=classes, person=person, recording=person, skipped={})


@st.composite
def people(draw):
    n = draw(st.integers(4, 40))
    one = st.fixed_dictionaries(
        {}, optional={"age": st.integers(18, 60), "sex": st.sampled_from("fm"), "fever": st.just("yes")}
    )
    said = {f"p{i}": draw(one) for i in range(n)}
    return said, {p: draw(st.sampled_from(("no", "yes"))) for p in said}


@given(people=people(), seed=st.integers(0, 99))
def test_every_group_has_as_many_of_each_class_and_no_more_could_be_kept(people, seed):
    said, label = people
    found = alike(cohort(said), table(label), Match(by=NAMES), seed)
    group = {p: (a.get("age", -10) // 10, a.get("sex"), a.get("fever")) for p, a in said.items()}
    most = Counter()
    for g in set(group.values()):
        of = Counter(label[p] for p in said if group[p] == g)
        most[g] = min(of["no"], of["yes"])
    if sum(most.values()) < 2:
        assert not found.persons
        assert "not measured" in found.said
        return
    kept = Counter((group[p], label[p]) for p in found.persons)
    assert kept == Counter({(g, c): n for g, n in most.items() if n for c in ("no", "yes")})
    assert f"{len(found.persons)} of {len(said)} tested persons" in found.said


def test_whoever_has_both_classes_is_left_out_and_counted():
    said = {f"p{i}": {"sex": "f"} for i in range(7)}
    label = {f"p{i}": ("no", "yes")[i % 2] for i in range(6)} | {"p6": ("no", "yes")}
    found = alike(cohort(said), table(label), Match(by=("sex",)), 0)
    assert found.persons == {f"p{i}" for i in range(6)}
    assert "1 of several classes left out" in found.said


def test_what_was_the_confounders_is_gone_among_the_matched():
    """Sound that only tells the fever: it finds nearly every sick person, and nobody among those alike."""
    rng = np.random.default_rng(0)
    fever = {f"p{i:03d}": bool(rng.random() < (0.8 if i % 2 else 0.2)) for i in range(400)}
    said = {p: {"fever": "yes"} if f else {} for p, f in fever.items()}
    label = {p: "yes" if i % 2 else "no" for i, p in enumerate(fever)}
    X = np.array([[float(f)] for f in fever.values()]) + 0.1 * rng.normal(size=(400, 1))
    t = table(label, X)
    made = lo.folds(t, ("no", "yes"), 4)
    found = lo.predict(made, {"forest": (lo.forest(20), 1), "majority": (lo.majority, 1)})
    pairs = alike(cohort(said), t.rows(lo.tested(made)), Match(by=("fever",)), 0)
    named = {r.metric: r for r in lo.results(made, found, "window", "forest", ["majority"], pairs)}
    assert named["forest AUROC"].value > 0.7
    again = named["forest AUROC, matched persons"]
    assert again.low < 0.5 < again.high
    assert again.n_persons == len(pairs.persons)
    assert pairs.said in again.note
    with pytest.raises(MienError, match="average: person for persons who have several"):
        lo._matched(made, found, "person", "forest", [], pairs)
    (none,) = lo._matched(
        made, found, "window", "forest", [], alike(cohort(said), t.rows(np.arange(2)), Match(by=("fever",)), 0)
    )
    assert none.value is None


@pytest.mark.parametrize(
    ("match", "says"),
    [
        ({"by": ("shoe_size",)}, "no attribute 'shoe_size'"),
        ({"by": ("age",), "bands": {"age": 0.0}}, "is no width"),
        ({"by": ("age",), "bands": {"age": float("nan")}}, "is no width"),
    ],
)
def test_bad_input(match, says):
    with pytest.raises(MienError, match=says):
        alike(
            cohort({"a": {}, "b": {}}),
            table({"a": "no", "b": "yes"}),
            Match.model_construct(**{"bands": {}} | match),
            0,
        )
