"""What a representation is worth and gives away, on representations of which that is known."""

from __future__ import annotations

import numpy as np
import pytest

from mien.attacks import represented as attacked
from mien.core.errors import MienError
from mien.data.features import WindowTable
from mien.evaluation import represented

PEOPLE, EACH, RECORDINGS = 12, 16, 4


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    person = np.repeat([f"p{i:02d}" for i in range(PEOPLE)], EACH).astype(object)
    y = np.tile(np.arange(EACH) % 2, PEOPLE)
    part = np.tile(np.arange(EACH) // (EACH // RECORDINGS), PEOPLE)
    recording = np.array([f"{p}-{k}" for p, k in zip(person, part, strict=True)], object)
    n = len(person)
    table = WindowTable(
        X=rng.normal(size=(n, 6)), meta=rng.normal(size=(n, 3)), label=np.array(["a", "b"], object)[y], person=person,
        recording=recording, skipped={},
    )  # fmt: skip
    train = np.isin(person, sorted(set(person))[: PEOPLE // 2])
    return rng, table, y, train


def results(world, Z, slices=None, **parts):
    _, table, y, train = world
    found = represented.results(
        Z, Z * 0 + 1, table, y, train, ("a", "b"), slices or {"one": slice(0, Z.shape[1])}, trees=10, seeds=1, **parts
    )
    return {r.metric: r for r in found}


def test_a_planted_label_is_found_and_noise_is_not(world):
    rng, table, y, _ = world
    Z = rng.normal(size=(len(y), 4))
    Z[:, 2] += 6 * y
    assert results(world, Z)["adapted macro-F1"].value > 0.95
    r = results(world, rng.normal(size=(len(y), 4)))["adapted macro-F1"]
    assert r.low < 0.5 < r.high + 0.1


def test_a_missing_stream_costs_no_more_than_never_having_had_it(world):
    rng, _, y, _ = world
    Z = rng.normal(size=(len(y), 6))
    Z[:, 0] += 5 * y
    Z[:, 4] += 2 * y
    found = results(world, Z, {"a": slice(0, 3), "b": slice(3, 6)})
    lost = found["a missing at test − trained without it, macro-F1"]
    assert lost.high >= 0
    assert {b.name for b in lost.baselines} == {"missing at test", "trained without", "with all"}


def test_streams_that_share_columns_are_judged_in_parts_all_the_same(world):
    """Two streams whose sum is the vector: a has the label, b has nothing."""
    rng, _, y, _ = world
    a, b = rng.normal(size=(2, len(y), 3)) * 0.3
    a[:, 0] += 4 * y
    found = results(world, a + b, alone={"a": a, "b": b}, without={"a": b, "b": a})
    assert "adapted − a alone macro-F1" in found
    name = "{} missing at test − trained without it, macro-F1"
    without_a, without_b = ({b.name: b.value for b in found[name.format(m)].baselines} for m in "ab")
    assert without_a["missing at test"] < 0.65
    assert without_b["missing at test"] > 0.9
    assert abs(without_a["trained without"] - 0.5) < 0.15


def test_whom_it_serves_worst_is_told(world):
    """Half of the persons are told by nothing: the groups of which they are."""
    rng, table, y, train = world
    of = np.array([int(p[1:]) % 2 for p in table.person])
    Z = rng.normal(size=(len(y), 2))
    Z[:, 0] += 6 * y * np.where(train, 1, of)
    groups = {"sex": np.array(["f", "m"], object)[of], "age": np.full(len(y), "18–29", object)}
    found = results(world, Z, groups=groups)
    assert found["adapted macro-F1 of the worst person"].value < 0.7 < found["adapted macro-F1"].value
    assert found["adapted macro-F1 of the worst group by age"].value is None
    r = found["adapted macro-F1 of the worst group by sex"]  # three persons each
    assert "fewer than 5 persons" in r.note
    found = results(world, Z, groups=groups, average="person")
    assert found["adapted macro-F1 of the worst person"].value < 0.7


def test_the_best_single_stream_is_chosen_without_the_judges(world):
    rng, table, y, train = world
    Z = rng.normal(size=(len(y), 4))
    Z[train, 0] += 6 * y[train]  # a is best in training …
    Z[~train, 2] += 6 * y[~train]  # … and b on the held-out persons
    found = results(world, Z, {"a": slice(0, 2), "b": slice(2, 4)})
    assert "adapted − a alone macro-F1" in found
    assert "adapted − b alone macro-F1" not in found


def test_a_person_on_both_sides_is_refused(world):
    _, table, y, train = world
    mixed = train.copy()
    mixed[0] = not mixed[0]
    with pytest.raises(MienError, match="1 of 7 persons"):
        represented.results(np.ones((len(y), 2)), np.ones((len(y), 2)), table, y, mixed, ("a", "b"), {"m": slice(0, 2)})


def test_attackers_find_who_it_is_where_that_is_planted(world):
    rng, table, y, train = world
    who = np.unique(table.person, return_inverse=True)[1]
    leaky = rng.normal(size=(len(y), 8)) + 3 * rng.normal(size=(PEOPLE, 8))[who]
    mute = rng.normal(size=(len(y), 8))
    found = attacked.recognised({"leaky": leaky, "mute": mute}, table.person, table.recording, train, trees=30)
    by = {r.metric: r for r in found}
    for kind in ("linear", "forest"):
        assert by[f"identity.leaky.recognised ({kind})"].value > 0.8
        assert (
            by[f"identity.mute.recognised ({kind})"].low < 1 / 6 < by[f"identity.mute.recognised ({kind})"].high + 0.05
        )
        gap = by[f"identity.leaky − mute.recognised ({kind})"]
        both = [by[f"identity.{v}.recognised ({kind})"].value for v in ("leaky", "mute")]
        assert gap.value == pytest.approx(both[0] - both[1])
        assert gap.low > 0.3
    open_ = {
        r.metric: r for r in attacked.identity({"leaky": leaky, "mute": leaky}, table.person, table.recording, train)
    }
    assert open_["identity.leaky.eer"].value < 0.2


def test_a_curved_leak_is_found_by_the_forest_alone(world):
    rng, table, y, train = world
    who = np.unique(table.person, return_inverse=True)[1]
    sign = rng.choice([-1, 1], len(y))
    ring = sign * (1 + who % 6) + 0.05 * rng.normal(size=len(y))  # |x| tells the person, x does not
    X = np.stack([ring, rng.normal(size=len(y))], 1)
    by = {r.metric: r.value for r in attacked.recognised({"ring": X}, table.person, table.recording, train, trees=50)}
    assert by["identity.ring.recognised (forest)"] > by["identity.ring.recognised (linear)"] + 0.1


def test_attacks_that_cannot_run_say_why(world):
    _, table, y, train = world
    one = np.array([str(p) for p in table.person], object)  # one recording a person
    found = attacked.recognised({"x": np.ones((len(y), 3))}, table.person, one, train)
    assert found[0].value is None
    assert "two recordings" in found[0].note


def test_a_view_that_never_changes_is_not_attacked_and_the_others_are(world):
    rng, table, y, train = world
    leaky = rng.normal(size=(PEOPLE, 8))[np.unique(table.person, return_inverse=True)[1]]
    views = {"flat": np.ones((len(y), 8)), "leaky": leaky + 0.1 * rng.normal(size=(len(y), 8))}
    found = {r.metric: r for r in attacked.recognised(views, table.person, table.recording, train, trees=10)}
    assert "constant" in found["identity.flat.recognised"].note
    assert found["identity.leaky.recognised (linear)"].value > 0.8
    found = {r.metric: r for r in attacked.identity(views, table.person, table.recording, train)}
    assert "constant" in found["identity.flat.rank_1"].note
    assert found["identity.leaky.rank_1"].value > 0.8


def test_an_attribute_that_was_hidden_in_training_alone_is_found(world):
    """An adversary that has learnt its own persons by heart hides nobody else: those who are judged were in no training."""
    rng = np.random.default_rng(1)
    person = np.repeat([f"p{i:02d}" for i in range(40)], 4).astype(object)
    sex = {f"p{i:02d}": "fm"[i % 2] for i in range(40)}
    train = np.isin(person, sorted(set(person))[:20])
    X = rng.normal(size=(len(person), 3))
    X[:, 0] += [4 * (sex[p] == "m") for p in person] * ~train
    (r,) = attacked.attributes({"x": X}, person, {"sex": sex}, train, 0)
    assert r.value > 0.9
    assert r.n_persons == 20
    X[:, 0] = rng.normal(size=len(person)) + [4 * (sex[p] == "m") for p in person] * train  # and the other way round
    (r,) = attacked.attributes({"x": X}, person, {"sex": sex}, train, 0)
    assert r.value is None or r.low < 0.5 < r.high


def test_a_stream_that_nobody_in_training_has_is_judged_as_knowing_nothing(world):
    rng, _, y, train = world
    Z = rng.normal(size=(len(y), 6))
    Z[:, 0] += 6 * y
    Z[train, 3:] = 0  # was not measured
    found = results(world, Z, {"a": slice(0, 3), "b": slice(3, 6)})
    assert "adapted − a alone macro-F1" in found


def test_membership_of_a_model_that_memorised(world):
    rng, table, y, train = world
    assert attacked.membership(np.where(train, 0.1, 1.0), table.person, train).value == 1.0
    r = attacked.membership(rng.random(len(y)), table.person, train)
    assert r.low < 0.5 < r.high


def test_attributes_that_change_or_are_numbers_are_left_out():
    said = [{"sex": "f", "arm": "l", "age": 3}, {"sex": "f", "arm": "r", "age": 3}, {"sex": "m", "arm": "l", "age": 4}]
    assert attacked.constant(["a", "a", "b"], said, ["sex", "arm", "age"]) == {"sex": {"a": "f", "b": "m"}}
