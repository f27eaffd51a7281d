"""What carried the task's prediction, and what carried re-identification: side by side, so that one sees what to drop.

Two kinds of answer. *Shapley values of modalities* ask what a modality is worth to somebody who learns anew from what is
left (the task's probe, or a re-trained attacker): they explain the representation. *Integrated gradients* ask which channels
and moments moved one trained model's answer: they explain that model. Neither is a cause in the world.

Explanations are computed from recordings of people. What concerns a window or a person goes to a run's private half;
aggregates go to the release only over enough persons, and no ε covers them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core.errors import MienError
from ..core.intervals import Interval, over_persons
from ..core.results import Baseline, Result
from ..core.runs import write_text
from . import pictures
from .report.html import assert_leak_free
from .transfer import LOWER, Predicted, Probe, Represented, crossed, held_out

PLAYERS = 6  # modalities up to which every subset is tried
LEAST = 10  # persons an aggregate needs before it is released
ALIKE = 0.5  # rank correlation with a randomised model's map from which an explanation explains nothing

Value = Callable[[frozenset[str]], "float | np.ndarray"]
Each = Callable[[Represented], Mapping[str, float]]
"""Representations -> person: how well the task is predicted for them, or how well they are recognised."""


# --- Shapley values of modalities ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shapley:
    """phi: player -> float64[n], one value per person (or one); error: its Monte-Carlo standard error, 0 where exact;
    empty, full: float64[n], the value of no and of all players, whose difference the phi sum to; evaluations: subsets tried.
    """

    phi: Mapping[str, np.ndarray]
    error: Mapping[str, np.ndarray]
    empty: np.ndarray
    full: np.ndarray
    exact: bool
    evaluations: int

    def intervals(self) -> dict[str, Interval]:
        """Player -> the mean over persons, with its interval (for values given per person)."""
        return {p: _mean(np.arange(len(v)).astype(str), v) for p, v in self.phi.items()}


def shapley(players: Sequence[str], value: Value, draws: int | None = None, seed: int = 0) -> Shapley:
    """Shapley's division (1953) of value(all) − value(none) among the players.

    value(subset) -> a number, or float64[n] of the same n each time (the division is linear, so it is made for all n at once).
    Exact from all subsets up to six players. Above, or with `draws`, from that many random orders and their reverses
    (Castro et al. 2009; antithetic pairs), with the standard error over pairs; MienError without `draws` there.
    """
    if len(set(players)) != len(players) or not players:
        raise MienError(f"{len(players)} players, {len(set(players))} of them different; each modality plays once")
    if len(players) > PLAYERS and draws is None:
        raise MienError(
            f"{len(players)} modalities have {2 ** len(players)} subsets; say how many orders to draw (draws=…)"
        )
    if draws is not None and draws < 2:
        raise MienError(f"{draws} orders; a standard error takes two at least")

    @cache
    def worth(subset: frozenset[str]) -> np.ndarray:
        found = np.atleast_1d(np.asarray(value(subset), dtype=np.float64))
        if found.ndim != 1 or not np.isfinite(found).all():
            raise MienError(f"the value of {{{', '.join(sorted(subset))}}} is no finite number (or row of them)")
        return found

    empty, full = worth(frozenset()), worth(frozenset(players))
    if draws is None:
        phi, error = {}, {}
        n = len(players)
        for p in players:
            rest, parts = [q for q in players if q != p], np.zeros_like(full)
            for size in range(n):
                weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
                for s in combinations(rest, size):
                    parts = parts + weight * (worth(frozenset((*s, p))) - worth(frozenset(s)))
            phi[p], error[p] = parts, np.zeros_like(full)
    else:
        rng, pairs = np.random.default_rng([seed, 0x5A]), {p: [] for p in players}
        for _ in range(draws):
            order: list[str] = [str(players[int(i)]) for i in rng.permutation(len(players))]
            both = [_marginal(order, worth), _marginal(order[::-1], worth)]
            for p in players:
                pairs[p].append((both[0][p] + both[1][p]) / 2)
        phi = {p: np.mean(v, axis=0) for p, v in pairs.items()}
        error = {p: np.std(v, axis=0, ddof=1) / math.sqrt(draws) for p, v in pairs.items()}
    tried = worth.cache_info().currsize
    return Shapley(phi=phi, error=error, empty=empty, full=full, exact=draws is None, evaluations=tried)


def _marginal(order: Sequence[str], worth: Callable[[frozenset[str]], np.ndarray]) -> dict[str, np.ndarray]:
    out, before = {}, worth(frozenset())
    for i, p in enumerate(order):
        after = worth(frozenset(order[: i + 1]))
        out[p], before = after - before, after
    return out


def predicting(task: str, probe: Probe, metric: str = "balanced accuracy", k: int | None = None, seed: int = 0) -> Each:
    """Each person's metric by a probe of the others, learnt anew from the representation that is handed in."""

    def each(data: Represented) -> Mapping[str, float]:
        return _signed(held_out(data, task, probe, k, seed), metric)

    return each


