"""PRDC: are synthetic windows like real ones (precision, density), and are all real ones like some synthetic (recall,
coverage)?

Kynkäänniemi et al. 2019 (arXiv 1904.06991, section 3) and Naeem et al. 2020 (arXiv 2002.09797, section 3), on window statistics
standardised by the real training windows. Its control asks the same of real windows of held-out persons, and again of those
windows written as tokens and read back: the most that a model of these tokens can reach. Which statistics no decoded window
can have right is told by name. Coverage is also
told person by person: its lowest tenth, and of persons whose attribute `outlier` is true, beside the others. A generator that
speaks for the majority only has a high mean there and a low tenth. For that every window has the median radius: with its own,
a lonely window reaches so far that any ordinary one covers it. Recall may rise when synthetic windows are copies of one
another, for the radii of the others grow: coverage does not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.intervals import over_persons
from ...core.results import Baseline, Result
from ...data import features
from ...data.features import WindowTable
from ...data.vitals import roles, table
from ..comparisons import REAL, baseline, distances, ks, not_measured, numbers, on_one_scale, some, tables
from ..protocols import Inputs

HIGHER_IS_BETTER = True
CODEC = "codec vs real persons"
_FAR = 0.5  # two distributions of one statistic that differ so much (Kolmogorov–Smirnov) hardly meet


class Config(Section):
    """k: the neighbour whose distance is a window's radius; most: windows per side at most; seed."""

    k: int = Field(default=5, ge=1)
    most: int = Field(default=1000, ge=20)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    """On window statistics, and again on vital signs alone where there are any: a codec that drops a sensor's noise fails the
    former by that alone."""
    out = _on(inputs, config) + _out_of_reach(inputs)
    if where := roles(inputs.windows.card):
        t, w = inputs.tables, inputs.windows
        names = ("train", "test", "synthetic", *(("codec_test",) if w.codec_test else ()))
        sides = {"codec_test": None} | {k: replace(getattr(t, k), X=table(getattr(w, k), where)) for k in names}
        signs = _on(replace(inputs, tables=replace(t, **sides)), config)
        out += [r.model_copy(update={"metric": f"{r.metric} (vital signs)"}) for r in signs if r.value is not None]
    return out


def _on(inputs: Inputs, config: Config) -> list[Result]:
    train, test, made = tables(inputs, config.most, config.seed)
    # radii grow where windows are fewer, so both comparisons take equally many
    n = min(len(made), len(test))
    if n <= config.k or len(train) <= config.k:
        return [not_measured("coverage", f"{min(n, len(train))} windows for k = {config.k}", higher_is_better=True)]
    real, fake, other = on_one_scale(train, made, test)
    if not real.shape[1]:
        return [not_measured("coverage", "no statistic varies among the training windows", higher_is_better=True)]
    fake, other = fake[some(len(fake), n, 1)], other[some(len(other), n, 1)]
    found, control = prdc(real, fake, config.k), prdc(real, other, config.k)
    coded = _coded(inputs, train, n, config)
    of_real = {"coverage": "with a synthetic one within their radius", "recall": "within reach of a synthetic one"}
    results = []
    for name, what in of_real.items():
        over, also, most = (
            None if x is None else over_persons(lambda c: float(c.mean()), train.person, x[name])
            for x in (found, control, coded)
        )
        assert over is not None
        results.append(
            Result(
                metric=name, **numbers(over), unit="window", note=f"share of training windows {what}; over their persons",
                baselines=(baseline(REAL, also), *(() if most is None else (baseline(CODEC, most),))),
            )
        )  # fmt: skip
    for name in ("precision", "density"):
        results.append(
            Result(
                metric=name, value=float(found[name].mean()), unit="window", note="one release, so no interval over persons",
                baselines=(
                    Baseline(name=REAL, value=float(control[name].mean())),
                    *(() if coded is None else (Baseline(name=CODEC, value=float(coded[name].mean())),)),
                ),
            )
        )  # fmt: skip
    shares = {"found": found["near"], "control": control["near"], "own": found["own"]}
    return results + _by_person(train.person, shares, inputs.outliers)


