"""Experts compare synthetic recordings: in a studio that this machine serves, or on a page in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mien.alignment import experts
from mien.alignment.store import Store
from mien.alignment.studio import calls, offline, plan, server, source
from mien.core import config, console, runs, verbs
from mien.core.errors import MienError
from mien.core.records import Recording
from mien.data.load import open_cohort
from mien.data.vitals import roles
from mien.generation import sample
from mien.generation.adapted import layout_of


class Feedback(verbs.Recipe):
    """synthetic: a generate run; raters: pseudonyms; pairs: for each (a larger number goes on with the study); choose: which, at
    random or by D-optimal design; checks: pairs to add, some shown again and some controls; private: no plain trainer may use the
    answers; simulate: experts answer instead of persons. For one call: host, port: where the page is; names: of a proxy in front;
    links: raters who need new ones; export: page.html, pairs.jsonl or advice.jsonl; import: what a page saved, or preferences."""

    synthetic: str
    raters: tuple[str, ...] = Field(default=("rater-1",), min_length=1)
    pairs: int = Field(default=40, ge=1, le=100_000)
    choose: Literal["random", "d_optimal"] = "random"
    checks: plan.Checks = plan.Checks()
    private: bool = False
    simulate: experts.Config | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8765, ge=0, lt=65536)
    names: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    export: config.NewFile | None = None
    taken: config.File | None = Field(default=None, alias="import")


CALL = {"raters", "host", "port", "names", "links", "export", "taken"}  # another call, the same study


def main(argv: list[str] | None = None) -> int:
    recipe, fresh = verbs.arguments("feedback", __doc__ or "", Feedback, argv)
    if fresh:
        raise MienError("--fresh: what raters said is never thrown away; give the study another name instead (study=…)")
    if strangers := sorted({*recipe.links} - {*recipe.raters}):
        raise MienError(f"links: {strangers[0]!r} is none of the raters ({', '.join(recipe.raters)})")
    release = runs.find(recipe.synthetic, "generate")
    cohort, adapter = sample.cohort_of(release), runs.asked(release)["inputs"]["adapter"]
    about = {"cohort": cohort.fingerprint, "model": adapter}
    inputs = {"synthetic": runs.fingerprint(release), "adapter": adapter}
    asked = recipe.model_dump(mode="json", exclude=CALL)
    src = source.Source(cohort, real(recipe, adapter))
    with runs.Run.start("feedback", recipe.study, asked, inputs, again="goes on, every answer is kept") as run:
        calls.carry_over(run)
        with Store.create(run.private / calls.FILE, **about) as store:
            store.elsewhere = calls.recognised(cohort.fingerprint)
            by_design = recipe.choose == "d_optimal"
            pairs = src.pairs(recipe.pairs, recipe.checks, recipe.seed, by_design=by_design, asked=store.pairs())
            store.add([plan.hidden(p) for p in pairs] if recipe.private else pairs, **about)
            study = server.Study(
                store=store, recording=src, roles=roles(cohort.card), title=recipe.study, task=src.task,
                gone=frozenset(r for p in store.pairs() for r in (p.a, p.b) if r not in src),
            )  # fmt: skip
            for rater in recipe.raters:
                store.seat(rater, told=False)

            def report() -> None:
                calls.write_report(run, store, cohort.card, verbs.public(asked), recipe.seed)

            try:
                answer(recipe, study, report)
            finally:
                source.write_corrected(study, cohort.card, run.private / "corrected")
                report()
    console.say(f"the answers, which are their raters': {run.private / calls.FILE}")
    console.say(f"counts: {run.release / 'report.json'}")
    return 0


def real(recipe: Feedback, adapter: str) -> dict[str, Recording]:
    """Real recordings for control pairs, where they are asked for, and persons and licence allow it."""
    if recipe.checks.control != "real":
        return {}
    asked = runs.asked(origin := runs.by_hash(adapter))["config"]
    cohort, _ = open_cohort(config.Plugin(**asked["cohort"]), "alignment")
    return source.real_windows(cohort, layout_of(origin), asked["valid"])


def answer(recipe: Feedback, study: server.Study, report: calls.Then) -> None:
    """What this call asks for: take a file, let simulated experts answer, write a file, or else open the studio."""
    if recipe.taken:
        counts = offline.take(study, Path(recipe.taken))
        console.say("taken: " + (", ".join(console.count(n, kind) for kind, n in counts.items()) or "nothing"))
    if recipe.simulate is not None:
        console.say(f"simulated experts gave {calls.simulate(study, recipe.simulate, recipe.raters)} answers")
    if recipe.export and recipe.export.endswith(".html"):
        for file in offline.write_pages(study, recipe.raters, Path(recipe.export)):
            console.say(f"one rater's page, with the recordings in it: {file}")
    elif recipe.export and recipe.export.endswith("advice.jsonl"):
        calls.write_advice(study, Path(recipe.export))
    elif recipe.export and recipe.export.endswith(".jsonl"):
        documents = sample.kept(runs.find(recipe.synthetic, "generate") / "private")
        calls.write_pairs(study, Path(recipe.export), layout_of(runs.by_hash(study.store.model)), documents)
    elif recipe.export:
        raise MienError(f"export: {recipe.export!r} is neither a page (….html) nor answers (….jsonl, …advice.jsonl)")
    if not (recipe.taken or recipe.export or recipe.simulate):
        tokens = {r: t for r in recipe.raters if (t := study.store.seat(r, anew=r in recipe.links))}
        server.serve(
            study, host=recipe.host, port=recipe.port, more=recipe.names, recognised=report,
            ready=lambda port: calls.invite(recipe.host, port, recipe.raters, tokens, recipe.names),
        )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(verbs.guard(main))
