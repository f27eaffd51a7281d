"""From what is wanted, to a calibrated plan, to what may be claimed afterwards.

One frozen `PrivacyPlan` holds sampler, clipping, noise and accountant together, so that none can be changed without
the others: `spec.plan(n, steps)` makes it, the training loop obeys it, `plan.guarantee(taken)` says what holds.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ..core.config import Section
from ..core.errors import MienError
from . import sampling
from .accounting import Event, epsilon, gdp_mu, noise_for, risk
from .gradients import Clipping

Unit = Literal["person", "recording", "rater"]  # a rater: of preferences, with all their answers
ADJACENCY = "add or remove one {}, everything that belongs to it included; n is a public constant"
COVERS = (
    "the adapter's weights after every step, to an attacker who knows everything but one {unit} and the secret random"
    " numbers; and whatever is computed from the adapter without looking at the recordings again"
)
NOT_COVERED = (
    "what is generated while conditioning on a real recording",
    "the private/ half of the run folder (losses, norms, who was drawn for training)",
    "choices made by looking at earlier results on the same persons, unless the ledger charged those runs",
    "persons' other records elsewhere; relatives and contacts who appear in a recording are not its unit",
)


def loosest_delta(n: int) -> float:
    """The largest δ a claim may have: min(1e-5, 1 / (10 n))."""
    return min(1e-5, 1 / (10 * n))


class PrivacySpec(Section):
    """What is asked for. Give epsilon (the noise follows) or noise_multiplier (epsilon follows).

    unit: who or what is hidden; delta: default min(1e-5, 1/(10 n)); n: how many units there are, a number that may be
    public (default: the units of the training split, then treated as public); batch: units expected per step;
    rows: at most so many windows of a drawn unit enter a step; max_recordings_per_person: for unit recording, what
    the price for a whole person is computed from, and checked; clip_norm, clipping: of one unit's gradient (flat,
    per_layer, automatic, adaptive); quantile, quantile_noise: adaptive clipping's target and the noise on its count
    as a share of `batch` (arXiv 1905.03871); adam_correction: subtract the noise from Adam's second moment
    (arXiv 2312.14334); sampling: poisson, the only one that can be accounted; groups: put each drawn unit into one of so
    many groups by independent chance and clip the gradient of a whole group, whose losses may mix its units (contrast
    among them); one unit then changes one group's clipped gradient by up to twice the clip norm, so twice the noise is
    added; cap: refuse to run when the ledger's total for any person would pass this ε.
    """

    unit: Unit = "person"
    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float | None = None
    n: int | None = None
    batch: float = 32
    rows: int = Field(default=8, ge=1)
    max_recordings_per_person: int | None = Field(default=None, ge=1)
    clip_norm: float = Field(default=1.0, ge=1e-9, le=1e9)
    clipping: Clipping = "flat"
    quantile: float = Field(default=0.5, gt=0, lt=1)
    quantile_noise: float = Field(default=0.05, gt=0, le=10)
    adam_correction: bool = True
    sampling: str = "poisson"
    groups: int | None = Field(default=None, ge=1)
    cap: float | None = Field(default=None, gt=0)

    def plan(self, *, n: int, steps: int) -> PrivacyPlan:
        """Calibrate for n units and this many steps. MienError naming the key when it cannot be, or is no claim."""
        sampling.check(self.sampling)
        n = self.n if self.n is not None else n
        if n < 2:
            raise MienError(
                f"privacy.n: {n} {self.unit}: with fewer than two there is nobody to hide among; train on more"
                " persons, or leave the privacy section out"
            )
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise MienError("privacy: give either epsilon or noise_multiplier, and not both")
        if self.epsilon is not None and self.epsilon <= 0:
            raise MienError(f"privacy.epsilon: {self.epsilon:g} is not above 0; typical values lie between 1 and 10")
        if self.noise_multiplier is not None and self.noise_multiplier <= 0:
            raise MienError(
                f"privacy.noise_multiplier: {self.noise_multiplier:g}: without noise there is no guarantee; leave the"
                " privacy section out for a plain run"
            )
        delta = loosest_delta(n) if self.delta is None else self.delta
        if not sys.float_info.min <= delta < 1 / n:
            raise MienError(
                f"privacy.delta: {delta:g} for n = {n}: it must be above 0, and from 1/n = {1 / n:.2g} on it permits"
                f" publishing a whole {self.unit}; use at most {loosest_delta(n):.2g}"
            )
        rate = self.batch / n
        if not 0 < rate <= 1:
            raise MienError(
                f"privacy.batch: {self.batch:g} {self.unit}s per step of n = {n}: the sampling rate {rate:.3g} must"
                f" lie in (0, 1]; set privacy.batch to at most {n}"
            )
        if self.unit == "recording" and self.max_recordings_per_person is None:
            raise MienError(
                "privacy.max_recordings_per_person: needed with unit: recording, for the price of a whole person"
                " is computed from it and shown beside"
            )
        if self.groups is not None and self.clipping == "adaptive":
            raise MienError(
                "privacy.groups: adaptive clipping counts units below the bound, and in a group nobody's own gradient is"
                " known; use clipping: flat"
            )
        if self.noise_multiplier is None:
            assert self.epsilon is not None
            sigma = noise_for(self.epsilon, delta, sample_rate=rate, steps=steps)
        else:
            sigma = self.noise_multiplier
            event = Event(sample_rate=rate, noise_multiplier=sigma, steps=steps)
            if not math.isfinite(epsilon((event,), delta)):
                raise MienError(
                    f"privacy.noise_multiplier: {sigma:g} is so little noise that no finite ε holds at δ = {delta:g};"
                    " useful values lie between 0.5 and 5"
                )
        plan = PrivacyPlan(
            unit=self.unit, n=n, sample_rate=rate, steps=steps, noise_multiplier=sigma, delta=delta, rows=self.rows,
            units_per_person=self.max_recordings_per_person or 1 if self.unit == "recording" else 1,
            clip_norm=self.clip_norm, clipping=self.clipping, quantile=self.quantile,
            count_noise=self.quantile_noise * self.batch if self.clipping == "adaptive" else None,
            adam_correction=self.adam_correction, groups=self.groups,
            not_a_claim=(f"δ = {delta:g} is looser than {loosest_delta(n):g}",) if delta > loosest_delta(n) else (),
        )  # fmt: skip
        _ = plan.gradient_noise  # refused now, not at the first step
        return plan


class PrivacyPlan(Section):
    """Sampler, clipping, noise and accountant of one run, fixed before its first gradient.

    sample_rate: each of n units enters a step with this probability (Poisson); noise_multiplier: of the whole step,
    in units of what one unit can change (`sensitivity` times clip_norm); count_noise: standard deviation of the noise on
    adaptive clipping's count, None without it; earlier: events of a private run whose result this one is computed from, that count in
    every claim and in no charge (`after`).
    """

    unit: Unit
    n: int
    sample_rate: float
    steps: int = Field(ge=1)
    noise_multiplier: float
    delta: float
    rows: int
    units_per_person: int
    clip_norm: float
    clipping: Clipping
    quantile: float
    count_noise: float | None
    adam_correction: bool
    not_a_claim: tuple[str, ...] = ()
    groups: int | None = None
    earlier: tuple[dict[str, Any], ...] = ()

    def after(self, earlier: Guarantee) -> PrivacyPlan:
        """The same run, reading what an earlier private run released of the same persons, or of others: everybody's total is at most
        both runs' steps together (adaptive composition). The ledger has charged the earlier ones to that run. MienError for
        units other than persons."""
        if (self.unit, earlier.unit) != ("person", "person"):
            raise MienError(f"privacy.unit: {self.unit}, after a run for each {earlier.unit}; both must be for persons")
        loose = self.delta > loosest_delta(earlier.n)
        doubts = (f"δ = {self.delta:g} is looser than {loosest_delta(earlier.n):g}",) if loose else ()
        doubts = tuple(dict.fromkeys((*self.not_a_claim, *earlier.not_a_claim, *doubts)))
        return self.model_copy(update={"earlier": earlier.events, "not_a_claim": doubts})

    @property
    def _earlier(self) -> tuple[Event, ...]:
        return tuple(Event.from_json(e) for e in self.earlier)

    @property
    def expected_batch(self) -> float:
        """The public constant every noised sum is divided by: units expected per step, or groups, each a mean."""
        return self.sample_rate * self.n if self.groups is None else float(self.groups)

    @property
    def sensitivity(self) -> float:
        """By how many clip norms one unit more or less can move a step's sum. In groups 2: the unit's group had a gradient
        of norm C at most without it, and has another of norm C at most with it; no other group has changed, for who is
        in which group is each unit's own chance. Given the others' draws and groups, the step without the unit is
        N(m, σ²), with it the mixture (1 − q) N(m, σ²) + q Σ_g N(m + v_g, σ²) / G with |v_g| <= 2C: a mean over g of what
        is accounted, and the hockey-stick divergence is jointly convex."""
        return 1.0 if self.groups is None else 2.0

    @property
    def gradient_noise(self) -> float:
        """Noise multiplier of the gradient alone, in clip norms.

        Adaptive clipping releases a count beside the gradient; both together must cost what noise_multiplier says:
        arXiv 1905.03871, theorem 1 (z_Δ). MienError when the count's own noise is too small for that.
        """
        if self.count_noise is None:
            return self.noise_multiplier * self.sensitivity
        left = self.noise_multiplier**-2 - (2 * self.count_noise) ** -2
        if left <= 0:
            raise MienError(
                f"privacy.quantile_noise: the noise on the clipped count ({self.count_noise:g}) is too small beside"
                f" the noise multiplier {self.noise_multiplier:.3g}; raise privacy.quantile_noise or privacy.batch"
            )
        return left**-0.5

    @property
    def fingerprint(self) -> str:
        """sha256 of everything in the plan."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    def events(self, steps: int | None = None) -> tuple[Event, ...]:
        """What a person is charged for this many steps (default: all), at person level."""
        return (
            Event(
                sample_rate=self.sample_rate,
                noise_multiplier=self.noise_multiplier,
                steps=self.steps if steps is None else steps,
                units_per_person=self.units_per_person,
            ),
        )

    def spent(self, places: int = 12) -> list[tuple[int, float]]:
        """(steps, ε for the unit after so many) from the first step to the last: it follows from the plan alone."""
        at = sorted({1, *(max(1, self.steps * k // places) for k in range(1, places + 1))})
        one = Event(sample_rate=self.sample_rate, noise_multiplier=self.noise_multiplier, steps=1)
        return [(s, epsilon((*self._earlier, replace(one, steps=s)), self.delta)) for s in at]

    def guarantee(self, taken: int | None = None, **ledger: Any) -> Guarantee:
        """What may be said after `taken` steps (default: the whole plan)."""
        taken = self.steps if taken is None else taken
        own = Event(
            sample_rate=self.sample_rate, noise_multiplier=self.noise_multiplier, steps=taken, units_per_person=1
        )
        of_unit = (*self._earlier, own)
        person = (*self._earlier, *self.events(taken))
        harm = risk(of_unit)
        return Guarantee(
            epsilon=epsilon(of_unit, self.delta),
            epsilon_rdp=epsilon(of_unit, self.delta, accountant="rdp"),
            person_epsilon=price if math.isfinite(price := epsilon(person, self.delta)) else None,
            delta=self.delta, unit=self.unit, n=self.n, adjacency=ADJACENCY.format(self.unit),
            accountant="PLD (dp-accounting), pessimistic", sampling=f"Poisson over {self.unit}s, rate {self.sample_rate:.6g}",
            noise_multiplier=self.noise_multiplier, steps=taken, clip_norm=self.clip_norm,
            clipping=self.clipping if self.groups is None else f"{self.clipping}, in {self.groups} groups (sensitivity 2 C)",
            mu_gdp=gdp_mu(of_unit), tpr_at_fpr_0001=harm.tpr_at_0001, tpr_at_fpr_001=harm.tpr_at_001,
            advantage=harm.advantage, events=tuple(e.to_json() for e in person),
            covers=COVERS.format(unit=self.unit), not_covered=NOT_COVERED, not_a_claim=self.not_a_claim,
            composed=len(self.earlier), **ledger,
        )  # fmt: skip


def up(value: float | None, digits: int = 3) -> str:
    """A bound in `digits` significant digits, never rounded down."""
    if not value:
        return "0"
    step = Decimal(1).scaleb(Decimal(value).adjusted() + 1 - digits)
    return format(float(Decimal(value).quantize(step, rounding=ROUND_CEILING)), f".{digits}g")


class Guarantee(Section):
    """What holds for a finished run.

    epsilon: of the unit; person_epsilon: of a whole person (the same number when the unit is the person);
    epsilon_rdp: the same from Rényi accounting, a cross-check; mu_gdp: the Gaussian-DP approximation, never a claim;
    tpr_at_fpr_…, advantage: the most any membership attacker can reach (no attack comes above it, up to the audit's
    confidence); not_a_claim: reasons why the number must not be advertised; ledger_seq, ledger_head: the ledger's
    state when the run was settled; caveats: what else the ledger knows about these persons; composed: how many of the `events` are
    of an earlier private run that this one read the result of: epsilon is both runs' together.
    """

    epsilon: float
    epsilon_rdp: float
    person_epsilon: float | None
    delta: float
    unit: Unit
    n: int
    adjacency: str
    accountant: str
    sampling: str
    noise_multiplier: float
    steps: int
    clip_norm: float
    clipping: str
    mu_gdp: float
    tpr_at_fpr_0001: float
    tpr_at_fpr_001: float
    advantage: float
    events: tuple[dict[str, Any], ...]
    covers: str
    not_covered: tuple[str, ...]
    not_a_claim: tuple[str, ...] = ()
    ledger_seq: int | None = None
    ledger_head: str | None = None
    caveats: tuple[str, ...] = ()
    composed: int = 0

    def sentence(self) -> str:
        """The whole claim in one sentence, for cards and reports."""
        price = ""
        if self.unit == "recording":
            known = self.person_epsilon is not None
            price = (
                f"; for a whole person ε = {up(self.person_epsilon)}" if known else "; for a whole person: unbounded"
            )
        doubt = f"; NOT A CLAIM: {'; '.join(self.not_a_claim)}" if self.not_a_claim else ""
        both = "; with the private training of the binder whose embeddings it was shown" if self.composed else ""
        return (
            f"({up(self.epsilon)}, {self.delta:.2g})-differential privacy for each {self.unit} ({self.adjacency};"
            f" {self.sampling}, {self.steps} steps, noise multiplier {self.noise_multiplier:.3g}, {self.accountant}{both})"
            f"{price}. No membership attack on a {self.unit} finds more than {up(100 * self.tpr_at_fpr_001)} % of members"
            f" at 1 % false alarms{doubt}"
        )

    def write(self, path: Path) -> None:
        from ..core.runs import write_text

        write_text(path, json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False))

    @staticmethod
    def read(path: Path) -> Guarantee:
        from ..core.config import parse

        return parse(Guarantee, json.loads(path.read_text()), str(path))
