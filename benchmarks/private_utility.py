"""What privacy costs on a simulated cohort of 1,000 persons: macro-F1 and leakage by ε, beside other protections.

python benchmarks/private_utility.py --target            (about half an hour on one core; resumes)
python benchmarks/private_utility.py --develop NAME=…    (another cohort, for choosing settings; nothing is kept)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mien.adapters import lora, training, world
from mien.adapters.protections import Protections
from mien.backbones import tiny
from mien.backbones.causal_lm import CausalBackbone, linear_names, pooled
from mien.core import config as configs
from mien.core import console, intervals
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.data.datasets import simulated
from mien.evaluation import pictures
from mien.generation.adapted import Writing, rows_to_train
from mien.generation.grammar import constrain
from mien.generation.layout import Layout
from mien.generation.tokens import Documents
from mien.generation.vocabulary import LABEL_0
from mien.privacy.mechanisms import leace
from mien.privacy.plan import PrivacySpec
from mien.privacy.sampling import Units

HERE = Path(__file__).resolve().parent
FROZEN = "dc281396f62edb6c8764ad4318016f40104abc043d9d381d930afe0b6abc853e"
OUT = HERE / "private_utility.json"
DOCS = HERE.parent / "docs"
EPSILONS = (16.0, 8.0, 4.0, 2.0, 1.0)
TASK = "stress"
INTRODUCTION = """# What privacy costs: the study on simulated persons

Written by `python benchmarks/private_utility.py --target`. A thousand simulated persons (`data/datasets/simulated.py`), four
one-minute recordings each, half of them under stress; electrodermal activity and respiration in windows of 20 s. A tiny base,
pretrained on other simulated persons in whom the label shows nothing, is LoRA-adapted to half of the persons under each
protection. It tests code and trade-offs, and proves nothing about people.

- **macro-F1**: a held-out person's window is given to the adapted model once with each label; the label under which it is
  likelier is the guess.
- **membership AUC**: per person, how much likelier the adapter makes their windows than the base does, members against
  held-out persons; 0.5 is an attacker who learns nothing.
- **outliers**: planted persons, far from the rest in every trait.
- **sex from states**: balanced accuracy of a fresh linear probe on the model's mean hidden state, fitted on training persons,
  judged on held-out ones; 0.5 is nothing. **stress from states**: macro-F1 of such a probe. **After LEACE**: the same, once
  sex has been erased from the states by LEACE, fitted on training persons. (LEACE acts on states, not on the generator.)
- Under `recording` the ε of the row's name is for one recording; the column gives the price for a whole person.
- Adversary, input noise and LEACE give no ε. Their ε is ∞ whatever the figures beside it say.

