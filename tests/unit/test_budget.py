"""A run and the ledger: what is charged, given back, refused, and what a published guarantee may say about others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mien.adapters import budget
from mien.adapters.private import BEGUN, Begun
from mien.core import runs
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.data.load import ledger_source, simulated
from mien.privacy.ledger import Ledger
from mien.privacy.plan import PrivacySpec

PERSONS = ("a", "b", "c")
PLAN = PrivacySpec(noise_multiplier=2.0, batch=2, delta=1e-5).plan(n=3, steps=4)


def entry(run, source="study", persons=PERSONS, plan=PLAN):
    return budget.Entry(run, source, persons, plan, None, True)


@pytest.fixture
def run(home):
    with runs.Run.start("adapt", "toy", {"a": 1}, {}) as made:
        yield made


def spent(source="study"):
    with Ledger.open() as ledger:
        (found,) = ledger.spent(source=source, delta=1e-5, pld=False)
    return found.epsilon


def test_a_run_that_fails_before_its_first_step_is_not_charged(run):
    with pytest.raises(KeyError), entry(run):
        assert spent() > 0
        raise KeyError
    assert spent() == 0
    with entry(run):  # and the next attempt is an attempt of its own
        assert spent() > 0


def test_stopped_between_giving_back_and_settling_stays_charged(run, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "settle", stopped)
        with pytest.raises(KeyboardInterrupt), entry(run):
            raise KeyError
    with Ledger.open() as ledger:
        (found,) = ledger.spent(source="study", delta=1e-5, pld=False)
    assert found.unsettled == 1


def test_a_begun_run_is_never_given_back(run):
    with pytest.raises(KeyError), entry(run):
        Begun(run.private / BEGUN).write(1)
        raise KeyError
    full = spent()
    (run.private / BEGUN).unlink()  # whoever deletes the record gets nothing for it
    with pytest.raises(KeyError), entry(run):
        raise KeyError
    assert spent() == full > 0


def test_a_settled_run_with_another_history_is_refused(run):
    with entry(run) as made:
        Begun(run.private / BEGUN).write(PLAN.steps)
        made.close()
    with entry(run) as made:  # stopped after its last step: the same answer again
        assert made.close()
    Begun(run.private / BEGUN).write(2)
    with pytest.raises(MienError, match=r"2 of 4 steps were begun.*restored from a copy"), entry(run):
        pass


def test_what_is_published_does_not_depend_on_who_was_in_an_earlier_run(run, home):
    """x, in an old plain run, joins or does not: the guarantee reads the same."""
    told = []
    for i, persons in enumerate((PERSONS, (*PERSONS, "x"))):
        with Ledger.open(home / f"{i}" / "ledger.sqlite") as ledger:
            ledger.plain(run="old", source="study", persons=["x", "y"])
        budget.Ledger, real = _at(home / f"{i}" / "ledger.sqlite"), budget.Ledger
        try:
            (run.private / "ledger-id").unlink(missing_ok=True)
            with entry(run, persons=persons) as made:
                made.close()
            told.append((made.guarantee.caveats, made.guarantee.sentence()))
        finally:
            budget.Ledger = real
    assert told[0] == told[1]
    assert "without protection has used this data source" in told[0][0][0]


def _at(path):
    class Here:
        @staticmethod
        def open():
            return Ledger.open(path)

    return Here


def test_fingerprints_are_keyed(home, monkeypatch):
    one = runs.keyed("abc")
    assert one == runs.keyed("abc") != runs.keyed("abd")
    assert "abc" not in one
    assert ((home / "runs" / ".key").stat().st_mode & 0o777) == 0o600
    monkeypatch.setenv("MIEN_RUNS", str(home / "elsewhere"))
    assert runs.keyed("abc") != one  # without the key nobody can compute it


def test_whose_recordings_they_are(cohort):
    motion = Plugin(name="motion", persons=3)
    assert simulated(motion)
    assert not simulated(Plugin(name="watch"))
    assert ledger_source(motion, cohort) != ledger_source(Plugin(name="motion", persons=3, seed=1), cohort)
    assert ledger_source(Plugin(name="watch"), cohort) == "watch"
    from mien.data.splits import draw

    with pytest.raises(MienError, match="needs `source:` in cohort.yaml"):
        budget.plan_of(PrivacySpec(epsilon=8), draw(cohort), cohort, 10, named=True)


@pytest.mark.parametrize(
    ("kind", "says"), [("random_window", "on both sides"), ("time", "by a date"), ("official", "is published")]
)
def test_a_private_run_asks_for_a_secret_split_of_persons(cohort, kind, says):
    from mien.data.splits import draw

    split = replace(draw(cohort), kind=kind)
    with pytest.raises(MienError, match=f"split.kind: {kind} .*{says}.*needs kind: person"):
        budget.plan_of(PrivacySpec(epsilon=8), split, cohort, 10)