def subsets(data: Represented, each: Each, nothing: Mapping[str, float]) -> Value:
    """A `value` for `shapley`: `each` on the modalities of the subset, in the order of `nothing`, which holds each person's value
    of no modality at all. MienError where somebody's value exists for some subsets only."""

    def value(subset: frozenset[str]) -> np.ndarray:
        found = each(data.only(subset)) if subset else nothing
        if set(found) != set(nothing):
            raise MienError(f"{len(set(found) ^ set(nothing))} persons have a value with some modalities only")
        return np.array([found[p] for p in nothing])

    return value


def unseen(
    data: Represented, task: str, metric: str = "balanced accuracy", k: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Each person's metric of predictions without any modality: class shares (or the mean) of the other persons, in the folds
    that `predicting` has from the same seed."""

    def make(train: Represented, test: Represented) -> np.ndarray:
        y = train.truth(task)
        if task not in train.classes:
            return np.full(len(test), y.mean())
        return np.tile(np.bincount(y, minlength=len(train.classes[task])) / len(y), (len(test), 1))

    return _signed(crossed(data, task, make, k, seed), metric)


def _signed(found: Predicted, metric: str) -> dict[str, float]:
    return {p: -v if metric in LOWER else v for p, v in found.each(metric).items()}


# --- integrated gradients ------------------------------------------------------------------------------------------


class TooCoarse(MienError):
    """The sum over the path is not yet the integral: take more steps."""


def gradients(
    forward: Callable[..., Any],
    inputs: Mapping[str, Any],
    target: Any,
    *,
    baseline: Mapping[str, Any] | None = None,
    extra: Sequence[Any] = (),
    steps: int = 64,
    batch: int = 32,
    tolerance: float = 0.05,
) -> dict[str, np.ndarray]:
    """Integrated gradients (Sundararajan et al. 2017, eq. 3) of forward(*inputs, *extra)[i, target[i]], by captum.

    inputs: modality -> float tensor[n, …], in the order forward takes them (of text, its embeddings), each channel at about
    unit variance: what is larger gets more from any weights; extra: tensors[n, …] (masks) that are not explained; target:
    int64[n], a class or an enrolled person; baseline: modality -> tensor[n or 1, …], what "nothing" looks like (default:
    zeros); batch: rows at a time, `steps` copies of each. Returns modality -> float64 of the inputs' shape; over all
    modalities they sum to forward(inputs) − forward(baseline) for each row. TooCoarse where they miss that by more than
    `tolerance` of the typical difference; MienError without captum.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        raise MienError("integrated gradients need captum; install the extra: pip install 'mien[explain]'") from None
    import torch

    names, n = list(inputs), len(target)
    if wrong := [m for m, x in inputs.items() if not x.is_floating_point() or len(x) != n]:
        raise MienError(f"{wrong[0]} is no float tensor of {n} rows; explain what enters the tower, not indices")
    zero = {m: torch.zeros_like(x) if baseline is None else baseline[m].expand_as(x) for m, x in inputs.items()}
    method, parts, totals, moves = IntegratedGradients(forward), [], [], []
    for start in range(0, n, batch):
        rows = slice(start, start + batch)
        one, none = (tuple(v[m][rows] for m in names) for v in (inputs, zero))
        more, aim = tuple(e[rows] for e in extra), target[rows]
        with torch.enable_grad():
            found = method.attribute(
                one, baselines=none, target=aim, additional_forward_args=more or None, n_steps=steps
            )
        with torch.no_grad():
            at = torch.arange(len(aim))
            moves.append(forward(*one, *more)[at, aim] - forward(*none, *more)[at, aim])
        totals.append(sum(a.flatten(1).sum(1) for a in found))
        parts.append([a.detach().double().cpu().numpy() for a in found])
    total, moved = torch.cat(totals), torch.cat(moves)
    gap, size = float((total - moved).abs().mean()), float(moved.abs().mean())
    if not gap <= tolerance * size + 1e-5:
        raise TooCoarse(
            f"integrated gradients miss the model's change by {gap:.3g} of {size:.3g}; take more steps (now {steps})"
        )
    return {m: np.concatenate([p[i] for p in parts]) for i, m in enumerate(names)}


def recognition(embed: Callable[..., Any], enrolled: Any, temperature: float = 0.1) -> Callable[..., Any]:
    """forward(*inputs) -> float[n, persons]: log-probability of each enrolled person by the cosine of embed(*inputs), float[n,
    d], with `enrolled`, float[persons, d], which must be of *other* recordings than those explained. What it explains is how
    much likelier than anybody else somebody becomes, not what all persons share."""
    import torch.nn.functional as F

    gallery = F.normalize(enrolled, dim=-1)
    return lambda *inputs: F.log_softmax(F.normalize(embed(*inputs), dim=-1) @ gallery.T / temperature, dim=-1)


def randomised(model: Any, seed: int = 0) -> Any:
    """A copy whose weights are permuted within each tensor: same sizes, same values, nothing learnt (Adebayo et al. 2018).

    For leakage permute the enrolled persons too (`permuted`): a random network whose gallery is enrolled anew still
    recognises people, as any random projection does, and then the map of its leakage rightly survives."""
    import copy

    import torch

    other = copy.deepcopy(model)
    with torch.no_grad():
        for i, p in enumerate(other.parameters()):
            p.copy_(permuted(p, seed * 10_007 + i))
    return other


def permuted(tensor: Any, seed: int = 0) -> Any:
    """The tensor with its entries in another order."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    return tensor.flatten()[torch.randperm(tensor.numel(), generator=draw).to(tensor.device)].view_as(tensor)


# --- use beside leakage --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Attributions of one task's predictions (`use`) and of re-identification (`leakage`), of the same windows.

    use, leakage: modality -> float64[n, T, C], signed; channels: modality -> C names; person, recording: str[n]; seconds: of
    a window; task. MienError where the shapes differ.
    """

    task: str
    use: Mapping[str, np.ndarray]
    leakage: Mapping[str, np.ndarray]
    channels: Mapping[str, tuple[str, ...]]
    person: np.ndarray
    recording: np.ndarray
    seconds: float

    def __post_init__(self) -> None:
        for m, a in self.use.items():
            b = self.leakage.get(m, np.zeros(0))
            if a.ndim != 3 or a.shape != b.shape or a.shape[::2] != (len(self.person), len(self.channels[m])):
                raise MienError(
                    f"{m}: attributions of shape {list(a.shape)} and {list(b.shape)} for {len(self.person)} windows and"
                    f" {len(self.channels[m])} channels"
                )

    def shares(self, side: Literal["use", "leakage"], channels: bool = False) -> dict[str, np.ndarray]:
        """Modality (or modality.channel) -> float64[n]: the share of each window's absolute attribution; 0 where a window
        has none at all."""
        found = getattr(self, side)
        if channels:
            size = {
                f"{m}.{c}": np.abs(a[:, :, i]).sum(1) for m, a in found.items() for i, c in enumerate(self.channels[m])
            }
        else:
            size = {m: np.abs(a).sum((1, 2)) for m, a in found.items()}
        total = np.maximum(sum(size.values()), 1e-300)
        return {name: s / total for name, s in size.items()}

    def aggregated(self, side: Literal["use", "leakage"], channels: bool = False) -> dict[str, Interval]:
        """Its mean over windows of each person, then over persons, with its interval over persons."""
        return {name: _mean(*_by_person(self.person, s)) for name, s in self.shares(side, channels).items()}

    def map(self, side: Literal["use", "leakage"], modality: str) -> np.ndarray:
        """float64[T, C]: mean absolute attribution, each person counting once."""
        return _by_person(self.person, np.abs(getattr(self, side)[modality]))[1].mean(0)


def side_by_side(
    task: str,
    forward: Callable[..., Any],
    embed: Callable[..., Any],
    enrolled: Any,
    inputs: Mapping[str, Any],
    target: Any,
    owner: Any,
    *,
    channels: Mapping[str, tuple[str, ...]],
    person: np.ndarray,
    recording: np.ndarray,
    enrolled_recordings: Collection[str],
    seconds: float,
    **options: Any,
) -> Explained:
    """Both explanations of the same windows. forward(*inputs) -> float[n, classes], of whose `target`, int64[n], is asked;
    embed, enrolled: as in `recognition`, owner: int64[n], whose row of `enrolled` is the window's person; inputs: modality ->
    float[n, T, C]; options: of `gradients`. MienError where an explained recording is among `enrolled_recordings`: what finds
    itself shows what a recording is, not who."""
    if both := set(recording.tolist()) & set(enrolled_recordings):
        raise MienError(f"{len(both)} recordings are enrolled and explained; enrol the persons with other ones")
    return Explained(
        task=task, use=gradients(forward, inputs, target, **options),
        leakage=gradients(recognition(embed, enrolled), inputs, owner, **options),
        channels=channels, person=person, recording=recording, seconds=seconds,
    )  # fmt: skip


def rank_correlation(one: Explained, other: Explained, side: Literal["use", "leakage"]) -> float:
    """Spearman's, of the two maps over all modalities, moments and channels; 0 where one of them is flat."""
    from scipy.stats import spearmanr

    a, b = (np.concatenate([e.map(side, m).ravel() for m in one.use]) for e in (one, other))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.asarray(spearmanr(a, b))[0])


