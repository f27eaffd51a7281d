"""PRDC: are synthetic windows like real ones (precision, density), and are all real ones like some synthetic (recall,
coverage)?

Kynkäänniemi et al. 2019 (arXiv 1904.06991, section 3) and Naeem et al. 2020 (arXiv 2002.09797, section 3), on window statistics
standardised by the real training windows. Its control asks the same of real windows of held-out persons. Coverage is also
told person by person: its lowest tenth, and of persons whose attribute `outlier` is true, beside the others. A generator that
speaks for the majority only has a high mean there and a low tenth. For that every window has the median radius: with its own,
a lonely window reaches so far that any ordinary one covers it.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.intervals import over_persons
from ...core.results import Baseline, Result
from ..protocols import Inputs
from ..vitals import distances, on_one_scale, some

HIGHER_IS_BETTER = True


class Config(Section):
    """k: the neighbour whose distance is a window's radius; most: windows per side at most; seed."""

    k: int = Field(default=5, ge=1)
    most: int = Field(default=1000, ge=20)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    t = inputs.tables
    rows = [t.train.rows(some(len(t.train), config.most, config.seed)), t.synthetic, t.test]
    rows[1:] = [x.rows(some(len(x), config.most, config.seed)) for x in rows[1:]]
    # radii grow where windows are fewer, so both comparisons take equally many
    n = min(len(rows[1]), len(rows[2]))
    if n <= config.k or len(rows[0]) <= config.k:
        return [
            Result(metric="coverage", value=None, unit="window", note=f"not measured: {n} windows for k = {config.k}")
        ]
    real, made, other = on_one_scale(*rows)
    made, other = made[some(len(made), n, 1)], other[some(len(other), n, 1)]
    found, control = prdc(real, made, config.k), prdc(real, other, config.k)
    results = []
    for name in ("precision", "recall", "density"):
        results.append(
            Result(
                metric=name, value=float(found[name].mean()), unit="window", note="one release, so no interval over persons",
                baselines=(Baseline(name="real vs real persons", value=float(control[name].mean())),),
            )
        )  # fmt: skip
    person = rows[0].person
    over = over_persons(lambda c: float(c.mean()), person, found["coverage"])
    also = over_persons(lambda c: float(c.mean()), person, control["coverage"])
    results.append(
        Result(
            metric="coverage", value=over.value, low=over.low, high=over.high, n_persons=over.n_persons, unit="window",
            note="share of training windows with a synthetic one within their radius; interval over their persons",
            baselines=(Baseline(name="real vs real persons", value=also.value, low=also.low, high=also.high),),
        )
    )  # fmt: skip
    results += _by_person(person, found["near"], control["near"], inputs.outliers)
    return results


def _by_person(person: np.ndarray, found: np.ndarray, control: np.ndarray, outliers: frozenset[str]) -> list[Result]:
    """Aggregates of the persons' own coverages (at the median radius); never a single person's."""
    names = sorted(set(person))
    share = {s: np.array([c[person == p].mean() for p in names]) for s, c in (("found", found), ("control", control))}
    if len(names) < 20:
        return []
    tenth = max(1, len(names) // 10)
    lowest = {s: float(np.sort(v)[:tenth].mean()) for s, v in share.items()}
    out = [
        Result(
            metric="coverage of the least covered tenth of persons", value=lowest["found"], unit="person",
            n_persons=len(names), note="whom the synthetic recordings do not speak for",
            baselines=(Baseline(name="real vs real persons", value=lowest["control"]),),
        )
    ]  # fmt: skip
    mine = np.array([p in outliers for p in names])
    if 2 <= mine.sum() < len(names):
        rest = float(share["found"][~mine].mean())
        out.append(
            Result(
                metric="coverage of planted outliers", value=float(share["found"][mine].mean()), unit="person",
                n_persons=int(mine.sum()), note="erased when far below the others; whether exposed too, the attacks say",
                baselines=(
                    Baseline(name="the other persons", value=rest),
                    Baseline(name="real vs real persons", value=float(share["control"][mine].mean())),
                ),
            )
        )  # fmt: skip
    return out


def prdc(real: np.ndarray, made: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Per made window precision and density, per real window recall and coverage: float64 each, whose means are the four
    numbers; near: coverage at the median radius. real: float64[n, d]; made: float64[m, d]."""
    own, theirs, between = distances(real, real), distances(made, made), distances(real, made)
    radius = np.sort(own, axis=1)[:, k]  # the 0th is the window itself
    reach = np.sort(theirs, axis=1)[:, min(k, len(made) - 1)]
    inside = between < radius[:, None]
    return {
        "precision": inside.any(0).astype(float),
        "density": inside.sum(0) / k,
        "recall": (between < reach[None]).any(1).astype(float),
        "coverage": inside.any(1).astype(float),
        "near": (between < np.median(radius)).any(1).astype(float),
    }
