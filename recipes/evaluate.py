"""What a synthetic cohort is worth: utility on held-out persons, fidelity, and utility beside leakage."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mien.core import config, console, plugins, runs, verbs
from mien.core.errors import MienError
from mien.core.records import Cohort, Signal, cut, recording_windows
from mien.core.results import Report, Result, environment
from mien.data import features, splits
from mien.data.load import open_cohort
from mien.evaluation import frontier, pictures
from mien.evaluation.protocols import Inputs, Tables, Windows
from mien.evaluation.report import html
from mien.generation.layout import Layout


class Evaluate(verbs.Recipe):
    """synthetic: a generate run; attack: an attack run on the same adapter (or null); utility, fidelity: metrics."""

    synthetic: str
    attack: str | None = None
    utility: tuple[config.Plugin, ...] = (config.Plugin(name="tstr"),)
    fidelity: tuple[config.Plugin, ...] = tuple(config.Plugin(name=n) for n in ("c2st", "spectra", "validity"))
    leakage: str = "reference.auc"


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("evaluate", __doc__ or "", Evaluate, argv)
    release = runs.find(recipe.synthetic, "generate")
    made_from = runs.asked(release)["inputs"]["adapter"]
    source = runs.by_hash(made_from)
    asked = runs.asked(source)["config"]
    cohort, left_out = open_cohort(config.Plugin(**asked["cohort"]), "evaluation")
    inputs = {"synthetic": runs.fingerprint(release), "adapter": made_from, "cohort": cohort.fingerprint}
    attack = None if recipe.attack is None else runs.find(recipe.attack, "attack", made_from)
    if attack is not None:
        inputs["attack"] = runs.fingerprint(attack)
    run = runs.Run.start("evaluate", recipe.study, recipe.model_dump(mode="json"), inputs, fresh=fresh)
    with run:
        if not run.reused:
            data = collect(cohort, release, source, asked)
            results: list[Result] = []
            metrics = [("utility", s) for s in recipe.utility] + [("fidelity", s) for s in recipe.fidelity]
            with console.progress("measuring", len(metrics)) as bar:
                for kind, section in metrics:
                    module, options = plugins.resolve(f"evaluation/{kind}", section)
                    results += module.measure(data, options)
                    bar.step(note=section.name)
            split = splits.Splits.read(source / "private" / "splits.json")
            n = len(split.holdout)
            report = Report(
                verb="evaluate", run=run.name, study=recipe.study, config=verbs.public(recipe.model_dump(mode="json")),
                inputs=inputs, data_fingerprint=cohort.fingerprint, results=tuple(results), guarantee=verbs.PLAIN,
                consent=left_out, environment=environment(recipe.seed),
                not_measured=(
                    *(() if attack else ("No attack was run on this adapter: its leakage is unknown, not absent.",)),
                    "Whether the synthetic recordings serve any task but this one, or any other group of people.",
                    "Whether rare persons are represented: coverage of outliers was not measured.",
                ),
                caveats=(
                    *((splits.WARNING,) if split.kind == "random_window" else ()),
                    f"Intervals are over {n} held-out persons and say what other persons like these would give; one"
                    " split and one seed were used, and their own spread is not in the intervals.",
                ),
            )  # fmt: skip
            report.write(run.release / "report.json")
            write_pages(
                run,
                report,
                data,
                None if attack is None else Report.read(attack / "release" / "report.json"),
                cohort,
                recipe,
            )
    show(Report.read(run.release / "report.json"))
    console.say(f"report: {run.release / 'report.html'}")
    console.say(f"with real recordings beside, not to be shared: {run.private / 'report.html'}")
    return 0


def collect(cohort: Cohort, release: Path, source: Path, asked: dict) -> Inputs:
    """Real windows of both sides, the synthetic ones, and the training windows through the codec."""
    split = splits.Splits.read(source / "private" / "splits.json")
    layout = Layout.read(source / "release" / "adapter" / "layout.json")
    synthetic = Cohort.read(release / "release" / "cohort")
    sides: dict[str, list] = {"train": [], "holdout": []}
    for r in cohort:
        for w in recording_windows(r, layout.seconds, asked["stride_s"]) if layout.task in r.labels else ():
            streams, why = cut(r, w)
            if not why and (side := split.side(w)) in sides:
                sides[side].append((r, w, {n: s for n, s in streams.items() if n in layout.streams}))
    if not sides["holdout"]:
        raise MienError("no window of a held-out person is left to evaluate on; see the consent counts above")
    card = synthetic.card
    train, test = (features.of_windows(sides[s], card, cohort.card, layout.task) for s in ("train", "holdout"))
    coded = []
    for r, w, streams in sides["train"]:
        label = str(r.labels[layout.task])
        coded.append((r, w, layout.decode(layout.encode([streams], [label])[0])[1]))
    made = [(r, w, dict(r.streams)) for r in synthetic for w in recording_windows(r, layout.seconds, layout.seconds)]
    valid = Report.read(release / "release" / "report.json").results[0].value
    return Inputs(
        tables=Tables(
            train=train, test=test, synthetic=features.of_windows(made, card, card, layout.task),
            codec=features.of_windows(coded, card, cohort.card, layout.task), classes=layout.classes,
        ),
        windows=Windows(
            train=[s for _, _, s in sides["train"]], test=[s for _, _, s in sides["holdout"]], synthetic=[s for *_, s in made],
            card=card, seconds=layout.seconds, valid_sequences=float(valid or 0.0),
        ),
    )  # fmt: skip


def write_pages(
    run: runs.Run, report: Report, data: Inputs, attack: Report | None, cohort: Cohort, recipe: Evaluate
) -> None:
    tstr = [r for r in report.results if r.metric.endswith(" accuracy") and r.metric.split(" ")[0] in ROWS]
    shown = []
    if tstr:
        chart = pictures.whiskers(tstr, "accuracy on held-out persons")
        shown.append(
            html.Picture(
                title="Utility", svg=chart, caption="Accuracy on windows of held-out persons, 95 % over persons."
            )
        )
    leak = (
        next((r for r in attack.results if r.metric == recipe.leakage and r.unit == "recording"), None)
        if attack
        else None
    )
    if tstr and leak is not None:
        points = [frontier.Point(label="this release (plain)", utility=tstr[0], leakage=leak)]
        blind = next((b.value for b in leak.baselines if b.name == "blind"), None)
        svg = frontier.draw(points, [r for r in tstr if r.metric.split(" ")[0] in ("TRTR", "majority")], blind)
        shown.append(
            html.Picture(
                title="Privacy and utility",
                svg=svg,
                caption="Utility against leakage; 0.5 on the x axis is an attacker who learns nothing. More releases will be more points.",
            )
        )
    labels = data.tables.synthetic.label
    first = [int(np.flatnonzero(labels == c)[0]) for c in data.tables.classes if c in set(labels)]
    windows: list[dict[str, Signal]] = [dict(data.windows.synthetic[i]) for i in first]
    names = [str(labels[i]) for i in first]
    svg = pictures.examples(windows, names)
    shown.append(
        html.Picture(
            title="Synthetic recordings",
            svg=svg,
            caption="The first synthetic window of each class, in physical units.",
        )
    )
    sections = [("Attacks", attack)] if attack else []
    page = html.release_html(report, shown, sections)
    html.assert_leak_free(page, {"person": cohort.column("person"), "recording": cohort.column("id")})
    beside = [int(np.flatnonzero(data.tables.train.label == c)[0]) for c in names]
    real = [dict(data.windows.train[i]) for i in beside]
    for stream in data.windows.card.streams:
        svg = pictures.real_beside_synthetic(real, windows, names, stream)
        shown.append(
            html.Picture(
                title=f"Real beside synthetic: {stream}",
                svg=svg,
                caption="One training window and one synthetic window of each class, one scale.",
            )
        )
    runs.write_text(run.private / "report.html", html.private_html(report, shown, sections))
    runs.write_text(run.release / "report.html", page)


ROWS = ("TSTR", "TRTR", "codec", "metadata", "majority")


def show(report: Report) -> None:
    console.table(
        f"evaluation of {report.study}", ["measure", "value", "95 % over persons", "persons"],
        [[r.metric, html.number(r.value), html.interval(r), r.n_persons or ""] for r in report.results],
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
