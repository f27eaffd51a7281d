"""What metrics are handed: window tables for utility, windows for fidelity. Made by the recipe, never here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import MienError
from ..core.records import CohortCard, Signal
from ..data.features import WindowTable


@dataclass(frozen=True, kw_only=True)
class Tables:
    """train: real windows of training persons; test: of held-out persons; synthetic: the release; codec: the training
    windows written as tokens and read back (what the codec alone loses); classes: the task's.

    MienError when a class is missing among the real training windows.
    """

    train: WindowTable
    test: WindowTable
    synthetic: WindowTable
    classes: tuple[str, ...]
    codec: WindowTable | None = None

    def __post_init__(self) -> None:
        missing = [c for c in self.classes if c not in set(self.train.label)]
        if missing:
            raise MienError(f"no training window has the label {missing[0]!r}; draw another split (seed=…)")


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows as signals: lists of {stream: Signal}; card: the synthetic cohort's; seconds: of one window;
    valid_sequences: share of sampled token sequences that the grammar accepts."""

    train: Sequence[Mapping[str, Signal]]
    test: Sequence[Mapping[str, Signal]]
    synthetic: Sequence[Mapping[str, Signal]]
    card: CohortCard
    seconds: float
    valid_sequences: float


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a metric may look at."""

    tables: Tables
    windows: Windows
