"""What an attack on a synthetic release sees: the released windows and the attacker's own data. No model in sight.

The attacker holds real windows of the candidates (whose membership is in question) and of other persons (the
reference), and sometimes releases that they made themselves by the same recipe from persons they chose (shadows).
Nothing is fitted on the candidates: scales come from the reference, or from the release where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from ..core.errors import MienError
from ..core.intervals import Interval, over_persons
from ..core.results import Baseline, Result
from ..core.scores import Unit
from ..data.features import WindowTable
from .judge import judge
from .signals import Signals, pool

_FAR = 10.0  # standard deviations; beyond it a value is as odd as it gets, and one column would rule a distance


@dataclass(frozen=True, kw_only=True)
class Release:
    """A synthetic release and what its attacker knows.

    synthetic: the released windows; candidates: real windows of members and held-out persons; member: whether each
    candidate took part in training; reference: real windows of other persons; synthetic_tokens, candidate_tokens,
    reference_tokens: token ids of the same windows, int[length] each; shadows: (released windows or their token ids,
    the persons the release was made from) for releases made by the same recipe from other memberships.

    Raises MienError where the reference shares a person with the candidates (DOMIAS with overlapping sets measures
    how they were cut), where the release holds real recordings, where a shadow has the membership that is to be found
    out, and on missing classes, infinite values, or tables and tokens that do not fit.
    """

    synthetic: WindowTable
    candidates: WindowTable
    member: Mapping[str, bool]
    reference: WindowTable | None = None
    synthetic_tokens: Sequence[np.ndarray] | None = None
    candidate_tokens: Sequence[np.ndarray] | None = None
    reference_tokens: Sequence[np.ndarray] | None = None
    shadows: Sequence[tuple[WindowTable | Sequence[np.ndarray], frozenset[str]]] | None = None

    def __post_init__(self) -> None:
        for name in ("synthetic", "candidates", "reference"):
            table, tokens = getattr(self, name), getattr(self, f"{name.removesuffix('s')}_tokens")
            if table is not None:
                _check_table(name, table, self.synthetic.X.shape[-1])
            if tokens is not None:
                if table is None:
                    raise MienError("tokens of a reference without its windows: nothing says whose they are; give both")
                _check_tokens(name, tokens, len(table))
        persons = set(self.candidates.person)
        if unknown := persons - set(self.member):
            raise MienError(
                f"{len(unknown)} of {len(persons)} candidates have no membership; take it from the run's split"
            )
        if not all(isinstance(self.member[p], bool | np.bool_) for p in persons):
            raise MienError("membership is true or false for each person")
        n_in = sum(self.member[p] for p in persons)
        if not 0 < n_in < len(persons):
            raise MienError(
                f"{n_in} members and {len(persons) - n_in} held-out persons among the candidates; give windows of both"
            )
        real = set(self.candidates.recording)
        if self.reference is not None:
            shared = set(self.reference.person) & (persons | set(self.member))
            if shared or set(self.reference.recording) & real:
                raise MienError(
                    f"the reference shares {len(shared)} persons with the candidates, or recordings; an attacker who is"
                    " calibrated on the persons in question measures the cut: use other persons"
                )
            real |= set(self.reference.recording)
        if both := set(self.synthetic.recording) & real:
            raise MienError(
                f"the release holds {len(both)} real recordings of its attacker; give the synthetic ones alone"
            )
        for k, (made, inside) in enumerate(self.shadows or ()):
            if isinstance(made, WindowTable):
                _check_table(f"shadow {k}", made, self.synthetic.X.shape[1])
            else:
                _check_tokens(f"shadow {k}", made, len(made))
            if all((p in inside) == self.member[p] for p in persons):
                raise MienError(
                    f"shadow {k} was made from the members in question, which no attacker knows; leave it out"
                )

    def needs(self, names: Sequence[str]) -> None:
        """MienError when an attack's NEEDS are not here."""
        for name in names:
            value = getattr(self, name)
            if value is None or len(value) == 0:
                raise MienError(f"this attack needs {name!r}, which this release lacks")

    def signals(self) -> Signals:
        """The candidates' windows as signals without losses, for pooling."""
        t = self.candidates
        length = [1] * len(t) if self.candidate_tokens is None else [len(v) for v in self.candidate_tokens]
        member = np.array([bool(self.member[p]) for p in t.person])
        return Signals(
            recording=t.recording, person=t.person, member=member, label=t.label, n_tokens=np.array(length),
            made_with="release",
        )  # fmt: skip

    def scale(self, columns: Sequence[int] | None = None) -> Callable[[np.ndarray], np.ndarray]:
        """A function X float[n, d] -> float64[n, d'] of standardised columns (some or all of them) without NaN.

        Mean and sd are the reference's (the release's where there is none); columns that are empty in the release,
        the reference or the candidates are dropped; a missing value becomes the mean, 0; values end at ±10 sd.
        """
        base = self.synthetic if self.reference is None else self.reference
        kept = ~np.any([np.isnan(t.X).all(0) for t in (base, self.synthetic, self.candidates)], axis=0)
        if columns is not None:
            kept &= np.isin(np.arange(len(kept)), columns)
        if not kept.any():
            raise MienError("no statistic is present in the release, the candidates and the reference; check streams")
        mean, sd = np.nanmean(base.X[:, kept], axis=0), np.nanstd(base.X[:, kept], axis=0)
        sd = np.where(sd > 1e-12 * (1 + np.abs(mean)), sd, np.inf)  # a constant column says nothing: it becomes zero

        def ready(X: np.ndarray) -> np.ndarray:
            z = (np.asarray(X, dtype=np.float64)[:, kept] - mean) / sd
            return np.clip(np.where(np.isnan(z), 0.0, z), -_FAR, _FAR)

        return ready