"""


def settings() -> dict[str, Any]:
    return yaml.safe_load((HERE / "private_utility.yaml").read_text())


def digest() -> str:
    return hashlib.sha256((HERE / "private_utility.yaml").read_bytes()).hexdigest()


class Study:
    """One cohort, its base and its documents; `row` trains one adapter and measures it."""

    def __init__(self, s: dict[str, Any], which: str):
        self.s = s
        self.cohort = simulated.load(simulated.Config(**s[which]))
        self.layout = Layout.of(
            self.cohort.card, seconds=s["seconds"], task=TASK, codec=Plugin(**s["codec"]), streams=s["streams"]
        )
        self.accelerator = world.accelerator(1)
        console.quiet()
        persons = np.random.default_rng(s["split_seed"]).permutation(self.cohort.persons)
        self.train, self.held = set(persons[: len(persons) // 2]), set(persons[len(persons) // 2 :])
        attributes = dict(zip(self.cohort.column("person"), self.cohort.column("attributes"), strict=True))
        self.sex = {p: a["sex"] for p, a in attributes.items()}
        self.outlier = {p for p, a in attributes.items() if str(a["outlier"]) in ("True", "yes", "1")}
        self.inside = self.encode(self.train)
        self.outside = self.encode(self.held)
        self.weights = self.pretrain()

    def encode(self, persons: set[str], change: Any = lambda r: r) -> Documents:
        return Documents.encode(
            self.cohort, self.layout, stride_s=self.s["stride_s"], keep=lambda w: w.person in persons, change=change,
            quiet=True,
        )  # fmt: skip

    def fresh(self) -> CausalBackbone:
        model = constrain(
            tiny.fresh(tiny.Shape(**self.s["shape"]), self.layout.vocabulary.size, 0), self.layout.grammar, 0
        )
        return CausalBackbone(
            model=model, identity="", revision=None, fingerprint="", offset=0, lora_targets=linear_names(model),
            speaks_behaviour=True,
        )  # fmt: skip

    def pretrain(self) -> dict[str, Any]:
        """The public base: other persons, in whom the label shows nothing."""
        public = simulated.load(simulated.Config(**self.s["public"]))
        documents = Documents.encode(public, self.layout, stride_s=self.s["stride_s"], quiet=True)
        base = self.fresh()
        with tempfile.TemporaryDirectory() as folder:
            training.fit(
                base.model, base.losses, lambda r: self.batch(base, documents, r), len(documents),
                training.Train(**self.s["pretrain"]), seed=0, folder=Path(folder), accelerator=self.accelerator,
            )  # fmt: skip
        return {k: v.clone() for k, v in base.model.state_dict().items()}

    def base(self) -> CausalBackbone:
        made = self.fresh()
        made.model.load_state_dict(self.weights)
        made.model.requires_grad_(False)
        return made

    def batch(self, backbone: CausalBackbone, documents: Documents, rows: np.ndarray) -> Any:
        return backbone.batch(
            [documents[i] for i in rows], prompt=self.layout.prompt_length, persons=documents.person[rows]
        )

    def row(
        self,
        name: str,
        epsilon: float | None,
        unit: Any,
        protections: tuple[dict, ...] = (),
        adapter: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        import torch

        began = time.monotonic()
        s, backbone = self.s, self.base()
        beside = Protections.of([Plugin(**p) for p in protections])
        documents, private, told = self.inside, None, None
        with tempfile.TemporaryDirectory() as folder:
            if beside.perturb is not None:
                documents = self.encode(self.train, beside.change(self.cohort.card, Path(folder)))
            model = lora.attach(backbone, lora.Lora(**(adapter or s["lora"])), rows_to_train(self.layout, backbone), 0)
            subject = Writing.__new__(Writing)  # without a recipe: base and documents are made here
            subject.base, subject.documents, subject.layout = backbone, documents, self.layout
            losses = beside.losses(model, subject, self.cohort, 0, epsilon is not None)
            options = training.Train(**s["plain" if epsilon is None else "private"])
            if epsilon is not None:
                of = documents.person if unit == "person" else documents.recording
                spec = PrivacySpec(
                    **{**s["privacy"], **(s["recording"] if unit == "recording" else {})}, unit=unit, epsilon=epsilon
                )  # type: ignore[arg-type]
                plan = spec.plan(
                    n=len(self.train) * (1 if unit == "person" else s["cohort"]["sessions"]), steps=options.max_steps
                )
                told = plan.guarantee()
                private = training.Private(
                    plan=plan, units=Units.of(of),
                    probes=lambda: backbone.probes(documents.some(3), prompt=self.layout.prompt_length),
                )  # fmt: skip
            log = training.fit(
                model, losses, lambda r: self.batch(backbone, documents, r), len(documents), options, seed=0,
                folder=Path(folder), accelerator=self.accelerator, private=private,
            )  # fmt: skip
        model.eval()
        with torch.no_grad():
            found = self.measure(backbone, model)
        return {
            "name": name, "unit": unit, "epsilon": epsilon, "person_epsilon": told.person_epsilon if told else None,
            "noise_multiplier": told.noise_multiplier if told else None, "sample_rate": private.plan.sample_rate if private else None,
            **found, "median_norm": log[-1].get("median_norm"), "loss": log[-1]["loss"], "minutes": (time.monotonic() - began) / 60,
        }  # fmt: skip

    def measure(self, backbone: CausalBackbone, model: Any) -> dict[str, Any]:
        out, inn = (self.score(backbone, model, d) for d in (self.outside, self.inside))
        rare = np.isin(out["person"], list(self.outlier))
        found: dict[str, Any] = {"f1": f1(out, np.ones(len(rare), bool)), "f1_outliers": f1(out, rare)}
        base = {side: self.base_losses()[side] for side in ("in", "out")}
        gain_in, gain_out = base["in"] - inn["own"], base["out"] - out["own"]
        for key, who in (
            ("auc", lambda p: np.ones(len(p), bool)),
            ("auc_outliers", lambda p: np.isin(p, list(self.outlier))),
        ):
            scores, member = [], []
            for side, gain, flag in ((inn, gain_in, True), (out, gain_out, False)):
                chosen = who(side["person"])
                for p in np.unique(side["person"][chosen]):
                    scores.append(gain[side["person"] == p].mean())
                    member.append(flag)
            persons = np.arange(len(scores)).astype(str)
            a = intervals.auc_interval(np.array(scores), np.array(member), persons)
            found[key] = [a.value, a.low, a.high]
        found.update(self.probes(inn, out))
        return found

    @cache  # noqa: B019 - one study lives as long as the process
    def base_losses(self) -> dict[str, np.ndarray]:
        import torch

        backbone = self.base()
        with torch.no_grad():
            return {
                "in": self.score(backbone, backbone.model, self.inside)["own"],
                "out": self.score(backbone, backbone.model, self.outside)["own"],
            }

    def score(self, backbone: CausalBackbone, model: Any, documents: Documents) -> dict[str, np.ndarray]:
        """Per window: loss under each label, loss under its own, pooled last hidden state."""
        by_label, states = [], []
        for start in range(0, len(documents), 256):
            rows = np.arange(start, min(start + 256, len(documents)))
            losses = []
            for c in range(len(self.layout.classes)):
                batch = self.batch(backbone, documents, rows)
                batch.ids[:, 1] = LABEL_0 + c
                loss, hidden = backbone.losses_and_states(model, batch)
                losses.append(loss.numpy())
                if c == 0:
                    states.append(pooled(hidden, batch.mask).numpy())
            by_label.append(np.stack(losses, 1))
        loss = np.concatenate(by_label)
        person = np.array(documents.persons, dtype=object)[documents.person]
        return {
            "label": np.asarray(documents.label), "guess": loss.argmin(1), "person": person.astype(str),
            "own": loss[np.arange(len(loss)), documents.label], "states": np.concatenate(states),
        }  # fmt: skip

    def probes(self, inn: dict, out: dict) -> dict[str, Any]:
        """A fresh linear probe for sex, and one for stress, on pooled states; again after LEACE on sex."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import balanced_accuracy_score, f1_score

        sexes = {
            k: np.array([self.sex[p] == "f" for p in d["person"]], dtype=int) for k, d in (("in", inn), ("out", out))
        }
        eraser = leace.fit(inn["states"], leace.one_hot(sexes["in"]), leace.person_weights(inn["person"]))
        found = {}
        for name, change in (("", lambda x: x), ("_leace", eraser.apply)):
            x, y = change(inn["states"]), change(out["states"])
            probe = LogisticRegression(max_iter=500).fit(x, sexes["in"])
            found[f"sex{name}"] = balanced_accuracy_score(sexes["out"], probe.predict(y))
            task = LogisticRegression(max_iter=500).fit(x, inn["label"])
            found[f"states_f1{name}"] = f1_score(out["label"], task.predict(y), average="macro")
        return found


