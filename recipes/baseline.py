"""What classical learners reach on a cohort, on persons they have not seen: the bar for everything that is adapted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mien.core import config, console, runs, verbs
from mien.core.errors import MienError
from mien.core.results import Report, environment
from mien.data import features, lineage, matching, splits
from mien.data.load import open_cohort
from mien.evaluation import graded
from mien.evaluation import leave_one_out as held_out
from mien.evaluation.report import html, pages
from mien.privacy import logistic
from mien.privacy.plan import up

MAIN, RIVALS = "random forest", ("majority", "mean", "attributes only", "metadata only")


class Baseline(verbs.Recipe):
    """cohort, seconds, stride_s, streams, valid: as in adapt; task: of classes, or a number such as phq8; folds: groups of
    persons (default: each person alone); split: one given split in place of folds; average: metrics over all windows, or the
    mean over persons; scale: person (each person's statistics by their own mean and deviation, labels unseen) or none; trees,
    seeds: of forests, and how often chance is drawn anew; match: attributes in which tested persons of different classes must
    agree, for a second table of them alone; private: logistic regressions with a guarantee for each person (of classes)."""

    cohort: config.Plugin
    task: str
    seconds: float = Field(default=60.0, gt=0)
    stride_s: float = Field(default=60.0, gt=0)
    streams: tuple[str, ...] = ()
    valid: float = Field(default=1.0, gt=0, le=1)
    folds: int | None = Field(default=None, ge=2)
    split: splits.Split | None = None
    average: held_out.Average = "window"
    scale: Literal["person", "none"] = "none"
    trees: int = Field(default=200, ge=1)
    seeds: int = Field(default=5, ge=1)
    match: matching.Match | None = None
    private: logistic.Logistic | None = logistic.Logistic()


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("baseline", __doc__ or "", Baseline, argv)
    cohort, left_out = open_cohort(recipe.cohort, "evaluation")
    classes, inputs = graded.classes(cohort, recipe.task), {"cohort": runs.keyed(cohort.fingerprint)}
    if not classes and (recipe.match or recipe.average == "person"):
        raise MienError(f"{recipe.task!r} is a number: match and average are of classes; leave them out")
    run = runs.Run.start("baseline", recipe.study, recipe.model_dump(mode="json"), inputs, fresh=fresh)
    with run:
        if not run.reused:
            table = features.tabulate(
                cohort, seconds=recipe.seconds, stride_s=recipe.stride_s, task=recipe.task, streams=recipe.streams, valid=recipe.valid
            )  # fmt: skip
            table = held_out.standardised(table) if recipe.scale == "person" else table
            lineage.note(run.private, table.person)
            split = None if recipe.split is None else splits.drawn(cohort, recipe.split, recipe.seed)
            made = held_out.folds(table, classes, recipe.folds, split, recipe.seed)
            test = table.rows(held_out.tested(made))
            learners, claims = chosen(recipe, cohort, classes, made)
            with console.progress(f"{len(made)} fold(s) of {len(set(table.person))} persons", len(learners)) as bar:
                found = held_out.predict(made, learners, lambda name: bar.step(note=name))
            if classes:
                alike = matching.alike(cohort, test, recipe.match, recipe.seed)
                results = held_out.results(made, found, recipe.average, MAIN, RIVALS, alike)
            else:
                results = graded.results(made, found, MAIN, RIVALS)
            skipped = "; ".join(f"{n} window(s): {w}" for w, n in table.skipped.items())
            report = Report(
                verb="baseline", run=run.name, study=recipe.study, config=verbs.public(recipe.model_dump(mode="json")),
                summary=(
                    f"Window statistics of {cohort.card.name} (licence {cohort.card.licence}): {len(table)} windows of {recipe.seconds:g} s"
                    f" of {len(set(table.person))} persons; tested on {len(test)} of {len(set(test.person))}, none trained on then."
                ),
                inputs=inputs, data_fingerprint=inputs["cohort"], consent=left_out, environment=environment(recipe.seed),
                results=tuple(results),
                guarantee="none for this page, whose figures were computed from the recordings; no model was kept",
                not_measured=tuple([f"What is in windows that were left out: {skipped}."] if skipped else []),
                caveats=(
                    *claims, *(splits.warnings(split) if split else ()),
                    *((held_out.SCALED,) if recipe.scale == "person" else ()), held_out.METADATA,
                ),
            )  # fmt: skip
            pages.baselines(run, report, cohort, MAIN)
            report.write(run.release / "report.json")
    shown = Report.read(run.release / "report.json").results
    rows = [[r.metric, html.value(r), html.interval(r), html.beside(r)] for r in shown]
    titles = ["measure", "value", "95 % over persons", "beside"]
    console.table(f"baselines of {recipe.study}, {console.count(shown[0].n_persons, 'person')}", titles, rows)
    console.say(f"report: {run.release / 'report.html'}")
    return 0


def chosen(recipe: Baseline, cohort, classes: tuple[str, ...], made: list) -> tuple[dict, list[str]]:
    """The learners by name, each with its number of seeds; and what is claimed of the private ones."""
    learners, claims = (held_out if classes else graded).usual(recipe.trees, recipe.seeds), []
    if (private := recipe.private) is None or not classes:
        return learners, claims
    n = min(len(set(f.table.person[f.train])) for f in made)
    card = features.only(cohort.card, recipe.streams)
    columns = private.chosen(features.names(card))
    public = (0.0, 1.0) if recipe.scale == "person" else features.spans(card)
    for epsilon in private.epsilons:
        plan = private.plan(epsilon, n)
        learners[f"private, ε = {epsilon:g}"] = (
            logistic.learner(plan, private, classes, columns, public),
            recipe.seeds,
        )
        claims.append(
            f"Private, ε = {up(epsilon)}: {plan.guarantee().sentence()}. It holds for the weights of one fold's model with secret"
            " noise; here the noise comes from the recipe's seed, so that the table can be made again."
        )
    return learners, claims


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
