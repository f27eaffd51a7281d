"""Usage fraction: what share of a set of persons was in the training data?

Tong et al. 2025 (DUCI, as in privacy_meter): calling a person a member at a fixed threshold errs at rates the shadow
models reveal, each shadow being judged by the others; the share of persons called members is corrected for them,
(share - FPR) / (TPR - FPR).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import over_persons
from ...core.results import Baseline, Result
from .. import likelihood
from ..shadowed import Shadowed, by_person, phi
from ..signals import Signals

NEEDS = ("loss", "shadow_loss", "shadow_in")


class Config(Section):
    """shape: as in BaVarIA."""

    shape: float = Field(default=4.0, gt=1)


def run(signals: Signals, config: Config) -> list[Result]:
    """Two results: the estimated share among the members (truth 1) and among the held-out persons (truth 0)."""
    signals.needs(NEEDS)
    own, shadow, inside = phi(signals, Shadowed())
    first = np.unique(signals.person, return_index=True)[1]
    mine, theirs, inside = by_person(signals, own)[0], by_person(signals, shadow)[0], inside[:, first]
    k = len(theirs)
    if k < 3:
        raise MienError(f"usage fraction judges each shadow by the others and needs three at least, got {k}")
    called = likelihood.bavaria(mine, theirs, inside, config.shape) > 0
    each = np.stack([
        likelihood.bavaria(theirs[i], np.delete(theirs, i, 0), np.delete(inside, i, 0), config.shape) > 0 for i in range(k)
    ])  # fmt: skip
    tpr, fpr = float(each[inside].mean()), float(each[~inside].mean())
    if tpr - fpr < 0.05:
        raise MienError(
            f"members and others are called members equally often (TPR {tpr:.2f}, FPR {fpr:.2f} over the shadows): no share"
            " can be read from that"
        )
    member = signals.member[first]
    people = signals.person[first]
    results = []
    for name, rows, truth in (("members", member, 1.0), ("held-out persons", ~member, 0.0)):
        rate = over_persons(np.mean, people[rows], called[rows].astype(np.float64))
        value, low, high = (
            (v - fpr) / (tpr - fpr) if v is not None else None for v in (rate.value, rate.low, rate.high)
        )
        results.append(
            Result(
                metric=f"usage_fraction.{name}", value=value, low=low, high=high, n_persons=int(rows.sum()), unit="person",
                higher_is_better=False, baselines=(Baseline(name="truth", value=truth),),
                note=f"called a member: TPR {tpr:.2f}, FPR {fpr:.2f} over {k} shadows",
            )
        )  # fmt: skip
    return results
