"""What each protection of a representation costs and hides on real smart-watch recordings: one curve, ten persons.

python benchmarks/watch_curve.py                 (about an hour on one core; resumes; figures in runs/watch_curve.json)
python benchmarks/watch_curve.py --report        (only docs/watch_curve.md and its picture, from those figures)

The recipes of recipes/watch are adapted to five persons and judged on the other five, then the other way round (`--pairs` such
pairs of splits), so that everybody is held out equally often; a person's figure is the mean over the splits that held them out,
and intervals are over the ten persons. `--alone` adds the runs that leave one person out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mien.adapters import personal
from mien.adapters.represented import Opened, opened
from mien.attacks import represented as attacked
from mien.core import console, runs
from mien.core.intervals import Interval, over_persons
from mien.core.paths import runs_home
from mien.core.results import Baseline, Result
from mien.core.runs import write_text
from mien.data import splits
from mien.data.datasets import watch
from mien.evaluation import frontier, leave_one_out, personalised
from mien.evaluation import represented as judged
from mien.evaluation.utility.tstr import macro_f1
from mien.privacy.mechanisms import leace
from mien.recipes import adapt

HERE = Path(__file__).resolve().parent
RECIPES, DOCS = HERE.parent / "recipes" / "watch", HERE.parent / "docs"
RAW, COARSE, FROZEN, PLAIN = "window statistics", "statistics, coarse or noisy", "frozen towers", "LoRA"
ATTACKERS = ("linear", "forest", "network")


def adversary(weight: float) -> list[str]:
    return [f"protections=[{{name: adversary, attributes: [identity], weight: {weight:g}}}]"]


TRAINED = {
    PLAIN: ("represent.yaml", []),
    **{f"LoRA, adversary {w:g}": ("represent_adversarial.yaml", adversary(w)) for w in (1, 3)},
    **{f"LoRA, ε = {e:g}": ("represent_private.yaml", [f"privacy.epsilon={e:g}"]) for e in (50, 8, 2)},
    "autoencoder": ("autoencoder.yaml", []),
    **{f"autoencoder, adversary {w:g}": ("autoencoder_adversarial.yaml", adversary(w)) for w in (0.3, 1, 3, 10)},
}
FAMILIES = ("statistics +", "statistics", "frozen", "LoRA, adversary", "LoRA, ε", "LoRA", "autoencoder")
PAGE = """# Utility and leakage on the watch: the whole curve

Written by `python benchmarks/watch_curve.py --alone`; what it says is in [representation.md](representation.md). Ten persons, real
recordings, windows of 4 s; adapted to five persons, judged on the other five, and the other way round, so that everybody is held out
equally often; a person's figure is the mean of the splits that held them out, [95 % over the ten persons]. Recipes and seeds are as
shipped; nothing was tuned on these persons.

- **macro-F1** of seven exercises: a ridge probe on the vectors; of statistics, a random forest.
- **linear, forest, network**: the share of a held-out person's windows that an attacker gives to them among five (chance .20), trained
  from scratch on what came out, with enrolment from other recordings, in 16 dimensions. **Bold: the strongest**, chosen after the fact,
  so it is a little too strong. The paired column is of the forest attacker.
- **arm**: macro-F1 of telling which arm wears the watch, an attribute. **members**: AUC of the heads' loss, mean of the splits.
- Noise and levels act on finished numbers of a window, each on its own; noise that is fresh per window averages out over a recording.
- Who recognises whom depends on the other four of a split, and splits share persons: intervals are of persons as if independent."""


def sides(pairs: int) -> list[tuple[int, int]]:
    """(seed, seed of the same split with its sides exchanged), the first `pairs` of them."""
    cohort = watch.load(watch.Config())
    drawn = {s: set(splits.draw(cohort, holdout=5, seed=s).holdout) for s in range(3000)}
    out: list[tuple[int, int]] = []
    for s, held in drawn.items():
        other = next((t for t in drawn if t > s and not held & drawn[t]), None)
        if other is not None and len(out) < pairs:
            out.append((s, other))
    return out


def each_alone() -> list[int]:
    """For each person the first seed whose draw holds out them alone."""
    cohort = watch.load(watch.Config())
    held = {splits.draw(cohort, holdout=1, seed=s).holdout[0]: s for s in range(400, -1, -1)}
    return [held[p] for p in cohort.persons]


def made(name: str, seed: int, holdout: int = 5) -> Path:
    """The adapt run of a point, new or from before. A private one has the plain one's persons, not a secret split."""
    recipe, overrides = TRAINED[name]
    study = f"curve_{list(TRAINED).index(name)}_{holdout}_{seed}"
    more = [f"split.same_as=adapt-curve_0_{holdout}_{seed}"] if "ε" in name else [f"split.holdout={holdout}"]
    adapt.main([str(RECIPES / recipe), f"study={study}", f"seed={seed}", *overrides, *more])
    return runs.find(f"adapt-{study}", "adapt")


