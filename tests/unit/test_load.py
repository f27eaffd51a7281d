"""Opening a cohort for a purpose, and refusing to use what was learned from somebody who withdrew."""

from __future__ import annotations

import csv
from datetime import date

import numpy as np
import pytest

from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import CohortCard
from mien.data.datasets import folder
from mien.data.load import open_cohort, require_consent


@pytest.fixture
def study(home):
    rng = np.random.default_rng(0)
    folder.write(
        home / "study", values=rng.normal(size=(6, 40, 1)), persons=["a", "a", "b", "b", "c", "c"],
        labels=["x", "y"] * 3, task="t", rate_hz=10.0, channels=["v"], unit="g", name="study", licence="none",
        consent="invented",
    )  # fmt: skip
    return home / "study"


def say(study, **rows):
    with open(study / "persons.csv", "w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["person", "purposes", "expires", "withdrawn"])
        for person in "abc":
            out.writerow([person, *rows.get(person, ("default", "", ""))])
    text = (study / "cohort.yaml").read_text()
    if "persons:" not in text:
        (study / "cohort.yaml").write_text(text + "persons: persons.csv\n")


def test_purposes_are_opened_one_by_one(study):
    section = Plugin(name="folder", root=str(study))  # type: ignore[call-arg]
    say(study, a=("training;generation", "", ""), b=("training", "", ""))
    cohort, left_out = open_cohort(section, "evaluation")
    assert cohort.persons == ["c"]
    assert left_out == {"not agreed to evaluation": 2}
    assert open_cohort(section, "training")[0].persons == ["a", "b", "c"]
    require_consent(section, ["a", "c"], "generation")
    with pytest.raises(MienError, match="1 not agreed to generation"):
        require_consent(section, ["a", "b"], "generation")


def test_a_withdrawal_stops_generation(study):
    section = Plugin(name="folder", root=str(study))  # type: ignore[call-arg]
    say(study)
    require_consent(section, ["a", "b"], "generation")
    say(study, b=("default", "", date.today().isoformat()))
    with pytest.raises(MienError, match="1 withdrawn.*mien data touches"):
        require_consent(section, ["a", "b"], "generation")
    before, _ = open_cohort(section, "training")
    assert before.persons == ["a", "c"]


@pytest.mark.parametrize("asked", ["no-redistribution", "credentialed"])
def test_what_may_not_be_passed_on_is_not_opened_for_sharing(study, asked):
    section = Plugin(name="folder", root=str(study))  # type: ignore[call-arg]
    say(study, a=("training;sharing", "", ""))
    assert open_cohort(section, "sharing")[0].persons == ["a"]
    with open(study / "cohort.yaml", "a") as f:
        f.write(f"restrictions: [attribution, {asked}]\n")
    assert open_cohort(section, "training")[0].card.restrictions == ("attribution", asked)
    with pytest.raises(MienError, match=rf"'study' may not be shared \({asked}\)"):
        open_cohort(section, "sharing")


def test_restrictions_are_words_that_mean_something():
    card = CohortCard(name="a", licence="b", consent="c", restrictions=("non-commercial", "attribution"))
    assert card.restrictions == ("attribution", "non-commercial")  # in one order, whoever writes them
    assert CohortCard.from_json(card.to_json()) == card
    assert "restrictions" not in CohortCard(name="a", licence="b", consent="c").to_json()  # fingerprints stay
    with pytest.raises(MienError, match="unknown restriction 'secret'"):
        CohortCard(name="a", licence="b", consent="c", restrictions=("secret",))
