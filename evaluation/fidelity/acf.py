"""ACF: does the past of a stream tell as much of its future as in real recordings?

The difference of mean autocorrelations over lags up to half a window (TSGBench's ACD, Ang et al. 2023, arXiv 2309.03755,
section 3), per stream, at ten samples a second or the stream's own rate. Its control is between real persons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.records import Signal, Stream
from ...core.results import Baseline, Result
from ..protocols import Inputs

HIGHER_IS_BETTER = False


class Config(Section):
    """hz: at how many samples a second, at most."""

    hz: float = Field(default=10.0, gt=0)


def measure(inputs: Inputs, config: Config) -> list[Result]:
    w, out = inputs.windows, []
    for stream in (n for n, spec in w.card.streams.items() if spec.kind == "signal"):
        real, other, made = (curve(x, stream, config.hz) for x in (w.train, w.test, w.synthetic))
        ok = real is not None and made is not None and real.shape == made.shape
        control = None if other is None or not ok else _gap(real, other)
        out.append(
            Result(
                metric=f"autocorrelation difference {stream}", value=_gap(real, made) if ok else None, unit="window",
                higher_is_better=False, note="RMS over lags and channels" if ok else "not measured: no such windows to compare",
                baselines=(Baseline(name="real vs real persons", value=control),),
            )
        )  # fmt: skip
    return out


def curve(windows: Sequence[Mapping[str, Stream]], stream: str, hz: float) -> np.ndarray | None:
    """float64[lags, C]: the mean autocorrelation of a stream's whole windows; None without any."""
    found = []
    for w in windows:
        s = w.get(stream)
        if isinstance(s, Signal) and s.complete:
            step = max(1, int(s.rate_hz // hz))
            n = len(s.values) // step
            if n < 4:
                return None
            x = s.values[: n * step].astype(np.float64).reshape(n, step, -1).mean(1)
            x = x - x.mean(0)
            power = np.abs(np.fft.rfft(x, 2 * n, axis=0)) ** 2
            r = np.fft.irfft(power, axis=0)[: n // 2] / np.arange(n, n - n // 2, -1)[:, None]
            found.append(r[1:] / np.maximum(r[0], 1e-12))
    return np.mean(found, axis=0) if found else None


def _gap(a, b) -> float:
    return float(np.sqrt(((a - b) ** 2).mean())) if a.shape == b.shape else float("nan")
