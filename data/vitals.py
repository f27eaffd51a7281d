"""Physiology of windows as a table: what several metrics look at, one vital sign at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..core.errors import MienError
from ..core.records import CohortCard, Signal, Stream
from . import physiology

UNITS = {
    "eda": ("uS", "μS", "µS", "nS"),
    "temp": ("degC", "°C"),
    "acc": ("g", "m/s2", "m/s^2", "m/s²"),
}  # where names do not say
ROLES = {  # role -> what a stream's name holds
    "ecg": r"ecg", "pulse": r"bvp|ppg|pulse", "breath": r"resp|rsp|breath", "eda": r"eda|gsr|scl", "temp": r"temp|skt",
    "acc": r"acc|imu",
}  # fmt: skip
VITALS = {  # name -> (unit, what must be there)
    "HR": ("beats/min", "heart"), "RMSSD": ("ms", "heart"), "SDNN": ("ms", "heart"), "breathing": ("1/min", "breath"),
    "HR-breath coherence": ("", "both"),
    "HR-breath correlation": ("", "both"), "SCR rate": ("1/min", "eda"), "SCR rise": ("uS", "eda"), "tonic EDA": ("uS", "eda"),
    "EDA slope": ("uS/min", "eda"), "skin temperature": ("degC", "temp"), "temperature slope": ("degC/min", "temp"),
    "movement": ("", "acc"),
}  # fmt: skip
GROUPS = {
    "heart": ("HR", "RMSSD", "SDNN"),
    "cardiorespiratory": ("HR", "RMSSD", "SDNN", "breathing", "HR-breath coherence", "HR-breath correlation"),
    "skin conductance": ("SCR rate", "SCR rise", "tonic EDA", "EDA slope"),
    "temperature": ("skin temperature", "temperature slope"),
    "movement": ("movement",),
}


def roles(card: CohortCard, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Role -> stream. `given` first; then the first signal whose name says so, then the first whose unit does. MienError
    for a role that is none, or a stream that the cohort does not have."""
    return _roles({n: spec.unit for n, spec in card.streams.items() if spec.kind == "signal"}, given)


def roles_of(streams: Mapping[str, Stream]) -> dict[str, str]:
    """`roles` of a recording whose cohort's card is not at hand."""
    return _roles({n: s.unit for n, s in streams.items() if isinstance(s, Signal)}, None)


def _roles(signals: Mapping[str, str], given: Mapping[str, str] | None) -> dict[str, str]:
    for role, name in (given or {}).items():
        if role not in ROLES or name not in signals:
            raise MienError(
                f"streams: {role}: {name} – roles are {', '.join(ROLES)}; the cohort's signals are {', '.join(signals)}"
            )
    found = dict(given or {})
    for role, pattern in ROLES.items():
        for name in signals:
            if role not in found and re.search(pattern, name.lower()):
                found[role] = name
    for role, units in UNITS.items():
        for name, unit in signals.items():
            if role not in found and name not in found.values() and unit in units:
                found[role] = name
    return found


def needs(name: str) -> tuple[tuple[str, ...], ...]:
    """The roles a vital sign is found from: one of each group must be there."""
    heart, breath = ("pulse", "ecg"), ("breath",)
    return {"heart": (heart,), "both": (heart, breath)}.get(VITALS[name][1], ((VITALS[name][1],),))


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
            out["HR-breath correlation"] = physiology.correlation(times, breath.values[:, 0], breath.rate_hz)
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


def table(windows: Sequence[Mapping[str, Stream]], where: Mapping[str, str]) -> np.ndarray:
    """float64[n, len(VITALS)]. where: `roles`."""
    return np.array([vitals(w, where) for w in windows]).reshape(len(windows), len(VITALS))
