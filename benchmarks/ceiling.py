"""What codecs leave to be learnt: real windows written as tokens and read back, judged as if a model had made them.

python benchmarks/ceiling.py                                              (a minute)
python benchmarks/ceiling.py recipes/simulated_life/pretrain.yaml --persons 40

No model is asked. Two groups of simulated persons who are in no study (other seeds): windows of the second, through the codecs
of a pretraining recipe, against those of the first, beside the same windows as they were. Coverage and precision are PRDC's
(k = 5), of all window statistics, stream by stream, of vital signs; a statistic is named where its distribution before and after
the codec differs by a KS of at least .3. TSTR is the macro-F1 of a forest that is trained on the second group and tested on the first.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mien.core import config, console
from mien.core.config import Plugin
from mien.core.records import CohortCard, Stream, cut, recording_windows
from mien.data import features, vitals
from mien.data.load import open_cohort
from mien.evaluation.comparisons import ks, on_one_scale
from mien.evaluation.fidelity.prdc import prdc
from mien.evaluation.utility.tstr import macro_f1
from mien.generation.layout import Layout

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "simulated" / "pretrain.yaml"
SEEDS = (7000, 7001)
FAR = 0.3


Rows = list[tuple[dict[str, Stream], str]]


def windows(recipe: dict[str, Any], persons: int, seed: int) -> tuple[CohortCard, Rows]:
    """Windows of a simulated cohort with their labels."""
    section = Plugin(**recipe["cohort"] | {"persons": persons, "seed": seed})
    cohort, found = open_cohort(section, "evaluation")[0], []
    for r in cohort:
        for w in recording_windows(r, recipe["seconds"], recipe["stride_s"]):
            streams, why = cut(r, w)
            if not why:
                found.append((dict(streams), str(r.labels[recipe["task"]])))
    return cohort.card, found


def forest(X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, random_state=0, n_jobs=1).fit(X, y).predict(new)


def row(name: str, y: tuple[np.ndarray, ...], X: tuple[np.ndarray, ...]) -> str:
    """One line of the table. X: float64[n, d] of the first group, of the second, and of the second through the codecs; what one
    of the three does not have at all is left out."""
    known = np.flatnonzero(np.min([(~np.isnan(x)).sum(0) for x in X], axis=0))
    first, second, coded = (x[:, known] for x in X)
    kept = np.flatnonzero((~np.isnan(coded)).sum(1))
    real, other, back = on_one_scale(*(SimpleNamespace(X=x) for x in (first, second[kept], coded[kept])))  # type: ignore[arg-type]
    cells = []
    for key in ("coverage", "precision"):
        cells += [f"{prdc(real, x, 5)[key].mean():.3f}" for x in (other, back)]
    cells += [f"{macro_f1(y[0], forest(x[kept], y[1][kept], first)):.3f}" for x in (second, coded)]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default=str(RECIPE))
    parser.add_argument("--persons", type=int, default=100)
    args = parser.parse_args()
    console.quiet()
    recipe = config.read(args.recipe)
    (card, first), (_, second) = (windows(recipe, args.persons, seed) for seed in SEEDS)
    codecs = [Plugin(**c) for c in recipe["codecs"]]
    card = features.only(card, recipe.get("streams") or [s for c in recipe["codecs"] for s in c["streams"]])
    layout = Layout.of(
        card, seconds=recipe["seconds"], task=recipe["task"], codec=Plugin(name="transform"), codecs=codecs,
        streams=list(card.streams),
    )  # fmt: skip
    one, two = ([{n: w[n] for n in card.streams if n in w} for w, _ in side] for side in (first, second))
    y = tuple[np.ndarray, ...](np.array([label for _, label in side], dtype=object) for side in (first, second))
    coded = [layout.round_trip(w, label) for w, label in zip(two, y[1], strict=True)]
    print(f"{len(one)} and {len(two)} windows, of {args.persons} persons each; real, and through the codecs\n")
    print("| statistics of | coverage | codec | precision | codec | TSTR | codec |\n|---|---|---|---|---|---|---|")
    columns, X = features.names(card), tuple(np.array([features.vector(w, card) for w in s]) for s in (one, two, coded))
    print(row("all streams", y, X))
    for s in card.streams:
        mine = [i for i, c in enumerate(columns) if c.startswith(f"{s}.")]
        print(row(s, y, tuple(x[:, mine] for x in X)))
    signs = tuple(vitals.table(s, vitals.roles(card)) for s in (one, two, coded))
    print(row("all vital signs", y, signs))
    for group, names in vitals.GROUPS.items():
        mine = [list(vitals.VITALS).index(n) for n in names]
        if np.isfinite(signs[0][:, mine]).any():
            print(row(group, y, tuple(x[:, mine] for x in signs)))
    far = sorted(((ks(X[1][:, i], X[2][:, i]), c) for i, c in enumerate(columns)), reverse=True)
    told = [f"{c} {v:.2f}" for v, c in far if v >= FAR]
    print(f"\n{len(told)} of {len(columns)} statistics are out of reach: " + ", ".join(told))


if __name__ == "__main__":
    main()
