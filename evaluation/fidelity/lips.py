"""Lips: do they part with the voice, as those of one and the same speaker do?

Per window with both a voice and a face, the correlation of how far the lips are parted (action unit 25) with the loudness of the
voice (root mean square of each of the face's frames). A face and a voice that are each as they should be, and of two recordings, have
none. Its Kolmogorov–Smirnov distance stands beside that between real persons, and its mean beside that of real windows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import CohortCard, Signal, Stream
from ...core.results import Result
from ..comparisons import OVER, alike, baseline, compared, known, ks, not_measured, some, spread
from ..protocols import Inputs

HIGHER_IS_BETTER = False
METRIC = "voice-lips correlation"
_LEAST = 5  # windows in which it must be found, on each side
_SOUND_HZ = 4000
_PARTED = re.compile(r"AU0*25(_r)?", re.IGNORECASE)


class Config(Section):
    """voice, face: their streams, where there are several of one channel of sound, or several with action unit 25; most: windows per
    side at most; seed."""

    voice: str | None = None
    face: str | None = None
    most: int = Field(default=400, ge=10)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    """Not measured, and why, for a cohort without a voice and a face."""
    w, t = inputs.windows, inputs.tables
    voice, face = streams(w.card, config)
    if voice is None or face is None:
        why = "no stream is sound of one channel" if voice is None else "no stream has action unit 25 (AU25_r)"
        return [not_measured(f"KS {METRIC}", why)]
    picks = (
        some(len(w.train), config.most, config.seed), some(len(w.test), config.most, config.seed),
        alike(t.synthetic.label, t.train.label, config.most, config.seed),
    )  # fmt: skip
    train, test, made = (
        table([x[i] for i in rows.tolist()], voice, face)
        for x, rows in zip((w.train, w.test, w.synthetic), picks, strict=True)
    )
    found = [int(np.isfinite(x).sum()) for x in (train, made)]
    if min(found) < _LEAST:
        why = f"found in {found[0]} of {len(train)} training and {found[1]} of {len(made)} synthetic windows"
        return [not_measured(f"KS {METRIC}", f"{METRIC} was {why}")]
    person, others = t.train.person[picks[0]], t.test.person[picks[1]]
    note = f"{found[1]} of {len(made)} synthetic windows have both, {found[0]} of {len(train)} real ones; {OVER}"
    heard, whose = known(train, person)
    real = spread(lambda v: float(v.mean()), whose, heard, floor=None)  # a correlation may be negative
    return [
        compared(f"KS {METRIC}", ks, train, test, made, person, others, note),
        Result(
            metric=f"mean {METRIC}", value=float(np.nanmean(made)), unit="recording",
            note="AU25 with the loudness of the same moment; one release, so no interval",
            baselines=(baseline("real training windows", real),),
        ),
    ]  # fmt: skip


def streams(card: CohortCard, config: Config) -> tuple[str | None, str | None]:
    """The voice's and the face's names, None for what is not there. MienError for one that the recipe names and that cannot be it."""
    signals = {n: s for n, s in card.streams.items() if s.kind == "signal"}
    voices = [n for n, s in signals.items() if s.rate_hz >= _SOUND_HZ and len(s.channels) == 1]
    faces = [n for n, s in signals.items() if any(_PARTED.fullmatch(c) for c in s.channels)]
    for key, named, there in (("voice", config.voice, voices), ("face", config.face, faces)):
        if named is not None and named not in there:
            raise MienError(f"lips.{key}: {named!r} is no {key} here; there are {', '.join(there) or 'none'}")
    return config.voice or next(iter(voices), None), config.face or next(iter(faces), None)


def table(windows: Sequence[Mapping[str, Stream]], voice: str, face: str) -> np.ndarray:
    """float64[n]: the correlation in each window; NaN where a stream is missing or has gaps, and where either stands still."""
    return np.array([_correlation(w.get(voice), w.get(face)) for w in windows], dtype=float)


def _correlation(voice: Stream | None, face: Stream | None) -> float:
    if not (isinstance(voice, Signal) and isinstance(face, Signal) and voice.complete and face.complete):
        return float("nan")
    parted = next(i for i, c in enumerate(face.channels) if _PARTED.fullmatch(c))
    frames = min(len(face.values), int(len(voice.values) / voice.rate_hz * face.rate_hz + 1e-6))
    edges = np.rint(np.arange(frames + 1) * voice.rate_hz / face.rate_hz).astype(int)
    if frames < 3:
        return float("nan")
    squares = np.add.reduceat(voice.values[: edges[-1], 0].astype(np.float64) ** 2, edges[:-1])
    loud, lips = np.sqrt(squares / np.diff(edges)), face.values[:frames, parted].astype(np.float64)
    if loud.std() < 1e-9 or lips.std() < 1e-9:
        return float("nan")
    return float(np.corrcoef(loud, lips)[0, 1])
