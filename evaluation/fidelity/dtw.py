"""DTW: how far a synthetic window lies from the real one most like it, when time may be stretched a little.

Dynamic time warping in a band of a tenth of the window (Sakoe & Chiba 1978), on standardised streams of at most 40 samples; the
median over windows. Its control is between real persons. It says nothing about privacy: what is far from every record can still
give its members away, and bad synthetic data are far from all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.records import Signal, Stream
from ...core.results import Baseline, Result
from ..protocols import Inputs
from ..vitals import some

HIGHER_IS_BETTER = False


class Config(Section):
    """most: windows per side at most; samples: per window; seed."""

    most: int = Field(default=60, ge=2)
    samples: int = Field(default=40, ge=4)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    w, out = inputs.windows, []
    for stream in (n for n, spec in w.card.streams.items() if spec.kind == "signal"):
        real, other, made = (_short(x, stream, config) for x in (w.train, w.test, w.synthetic))
        if real is None or made is None:
            why = "not measured: no such windows to compare"
            out.append(
                Result(metric=f"nearest DTW {stream}", value=None, unit="window", higher_is_better=False, note=why)
            )
            continue
        sd = np.maximum(real.std((0, 1)), 1e-9)
        nearest = lambda x, real=real, sd=sd: float(np.median(dtw(x / sd, real / sd).min(1)))  # noqa: E731
        out.append(
            Result(
                metric=f"nearest DTW {stream}", value=nearest(made), unit="window", higher_is_better=False,
                note="per sample, in standard deviations; not a measure of privacy",
                baselines=(Baseline(name="real vs real persons", value=None if other is None else nearest(other)),),
            )
        )  # fmt: skip
    return out


def _short(windows: Sequence[Mapping[str, Stream]], stream: str, config: Config) -> np.ndarray | None:
    """float64[n, samples, C]: block means."""
    kept = [s.values for w in windows if isinstance(s := w.get(stream), Signal) and s.complete]
    if not kept:
        return None
    rows = []
    for i in some(len(kept), config.most, config.seed).tolist():
        edges = np.linspace(0, len(kept[i]), min(config.samples, len(kept[i])) + 1).astype(int)[:-1]
        rows.append(
            np.add.reduceat(kept[i].astype(np.float64), edges, axis=0) / np.diff(np.r_[edges, len(kept[i])])[:, None]
        )
    return np.stack(rows) if len({r.shape for r in rows}) == 1 else None


def dtw(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64[n, m]: DTW distances, per sample, between each of a float64[n, T, C] and of b float64[m, T, C]."""
    n, m, T = len(a), len(b), a.shape[1]
    band = max(1, T // 10)
    before = np.full((T + 1, n, m), np.inf)
    before[0] = 0.0
    for i in range(T):
        now = np.full((T + 1, n, m), np.inf)
        for j in range(max(0, i - band), min(T, i + band + 1)):
            cost = np.sqrt(((a[:, None, i] - b[None, :, j]) ** 2).sum(-1))
            now[j + 1] = cost + np.minimum(np.minimum(before[j], before[j + 1]), now[j])
        before = now
        before[0] = np.inf
    return before[T] / T
