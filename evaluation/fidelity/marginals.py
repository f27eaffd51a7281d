"""Marginals: do single samples have the values that real ones have?

Per stream the Wasserstein distance of its samples in units of the real standard deviation, and the differences of skewness and
kurtosis (TSGBench's MDD, SD and KD, Ang et al. 2023, arXiv 2309.03755, section 3, which takes histograms for the first).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.records import Signal, Stream
from ...core.results import Baseline, Result
from ..protocols import Inputs

HIGHER_IS_BETTER = False


class Config(Section):
    """samples: per channel and side, at most, evenly spaced over all windows."""

    samples: int = Field(default=20000, ge=100)


def measure(inputs: Inputs, config: Config) -> list[Result]:
    from scipy.stats import kurtosis, skew, wasserstein_distance

    w, out = inputs.windows, []
    for stream in (n for n, spec in w.card.streams.items() if spec.kind == "signal"):
        real, other, made = (pooled(x, stream, config.samples) for x in (w.train, w.test, w.synthetic))
        if real is None or made is None:
            why = "not measured: no such windows to compare"
            out.append(
                Result(
                    metric=f"marginal distance {stream}", value=None, unit="window", higher_is_better=False, note=why
                )
            )
            continue
        sd = np.maximum(real.std(0), 1e-9)

        def apart(a, b, sd=sd):
            return float(np.mean([wasserstein_distance(a[:, c], b[:, c]) / sd[c] for c in range(a.shape[1])]))

        rows = [
            (f"marginal distance {stream}", apart, "in standard deviations of the real samples"),
            (f"skewness difference {stream}", _difference(skew), "mean over channels that vary"),
            (f"kurtosis difference {stream}", _difference(kurtosis), "mean over channels that vary"),
        ]
        for metric, of, note in rows:
            control, found = None if other is None else of(real, other), of(real, made)
            out.append(
                Result(
                    metric=metric, value=found, unit="window", higher_is_better=False,
                    note=note if found is not None else "not measured: no channel varies on both sides",
                    baselines=(Baseline(name="real vs real persons", value=control),),
                )
            )  # fmt: skip
    return out


def _difference(moment: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], float | None]:
    """Mean absolute difference of a standardised moment, over the channels in which neither side is constant (a constant
    has none); None when there is no such channel."""

    def of(a: np.ndarray, b: np.ndarray) -> float | None:
        varies = (a.std(0) > 1e-9) & (b.std(0) > 1e-9)
        return float(np.abs(moment(a[:, varies]) - moment(b[:, varies])).mean()) if varies.any() else None

    return of


def pooled(windows: Sequence[Mapping[str, Stream]], stream: str, most: int) -> np.ndarray | None:
    """float64[n, C]: samples of all windows, n at most `most`; None without any."""
    parts = [s.values if s.complete else s.values[s.valid] for w in windows if isinstance(s := w.get(stream), Signal)]
    if not sum(map(len, parts)):
        return None
    each = max(1, most // len(parts))
    thin = [p[np.linspace(0, len(p) - 1, min(each, len(p))).astype(int)] for p in parts if len(p)]
    return np.concatenate(thin).astype(np.float64)