def neighbours(x: np.ndarray, points: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(distances float64[n, k], rows int[n, k]) of the k nearest of points float[m, d] to each of x float[n, d]."""
    if len(points) < k:
        raise MienError(f"{len(points)} windows to search for {k} neighbours; give more windows or ask for fewer")
    rows = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors(x, return_distance=False)
    # the search subtracts squares of large numbers; the distances of what it found are taken again, exactly
    return np.stack([np.linalg.norm(x - points[rows[:, j]], axis=1) for j in range(k)], axis=1), rows


def judged(
    release: Release,
    values: np.ndarray,
    attack: str,
    blind: Interval | None,
    units: Sequence[Unit] = ("recording", "person"),
) -> list[Result]:
    """`judge` of one value per candidate window, larger = member, pooled to each unit."""
    signals = release.signals()
    return [r for u in units for r in judge(pool(signals, values, u, attack=attack), blind=blind)]


def unfair(blind: Interval | None) -> str:
    """Why nothing can be compared with held-out persons, or "": the blind attack tells them from members."""
    if blind is None or not blind.excludes(0.5):
        return ""
    return f"withheld: the blind attack has AUC {blind.value:.2f}, so held-out persons differ and are no control"


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """(centre, half width) of Wilson's interval of a proportion (Wilson 1927), for n *independent* trials."""
    if not 0 <= successes <= n or n == 0:
        raise MienError(f"a proportion needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    z = float(stats.norm.ppf((1 + confidence) / 2))
    p, grown = successes / n, n + z**2
    return (successes + z**2 / 2) / grown, z / grown * float(np.sqrt(n * p * (1 - p) + z**2 / 4))


def risk(attack: float, control: float) -> float | None:
    """(r_a - r_c) / (1 - r_c): what the attack gains on members, of what there was left to gain (arXiv 2211.10459).

    None where the control is always right: then nothing is left, and the risk cannot be measured.
    """
    return None if control >= 1 else (attack - control) / (1 - control)


def risk_limits(attack: Interval, control: Interval) -> tuple[float | None, float | None]:
    """Limits of `risk` from those of two independent rates, by variance recovery (Donner & Zou 2012, eq. 9).

    1 - risk is the ratio of the failure rates a = 1 - r_a and c = 1 - r_c. Its limits R solve (a - R c)² =
    (a - a')² + R² (c - c')², a' and c' being the limits of a and c on the sides that matter. (None, None) where a
    rate has no interval, or the control may always succeed.

    With rates over 5 to 30 persons of 10 windows (beta-distributed, concentration 5; eight pairs of rates, 600 draws
    each), nominal 95 % intervals covered 93 to 100 %, and the lower limit lay above the truth in 0 to 3 %.
    """
    if attack.low is None or attack.high is None or control.low is None or control.high is None:
        return None, None
    a, a_low, a_high = 1 - attack.value, 1 - attack.high, 1 - attack.low
    c, c_low, c_high = 1 - control.value, 1 - control.high, 1 - control.low
    if c_low <= 0:
        return None, None
    low, high = a_low * (2 * a - a_low), a_high * (2 * a - a_high)
    least = low / (a * c + math.sqrt(max(0.0, (a * c) ** 2 - low * c_high * (2 * c - c_high)))) if low > 0 else 0.0
    most = (a * c + math.sqrt(max(0.0, (a * c) ** 2 - high * c_low * (2 * c - c_low)))) / (c_low * (2 * c - c_low))
    return 1 - most, 1 - least


def compare(
    name: str,
    statistic: Callable[[np.ndarray], float],
    inside: np.ndarray,
    outside: np.ndarray,
    *,
    naive: float,
    trials: tuple[np.ndarray, np.ndarray],
    blind: Interval | None,
    baselines: Sequence[Baseline] = (),
) -> list[Result]:
    """Risk, attack rate and control rate: the same attack on members and on held-out persons.

    inside, outside: one row per member / held-out person; statistic(rows) in [0, 1] is the success rate on them;
    naive: the rate of guessing on members; trials: every single success (1) and failure (0) on members and on held-out
    persons, for Wilson's interval in the note only; baselines: more to read the attack rate beside.

    Intervals leave out whole persons (`over_persons`); the risk's is made of the two rates' (`risk_limits`). The risk
    is withheld where the blind attack finds the split unfair (held-out persons of another kind are no control), where
    the control always succeeds, and where the attack does no better than naive: a failed attack shows no privacy.
    """
    ids = [np.arange(len(rows)) for rows in (inside, outside)]
    attack, control = (over_persons(statistic, i, r) for i, r in zip(ids, (inside, outside), strict=True))
    value, why = risk(attack.value, control.value), unfair(blind)
    low, high = risk_limits(attack, control)
    if not why and value is None:
        why = "not measurable: the attack always succeeds on held-out persons too, so members have nothing more to lose"
    elif not why and attack.value <= naive:
        why = f"withheld: right on {attack.value:.3f} of members, and guessing on {naive:.3f}; use a stronger attack"
    (a, half_a), (c, half_c) = (wilson(float(t.sum()), len(t)) for t in trials)
    note = f"{len(inside)} + {len(outside)} persons"
    note += "" if low is not None else "; too few persons, or a control too near 1, for an interval"
    note += "; no blind attack was run on this split" if blind is None else ""
    note += (
        f"; as if trials were independent (Wilson): attack {a:.3f} ± {half_a:.3f}, control {c:.3f} ± {half_c:.3f},"
        f" risk {risk(a, c):.3f}"
    )
    hidden = bool(why) or low is None or high is None

    def rate(which: str, found: Interval, beside: Sequence[Baseline], why: str) -> Result:
        return Result(
            metric=f"{name}.{which}", value=found.value, low=found.low, high=found.high, n_persons=found.n_persons,
            higher_is_better=False, baselines=tuple(beside), note=why,
        )  # fmt: skip

    beside = Baseline(name="control", value=control.value, low=control.low, high=control.high)
    guess = Baseline(name="naive", value=naive)
    return [
        Result(
            metric=f"{name}.risk", value=None if why else value, low=None if hidden else low,
            high=None if hidden else high, n_persons=len(inside) + len(outside), higher_is_better=False,
            baselines=(Baseline(name="no excess", value=0.0),), note=why or note,
        ),
        rate("attack_rate", attack, (beside, guess, *baselines), "success on members; read beside the control"),
        rate("control_rate", control, (guess,), "the same attack on held-out persons: what the population gives away"),
    ]  # fmt: skip


def _check_table(name: str, table: WindowTable, columns: int) -> None:
    if len(table) == 0 or table.X.ndim != 2 or table.X.shape[1] != columns:
        raise MienError(f"{name}: windows {list(table.X.shape)}, and the release has {columns} columns; cut them alike")
    if any(len(v) != len(table) for v in (table.label, table.person, table.recording)):
        raise MienError(f"{name}: {len(table)} windows and not as many labels, persons and recordings")
    if np.isinf(table.X).any():
        raise MienError(f"{name}: infinite window statistics; mark what is missing with NaN")


def _check_tokens(name: str, tokens: Sequence[np.ndarray], n: int) -> None:
    if len(tokens) != n or n == 0:
        raise MienError(f"{name}: {len(tokens)} token sequences for {n} windows; give one for each")
    bad = sum(np.ndim(t) != 1 or len(t) == 0 or not np.issubdtype(np.asarray(t).dtype, np.integer) for t in tokens)
    if bad:
        raise MienError(f"{name}: {bad} of {n} token sequences are empty or not whole numbers in a row")


def served(release: Release, neighbours_of: int = 5) -> dict[str, tuple[float, float]]:
    """Person -> (coverage, accuracy): how well the release serves each candidate, to stand beside their exposure.

    coverage: share of their windows that have a synthetic window nearer than their 5th nearest window of any candidate
    (PRDC, arXiv 2002.09797, per person); accuracy: a forest learned on the release names the label of so many of them.
    Private: it names people.
    """
    from sklearn.ensemble import RandomForestClassifier

    scale, c = release.scale(), release.candidates
    real, made = scale(c.X), scale(release.synthetic.X)
    k = min(neighbours_of, len(real) - 1)
    radius = neighbours(real, real, k + 1)[0][:, -1]
    covered = neighbours(real, made)[0][:, 0] <= radius
    model = RandomForestClassifier(n_estimators=100, random_state=0, n_jobs=1).fit(
        made, release.synthetic.label.astype(str)
    )
    right = model.predict(real) == c.label.astype(str)
    people, who = np.unique(c.person.astype(str), return_inverse=True)
    n = np.bincount(who)
    shares = zip(np.bincount(who, covered) / n, np.bincount(who, right) / n, strict=True)
    return {p: (float(a), float(b)) for p, (a, b) in zip(people, shares, strict=True)}