# --- one split ----------------------------------------------------------------------------------------------------


def worth(o: Any, learner: Any, seeds: int = 1) -> dict[str, float]:
    """Held-out person -> macro-F1 of the exercise."""
    fold = leave_one_out.Fold(
        table=o.table, train=np.flatnonzero(o.train), test=np.flatnonzero(~o.train), y=o.y, classes=len(o.classes)
    )
    found = leave_one_out.predict([fold], {"x": (learner, seeds)})["x"].argmax(2)
    one = lambda t, g: float(np.mean([macro_f1(t, g[:, s]) for s in range(seeds)]))  # noqa: E731
    return leave_one_out.by_person(one, o.y[~o.train], o.table.person[~o.train], found)


def point(o: Opened, X: np.ndarray, bar: bool = False, leak: bool = True) -> dict[str, Any]:
    """Per held-out person, what `mien evaluate` measures: macro-F1 (a ridge probe; bar: a forest), and the share of windows
    recognised by each attacker; beside them how well the arm is told."""
    learner, seeds = (leave_one_out.forest(200), 3) if bar else (judged._on(X), 1)
    asked = SimpleNamespace(table=o.table, train=o.train, y=o.y, classes=o.classes)
    if bar:
        asked.table = judged.replace(o.table, X=X)
    out: dict[str, Any] = {"f1": worth(asked, learner, seeds)}
    if leak:
        out |= attacked.recognised_each(X, o.table.person, o.table.recording, o.train)
        arms = dict(zip(o.cohort.column("id"), (a["arm"] for a in o.cohort.column("attributes")), strict=True))
        asked.y = np.array([arms[r] == "arm-1" for r in o.table.recording]).astype(int)
        asked.classes = ("arm-0", "arm-1")
        out["arm"] = worth(asked, learner, 1)
    return out


def coarse(X: np.ndarray, train: np.ndarray, levels: int) -> np.ndarray:
    """Each column as one of `levels` equally filled ones of the training rows."""
    edges = np.nanquantile(X[train], np.linspace(0, 1, levels + 1)[1:-1], axis=0)
    return (X[None] > edges[:, None]).sum(0).astype(np.float64)


def noisy(X: np.ndarray, train: np.ndarray, sd: float, seed: int) -> np.ndarray:
    """With fresh Gaussian noise on each window's columns, in deviations of the training rows."""
    rng = np.random.default_rng([seed, 0x9015E])
    return X + sd * np.nanstd(X[train], 0) * rng.standard_normal(X.shape)


def of_split(seed: int, keep: Any, store: dict[str, Any]) -> None:
    """Every point on the split of a seed, into `store` (name -> figures), kept after each."""
    for name in TRAINED:
        if name in store and (name != PLAIN or "personal" in store):
            continue
        o = opened(made(name, seed), "evaluation")
        if name == PLAIN:
            T, t = o.table.X, o.train
            store[RAW] = point(o, T, bar=True)
            for levels in (4, 2):
                store[f"statistics in {levels} levels"] = point(o, coarse(T, t, levels), bar=True)
            for sd in (1.0, 2.0):
                store[f"statistics + noise {sd:g} SD"] = point(o, noisy(T, t, sd, seed), bar=True)
            store[FROZEN] = point(o, o.frozen)
            who = np.unique(o.table.person[t], return_inverse=True)[1]
            eraser = leace.fit(o.Z[t], leace.one_hot(who), leace.person_weights(o.table.person[t]))
            store["LoRA, identity erased (LEACE)"] = point(o, eraser.apply(o.Z))
            store["LoRA + noise 1 SD"] = point(o, noisy(o.Z, t, 1.0, seed))
            store["personal"] = own(o, seed)
        store[name] = point(o, o.Z)
        store[name]["membership"] = attacked.membership(o.loss, o.table.person, o.train).value
        keep()


