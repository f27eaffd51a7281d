"""The pages of runs that train: what was spent, by step, and in the private half how the losses fell.

Losses, gradient norms and who was drawn were computed from the recordings (or from raters' answers) and no ε covers them:
they stand in `private/report.html` alone. What the plan says stands in both halves, for it is fixed before anybody's
recording is looked at. Simulated recordings are nobody's, so that pretraining hides nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core import config, console, runs, verbs
from ...core.errors import MienError
from ...core.records import Cohort
from ...core.results import Report
from ...data.splits import Splits
from .. import pictures
from . import html

Log = Sequence[Mapping[str, Any]]
HIDDEN = (
    "How the loss fell was computed from {what}, and no ε covers it: that is in the run's private half, in"
    " private/report.html."
)


def adapted(
    run: runs.Run, report: Report, log: Log, recipe: Any, cohort: Cohort, split: Splits, plan: Any, windows: int
) -> None:
    """Both halves' `report.html` of an adapt run. log: rows of adapters/training.fit; recipe: the Adapt; plan: its
    PrivacyPlan, or None; windows: how many it learned from."""
    base, study = recipe.backbone, report.study
    what = "an autoencoder" if base is None else f"a LoRA adapter on the frozen base {_name(base)}"
    used = {
        **_of(cohort),
        **({"Persons in training": str(len(split.train))} if plan is None else {"Units": _public(plan)}),
        **({"Persons held out": str(len(split.holdout))} if plan is None else {}),
        "Base": "none: trained whole" if base is None else _name(base),
        **({} if base is None else _shown(base)),
        "Steps": f"{recipe.train.max_steps}, peak learning rate {recipe.train.lr:g}",
        **({"Windows per step": str(recipe.train.batch)} if plan is None else {}),
        **_claims(plan),
    }
    counted = {} if plan is None else {"Persons in training": str(len(split.train)), "Units": _public(plan)}
    real = {**counted, "Windows": str(windows), **_drawn(log, plan)}
    made = {"adapter": f"adapt-{study}"}
    report = report.model_copy(
        update={"summary": f"{what[0].upper()}{what[1:]} learned from recordings of the cohort {cohort.card.name}."}
    )
    if recipe.represent:
        then = [
            ("what it is worth, and whom it gives away", _command("evaluate", study, represented=made["adapter"])),
            ("who was in the training data", _command("attack", study, **made)),
        ]
    else:
        then = [
            ("synthetic recordings from it", _command("generate", study, **made)),
            ("who was in the training data", _command("attack", study, **made, synthetic=f"generate-{study}")),
            (
                "what they are worth",
                _command("evaluate", study, synthetic=f"generate-{study}", attack=f"attack-{study}"),
            ),
        ]
    _write(run, report, log, plan, html.Training(used=used, following=then), real, "the recordings", cohort)


def pretrained(run: runs.Run, report: Report, log: Log, recipe: Any, cohort: Cohort, windows: int) -> None:
    """`release/report.html` of a pretrain run: simulated recordings only, so that it shows everything."""
    used = {
        **_of(cohort),
        "Simulated persons": str(len(cohort.persons)),
        "Windows": str(windows),
        "Steps": f"{recipe.train.max_steps} of {recipe.train.batch} windows, peak learning rate {recipe.train.lr:g}",
    }
    found = [c for c, asked in _recipes("adapt") if _pretrains(asked) == report.study]
    name = "behaviour" if recipe.represent else "tiny"
    report = report.model_copy(update={"summary": "A small base was trained from nothing on simulated recordings."})
    own = f"mien adapt my-recipe.yaml backbone.name={name} backbone.weights={run.name}"
    then = [("real recordings adapt this base", c) for c in found[:1] or [own]]
    page = html.release_html(report, _losses(log), training=html.Training(used=used, following=then))
    runs.write_text(run.release / "report.html", page)


def aligned(run: runs.Run, report: Report, plan: Any, cohort: Cohort) -> None:
    """Both halves' `report.html` of an align run. plan: of its preferences, or None."""
    logs = {}
    for file in sorted(run.private.glob("round-*/log.jsonl")):
        if rows := [json.loads(line) for line in file.read_text().splitlines()]:
            logs[file.parent.name.replace("-", " ")] = rows
    asked = report.config.get("align", {})
    steps = (asked.get(asked.get("method")) or {}).get("steps")
    used = {
        **_of(cohort),
        "Began with": str(asked.get("adapter")),
        "Learned by": f"{asked.get('method')}, {console.count(asked.get('rounds', 1), 'round')}"
        + (f" of {steps} steps" if steps else ""),
        "Preferences": "of simulated experts" if asked.get("preferences") is None else "of raters, from a file",
        **_claims(plan),
    }
    then = []
    if asked.get("method") != "reward":
        made, study, began = (
            {"adapter": run.name},
            report.study,
            _began(run.inputs["adapter"], str(asked.get("adapter"))),
        )
        then = [
            ("synthetic recordings from it", _command("generate", study, began, **made)),
            ("who was in the training data", _command("attack", study, began, **made, synthetic=f"generate-{study}")),
        ]
    source = asked.get("adapter")
    summary = f"An adapter went on from {source}, by what was preferred among its own samples."
    if asked.get("method") == "reward":
        summary = f"A reward was learned of what was preferred among samples of {source}, which stays as it is."
    report = report.model_copy(update={"summary": summary})
    one = next(iter(logs.values())) if len(logs) == 1 else ()
    extra = [p for name, log in logs.items() for p in _losses(log, "" if one else f" ({name})")]
    _write(run, report, one, plan, html.Training(used=used, following=then), {}, "raters' answers", cohort, extra)


