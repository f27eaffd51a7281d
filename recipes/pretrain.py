"""Pretrain a small base on simulated, public recordings: one that writes, or towers that represent. No person is seen."""

from __future__ import annotations

from mien.adapters import training, world
from mien.adapters.pretraining import Pretraining
from mien.backbones import behaviour, tiny
from mien.backbones.causal_lm import CausalBackbone, linear_names
from mien.core import console, runs, verbs
from mien.core.errors import MienError
from mien.core.records import Cohort
from mien.core.results import Report, environment
from mien.data.load import open_cohort, simulated
from mien.evaluation.report import training as pages
from mien.generation.grammar import constrain
from mien.generation.tokens import Documents, Written


class Pretrain(Written):
    """cohort: a *simulated* data set; shape: of the model that writes; represent: the shape of towers, to make those instead;
    train: how long and how fast; the rest as in adapt."""

    shape: tiny.Shape = tiny.Shape()
    represent: behaviour.Shape | None = None
    train: training.Train = training.Train()


class Speaking:
    """A fresh tiny base over the layout's tokens, and the documents it learns from."""

    def __init__(self, recipe: Pretrain, cohort: Cohort):
        self.layout = layout = recipe.layout(cohort.card)
        self.documents = Documents.encode(
            cohort, layout, stride_s=recipe.stride_s, condition=recipe.condition, valid=recipe.valid, seed=recipe.seed
        )
        fresh = tiny.fresh(recipe.shape, layout.vocabulary.size, recipe.seed)
        fresh.config.behaviour_vocabulary = layout.vocabulary.digest
        self.trained = constrain(fresh, layout.grammar, 0, layout.never)
        self.base = CausalBackbone(
            model=self.trained, identity="", revision=None, fingerprint="", offset=0,
            lora_targets=linear_names(self.trained), speaks_behaviour=True,
        )  # fmt: skip
        self.base.require_room(int(self.documents.lengths.max()))
        self.losses = self.base.losses

    def __len__(self) -> int:
        return len(self.documents)

    def batch(self, rows, device):
        return self.base.batch(
            [self.documents[i] for i in rows], prompt=self.layout.prompt_length, persons=self.documents.person[rows],
            device=device,
        )  # fmt: skip

    def save(self, folder) -> None:
        self.trained.save_pretrained(folder, safe_serialization=True)


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
            made = Pretraining(recipe, cohort) if recipe.represent else Speaking(recipe, cohort)
            log = training.fit(
                made.trained, made.losses, lambda rows: made.batch(rows, accelerator.device), len(made), recipe.train,
                seed=recipe.seed, folder=run.private, accelerator=accelerator, label="pretraining the base",
            )  # fmt: skip
            if accelerator.is_main_process:
                with runs.whole_folder(run.release / "base") as part:
                    made.save(part)
                report = Report(
                    verb="pretrain", run=run.name, study=recipe.study, config=verbs.public(recipe.model_dump(mode="json")),
                    data_fingerprint=run.inputs["cohort"], guarantee="none needed: simulated recordings only",
                    environment=environment(recipe.seed),
                )  # fmt: skip
                pages.pretrained(run, report, log, recipe, cohort, len(made))
                report.write(run.release / "report.json")
    console.say(f"base: {run.release / 'base'}")
    console.say(f"report: {run.release / 'report.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
