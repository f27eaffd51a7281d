"""Predictive score: does what one learns of a stream's next step from synthetic recordings hold for real ones?

A ridge regression on the last samples, fitted to synthetic windows, is tested on real ones of held-out persons (Yoon et al. 2019,
TimeGAN, section 5, whose recurrent network is a linear one here: it needs no tuning and its answer is unique). Beside it the
same learned from real training windows.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.results import Result
from ..comparisons import baseline, each_signal, not_measured, numbers, spread
from ..protocols import Inputs

HIGHER_IS_BETTER = False
_NAME = "predictive error {}"


class Config(Section):
    """hz: at how many samples a second, at most; lags: samples that are looked back at; ridge: penalty; most: windows per
    side at most; seed."""

    hz: float = Field(default=4.0, gt=0)
    lags: int = Field(default=8, ge=2)
    ridge: float = Field(default=1e-3, gt=0)
    most: int = Field(default=600, ge=10)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    out = []
    for stream, s, absent in each_signal(inputs, [_NAME], config.most, config.seed):
        out += absent
        if s is None:
            continue
        name = _NAME.format(stream)
        train, test, made = (pairs(x, s.rate_hz, config) for x in (s.train, s.test, s.made))
        if not len(test) or not test.shape[1]:
            why = f"windows of {config.lags + 1} samples or fewer at {config.hz:g} Hz" if len(test) else "none held out"
            out.append(not_measured(name, why))
            continue
        still = np.abs(test[..., -1]).sum(1)
        errors = [np.abs(test[..., -1] - test[..., :-1] @ _weights(x, config.ridge)).sum(1) for x in (made, train)]
        found, real = (spread(lambda e, b: float(e.sum() / b.sum()), s.others, e, still) for e in errors)
        if found is None:
            out.append(not_measured(name, "nothing ever changes in the held-out windows"))
            continue
        note = (
            "mean absolute error of the next sample, as a share of always saying the last one's; over held-out persons"
        )
        out.append(
            Result(
                metric=name, **numbers(found), unit="window", higher_is_better=False,
                note="; ".join(x for x in (note, s.note) if x), baselines=(baseline("learned from real recordings", real),),
            )
        )  # fmt: skip
    return out


def pairs(values: np.ndarray, rate_hz: float, config: Config) -> np.ndarray:
    """float64[n, steps * C, lags]: of each channel's every step the last samples but one, and in the last place the next
    one, all as differences from the last sample known. No steps where a window is too short."""
    step = max(1, int(rate_hz // config.hz))
    k = values.shape[1] // step
    if k <= config.lags or not len(values):
        return np.empty((len(values), 0, config.lags))
    x = values[:, : k * step].astype(np.float64).reshape(len(values), k, step, values.shape[2]).mean(2)
    rows = np.lib.stride_tricks.sliding_window_view(x, config.lags + 1, axis=1)
    rows = rows.reshape(len(values), -1, config.lags + 1) - rows[..., -2:-1].reshape(len(values), -1, 1)
    return np.delete(rows, -2, axis=2)


def _weights(rows: np.ndarray, ridge: float) -> np.ndarray:
    X, y = rows[..., :-1].reshape(-1, rows.shape[2] - 1), rows[..., -1].ravel()
    scale = max(float((X**2).mean()), 1e-12)
    return np.linalg.solve(X.T @ X / len(X) + ridge * scale * np.eye(X.shape[1]), X.T @ y / len(X))
