"""Physiology: do synthetic recordings have hearts, breaths and skin that could be somebody's, and like those of real ones?

Per vital sign the Kolmogorov–Smirnov distance between synthetic and real training windows, beside that between real persons; the
share of windows whose heart and breath are possible at all; and the coherence of heart rate and breath, which only recordings
of one and the same body have. Mean heart rate is insensitive; RMSSD is not.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.intervals import over_persons
from ...core.results import Baseline, Result
from ..protocols import Inputs
from ..vitals import VITALS, some, table

HIGHER_IS_BETTER = False


class Config(Section):
    """hr, rmssd, breathing: what is possible [beats/min, ms, 1/min]; most: windows per side at most; seed."""

    hr: tuple[float, float] = (40.0, 180.0)
    rmssd: tuple[float, float] = (0.0, 120.0)
    breathing: tuple[float, float] = (6.0, 35.0)
    most: int = Field(default=400, ge=10)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    w = inputs.windows
    picks = [some(len(x), config.most, config.seed) for x in (w.train, w.test, w.synthetic)]
    train, test, made = (
        table([x[i] for i in rows.tolist()], w.card)
        for x, rows in zip((w.train, w.test, w.synthetic), picks, strict=True)
    )
    person = inputs.tables.train.person[picks[0]]
    out = []
    possible = {s: _possible(v, config) for s, v in (("made", made), ("real", train))}
    if np.isfinite(possible["made"]).any() and np.isfinite(possible["real"]).any():
        out.append(
            Result(
                metric="possible physiology", value=float(np.nanmean(possible["made"])), unit="recording",
                note=f"HR {config.hr[0]:g} to {config.hr[1]:g}, RMSSD below {config.rmssd[1]:g} ms, breathing"
                f" {config.breathing[0]:g} to {config.breathing[1]:g}/min, all that is there",
                baselines=(Baseline(name="real training windows", value=float(np.nanmean(possible["real"]))),),
            )
        )  # fmt: skip
    names = list(VITALS)
    for i, name in enumerate(names):
        real, other, fake = train[:, i], test[:, i], made[:, i]
        if np.isfinite(real).sum() < 5 or np.isfinite(fake).sum() < 5:
            continue
        unit, _ = VITALS[name]
        means = f"synthetic {np.nanmean(fake):.3g}, real {np.nanmean(real):.3g} {unit}".strip()
        control = (
            over_persons(_ks_to(real), inputs.tables.test.person[picks[1]], other) if np.isfinite(other).any() else None
        )
        out.append(
            Result(
                metric=f"KS {name}", value=ks(fake, real), unit="window", higher_is_better=False, note=means,
                baselines=(
                    Baseline(name="real vs real persons", value=control and control.value, low=control and control.low,
                             high=control and control.high),
                ),
            )
        )  # fmt: skip
    i = names.index("HR-breath coherence")
    if np.isfinite(made[:, i]).sum() >= 5 and np.isfinite(train[:, i]).sum() >= 5:
        real = over_persons(lambda v: float(np.nanmean(v)), person, train[:, i])
        out.append(
            Result(
                metric="HR-breath coherence", value=float(np.nanmean(made[:, i])), unit="recording",
                note="magnitude-squared, at the breathing frequency",
                baselines=(Baseline(name="real training windows", value=real.value, low=real.low, high=real.high),),
            )
        )  # fmt: skip
    if not out:
        why = "not measured: no stream is named as a pulse, an ECG, breath, EDA, temperature or acceleration"
        return [Result(metric="possible physiology", value=None, unit="recording", note=why)]
    return out


def _ks_to(real: np.ndarray):
    return lambda v: ks(v, real)


def ks(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of the two samples' distribution functions; NaN are left out."""
    a, b = (np.sort(x[np.isfinite(x)]) for x in (a, b))
    if not len(a) or not len(b):
        return float("nan")
    at = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)).max())


def _possible(v: np.ndarray, config: Config) -> np.ndarray:
    """float64[n]: 1 or 0, whether what is there can be; NaN where neither heart nor breath is there."""
    names = list(VITALS)
    limits = {"HR": config.hr, "RMSSD": config.rmssd, "breathing": config.breathing}
    columns = {n: v[:, names.index(n)] for n in limits}
    there = {n: np.isfinite(c).any() for n, c in columns.items()}  # a stream that no window has is not asked for
    if not any(there.values()):
        return np.full(len(v), np.nan)
    good = [(columns[n] >= low) & (columns[n] <= high) for n, (low, high) in limits.items() if there[n]]
    return np.logical_and.reduce(good).astype(float)