def _write(
    run: runs.Run, report: Report, log: Log, plan: Any, told: html.Training, real: Mapping[str, str], what: str,
    cohort: Cohort, losses: Sequence[html.Picture] | None = None,
) -> None:  # fmt: skip
    losses = _losses(log) if losses is None else losses
    spent = [] if plan is None else [_spent(plan)]
    public = html.release_html(
        report, spent, training=replace(told, note=HIDDEN.format(what=what) if losses else "")
    )  # fmt: skip
    shown = [*losses, *(_clipped(log, plan) if plan is not None else ()), *spent]
    inside = replace(told, used={**told.used, **real})
    runs.write_text(run.private / "report.html", html.private_html(report, shown, training=inside))
    try:
        html.assert_leak_free(public, {"person": cohort.column("person"), "recording": cohort.column("id")})
    except MienError as error:  # the training is done and paid for: it is kept, without this page
        console.fail(str(error))
    else:
        runs.write_text(run.release / "report.html", public)


def _losses(log: Log, of: str = "") -> list[html.Picture]:
    """The loss by step, and of alignment what moves with it; nothing where nothing was logged."""
    named = {
        "loss": ("Training loss", "loss"),
        "rewards/accuracies": ("Pairs ordered as the raters did", "share of pairs"),
        "objective/scores": ("Reward of what is sampled", "reward"),
        "objective/kl": ("Distance from where it began", "KL, nats a document"),
    }
    out = []
    for key, (title, axis) in named.items():
        points = _points(log, key)
        if len(points) > 1:
            first, last = points[0], points[-1]
            out.append(
                html.Picture(
                    title=title + of, svg=pictures.by_step({axis: points}, axis, smooth=True),
                    caption=f"From {html.number(first[1])} at step {first[0]:g} to {html.number(last[1])} at step {last[0]:g}."
                    + (" On what it learned from: no held-out loss is measured while training." if key == "loss" else ""),
                )
            )  # fmt: skip
    return out


def _clipped(log: Log, plan: Any) -> list[html.Picture]:
    """What clipping did: the share of gradients that were longer than the bound, and where their middle lay."""
    out, whom = [], "group" if plan.groups else plan.unit
    if len(share := _points(log, "clipped")) > 1:
        out.append(
            html.Picture(
                title=f"Share of {whom}s whose gradient was clipped",
                svg=pictures.by_step({"clipped": share}, "share clipped", smooth=True, limits=(0, 1)),
                caption=f"Of the {whom}s drawn since the point before. Near 1, clipping decides every step's length; near"
                " 0, the noise is larger than it need be.",
            )
        )
    if len(norm := _points(log, "median_norm")) > 1:
        lines = {f"median of {whom}s": norm, "clip norm": _points(log, "clip_norm")}
        deviation = plan.gradient_noise / plan.expected_batch
        out.append(
            html.Picture(
                title="Length of gradients before clipping", svg=pictures.by_step(lines, "norm", log=True),
                caption=f"The noise added to the mean of a step has a standard deviation of {deviation:.3g} clip norms in every"
                " weight.",
            )
        )  # fmt: skip
    return out


