"""What a synthetic cohort, or a representation, is worth on held-out persons, beside what it gives away."""

from __future__ import annotations

from typing import Literal

from mien.adapters import personal
from mien.adapters.represented import elsewhere, opened
from mien.attacks import represented as attacked
from mien.core import config, console, runs, verbs
from mien.core.errors import MienError
from mien.core.results import Report
from mien.data import matching, splits
from mien.data.load import open_cohort
from mien.evaluation import explain, explained, personalised, reports, transferred
from mien.evaluation.protocols import gather, measured
from mien.evaluation.report import html, pages
from mien.generation.adapted import written
from mien.generation.sample import cohort_of


class Evaluate(verbs.Recipe):
    """synthetic: a generate run; or represented: an adapt run of a representation; of that one average: of macro-F1, over persons
    or windows; dimension: in which it is attacked; explain: what carried it; transfer: its worth elsewhere; personal: persons'
    own adapters; match: what persons of different classes must agree in, whose utility is told again; attack: a run on the same
    adapter; utility, fidelity: metrics; leakage: the attack's, on the picture; beside: other runs, side by side."""

    synthetic: str | None = None
    represented: str | None = None
    average: Literal["person", "window"] = "window"
    dimension: int = 16
    explain: explained.Explain | None = None
    transfer: transferred.Transfer | None = None
    personal: personalised.Personal | None = None
    match: matching.Match | None = None
    attack: str | None = None
    utility: tuple[config.Plugin, ...] = (config.Plugin(name="tstr"),)
    fidelity: tuple[config.Plugin, ...] = tuple(config.Plugin(name=n) for n in ("c2st", "spectra", "validity"))
    leakage: str = "reference.auc"
    beside: tuple[str, ...] = ()


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("evaluate", __doc__ or "", Evaluate, argv)
    of_one = recipe.explain or recipe.transfer or recipe.personal
    if (recipe.synthetic is None) == (recipe.represented is None) or (recipe.synthetic and of_one):
        raise MienError("name either a generate run or an adapt run (represented, with explain, transfer or personal)")
    run = of_synthetic(recipe, fresh) if recipe.synthetic else of_representation(recipe, fresh)
    shown = Report.read(run.release / "report.json").results
    console.table(
        f"evaluation of {recipe.study}", ["measure", "value", "95 % over persons", "persons", *(["beside"] if recipe.represented else [])],
        [[r.metric, html.value(r), html.interval(r), r.n_persons or "", *([html.beside(r)] if recipe.represented else [])] for r in shown],
    )  # fmt: skip
    console.lines([f"side by side with {', '.join(recipe.beside)}: in the report"] if recipe.beside else ())
    if recipe.synthetic or recipe.explain:
        console.say(f"with single persons' data, not to be shared: {run.private}")
    console.say(f"report: {run.release / 'report.html'}")
    return 0


def of_synthetic(recipe: Evaluate, fresh: bool) -> runs.Run:
    release = runs.find(str(recipe.synthetic), "generate")
    made_from = runs.asked(release)["inputs"]["adapter"]
    source = runs.by_hash(made_from)
    asked = runs.asked(source)["config"]
    cohort, left_out = open_cohort(config.Plugin(**asked["cohort"]), "evaluation")
    inputs = {"synthetic": runs.fingerprint(release), "adapter": made_from, "cohort": runs.keyed(cohort.fingerprint)}
    attack = None if recipe.attack is None else runs.find(recipe.attack, "attack", made_from)
    inputs |= {} if attack is None else {"attack": runs.fingerprint(attack)}
    others = [runs.find(name, "evaluate") for name in recipe.beside]
    inputs |= {f"beside {i}": runs.fingerprint(other) for i, other in enumerate(others)}
    run = runs.Run.start("evaluate", recipe.study, recipe.model_dump(mode="json"), inputs, fresh=fresh)
    with run:
        if not run.reused:
            split = splits.Splits.read(source / "private" / "splits.json")
            guarantee = Report.read(source / "release" / "report.json").guarantee
            layout = written(source)
            synthetic = cohort_of(release)
            data = gather(
                cohort, synthetic, split, seconds=layout.seconds, stride_s=asked["stride_s"], task=layout.task, valid=asked["valid"],
                through=layout.round_trip, valid_sequences=Report.read(release / "release" / "report.json").results[0].value or 0.0,
            )  # fmt: skip
            alike = matching.alike(cohort, data.tables.test, recipe.match, recipe.seed)
            results = measured(data, recipe.utility, recipe.fidelity, alike)
            report = reports.of_synthetic(
                run, recipe, inputs, results, guarantee, cohort, synthetic, data, split, asked, left_out, attack is not None
            )  # fmt: skip
            found = None if attack is None else Report.read(attack / "release" / "report.json")
            shown = [pages.Evaluated.read(o) for o in others]
            pages.evaluation(run, report, data, found, recipe.leakage, cohort, shown)
            report.write(run.release / "report.json")
    return run


def of_representation(recipe: Evaluate, fresh: bool) -> runs.Run:
    source = runs.find(str(recipe.represented), "adapt")
    cohort, _ = open_cohort(config.Plugin(**runs.asked(source)["config"]["cohort"]), "evaluation")
    inputs = {"adapter": runs.fingerprint(source), "cohort": runs.keyed(cohort.fingerprint)}
    others = [runs.find(name, "evaluate") for name in recipe.beside]
    inputs |= transferred.inputs(recipe.transfer) | {f"beside {i}": runs.fingerprint(x) for i, x in enumerate(others)}
    run = runs.Run.start("evaluate", recipe.study, recipe.model_dump(mode="json"), inputs, fresh=fresh)
    with run:
        if not run.reused:
            o = opened(source, "evaluation")
            there = transferred.of(o, elsewhere, recipe.transfer, recipe.seed)
            there.results += personalised.of(
                o, personal.predicting(recipe.personal, source), personal.probabilities, recipe.personal, recipe.seed
            )
            found = explained.of(o, attacked.each_recognised, recipe.explain, recipe.seed)
            results = transferred.own(o, recipe.average, recipe.match, recipe.seed) + attacked.of(o, recipe.dimension)
            results += () if found is None else explain.write(found, run.private, run.release)
            adapted, *reports_of = (Report.read(p / "release" / "report.json") for p in (source, *others))
            report = reports.of_representation(run, recipe, inputs, [*results, *there.results], adapted, o, there)
            pages.represented(run, report, o.cohort, reports_of, found, there.cohorts)
            report.write(run.release / "report.json")
    return run


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
