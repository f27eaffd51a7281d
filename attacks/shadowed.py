"""What every attack with shadow models shares: its signal, in the target and in the shadows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..core.config import Section
from ..core.errors import MienError
from .signals import Signals


class Shadowed(Section):
    """signal: "loss" (minus the mean loss per token) or "contrast" (an encoder's log-odds of the right pair)."""

    signal: Literal["loss", "contrast"] = "loss"


def phi(signals: Signals, config: Shadowed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(phi float64[n], shadow phi float64[K, n], inside bool[K, n]), larger = member.

    The frozen base's loss is taken off where it is known: a constant of the window, the same for every model, that
    holds most of what makes one window harder than another.
    """
    if config.signal == "contrast":
        signals.needs(("contrast", "shadow_contrast", "shadow_in"))
        own, shadow = signals.contrast.mean(1), signals.shadow_contrast.mean(2)  # type: ignore[union-attr]
    else:
        signals.needs(("loss", "shadow_loss", "shadow_in"))
        base = 0.0 if signals.loss_base is None else signals.loss_base
        own, shadow = base - signals.loss, base - signals.shadow_loss  # type: ignore[operator]
    assert signals.shadow_in is not None
    return own, shadow, signals.shadow_in


def by_person(signals: Signals, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of recording means for each person: (values float64[..., persons], person of each window int[n], number
    of recordings float64[persons]). values: float64[..., n]."""
    recordings, first, of = np.unique(signals.recording, return_index=True, return_inverse=True)
    people, who = np.unique(signals.person, return_inverse=True)
    owner = who[first]
    flat = np.atleast_2d(values)
    means = np.stack([np.bincount(of, row) for row in flat]) / np.bincount(of)
    count = np.bincount(owner).astype(np.float64)
    pooled = np.stack([np.bincount(owner, row, len(people)) for row in means]) / count
    return (pooled[0] if np.ndim(values) == 1 else pooled), who, count


def spread(signals: Signals, values: np.ndarray) -> np.ndarray:
    """float64[n]: a person's value at each of their windows. values: float64[persons], in sorted order."""
    people, who = np.unique(signals.person, return_inverse=True)
    if len(people) != len(values):
        raise MienError(f"{len(values)} values for {len(people)} persons")
    return np.asarray(values, dtype=np.float64)[who]
