"""A recording as numbers that a linear reward can learn from: its vital signs, against what people usually have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..core.records import Recording
from ..data.vitals import VITALS, roles_of, vitals

# Vital sign -> (usual value, usual spread between people) at rest or mild stress: rough, public, and of nobody's recording.
# Heart: Nunan et al. 2010 (PACE 33:1407), short-term norms; skin conductance: Dawson, Schell & Filion 2007 (Handbook of
# Psychophysiology, ch. 7); breath: 12 to 20 a minute. Coherence, correlation, slopes and movement are scaled
# by what they can be.
USUAL = {
    "HR": (75.0, 12.0), "RMSSD": (42.0, 20.0), "SDNN": (50.0, 20.0), "breathing": (16.0, 3.0),
    "HR-breath coherence": (0.7, 0.2), "HR-breath correlation": (0.5, 0.2), "SCR rate": (6.0, 4.0), "SCR rise": (0.3, 0.2),
    "tonic EDA": (5.0, 3.0), "EDA slope": (0.0, 0.5), "skin temperature": (33.0, 1.2), "temperature slope": (0.0, 0.1),
    "movement": (0.02, 0.02),
}  # fmt: skip
_MOST = 4.0


def names(labels: Iterable[str]) -> list[str]:
    """Names of `vector`'s columns. labels: the classes of the cohort, of which all but the first have their own."""
    return [*VITALS, *(f"|{n}|" for n in VITALS), *(f"{n} if {label}" for label in sorted(labels)[1:] for n in VITALS)]


def signs(recording: Recording) -> np.ndarray:
    """float64[len(VITALS)]: each vital sign in usual spreads from the usual value, within ±4; NaN where it cannot be found or its
    stream is missing."""
    raw = vitals(recording.streams, roles_of(recording.streams))
    centre, spread = np.array([USUAL[n] for n in VITALS]).T
    return np.clip((raw - centre) / spread, -_MOST, _MOST)


def columns(z: np.ndarray, label: str, labels: Iterable[str]) -> np.ndarray:
    """float64[..., d] of `signs` float64[..., len(VITALS)]: how far from the usual value, how far at all, and the first again,
    where the recording has that label (what is good depends on what a recording is to show)."""
    return np.concatenate([z, np.abs(z), *(z * (label == known) for known in sorted(labels)[1:])], axis=-1)


def vector(recording: Recording, label: str, labels: Iterable[str]) -> np.ndarray:
    """float64[d]: `columns`, with 0, the usual value, for what cannot be found, so that nothing is learned from that."""
    return columns(np.nan_to_num(signs(recording), nan=0.0), label, labels)


def table(recordings: Iterable[Recording], task: str, labels: Iterable[str]) -> Mapping[str, np.ndarray]:
    """Recording id -> vector."""
    classes = sorted(labels)
    return {r.id: vector(r, str(r.labels.get(task, "")), classes) for r in recordings}
