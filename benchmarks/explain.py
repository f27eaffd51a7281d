"""What each modality is worth to the task and to re-identification, by classical window statistics.

python benchmarks/explain.py simulated|watch [--out FOLDER]     (FOLDER gets private/ and release/, with the picture)

Printed: all modalities against the best single one (chosen without the persons it is tested on), what a sensor that fails
costs, Shapley values of the modalities for task and re-identification side by side, what to drop with its cost, and personal
probes against the generic one. Re-identification is closed-set rank 1 by the semi-informed attacker of attacks/identity, who
learns on half of the persons and recognises the others, then the other way round; gallery and probes are different
recordings. watch has no clock across recordings: its first arm stands for the earlier one, and its sessions are unknown, so
how a watch was worn that day may be what identifies.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mien.attacks.represented import each_recognised
from mien.core.intervals import Interval
from mien.data.datasets import simulated, watch
from mien.evaluation import explain, personal, transfer
from mien.evaluation.transfer import Probe, Represented

STUDIES = {
    "simulated": ("stress", 30.0, ("sex",)),
    "watch": ("exercise", 3.0, ()),
}


def load(study: str) -> Represented:
    task, seconds, groups = STUDIES[study]
    if study == "simulated":
        size = {"persons": 40, "sessions": 16, "seconds": 60.0, "label_effect": 0.7}
        made = simulated.load(simulated.Config.model_validate(size))
        return transfer.statistics(made, seconds=seconds, stride_s=seconds, groups=groups)
    data = transfer.statistics(watch.load(watch.Config()), seconds=seconds, stride_s=seconds)
    order = np.unique(data.recording.astype(str), return_inverse=True)[1]
    return replace(data, time_s=data.time_s + 1000.0 * order)


def said(i: Interval) -> str:
    return f"{i.value:+.3f}" + (f" [{i.low:+.3f}, {i.high:+.3f}]" if i.low is not None else "")


def show(title: str, gain: transfer.Gain) -> None:
    print(f"  {title}: {said(gain.mean)}, sign-flip p = {gain.p:.4f}, {gain.wins.value:.0%} of persons gain"
          f" [{gain.wins.low:.0%}, {gain.wins.high:.0%}]; all windows {said(gain.pooled)}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    task, data = STUDIES[args.study][0], load(args.study)
    k = 5 if args.study == "simulated" else None
    probe, forest = Probe(), Probe(kind="forest", trees=100)
    print(f"{args.study}: {len(data)} windows of {data.seconds:g} s, {len(data.persons)} persons, {', '.join(data.X)}")
    for name, p in (("logistic", probe), ("forest", forest)):
        for r in transfer.measured(transfer.held_out(data, task, p, k)):
            if r.value is not None and (name == "logistic" or r.metric == "macro-F1"):
                low = "" if r.low is None else f" [{r.low:.3f}, {r.high:.3f}]"
                print(f"  {name} {r.metric}: {r.value:.3f}{low}  {r.note}")
    single, chosen = transfer.best_single(data, task, probe, k=k)
    print(f"  best single, chosen in folds: {chosen}")
    show("all − best single, macro-F1", transfer.gain("", transfer.held_out(data, task, probe, k), single, "macro-F1"))
    for m, g in transfer.missing(data, task, probe, k=k).items():
        show(f"{m} missing at test − never there", g)
    for m, g in transfer.missing(data, task, Probe(absent=True), k=k).items():
        show(f"{m} missing at test − never there, taught absence", g)

    use, nothing = explain.predicting(task, probe, k=k), explain.unseen(data, task, k=k)
    chance = dict.fromkeys(nothing, 2 / len(data.persons))
    sides = tuple(
        explain.shapley(list(data.X), explain.subsets(data, of, none))
        for of, none in ((use, nothing), (each_recognised, chance))
    )
    for side, s in zip(("task", "re-identification"), sides, strict=True):
        print(f"  {side}: {s.empty.mean():.3f} with nothing, {s.full.mean():.3f} with all; " + "; ".join(
            f"{m} {said(i)}" for m, i in s.intervals().items()
        ))  # fmt: skip
    tried: Mapping[str, explain.Remedy] = explain.remedies(data, steps=(2.0,), scales=(2.0,))
    advice = explain.advise(data, tried, use, each_recognised)
    for name, (utility, leakage) in advice.lost.items():
        print(f"    {name}: utility lost {said(utility)}, leakage lost {said(leakage)}")
    print(f"  {advice.sentence}")
    if args.study == "simulated":
        found = personal.compare(data, task, probe, (1, 3, 5))
    else:
        found = personal.compare(data, task, probe, (1, 3, 5), calibration=1, tail="class", apart=True)
    print(f"  personal: {len(set(found.found['generic', 0].person))} persons; {found.note}")
    for (name, shots), g in found.gains.items():
        mean = np.mean(list(found.found[name, shots].each("macro-F1").values()))
        show(f"{name}, k = {shots}: macro-F1 {mean:.3f}, − generic", g)
    if args.out:
        for half in ("private", "release"):
            (args.out / half).mkdir(parents=True, exist_ok=True)
        explain.write(
            explain.Findings(persons=list(nothing), shapley={task: (sides[0], sides[1])}, advice={task: advice}),
            args.out / "private", args.out / "release",
        )  # fmt: skip


if __name__ == "__main__":
    main()
