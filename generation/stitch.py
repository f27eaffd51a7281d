"""Windows that follow one another as one long recording, without seams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..core.errors import MienError
from ..core.records import Events, Signal, Stream, Text
from .layout import Layout

_FADE_S = 3.0  # over how long a jump between two windows is spread, on either side


def join(layout: Layout, documents: Sequence[np.ndarray]) -> dict[str, Stream]:
    """Documents of consecutive windows -> streams of all their time.

    A codec that can say how its blocks go on (`join`) does; of the others, signals get the jump at each seam spread over
    three seconds on both sides, events and utterances are moved to their time. With whom an event was is a number within
    its window: nothing says that two windows mean the same party, so each window's parties are others than those before. A
    signal that some windows lack has gaps there; a log or a transcript that one lacks is absent, for it cannot say when
    nobody looked. MienError when nothing is left.
    """
    blocks = [layout.blocks_of(d) for d in documents]
    out: dict[str, Stream] = {}
    for i, coder in enumerate(layout.coders):
        if not all(i in b for b in blocks):
            out |= _holed([coder.decode(b[i]) if i in b else {} for b in blocks])
            continue
        mine = [b[i] for b in blocks]
        if hasattr(coder, "join"):
            out |= coder.join(mine)
            continue
        parts = [coder.decode(b) for b in mine]
        for name in parts[0]:
            if all(name in p for p in parts):
                out[name] = _joined([p[name] for p in parts])
    if not out:
        raise MienError(
            "the windows of a long recording have no stream in common: the adapter has not learned to go on; train it longer, or"
            " leave sampling.seconds out"
        )
    return out


def _holed(parts: Sequence[Mapping[str, Stream]]) -> dict[str, Stream]:
    """Signals that some windows have, with gaps where the others are."""
    out: dict[str, Stream] = {}
    for name in dict.fromkeys(n for p in parts for n in p):
        known = next(s for p in parts if (s := p.get(name)) is not None)
        if isinstance(known, Signal):
            gap = np.full(known.values.shape, np.nan, dtype=np.float32)
            hole = replace(known, values=gap, valid=np.zeros(len(gap), dtype=bool))
            rows = [s if isinstance(s := p.get(name), Signal) else hole for p in parts]
            valid = np.concatenate([np.ones(len(r.values), bool) if r.valid is None else r.valid for r in rows])
            out[name] = replace(known, values=np.concatenate([r.values for r in rows]), valid=valid)
    return out


def _joined(parts: Sequence[Stream]) -> Stream:
    first = parts[0]
    if isinstance(first, Signal):
        signals = [p for p in parts if isinstance(p, Signal)]
        decoded = np.concatenate([p.values for p in signals])
        # what no window reached is an artefact of the fading, and may be beyond what the codec can say
        low, high = np.fmin.reduce(decoded, axis=0), np.fmax.reduce(decoded, axis=0)
        values = np.concatenate(faded([p.values for p in signals], first.rate_hz)).clip(low, high)
        valid = None
        if any(p.valid is not None for p in signals):
            valid = np.concatenate([np.ones(len(p.values), bool) if p.valid is None else p.valid for p in signals])
        return replace(first, values=values, valid=valid)
    starts = np.cumsum([0.0, *(p.seconds for p in parts)])
    total = float(starts[-1])
    if isinstance(first, Events):
        logs = [p for p in parts if isinstance(p, Events)]
        parties = [np.asarray(p.party) for p in logs]
        known = np.cumsum([0, *(p.max(initial=-1) + 1 for p in parties)])
        return replace(
            first, times_s=np.concatenate([p.times_s + t for p, t in zip(logs, starts, strict=False)]), seconds=total,
            durations_s=np.concatenate([p.durations_s for p in logs]), codes=np.concatenate([p.codes for p in logs]),
            party=np.concatenate([np.where(p < 0, p, p + k) for p, k in zip(parties, known, strict=False)]),
        )  # fmt: skip
    said = [p for p in parts if isinstance(p, Text)]
    return replace(
        said[0], times_s=np.concatenate([p.times_s + t for p, t in zip(said, starts, strict=False)]), seconds=total,
        ends_s=np.concatenate([p.ends_s + t for p, t in zip(said, starts, strict=False)]),
        text=tuple(t for p in said for t in p.text), speakers=tuple(s for p in said for s in p.speakers),
    )  # fmt: skip


def faded(parts: Sequence[np.ndarray], rate_hz: float) -> list[np.ndarray]:
    """float[T, C] windows whose ends meet: half of each jump is taken from either side, and fades away from the seam."""
    out = [p.astype(np.float64).copy() for p in parts]
    for a, b in zip(range(len(out)), range(1, len(out)), strict=False):
        one, two = out[a], out[b]
        # where both sides were heading, so that a slope goes on and does not become a step
        ahead = one[-1] + (one[-1] - one[-2] if len(one) > 1 else 0) / 2
        behind = two[0] - (two[1] - two[0] if len(two) > 1 else 0) / 2
        jump = behind - ahead
        n = min(len(one), len(two), max(1, round(_FADE_S * rate_hz)))
        weight = (0.5 * (1 + np.cos(np.pi * np.arange(n) / n)))[:, None] / 2
        one[len(one) - n :] += weight[::-1] * jump
        two[:n] -= weight * jump
    return [p.astype(np.float32) for p in out]
