"""Marginals: do single samples have the values that real ones have?

Per stream the Wasserstein distance of its samples in real standard deviations and their Kolmogorov–Smirnov distance (both the
mean over channels), and the differences of skewness and kurtosis (TSGBench's MDD, SD and KD, Ang et al. 2023, arXiv
2309.03755, section 3, which takes histograms for the first). The order of samples plays no part.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.results import Result
from ..comparisons import OVER, Sides, compared, each_signal, ks, wasserstein
from ..protocols import Inputs

HIGHER_IS_BETTER = False
_NAMES = ("marginal distance {}", "marginal KS {}", "skewness difference {}", "kurtosis difference {}")


class Config(Section):
    """samples: per channel and side, at most, evenly spaced over all windows; most: windows per side at most; seed."""

    samples: int = Field(default=4000, ge=100)
    most: int = Field(default=600, ge=10)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    out = []
    for stream, s, absent in each_signal(inputs, _NAMES, config.most, config.seed):
        out += absent if s is None else _of(stream, s, config)
    return out


def _of(stream: str, s: Sides, config: Config) -> list[Result]:
    from scipy.stats import kurtosis, skew

    train, test, made = (_thin(x, config.samples) for x in (s.train, s.test, s.made))
    sd = np.maximum(train.astype(np.float64).std((0, 1)), 1e-9)

    def over_channels(distance: Callable, scale: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
        def mean(a: np.ndarray, b: np.ndarray) -> float:
            return float(
                np.mean([distance(a[..., c].ravel(), b[..., c].ravel()) / scale[c] for c in range(len(scale))])
            )

        return mean

    def moment(of: Callable) -> Callable[[np.ndarray, np.ndarray], float]:
        def gap(a: np.ndarray, b: np.ndarray) -> float:
            one, two = (of(x.reshape(-1, x.shape[-1]).astype(np.float64)) for x in (a, b))
            return float(np.abs(one - two).mean())

        return gap

    furthest = max(range(len(sd)), key=lambda c: wasserstein(train[..., c].ravel(), made[..., c].ravel()) / sd[c])
    worst = f"furthest: {s.channels[furthest]}" if len(s.channels) > 1 else ""
    rows = (
        (over_channels(wasserstein, sd), "in standard deviations of the real samples", worst),
        (over_channels(ks, np.ones(len(sd))), "share of samples", ""),
        (moment(skew), "", ""),
        (moment(kurtosis), "", ""),
    )
    return [
        compared(
            name.format(stream), distance, train, test, made, s.person, s.others,
            "; ".join(x for x in (unit, more, OVER, s.note) if x),
        )
        for name, (distance, unit, more) in zip(_NAMES, rows, strict=True)
    ]  # fmt: skip


def _thin(values: np.ndarray, samples: int) -> np.ndarray:
    """float32[n, k, C]: evenly spaced samples of each window, n * k about `samples` at most."""
    n, length = values.shape[:2]
    k = min(length, max(1, samples // max(1, n)))
    # not all at the same times of their windows, or a common start would be all that is seen
    at = (np.linspace(0, length, k, endpoint=False)[None] + (np.arange(n) * 0.618 % 1)[:, None] * length / k).astype(
        int
    )
    return values[np.arange(n)[:, None], np.minimum(at, length - 1)]
