"""Physiology of windows as a table, and window statistics on one scale: what several fidelity metrics look at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..core.records import CohortCard, Signal, Stream
from ..data import physiology
from ..data.features import WindowTable

ROLES = {  # role -> what a stream's name holds
    "ecg": r"ecg", "pulse": r"bvp|ppg|pulse", "breath": r"resp|rsp|breath", "eda": r"eda|gsr|scl", "temp": r"temp|skt",
    "acc": r"acc|imu",
}  # fmt: skip
VITALS = {  # name -> (unit, what must be there)
    "HR": ("beats/min", "heart"), "RMSSD": ("ms", "heart"), "SDNN": ("ms", "heart"), "breathing": ("1/min", "breath"),
    "HR-breath coherence": ("", "both"), "SCR rate": ("1/min", "eda"), "SCR rise": ("uS", "eda"), "tonic EDA": ("uS", "eda"),
    "EDA slope": ("uS/min", "eda"), "skin temperature": ("degC", "temp"), "temperature slope": ("degC/min", "temp"),
    "movement": ("", "acc"),
}  # fmt: skip
GROUPS = {
    "heart": ("HR", "RMSSD", "SDNN"),
    "cardiorespiratory": ("HR", "RMSSD", "SDNN", "breathing", "HR-breath coherence"),
    "skin conductance": ("SCR rate", "SCR rise", "tonic EDA", "EDA slope"),
    "temperature": ("skin temperature", "temperature slope"),
    "movement": ("movement",),
}


def roles(card: CohortCard) -> dict[str, str]:
    """Role -> the first stream of one or more channels whose name says so."""
    found: dict[str, str] = {}
    for role, pattern in ROLES.items():
        for name, spec in card.streams.items():
            if role not in found and spec.kind == "signal" and re.search(pattern, name.lower()):
                found[role] = name
    return found


def vitals(window: Mapping[str, Stream], where: Mapping[str, str]) -> np.ndarray:
    """float64[len(VITALS)]: the physiology of one window; NaN for what cannot be found. where: `roles`."""
    out = dict.fromkeys(VITALS, float("nan"))

    def stream(role: str) -> Signal | None:
        s = window.get(where.get(role, ""))
        return s if isinstance(s, Signal) and s.complete else None

    heart, kind = (stream("pulse"), "pulse") if stream("pulse") is not None else (stream("ecg"), "ecg")
    breath, eda, temp, acc = (stream(r) for r in ("breath", "eda", "temp", "acc"))
    if heart is not None:
        times = physiology.beats(heart.values[:, 0], heart.rate_hz, "pulse" if kind == "pulse" else "ecg")
        found = physiology.heart(times)
        out |= {"HR": found["hr"], "RMSSD": found["rmssd"], "SDNN": found["sdnn"]}
        if breath is not None and len(times):
            out["HR-breath coherence"] = physiology.coherence(times, breath.values[:, 0], breath.rate_hz)
    if breath is not None:
        out["breathing"] = 60 * physiology.breathing_hz(breath.values[:, 0], breath.rate_hz)
    if eda is not None:
        x = eda.values[:, 0].astype(np.float64) / (1000 if eda.unit == "nS" else 1)
        times, rises = physiology.responses(x, eda.rate_hz)
        out |= {"SCR rate": 60 * len(times) / eda.seconds, "tonic EDA": float(np.quantile(x, 0.2))}
        out |= {"SCR rise": float(rises.mean()) if len(rises) else 0.0, "EDA slope": physiology.slope(x, eda.rate_hz)}
    if temp is not None:
        out |= {"skin temperature": float(temp.values[:, 0].mean())}
        out |= {"temperature slope": physiology.slope(temp.values[:, 0].astype(np.float64), temp.rate_hz)}
    if acc is not None:
        out["movement"] = float(acc.values.std(0).mean())
    return np.array([out[n] for n in VITALS])


def table(windows: Sequence[Mapping[str, Stream]], card: CohortCard) -> np.ndarray:
    """float64[n, len(VITALS)]."""
    where = roles(card)
    return np.array([vitals(w, where) for w in windows]).reshape(len(windows), len(VITALS))


def on_one_scale(real: WindowTable, *others: WindowTable) -> list[np.ndarray]:
    """Window statistics of each table, standardised by the real training windows' means and standard deviations; a
    statistic that no training window has, or that never varies there, is left out, a missing one is at the mean."""
    known = np.flatnonzero(~np.isnan(real.X).all(axis=0))
    known = known[np.nanstd(real.X[:, known], axis=0) > 1e-12]
    mean, sd = np.nanmean(real.X[:, known], axis=0), np.nanstd(real.X[:, known], axis=0)
    return [
        np.nan_to_num((t.X[:, known] - mean) / sd, nan=0.0, posinf=0.0, neginf=0.0).clip(-8, 8) for t in (real, *others)
    ]


def some(n: int, most: int, seed: int) -> np.ndarray:
    """At most `most` of n row numbers, drawn without replacement, in order."""
    rng = np.random.default_rng(seed)
    return np.arange(n) if n <= most else np.sort(rng.permutation(n)[:most])


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64[len(a), len(b)]: Euclidean."""
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.clip(square, 0, None))
