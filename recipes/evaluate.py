"""What a synthetic cohort is worth: utility on held-out persons, fidelity, and utility beside leakage."""

from __future__ import annotations

from mien.core import config, console, plugins, runs, verbs
from mien.core.records import Cohort
from mien.core.results import Report, Result, environment
from mien.data import splits
from mien.data.load import open_cohort
from mien.evaluation.protocols import gather
from mien.evaluation.report import html, pages
from mien.generation.layout import Layout


class Evaluate(verbs.Recipe):
    """synthetic: a generate run; attack: an attack run on the same adapter (or null); utility, fidelity: metrics;
    leakage: the attack's metric on the privacy-utility picture; beside: other evaluate runs to show side by side."""

    synthetic: str
    attack: str | None = None
    utility: tuple[config.Plugin, ...] = (config.Plugin(name="tstr"),)
    fidelity: tuple[config.Plugin, ...] = tuple(config.Plugin(name=n) for n in ("c2st", "spectra", "validity"))
    leakage: str = "reference.auc"
    beside: tuple[str, ...] = ()


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("evaluate", __doc__ or "", Evaluate, argv)
    release = runs.find(recipe.synthetic, "generate")
    made_from = runs.asked(release)["inputs"]["adapter"]
    source = runs.by_hash(made_from)
    asked = runs.asked(source)["config"]
    cohort, left_out = open_cohort(config.Plugin(**asked["cohort"]), "evaluation")
    inputs = {"synthetic": runs.fingerprint(release), "adapter": made_from, "cohort": runs.keyed(cohort.fingerprint)}
    attack = None if recipe.attack is None else runs.find(recipe.attack, "attack", made_from)
    if attack is not None:
        inputs["attack"] = runs.fingerprint(attack)
    others = [runs.find(name, "evaluate") for name in recipe.beside]
    inputs |= {f"beside {i}": runs.fingerprint(other) for i, other in enumerate(others)}
    run = runs.Run.start("evaluate", recipe.study, recipe.model_dump(mode="json"), inputs, fresh=fresh)
    with run:
        if not run.reused:
            split = splits.Splits.read(source / "private" / "splits.json")
            guarantee = Report.read(source / "release" / "report.json").guarantee
            layout = Layout.read(source / "release" / "adapter" / "layout.json")
            synthetic = Cohort.read(release / "release" / "cohort")
            data = gather(
                cohort, synthetic, split, seconds=layout.seconds, stride_s=asked["stride_s"], task=layout.task,
                through=layout.round_trip, valid=asked["valid"],
                valid_sequences=Report.read(release / "release" / "report.json").results[0].value or 0.0,
            )  # fmt: skip
            results: list[Result] = []
            metrics = [("utility", s) for s in recipe.utility] + [("fidelity", s) for s in recipe.fidelity]
            with console.progress("measuring", len(metrics)) as bar:
                for kind, section in metrics:
                    module, options = plugins.resolve(f"evaluation/{kind}", section)
                    results += module.measure(data, options)
                    bar.step(note=section.name)
            report = Report(
                verb="evaluate", run=run.name, study=recipe.study, config=verbs.public(recipe.model_dump(mode="json")),
                summary=(
                    f"A frozen base ({asked['backbone'].get('model', asked['backbone']['name'])}) was LoRA-adapted to"
                    f" recordings of {len(split.train)} persons of the cohort {cohort.card.name}, licence {cohort.card.licence};"
                    f" {len(synthetic)} synthetic recordings of {layout.seconds:g} s were sampled from it. Utility is"
                    f" measured on {len(data.tables.test)} windows of {len(set(data.tables.test.person))} persons."
                ),
                inputs=inputs, data_fingerprint=inputs["cohort"], results=tuple(results), guarantee=guarantee,
                restrictions=tuple(dict.fromkeys((*cohort.card.restrictions, *synthetic.card.restrictions))),
                consent=left_out, environment=environment(recipe.seed),
                not_measured=(
                    *(() if attack else ("No attack was run on this adapter: its leakage is unknown, not absent.",)),
                    "Whether the synthetic recordings serve any task but this one, or any other group of people.",
                    "Whether rare persons are represented: coverage of outliers was not measured.",
                ),
                caveats=(
                    *splits.warnings(split),
                    *(() if guarantee == verbs.PLAIN else (verbs.UNCOVERED,)),
                    f"Intervals are over {len(split.holdout)} held-out persons and say what other persons like these"
                    " would give; one split and one seed were used, and their own spread is not in the intervals.",
                ),
            )  # fmt: skip
            found = None if attack is None else Report.read(attack / "release" / "report.json")
            pages.evaluation(
                run, report, data, found, recipe.leakage, cohort, [pages.Evaluated.read(o) for o in others]
            )
            report.write(run.release / "report.json")
    shown = Report.read(run.release / "report.json").results
    console.table(
        f"evaluation of {recipe.study}", ["measure", "value", "95 % over persons", "persons"],
        [[r.metric, html.value(r), html.interval(r), r.n_persons or ""] for r in shown],
    )  # fmt: skip
    if recipe.beside:
        console.say("side by side with " + ", ".join(recipe.beside) + ": in the report")
    console.say(f"with real recordings beside, not to be shared: {run.private / 'report.html'}")
    console.say(f"report: {run.release / 'report.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
