"""Autocorrelation: does the past of a stream tell as much of its future as in real recordings?

The RMS difference of mean autocorrelations over lags up to half a window (after TSGBench's ACD, Ang et al. 2023, arXiv
2309.03755, section 3), per stream, at ten samples a second or the stream's own rate. It does not see level or amplitude.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.results import Result
from ..comparisons import OVER, compared, each_signal, not_measured
from ..protocols import Inputs

HIGHER_IS_BETTER = False
_NAME = "autocorrelation difference {}"


class Config(Section):
    """hz: at how many samples a second, at most; most: windows per side at most; seed: of which."""

    hz: float = Field(default=10.0, gt=0)
    most: int = Field(default=600, ge=10)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    out = []
    for stream, s, absent in each_signal(inputs, [_NAME], config.most, config.seed):
        out += absent
        if s is None:
            continue
        train, test, made = (curves(x, s.rate_hz, config.hz) for x in (s.train, s.test, s.made))
        if not train.shape[1]:
            out.append(not_measured(_NAME.format(stream), "windows of fewer than four samples"))
            continue
        note = "; ".join(x for x in ("RMS over lags and channels", OVER, s.note) if x)
        out.append(compared(_NAME.format(stream), _gap, train, test, made, s.person, s.others, note))
    return out


def curves(values: np.ndarray, rate_hz: float, hz: float) -> np.ndarray:
    """float64[n, lags, C]: autocorrelations of windows float[n, T, C] at lags from one sample to half a window; no lags
    with fewer than four samples. A constant has none: 0."""
    step = max(1, int(rate_hz // hz))
    n = values.shape[1] // step
    if n < 4:
        return np.empty((len(values), 0, values.shape[2]))
    x = values[:, : n * step].astype(np.float64).reshape(len(values), n, step, values.shape[2]).mean(2)
    x = x - x.mean(1, keepdims=True)
    power = np.abs(np.fft.rfft(x, 2 * n, axis=1)) ** 2
    r = np.fft.irfft(power, axis=1)[:, : n // 2] / np.arange(n, n - n // 2, -1)[None, :, None]
    return r[:, 1:] / np.maximum(r[:, :1], 1e-12)


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a.mean(0) - b.mean(0)) ** 2).mean()))