def own(o: Opened, seed: int) -> dict[str, dict[str, float]]:
    """Method, k -> held-out person -> macro-F1 on the same later windows (evaluation/personalised.py)."""
    out: dict[str, dict[str, float]] = {}
    for apart in (False, True):
        config = personalised.Personal(k=(1, 5), tail="class", apart=apart, untimed=True)
        found = personalised.compared(o, personal.predicted, personal.probabilities, config, seed)
        out |= {
            f"{n}, {k}, {'other arm' if apart else 'later'}": p.each("macro-F1") for (n, k), p in found.found.items()
        }
    return out


def of_one(seed: int, store: dict[str, Any]) -> None:
    """The same, utility alone, of one person left out."""
    for name in (PLAIN, "autoencoder"):
        o = opened(made(name, seed, 1), "evaluation")
        if name == PLAIN:
            store[RAW] = point(o, o.table.X, bar=True, leak=False)
            store[FROZEN] = point(o, o.frozen, leak=False)
        store[name] = point(o, o.Z, leak=False)


# --- all of them --------------------------------------------------------------------------------------------------


def pooled(store: Sequence[dict[str, Any]], name: str, metric: str, less: str | None = None) -> Interval:
    """Over persons, of each one's mean over the splits that held them out; less: the paired difference to another point."""
    each: dict[str, list[float]] = {}
    for s in store:
        for p, v in s[name][metric].items():
            each.setdefault(p, []).append(v - (s[less][metric][p] if less else 0.0))
    values = np.array([np.mean(v) for v in each.values()])
    return over_persons(
        lambda v: float(v.mean()), np.array(list(each)), values, bounds=(-1.0, 1.0) if less else (0.0, 1.0)
    )


def said(i: Interval, signed: bool = False) -> str:
    """As the docs write it: .684 [.593, .762]."""
    one = lambda v: f"{v:+.3f}".replace("0.", ".", 1) if signed else f"{v:.3f}".replace("0.", ".", 1)  # noqa: E731
    return one(i.value) + (f" [{one(i.low)}, {one(i.high)}]" if i.low is not None and i.high is not None else "")


def strongest(store: Sequence[dict[str, Any]], name: str) -> str:
    return max(ATTACKERS, key=lambda a: pooled(store, name, a).value)


def strongly(store: Sequence[dict[str, Any]], name: str) -> Interval:
    return pooled(store, name, strongest(store, name))


def table(store: Sequence[dict[str, Any]]) -> list[str]:
    """One row a point; the strongest attacker in bold."""
    columns = ("", "macro-F1", "− forest, paired", *ATTACKERS, "− statistics, paired", "arm", "members")
    out = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in named(store):
        best = strongest(store, name)
        leak = [f"**{said(i)}**" if a == best else said(i) for a in ATTACKERS for i in [pooled(store, name, a)]]
        f1, less = ("", "") if name == RAW else (said(pooled(store, name, m, RAW), True) for m in ("f1", "forest"))
        members = [s[name]["membership"] for s in store if "membership" in s[name]]
        last = f"{np.mean(members):.2f}" if members else ""
        arm = f"{pooled(store, name, 'arm').value:.2f}"
        out.append(f"| {' | '.join([name, said(pooled(store, name, 'f1')), f1, *leak, less, arm, last])} |")
    return out


def named(store: Sequence[dict[str, Any]]) -> list[str]:
    """The points that all splits have, family by family, the strengths of one beside each other."""
    there = [n for n in store[0] if n != "personal" and all(n in s for s in store)]
    return sorted(there, key=lambda n: (n != RAW, FAMILIES.index(family(n)), n not in (RAW, *TRAINED)))


