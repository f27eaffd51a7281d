"""Adapt a frozen base to recordings of people with a LoRA adapter, under a privacy guarantee if the recipe asks for one."""

from __future__ import annotations

from pydantic import model_validator

from mien.adapters import budget, training, world
from mien.adapters.autoencoder import REFUSED
from mien.adapters.autoencoder import Config as Autoencoder
from mien.adapters.lora import Lora
from mien.adapters.protections import Protections
from mien.adapters.representation import Represent
from mien.adapters.represented import Autoencoding, Representing
from mien.backbones import tiny
from mien.core import config, console, runs, verbs
from mien.core.results import Report, environment
from mien.data import splits
from mien.data.load import ledger_source, open_cohort
from mien.evaluation.report import training as pages
from mien.generation import adapted
from mien.generation.tokens import Written
from mien.privacy.plan import PrivacySpec


class Adapt(Written):
    """backbone: the frozen base; represent: learn to represent recordings, not to write them; autoencoder: the same without
    any base, trained whole; split: who trains and who is held out; lora: the adapter; train: how long and how fast; privacy: what
    to guarantee (left out: a plain run, ε = ∞); protections: others, in training; the rest as in `generation/tokens.Written`."""

    backbone: config.Plugin | None = None
    represent: Represent | None = None
    autoencoder: Autoencoder | None = None
    split: splits.Split = splits.Split()
    lora: Lora = Lora()
    train: training.Train = training.Train()
    privacy: PrivacySpec | None = None
    protections: tuple[config.Plugin, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Adapt:
        if self.autoencoder is None:
            if self.backbone is None:
                raise ValueError("name a `backbone` to adapt (or give an `autoencoder:` section, which has none)")
        elif self.backbone or self.represent:
            raise ValueError("an `autoencoder:` is trained whole: leave out `backbone` and `represent`")
        elif self.privacy:
            raise ValueError(REFUSED)
        elif self.train.checkpointing != "off":
            raise ValueError("train.checkpointing is for a backbone's layers; an autoencoder has none worth it")
        return self


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("adapt", __doc__ or "", Adapt, argv)
    beside = Protections.of(recipe.protections)
    accelerator = world.accelerator(recipe.train.threads, recipe.train.trackers)
    main, everyone = accelerator.is_main_process, accelerator.wait_for_everyone
    with accelerator.main_process_first():
        cohort, left_out = open_cohort(recipe.cohort, "training")
        # here, for what cannot be written or split should not wait for a base
        if not (recipe.represent or recipe.autoencoder):
            adapted.writable(recipe, recipe.backbone, cohort.card)
        split = splits.drawn(cohort, recipe.split, None if recipe.privacy else recipe.seed)
        if recipe.backbone:
            base = tiny.with_weights(recipe.backbone)
            if not recipe.represent:
                base = adapted.joined(base, recipe.layout(cohort.card), cohort.card, recipe.condition.soft > 0)
            recipe = recipe.model_copy(update={"backbone": base})
    kind = Autoencoding if recipe.autoencoder else Representing if recipe.represent else adapted.Writing
    subject = kind(recipe, cohort.card)
    bound = tuple(dict.fromkeys((*cohort.card.restrictions, *subject.restrictions)))
    inputs = {"cohort": runs.keyed(cohort.fingerprint), "base": subject.base.fingerprint, **subject.made_from}
    if recipe.split.same_as:
        inputs["split"] = runs.fingerprint(runs.adapter(recipe.split.same_as))
    asked = recipe.model_dump(mode="json")
    run = runs.Run.start("adapt", recipe.study, asked, inputs, fresh=fresh, main=main, wait=everyone)
    with run:
        if not run.reused:
            with accelerator.main_process_first():  # the main process's draw stands, also after a kill
                split = splits.kept(run.private / "splits.json", split)
                change = beside.change(cohort.card, run.private)
            named = recipe.cohort.name == "folder"
            plan = budget.plan_of(recipe.privacy, split, cohort, recipe.train.max_steps, named, subject.earlier)
            subject.encode(cohort, lambda w: split.side(w) == "train", change, not main)
            device = accelerator.device
            with accelerator.main_process_first():  # who writes what the others read
                model = subject.attach(cohort.card, plan, run.private, device)
            losses = beside.losses(model, subject, cohort, recipe.seed, plan is not None)
            private = plan and training.Private(
                plan=plan, units=budget.units_of(plan, subject.person, subject.recording),
                probes=lambda: subject.probes(device),
            )  # fmt: skip
            source = ledger_source(recipe.cohort, cohort)
            cap = recipe.privacy and recipe.privacy.cap
            with budget.Entry(run, source, split.train, plan, cap, main) as entry:
                everyone()  # nobody computes a gradient before the ledger has the charge
                log = training.fit(
                    model, losses, lambda rows: subject.batch(rows, device), len(subject), recipe.train, seed=recipe.seed,
                    folder=run.private, accelerator=accelerator, private=private,
                    label=f"adapting on {console.count(len(subject), 'window')} of {console.count(len(subject.persons), 'person')}",
                )  # fmt: skip
                if main:
                    guarantee = entry.close()
                    subject.save(model, run.release / "adapter", guarantee, bound)
                    entry.write()
                    report = Report(
                        verb="adapt", run=run.name, study=recipe.study, config=verbs.public(asked), inputs=run.inputs,
                        data_fingerprint=inputs["cohort"], guarantee=guarantee, consent=left_out,
                        environment=environment(recipe.seed), restrictions=bound,
                        caveats=(*beside.caveats(), *subject.caveats(split), *splits.warnings(split)),
                    )  # fmt: skip
                    pages.adapted(run, report, log, recipe, cohort, split, plan, len(subject))
                    report.write(run.release / "report.json")
    console.say(f"adapter: {run.release / 'adapter'}")
    console.say(f"report: {run.release / 'report.html'}, and with the losses {run.private / 'report.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