def sanity(trained: Explained, random: Sequence[Explained], side: Literal["use", "leakage"]) -> Result:
    """Adebayo et al. (2018, s. 3): a map that survives randomised weights shows the input, not the model. random: the same
    windows explained for models of `randomised` weights, of several seeds. Not passed from a mean rank correlation of .5."""
    if len(random) < 2:
        raise MienError(
            f"{len(random)} randomised model(s); two at least, for one may be like the trained one by chance"
        )
    found = [rank_correlation(trained, r, side) for r in random]
    among = [rank_correlation(a, b, side) for a, b in combinations(random, 2)]
    value = float(np.mean(found))
    passed = value < ALIKE
    said = "destroyed by randomised weights" if passed else "NOT destroyed by randomised weights: it explains the input"
    return Result(
        metric=f"{side} of {trained.task}: rank correlation with randomised weights", value=value, unit="model",
        n_persons=len(set(trained.person)), higher_is_better=False,
        note=f"{said}; {len(found)} randomised models, from {min(found):.2f} to {max(found):.2f}",
        baselines=(Baseline(name="among randomised", value=float(np.mean(among))),),
    )  # fmt: skip


# --- what to do about it -------------------------------------------------------------------------------------------

Remedy = Callable[[Represented], Represented]


def dropped(modality: str) -> Remedy:
    return lambda data: data.only([m for m in data.X if m != modality])


