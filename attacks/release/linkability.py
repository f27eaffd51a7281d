"""Linkability: does the release join two halves of what is known of a person?

In the manner of Anonymeter (arXiv 2211.10459): the attacker holds some columns of a window in one place and others in
another, looks for the synthetic windows nearest to each half, and has linked them when both halves find the same one.
Columns of one signal belong together, so held-out persons' halves meet as well: only the excess counts.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval
from ...core.results import Result
from ..releases import Release, compare, neighbours
from ..signals import pool

NEEDS = ("synthetic", "candidates")


class Config(Section):
    """first, second: indices of the columns in each half (of the window statistics, before any is dropped; even and
    odd by default); neighbours: synthetic windows looked at for each half."""

    first: tuple[int, ...] | None = None
    second: tuple[int, ...] | None = None
    neighbours: int = Field(default=1, ge=1)


def run(release: Release, config: Config, *, blind: Interval | None = None) -> list[Result]:
    """Risk, attack rate and control rate (`releases.compare`); naive: halves that find neighbours at random."""
    d = release.synthetic.X.shape[1]
    first = tuple(range(0, d, 2)) if config.first is None else config.first
    second = tuple(range(1, d, 2)) if config.second is None else config.second
    if not first or not second or set(first) & set(second) or not all(0 <= c < d for c in (*first, *second)):
        raise MienError(f"linkability: two halves without a column in common, of the columns 0 to {d - 1}")
    found = []
    for half in (first, second):
        scale = release.scale(half)
        found.append(neighbours(scale(release.candidates.X), scale(release.synthetic.X), config.neighbours)[1])
    success = (found[0][:, :, None] == found[1][:, None, :]).any((1, 2)).astype(np.float64)
    n, k = len(release.synthetic), config.neighbours
    s = release.signals()
    rate = pool(s, success, "person", attack="linkability")
    return compare(
        "linkability", np.mean, rate.score[rate.member], rate.score[~rate.member],
        naive=1 - math.comb(n - k, k) / math.comb(n, k),
        trials=(success[s.member], success[~s.member]), blind=blind,
    )  # fmt: skip
