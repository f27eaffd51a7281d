"""Adapt a frozen base to recordings of people with a LoRA adapter."""

from __future__ import annotations

from pydantic import Field

from mien.adapters import lora, training
from mien.adapters.lora import Lora
from mien.backbones import tiny
from mien.core import config, console, runs, verbs
from mien.core.errors import MienError
from mien.core.results import Report, environment
from mien.data import splits
from mien.data.load import open_cohort
from mien.generation.adapted import open_base
from mien.generation.layout import Layout
from mien.generation.tokens import Documents
from mien.generation.vocabulary import LABEL_0, STREAM_0, VOCABULARY


class Split(config.Section):
    """holdout, validation: persons (a number or a share); stratify: constant attributes; kind: see data/splits.py."""

    holdout: int | float = 0.5
    validation: int | float = 0
    stratify: tuple[str, ...] = ()
    kind: splits.Kind = "person"


class Adapt(verbs.Recipe):
    """cohort: a data set; task: the label to condition on; seconds, stride_s: windows; streams: which (default all)."""

    cohort: config.Plugin
    task: str
    seconds: float = Field(default=4.0, gt=0)
    stride_s: float = Field(default=2.0, gt=0)
    streams: tuple[str, ...] = ()
    codec: config.Plugin = config.Plugin(name="transform")
    backbone: config.Plugin
    split: Split = Split()
    lora: Lora = Lora()
    train: training.Train = training.Train()


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("adapt", __doc__ or "", Adapt, argv)
    accelerator = training.accelerator(recipe.train.threads)
    with accelerator.main_process_first():
        cohort, left_out = open_cohort(recipe.cohort, "training")
        recipe = recipe.model_copy(update={"backbone": tiny.with_weights(recipe.backbone)})
    split = splits.draw(cohort, **recipe.split.model_dump(), seed=recipe.seed)
    layout = Layout.of(
        cohort.card, seconds=recipe.seconds, task=recipe.task, codec=recipe.codec, streams=recipe.streams
    )
    backbone = open_base(recipe.backbone, layout)
    run = runs.Run.start(
        "adapt", recipe.study, recipe.model_dump(mode="json"),
        {"cohort": cohort.fingerprint, "base": backbone.fingerprint},
        fresh=fresh, main=accelerator.is_main_process, wait=accelerator.wait_for_everyone,
    )  # fmt: skip
    with run:
        if not run.reused:
            documents = Documents.encode(
                cohort, layout, stride_s=recipe.stride_s, keep=lambda w: split.side(w) == "train",
                quiet=not accelerator.is_main_process,
            )  # fmt: skip
            absent = set(range(len(layout.classes))) - set(documents.label.tolist())
            if absent:
                raise MienError(
                    f"no training recording has {recipe.task} = {layout.classes[min(absent)]!r}; draw another split"
                    " (seed=…), or take the class out of the cohort's tasks"
                )
            rows = range(VOCABULARY.size) if not backbone.speaks_behaviour else [
                *range(LABEL_0, LABEL_0 + len(layout.classes)), *range(STREAM_0, STREAM_0 + len(layout.streams))
            ]  # fmt: skip
            model = lora.attach(backbone, recipe.lora, [backbone.offset + r for r in rows], recipe.seed)
            model.to(accelerator.device)
            training.fit(
                model, backbone.losses,
                lambda picked: backbone.batch(
                    [documents[i] for i in picked], prompt=layout.prompt_length,
                    persons=documents.person[picked], device=accelerator.device,
                ),
                len(documents), recipe.train, seed=recipe.seed, folder=run.private, accelerator=accelerator,
                label=f"adapting on {len(documents)} windows of {len(documents.persons)} persons",
            )  # fmt: skip
            if accelerator.is_main_process:
                lora.save(model, run.release / "adapter", backbone)
                lora.write_notes(run.release / "adapter", backbone, VOCABULARY.size, verbs.PLAIN)
                layout.write(run.release / "adapter" / "layout.json")
                split.write(run.private / "splits.json")
                report = Report(
                    verb="adapt", run=run.name, study=recipe.study, config=verbs.public(recipe.model_dump(mode="json")),
                    inputs=run.inputs, data_fingerprint=cohort.fingerprint, guarantee=verbs.PLAIN, consent=left_out,
                    environment=environment(recipe.seed),
                    caveats=(splits.WARNING,) if split.kind == "random_window" else (),
                )  # fmt: skip
                report.write(run.release / "report.json")
    console.say(f"adapter: {run.release / 'adapter'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
