"""Simulated phones: what `studentlife` and `globem` hold, from nobody."""

from __future__ import annotations

import numpy as np
import pytest

from mien.core.records import Events, Signal
from mien.data.datasets import globem, phone, studentlife

SMALL = phone.Config(persons=20, recordings_per_person=4, hours=12)


def test_its_streams_are_those_of_the_readers(home):
    cohort = phone.load(SMALL)
    assert len(cohort) == 80
    for name, spec in cohort.card.streams.items():
        if name != "activity":
            assert spec.channels == studentlife._KINDS[name]
    assert cohort.card.streams["activity"] == studentlife.ACTIVITY
    daily = phone.load(SMALL.model_copy(update={"daily": True, "hours": 24.0 * 28})).card.streams
    theirs = {**globem.SENSORS["calls"][1], **globem.SENSORS["steps"][1]}
    assert daily["calls_a_day"] == theirs["calls"].spec
    assert daily["steps_a_day"] == theirs["steps"].spec


def test_a_person_does_not_depend_on_the_others_and_a_seed_says_all(home):
    few = phone.load(SMALL.model_copy(update={"persons": 2}))
    one, same = few[5].streams["messages"], phone.load(SMALL)[5].streams["messages"]
    assert isinstance(one, Events)
    assert isinstance(same, Events)
    assert np.array_equal(one.times_s, same.times_s)
    assert phone.load(SMALL).fingerprint != phone.load(SMALL.model_copy(update={"seed": 1})).fingerprint


@pytest.mark.parametrize("daily", [False, True])
def test_low_is_less_in_touch_and_gaps_are_marked(home, daily):
    config = phone.Config(
        persons=60, recordings_per_person=4, hours=24.0 * (28 if daily else 1), daily=daily, missing=0.2
    )
    found: dict[str, list[float]] = {"fine": [], "low": []}
    gaps = []
    cohort = phone.load(config)
    for r in cohort:
        s = r.streams["calls_a_day" if daily else "messages"]
        found[str(r.labels["mood"])].append(float(np.nanmean(s.values)) if isinstance(s, Signal) else len(s.times_s))
        signal = r.streams["steps_a_day" if daily else "activity"]
        assert isinstance(signal, Signal)
        assert np.isnan(signal.values[~signal.valid]).all() if signal.valid is not None else True
        gaps.append(0.0 if signal.valid is None else 1 - signal.valid.mean())
        low, high = cohort.card.streams["steps_a_day" if daily else "activity"].range or (0, 0)
        assert low <= np.nanmin(signal.values) <= np.nanmax(signal.values) <= high
        if len(gaps) > 100:
            break
    assert np.mean(found["low"]) < 0.75 * np.mean(found["fine"])
    assert np.mean(gaps) == pytest.approx(0.2, abs=0.04)