def family(name: str) -> str:
    found = next(f for f in FAMILIES if name.startswith((f, RAW)))
    return "LoRA" if found == "LoRA" or name == PLAIN else found


def picture(store: Sequence[dict[str, Any]]) -> str:
    """Macro-F1 against what the strongest attacker recognises."""
    points = []
    for name in named(store):
        f1, leak = pooled(store, name, "f1"), strongly(store, name)
        points.append(
            frontier.Point(
                label=name, family=family(name),
                utility=Result(metric="macro-F1", value=f1.value, low=None, high=None, unit="person"),
                leakage=Result(metric="identity.recognised", value=leak.value, low=None, high=None, unit="window"),
            )
        )  # fmt: skip
    bar = pooled(store, RAW, "f1").value
    return frontier.draw(points, [Baseline(name="forest on statistics", value=bar)], None, nothing=0.2)


def own_rows(store: Sequence[dict[str, Any]]) -> list[str]:
    """A person's own models against what they have to beat, on the same later windows."""
    found = [{k: {"f1": v} for k, v in s["personal"].items()} for s in store]
    out = ["| k, judged on | | macro-F1 | against | paired | persons who gain |", "|---|---|---|---|---|---|"]
    against = {"personal LoRA": ("shared head", "generic", "pooled"), "pooled": ("generic",), "personal": ("generic",)}
    for key in found[0]:
        name, k, where = key.rsplit(", ", 2)
        for base in against.get(name, ()):
            beside = f"{base}, {k if base == 'pooled' else 0}, {where}"
            gaps: dict[str, list[float]] = {}
            for s in found:
                for p, v in s[key]["f1"].items():
                    gaps.setdefault(p, []).append(v - s[beside]["f1"][p])
            wins = sum(np.mean(v) > 0 for v in gaps.values())
            gap = said(pooled(found, key, "f1", beside), signed=True)
            of = f"{base} {said(pooled(found, beside, 'f1'))}"
            out.append(
                f"| {k}, {where} | {name} | {said(pooled(found, key, 'f1'))} | {of} | {gap} | {wins} of {len(gaps)} |"
            )
    return out


def report(done: dict[str, Any]) -> None:
    """docs/watch_curve.md and its picture."""
    store, alone = list(done["splits"].values()), list(done["alone"].values())
    write_text(DOCS / "watch_curve.svg", picture(store))
    one = ["| one person left out | macro-F1 | − forest, paired |", "|---|---|---|"]
    for name in alone[0] if alone else ():
        less = "" if name == RAW else said(pooled(alone, name, "f1", RAW), signed=True)
        one.append(f"| {name} | {said(pooled(alone, name, 'f1'))} | {less} |")
    splits_of = f"Splits: seeds {', '.join(done['splits'])}, in pairs that exchange their sides."
    parts = (PAGE, "![Macro-F1 against recognition](watch_curve.svg)", *(
        "\n".join(rows) for rows in ([splits_of], table(store), one, own_rows(store))
    ))  # fmt: skip
    write_text(DOCS / "watch_curve.md", "\n\n".join(parts) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2, help="of splits into five and five (default: %(default)s)")
    parser.add_argument("--alone", action="store_true", help="each person left out alone, too")
    parser.add_argument("--report", action="store_true", help="only write what the figures say")
    args = parser.parse_args()
    file = runs_home() / "watch_curve.json"
    done = json.loads(file.read_text()) if file.exists() else {"splits": {}, "alone": {}}

    def keep() -> None:
        write_text(file, json.dumps(done, indent=1))

    for pair in [] if args.report else sides(args.pairs):
        for seed in pair:
            console.say(f"split of seed {seed}")
            of_split(seed, keep, done["splits"].setdefault(str(seed), {}))
    for seed in each_alone() if args.alone and not args.report else []:
        if str(seed) not in done["alone"]:
            done["alone"][str(seed)] = {}
            of_one(seed, done["alone"][str(seed)])
            keep()
    report(done)


if __name__ == "__main__":
    main()
