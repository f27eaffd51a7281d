"""What a private run costs: ε, δ and what an attacker can reach, from the events that touched the data.

Adjacency is add or remove one person. The bounds come from dp-accounting, with discretisation rounded towards more
privacy loss (Doroshenko et al. 2022, arXiv 2207.04380). They hold up to the rounding of its float64 FFT, which is
why δ below 1e-12 is refused there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import math
import numbers
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..core.errors import MienError
from ..core.paths import cache_home

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from dp_accounting.pld import PLDAccountant

ORDERS: tuple[float, ...] = (
    *(1 + i / 10 for i in range(1, 100)),
    *(float(i) for i in range(11, 64)),
    128.0,
    256.0,
    512.0,
    1024.0,
)
"""The Rényi orders of `rdp`. Sums over events are only comparable at the same orders, so these never change."""

_SMALLEST = sys.float_info.min
_MIN_DELTA = 1e-12
# dp-accounting computes size**steps, a whole number, for small grids: a minute at 1e7 steps, hours beyond.
_MAX_STEPS = 10_000_000
_MAX_LOSS = 5000.0
_MAX_NOISE = 1e4
# dp-accounting takes losses within 1e-8 of log(1 - rate) for infinite; at this rate that no longer matters.
_MIN_MIXTURE_RATE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Event:
    """`steps` noisy sums over units drawn by Poisson sampling: each unit is in a step with probability sample_rate.

    A unit's contribution has norm at most 1 (the clip is the unit of length) and the Gaussian noise has standard
    deviation noise_multiplier in each coordinate. units_per_person: the most units one person owns (1: the unit is
    the person). Adjacency: add or remove one person. MienError for a value outside these ranges.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int
    units_per_person: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample_rate", _positive("sample_rate", self.sample_rate, _SMALLEST, 1.0))
        object.__setattr__(self, "noise_multiplier", _positive("noise_multiplier", self.noise_multiplier, 1e-6, 1e6))
        object.__setattr__(self, "steps", _count("steps", self.steps, 0, _MAX_STEPS))
        object.__setattr__(self, "units_per_person", _count("units_per_person", self.units_per_person, 1, 1000))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(raw: Any) -> Event:
        """The inverse of `to_json`; MienError for missing or unknown keys and for values no event can have."""
        names = {f.name for f in fields(Event)}
        if not isinstance(raw, dict) or set(raw) != names:
            found = ", ".join(map(str, raw)) if isinstance(raw, dict) else type(raw).__name__
            raise MienError(f"a privacy event has exactly the keys {', '.join(sorted(names))}, found {found}")
        return Event(**raw)


@dataclass(frozen=True, kw_only=True)
class Risk:
    """The most any attacker can reach who must tell whether one person took part.

    True-positive rate at false-positive rates 0.1 % and 1 %, and the largest TPR - FPR.
    """

    tpr_at_0001: float
    tpr_at_001: float
    advantage: float


def dp_event(events: Sequence[Event]) -> DpEvent:
    """The events in dp-accounting's words, as the PLD accountant takes them.

    A person with K units adds a Binomial(K, q) number of them to a step, at worst all in one direction: a mixture of
    Gaussians (Choquette-Choo et al. 2023, arXiv 2310.15526, Corollary 4.7). With K > 1 a q below 1e-5 counts as 1e-5.
    """
    import dp_accounting as dp

    return _compose([dp.SelfComposedDpEvent(_step(e), e.steps) for e in _merge(events)])


def epsilon(events: Sequence[Event], delta: float, *, accountant: Literal["pld", "rdp"] = "pld") -> float:
    """The ε for which the events together are (ε, delta)-DP: an upper bound, inf where none is found; [] costs 0.

    pld: privacy loss distributions, tight. rdp: Rényi orders, looser; the ledger adds these up.
    """
    merged = _merge(events)
    if accountant == "rdp":
        return rdp_to_epsilon(*rdp(merged), delta) if merged else 0.0
    if accountant != "pld":
        raise MienError(f"accountant is 'pld' or 'rdp', got {accountant!r}")
    delta = _pld_delta(delta)
    if not merged:
        return 0.0
    return _remembered("epsilon", merged, [delta], 1, lambda: [_epsilon(merged, delta)])[0]


def delta_of(events: Sequence[Event], epsilon: float) -> float:
    """The δ for which the events together are (epsilon, δ)-DP, by PLD: an upper bound, at most 1."""
    merged = _merge(events)
    if not _is_number(epsilon) or not 0 <= epsilon < math.inf:
        raise MienError(f"epsilon is a finite number >= 0, got {epsilon!r}")
    at = float(epsilon)
    if not merged:
        return 0.0
    return _remembered("delta", merged, [at], 1, lambda: _deltas(merged, [at]))[0]


