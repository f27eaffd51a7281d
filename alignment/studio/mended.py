"""Recordings other than they were sampled: corrected by a rater, or broken on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...core.errors import MienError
from ...core.records import Events, Recording, Signal, Stream, Text
from .shown import Marks, marks

NEAREST_S = {"beat": 0.2, "scr": 0.5}  # two marks cannot be nearer to one another


def corrected(
    r: Recording, stream: str, kind: str, moves: Sequence[Sequence[float]], roles: Mapping[str, str], name: str
) -> Recording:
    """The recording `name`: r with detected beats or skin conductance responses where a rater dragged them.

    moves: [mark's number, where to [s], what to add to its height [uS]]. Time is stretched between the neighbouring marks
    (linearly), so that the wave moves with its peak and all else stays; a response that grows or shrinks keeps its shape.
    MienError where a mark does not exist or passes its neighbour.
    """
    found = marks(r, roles).get(stream)
    if found is None or found.kind != kind:
        raise MienError(f"correction: nothing of kind {kind!r} was detected in stream {stream!r}")
    s = r.streams[stream]
    assert isinstance(s, Signal)
    to = _moved(found, moves, s)
    t = np.arange(len(s.values)) / s.rate_hz
    ends = [0.0, (len(s.values) - 1) / s.rate_hz]
    from_s, to_s = (np.r_[ends[0], x - s.offset_s, ends[1]] for x in (found.times, to))
    values = np.stack([np.interp(np.interp(t, to_s, from_s), t, x) for x in s.values.T], axis=1)
    if kind == "scr":
        scale = 1000 if s.unit == "nS" else 1
        for i, _, more in moves:
            _grow(values[:, 0], np.rint((to_s[int(i) : int(i) + 3]) * s.rate_hz).astype(int), more * scale)
    streams: dict[str, Stream] = {**r.streams, stream: replace(s, values=values.astype(np.float32))}
    return replace(r, id=name, person=name, streams=streams)


def _moved(found: Marks, moves: Sequence[Sequence[float]], s: Signal) -> np.ndarray:
    to = found.times.copy()
    for i, second, _ in moves:
        if not 0 <= i < len(to):
            raise MienError(f"correction: there is no {found.kind} number {i:g}")
        to[int(i)] = second
    around = np.r_[s.offset_s, to, s.offset_s + (len(s.values) - 1) / s.rate_hz]
    gaps = np.diff(around)
    if len(to) and ((gaps[1:-1] < NEAREST_S[found.kind] - 1e-6) & _touched(found, moves)).any():
        raise MienError(f"correction: a {found.kind} cannot pass its neighbour")
    if (gaps[[0, -1]] <= 0).any():
        raise MienError(f"correction: a {found.kind} cannot leave the recording")
    return to


def _touched(found: Marks, moves: Sequence[Sequence[float]]) -> np.ndarray:
    """bool[N-1]: the intervals with an end that was moved."""
    moved = np.zeros(len(found.times), dtype=bool)
    moved[[int(m[0]) for m in moves]] = True
    return moved[1:] | moved[:-1]


def _grow(x: np.ndarray, around: np.ndarray, more: float) -> None:
    """Add `more` to the peak of a response in x float[T], in place, and to the rest of it in proportion to its height over the
    line between the lowest points on either side. around: indices of the mark before, its own, and the next."""
    before, peak, after = np.clip(around, 0, len(x) - 1)
    low, high = before + int(x[before : peak + 1].argmin()), peak + int(x[peak : after + 1].argmin())
    own = x[low : high + 1] - np.interp(np.arange(low, high + 1), [low, high], [x[low], x[high]])
    if own.max(initial=0) > 0:
        x[low : high + 1] = np.maximum(x[low : high + 1] + max(more, -own.max()) * np.clip(own / own.max(), 0, 1), 0)


def broken(r: Recording, rng: np.random.Generator, name: str) -> Recording:
    """The recording `name`: r in pieces of about a second, each stream's in an order of its own. Whoever looks sees it; a
    rater who prefers it did not look."""
    streams: dict[str, Stream] = {}
    for key, s in r.streams.items():
        if isinstance(s, Signal):
            size = max(1, round(min(1.3, s.seconds / 4) * s.rate_hz))
            pieces = [np.arange(i, min(i + size, len(s.values))) for i in range(0, len(s.values), size)]
            order = np.concatenate([pieces[i] for i in rng.permutation(len(pieces))]) if pieces else np.arange(0)
            valid = None if s.valid is None else s.valid[order]
            streams[key] = replace(s, values=s.values[order], valid=valid)
        elif isinstance(s, Events):
            times = np.sort(s.offset_s + rng.uniform(0, s.seconds, len(s.times_s)))
            streams[key] = replace(s, times_s=times, durations_s=rng.permutation(s.durations_s))
        elif isinstance(s, Text):
            streams[key] = _shuffled(s, rng)
        else:
            streams[key] = replace(s, frames=s.frames[rng.permutation(len(s.frames))])
    return replace(r, id=name, person=name, streams=streams)


def _shuffled(s: Text, rng: np.random.Generator) -> Text:
    words = [w for text in s.text for w in text.split()]
    words = [words[i] for i in rng.permutation(len(words))]
    lengths = [len(text.split()) for text in s.text]
    ends = np.cumsum(lengths)
    said = tuple(" ".join(words[e - n : e]) for e, n in zip(ends, lengths, strict=True))
    return replace(s, text=said)