def _spent(plan: Any) -> html.Picture:
    points = plan.spent()
    return html.Picture(
        title=f"Privacy spent: ε for each {plan.unit}",
        svg=pictures.by_step({"ε": points}, f"ε at δ = {plan.delta:.2g}", limits=(0, None)),
        caption=f"After all {points[-1][0]} steps it is the ε of the guarantee above. It follows from the plan alone, which was"
        " fixed before any recording was looked at.",
    )


def _points(log: Log, key: str) -> list[tuple[float, float]]:
    """(step, value) of what was logged and is a number; trainers that began to count again go on where the one before ended."""
    out, before, last = [], 0.0, 0.0
    for i, row in enumerate(log):
        step, value = float(row.get("step", i + 1)), row.get(key)
        before, last = before + (last if step <= last else 0.0), step
        if value is not None and np.isfinite(value):
            out.append((before + step, float(value)))
    return out


def _of(cohort: Cohort) -> dict[str, str]:
    return {"Cohort": cohort.card.name, "Licence": cohort.card.licence}


def _name(base: config.Plugin) -> str:
    return verbs.public(str(base.options.get("model", base.name)))


def _shown(base: config.Plugin) -> dict[str, str]:
    """Whose embeddings a model that writes was shown, where it was."""
    binder = base.options.get("binder")
    if not binder:
        return {}
    return {"Soft tokens": verbs.public(binder.get("run")) or f"the base {binder['base']['name']} alone"}


def _public(plan: Any) -> str:
    return f"{plan.n} {plan.unit}s, the public constant n that ε is computed for"


def _claims(plan: Any) -> dict[str, str]:
    """What was promised, from the plan."""
    if plan is None:
        return {"Privacy": "none (ε = ∞)"}
    sampled = f"each {plan.unit} enters a step with probability {plan.sample_rate:.3g}"
    clip = f"{plan.clipping}, at {plan.clip_norm:g}" + (" to begin with" if plan.clipping == "adaptive" else "")
    return {
        "Privacy": f"differential privacy for each {plan.unit}, δ = {plan.delta:.2g}",
        "Sampling": f"Poisson: {sampled}",
        "Noise multiplier": f"{plan.noise_multiplier:.3g}",
        "Clipping": clip + (f", in {plan.groups} groups" if plan.groups else ""),
    }


def _drawn(log: Log, plan: Any) -> dict[str, str]:
    drawn = [v for _, v in _points(log, "persons")]
    if plan is None or not drawn:
        return {}
    return {f"{plan.unit.capitalize()}s drawn per step": f"{np.mean(drawn):.3g} on average"}


# --- the next command -----------------------------------------------------------------------------------------------------
def _recipes(verb: str) -> Iterable[tuple[str, dict[str, Any]]]:
    return ((command, config.read(file)) for command, file in config.commands(verb))


def _began(digest: str, name: str) -> str:
    """The adapt run that a chain of alignments began with, as shipped recipes name it. digest, name: of the last adapter."""
    try:
        asked = runs.asked(runs.by_hash(digest))
    except MienError:  # gone: its name says what it can
        return re.sub("-[0-9a-f]{10}$", "", Path(name).name)
    return (
        f"adapt-{asked['study']}"
        if asked["verb"] == "adapt"
        else _began(asked["inputs"]["adapter"], asked["config"]["adapter"])
    )


def _command(verb: str, study: str, began: str | None = None, **keys: str) -> str:
    """The shipped recipe that says all this of this study; else one of the adapter that this one began with, else the first of the
    verb, with it on the command line."""
    near = first = ""
    for command, asked in _recipes(verb):
        if asked.get("study") == study and all(asked.get(k) == v for k, v in keys.items()):
            return command
        if set(keys) <= set(asked):
            near = near or (command if began is not None and asked.get("adapter") == began else "")
            first = first or (command if asked.get("study") != study else "")
    told = " ".join(f"{k}={v}" for k, v in {"study": study, **keys}.items())
    return f"{near or first or f'mien {verb} my-recipe.yaml'} {told}"


def _pretrains(asked: Mapping[str, Any]) -> str | None:
    """The study of the pretraining recipe that an adapt recipe's base comes from."""
    recipe = (asked.get("backbone") or {}).get("recipe")
    return None if recipe is None else config.read(recipe).get("study")