def noise_for(epsilon: float, delta: float, *, sample_rate: float, steps: int, units_per_person: int = 1) -> float:
    """The smallest noise multiplier, within 0.1 %, at which `steps` steps are (epsilon, delta)-DP by PLD.

    The bound was computed at the very number returned. MienError when no multiplier up to 10,000 is enough.
    """
    target, delta = _positive("privacy.epsilon", epsilon), _pld_delta(delta)
    steps = _count("train.max_steps", steps, 1, _MAX_STEPS)
    event = Event(sample_rate=sample_rate, noise_multiplier=1.0, steps=steps, units_per_person=units_per_person)

    def enough(sigma: float) -> bool:
        return _epsilon((replace(event, noise_multiplier=sigma),), delta) <= target

    def search() -> list[float]:
        high = 1.0
        while not enough(high):
            high *= 2
            if high > _MAX_NOISE:
                raise MienError(
                    f"no noise multiplier up to {_MAX_NOISE:g} gives privacy.epsilon {target:g} at privacy.delta"
                    f" {delta:g} over {steps} steps; raise privacy.epsilon, lower train.max_steps or the sample rate"
                )
        low = high / 2
        while enough(low):
            high, low = low, low / 2
        while high > low * 1.001:
            middle = float(f"{math.sqrt(low * high):.5g}")
            if enough(middle):
                high = middle
            else:
                low = middle
        return [high]

    return _remembered("noise", (event,), [target, delta], 1, search)[0]


