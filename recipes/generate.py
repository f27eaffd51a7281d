"""Sample a synthetic cohort from an adapted model, in physical units at the original rates."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from mien.adapters import autoencoder
from mien.adapters.training import hash_seed
from mien.core import config, console, runs, verbs
from mien.core.records import Cohort, CohortCard, Recording
from mien.core.results import Report, Result, environment
from mien.data import splits
from mien.data.load import ledger_source, open_cohort
from mien.evaluation.report import samples
from mien.generation import own, sample
from mien.generation.adapted import allowed, open_adapted, origins
from mien.generation.given import UNPROTECTED, From, Opened, opened, require
from mien.generation.vocabulary import PAD


class Generate(verbs.Recipe):
    """adapter: an adapt run (its folder, its name, or adapt-<study> for the newest); sampling: how much and how; given:
    make something from recordings (translate, extend, vary): unprotected and kept in the private half, unless they are
    shown as soft tokens with `protect`; personal: by an adapter of one person's own, who stays in the private half."""

    adapter: str
    sampling: sample.Sampling = sample.Sampling()
    given: From | None = None
    personal: own.Own | None = None


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("generate", __doc__ or "", Generate, argv)
    source = runs.adapter(recipe.adapter)
    console.say(f"adapter: {source.name}")
    split = splits.Splits.read(source / "private" / "splits.json")
    adapter = Report.read(source / "release" / "report.json")
    bound, hidden = adapter.restrictions, bool(recipe.personal or (recipe.given and not recipe.given.protect))
    asked = runs.asked(source)["config"]
    own.possible(recipe.personal, asked, recipe.given is not None)
    require(asked, recipe.sampling, recipe.given)
    allowed(source, "generation")
    inputs = {"adapter": runs.fingerprint(source), **own.inputs(recipe.personal)}
    cohort = open_cohort(config.Plugin(**asked["cohort"]), "generation")[0] if recipe.given else None
    if cohort is not None:
        inputs["cohort"] = runs.keyed(cohort.fingerprint)
    run = runs.Run.start("generate", recipe.study, own.public(recipe.model_dump(mode="json")), inputs, fresh=fresh)
    place = (run.private if hidden else run.release) / "cohort"
    with run:
        if not run.reused and asked.get("autoencoder"):
            made, _ = autoencoder.restore(source / "release" / "adapter")
            drawn = sample.drawn(made, recipe.sampling, recipe.seed, given=recipe.given is not None)
            told = {"tasks": {made.task: made.classes[made.task]}, "streams": made.written}
            keep(run, recipe, source, place, drawn, len(drawn), len(drawn), split, bound, adapter.guarantee, **told)
        elif not run.reused:
            adapted = open_adapted(source)
            layout, sampling = adapted.layout, recipe.sampling
            if recipe.given and cohort is not None:
                start = opened(
                    adapted, cohort, split, recipe.given, sampling, adapter.guarantee or UNPROTECTED, run=run,
                    source=ledger_source(config.Plugin(**asked["cohort"]), cohort), stride_s=asked["stride_s"],
                    valid=asked["valid"],
                )  # fmt: skip
                runs.write_text(run.private / "given.csv", f"made,from,person\n{start.told}")
            else:
                prompts = [layout.prompt(label, sampling.contexts) for label in sampling.labels(layout.classes)]
                start = Opened(prompts=prompts, guarantee=own.GUARANTEE if recipe.personal else adapter.guarantee)
                if recipe.personal:
                    own.fit(adapted, recipe.personal, run, recipe.seed)
            prompts, shown = start.prompts, start.shown
            rows, size = [], sampling.batch
            with console.progress("sampling synthetic recordings", len(prompts)) as bar:
                for i in range(0, len(prompts), size):
                    n = i // size
                    file = run.private / f"part-{n:05d}.npz"
                    soft = None if shown is None else shown[i : i + size]
                    rows += sample.part(adapted, sampling, prompts[i : i + size], hash_seed(recipe.seed, n), file, soft)
                    bar.step(len(prompts[i : i + size]))
            valid = [all(layout.grammar.accepts(d[d != PAD]) for d in row) for row in rows]
            made = sample.recordings(rows, layout, sampling.seconds)
            told = {"tasks": {layout.task: layout.classes}, "streams": layout.streams}
            keep(run, recipe, source, place, made, len(rows), sum(valid), split, bound, start.guarantee, **told)
    console.say(f"synthetic cohort: {place}")
    if hidden:
        console.say(f"{own.GUARANTEE if recipe.personal else UNPROTECTED}. To look at: {run.private / 'report.html'}")
    return 0


def keep(
    run: runs.Run, recipe: Generate, source: Path, place: Path, made: Iterable[Recording], n: int, valid: int,
    split: splits.Splits, bound: tuple[str, ...], guarantee: str, *, tasks: dict, streams: dict,
) -> None:  # fmt: skip
    """The synthetic cohort of n recordings, and its report. valid: how many sampled sequences the grammar accepts."""
    cohorts, prints = origins(source)
    card = CohortCard(
        name=f"synthetic-{recipe.study}", source=run.name, synthetic=True, guarantee=guarantee, restrictions=bound,
        licence=f"derived from {' and '.join(cohorts)}: see that cohort's licence"
        + (f", which asks of this too: {', '.join(bound)}" if bound else ""),
        consent="synthetic recordings; the persons behind the adapter are covered by their cohort's consent",
        lineage=(runs.fingerprint(source)[:16], *(p[:16] for p in prints)),
        tasks=tasks,
        streams=streams,
    )  # fmt: skip
    shutil.rmtree(place, ignore_errors=True)
    Cohort.store(made, place, card=card)
    report = Report(
        verb="generate", run=run.name, study=recipe.study, config=verbs.public(own.public(recipe.model_dump(mode="json"))),
        inputs=run.inputs, data_fingerprint=run.inputs["adapter"], guarantee=card.guarantee,
        restrictions=card.restrictions, environment=environment(recipe.seed), caveats=splits.warnings(split),
        results=(Result(metric="valid sequences", value=valid / n, unit="recording", note=f"{valid} of {n} sampled"),),
    )  # fmt: skip
    if place.is_relative_to(run.private):
        samples.private(run, report, Cohort.read(place), runs.asked(source)["config"]["seconds"])
    report.write(run.release / "report.json")


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
