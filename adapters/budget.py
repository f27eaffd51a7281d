"""A run and the ledger: charge before the first gradient, settle after the last, and say what holds."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..core import console
from ..core.errors import MienError
from ..core.records import Cohort
from ..core.runs import Run, write_text
from ..core.verbs import PLAIN
from ..data.splits import Splits
from ..privacy.ledger import Ledger
from ..privacy.plan import Guarantee, PrivacyPlan, PrivacySpec
from ..privacy.sampling import Units


def plan_of(spec: PrivacySpec | None, split: Splits, cohort: Cohort, steps: int) -> PrivacyPlan | None:
    """The calibrated plan of a run on this split; None for a plain run."""
    if spec is None:
        return None
    if split.kind != "person":
        raise MienError("split.kind: random_window puts every person on both sides; a private run needs kind: person")
    if spec.unit == "person":
        return spec.plan(n=len(split.train), steps=steps)
    train = set(split.train)
    return spec.plan(n=sum(p in train for p in cohort.column("person")), steps=steps)


def units_of(plan: PrivacyPlan, person: np.ndarray, recording: np.ndarray) -> Units:
    """The rows of each unit of privacy; person, recording: int[rows].

    MienError when somebody has more recordings than the plan's price for a whole person assumes.
    """
    if plan.unit == "person":
        return Units.of(person)
    most = max(len(np.unique(recording[person == p])) for p in np.unique(person))
    if most > plan.units_per_person:
        raise MienError(
            f"privacy.max_recordings_per_person: {plan.units_per_person}, but somebody in the training split"
            f" has {most} recordings: the price for a whole person would be too low. Raise it, take recordings out, or"
            " use unit: person"
        )
    return Units.of(recording)


def open(
    run: Run, source: str, persons: Sequence[str], plan: PrivacyPlan | None, cap: float | None
) -> Callable[[], str]:
    """Enter a run in the ledger before its first gradient (the main process only).

    Returns what to call after the last: it settles the entry and gives the sentence for cards and reports (writing
    `guarantee.json` beside the adapter of a private run).
    """
    if plan is None:
        with Ledger.open() as ledger:
            ledger.plain(run=_identity(run.private, run.name), source=source, persons=persons)
        return lambda: PLAIN
    name = reserve(run.private, run.name, source, persons, plan, cap)

    def close() -> str:
        guarantee = settle(name, source, persons, plan)
        guarantee.write(run.release / "adapter" / "guarantee.json")
        return guarantee.sentence()

    return close


def reserve(folder: Path, run: str, source: str, persons: Sequence[str], plan: PrivacyPlan, cap: float | None) -> str:
    """Charge the whole plan; returns the run's id in the ledger, the same one when a stopped run goes on.

    folder: the run's private half. Only the main process calls this. BudgetExceeded when the cap would be passed.
    """
    name = _identity(folder, run)
    with Ledger.open() as ledger:
        if ledger.status(name) == "settled":  # stopped after its last step: nothing is left to charge
            return name
        receipt = ledger.reserve(
            run=name, source=source, persons=persons, events=plan.events(), delta=plan.delta, cap=cap
        )
    total = f"{receipt.epsilon_after:.3g}" if math.isfinite(receipt.epsilon_after) else "∞ (a plain run used them too)"
    console.say(f"  ledger entry {receipt.seq}: these persons' total is now ε = {total} at most")
    return name


def settle(name: str, source: str, persons: Sequence[str], plan: PrivacyPlan) -> Guarantee:
    """Close the run's entry in the ledger; what may be said of the adapter."""
    with Ledger.open() as ledger:
        receipt = ledger.settle(name, plan.events())
        (spent,) = ledger.spent(source=source, persons=persons, delta=plan.delta, pld=False)
    caveats = []
    if spent.plain:
        caveats.append(
            "A run without protection has used some of these persons before: what was released from them together is"
            " not bounded, and choices that its results informed are not covered."
        )
    elif spent.runs > 1:
        caveats.append(
            f"{spent.runs} runs have used these persons; everything released from them together costs ε ="
            f" {spent.epsilon:.3g} at the same δ."
        )
    return plan.guarantee(ledger_seq=receipt.seq, ledger_head=receipt.head, caveats=tuple(caveats))


def _identity(folder: Path, run: str) -> str:
    """One id per attempt: a run that is begun anew (--fresh) is charged anew."""
    file = folder / "ledger-id"
    if not file.exists():
        write_text(file, f"{run}-{uuid.uuid4().hex[:12]}")
    return file.read_text().strip()