def f1(out: dict, keep: np.ndarray) -> list[float]:
    """Macro-F1 over windows, its interval from resampled persons (2,000 bootstraps, fixed seed)."""
    from sklearn.metrics import f1_score

    label, guess, person = out["label"][keep], out["guess"][keep], out["person"][keep]
    names, index = np.unique(person, return_inverse=True)
    table = np.zeros((len(names), 2, 2))
    np.add.at(table, (index, label, guess), 1)

    def macro(t: np.ndarray) -> np.ndarray:
        hit, missed, false = (np.stack([t[..., c, c] for c in (0, 1)], -1), t.sum(-1), t.sum(-2))
        return (2 * hit / np.maximum(missed + false, 1)).mean(-1)

    draws = np.random.default_rng(0).integers(len(names), size=(2000, len(names)))
    low, high = np.quantile(macro(table[draws].sum(1)), [0.025, 0.975])
    return [float(f1_score(label, guess, average="macro")), float(low), float(high)]


def rows(s: dict[str, Any]) -> list[tuple]:
    sex = {"name": "adversary", "attributes": ["sex"], "classes": {"sex": ["f", "m"]}, "hidden": 32}
    noise = {"name": "perturb", "scale": 0.02}
    return [
        ("plain", None, "none"),
        *((f"person ε = {e:g}", e, "person") for e in EPSILONS),
        ("person ε = 8, again", 8.0, "person"),
        ("person ε = 8, and again", 8.0, "person"),
        ("person ε = 8, once more", 8.0, "person"),
        *((f"recording ε = {e:g}", e, "recording") for e in EPSILONS),
        ("adversary on sex", None, "none", (sex,)),
        ("input noise, 2 % of the range", None, "none", (noise,)),
        ("person ε = 8 and adversary", 8.0, "person", (sex,)),
        ("plain, rank 8", None, "none", (), {"rank": 8, "alpha": 16}),  # what somebody without privacy would take
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="store_true", help="run the frozen study, or go on with it")
    parser.add_argument("--develop", nargs="*", metavar="KEY=VALUE", help="plain and ε = 8 on the development cohort")
    parser.add_argument("--only", nargs="*", metavar="ROW", help="only these rows")
    parser.add_argument("--out", type=Path, default=OUT, help="where figures go, row by row (default: %(default)s)")
    parser.add_argument("--report", action="store_true", help="write the page and the picture from the figures there")
    args = parser.parse_args()
    s = settings()
    if args.develop is not None:
        s = configs.read(HERE / "private_utility.yaml", args.develop)
        study = Study(s, "development")
        print("documents", len(study.inside), "tokens each", study.inside.lengths[:3], "outliers", len(study.outlier))
        for row in (r for r in rows(s) if r[0] in (args.only or ("plain", "person ε = 8"))):
            print(json.dumps(study.row(*row)), flush=True)
        return
    if args.target:
        if digest() != FROZEN:
            raise MienError("private_utility.yaml is not the file that was frozen; its figures would be others")
        done = json.loads(args.out.read_text()) if args.out.exists() else {"frozen": FROZEN, "rows": []}
        names = {r["name"] for r in done["rows"]}
        todo = [r for r in rows(s) if r[0] not in names and r[0] in (args.only or [x[0] for x in rows(s)])]
        study = Study(s, "cohort") if todo else None
        if study and "base" not in done:
            import torch

            backbone = study.base()
            with torch.no_grad():
                done["base"] = study.measure(backbone, backbone.model)
            done["persons"] = [len(study.train), len(study.held)]
            done["outliers"] = [len(study.outlier & study.train), len(study.outlier & study.held)]
            done["windows"] = [len(study.inside), len(study.outside)]
            done["machine"] = f"{platform.machine()}, 1 thread"
        for row in todo:
            assert study is not None
            done["rows"].append(study.row(*row))
            args.out.write_text(json.dumps(done, indent=1))
            print(
                row[0],
                done["rows"][-1]["f1"],
                done["rows"][-1]["auc"],
                f"{done['rows'][-1]['minutes']:.1f} min",
                flush=True,
            )
    if args.target or args.report:
        report(json.loads(args.out.read_text()))