def coarsened(modality: str, step: float) -> Remedy:
    """Columns rounded to steps of `step` standard deviations (of the windows at hand: a study, not a mechanism)."""
    return lambda data: _changed(data, modality, lambda x, sd: np.round(x / (step * sd)) * step * sd)


def noised(modality: str, scale: float, seed: int = 0) -> Remedy:
    """Columns with Gaussian noise of `scale` standard deviations. It lowers leakage as measured; it guarantees nothing."""

    def noise(x: np.ndarray, sd: np.ndarray) -> np.ndarray:
        return x + scale * sd * np.random.default_rng([seed, 0x40]).normal(size=x.shape)

    return lambda data: _changed(data, modality, noise)


def remedies(data: Represented, steps: Sequence[float] = (1.0,), scales: Sequence[float] = (1.0,)) -> dict[str, Remedy]:
    """Dropping, coarsening and noising each modality."""
    out: dict[str, Remedy] = {}
    for m in data.X:
        if len(data.X) > 1:
            out[f"drop {m}"] = dropped(m)
        out |= {f"coarsen {m} to {s:g} sd": coarsened(m, s) for s in steps}
        out |= {f"noise {m} by {s:g} sd": noised(m, s) for s in scales}
    return out


@dataclass(frozen=True, kw_only=True)
class Advice:
    """lost: remedy -> (utility, leakage) lost, means of paired differences over persons, whose intervals hold together
    (Bonferroni); chosen: the recommended remedy or None; sentence: it, with its cost."""

    lost: Mapping[str, tuple[Interval, Interval]]
    chosen: str | None
    sentence: str


