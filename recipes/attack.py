"""Attack an adapter and its synthetic cohort: who was in the training data, and whom do the recordings look like?"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from mien.attacks import judge
from mien.attacks.signals import Signals
from mien.core import config, console, intervals, plugins, runs, verbs
from mien.core.records import Cohort
from mien.core.results import Report, environment
from mien.data import features, splits
from mien.data.load import open_cohort
from mien.evaluation.report import html, pages
from mien.generation.adapted import open_adapted
from mien.generation.likelihood import losses
from mien.generation.tokens import Documents


class Attack(verbs.Recipe):
    """adapter: an adapt run; synthetic: a generate run made from it (or null); membership, identity: which attacks."""

    adapter: str
    synthetic: str | None = None
    membership: tuple[config.Plugin, ...] = (config.Plugin(name="loss"), config.Plugin(name="reference"))
    identity: tuple[config.Plugin, ...] = (config.Plugin(name="linkage"),)
    batch: int = Field(default=64, ge=1)


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("attack", __doc__ or "", Attack, argv)
    source = runs.find(recipe.adapter, "adapt")
    asked = runs.asked(source)["config"]
    cohort, left_out = open_cohort(config.Plugin(**asked["cohort"]), "audit")
    inputs = {"adapter": runs.fingerprint(source), "cohort": runs.keyed(cohort.fingerprint)}
    release = None if recipe.synthetic is None else runs.find(recipe.synthetic, "generate", inputs["adapter"])
    if release is not None:
        inputs["synthetic"] = runs.fingerprint(release)
    run = runs.Run.start("attack", recipe.study, recipe.model_dump(mode="json"), inputs, fresh=fresh)
    with run:
        if not run.reused:
            split = splits.Splits.read(source / "private" / "splits.json")
            guarantee = Report.read(source / "release" / "report.json").guarantee
            cohort = cohort.select(lambda p: p in {*split.train, *split.holdout})
            member = {p: p in split.train for p in cohort.persons}
            results, curves, missing = [], {}, []
            if split.kind == "random_window":
                missing.append(f"Membership and re-identification were not attacked. {splits.WARNING}")
            else:
                signals = seen(run, source, cohort, member, recipe)
                table = tabulate(cohort, asked)
                console.say("  blind attack: can the split be told apart without the model?")
                results, curves = judge.membership(recipe.membership, signals.with_table(table), recipe.seed)
                synthetic = release and tabulate(Cohort.read(release / "release" / "cohort"), asked)
                for section in recipe.identity if synthetic else ():
                    module, options = plugins.resolve("attacks/identity", section)
                    results += module.score(synthetic, table, member, options).results()
                if release is None:
                    missing.append("No synthetic cohort was named, so nothing was said about re-identification in it.")
            n_out = len(split.holdout)
            report = Report(
                verb="attack", run=run.name, study=recipe.study, config=verbs.public(recipe.model_dump(mode="json")),
                summary=(
                    f"Attackers who hold recordings of {len(split.train)} persons the adapter was trained on and of {n_out}"
                    f" it never saw (cohort {cohort.card.name}) try to tell them apart."
                ),
                inputs=inputs, data_fingerprint=inputs["cohort"], results=tuple(results), guarantee=guarantee,
                consent=left_out, environment=environment(recipe.seed), not_measured=(
                    *missing,
                    "Attackers with shadow models (LiRA, RMIA, BaVarIA) are stronger than the loss attacks here.",
                    "Attribute inference, embedding inversion and canaries were not tried.",
                ),
                caveats=(
                    f"With {len(split.train)} + {n_out} persons no false positive rate below {100 / n_out:.3g} % can be"
                    f" told from zero; certifying 1 % takes {intervals.certifiable(0.01)} held-out persons.",
                    *judge.doubts(results),
                    *(() if guarantee == verbs.PLAIN else (verbs.UNCOVERED,)),
                ),
            )  # fmt: skip
            pages.attack(run, report, curves, n_out, cohort)
            report.write(run.release / "report.json")
    found = Report.read(run.release / "report.json").results
    console.table(
        f"attacks on {recipe.study}", ["attack", "unit", "value", "95 % over persons", "beside"],
        [[r.metric, r.unit, html.value(r), html.interval(r), html.beside(r)] for r in found],
    )  # fmt: skip
    console.say(f"report: {run.release / 'report.html'}")
    return 0


def tabulate(cohort: Cohort, asked: dict) -> features.WindowTable:
    return features.tabulate(cohort, seconds=asked["seconds"], stride_s=asked["stride_s"], task=asked["task"])


def seen(run: runs.Run, source, cohort: Cohort, member: dict[str, bool], recipe: Attack) -> Signals:
    """What the attacks see of the model, from the run's private half or made now."""
    file, made_with = run.private / "signals.parquet", run.inputs["adapter"]
    if file.exists():
        return Signals.read(file, made_with)
    adapted = open_adapted(source)
    documents = Documents.encode(cohort, adapted.layout, stride_s=adapted.config["stride_s"])
    tokens, loss, base = losses(adapted, documents, recipe.batch)
    person = np.array(documents.persons, dtype=object)[documents.person]
    signals = Signals(
        recording=np.array(documents.recordings, dtype=object)[documents.recording], person=person,
        member=np.array([member[p] for p in person]), made_with=made_with, n_tokens=tokens, loss=loss, loss_base=base,
        label=np.array(adapted.layout.classes, dtype=object)[documents.label],
    )  # fmt: skip
    signals.write(file)
    return signals


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
