"""Poisson sampling over persons (or recordings), and cutting what was drawn into bounded micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import MienError
from .noise import Secret

REFUSED = {
    "shuffle": "a shuffled epoch is less private than the Poisson number says (arXiv 2403.17673, 2411.04205)",
    "fixed": "batches of a fixed size are not Poisson samples",
    "drop_last": "dropping a short last batch makes a person's chance depend on the others",
    "group_by_length": "grouping by length lets one person's lengths decide who trains together",
    "packing": "a packed row holds several persons; nobody's gradient can be told apart",
    "skip_empty": "an empty batch is an outcome too: it must add noise and count",
    "resample_empty": "an empty batch is an outcome too: it must add noise and count",
}


def check(sampling: str) -> None:
    """MienError unless the sampling is one the accountant can account."""
    if sampling != "poisson":
        why = REFUSED.get(sampling, "no accounting is known here for it")
        raise MienError(f"privacy.sampling: {sampling!r} cannot be accounted: {why}. Use poisson")


@dataclass(frozen=True)
class Units:
    """Which rows belong to which unit of privacy.

    rows[u]: int64 row indices of unit u. n: how many units the plan's public constant says there are; units without
    rows (a person whose recordings were all unusable) are still sampled, and contribute nothing.
    """

    rows: Sequence[np.ndarray]

    @staticmethod
    def of(unit_of_row: np.ndarray) -> Units:
        """unit_of_row: int[rows]."""
        order = np.argsort(unit_of_row, kind="stable")
        cuts = np.flatnonzero(np.diff(unit_of_row[order])) + 1
        return Units([part.astype(np.int64) for part in np.split(order, cuts)] if len(order) else [])

    def __len__(self) -> int:
        return len(self.rows)


def draw(units: Units, sample_rate: float, at_most: int, secret: Secret) -> list[np.ndarray]:
    """One logical batch: each unit with probability sample_rate, and of each drawn one at most `at_most` rows.

    Which rows of a unit are taken depends on that unit and on secret randomness only, so adding a person changes
    nobody else's draw. The list may be empty.
    """
    chosen = np.flatnonzero(secret.below(len(units), sample_rate)).tolist()
    return [units.rows[u][secret.choose(len(units.rows[u]), at_most)] for u in chosen]


def grouped(batch: Sequence[np.ndarray], groups: int, secret: Secret) -> list[np.ndarray]:
    """The drawn units' rows by group, empty groups left out: each unit in one of `groups` by its own chance, so that one
    more moves nobody else."""
    place = secret.places(len(batch), groups)
    return [
        np.concatenate([r for r, g in zip(batch, place, strict=True) if g == k]) for k in sorted(set(place.tolist()))
    ]


def share(batch: Sequence[np.ndarray], rank: int, world: int) -> list[np.ndarray]:
    """The units of one process: whole ones, the loads as even as a greedy deal makes them."""
    loads, mine = [0] * world, []
    for rows in sorted(batch, key=len, reverse=True):
        to = loads.index(min(loads))
        loads[to] += len(rows)
        if to == rank:
            mine.append(rows)
    return mine


@dataclass(frozen=True)
class Micro:
    """rows[R]: what to run forward; slot[R]: which open unit each row belongs to; closes: how many of the first
    slots are complete after it (the last one may go on in the next micro-batch, which then has it as slot 0)."""

    rows: np.ndarray
    slot: np.ndarray
    open: int
    closes: int


def whole(batch: Sequence[np.ndarray]) -> list[Micro]:
    """One piece for each group, whatever its size. Cut by a common size, a unit more in one group would shift where the next
    is cut, and with it whom its rows are contrasted with: the step would change in more than one group."""
    return [Micro(rows, np.zeros(len(rows), dtype=np.int64), 1, 1) for rows in batch]


def micro_batches(batch: Sequence[np.ndarray], size: int) -> list[Micro]:
    """Cut units, in order, into pieces of at most `size` rows. A unit's rows stay together in time."""
    out: list[Micro] = []
    rows: list[int] = []
    slot: list[int] = []
    first = 0  # the unit that slot 0 stands for
    for u, of in enumerate(batch):
        for i, row in enumerate(of):
            rows.append(int(row))
            slot.append(u - first)
            if len(rows) == size:
                done = u - first + (i == len(of) - 1)
                out.append(Micro(np.array(rows), np.array(slot), u - first + 1, done))
                rows, slot, first = [], [], first + done
    if rows:
        out.append(Micro(np.array(rows), np.array(slot), slot[-1] + 1, slot[-1] + 1))
    return out