def advise(data: Represented, tried: Mapping[str, Remedy], use: Each, leak: Each, bearable: float = 0.05) -> Advice:
    """Each remedy, with probe and attacker learnt anew on what is left; recommended is the one that takes most leakage, if it
    surely takes some and surely costs no more than `bearable` in utility.

    use, leak: as `predicting`; an attacker must be learnt anew from the changed representation, on other persons than those
    recognised. The remedy is chosen among all on the persons it is reported on; so the intervals are widened until all of them hold at
    once at 95 %, and the recommended one's with them.
    """
    if not tried:
        raise MienError("no remedy to try; name some, or take those of remedies(data)")
    alpha = 0.05 / (2 * len(tried))
    before = (use(data), leak(data))
    lost: dict[str, tuple[Interval, Interval]] = {}
    for name, remedy in tried.items():
        changed = remedy(data)
        use_lost, leak_lost = (_lost(b, of(changed), alpha) for b, of in zip(before, (use, leak), strict=True))
        lost[name] = (use_lost, leak_lost)
    fit = {
        n: leakage for n, (utility, leakage) in lost.items()
        if (leakage.low or 0) > 0 and utility.high is not None and utility.high <= bearable
    }  # fmt: skip
    if not fit:
        best = max(lost, key=lambda n: lost[n][1].value - lost[n][0].value)
        return Advice(lost=lost, chosen=None, sentence=(
            f"Nothing can be recommended: no remedy surely lowers re-identification and surely costs no more than"
            f" {bearable:g} in utility. The nearest is: {best}; utility lost {_said(lost[best][0])}, leakage lost"
            f" {_said(lost[best][1])}."
        ))  # fmt: skip
    best = max(fit, key=lambda n: fit[n].value)
    return Advice(lost=lost, chosen=best, sentence=(
        f"Recommended: {best}. It costs {_said(lost[best][0])} of utility and takes {_said(lost[best][1])} of"
        f" re-identification; {len(tried)} remedies were tried, and the intervals hold for all of them together."
    ))  # fmt: skip


def _said(i: Interval) -> str:
    return f"{i.value:.3f}" + (f" ({i.low:.3f} to {i.high:.3f})" if i.low is not None else " (no interval)")


def _lost(before: Mapping[str, float], after: Mapping[str, float], alpha: float) -> Interval:
    both = [p for p in before if p in after]
    if len(both) != len(before):
        raise MienError(
            f"{len(before) - len(both)} persons have no value after a remedy; nothing can be compared in pairs"
        )
    d = np.array([before[p] - after[p] for p in both])
    if np.ptp(d) == 0:  # the same for all: nothing lost by anybody has no spread to make an interval of
        return Interval(value=float(d.mean()), low=None, high=None, n_persons=len(d))
    return over_persons(lambda v: float(v.mean()), np.array(both), d, bounds=None, alpha=alpha)


