"""DTW: how far a synthetic window lies from the real one most like it, when time may be stretched a little.

Dynamic time warping in a band of a tenth of the window (Sakoe & Chiba 1978), on standardised streams of at most 40 samples; the
mean over windows. It says nothing about privacy: what is far from every record can still give its members away, and bad
synthetic data are far from all of them. It does not see what is missing either: copies of one good window do well.

Written here, for it is twenty lines and takes all pairs at once: aeon and tslearn bring a compiler (numba), and
dtaidistance a compiled extension.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.results import Result
from ..comparisons import REAL, baseline, each_signal, spread
from ..protocols import Inputs

HIGHER_IS_BETTER = False
_NAME = "nearest DTW {}"


class Config(Section):
    """most: windows per side at most; samples: per window; seed."""

    most: int = Field(default=60, ge=2)
    samples: int = Field(default=40, ge=4)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    out = []
    for stream, s, absent in each_signal(inputs, [_NAME], config.most, config.seed):
        out += absent
        if s is None:
            continue
        train, test, made = (_short(x, config.samples) for x in (s.train, s.test, s.made))
        sd = np.maximum(train.std((0, 1)), 1e-9)
        found = float(dtw(made / sd, train / sd).min(1).mean())
        nearest = dtw(test / sd, train / sd).min(1) if len(test) else np.empty(0)
        control = spread(lambda d: float(d.mean()), s.others, nearest) if len(test) else None
        note = "per sample, in standard deviations; not a measure of privacy; one release, so no interval"
        out.append(
            Result(
                metric=_NAME.format(stream), value=found, unit="window", higher_is_better=False,
                note="; ".join(x for x in (note, s.note) if x), baselines=(baseline(REAL, control),),
            )
        )  # fmt: skip
    return out


def _short(values: np.ndarray, samples: int) -> np.ndarray:
    """float64[n, at most `samples`, C]: block means of float[n, T, C]."""
    length = values.shape[1]
    edges = np.linspace(0, length, min(samples, length) + 1).astype(int)[:-1]
    total = np.add.reduceat(values.astype(np.float64), edges, axis=1)
    return total / np.diff(np.r_[edges, length])[None, :, None]


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
    return before[T] / T
