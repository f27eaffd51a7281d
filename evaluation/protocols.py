"""What metrics are handed: window tables for utility, windows for fidelity. Made by the recipe, never here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core import console, plugins
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.records import Cohort, CohortCard, Stream, cut, recording_windows
from ..core.results import Result
from ..data.features import WindowTable, of_windows
from ..data.matching import Alike
from ..data.splits import Splits


@dataclass(frozen=True, kw_only=True)
class Tables:
    """train: real windows of training persons; test: of held-out persons; synthetic: the release; codec, codec_test: the
    training and held-out windows written as tokens and read back (what the codec alone loses); classes: the task's.

    MienError when a class is missing among the real training windows, or there is no synthetic window at all.
    """

    train: WindowTable
    test: WindowTable
    synthetic: WindowTable
    classes: tuple[str, ...]
    codec: WindowTable | None = None
    codec_test: WindowTable | None = None

    def __post_init__(self) -> None:
        missing = [c for c in self.classes if c not in set(self.train.label)]
        if missing:
            raise MienError(f"no training window has the label {missing[0]!r}; draw another split (seed=…)")
        if not len(self.synthetic):
            raise MienError("the synthetic cohort has no window of the length that is evaluated; generate it again")


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows: lists of {stream: Stream}; card: the synthetic cohort's; seconds: of one window; valid_sequences: share of
    sampled token sequences that the grammar accepts; codec, codec_test: training and held-out windows written as tokens and
    read back, a window that could not be written being empty."""

    train: Sequence[Mapping[str, Stream]]
    test: Sequence[Mapping[str, Stream]]
    synthetic: Sequence[Mapping[str, Stream]]
    card: CohortCard
    seconds: float
    valid_sequences: float
    codec: Sequence[Mapping[str, Stream]] = ()
    codec_test: Sequence[Mapping[str, Stream]] = ()


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a metric may look at; rows of the tables are the windows, in order. outliers: training persons whose
    attribute `outlier` is true (simulated cohorts plant some): for aggregates over them, never for a list."""

    tables: Tables
    windows: Windows
    outliers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for side in ("train", "test", "synthetic", "codec", "codec_test"):
            n, m = len(getattr(self.tables, side) or ()), len(getattr(self.windows, side))
            if n != m and not (m == 0 and side.startswith("codec")):
                raise MienError(
                    f"{side}: {n} rows of statistics for {m} windows; they must be the same windows in order"
                )


def gather(
    cohort: Cohort,
    synthetic: Cohort,
    split: Splits,
    *,
    seconds: float,
    stride_s: float,
    task: str,
    through: Callable[[Mapping[str, Stream], str], Mapping[str, Stream]],
    valid_sequences: float,
    valid: float = 1.0,
) -> Inputs:
    """Real windows of both sides of the split, the synthetic ones, and the real ones through the codec.

    through(streams, label): one window written as tokens and read back; valid: the share of samples a window needs.
    Real windows with gaps or without the label are left out; synthetic ones stay, whatever they lack. MienError when no
    held-out person has a window left.
    """
    card, wanted = synthetic.card, set(synthetic.card.streams)
    sides: dict[str | None, list] = {"train": [], "holdout": []}
    for r in cohort:
        for w in recording_windows(r, seconds, stride_s) if task in r.labels else ():
            streams, why = cut(r, w, valid)
            if not why and (side := split.side(w)) in sides:
                sides[side].append((r, w, {n: s for n, s in streams.items() if n in wanted}))
    train, test = sides["train"], sides["holdout"]
    if not train or not test:
        raise MienError(
            f"{len(train)} training and {len(test)} held-out windows are left to evaluate on; see whose consent covers"
            " evaluation, or draw another split"
        )
    coded, also = ([(r, w, through(s, str(r.labels[task]))) for r, w, s in side] for side in (train, test))
    made = [
        (r, w, {n: part for n, s in r.streams.items() if (part := s.cut(w.start_s, w.end_s)) is not None})
        for r in synthetic
        for w in recording_windows(r, seconds, seconds)
    ]
    # One call for both sides: words get their codes in order of appearance, and must mean the same in train and test.
    real = of_windows(train + test, card, cohort.card, task)
    rows = np.arange(len(real))
    return Inputs(
        tables=Tables(
            train=real.rows(rows < len(train)), test=real.rows(rows >= len(train)),
            synthetic=of_windows(made, card, card, task), codec=of_windows(coded, card, cohort.card, task),
            codec_test=of_windows(also, card, cohort.card, task), classes=tuple(card.tasks[task]),
        ),
        windows=Windows(
            train=[s for *_, s in train], test=[s for *_, s in test], synthetic=[s for *_, s in made],
            card=card, seconds=seconds, valid_sequences=valid_sequences, codec=[s for *_, s in coded],
            codec_test=[s for *_, s in also],
        ),
        outliers=frozenset(r.person for r, *_ in train if r.attributes.get("outlier") is True),
    )  # fmt: skip


def measured(
    data: Inputs, utility: Sequence[Plugin], fidelity: Sequence[Plugin], alike: Alike | None = None
) -> list[Result]:
    """The metrics a recipe names, in order, with a progress bar. alike: matched persons, of whom utility is told again."""
    out: list[Result] = []
    metrics = [("utility", s) for s in utility] + [("fidelity", s) for s in fidelity]
    with console.progress("measuring", len(metrics)) as bar:
        for kind, section in metrics:
            module, options = plugins.resolve(f"evaluation/{kind}", section)
            out += module.measure(data, options)
            if kind == "utility" and alike is not None:
                out += _matched(data, module, options, alike)
            bar.step(note=section.name)
    return out


def _matched(data: Inputs, module: Any, options: Any, alike: Alike) -> list[Result]:
    rows = np.flatnonzero(np.isin(data.tables.test.person, sorted(alike.persons)))
    if not len(rows):
        return [Result(metric="utility, matched persons", value=None, note=alike.said)]
    w, t = data.windows, data.tables
    windows = replace(
        w,
        test=[w.test[i] for i in rows.tolist()],
        codec_test=[w.codec_test[i] for i in rows.tolist()] if w.codec_test else (),
    )
    coded = None if t.codec_test is None else t.codec_test.rows(rows)
    some = replace(data, tables=replace(t, test=t.test.rows(rows), codec_test=coded), windows=windows)
    return [
        r.model_copy(
            update={"metric": f"{r.metric}, matched persons", "note": "; ".join(filter(None, (r.note, alike.said)))}
        )
        for r in module.measure(some, options)
    ]