def _coded(inputs: Inputs, train: WindowTable, n: int, config: Config) -> dict[str, np.ndarray] | None:
    """`prdc` of at most n held-out windows through the codec, those that it could write; None where there are none."""
    table = inputs.tables.codec_test
    if table is None:
        return None
    kept = table.rows(np.flatnonzero((~np.isnan(table.X)).sum(axis=1)))
    if len(kept) <= config.k:
        return None
    real, coded = on_one_scale(train, kept.rows(some(len(kept), n, 1)))
    return prdc(real, coded, config.k)


def _out_of_reach(inputs: Inputs) -> list[Result]:
    """How many window statistics the codec cannot give back: of held-out windows before and after it."""
    t = inputs.tables
    if t.codec_test is None:
        return []
    columns = features.names(inputs.windows.card)
    far = {c: ks(t.test.X[:, i], t.codec_test.X[:, i]) for i, c in enumerate(columns)}
    told = sorted((c for c, v in far.items() if v >= _FAR), key=lambda c: -far[c])
    return [
        Result(
            metric="statistics out of the codec's reach", value=float(len(told)), unit="statistic", higher_is_better=False,
            note=f"of {len(columns)}, KS of held-out windows before and after it at least {_FAR:g}"
            + (": " + ", ".join(f"{c} {far[c]:.2f}" for c in told[:12]) if told else ""),
        )
    ]  # fmt: skip


def _by_person(person: np.ndarray, covered: dict[str, np.ndarray], outliers: frozenset[str]) -> list[Result]:
    """Aggregates of the persons' own coverages (at the median radius); never a single person's."""
    names = sorted(set(person))
    share = {s: np.array([c[person == p].mean() for p in names]) for s, c in covered.items()}
    least = "coverage of the least covered tenth of persons"
    if len(names) < 20:  # a tenth of fewer is one person
        return [not_measured(least, f"a tenth of {len(names)} persons is one of them", higher_is_better=True)]
    tenth = len(names) // 10
    lowest = {s: float(np.sort(v)[:tenth].mean()) for s, v in share.items()}
    out = [
        Result(
            metric=least, value=lowest["found"], unit="person", n_persons=len(names),
            note="whom the synthetic recordings do not speak for", baselines=(Baseline(name=REAL, value=lowest["control"]),),
        )
    ]  # fmt: skip
    mine = np.array([p in outliers for p in names])
    if outliers and not 2 <= mine.sum() < len(names):
        why = f"{mine.sum()} of {len(names)} training persons are marked as outliers"
        out.append(not_measured("coverage of planted outliers", why, higher_is_better=True))
    elif outliers:
        of = {s: (float(v[mine].mean()), float(v[~mine].mean())) for s, v in share.items()}
        out.append(
            Result(
                metric="coverage of planted outliers", value=of["found"][0], unit="person", n_persons=int(mine.sum()),
                note="near what held-out persons cover of them: erased, as any other people would leave them; near what their"
                " own windows do: kept, and so exposed (how much, the attacks say)",
                baselines=(
                    Baseline(name="the other persons", value=of["found"][1]),
                    Baseline(name=f"{REAL}, outliers", value=of["control"][0]),
                    Baseline(name="by other training windows, outliers", value=of["own"][0]),
                ),
            )
        )  # fmt: skip
    return out


def prdc(real: np.ndarray, made: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Per made window precision and density, per real window recall and coverage: float64 each, whose means are the four
    numbers; near: coverage at the median radius; own: the same by the other real windows, themselves left out. real: float64[n,
    d]; made: float64[m, d]."""
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
        "own": ((own < np.median(radius)).sum(1) > 1).astype(float),
    }
