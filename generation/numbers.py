"""Whole numbers as tokens: the leading digit with the number's length, then digits to base 32; small ones are short.

0 is one token; 1 to 31 are one token; 32 to 1,023 two; up to 32,767 three; up to 1,048,575 four; beyond that five.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BASE, PLACES = 32, 5
LEADS = 1 + PLACES * (BASE - 1)  # token 0: the number 0; then (places - 1) * 31 + digit


@dataclass(frozen=True)
class Numbers:
    """Numbers from 0 to `most`. lead, digit: the first local ids of the two token groups.

    A machine's walk may say a little more than `most` (the leading digit is bounded, not the rest): up to `top`.
    """

    most: int
    lead: int
    digit: int

    @property
    def places(self) -> int:
        return max(1, len(_digits(self.most)))

    @property
    def top(self) -> int:
        return (_digits(self.most)[0] + 1) * BASE ** (self.places - 1) - 1 if self.most else 0

    def encode(self, value: int) -> list[int]:
        if not 0 <= value <= self.most:
            raise ValueError(f"{value} is not between 0 and {self.most}")
        if value == 0:
            return [self.lead]
        digits = _digits(value)
        return [self.lead + (len(digits) - 1) * (BASE - 1) + digits[0], *(self.digit + d for d in digits[1:])]

    def read(self, ids: np.ndarray, at: int) -> tuple[int, int]:
        """(the number that starts at `at`, where it ends)."""
        lead = int(ids[at]) - self.lead
        if lead == 0:
            return 0, at + 1
        places, value = (lead - 1) // (BASE - 1) + 1, (lead - 1) % (BASE - 1) + 1
        for i in range(1, places):
            value = value * BASE + int(ids[at + i]) - self.digit
        return value, at + places

    @property
    def nodes(self) -> int:
        return self.places

    def arcs(self, node: int, to: int) -> list[tuple[int, int, int, int]]:
        """Arcs of a machine that says one number, from `node` (with the `places - 1` nodes after it, the k-th of which
        has k digits to go) to `to`."""
        out = [(node, self.lead, self.lead + 1, to)] if self.most == 0 else []
        for places in range(1, self.places + 1):
            first = self.lead + (0 if places == 1 else (places - 1) * (BASE - 1) + 1)
            top = _digits(self.most)[0] if places == self.places else BASE - 1
            last = self.lead + (places - 1) * (BASE - 1) + top + 1
            if self.most:
                out.append((node, first, last, to if places == 1 else node + places - 1))
        for left in range(1, self.places):
            out.append((node + left, self.digit, self.digit + BASE, to if left == 1 else node + left - 1))
        return out

    def adds(self, node: int) -> dict[int, np.ndarray]:
        """What each token of such a machine adds to the sum."""
        lead = np.zeros(LEADS, dtype=np.int64)
        for places in range(1, PLACES + 1):
            values = np.arange(1, BASE) * BASE ** (places - 1)
            lead[(places - 1) * (BASE - 1) + 1 : places * (BASE - 1) + 1] = values
        return {node: lead} | {node + left: np.arange(BASE) * BASE ** (left - 1) for left in range(1, self.places)}


def _digits(value: int) -> list[int]:
    out = []
    while value:
        value, d = divmod(value, BASE)
        out.append(d)
    return out[::-1] or [0]
