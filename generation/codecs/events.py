"""`events`: calls, messages, conversations and other logs, exact to the second.

Per event the seconds since the one before, its kind, its length in seconds and a slot for with whom; then the block ends.
Times are rounded down and lengths to the nearest whole second, so logs that have none finer come back as they were. There
is no token for a number, a name or a place: the slot says "nobody", "somebody else", or the n-th different party of this
window in order of first appearance, and means nothing outside it.

The machine adds up the gaps. What would begin at or after the window's end is void: only the end may follow it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Events, Stream, StreamSpec
from ..machine import Machine
from ..numbers import BASE, LEADS, Numbers

VERSION = 1
STREAMS = 1
KIND = "events"
KINDS, PARTIES = 32, 15
LONGEST_S = 86400  # of one event
_LONGEST_WINDOW_S = 31 * 86400
TOKENS = {"end": 1, "kind": KINDS, "lead": LEADS, "digit": BASE, "party": PARTIES + 2}
_KIND, _LEAD, _DIGIT, _PARTY = 1, 1 + KINDS, 1 + KINDS + LEADS, 1 + KINDS + LEADS + BASE


class Config(Section):
    """most: events in one window; a window with more is refused, and counted."""

    most: int = Field(default=64, ge=1, le=1024)


class Codec:
    """One stream of events, one window length."""

    def __init__(self, config: Config, specs: Mapping[str, StreamSpec], seconds: float):
        ((self.name, self.spec),) = specs.items()
        self.seconds, self.most = seconds, config.most
        self.kinds = len(self.spec.channels)
        if not 1 <= self.kinds <= KINDS:
            raise MienError(
                f"stream {self.name!r} has {self.kinds} kinds of events; the events codec has room for {KINDS}"
            )
        if not 1 <= seconds <= _LONGEST_WINDOW_S:
            raise MienError(
                f"stream {self.name!r}: the events codec takes windows of 1 s to 31 days, not {seconds:g} s"
            )
        self.gap = Numbers(int(np.ceil(seconds)), _LEAD, _DIGIT)
        self.length = Numbers(LONGEST_S, _LEAD, _DIGIT)

    @property
    def machine(self) -> Machine:
        """One copy of an event's nodes for each event there may be, then a last one where only the end may come."""
        size = self.gap.nodes + 1 + self.length.nodes + 1
        over = self.most * size  # after a void gap, and after the last event
        nodes = over + 1
        arcs, add, gates = [(over, 0, 1, nodes)], {}, {}
        for i in range(self.most):
            gap = i * size
            kind, length = gap + self.gap.nodes, gap + self.gap.nodes + 1
            party = length + self.length.nodes
            arcs += [(gap, 0, 1, nodes), *self.gap.arcs(gap, kind), (kind, _KIND, _KIND + self.kinds, length)]
            arcs += self.length.arcs(length, party)
            arcs.append((party, _PARTY, _PARTY + PARTIES + 2, gap + size if i + 1 < self.most else over))
            # the end token has the lowest id of the node, so the leading digits' amounts start _LEAD further on
            add |= {n: np.r_[np.zeros(_LEAD, np.int64), a] if n == gap else a for n, a in self.gap.adds(gap).items()}
            gates[kind] = (int(np.ceil(self.seconds)), over)
        longest = self.gap.places + 1 + self.length.places + 1
        return Machine(nodes=nodes, arcs=arcs, add=add, gates=gates, length=self.most * longest + self.gap.places + 1)

    def encode(self, windows: Sequence[Mapping[str, Stream]]) -> list[np.ndarray | str]:
        return [self._block(w[self.name]) for w in windows]

    def _block(self, s: Stream) -> np.ndarray | str:
        if not isinstance(s, Events) or s.kinds != self.spec.channels:
            raise MienError(f"stream {self.name!r}: expected events of the kinds {list(self.spec.channels)}")
        whole = s.cut(0.0, self.seconds)  # what begins at the window's end is the next one's
        if whole is None:
            return f"{self.name} observed for less than the window"
        s = whole
        if len(s.times_s) > self.most:
            return f"more than {self.most} events in {self.name} (codec option `most`)"
        if len(s.times_s) and s.durations_s.max() >= LONGEST_S + 0.5:
            return f"an event of more than 24 h in {self.name}, which its codec cannot say"
        ids: list[int] = []
        slots: dict[int, int] = {}
        before = 0
        assert s.party is not None
        rows = zip(s.times_s.tolist(), s.durations_s.tolist(), s.codes.tolist(), s.party.tolist(), strict=True)
        for time, length, code, party in rows:
            second = int(time)
            slot = 0 if party < 0 else 1 + min(slots.setdefault(party, len(slots)), PARTIES)
            ids += [*self.gap.encode(second - before), _KIND + code, *self.length.encode(round(length)), _PARTY + slot]
            before = second
        return np.array([*ids, 0], dtype=np.int32)

    def decode(self, ids: np.ndarray) -> dict[str, Stream]:
        """Parties are numbered from 0 within the window; PARTIES is "somebody else", -1 nobody."""
        times, lengths, codes, parties = [], [], [], []
        at, now = 0, 0
        while ids[at] != 0:
            gap, at = self.gap.read(ids, at)
            now += gap
            if now >= self.seconds:
                break
            codes.append(int(ids[at]) - _KIND)
            length, at = self.length.read(ids, at + 1)
            times.append(now)
            lengths.append(min(length, LONGEST_S))
            parties.append(int(ids[at]) - _PARTY - 1)
            at += 1
        return {
            self.name: Events(
                times_s=np.array(times, float), durations_s=np.array(lengths, float), codes=np.array(codes, np.int32),
                party=np.array(parties, np.int32), kinds=self.spec.channels, seconds=self.seconds,
            )
        }  # fmt: skip
