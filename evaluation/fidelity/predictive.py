"""Predictive score: does what one learns of a stream's next step from synthetic recordings hold for real ones?

A ridge regression on the last samples, fitted to synthetic windows, is tested on real ones of held-out persons (Yoon et al. 2019,
TimeGAN, section 5, whose recurrent network is a linear one here: it needs no tuning and its answer is unique). Beside it the
same from real training windows; the value is what the former loses.
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
    """hz: at how many samples a second, at most; lags: samples that are looked back at; ridge: penalty."""

    hz: float = Field(default=4.0, gt=0)
    lags: int = Field(default=8, ge=1)
    ridge: float = Field(default=1e-3, gt=0)


def measure(inputs: Inputs, config: Config) -> list[Result]:
    w, out = inputs.windows, []
    for stream in (n for n, spec in w.card.streams.items() if spec.kind == "signal"):
        train, test, made = (_pairs(x, stream, config) for x in (w.train, w.test, w.synthetic))
        if train is None or test is None or made is None:
            why = "not measured: windows too short, or none to compare"
            out.append(
                Result(metric=f"predictive error {stream}", value=None, unit="window", higher_is_better=False, note=why)
            )
            continue
        from_made, from_real = (_error(x, test, config.ridge) for x in (made, train))
        out.append(
            Result(
                metric=f"predictive error {stream}", value=from_made, unit="window", higher_is_better=False,
                note="mean absolute error of the next sample, as a share of always saying the last one's",
                baselines=(Baseline(name="learned from real recordings", value=from_real),),
            )
        )  # fmt: skip
    return out


def _pairs(
    windows: Sequence[Mapping[str, Stream]], stream: str, config: Config
) -> tuple[np.ndarray, np.ndarray] | None:
    """(float64[n, lags], float64[n]): past and next of each channel, as differences from the last sample known."""
    past, after = [], []
    for w in windows:
        s = w.get(stream)
        if not isinstance(s, Signal) or not s.complete:
            continue
        step = max(1, int(s.rate_hz // config.hz))
        x = s.values[: len(s.values) // step * step].astype(np.float64)
        x = x.reshape(-1, step, x.shape[1]).mean(1)
        if len(x) <= config.lags + 1:
            continue
        rows = np.lib.stride_tricks.sliding_window_view(x, config.lags + 1, axis=0).reshape(-1, config.lags + 1)
        last = rows[:, -2:-1]
        past.append(rows[:, :-1] - last)
        after.append(rows[:, -1] - last[:, 0])
    return (np.concatenate(past)[:, :-1], np.concatenate(after)) if past else None


def _error(fit: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], ridge: float) -> float:
    X, y = fit
    scale = max(float((X**2).mean()), 1e-12)
    weights = np.linalg.solve(X.T @ X / len(X) + ridge * scale * np.eye(X.shape[1]), X.T @ y / len(X))
    return float(np.abs(test[1] - test[0] @ weights).mean() / max(np.abs(test[1]).mean(), 1e-12))
