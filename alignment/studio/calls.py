"""What `mien feedback` does around a studio: go on where it was, invite raters, let simulated experts answer, count."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core import console, runs
from ...core.errors import MienError
from ...core.paths import runs_home
from ...core.records import CohortCard
from ...core.results import Report, Result, environment
from ...generation.layout import Layout
from .. import judged, preferences
from ..experts import Config, Expert
from ..store import Answer, Store
from . import source
from .server import Study

FILE = "feedback.sqlite"
Then = Callable[[], None]


def carry_over(run: runs.Run) -> None:
    """Bring along what raters said in the same study under another version of this code, or when it had fewer pairs, so that
    nothing is asked twice."""
    if (run.private / FILE).exists():
        return
    mine = runs.asked(run.folder)
    earlier: list[tuple[int, int, Path]] = []
    for file in runs_home().glob(f"{run.verb}-{run.study}-*/private/{FILE}"):
        old = runs.asked(file.parent.parent)
        pairs = old["config"]["pairs"]
        alike = {**old["config"], "pairs": 0} == {**mine["config"], "pairs": 0} and old["inputs"] == mine["inputs"]
        if alike and pairs <= mine["config"]["pairs"]:
            earlier.append((pairs, file.stat().st_mtime_ns, file))
    if earlier:
        pairs, _, last = max(earlier)  # what a study with more pairs holds, it had from those with fewer
        with Store.open(last) as store:
            store.copy(run.private / FILE)
        why = "another version of Mien wrote" if pairs == mine["config"]["pairs"] else f"has {pairs} pairs"
        console.say(f"going on from {last.parent.parent.name}, which {why}; the raters' links stay as they were")


def recognised(cohort: str) -> frozenset[str]:
    """Recordings of a synthetic cohort (its fingerprint) in which somebody was recognised, in any study there is of it."""
    out: set[str] = set()
    for file in sorted(runs_home().glob(f"feedback-*/private/{FILE}")):
        with Store.open(file) as store:  # a file that cannot be read stops us: nobody knows whom it blocks
            out |= store.blocked() if store.cohort == cohort else set()
    return frozenset(out)


def elsewhere(store: Store) -> str:
    """Which other studies of a cohort have answers, in words: a key more or less in the recipe is another study."""
    found = []
    for file in sorted(runs_home().glob(f"feedback-*/private/{FILE}")):
        with Store.open(file) as other:
            n = len(other.standing()) if other.cohort == store.cohort and not file.samefile(store.path) else 0
        if n:
            simulated = runs.asked(file.parent.parent)["config"].get("simulate") is not None
            by = " of simulated experts, with simulate=…" if simulated else ""
            found.append(f"{file.parent.parent.name} ({console.count(n, 'answer')}{by})")
    if not found:
        return "nor has any other study of this cohort"
    return f"there are answers in {', '.join(found)}: give the same keys as there, for others are another study"


def invite(host: str, port: int, raters: Sequence[str], tokens: Mapping[str, str], names: Sequence[str] = ()) -> None:
    """Print each rater's link. A token is told once; afterwards only its hash is known."""
    local = host in ("127.0.0.1", "localhost", "::1")
    shown = f"[{host}]" if ":" in host else host
    base = f"https://{names[0]}" if names else f"http://{shown}:{port}"
    console.say("Each rater opens their own link, and keeps it to come back:")
    for rater in raters:
        old = f"the link they have (a new one: links='[{rater}]')"
        console.say(f"  {rater:<12} {base}/#seat={tokens[rater]}" if rater in tokens else f"  {rater:<12} {old}")
    if not local and not names:
        console.say("  This is plain HTTP on a network: put a proxy with TLS in front, and tell its name (names='[…]')")
    console.say("Ctrl-C closes the studio; every answer is on disk by then. The same command opens it again.")


def simulate(study: Study, config: Config, raters: Sequence[str]) -> int:
    """Let simulated experts answer what is left of the study's pairs. Returns how many answers that were."""
    expert = Expert.of(config.model_copy(update={"task": config.task or study.task or None}))
    mine, given = {"cohort": study.store.cohort, "model": study.store.model}, 0
    pairs, total = study.store.pairs(), len(study.store.pairs()) * len(raters)
    with console.progress("simulated experts", total) as bar:
        for rater in raters:
            done = {said.pair for _, _, said, _ in study.store.standing(rater)}
            for p in pairs:
                bar.step()
                if p.id in done or {p.a, p.b} & study.gone:
                    continue
                a, b = study.recording(p.a), study.recording(p.b)
                said = expert.compare(a, b, pair=p.again or p.id, rater=rater, again=int(p.again is not None))
                nonce = hashlib.sha256(f"simulated {rater} {p.id}".encode()).hexdigest()[:32]
                form = Answer(
                    pair=p.id, nonce=nonce, choice=said.choice, side=said.side, confidence=said.confidence,
                    seconds=said.seconds,
                )  # fmt: skip
                study.store.answer(rater, form, **mine)
                given += 1
    return given


