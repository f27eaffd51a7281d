"""What an expert said of two synthetic recordings, and what follows from many such answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Choice = Literal["A", "B", "tie", "both_bad"]
ASPECTS = ("realism", "label_fit", "physiology", "cross_modal")


@dataclass(frozen=True, kw_only=True)
class Preference:
    """One answer of one rater about one pair.

    pair: the pair's id; a, b: ids of the two synthetic recordings (of the cohort `cohort`, a fingerprint, made by the
    model `model`, a run's fingerprint), "a" and "b" independent of the side they were shown on; label: the class both
    were made for; rater: a pseudonym; choice: over a and b (never over sides); side: which of them stood on the left;
    confidence: 1 to 5; aspects: of ASPECTS, each the choice in that respect; comment: plain text, never shown as HTML;
    kind: an ordinary pair, one shown again, a pair of real recordings, or a corrected recording against the original;
    recognised: id of a recording in which the rater recognises somebody (that recording is blocked and its run flagged);
    private: the answer tells something of the recorded persons, so that only private trainers may use it; seconds: taken
    to answer; at: UTC, ISO 8601.
    """

    pair: str
    a: str
    b: str
    rater: str
    choice: Choice
    label: str = ""
    side: Literal["a", "b"] = "a"
    confidence: int = 3
    aspects: Mapping[str, Choice] = field(default_factory=dict)
    comment: str = ""
    kind: Literal["pair", "repeat", "control", "correction"] = "pair"
    recognised: str | None = None
    private: bool = False
    cohort: str = ""
    model: str = ""
    seconds: float = 0.0
    at: str = ""
