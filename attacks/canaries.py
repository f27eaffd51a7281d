"""Membership by independent coins: canary persons whose presence an audit can be judged by."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import MienError
from ..core.records import Cohort, Consent, Recording
from ..core.scores import Scores


@dataclass(frozen=True, kw_only=True)
class Coins:
    """included: person -> heads (in training) or tails. Private: it is the answer the attacker looks for."""

    included: Mapping[str, bool]

    @staticmethod
    def toss(persons: Sequence[str], seed: int | None = None) -> Coins:
        """One fair coin per person, from the operating system unless a seed is given (tests only)."""
        if len(set(persons)) < len(persons):
            raise MienError(f"{len(persons) - len(set(persons))} persons are named twice; a person has one coin")
        if seed is None:
            return Coins(included={p: bool(secrets.randbits(1)) for p in persons})
        heads = np.random.default_rng(seed).random(len(persons)) < 0.5
        return Coins(included=dict(zip(persons, heads.tolist(), strict=True)))

    def write(self, path: Path) -> None:
        """JSON that only its owner can read, at no moment anybody else; beside its place and renamed into it."""
        handle, part = tempfile.mkstemp(dir=Path(path).parent, prefix=f".{Path(path).name}.")
        try:
            with open(handle, "w", encoding="utf-8") as f:
                json.dump(dict(self.included), f, indent=1)
                f.flush()
                os.fsync(f.fileno())
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise

    @staticmethod
    def read(path: Path) -> Coins:
        """The inverse of `write`; MienError for a missing file and for anything else than true or false per person."""
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MienError(
                f"{path} holds no readable coins ({type(error).__name__}); give the file written before training"
            ) from error
        if not isinstance(raw, dict) or not all(isinstance(v, bool) for v in raw.values()):
            raise MienError(f"{path} does not hold true or false for each person")
        return Coins(included=raw)

    def of(self, scores: Scores) -> tuple[np.ndarray, np.ndarray]:
        """(scores float64[m], included bool[m]) of a person-level attack, for `bounds.audit`. MienError when the unit is
        not the person, somebody has no coin or no score, or the recorded membership disagrees."""
        if scores.unit != "person":
            raise MienError(f"coins were tossed for persons; these are scores of {scores.unit}s: pool them first")
        missing = [p for p in scores.ids if p not in self.included]
        if missing:
            raise MienError(f"{len(missing)} of {len(scores)} scored persons have no coin; score the canaries alone")
        if unscored := len(self.included) - len(scores):
            raise MienError(
                f"{unscored} of {len(self.included)} persons with a coin have no score, which may be for what their coin"
                " said; score everybody"
            )
        member = np.array([self.included[p] for p in scores.ids])
        if (member != scores.member).any():
            raise MienError(
                f"{int((member != scores.member).sum())} persons are members by the run and not by their coin"
            )
        return scores.score, member


def insert(cohort: Cohort, canaries: Sequence[Recording], coins: Coins) -> Cohort:
    """The cohort with the canary persons whose coin fell heads.

    Canaries must be invented persons who are not in the cohort, with streams as its card declares them; persons unlike
    anybody else (data/datasets/simulated.py plants such outliers) make the audit strict.
    """
    names = {r.person for r in canaries}
    if shared := names & set(cohort.persons):
        raise MienError(f"{len(shared)} canary persons are persons of the cohort; invent other ids")
    if missing := names - set(coins.included):
        raise MienError(f"{len(missing)} canary persons have no coin; toss one for each")
    chosen = [r for r in canaries if coins.included[r.person]]
    consents = {p: cohort.consents[p] for p in cohort.persons if p in cohort.consents}
    consents |= {r.person: Consent() for r in chosen}
    return Cohort.build([*cohort, *chosen], card=cohort.card, consents=consents)
