"""What may follow what inside one codec's block of tokens: a state machine with two registers and a sum.

Fixed layouts need its nodes alone. Blocks of varying length need more: where a beat's interval is a residual to the
header's mean and spread, whether a minute is full follows from these two and the sum of what has been said since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..backbones.causal_lm import OWN as OWN  # local ids from there on are the base model's own tokens: OWN + id
from ..core.errors import MienError

ANY_OWN = -1  # the `first` of an arc that takes any of them


@dataclass(frozen=True, eq=False, kw_only=True)
class Machine:
    """Nodes 0 (where a block begins) to nodes - 1, and `nodes` itself: the block's end.

    arcs: (node, first, last, to): the tokens first … last-1 (a codec's local ids) lead to `to`; first = ANY_OWN: any own
    token of the base model does. keep: node -> 0 or 1: the register that keeps which token was chosen there, counted
    from the node's lowest (an own token counts as that). add: node -> what the chosen token adds to the sum, >= 0:
    int[T], int[R0, T] with register 0 as first index, or int[R0, R1, T]. gates: node -> (limit, other): whoever comes
    there with a sum of at least `limit` goes on at `other` instead. length: tokens of the longest block. Registers (of 12
    bits) and sum are 0 when a block begins.
    """

    nodes: int
    arcs: Sequence[tuple[int, int, int, int]]
    length: int
    keep: Mapping[int, int] = field(default_factory=dict)
    add: Mapping[int, np.ndarray] = field(default_factory=dict)
    gates: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node, first, last, to in self.arcs:
            if not (0 <= node < self.nodes and 0 <= to <= self.nodes and (first == ANY_OWN or 0 <= first < last)):
                raise MienError(f"a machine of {self.nodes} nodes has no arc {(node, first, last, to)}")
        if set(self.keep) & set(self.add):
            raise MienError("a node either keeps its token or adds it")

    @staticmethod
    def of(slots: Sequence[tuple[int, int]]) -> Machine:
        """A fixed layout: one token of [first, last) in each slot, in order."""
        return Machine(
            nodes=len(slots), arcs=[(i, first, last, i + 1) for i, (first, last) in enumerate(slots)], length=len(slots)
        )
