"""Attack an adapter and its synthetic cohort: who was in the training data, and whom do the recordings look like?"""

from __future__ import annotations

from functools import partial

from pydantic import Field

from mien.attacks import audit, judge
from mien.attacks.releases import Release
from mien.attacks.signals import Signals, TokenWriter
from mien.core import config, console, intervals, runs, verbs
from mien.core.records import Cohort
from mien.core.results import Report, environment
from mien.data import features, splits
from mien.data.load import open_cohort
from mien.evaluation.report import html, pages
from mien.generation import observed
from mien.generation.adapted import open_adapted
from mien.generation.shadows import Shadows
from mien.generation.tokens import Documents


class Attack(audit.Asked, verbs.Recipe):
    """adapter: an adapt run; synthetic: a generate run made from it (or null); shadows: how many shadow models, instead
    of the profile's; reference: a cohort of other persons, which attacks on a release compare with; the rest: Asked."""

    adapter: str
    synthetic: str | None = None
    shadows: Shadows | None = None
    reference: config.Plugin | None = None
    batch: int = Field(default=64, ge=1)


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("attack", __doc__ or "", Attack, argv)
    source = runs.find(recipe.adapter, "adapt")
    asked = runs.asked(source)["config"]
    cohort, left_out = open_cohort(config.Plugin(**asked["cohort"]), "audit")
    inputs = {"adapter": runs.fingerprint(source), "cohort": runs.keyed(cohort.fingerprint)}
    release = None if recipe.synthetic is None else runs.find(recipe.synthetic, "generate", inputs["adapter"])
    inputs |= {} if release is None else {"synthetic": runs.fingerprint(release)}
    run = runs.Run.start("attack", recipe.study, recipe.model_dump(mode="json"), inputs, fresh=fresh)
    with run:
        if not run.reused:
            split = splits.Splits.read(source / "private" / "splits.json")
            guarantee = Report.read(source / "release" / "report.json").guarantee
            cohort = cohort.select(lambda p: p in {*split.train, *split.holdout})
            member = {p: p in split.train for p in cohort.persons}
            found, missing, n_out = audit.Audit(profile=recipe.profile), [], len(split.holdout)
            if split.kind == "random_window":
                missing.append(f"Membership and re-identification were not attacked. {splits.WARNING}")
            else:
                signals, documents = seen(run, source, cohort, split, recipe)
                table = tabulate(cohort, asked)
                traits = dict(zip(cohort.column("person"), cohort.column("attributes"), strict=True))
                found.model(recipe, signals, table, traits, recipe.seed, split.coins)
                if release is None:
                    missing.append("No synthetic cohort was named, so nothing was said about re-identification in it.")
                else:
                    table, _ = both(cohort, documents, asked)
                    synthetic, tokens = both(Cohort.read(release / "release" / "cohort"), documents, asked)
                    others = recipe.reference and both(open_cohort(recipe.reference, "audit")[0], documents, asked)
                    sight = Release(
                        synthetic=synthetic, candidates=table, member=member, candidate_tokens=list(documents),
                        synthetic_tokens=tokens, reference=others and others[0], reference_tokens=others and others[1],
                    )  # fmt: skip
                    found.release(recipe, sight)
            report = Report(
                verb="attack", run=run.name, study=recipe.study, config=verbs.public(recipe.model_dump(mode="json")),
                summary=audit.summary(len(split.train), n_out, cohort.card.name, recipe.profile),
                inputs=inputs, data_fingerprint=inputs["cohort"], results=tuple(found.results), guarantee=guarantee,
                consent=left_out, environment=environment(recipe.seed), not_measured=tuple(missing), restrictions=cohort.card.restrictions,
                caveats=(
                    f"With {len(split.train)} + {n_out} persons no false positive rate below {100 / n_out:.3g} % can be"
                    f" told from zero; certifying 1 % takes {intervals.certifiable(0.01)} held-out persons.",
                    *splits.warnings(split), *judge.doubts(found.results),
                    *(() if guarantee == verbs.PLAIN else (verbs.UNCOVERED,)),
                ),
            )  # fmt: skip
            pages.attack(run, report, found, n_out, cohort)
            report.write(run.release / "report.json")
    results = audit.headlines(Report.read(run.release / "report.json").results)
    console.table(f"attacks on {recipe.study}", ["attack", "unit", "value", "95 % over persons", "beside"], [
        [r.metric, r.unit, html.value(r), html.interval(r), html.beside(r)] for r in results
    ])  # fmt: skip
    console.lines(f"{r.metric} per {r.unit}: {r.note}" for r in results if r.value is None)
    console.say(f"report: {run.release / 'report.html'}")
    return 0


def tabulate(cohort: Cohort, asked: dict, *keys: str) -> features.WindowTable:
    return features.tabulate(cohort, **{k: asked[k] for k in ("seconds", "stride_s", "task", "valid", *keys)})


def both(cohort: Cohort, like: Documents, asked: dict) -> tuple[features.WindowTable, list]:
    """A cohort's windows as the attacker on a release has them: statistics of the modelled streams, and tokens."""
    made = like.like(cohort)
    return tabulate(cohort, asked, "streams").rows(made.usable), list(made)


def seen(run: runs.Run, source, cohort: Cohort, split: splits.Splits, recipe: Attack) -> tuple[Signals, Documents]:
    """What the attacks see of the model, from the run's private half or made now."""
    adapted = open_adapted(source)
    documents = Documents.encode(cohort, adapted.layout, **{k: adapted.config[k] for k in ("stride_s", "valid")})
    file, needs = run.private / "signals.parquet", audit.needs(recipe.named("membership"))
    if not file.exists():
        wanted = recipe.shadows or Shadows(count=audit.SHADOWS[recipe.profile])
        with TokenWriter(run.private / "tokens.parquet") as writer:
            found = observed.observe(
                adapted, documents, split, batch=recipe.batch, slope="slope" in needs, seed=recipe.seed,
                tokens=writer.add if "tokens" in needs else None, folder=run.private,
                shadows=wanted, enough=partial(audit.narrow, wanted.width),
            )  # fmt: skip
        Signals(made_with=run.inputs["adapter"], parts=tuple(p.name for p in adapted.layout.parts), **found).write(file)
    return Signals.read(file, run.inputs["adapter"]), documents


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
