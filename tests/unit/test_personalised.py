"""Persons' own adapters in an evaluation: the first windows teach, later ones judge, and nothing is kept."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mien.adapters import personal
from mien.adapters.represented import vectors
from mien.core.errors import MienError
from mien.data import features
from mien.evaluation import personalised
from mien.evaluation.personalised import Personal

from .test_autoencoder import subject
from .test_representation import made_of, people  # noqa: F401 - a fixture

QUICK = Personal(k=(1,), steps=4)


@pytest.fixture
def opened(people, home):  # noqa: F811
    """Everybody but p00 is held out; a person's recordings follow each other."""
    made, windows = made_of(people, bind="none")
    windows.start_s = windows.start_s + 100.0 * np.array([int(windows.recordings[r][-1]) for r in windows.recording])
    table = features.tabulate(people, seconds=4.0, stride_s=4.0, task="activity")
    assert table.recording.tolist() == [windows.recordings[i] for i in windows.recording]
    return SimpleNamespace(
        made=made, windows=windows, table=table, Z=vectors(made, windows), y=windows.labels["activity"].astype(int),
        train=table.person == "p00", task="activity", classes=people.card.tasks["activity"], config={"seconds": 4.0},
        cohort=people,
    )  # fmt: skip


def of(o, config=QUICK):
    return {r.metric: r for r in personalised.of(o, personal.predicted, personal.probabilities, config)}


def test_nothing_asked_nothing_said(opened):
    assert of(opened, None) == {}


def test_every_method_on_the_same_tail_and_nothing_is_kept(opened):
    before = opened.Z.copy()
    found = of(opened)
    held = len(set(opened.table.person[~opened.train]))
    for name in ("generic", "pooled, k = 1", "personal-only, k = 1", "shared head", "personal LoRA, k = 1"):
        metric = f"personal: {name} macro-F1" if name != "generic" else "personal: pooled, k = 1 macro-F1"
        assert found[metric].n_persons == held
    gained = found["personal: personal LoRA, k = 1 − shared head: macro-F1"]
    assert "sign-flip" in gained.note
    assert "personal: personal LoRA, k = 1 − shared head: share of persons who gain" in found
    assert personal.NAME not in opened.made.model.peft_config
    assert np.array_equal(vectors(opened.made, opened.windows), before)
    assert not list(personal.store().glob("*/*"))


def test_the_own_adapter_sees_the_first_windows_and_answers_for_the_later_ones(opened, monkeypatch):
    asked = []

    def own(made, windows, shots, tail, task, config, seed):
        asked.append((shots, tail))
        return np.eye(2)[windows.labels[task][tail].astype(int)]  # an oracle

    found = {r.metric: r for r in personalised.of(opened, own, personal.probabilities, QUICK)}
    assert found["personal: personal LoRA, k = 1 macro-F1"].value == 1.0
    t, who = opened.windows.start_s, opened.table.person
    for shots, tail in asked:
        assert len({*who[shots], *who[tail]}) == 1
        assert t[tail].min() > t[shots].max()
        assert sorted(opened.y[shots].tolist()) == [0, 1]


def test_recordings_without_a_clock_follow_each_other_by_their_ids(opened):
    """The fixture's recordings were made in the order of their ids: without start_s the same comes out, if it is asked for."""
    known = of(opened)
    number = np.array([int(opened.windows.recordings[r][-1]) for r in opened.windows.recording])
    opened.windows.start_s = opened.windows.start_s - 100.0 * number
    with pytest.raises(MienError, match=r"personal\.untimed: true"):
        of(opened)
    found = of(opened, QUICK.model_copy(update={"untimed": True}))
    assert {m: (r.value, r.n_persons) for m, r in found.items()} == {
        m: (r.value, r.n_persons) for m, r in known.items()
    }


def test_it_learns_what_the_shared_head_does_not_know(opened):
    """Somebody whose classes are the other way round is learnt, and forgotten for the next."""
    rows = np.flatnonzero(opened.table.person == "p02")[:6]
    opened.windows.labels["activity"][rows] = 1 - opened.y[rows]
    given = personal.predicted(opened.made, opened.windows, rows, rows, "activity", Personal(k=(3,), steps=40))
    np.testing.assert_allclose(given.sum(1), 1)
    assert np.array_equal(given.argmax(1), 1 - opened.y[rows])
    assert not np.array_equal(
        personal.probabilities(opened.made, opened.windows, rows, "activity").argmax(1), 1 - opened.y[rows]
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda o: setattr(o, "made", subject(o.cohort).made), "trained whole and has no LoRA"),
        (lambda o: setattr(o.made, "kinds", {}), "no head for the classes of 'activity'"),
        (lambda o: setattr(o, "train", o.table.person != "p01"), "1 held-out person"),
    ],
)
def test_runs_without_what_it_takes(opened, change, says):
    change(opened)
    with pytest.raises(MienError, match=says):
        of(opened)


def test_too_many_windows_asked_for(opened):
    with pytest.raises(MienError, match="take a smaller k"):
        of(opened, Personal(k=(50,)))
