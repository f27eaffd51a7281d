"""Let experts' preferences move an adapter: sample, ask, DPO or PPO beside the private adapter, and look again at what comes out."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np

from mien.adapters import lora, world
from mien.alignment import beside, judged, rounds
from mien.attacks import again
from mien.core import config, runs, verbs
from mien.core.records import recording_windows
from mien.core.results import Report, environment
from mien.data import splits
from mien.data.load import ledger_source, open_cohort, require_consent
from mien.evaluation import kept
from mien.evaluation.report import training as pages
from mien.generation import likelihood
from mien.generation.adapted import layout_of, open_adapted
from mien.generation.tokens import Documents

MOST = 800  # windows that the second look at leakage takes, of all persons


class Align(rounds.Asked, verbs.Recipe):
    """adapter: an adapt run, or an align run to go on from; threads: CPU threads; the rest as in alignment/rounds.Asked."""

    adapter: str
    threads: int | None = None


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("align", __doc__ or "", Align, argv)
    accelerator = world.accelerator(recipe.threads)
    recipe.fits(accelerator)
    main, everyone = accelerator.is_main_process, accelerator.wait_for_everyone
    source = runs.adapter(recipe.adapter)
    asked, adapter = runs.asked(source), Report.read(source / "release" / "report.json")
    split = splits.Splits.read(source / "private" / "splits.json")
    section = config.Plugin(**asked["config"]["cohort"])
    with accelerator.main_process_first():
        cohort, left_out = open_cohort(section, "alignment")
    require_consent(section, split.train, "alignment")
    inputs = {**asked["inputs"], **recipe.inputs(asked["config"]), "adapter": runs.fingerprint(source)}
    taken = recipe.heard(inputs["adapter"], split.train, recipe.seed, layout_of(source))
    recipe, inputs = recipe.taught_by(taken), inputs | ({"reward": runs.fingerprint(taken)} if taken else {})
    told = {**asked["config"], "study": recipe.study, "align": recipe.model_dump(mode="json")}
    run = runs.Run.start("align", recipe.study, told, inputs, fresh=fresh, main=main, wait=everyone)
    with run, verbs.stopped(recipe.stopped):
        if not run.reused:
            opened = open_adapted(source)
            model, layout, base = opened.model, opened.layout, opened.backbone
            todo = rounds.Rounds(recipe, opened, run, accelerator, recipe.seed, ledger_source(section, cohort), taken)
            moves = recipe.method != "reward"  # an adapter
            again_of = Audit(opened, cohort, split, recipe.seed) if main and moves else None
            before = todo.draw(recipe.simulate.judge_again, 10**6)
            todo.attach()
            for k in range(recipe.rounds):
                todo.take(k)
                if again_of and recipe.rounds > 1:
                    todo.leaked(again_of.leakage(), k)
            if again_of:
                after = todo.draw(recipe.simulate.judge_again, 2 * 10**6)
                todo.compare(before, after)
                todo.covered(again_of.coverage(before, after))
                todo.leaked(again_of.leakage())
                beside.export(model, run.release / "adapter", base)
                how = f"base.resize_token_embeddings({base.offset + layout.vocabulary.size})"
                layout.write(run.release / "adapter" / "layout.json")
                shutil.copy(source / "private" / "splits.json", run.private / "splits.json")
            if main:
                report = todo.report(
                    adapter, run=run.name, study=recipe.study, config=verbs.public(told), inputs=run.inputs,
                    data_fingerprint=adapter.data_fingerprint, environment=environment(recipe.seed), consent=left_out,
                )  # fmt: skip
                if moves:
                    lora.write_notes(run.release / "adapter", base, how, report.guarantee, adapter.restrictions)
                pages.aligned(run, report, todo.plan, cohort)
                report.write(run.release / "report.json")
    bounds = None if recipe.method == "reward" else recipe.bounds  # it moves no adapter
    return judged.told(recipe.study, bounds, run.release) if main else 0


class Audit:
    """The real recordings, to look again at what is covered of them and what leaks: none of it reaches the adapter."""

    def __init__(self, opened, cohort, split: splits.Splits, seed: int):
        self.opened, self.seed = opened, seed
        self.windows = {k: opened.config[k] for k in ("stride_s", "valid")}
        self.train = cohort.select(lambda p: p in set(split.train))
        people = cohort.select(lambda p: p in {*split.train, *split.holdout})
        n = sum(1 for r in people for _ in recording_windows(r, opened.layout.seconds, self.windows["stride_s"]))
        rng = np.random.default_rng([seed, 0xA0D17])  # a likelihood each, four times over: some hundreds say as much
        keep = lambda w: bool(rng.uniform() < MOST / n)  # noqa: E731
        self.documents = Documents.encode(people, opened.layout, keep=keep, **self.windows, quiet=True)
        d, names, person = self.documents, set(split.train), [self.documents.persons[i] for i in self.documents.person]
        self.about = {
            "recording": [d.recordings[i] for i in d.recording], "person": person,
            "label": [opened.layout.classes[i] for i in d.label], "member": [p in names for p in person],
        }  # fmt: skip
        self.before = self._measured()

    def _measured(self) -> dict:
        return likelihood.measure(self.opened, self.documents, slope=False)

    def leakage(self):
        found = again.leakage(self.before, self._measured(), self.about, self.opened.fingerprint)
        beside.ready(self.opened.model)  # switching the adapters off and on again made both trainable
        return found

    def coverage(self, before: judged.Samples, after: judged.Samples):
        said = {"seconds": self.opened.layout.seconds, "seed": self.seed, **self.windows}
        card = dataclasses.replace(self.train.card, streams=self.opened.layout.streams)
        return kept.coverage(self.train, before.recordings, after.recordings, card, **said)


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