def rdp(events: Sequence[Event]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(ORDERS, Rényi divergence bound at each order), summed over the events; inf where a bound does not exist.

    Poisson-sampled Gaussian: Mironov, Talwar & Zhang 2019 (arXiv 1908.10530). A person with K units counts as one
    unit of norm K drawn with probability 1 - (1-q)^K. That is never too little: both hockey-stick divergences of a
    mixture of N(c_i, σ²) against N(0, σ²) are attained on half-lines, where the mixture's probability only grows
    with each c_i >= 0 (so moving every c_i > 0 up to K cannot lower them), and a Rényi divergence is a positive
    combination of hockey-stick divergences.
    """
    total = np.zeros(len(ORDERS))
    for e in _merge(events):
        total += e.steps * np.array(_rdp_of_step(replace(e, steps=1)))
    return ORDERS, tuple(total.tolist())


def rdp_to_epsilon(orders: Sequence[float], values: Sequence[float], delta: float) -> float:
    """ε at `delta` from Rényi divergence bounds (Canonne, Kamath & Steinke 2020, arXiv 2004.00010, Proposition 12)."""
    from dp_accounting import rdp as dp_rdp

    delta = _fraction("privacy.delta", delta)
    if len(orders) != len(values) or not len(orders):
        raise MienError(f"every Rényi order has one value, got {len(orders)} orders and {len(values)} values")
    if not all(o > 1 for o in orders) or not all(v >= 0 for v in values):
        raise MienError("Rényi orders are above 1 and their values are numbers >= 0")
    return float(dp_rdp.compute_epsilon(orders, values, delta)[0])


def gdp_mu(events: Sequence[Event]) -> float:
    """μ of the Gaussian-DP limit of many weak steps: an approximation that may be too low, never a claim.

    Bu et al. 2020 (arXiv 1911.11607): q·sqrt(T·(exp(1/σ²) - 1)). With K units per person the same limit with the
    χ²-divergence of the mixture, Σ p_i·p_j·(exp(ij/σ²) - 1), in place of q²·(exp(1/σ²) - 1). May be inf.
    """
    total = 0.0
    for e in _merge(events):
        p = _binomial(e.units_per_person, e.sample_rate)
        j = np.flatnonzero(p)
        z = j / e.noise_multiplier
        with np.errstate(over="ignore"):
            total += e.steps * float(p[j] @ np.expm1(np.outer(z, z)) @ p[j])
    return math.sqrt(total)


def tradeoff(events: Sequence[Event], fpr: np.ndarray) -> np.ndarray:
    """The largest true-positive rate any attacker can reach at false-positive rates `fpr`: float64, fpr's shape.

    An upper bound by PLD: for every ε, TPR <= e^ε·FPR + δ(ε) and 1 - FPR <= e^ε·(1 - TPR) + δ(ε) (Dong, Roth & Su
    2019, arXiv 1905.02383). MienError when a rate is outside [0, 1].
    """
    fpr = np.asarray(fpr, dtype=np.float64)
    if not ((fpr >= 0) & (fpr <= 1)).all():
        raise MienError("false-positive rates are numbers in [0, 1]")
    merged = _merge(events)
    best = np.ones_like(fpr)
    for eps, delta in zip(*_curve(merged), strict=True) if merged else [(0.0, 0.0)]:
        growth = math.exp(eps)
        best = np.minimum(best, np.minimum(growth * fpr + delta, 1 - (1 - delta - fpr) / growth))
    return np.clip(best, fpr, 1.0)


def risk(events: Sequence[Event]) -> Risk:
    """What the events allow an attacker at most, as a summary of `tradeoff`."""
    low, high = tradeoff(events, np.array([0.001, 0.01]))
    return Risk(tpr_at_0001=float(low), tpr_at_001=float(high), advantage=delta_of(events, 0.0))


def selection_epsilon(
    events: Sequence[Event], delta: float, *, mean_trials: float, distribution: Literal["poisson", "geometric"]
) -> float:
    """ε of publishing the best of a random number of trials, each of which costs `events`.

    Papernot & Steinke 2021 (arXiv 2110.03620): Theorem 6 for a Poisson number (may be 0 trials), Theorem 2 for a
    geometric one (at least 1). mean_trials: its mean, at least 1. The number must be drawn anew, and stay secret.
    """
    import dp_accounting as dp

    delta, mean = _fraction("privacy.delta", delta), _positive("mean_trials", mean_trials, 1.0)
    shapes = {"poisson": math.inf, "geometric": 1.0}
    if distribution not in shapes:
        raise MienError(f"distribution is 'poisson' or 'geometric', got {distribution!r}")
    merged = _merge(events)
    if not merged:
        return 0.0
    once = _compose([dp.SelfComposedDpEvent(_single(e), e.steps) for e in merged])
    return rdp_to_epsilon(ORDERS, _rdp_of(dp.dp_event.RepeatAndSelectDpEvent(once, mean, shapes[distribution])), delta)


def _merge(events: Sequence[Event]) -> tuple[Event, ...]:
    """The same cost in one form: no empty events, equal steps together, in a fixed order."""
    steps: dict[Event, int] = {}
    for e in events:
        key = replace(e, steps=0)
        steps[key] = steps.get(key, 0) + e.steps
    merged = [replace(e, steps=n) for e, n in steps.items() if n]
    return tuple(sorted(merged, key=lambda e: (e.units_per_person, e.sample_rate, e.noise_multiplier)))


def _compose(parts: list[Any]) -> Any:
    import dp_accounting as dp

    return dp.ComposedDpEvent(parts) if parts else dp.NoOpDpEvent()


def _step(e: Event) -> Any:
    """One step of an event, exactly."""
    import dp_accounting as dp

    if e.units_per_person == 1 or e.sample_rate == 1:
        return _single(e)
    p = _binomial(e.units_per_person, max(e.sample_rate, _MIN_MIXTURE_RATE))
    sensitivities = [float(j) for j in range(len(p))]
    return dp.dp_event.MixtureOfGaussiansDpEvent(e.noise_multiplier, sensitivities, p.tolist())


def _single(e: Event) -> Any:
    """One step with all of a person's units as one, drawn when any of them is."""
    import dp_accounting as dp

    gaussian = dp.GaussianDpEvent(e.noise_multiplier / e.units_per_person)
    if e.sample_rate == 1:
        return gaussian
    any_unit = (
        e.sample_rate if e.units_per_person == 1 else -math.expm1(e.units_per_person * math.log1p(-e.sample_rate))
    )
    return dp.PoissonSampledDpEvent(any_unit, gaussian)


def _binomial(units: int, rate: float) -> np.ndarray:
    """P(0..units of them are drawn), float64[units + 1], summing to 1."""
    from scipy import stats

    p = stats.binom.pmf(np.arange(units + 1), units, rate)
    return p / p.sum()


def _interval(events: tuple[Event, ...]) -> float:
    """The grid of losses: a twentieth of what a typical step loses, unless that needs millions of points.

    A coarser grid costs tightness, never the bound. A finer one gains nothing: the masses of a step are differences
    of float64 numbers divided by the interval.
    """
    square, mean, variance = 0.0, 0.0, 0.0
    for e in events:
        drawn = e.units_per_person * e.sample_rate
        square += e.steps * min(1.0, drawn, drawn / e.noise_multiplier) ** 2
        # Kullback-Leibler divergence <= both of these: by Jensen's inequality, and by convexity in the mixture.
        chi2 = gdp_mu([replace(e, steps=1)]) ** 2
        mean += e.steps * min(chi2, (drawn * (1 - e.sample_rate) + drawn**2) / (2 * e.noise_multiplier**2))
        variance += e.steps * min(chi2, min(1.0, drawn) * _worst_loss(e) ** 2)
    worst = max(_worst_loss(e) for e in events)
    typical = math.sqrt(square / sum(e.steps for e in events))
    composed = mean + 10 * math.sqrt(variance) + worst
    # dp-accounting inverts a mixture's loss point by point, in Python.
    points = 2e5 if all(e.units_per_person == 1 for e in events) else 2e4
    return float(f"{max(typical / 20, worst / points, composed / 1e6, 1e-8):.1g}")


def _worst_loss(e: Event) -> float:
    """About the largest privacy loss of one step that has a probability above 1e-22."""
    at_least = np.cumsum(_binomial(e.units_per_person, e.sample_rate)[::-1])[::-1]
    units = max(1, int(np.flatnonzero(at_least > 1e-22)[-1]))
    z = units / e.noise_multiplier
    unsampled = z * z / 2 + 10 * z
    rate = min(1.0, e.sample_rate * e.units_per_person)
    return math.log1p(rate * math.expm1(unsampled)) if unsampled < 700 else unsampled + math.log(rate)


@functools.lru_cache(maxsize=4)
def _pld(events: tuple[Event, ...]) -> PLDAccountant | None:
    """None where a single step can lose more than any useful ε: its grid would be enormous, the bound is inf."""
    from dp_accounting.pld import PLDAccountant

    if max(_worst_loss(e) for e in events) > _MAX_LOSS:
        return None
    accountant = PLDAccountant(value_discretization_interval=_interval(events))
    accountant.compose(dp_event(events))
    return accountant


def _epsilon(events: tuple[Event, ...], delta: float) -> float:
    accountant = _pld(events)
    return math.inf if accountant is None else float(accountant.get_epsilon(delta))


def _deltas(events: tuple[Event, ...], epsilons: list[float]) -> list[float]:
    """δ at increasing ε."""
    accountant = _pld(events)
    if accountant is None:
        return [1.0] * len(epsilons)
    # The annotation of get_delta says float; it passes an array on to the distribution, which takes one.
    deltas: Any = accountant.get_delta(np.array(epsilons))  # pyright: ignore[reportArgumentType]
    return np.clip(deltas, 0.0, 1.0).tolist()


def _curve(events: tuple[Event, ...]) -> tuple[list[float], list[float]]:
    """δ(ε) on a grid fine enough for `tradeoff`; any grid gives a bound."""

    def points() -> list[float]:
        # exp(700) is close to the largest float64.
        grid = np.linspace(0.0, min(700.0, _epsilon(events, 1e-9)), 2001).tolist()
        return grid + _deltas(events, grid)

    flat = _remembered("curve", events, [], 4002, points)
    return flat[:2001], flat[2001:]


@functools.lru_cache(maxsize=1024)
def _rdp_of_step(e: Event) -> tuple[float, ...]:
    return _rdp_of(_single(e))


def _rdp_of(event: Any) -> tuple[float, ...]:
    from dp_accounting.rdp import RdpAccountant

    def other(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    # Low orders without a convergent series are left out by dp-accounting (as inf), with a warning for each.
    logger = logging.getLogger("absl")
    logger.addFilter(other)
    try:
        accountant = RdpAccountant(ORDERS)
        accountant.compose(event)
    finally:
        logger.removeFilter(other)
    return tuple(max(0.0, float(v)) for v in accountant.rdp)


def _remembered(
    what: str, events: tuple[Event, ...], arguments: list[float], size: int, compute: Callable[[], list[float]]
) -> list[float]:
    """`size` numbers >= 0, from the cache folder when they are there; a file that is not that is made again."""
    question = [what, [e.to_json() for e in events], arguments, _interval(events), *_code()]
    name = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
    file = cache_home() / "accounting" / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, list) and len(found) == size and all(type(x) is float and x >= 0 for x in found):
            return found
    values = compute()
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as out:
            json.dump(values, out)
        os.replace(out.name, file)
    return values


@functools.cache
def _code() -> tuple[str, str]:
    """What a remembered number depends on besides the question: a mended accountant must not give old answers."""
    return importlib.metadata.version("dp-accounting"), hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _is_number(value: Any, kind: type = numbers.Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _positive(name: str, value: Any, least: float = _SMALLEST, most: float = sys.float_info.max) -> float:
    if not _is_number(value) or not least <= value <= most:
        raise MienError(f"{name} is a number from {least:g} to {most:g}, got {value!r}")
    return float(value)


def _count(name: str, value: Any, least: int, most: int) -> int:
    if not _is_number(value, numbers.Integral) or not least <= value <= most:
        raise MienError(f"{name} is a whole number from {least} to {most:,}, got {value!r}")
    return int(value)


def _fraction(name: str, value: Any) -> float:
    if not _is_number(value) or not _SMALLEST <= value < 1:
        raise MienError(f"{name} is a number between 0 and 1, got {value!r}")
    return float(value)


def _pld_delta(value: Any) -> float:
    delta = _fraction("privacy.delta", value)
    if delta < _MIN_DELTA:
        raise MienError(
            f"privacy.delta {delta:g} is below {_MIN_DELTA:g}, finer than PLD arithmetic; raise privacy.delta"
        )
    return delta
