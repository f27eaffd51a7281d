"""Events: do synthetic logs have as many calls, as long, as far apart, as real ones?

Per kind of event the Kolmogorov–Smirnov distance of counts per window, of durations and of gaps, beside that between persons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...core.config import Section
from ...core.records import Events, Stream
from ...core.results import Baseline, Result
from ..protocols import Inputs
from .physiology import ks

HIGHER_IS_BETTER = False


class Config(Section):
    """No options."""


def measure(inputs: Inputs, config: Config) -> list[Result]:
    w, out = inputs.windows, []
    for stream, spec in w.card.streams.items():
        if spec.kind != "events":
            continue
        for code, kind in enumerate(spec.channels):
            sides = [_of(x, stream, code) for x in (w.train, w.test, w.synthetic)]
            for i, what in enumerate(("count", "duration", "gap")):
                real, other, made = (s[i] for s in sides)
                enough = len(real) and len(made)
                out.append(
                    Result(
                        metric=f"KS {stream}.{kind} {what}", value=ks(made, real) if enough else None, unit="window",
                        higher_is_better=False,
                        note=f"means: synthetic {made.mean():.3g}, real {real.mean():.3g}" if enough else "not measured: none there",
                        baselines=(Baseline(name="real vs real persons", value=ks(other, real) if len(other) and enough else None),),
                    )
                )  # fmt: skip
    return out


def _of(windows: Sequence[Mapping[str, Stream]], stream: str, code: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts per window, durations [s], gaps between beginnings [s] of one kind."""
    logs = [s for w in windows if isinstance(s := w.get(stream), Events)]
    mine = [s.codes == code for s in logs]
    counts = np.array([m.sum() for m in mine], dtype=float)
    lengths = np.concatenate([s.durations_s[m] for s, m in zip(logs, mine, strict=True)] or [np.empty(0)])
    gaps = np.concatenate([np.diff(s.times_s[m]) for s, m in zip(logs, mine, strict=True)] or [np.empty(0)])
    return counts, lengths, gaps
