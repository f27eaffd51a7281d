"""Adapt a frozen base to recordings of people with a LoRA adapter, under a privacy guarantee if the recipe asks for one."""

from __future__ import annotations

from mien.adapters import budget, lora, training, world
from mien.adapters.lora import Lora
from mien.adapters.protections import Protections
from mien.backbones import llava, tiny
from mien.core import config, console, runs, verbs
from mien.core.results import Report, environment
from mien.data import splits
from mien.data.load import ledger_source, open_cohort
from mien.generation.adapted import open_base, rows_to_train
from mien.generation.tokens import Documents, Written
from mien.privacy.plan import PrivacySpec


class Adapt(Written):
    """backbone: the frozen base; privacy: what to guarantee (left out: a plain run, ε = ∞); protections: others beside
    it (privacy/mechanisms/); the rest as in `generation/tokens.Written`."""

    backbone: config.Plugin
    split: splits.Split = splits.Split()
    lora: Lora = Lora()
    train: training.Train = training.Train()
    privacy: PrivacySpec | None = None
    protections: tuple[config.Plugin, ...] = ()


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("adapt", __doc__ or "", Adapt, argv)
    beside = Protections.of(recipe.protections)
    accelerator = world.accelerator(recipe.train.threads, recipe.train.trackers)
    main, everyone = accelerator.is_main_process, accelerator.wait_for_everyone
    with accelerator.main_process_first():
        cohort, left_out = open_cohort(recipe.cohort, "training")
        layout = recipe.layout(cohort.card)
        backbone = llava.with_tower(tiny.with_weights(recipe.backbone), layout.streams, recipe.seconds)
        recipe = recipe.model_copy(update={"backbone": backbone})
    split = splits.drawn(cohort, recipe.split, None if recipe.privacy else recipe.seed)
    backbone = open_base(recipe.backbone, layout, recipe.condition.soft > 0)
    inputs = {"cohort": runs.keyed(cohort.fingerprint), "base": backbone.fingerprint}
    if recipe.split.same_as:
        inputs["split"] = runs.fingerprint(runs.find(recipe.split.same_as, "adapt"))
    asked = recipe.model_dump(mode="json")
    run = runs.Run.start("adapt", recipe.study, asked, inputs, fresh=fresh, main=main, wait=everyone)
    with run:
        if not run.reused:
            with accelerator.main_process_first():  # the main process's draw stands, also after a kill
                split = splits.kept(run.private / "splits.json", split)
                change = beside.change(cohort.card, run.private)
            plan = budget.plan_of(recipe.privacy, split, cohort, recipe.train.max_steps, recipe.cohort.name == "folder")
            documents = Documents.encode(
                cohort, layout, stride_s=recipe.stride_s, keep=lambda w: split.side(w) == "train", quiet=not main,
                change=change, condition=recipe.condition, valid=recipe.valid, seed=recipe.seed, pack=backbone.pack,
            )  # fmt: skip
            documents.require_every_class()
            model = lora.attach(backbone, recipe.lora, rows_to_train(layout, backbone), recipe.seed)
            losses = beside.losses(model, backbone, cohort, documents, recipe.seed, plan is not None)
            prompt, device, some = layout.prompt_length, accelerator.device, documents.spread(3)
            private = plan and training.Private(
                plan=plan, units=budget.units_of(plan, documents.person, documents.recording),
                probes=lambda: backbone.probes(
                    documents.some(3), prompt=prompt, device=device, **documents.beside(some)
                ),
            )  # fmt: skip
            source = ledger_source(recipe.cohort, cohort)
            cap = recipe.privacy and recipe.privacy.cap
            with budget.Entry(run, source, split.train, plan, cap, main) as entry:
                everyone()  # nobody computes a gradient before the ledger has the charge
                training.fit(
                    model, losses,
                    lambda rows: backbone.batch(
                        [documents[i] for i in rows], prompt=prompt, persons=documents.person[rows], device=device,
                        **documents.beside(rows),
                    ),
                    len(documents), recipe.train, seed=recipe.seed, folder=run.private, accelerator=accelerator,
                    private=private, label=f"adapting on {len(documents)} windows of {len(documents.persons)} persons",
                )  # fmt: skip
                if main:
                    guarantee = entry.close()
                    lora.save(model, run.release / "adapter", backbone)
                    entry.write()
                    bound = cohort.card.restrictions
                    lora.write_notes(run.release / "adapter", backbone, layout.vocabulary.size, guarantee, bound)
                    layout.write(run.release / "adapter" / "layout.json")
                    Report(
                        verb="adapt", run=run.name, study=recipe.study, config=verbs.public(asked), inputs=run.inputs,
                        data_fingerprint=inputs["cohort"], guarantee=guarantee, consent=left_out,
                        environment=environment(recipe.seed), caveats=(*beside.caveats(), *splits.warnings(split)), restrictions=bound,
                    ).write(run.release / "report.json")  # fmt: skip
    console.say(f"adapter: {run.release / 'adapter'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
