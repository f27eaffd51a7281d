"""Dataset inference: was this set of persons in the training data, taken together?

Maini et al. 2024 (arXiv 2406.06443): many weak signals are weighted on one half of the persons, and the weighted sum is
compared between suspects and strangers on the other half by a one-sided Welch test. Its p is valid where suspects and
strangers were drawn alike, which is so when membership was randomised; elsewhere it measures how they differ.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field
from scipy import stats
from sklearn.linear_model import Ridge

from ...core.config import Section
from ...core.errors import MienError
from ...core.results import Baseline, Result
from ..shadowed import by_person
from ..signals import Signals

NEEDS = ("loss", "loss_base")


class Config(Section):
    """halvings: the persons are halved so often, each half is judged once, and the p values are combined; ridge: of
    the weights; seed: of the halvings."""

    halvings: int = Field(default=5, ge=1)
    ridge: float = Field(default=1.0, gt=0)
    seed: int = 0


def run(signals: Signals, config: Config) -> list[Result]:
    """One result: the combined p value. MienError with fewer than four persons on a side."""
    signals.needs(NEEDS)
    columns = [signals.loss, signals.loss_base - signals.loss, signals.loss / np.maximum(signals.loss_base, 1e-9)]  # type: ignore[operator]
    columns += [signals.slope] if signals.slope is not None else []
    columns += list(signals.segments.T) if signals.segments is not None else []
    features = np.stack([by_person(signals, np.asarray(c))[0] for c in columns], axis=1)
    first = np.unique(signals.person, return_index=True)[1]
    member = signals.member[first]
    if min(member.sum(), (~member).sum()) < 4:
        raise MienError(
            f"dataset inference halves {int(member.sum())} members and {int((~member).sum())} strangers: four each at least"
        )
    rng = np.random.default_rng([config.seed, 0xD5])
    found = []
    for _ in range(config.halvings):
        half = np.zeros(len(member), bool)
        for side in (member, ~member):
            at = np.flatnonzero(side)
            half[rng.permutation(at)[: len(at) // 2]] = True
        pair = [welch(*_split(features, member, fit, config.ridge)) for fit in (half, ~half)]
        found.append(pair)
    p = twice_the_median(np.ravel(found))
    return [
        Result(
            metric="dataset_inference.p", value=p, n_persons=len(member), unit="person", higher_is_better=True,
            baselines=(Baseline(name="chance", value=0.5),),
            note=f"one-sided, twice the median over {2 * config.halvings} halves; small: the set as a whole was used",
        )
    ]  # fmt: skip


def _split(features: np.ndarray, member: np.ndarray, fit: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    mean, sd = features[fit].mean(0), features[fit].std(0) + 1e-12
    z = (features - mean) / sd
    score = Ridge(alpha=ridge * fit.sum() / 10).fit(z[fit], member[fit].astype(float)).predict(z[~fit])
    return score[member[~fit]], score[~member[~fit]]


def welch(suspect: np.ndarray, stranger: np.ndarray) -> float:
    """One-sided p that the suspects' mean is not above the strangers' (Welch's unequal-variance t)."""
    if np.ptp(np.r_[suspect, stranger]) == 0:
        return 1.0
    return float(stats.ttest_ind(suspect, stranger, equal_var=False, alternative="greater").pvalue)


def stouffer(p: np.ndarray) -> float:
    """One p from independent ones: sum of z over sqrt(n) (Stouffer 1949)."""
    z = stats.norm.isf(np.clip(np.asarray(p, dtype=np.float64), 1e-300, 1 - 1e-16))
    return float(stats.norm.sf(z.sum() / np.sqrt(len(z))))


def twice_the_median(p: np.ndarray) -> float:
    """One p from dependent ones: min(1, 2 median) is valid whatever their dependence (Meinshausen et al. 2009)."""
    return float(min(1.0, 2 * np.median(p)))
