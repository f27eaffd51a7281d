"""A run and the ledger: charge before the first gradient, settle after the last, and say what holds."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core import console
from ..core.errors import MienError
from ..core.records import Cohort
from ..core.runs import Run, write_text
from ..core.verbs import PLAIN
from ..data.splits import Splits
from ..privacy.ledger import Ledger
from ..privacy.plan import Guarantee, PrivacyPlan, PrivacySpec, up
from ..privacy.sampling import Units
from .private import BEGUN, Begun


def plan_of(
    spec: PrivacySpec | None, split: Splits, cohort: Cohort, steps: int, named: bool = False, earlier: Guarantee | None = None
) -> PrivacyPlan | None:  # fmt: skip
    """The calibrated plan of a run on this split; None for a plain run. named: the cohort must declare its source; earlier: of a
    private run whose result this one reads: its own noise is calibrated as asked, and both are claimed together."""
    if spec is None:
        return None
    if named and not cohort.card.source:
        raise MienError(
            "a private run on your own folder needs `source:` in cohort.yaml: the name of the study that gave out the ids."
            " The ledger tells persons apart by it, so that renaming the cohort does not give them a fresh budget"
        )
    if spec.unit == "rater":
        raise MienError(
            "privacy.unit: a rater's answers are what `mien align` learns from; here it is person or recording"
        )
    if split.kind != "person":
        why = {
            "random_window": "puts every person on both sides", "time": "tells who trained by a date",
            "official": "is published, and with it who trained",
        }  # fmt: skip
        raise MienError(f"split.kind: {split.kind} {why[split.kind]}; a private run needs kind: person")
    if spec.unit == "person":
        plan = spec.plan(n=len(split.train), steps=steps)
        if earlier is None:
            return plan
        plan = plan.after(earlier)
        console.say(
            f"  with the binder's own private training, what may be claimed is ε = {up(plan.guarantee().epsilon)}"
        )
        return plan
    train = set(split.train)
    return spec.plan(n=sum(p in train for p in cohort.column("person")), steps=steps)


def units_of(plan: PrivacyPlan, person: np.ndarray, recording: np.ndarray) -> Units:
    """The rows of each unit of privacy; person, recording: int[rows].

    MienError when somebody has more recordings than the plan's price for a whole person assumes.
    """
    if plan.unit == "person":
        return _at_most(Units.of(person), plan)
    most = max(len(np.unique(recording[person == p])) for p in np.unique(person))
    if most > plan.units_per_person:
        raise MienError(
            f"privacy.max_recordings_per_person: {plan.units_per_person}, but somebody in the training split"
            f" has {most} recordings: the price for a whole person would be too low. Raise it, take recordings out, or"
            " use unit: person"
        )
    return _at_most(Units.of(recording), plan)


def repeated(
    privacy: Mapping[str, Any] | None, person: np.ndarray, recording: np.ndarray, rows: Sequence[np.ndarray], steps: int
) -> tuple[PrivacyPlan, list[Units]] | None:
    """The plan and units of shadow runs that repeat a private run's recipe on other rows; None for a plain recipe.

    privacy: the recipe's section; rows[k]: int64, those of shadow k.
    """
    if not privacy:
        return None
    spec = PrivacySpec(**privacy)
    unit = person if spec.unit == "person" else recording
    plan = spec.plan(n=max(len(np.unique(unit[r])) for r in rows), steps=steps)
    return plan, [Units([r[u] for u in Units.of(unit[r]).rows]) for r in rows]


def _at_most(units: Units, plan: PrivacyPlan) -> Units:
    if len(units) > plan.n:
        raise MienError(
            f"privacy.n: {plan.n}, but the training split has {len(units)} {plan.unit}s; the sampling rate and δ are"
            " computed from n, so it may not be smaller"
        )
    return units


class Entry:
    """A run's entry in the ledger, as a context: charged before the first gradient, settled by `close`.

    Only the main process has a ledger; in the others (`main` False) nothing happens. A run that fails before its first
    step gives its charge back: nothing was computed. One that was begun by an earlier process, or fails later, stays
    charged in full until it is finished.
    """

    def __init__(
        self, run: Run, source: str, persons: Sequence[str], plan: PrivacyPlan | None, cap: float | None, main: bool
    ):
        self.run, self.source, self.persons, self.plan, self.cap, self.main = run, source, persons, plan, cap, main
        self.file, self.new = run.private / "ledger-id", False
        self.guarantee: Guarantee | None = None

    def __enter__(self) -> Entry:
        """BudgetExceeded when the cap would be passed."""
        if not self.main:
            return self
        self.new = not self.file.exists()
        if self.new:  # one id per attempt: a run begun anew (--fresh) is charged anew
            write_text(self.file, f"{self.run.name}-{uuid.uuid4().hex[:12]}")
        name = self.file.read_text().strip()
        with Ledger.open() as ledger:
            if self.plan is not None and ledger.status(name) == "settled":
                begun = Begun(self.run.private / BEGUN).read()
                if begun == self.plan.steps:  # stopped after its last step: nothing is left to charge
                    return self
                raise MienError(
                    f"{self.run.name}: the ledger has settled this run, its folder says {begun} of {self.plan.steps} steps"
                    " were begun. One of them was restored from a copy; run with --fresh, which charges anew"
                )
            if self.plan is None:
                ledger.plain(run=name, source=self.source, persons=self.persons)
                return self
            receipt = ledger.reserve(
                run=name, source=self.source, persons=self.persons, events=self.plan.events(), delta=self.plan.delta,
                cap=self.cap,
            )  # fmt: skip
        after = receipt.epsilon_after
        total = f"{after:.3g} at most" if math.isfinite(after) else "∞: a plain run has used some of them"
        console.say(f"  ledger entry {receipt.seq}, source {self.source}: these persons' total is now ε = {total}")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not self.main or self.plan is None or not self.new:
            return
        if Begun(self.run.private / BEGUN).read():
            return
        name = self.file.read_text().strip()
        self.file.unlink()  # first: whoever is stopped in between has paid for nothing, never the reverse
        with Ledger.open() as ledger:
            ledger.settle(name, ())

    def close(self) -> str:
        """Settle; the sentence for cards and reports."""
        if self.plan is None:
            return PLAIN
        self.guarantee = settle(self.file.read_text().strip(), self.source, self.persons, self.plan)
        return self.guarantee.sentence()

    def write(self) -> None:
        """`guarantee.json` beside the adapter of a private run."""
        if self.guarantee is not None:
            self.guarantee.write(self.run.release / "adapter" / "guarantee.json")


def settle(name: str, source: str, persons: Sequence[str], plan: PrivacyPlan) -> Guarantee:
    """Close the run's entry in the ledger; what may be said of the adapter.

    What these persons' total is goes to the console. The guarantee is published, and says only what holds whoever they
    are: that other runs used the same data source.
    """
    with Ledger.open() as ledger:
        receipt = ledger.settle(name, plan.events())
        (spent,) = ledger.spent(source=source, persons=persons, delta=plan.delta, pld=False)
        (of_source,) = ledger.spent(source=source, delta=plan.delta, pld=False)
    if spent.runs > 1:
        total = f"{spent.epsilon:.3g}" if math.isfinite(spent.epsilon) else "∞"
        console.say(f"  {spent.runs} runs have used these persons: together ε = {total} at δ = {plan.delta:g}")
    caveats = []
    if of_source.plain:
        caveats.append(
            "A run without protection has used this data source before: what was released from it together is not"
            " bounded, and choices that its results informed are not covered."
        )
    elif of_source.runs > 1:
        caveats.append(
            f"{of_source.runs} runs have used this data source; each one's ε is for its own release, and they add up."
        )
    return plan.guarantee(ledger_seq=receipt.seq, ledger_head=receipt.head, caveats=tuple(caveats))
