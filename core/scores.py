"""What an attack hands over: one score per unit, joined by id, with the truth beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .errors import MienError

Unit = Literal["window", "recording", "person"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Membership scores of one attack; larger always means "member".

    ids, persons: str[n]; member: bool[n]; score: float64[n]; unit: what one row is. Raises MienError on
    unequal lengths, NaN or infinite scores, repeated ids, a missing class, or a person on both sides. The
    last is allowed with `allow_shared_persons`, for splits that are random by window; such scores say nothing
    about persons.
    """

    ids: np.ndarray
    persons: np.ndarray
    member: np.ndarray
    score: np.ndarray
    attack: str
    unit: Unit
    allow_shared_persons: bool = False

    def __post_init__(self) -> None:
        member = np.asarray(self.member)
        if member.dtype != bool:
            raise MienError(f"attack {self.attack!r}: `member` must be true or false per row, got {member.dtype}")
        for name in ("ids", "persons"):
            object.__setattr__(self, name, np.asarray([str(v) for v in getattr(self, name)], dtype=object))
        object.__setattr__(self, "member", member)
        object.__setattr__(self, "score", np.asarray(self.score, dtype=np.float64))
        lengths = {name: getattr(self, name).shape for name in ("ids", "persons", "member", "score")}
        if len(set(lengths.values())) != 1 or self.score.ndim != 1:
            raise MienError(f"attack {self.attack!r}: ids, persons, member and score differ in shape: {lengths}")
        bad = int((~np.isfinite(self.score)).sum())
        if bad:
            raise MienError(
                f"attack {self.attack!r}: {bad} of {len(self.score)} scores are NaN or infinite; repair"
                f" the attack,"
                " for leaving them out would bias what it finds"
            )
        if not member.any() or member.all():
            raise MienError(
                f"attack {self.attack!r}: {int(member.sum())} members and {int((~member).sum())} non-members;"
                " give it scores of both, from a split with a holdout"
            )
        if len(set(self.ids)) != len(self.ids):
            raise MienError(
                f"attack {self.attack!r}: {len(self.ids) - len(set(self.ids))} ids are repeated; pool first"
            )
        shared = set(self.persons[member]) & set(self.persons[~member])
        if shared and not self.allow_shared_persons:
            raise MienError(
                f"attack {self.attack!r}: {len(shared)} persons are member and non-member at once; split"
                f" by person,"
                " or say allow_shared_persons=True for a random-window split"
            )
        if shared and self.unit == "person":
            raise MienError(f"attack {self.attack!r}: a person who is on both sides has no membership; use windows")

    def __len__(self) -> int:
        return len(self.score)

    @property
    def n_member_persons(self) -> int:
        return len(set(self.persons[self.member]))

    @property
    def n_nonmember_persons(self) -> int:
        return len(set(self.persons[~self.member]))
