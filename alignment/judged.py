"""What experts say of a generator's samples, and how the generator has changed for it: documents, answers, results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ..core import console
from ..core.config import Section
from ..core.errors import MienError
from ..core.intervals import Interval, over_persons
from ..core.records import Recording
from ..core.results import Baseline, Report, Result
from ..generation import sample
from ..generation.layout import Layout
from ..generation.vocabulary import PAD
from . import experts, preferences
from .pairs import Pairs
from .preferences import BROKEN, Preference, Quality
from .store import Pair

AFTERWARDS = (
    "Alignment saw samples of the adapter and what experts said of them, and no recording: what the guarantee says of the recorded"
    " persons still holds (post-processing). It says nothing of the raters, whose answers shaped what was made of them."
)
SAW_REAL = (
    "Raters saw real recordings too (control pairs), or their answers tell something of recorded persons: what they said may"
    " depend on them, so that alignment is no post-processing, and the guarantee of the adapter does not cover it."
)
TAKEN_AS_PUBLIC = (
    "Of the private alignment: the raters' numbers and the held-out results on this page are not covered. Which recordings were"
    " taken out because a rater recognised somebody is taken as public."
)


People = dict[
    tuple[str, frozenset[str]], str
]  # (rater, the two recordings) -> the recorded person that an answer tells of


def flag(recordings: int) -> tuple[str, ...]:
    """What a report says where raters recognised somebody in so many of the recordings that they compared."""
    return (
        f"FLAGGED: raters recognised somebody in {recordings} recording(s). Do not publish this cohort, its adapter or anything"
        " aligned on it before somebody has looked into it.",
    ) * (recordings > 0)


class Simulate(Section):
    """Simulated experts, for tests, demonstrations and plans. per_label: samples of each class; pairs: that are compared;
    raters: how many, each with a taste of their own; expert: alignment/experts.Config; judge_again: samples of each class,
    before and after, that utility, win rate and coverage are read from (also where persons answered)."""

    per_label: int = Field(default=40, ge=2)
    pairs: int = Field(default=200, ge=2)
    raters: int = Field(default=3, ge=2)
    expert: experts.Config = experts.Config()
    judge_again: int = Field(default=60, ge=2)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """documents: int32[T] local ids each; recordings: what they decode to, in the same order; valid: share of documents that
    the grammar accepts."""

    documents: list[np.ndarray]
    recordings: list[Recording]
    valid: float


def draw(model: Any, layout: Layout, own_ids: Any, per_label: int, seed: int, batch: int = 60) -> Samples:
    """`per_label` documents of each class from the model as it is now."""
    prompts = [layout.prompt(c) for c in layout.classes for _ in range(per_label)]
    rows: list[np.ndarray] = []
    with console.progress("sampling documents", len(prompts)) as bar:
        for i in range(0, len(prompts), batch):
            made = sample.documents(model, layout, own_ids, prompts[i : i + batch], temperature=1.0, seed=seed + i)
            rows += [np.asarray(d[d != PAD], dtype=np.int32) for d in made]
            bar.step(len(made))
    ok = [layout.grammar.accepts(d.tolist()) for d in rows]
    recordings = list(sample.recordings([[d] for d in rows], layout, None))
    return Samples(documents=rows, recordings=recordings, valid=float(np.mean(ok)))


def asked(made: Samples, simulate: Simulate, seed: int) -> list[Preference]:
    """What simulated raters say of pairs of these samples."""
    expert = experts.Expert.of(simulate.expert)
    most = sum(
        n * (n - 1) // 2 for n in np.unique([str(r.labels) for r in made.recordings], return_counts=True)[1].tolist()
    )
    return experts.ask(expert, made.recordings, min(simulate.pairs, most), simulate.raters, seed)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """train, held_out: pairs (None where nothing was decided there); quality: the raters' numbers; shared: recordings on both
    sides; saw_real: whether a rater saw real recordings, on which any of their answers may depend; tells: whether answers tell
    of recorded persons (`private`)."""

    train: Pairs
    held_out: Pairs | None
    quality: Quality
    shared: int
    saw_real: bool = False
    tells: bool = False


def learned(
    said: Sequence[Preference], documents: Mapping[str, tuple[Any, Any]], layout: Layout, *, minimum_alpha: float,
    held_out: float, seed: int, people: People | None = None, weigh: bool = False,
    saw_real: bool = False, private: bool = False,
) -> Learned:  # fmt: skip
    """What there is to learn from the answers. documents: recording id -> (prompt, completion); people: of whom
    answers tell; weigh: reliable raters count more (`preferences.weights`, from the answers to learn from alone); saw_real:
    raters are known to have seen real recordings. MienError where raters agree no better than `minimum_alpha`.

    private: no answer may decide what becomes of another's: the held-out side is chosen pair by pair, and agreement, which
    all answers make, refuses nothing (it is said)."""
    saw_real |= any(map(shows_real, said))
    quality = preferences.quality(said) if private else preferences.gate(said, minimum_alpha=minimum_alpha)
    sides = preferences.split(shown(said), held_out, seed, alone=private)
    weight = preferences.weights(sides.train) if weigh else None
    # privately it may stop nothing that no held-out answer is decided
    nothing = private and not any(map(preferences.teaches, sides.held_out))
    train = taught(sides.train, documents, layout, people, weight)
    test = None if nothing else taught(sides.held_out, documents, layout, people)
    return Learned(
        train=train, held_out=test, quality=quality, shared=sides.shared, saw_real=saw_real,
        tells=bool(train.private.any() or (test is not None and test.private.any())),
    )  # fmt: skip


def taught(
    side: Sequence[Preference], documents: Mapping[str, tuple[Any, Any]], layout: Layout, people: People | None = None,
    weight: np.ndarray | None = None,
) -> Pairs:  # fmt: skip
    """What these answers teach, in documents (as `learned` takes them). MienError for a recording without one, and for one that is
    none of this layout."""

    def encode(one: str) -> Any:
        if one not in documents:
            raise MienError(
                f"the preferences do not say what recording {one!r} is (no row of it has prompt and completions)"
            )
        return documents[one]

    person = None if people is None else lambda p: people.get((p.rater, preferences.compared(p)), "")
    return Pairs.of(preferences.trl_rows(side, encode, weight, person).rows, layout)


def shown(said: Sequence[Preference]) -> list[Preference]:
    """Without the answers about a recording in which anybody recognised somebody, whichever side it would be on."""
    blocked = {p.recognised for p in said} - {None}
    return [p for p in said if not {p.a, p.b} & blocked]


def shows_real(p: Preference | Pair) -> bool:
    """Whether a rater saw a real recording here: a control pair, unless it is a synthetic recording and itself in pieces."""
    return p.kind == "control" and not any(one.startswith(BROKEN) for one in (p.a, p.b))


def by_id(made: Samples, layout: Layout) -> dict[str, tuple[Any, Any]]:
    """Recording id -> (prompt, completion) as local ids."""
    cut = layout.prompt_length
    return {r.id: (d[:cut].tolist(), d[cut:].tolist()) for r, d in zip(made.recordings, made.documents, strict=True)}


def from_file(path: Path, adapter: str) -> tuple[list[Preference], dict[str, tuple[Any, Any]], People, bool]:
    """(answers, recording id -> (prompt, completion), whom answers tell of, whether a rater saw real recordings beside).

    path: JSONL of `preferences.write` or `mien feedback … export=pairs.jsonl`.
    MienError for answers about samples of another model than `adapter` (a run's hash) or about more than one cohort (whose
    recordings have the same ids), for a recording that two lines give different documents (in one of them chosen and rejected
    are swapped, say), and for one answer that is said to tell of two persons."""
    said = preferences.read(path)
    others = {p.model for p in said} - {"", adapter}
    if others:
        raise MienError(
            f"{path}: answers are about samples of another model ({min(others)[:10]}) than this adapter ({adapter[:10]});"
            " have this one's samples judged, or name the adapter that was"
        )
    documents: dict[str, tuple[Any, Any]] = {}
    people: People = {}
    saw_real, cohort = False, ""
    said_at: dict[str, int] = {}
    for n, row in preferences.rows(path):
        saw_real |= bool(row.get("saw_real"))
        cohort = cohort or row.get("cohort", "")
        if row.get("cohort", "") not in ("", cohort):
            raise MienError(
                f"{path}, line {n}: this answer is about another cohort ({row['cohort'][:10]}) than those before it ({cohort[:10]}), whose"
                " recordings have the same ids; align on one cohort's answers"
            )
        if row.get("choice") not in ("A", "B") or not {"prompt", "chosen", "rejected"} <= set(row):
            continue
        better, worse = (row["a"], row["b"]) if row["choice"] == "A" else (row["b"], row["a"])
        for one, document in ((better, row["chosen"]), (worse, row["rejected"])):
            if documents.setdefault(one, (row["prompt"], document)) != (row["prompt"], document):
                raise MienError(
                    f"{path}, line {n}: recording {one!r} is another document here than in line {said_at[one]}; are chosen and rejected"
                    " swapped, or two files joined? Keep what belongs together"
                )
            said_at.setdefault(one, n)
        if row.get("person"):
            rater, who = str(row.get("rater") or row.get("rater_id")), str(row["person"])
            if people.setdefault((rater, frozenset((row["a"], row["b"]))), who) != who:
                raise MienError(
                    f"{path}, line {n}: this and a line before it are one answer of {rater!r} about pair"
                    f" {row.get('pair_id') or row.get('pair')}, and name two persons; keep one"
                )
    return said, documents, people, saw_real


def utilities(made: Samples, expert: experts.Expert) -> dict[experts.Part, np.ndarray]:
    """Part -> float64[n], of an expert without noise. A sample with nothing to judge by is as bad as one can be, as it is to
    raters: left out, a generator that has fallen silent would win. No part that hardly any sample can be judged by."""
    found = [expert.utilities(r) for r in made.recordings]
    out: dict[experts.Part, np.ndarray] = {}
    for part in experts.PARTS:
        x = np.array([u[part] for u in found])
        if np.isfinite(x).sum() >= 2:
            out[part] = np.where(np.isfinite(x), x, experts.WORST)
    return out


@dataclass(frozen=True, kw_only=True)
class Gain:
    """before, after: mean utilities."""

    interval: Interval
    before: float
    after: float


def gained(before: Samples, after: Samples, expert: experts.Expert) -> tuple[dict[experts.Part, Gain], Interval]:
    """(part -> gain in utility, win rate of after against before among samples of one label), judged by an expert without
    noise. Samples are independent draws, so the intervals are over pairs of them in the order they were drawn. No part that
    the samples before could not be judged by; MienError where that is all."""
    old, new = utilities(before, expert), utilities(after, expert)
    if "all" not in old or len(after.recordings) < 2:
        raise MienError("the simulated expert finds no vital sign in these recordings, and so has nothing to judge")
    rows, gains = np.arange(len(before.recordings)).astype(str), {}
    silent = np.full(len(after.recordings), experts.WORST)
    for part, x in old.items():
        y = new.get(part, silent)
        interval = over_persons(lambda a, b: float((b - a).mean()), rows, x, y, bounds=None)
        gains[part] = Gain(interval=interval, before=float(x.mean()), after=float(y.mean()))
    x, y = old["all"], new.get("all", silent)
    return gains, over_persons(lambda w: float(w.mean()), rows, (y > x) + 0.5 * (y == x))


def result(
    metric: str, found: Interval | None, unit: str = "recording", note: str = "", higher: bool = True, **beside: float
) -> Result:
    """An interval as a result; beside: baselines, underscores for blanks."""
    value = found and {"value": found.value, "low": found.low, "high": found.high}
    return Result(
        metric=metric, **(value or {"value": None}), unit=unit, note=note, higher_is_better=higher,
        baselines=tuple(Baseline(name=n.replace("_", " "), value=v) for n, v in beside.items()),
    )  # fmt: skip


class Bounds(Section):
    """What must hold after alignment, or the verb ends with exit code 3: valid, the share of whole documents; win_rate, against
    the adapter as it was (simulated experts only); coverage, of real windows, as a share of what it was; kl, in nats a
    document at most; leakage, by how much the AUC of the membership attack may rise. None: not asked for."""

    valid: float = Field(default=1.0, ge=0, le=1)
    win_rate: float | None = Field(default=0.5, ge=0, le=1)
    coverage: float | None = Field(default=None, ge=0)
    kl: float | None = Field(default=None, gt=0)
    leakage: float | None = None


_LEAST = {"valid": "valid sequences", "win_rate": "win rate against before", "coverage": "coverage kept"}
_MOST = {"kl": "KL to the reference", "leakage": "rise of membership AUC"}


def passed(found: Mapping[str, Result], bounds: Bounds) -> list[str]:
    """A sentence for each bound that does not hold; a number that could not be measured holds none. The win rate is
    not asked for where persons answered."""
    out = []
    for sides, word in ((_LEAST, "at least"), (_MOST, "at most")):
        for key, metric in sides.items():
            asked, value = getattr(bounds, key), found[metric].value if metric in found else None
            if asked is None or (key == "win_rate" and metric not in found):
                continue
            if value is None or (value < asked if word == "at least" else value > asked):
                said = "was not measured" if value is None else f"is {value:.3g}"
                out.append(f"{metric} {said}, and {word} {asked:g} was asked for")
    return out


def told(study: str, bounds: Bounds | None, release: Path) -> int:
    """Print the results of the run whose `release/` this is; bounds: None where no adapter was moved, so that there is nothing
    to hold. 3 where a bound is passed, which is then said, else 0."""
    results = Report.read(release / "report.json").results
    console.table(
        f"alignment of {study}", ["measure", "value", "95 %", "beside"],
        [
            [r.metric, f"{r.value:.3f}" if r.value is not None else "–",
             f"{r.low:.3f} to {r.high:.3f}" if r.low is not None and r.high is not None else "",
             ", ".join(f"{b.name} {b.value:.3f}" for b in r.baselines if b.value is not None)]
            for r in results
        ],
    )  # fmt: skip
    wrong = [] if bounds is None else passed({r.metric: r for r in results}, bounds)
    for line in wrong:
        console.fail(f"bound passed: {line}")
    console.say(f"made: {', '.join(str(p) for p in sorted(release.iterdir()) if p.is_dir())}")
    console.say(f"report: {release / 'report.html'}")
    return 3 if wrong else 0


def write_log(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(r, default=float) + "\n" for r in rows))
