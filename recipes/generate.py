"""Sample a synthetic cohort from an adapted model, in physical units at the original rates."""

from __future__ import annotations

import shutil

import numpy as np

from mien.adapters.training import hash_seed
from mien.core import config, console, runs, verbs
from mien.core.records import Cohort, CohortCard
from mien.core.results import Report, Result, environment
from mien.data import splits
from mien.data.load import require_consent
from mien.generation import sample
from mien.generation.adapted import open_adapted
from mien.generation.vocabulary import PAD


class Generate(verbs.Recipe):
    """adapter: an adapt run (its folder, its name, or adapt-<study> for the newest); sampling: how much and how."""

    adapter: str
    sampling: sample.Sampling = sample.Sampling()


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("generate", __doc__ or "", Generate, argv)
    source = runs.find(recipe.adapter, "adapt")
    console.say(f"adapter: {source.name}")
    split = splits.Splits.read(source / "private" / "splits.json")
    guarantee = Report.read(source / "release" / "report.json").guarantee
    require_consent(config.Plugin(**runs.asked(source)["config"]["cohort"]), split.train, "generation")
    inputs = {"adapter": runs.fingerprint(source)}
    run = runs.Run.start("generate", recipe.study, recipe.model_dump(mode="json"), inputs, fresh=fresh)
    with run:
        if not run.reused:
            adapted = open_adapted(source)
            layout = adapted.layout
            labels = recipe.sampling.labels(layout)
            parts = [labels[i : i + recipe.sampling.batch] for i in range(0, len(labels), recipe.sampling.batch)]
            rows = []
            with console.progress("sampling synthetic recordings", len(labels)) as bar:
                for i, part in enumerate(parts):  # each part is kept as it is made: a killed run goes on from there
                    rows.append(one_part(run, adapted, part, i, recipe))
                    bar.step(len(part))
            ids = [row for part in rows for row in part]
            valid = sum(layout.grammar.accepts(row[row != PAD]) for row in ids)
            card = CohortCard(
                name=f"synthetic-{recipe.study}",
                licence=f"derived from {adapted.config['cohort']['name']}: see that cohort's licence",
                consent="synthetic recordings; the persons behind the adapter are covered by their cohort's consent",
                tasks={layout.task: layout.classes},
                streams=layout.streams,
                source=run.name,
                synthetic=True,
                guarantee=guarantee,
                lineage=(adapted.fingerprint[:16], runs.asked(source)["inputs"]["cohort"][:16]),
            )
            shutil.rmtree(run.release / "cohort", ignore_errors=True)
            Cohort.store(sample.recordings(ids, layout), run.release / "cohort", card=card)
            write_report(run, recipe, valid, len(ids), split, guarantee)
    console.say(f"synthetic cohort: {run.release / 'cohort'}")
    return 0


def one_part(run: runs.Run, adapted, labels: list[str], i: int, recipe: Generate) -> np.ndarray:
    """int32[n, T]: the documents of one part, sampled now or by the run that was stopped."""
    file = run.private / f"part-{i:05d}.npy"
    if file.exists():
        return np.load(file, allow_pickle=False)
    rows = sample.documents(
        adapted.model, adapted.layout, adapted.backbone.own_ids, [adapted.layout.prompt(v, recipe.sampling.contexts) for v in labels],
        temperature=recipe.sampling.temperature, seed=hash_seed(recipe.seed, i), guidance=recipe.sampling.guidance,
    )  # fmt: skip
    staged = file.with_name(f".{file.name}.partial")
    with open(staged, "wb") as f:
        np.save(f, rows)
    staged.rename(file)
    return rows


def write_report(run: runs.Run, recipe: Generate, valid: int, n: int, split: splits.Splits, guarantee: str) -> None:
    Report(
        verb="generate", run=run.name, study=recipe.study, config=verbs.public(recipe.model_dump(mode="json")),
        inputs=run.inputs, data_fingerprint=run.inputs["adapter"], guarantee=guarantee,
        environment=environment(recipe.seed), caveats=splits.warnings(split),
        results=(
            Result(metric="valid sequences", value=valid / n, unit="recording", note=f"{valid} of {n} sampled"),
        ),
    ).write(run.release / "report.json")  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