def report(done: dict[str, Any]) -> None:
    by = {r["name"]: r for r in done["rows"]}

    def cell(v: Any) -> str:
        return f"{v:.3f}" if isinstance(v, float) else f"{v[0]:.3f} ({v[1]:.3f}–{v[2]:.3f})"

    def price(r: dict[str, Any]) -> str:
        if r["name"] == "base alone":
            return "0"
        return "∞" if r.get("person_epsilon") is None else f"{r['person_epsilon']:.3g}"

    columns = (
        "protection", "ε of a person", "macro-F1", "outliers", "membership AUC", "outliers", "sex from states",
        "after LEACE", "stress from states", "after LEACE",
    )  # fmt: skip
    keys = ("f1", "f1_outliers", "auc", "auc_outliers", "sex", "sex_leace", "states_f1", "states_f1_leace")
    table = [columns, ["---"] * len(columns)]
    for r in [*(by[x[0]] for x in rows(settings()) if x[0] in by), {"name": "base alone", **done["base"]}]:
        table.append([r["name"], price(r), *(cell(r[k]) for k in keys)])
    lines = [f"| {' | '.join(row)} |" for row in table]
    plain = by["plain"]["f1"][0]
    eight = [r["f1"][0] for n, r in by.items() if n.startswith("person ε = 8") and "adversary" not in n]
    gap = 100 * (plain - float(np.mean(eight)))
    larger = by["plain, rank 8"]["f1"][0]
    reached = "reached" if gap <= 5 else "not reached"
    page = f"""{INTRODUCTION}
**The target** was private LoRA at person-level ε = 8, δ = 1e-5 within 5 points of plain macro-F1. Plain: {plain:.3f}.
Private: {", ".join(f"{v:.3f}" for v in eight)} in {len(eight)} runs, {gap:.1f} points below on average
(the furthest {100 * (plain - min(eight)):.1f}): the target is {reached} on average against a plain adapter of the same size.
A plain adapter of rank 8, which suits plain training better, reaches {larger:.3f}:
{100 * (larger - float(np.mean(eight))):.1f} points above.

![macro-F1 and membership AUC by ε](private_utility.svg)

{chr(10).join(lines)}

{done["persons"][0]} persons in training ({done["outliers"][0]} planted outliers), {done["persons"][1]} held out
({done["outliers"][1]}); {done["windows"][0]} and {done["windows"][1]} windows. Settings:
`benchmarks/private_utility.yaml`, sha256 `{done["frozen"][:16]}…`, frozen on another cohort before this one was run;
{done["machine"]}, 2026-11-23. Intervals: 95 % over held-out persons (AUC: over all persons). One seed, one split.
"""
    (DOCS / "private_utility.md").write_text(page)
    (DOCS / "private_utility.svg").write_text(picture(done, by))