def _changed(data: Represented, modality: str, of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Represented:
    from dataclasses import replace

    x = data.only([modality]).X[modality]
    known = ~np.isnan(x).all(0)
    sd = np.ones(x.shape[1])
    sd[known] = np.nanstd(x[:, known], 0)
    return replace(data, X={**data.X, modality: of(x, np.where(sd > 0, sd, 1.0))})


def _by_person(person: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    names = np.array(sorted(set(person.tolist())))
    return names, np.array([values[person == p].mean(0) for p in names])


def _mean(person: np.ndarray, values: np.ndarray) -> Interval:
    return over_persons(lambda v: float(v.mean()), person, values, bounds=None)


# --- writing it down -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a run found out. shapley: task -> (use, leakage), per person in the order of `persons`; explained: per task;
    checks: of `sanity`; advice: task -> advice."""

    persons: Sequence[str]
    shapley: Mapping[str, tuple[Shapley, Shapley]] = field(default_factory=dict)
    explained: Sequence[Explained] = ()
    checks: Sequence[Result] = ()
    advice: Mapping[str, Advice] = field(default_factory=dict)

    def released(self, least: int = LEAST) -> list[Result]:
        """Shapley values and checks over `least` persons or more, as a report's measures."""
        out = [c for c in self.checks if c.n_persons >= least]
        for task, sides in self.shapley.items() if len(self.persons) >= least else ():
            for what, s in zip((f"worth to {task}", "worth to recognition"), sides, strict=True):
                out += [
                    Result(
                        metric=f"{m}: {what}", value=i.value, low=i.low, high=i.high, n_persons=i.n_persons, unit="person",
                        note="Shapley value of a stream, learners anew from what is left; they add up to all streams less none",
                        baselines=(
                            Baseline(name="all streams", value=float(s.full.mean())),
                            Baseline(name="none", value=float(s.empty.mean())),
                        ),
                    )
                    for m, i in s.intervals().items()
                ]  # fmt: skip
        return out


def write(found: Findings, private: Path, release: Path, least: int = LEAST) -> list[Result]:
    """`explanations.json` and pictures; returns `found.released(least)`. private: every window's and person's, and maps of
    moments; release: aggregates over `least` persons or more, and nothing about fewer. No guarantee covers what is released.
    MienError where an id would show.
    """
    private, release = Path(private), Path(release)
    own: dict[str, Any] = {"shapley": {}, "shares": {}}
    shown: dict[str, Any] = {
        "note": f"Aggregates over {least} persons or more, computed from recordings; no ε covers them.",
        "shapley": {}, "shares": {}, "advice": {},
        "checks": [c.model_dump(mode="json") for c in found.checks if c.n_persons >= least],
        "withheld": [f"{c.metric}: {c.n_persons} persons" for c in found.checks if c.n_persons < least],
    }  # fmt: skip
    drawings: dict[str, str] = {}
    for i, (task, sides) in enumerate(found.shapley.items()):
        for side, s in zip(("use", "leakage"), sides, strict=True):
            if any(len(v) != len(found.persons) for v in s.phi.values()):
                raise MienError(f"{task}: Shapley values of {len(s.full)} persons, and {len(found.persons)} are named")
            own["shapley"].setdefault(task, {})[side] = {
                m: dict(zip(found.persons, v.tolist(), strict=True)) for m, v in s.phi.items()
            }
        if len(found.persons) < least:
            shown["withheld"].append(f"{task}: {len(found.persons)} persons")
            continue
        use, leakage = (s.intervals() for s in sides)
        shown["shapley"][task] = {"use": _plain(use), "leakage": _plain(leakage), "exact": sides[0].exact}
        drawings[f"use_and_leakage_{i}.svg"] = pictures.use_and_leakage(use, leakage)
    for i, e in enumerate(found.explained):
        arrays = {f"{s}.{m}": a for s in ("use", "leakage") for m, a in getattr(e, s).items()}
        np.savez(
            private / f"attributions_{i}.npz", person=e.person.astype(str), recording=e.recording.astype(str), **arrays
        )
        for m in e.use:
            maps, named = _largest({s: e.map(s, m) for s in ("use", "leakage")}, e.channels[m])
            write_text(private / f"moments_{i}_{m}.svg", pictures.moments(maps, named, e.seconds, m))
        own["shares"][e.task] = {
            s: {
                n: dict(zip(*(v.tolist() for v in _by_person(e.person, x)), strict=True))
                for n, x in e.shares(s).items()
            }
            for s in ("use", "leakage")
        }
        if len(set(e.person)) < least:
            shown["withheld"].append(f"{e.task}: {len(set(e.person))} persons")
            continue
        shown["shares"][e.task] = {
            s: _plain(e.aggregated(s) | e.aggregated(s, channels=True)) for s in ("use", "leakage")
        }
    for task, a in found.advice.items():
        least_seen = min(i.n_persons for pair in a.lost.values() for i in pair)
        if least_seen < least:
            shown["withheld"].append(f"advice on {task}: {least_seen} persons")
            continue
        lost = {n: {"utility": _one(u), "leakage": _one(k)} for n, (u, k) in a.lost.items()}
        shown["advice"][task] = {"chosen": a.chosen, "sentence": a.sentence, "lost": lost}
    text = json.dumps(shown, indent=1, allow_nan=False)
    ids = {
        "person": [*found.persons, *(p for e in found.explained for p in e.person.tolist())],
        "recording": [r for e in found.explained for r in e.recording.tolist()],
    }
    for page in (text, *drawings.values()):
        assert_leak_free(page, ids)
    write_text(private / "explanations.json", json.dumps(own, indent=1, allow_nan=False))
    write_text(release / "explanations.json", text)
    for name, svg in drawings.items():
        write_text(release / name, svg)
    return found.released(least)


def _largest(
    maps: Mapping[str, np.ndarray], channels: tuple[str, ...], most: int = 24
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The channels with the most of either side, as many as a picture can name, in their order."""
    share = sum(m.sum(0) / max(float(m.sum()), 1e-300) for m in maps.values())
    keep = np.sort(np.argsort(-np.asarray(share), kind="stable")[:most])
    return {s: m[:, keep] for s, m in maps.items()}, [channels[int(i)] for i in keep]


def _plain(found: Mapping[str, Interval]) -> dict[str, dict[str, Any]]:
    return {n: _one(i) for n, i in found.items()}


def _one(i: Interval) -> dict[str, Any]:
    return {"value": i.value, "low": i.low, "high": i.high, "n_persons": i.n_persons}
