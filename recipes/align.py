"""Let experts' preferences move an adapter: sample, ask, DPO beside the private adapter, and look again at what comes out."""

from __future__ import annotations

import shutil

from pydantic import Field

from mien.adapters import lora, world
from mien.alignment import beside, experts, judged, pairs
from mien.alignment.dpo import Dpo, margins
from mien.alignment.dpo import train as train_dpo
from mien.core import config, console, runs, verbs
from mien.core.results import Baseline, Report, Result, environment
from mien.data import splits
from mien.data.load import require_consent
from mien.generation.adapted import open_adapted


class Bounds(config.Section):
    """What must hold after alignment, or the verb ends with exit code 3: valid, the share of whole documents; win_rate, against
    the adapter as it was; kl, in nats a document at most."""

    valid: float = Field(default=1.0, ge=0, le=1)
    win_rate: float = Field(default=0.5, ge=0, le=1)
    kl: float | None = Field(default=None, gt=0)


class Align(verbs.Recipe):
    """adapter: an adapt run; simulate: experts to ask (pairs, raters …); lora: of the adapter beside; dpo: how it learns;
    minimum_alpha: raters who agree less are not learned from; held_out: share of answers kept to judge by."""

    adapter: str
    simulate: judged.Simulate = judged.Simulate()
    lora: beside.Aligned = beside.Aligned()
    dpo: Dpo = Dpo()
    minimum_alpha: float = 0.3
    held_out: float = Field(default=0.25, gt=0, lt=1)
    bounds: Bounds = Bounds()
    threads: int | None = None


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("align", __doc__ or "", Align, argv)
    accelerator = world.accelerator(recipe.threads)
    main, everyone = accelerator.is_main_process, accelerator.wait_for_everyone
    source = runs.find(recipe.adapter, "adapt")
    asked, adapter = runs.asked(source), Report.read(source / "release" / "report.json")
    split = splits.Splits.read(source / "private" / "splits.json")
    require_consent(config.Plugin(**asked["config"]["cohort"]), split.train, "alignment")
    inputs = {**asked["inputs"], "adapter": runs.fingerprint(source)}
    told = {**asked["config"], "study": recipe.study, "align": recipe.model_dump(mode="json")}
    run = runs.Run.start("align", recipe.study, told, inputs, fresh=fresh, main=main, wait=everyone)
    with run:
        if not run.reused:
            opened = open_adapted(source)
            model, layout, base, simulate = opened.model, opened.layout, opened.backbone, recipe.simulate
            draw = lambda n, seed: judged.draw(model, layout, base.own_ids, n, recipe.seed + seed)  # noqa: E731
            rated, before = draw(simulate.per_label, 1), draw(simulate.judge_again, 10**6)
            said = judged.asked(rated, simulate, recipe.seed)
            train, test, quality, shared = judged.learned(
                said, rated, layout, minimum_alpha=recipe.minimum_alpha, held_out=recipe.held_out, seed=recipe.seed
            )
            console.say(f"  {quality}")
            reference = margins(base, model, test, layout.prompt_length)
            beside.attach(model, recipe.lora, recipe.seed)
            train_dpo(
                model, base, layout, train, recipe.dpo, seed=recipe.seed, folder=run.private, accelerator=accelerator
            )
            if main:
                after = draw(simulate.judge_again, 2 * 10**6)
                moved = (margins(base, model, test, layout.prompt_length) - reference) @ [1, -1]
                now, count = pairs.log_p(base, model, after.documents, layout.prompt_length)
                with beside.reference(model):
                    was, _ = pairs.log_p(base, model, after.documents, layout.prompt_length)
                gain, wins, old, new = judged.gained(before, after, experts.Expert.of(simulate.expert))
                right = judged.share(moved > 0, test)
                kl = float((now - was).mean())
                results = (
                    Result(metric="expert utility gain", value=gain.value, low=gain.low, high=gain.high, unit="recording",
                           baselines=(Baseline(name="before", value=old), Baseline(name="after", value=new)),
                           note="simulated experts, without their noise; new samples before and after"),
                    Result(metric="win rate against before", value=wins.value, low=wins.low, high=wins.high, unit="recording",
                           baselines=(Baseline(name="no difference", value=0.5),)),
                    Result(metric="held-out answers ordered right", value=right.value, low=right.low, high=right.high,
                           unit="pair", note=f"{shared} recordings stand on both sides", baselines=(Baseline(name="chance", value=0.5),)),
                    Result(metric="valid sequences", value=after.valid, unit="recording",
                           baselines=(Baseline(name="before", value=before.valid),)),
                    Result(metric="KL to the reference", value=kl, unit="recording", higher_is_better=False,
                           note=f"nats a document of {count.mean():.0f} tokens on average"),
                    Result(metric="raters' agreement α", value=quality.alpha.value, low=quality.alpha.low, high=quality.alpha.high,
                           unit="pair", note=str(quality)) if quality.alpha else Result(metric="raters' agreement α", value=None),
                )  # fmt: skip
                beside.export(model, run.release / "adapter", base)
                how = f"base.resize_token_embeddings({base.offset + layout.vocabulary.size})"
                lora.write_notes(run.release / "adapter", base, how, adapter.guarantee, adapter.restrictions)
                layout.write(run.release / "adapter" / "layout.json")
                shutil.copy(source / "private" / "splits.json", run.private / "splits.json")
                Report(
                    verb="align", run=run.name, study=recipe.study, config=verbs.public(told), inputs=run.inputs,
                    data_fingerprint=adapter.data_fingerprint, guarantee=adapter.guarantee, environment=environment(recipe.seed),
                    results=results, restrictions=adapter.restrictions, caveats=(*adapter.caveats, judged.AFTERWARDS),
                    not_measured=("Leakage after alignment: run `mien attack` on this run and on the adapter it began with.",),
                ).write(run.release / "report.json")  # fmt: skip
    found = {r.metric: r for r in Report.read(run.release / "report.json").results}
    return judged.told(recipe.study, found, recipe.bounds.model_dump(), run.release) if main else 0


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