def picture(done: dict[str, Any], by: dict[str, Any]) -> str:
    figure, axes = pictures._figure(pictures.PHONE, 5.6, rows=2)
    for axis, key, name in ((axes[0][0], "f1", "macro-F1"), (axes[1][0], "auc", "membership AUC, per person")):
        for i, unit in enumerate(("person", "recording")):
            points = [(e, by[f"{unit} ε = {e:g}"][key]) for e in EPSILONS if f"{unit} ε = {e:g}" in by]
            x, y = [p[0] * (1 + 0.04 * i) for p in points], np.array([p[1] for p in points])
            axis.plot(x, y[:, 0], pictures.MARKS[i] + "-", color=pictures.COLOURS[i], label=f"DP per {unit}")
            axis.vlines(x, y[:, 1], y[:, 2], color=pictures.COLOURS[i])
        for j, other in enumerate(("plain", "adversary on sex", "input noise, 2 % of the range")):
            v = by[other][key]
            axis.plot(
                32 * 1.25**j, v[0], pictures.MARKS[2 + j], color=pictures.COLOURS[2 + j], label=f"{other} (ε = ∞)"
            )
            axis.vlines(32 * 1.25**j, v[1], v[2], color=pictures.COLOURS[2 + j])
        axis.axhline(done["base"][key][0], color="0.5", linestyle="--", linewidth=1)
        axis.text(64, done["base"][key][0], "base alone", fontsize=9, color="0.3", va="bottom", ha="right")
        again = [r[key][0] for n, r in by.items() if n.startswith("person ε = 8, ")]
        axis.plot(
            [8] * len(again), again, "o", color=pictures.COLOURS[0], markerfacecolor="none", label="the same, run again"
        )
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 2, 4, 8, 16, 40], ["1", "2", "4", "8", "16", "∞"])
        axis.set(ylabel=name)
    axes[1][0].set(xlabel="ε")
    axes[0][0].get_figure().legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
    return pictures._svg(figure)


if __name__ == "__main__":
    try:
        main()
    except MienError as error:
        sys.exit(str(error))
