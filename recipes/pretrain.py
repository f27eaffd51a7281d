"""Pretrain the tiny base on simulated, public recordings. It never sees a person."""

from __future__ import annotations

from mien.adapters import training, world
from mien.backbones import tiny
from mien.backbones.causal_lm import CausalBackbone, linear_names
from mien.core import console, runs, verbs
from mien.core.errors import MienError
from mien.core.results import Report, environment
from mien.data.load import open_cohort, simulated
from mien.generation.grammar import constrain
from mien.generation.tokens import Documents, Written


class Pretrain(Written):
    """cohort: a *simulated* data set; shape: of the model; the rest as in adapt."""

    shape: tiny.Shape = tiny.Shape()
    train: training.Train = training.Train()


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("pretrain", __doc__ or "", Pretrain, argv)
    accelerator = world.accelerator(recipe.train.threads, recipe.train.trackers)
    with accelerator.main_process_first():
        cohort, _ = open_cohort(recipe.cohort, "training")
    if not simulated(recipe.cohort):
        raise MienError(f"pretraining is for simulated cohorts; {cohort.card.name!r} holds recordings: use adapt")
    run = runs.Run.start(
        "pretrain", recipe.study, recipe.model_dump(mode="json"), {"cohort": runs.keyed(cohort.fingerprint)},
        fresh=fresh, main=accelerator.is_main_process, wait=accelerator.wait_for_everyone,
    )  # fmt: skip
    with run:
        if not run.reused:
            layout = recipe.layout(cohort.card)
            documents = Documents.encode(
                cohort,
                layout,
                stride_s=recipe.stride_s,
                condition=recipe.condition,
                valid=recipe.valid,
                seed=recipe.seed,
            )
            fresh_model = tiny.fresh(recipe.shape, layout.vocabulary.size, recipe.seed)
            fresh_model.config.behaviour_vocabulary = layout.vocabulary.digest
            model = constrain(fresh_model, layout.grammar, 0, layout.never)
            base = CausalBackbone(
                model=model, identity="", revision=None, fingerprint="", offset=0,
                lora_targets=linear_names(model), speaks_behaviour=True,
            )  # fmt: skip
            training.fit(
                model, base.losses,
                lambda rows: base.batch(
                    [documents[i] for i in rows], prompt=layout.prompt_length,
                    persons=documents.person[rows], device=accelerator.device,
                ),
                len(documents), recipe.train, seed=recipe.seed, folder=run.private, accelerator=accelerator,
                label="pretraining the tiny base",
            )  # fmt: skip
            if accelerator.is_main_process:
                with runs.whole_folder(run.release / "base") as part:
                    model.save_pretrained(part, safe_serialization=True)
                Report(
                    verb="pretrain", run=run.name, study=recipe.study, config=verbs.public(recipe.model_dump(mode="json")),
                    data_fingerprint=run.inputs["cohort"], guarantee="none needed: simulated recordings only",
                    environment=environment(recipe.seed),
                ).write(run.release / "report.json")  # fmt: skip
    console.say(f"base: {run.release / 'base'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