def write_report(run: runs.Run, store: Store, card: CohortCard, config: Mapping[str, object], seed: int) -> None:
    """`release/report.json`: how much was said, and by nobody in particular."""
    counts, simulated = store.counts(), config.get("simulate") is not None
    flagged, told = counts["recordings recognised"], Counter(d.advice.kind for d in store.told())
    ratings = [d.advice.body["value"] for d in store.told() if d.advice.kind == "rating"]
    also = ", ".join(console.count(told[k], k) for k in ("rating", "region", "correction", "instruction") if told[k])
    mean = [Result(metric="mean rating, 1 to 5", value=float(np.mean(ratings)), unit="rating")] if ratings else []
    Report(
        verb=run.verb, run=run.name, study=run.study, config=dict(config), inputs=run.inputs,
        data_fingerprint=run.inputs["adapter"], guarantee=card.guarantee, restrictions=card.restrictions,
        environment=environment(seed),
        summary=f"{counts['raters']} raters compared synthetic recordings of {card.name}; {counts['answers']} answers stand"
        + (f", and beside them {also}." if also else "."),
        results=(*(Result(metric=k, value=float(v), unit="answer") for k, v in counts.items()), *mean),
        not_measured=("What the raters said, and who they are: their answers are in the run's private half.",),
        caveats=(
            *judged.flag(flagged),
            *(("The answers are a simulated expert's: they test code, and say nothing about recordings of people.",)
              if simulated else ()),
        ),
    ).write(run.release / "report.json")  # fmt: skip


def write_advice(study: Study, path: Path) -> None:
    """What raters said of recordings one by one, as JSONL: a recording a line, with what each rater's rating, regions,
    corrections and instructions are. Of control pairs and of whom somebody recognised, nothing. Only its owner may read the file.
    MienError where there is none."""
    pairs, found = {p.id: p for p in study.store.pairs()}, dict[str, dict[str, Any]]()
    told = study.store.told()
    if not told:
        raise MienError(
            f"export: nobody has said anything of a single recording in this study; {elsewhere(study.store)}"
        )
    for d in told:
        pair, one = pairs[d.advice.pair], d.advice.recording
        row = found.setdefault(
            one, {"recording": one, "label": pair.label, "cohort": study.store.cohort, "model": study.store.model}
            | {f"{kind}s": [] for kind in ("rating", "region", "correction", "instruction")} | {"private": False},
        )  # fmt: skip
        row[f"{d.advice.kind}s"].append({"rater": d.rater, "pair": pair.id, "at": d.at, **d.advice.body})
        row["private"] |= pair.private
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.values())
    runs.write_text(path, text, private=True)
    console.say(f"{len(told)} pieces of advice about {console.count(len(found), 'recording')}: {path}")


def write_pairs(study: Study, path: Path, layout: Layout, documents: Mapping[str, np.ndarray]) -> None:
    """The answers as JSONL, with TRL's columns where one teaches; real recordings are not named. documents: of recordings, as
    they were sampled (`source.tokens`). MienError where there is no answer to write."""
    encode, every = source.tokens(layout, study, documents), study.store.preferences()

    def fits(p: preferences.Preference) -> bool:
        try:
            return encode(p.a) != encode(p.b)
        except MienError:
            return False

    shown = [p for p in every if not judged.shows_real(p)]
    shown = [replace(p, b=source.uncorrected(p.a)) if p.kind == "correction" else p for p in shown]
    kept = [p for p in shown if not preferences.teaches(p) or fits(p)]
    if len(kept) < len(shown):
        left = console.count(len(shown) - len(kept), "answer")
        console.say(f"{left} left out: in the adapter's tokens both recordings are the same, or one is none")
    if not kept:
        raise MienError(f"export: this study has no answer to write; {elsewhere(study.store)}")
    # whoever has a seat may have seen a real recording, and taken the answer back
    saw_real = study.store.raters() if any(map(judged.shows_real, study.store.pairs())) else ()
    preferences.write(path, kept, encode, saw_real)
    console.say(f"{len(kept)} answers, {sum(map(preferences.teaches, kept))} of which can be learned from: {path}")
