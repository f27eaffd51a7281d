"""Whom a synthetic cohort speaks for as ε falls: coverage of planted outliers and of everybody else.

python benchmarks/outliers.py [--rows plain "person ε = 8" …] [--windows 3000] [--develop]

The study of `benchmarks/private_utility.py` (1,000 simulated persons, 50 of them far from the rest in every trait; half train).
From each adapter as many windows are sampled as real ones are taken, with labels as often as in training. A person's coverage
is the share of their own windows that have a synthetic one within the median radius (`evaluation/fidelity/prdc.py`), on
window statistics after the codec, so that what the codec drops is nobody's loss. Beside it, windows of held-out persons (what any
other people cover of them: erased is what looks like that), and other training windows (kept, and so exposed).
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import numpy as np
from private_utility import Study, rows, settings

from mien.core.intervals import over_persons
from mien.data import features
from mien.evaluation.comparisons import on_one_scale
from mien.evaluation.fidelity.prdc import prdc
from mien.generation import sample
from mien.generation.vocabulary import PAD

NAMES = ("plain", "person ε = 16", "person ε = 8", "person ε = 4", "person ε = 2", "person ε = 1")


class Sampled(Study):
    """Measures what an adapter samples."""

    def __init__(self, which: str, windows: int):
        super().__init__(settings(), which)
        self.rng, self.card = np.random.default_rng(0), features.only(self.cohort.card, self.s["streams"])
        self.some = {
            side: self.rng.permutation(len(d))[:windows] for side, d in (("in", self.inside), ("out", self.outside))
        }
        self.real, self.other = (
            self.statistics([d[int(i)] for i in self.some[side]])
            for side, d in (("in", self.inside), ("out", self.outside))
        )
        self.person = np.array(self.inside.persons, dtype=object)[self.inside.person[self.some["in"]]].astype(str)
        self.rare = np.isin(self.person, list(self.outlier))

    def statistics(self, documents: Any) -> np.ndarray:
        return np.array([features.vector(self.layout.decode(np.asarray(d))[1], self.card) for d in documents])

    def measure(self, backbone: Any, model: Any) -> dict[str, Any]:
        labels = [self.layout.classes[c] for c in np.asarray(self.inside.label)[self.some["in"]]]
        made: list[np.ndarray] = []
        for i in range(0, len(labels), 500):
            prompts = [self.layout.prompt(label) for label in labels[i : i + 500]]
            drawn = sample.documents(model, self.layout, lambda ids: ids, prompts, temperature=1.0, seed=i)
            made += [d[d != PAD] for d in drawn]
        return {"covered": self.covered(self.statistics(made))}

    def covered(self, made: np.ndarray) -> dict[str, Any]:
        real, fake = on_one_scale(SimpleNamespace(X=self.real), SimpleNamespace(X=made))  # type: ignore[arg-type]
        found = prdc(real, fake, 5)
        return {"near": found["near"], "own": found["own"]}


def row(name: str, study: Sampled, near: np.ndarray) -> str:
    cells = []
    for who in (study.rare, ~study.rare):
        i = over_persons(lambda c: float(c.mean()), study.person[who], near[who])
        cells.append(f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" if i.low is not None else f"{i.value:.3f}")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--windows", type=int, default=3000)
    parser.add_argument("--develop", action="store_true", help="on the development cohort")
    args = parser.parse_args()
    study = Sampled("development" if args.develop else "cohort", args.windows)
    few = len(set(study.person[study.rare]))
    print(f"{len(set(study.person))} persons in training, {few} of them outliers; {args.windows} windows a side\n")
    print("| windows of | outliers covered | others covered |\n|---|---|---|")
    at = study.covered(study.other)
    print(row("held-out persons, real", study, at["near"]))
    print(row("other training windows, real", study, at["own"]), flush=True)
    base = study.base()
    print(row("the base alone", study, study.measure(base, base.model)["covered"]["near"]), flush=True)
    for r in rows(study.s):
        if r[0] in args.rows:
            print(row(r[0], study, study.row(*r)["covered"]["near"]), flush=True)


if __name__ == "__main__":
    main()
