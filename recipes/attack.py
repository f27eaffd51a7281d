"""Attack an adapter and its synthetic cohort: who was in the training data, and whom do the recordings look like?"""

from __future__ import annotations

from functools import partial

from pydantic import Field

from mien.adapters import likelihoods
from mien.adapters.represented import opened
from mien.attacks import audit, represented
from mien.attacks.releases import Release
from mien.attacks.signals import Signals, TokenWriter
from mien.core import config, console, runs, verbs
from mien.core.records import Cohort
from mien.core.results import Report
from mien.data import splits
from mien.data.load import open_cohort
from mien.evaluation.report import html, pages
from mien.generation import observed
from mien.generation.adapted import open_adapted
from mien.generation.sample import cohort_of
from mien.generation.shadows import Shadows


class Attack(audit.Asked, verbs.Recipe):
    """adapter: an adapt run; synthetic: a generate run made from it (or null); shadows: how many shadow models, instead
    of the profile's; reference: a cohort of other persons, which attacks on a release compare with; batch: windows at once;
    dimension: in which vectors are attacked, of a representation or an autoencoder; the rest: Asked."""

    adapter: str
    synthetic: str | None = None
    shadows: Shadows | None = None
    reference: config.Plugin | None = None
    batch: int = Field(default=64, ge=1)
    dimension: int = Field(default=16, ge=1)


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("attack", __doc__ or "", Attack, argv)
    source = runs.adapter(recipe.adapter)
    asked = runs.asked(source)["config"]
    whole = bool(asked.get("represent") or asked.get("autoencoder"))  # no tokens: its vectors are attacked
    attacks = audit.of_representation(recipe, bool(asked.get("autoencoder"))) if whole else recipe
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
                signals, sight = (of_vectors if whole else of_tokens)(run, source, cohort, split, recipe)
                traits = dict(zip(cohort.column("person"), cohort.column("attributes"), strict=True))
                found.model(attacks, signals, sight.table, traits, recipe.seed, split.coins)
                missing += getattr(sight, "unseen", ())
                if isinstance(sight, likelihoods.Sight):
                    found.results += represented.of(sight.o, recipe.dimension, recipe.seed)
                if release is None:
                    missing.append("No synthetic cohort was named, so nothing was said about re-identification in it.")
                else:
                    table, own = sight.both(cohort)
                    synthetic, tokens = sight.both(cohort_of(release))
                    others = recipe.reference and sight.both(open_cohort(recipe.reference, "audit")[0])
                    found.release(attacks, Release(
                        synthetic=synthetic, candidates=table, member=member, candidate_tokens=own,
                        synthetic_tokens=tokens, reference=others and others[0], reference_tokens=others and others[1],
                    ))  # fmt: skip
            report = audit.report(run, recipe, found, cohort, split, guarantee, left_out, missing)
            pages.attack(run, report, found, n_out, cohort)
            report.write(run.release / "report.json")
    results = audit.headlines(Report.read(run.release / "report.json").results)
    console.table(f"attacks on {recipe.study}", ["attack", "unit", "value", "95 % over persons", "beside"], [
        [r.metric, r.unit, html.value(r), html.interval(r), html.beside(r)] for r in results
    ])  # fmt: skip
    console.lines(f"{r.metric} per {r.unit}: {r.note}" for r in results if r.value is None)
    console.say(f"report: {run.release / 'report.html'}")
    return 0


def of_tokens(
    run: runs.Run, source, cohort: Cohort, split: splits.Splits, recipe: Attack
) -> tuple[Signals, observed.Sight]:
    """What the attacks see of a model that writes, from the run's private half or made now."""
    sight = observed.Sight.of(open_adapted(source), cohort)
    file, needs = run.private / "signals.parquet", audit.needs(recipe.named("membership"))
    if not file.exists():
        wanted = recipe.shadows or Shadows(count=audit.SHADOWS[recipe.profile])
        with TokenWriter(run.private / "tokens.parquet") as writer:
            found = observed.observe(
                sight.adapted, sight.documents, split, batch=recipe.batch, slope="slope" in needs, seed=recipe.seed,
                tokens=writer.add if "tokens" in needs else None, folder=run.private,
                shadows=wanted, enough=partial(audit.narrow, wanted.width),
            )  # fmt: skip
        Signals(made_with=run.inputs["adapter"], parts=sight.parts, **found).write(file)
    return Signals.read(file, run.inputs["adapter"]), sight


def of_vectors(
    run: runs.Run, source, cohort: Cohort, split: splits.Splits, recipe: Attack
) -> tuple[Signals, likelihoods.Sight]:
    """What they see of a representation or an autoencoder."""
    sight = likelihoods.Sight.of(opened(source, "audit"), cohort.persons)
    signals = Signals(made_with=run.inputs["adapter"], **sight.observe(recipe.seed))
    signals.write(run.private / "signals.parquet")
    return signals, sight


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
