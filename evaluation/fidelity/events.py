"""Events: do synthetic logs have as many calls, as long, as far apart, as real ones?

Per kind of event the Kolmogorov–Smirnov distances of counts per hour, of durations and of gaps between beginnings, beside those
between persons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...core.config import Section
from ...core.records import Events, Stream
from ...core.results import Result
from ..comparisons import OVER, alike, compared, ks, not_measured
from ..protocols import Inputs

HIGHER_IS_BETTER = False


class Config(Section):
    """seed: of which synthetic windows, so that labels are mixed as in the real ones."""

    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    """Nothing for a cohort without event logs."""
    w, t, out = inputs.windows, inputs.tables, []
    like = alike(t.synthetic.label, t.train.label, len(t.synthetic), config.seed)
    for stream, spec in w.card.streams.items():
        if spec.kind != "events":
            continue
        for code, kind in enumerate(spec.channels):
            train, test = _of(w.train, stream, code), _of(w.test, stream, code)
            made = _of([w.synthetic[i] for i in like.tolist()], stream, code)
            for what, (real, rows), (other, theirs), (fake, _) in zip(
                ("rate", "duration", "gap"), train, test, made, strict=True
            ):
                name = f"KS {stream}.{kind} {what}"
                if not len(real) or not len(fake):
                    out.append(not_measured(name, f"no {'training' if not len(real) else 'synthetic'} window has one"))
                    continue
                unit = "an hour" if what == "rate" else "s"
                note = f"means: synthetic {fake.mean():.3g}, real {real.mean():.3g} {unit}; {OVER}"
                out.append(compared(name, ks, real, other, fake, t.train.person[rows], t.test.person[theirs], note))
    return out


def _of(windows: Sequence[Mapping[str, Stream]], stream: str, code: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(values, their windows' numbers) of events an hour, durations [s], and gaps between beginnings [s] of one kind."""
    rates, lengths, gaps = [], [], []
    for i, w in enumerate(windows):
        s = w.get(stream)
        if not isinstance(s, Events):
            continue
        mine = s.codes == code
        rates.append((i, [mine.sum() * 3600 / s.seconds]))
        lengths.append((i, s.durations_s[mine]))
        gaps.append((i, np.diff(s.times_s[mine])))
    return [
        (
            np.concatenate([np.asarray(v, dtype=float) for _, v in part] or [np.empty(0)]),
            np.concatenate([np.full(len(v), i) for i, v in part] or [np.empty(0, int)]).astype(int),
        )
        for part in (rates, lengths, gaps)
    ]
