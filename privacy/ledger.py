"""The privacy ledger: what every run has charged to every person, kept across runs, studies and crashes.

A run *reserves* its whole plan before the first gradient and *settles* at its end for what was taken, which may be
less and never more. A run that dies counts in full until somebody settles it. The ledger stores events, not epsilons,
and adds them up per person: overlapping cohorts charge whoever is in both, disjoint ones compose in parallel.

**The cap.** A reservation passes when every person it charges stays within the cap by the Rényi filter: divergences
are summed at one order, which the cap fixes beforehand, and converted once, so later runs may be chosen, stopped early
or sized by what earlier ones showed (Feldman & Zrnic 2021; Lécuyer 2021). Picking the best of many orders afterwards
would not do: which one is best may depend on what was released. Without a cap nothing gates, and the best order is
shown, which holds for runs fixed beforehand. The tighter PLD figure assumes that all runs were fixed beforehand: it is
shown and never gates. Trials of a hyper-parameter search are runs like others. The rule for caps: *the first cap
stated binds*. It is the one an operator recorded (`set_cap`), or, if none was, the first that a reservation
brought; later reservations can be stricter and never looser, and only `set_cap`, an entry in the ledger like any
other, changes it. δ is fixed together with the cap. A plain run counts as epsilon = ∞, so a cap refuses it.

**Persons** are known by a keyed hash (HMAC) of source and id, 64 bits each; a collision merges two persons, which can
only overcharge. The key lies beside the database: together they tell whether a known id took part, so neither leaves
this machine. Renaming, subsetting or re-windowing a cohort changes nothing. Another source name, or new pseudonyms,
do hide a person: pass a `mapping`, which the ledger remembers.

**Files**, all 0600: `ledger.sqlite`, `ledger.sqlite.key`, `ledger.sqlite.anchor` (the newest position, as SEQ:HASH).
The table is append-only by triggers and chained by hashes. Somebody who rewrites all three is noticed only by an
anchor kept elsewhere: runs and privacy cards carry one (`check_anchor`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import hmac
import json
import math
import os
import re
import secrets
import sqlite3
import stat
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import MienError
from .accounting import ORDERS, Event, epsilon, rdp, rdp_to_epsilon

VERSION = 1
BUSY_S = 30.0
_APPLICATION = 0x4D69656E  # "Mien", in the file's header
_START = "0" * 64
_NETWORK = re.compile(
    r"(nfs\d*|cifs|smb\w*|9p|afs|ceph|lustre|gpfs|beegfs|ncpfs|davfs\d*|glusterfs"
    r"|fuse\.(sshfs|glusterfs|rclone|s3fs|gcsfuse|goofys|davfs\d*|ceph|cephfs|smbnetfs|juicefs))"
)
_OUTWARD = 1 + 1e-9

_SCHEMA = """
CREATE TABLE events (
  seq INTEGER PRIMARY KEY, at TEXT NOT NULL, run TEXT, kind TEXT NOT NULL, body TEXT NOT NULL, prev TEXT NOT NULL,
  hash TEXT NOT NULL, UNIQUE (run, kind)
) STRICT;
CREATE TABLE sets (hash TEXT PRIMARY KEY, members BLOB NOT NULL) STRICT;
CREATE TRIGGER events_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER events_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER events_insert BEFORE INSERT ON events
  WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM events)
    OR EXISTS (SELECT 1 FROM events WHERE run = NEW.run AND kind = NEW.kind)
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER sets_update BEFORE UPDATE ON sets BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER sets_delete BEFORE DELETE ON sets BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER sets_insert BEFORE INSERT ON sets WHEN EXISTS (SELECT 1 FROM sets WHERE hash = NEW.hash)
  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


class BudgetExceeded(MienError):
    """A reservation that would bring somebody past the cap. Nothing was charged."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """An entry in the ledger: its run and position (`seq`, `head`), to be copied into runs and cards.

    epsilon_after: the filter's value right after the entry, largest over the persons charged, at the cap's δ (without
    a cap: the reservation's); ∞ once a plain run has used one of them.
    """

    run: str
    seq: int
    head: str
    epsilon_after: float


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What the persons of one source have been charged; each epsilon is the largest over persons, at `delta`.

    epsilon: the filter's (Rényi) value, which a cap is held against. epsilon_pld: of the same events, valid if they
    were all fixed beforehand. naive: the sum of every run's own PLD epsilon (its δ would be that sum, too). plain: a
    plain run has used somebody. unsettled: runs that count in full, for they are still running or died.
    """

    source: str
    persons: int
    runs: int
    unsettled: int
    plain: bool
    delta: float
    epsilon: float
    epsilon_pld: float
    naive: float
    cap: float | None


_Row = tuple[int, str, str | None, str, str, str, str]  # of `events`


@dataclass(slots=True)
class _Run:
    seq: int
    at: str
    kind: str
    body: str
    source: str
    members: str
    count: int
    delta: float | None
    reserved: Counter[Event]
    settled: Counter[Event] | None = None
    settle: tuple[int, str] | None = None

    @property
    def charged(self) -> Counter[Event]:
        return self.reserved if self.settled is None else self.settled


@dataclass
class _State:
    """Everything the rows up to `seq` say, once `read`. Mechanisms are events of one step; sets go by their hash."""

    seq: int = 0
    head: str = _START
    runs: dict[str, _Run] = field(default_factory=dict)
    sets: dict[str, set[str]] = field(default_factory=dict)  # -> sources
    steps: dict[str, Counter[Event]] = field(default_factory=dict)
    plain: set[str] = field(default_factory=set)
    caps: dict[str | None, tuple[float, float]] = field(default_factory=dict)
    aliases: list[str] = field(default_factory=list)
    unread: list[_Row] = field(default_factory=list)

    def link(self, rows: Sequence[_Row]) -> None:
        """Take the rows that follow, or MienError at the first that does not fit; what they say is read later."""
        for row in rows:
            seq, at, run, kind, body, prev, digest = row
            if seq != self.seq + 1 or prev != self.head or digest != _hash(seq, at, run, kind, body, prev):
                raise MienError(
                    f"the ledger's hash chain breaks at entry {self.seq + 1}: an entry was changed, removed or put in;"
                    " restore a good copy, and compare it with the anchors in your runs (`mien ledger verify --anchor"
                    " SEQ:HASH`)"
                )
            self.seq, self.head = seq, digest
        self.unread += rows

    def read(self) -> None:
        rows, self.unread = self.unread, []
        for row in rows:
            self._read(*row)

    def _read(self, seq: int, at: str, run: str | None, kind: str, body: str, _prev: str, _digest: str) -> None:
        what = json.loads(body)
        if kind in ("reserve", "plain"):
            assert run is not None
            events, members, source = _mechanisms(what.get("events", ())), what["set"], what["source"]
            self.runs[run] = _Run(seq, at, kind, body, source, members, what["n"], what.get("delta"), events)
            if members not in self.sets:
                self.sets[members], self.steps[members] = set(), Counter()
            self.sets[members].update(what["sources"])
            steps = self.steps[members]
            for mechanism, n in events.items():
                steps[mechanism] += n
            if kind == "plain":
                self.plain.add(members)
            elif what["alias"] is not None and what["alias"] not in self.aliases:
                self.aliases.append(what["alias"])
            if what.get("cap") is not None and self.cap(source) is None:
                self.caps[source] = (what["cap"], what["delta"])
        elif kind == "settle":
            made = self.runs[str(run)]
            made.settled, made.settle = _mechanisms(what["events"]), (seq, body)
            steps = self.steps[made.members]
            for mechanism, n in made.reserved.items():
                steps[mechanism] -= n
            for mechanism, n in made.settled.items():
                steps[mechanism] += n
        elif kind == "cap":
            self.caps[what["source"]] = (float(what["epsilon"]), what["delta"])

    def cap(self, source: str) -> tuple[float, float] | None:
        """(epsilon, delta) that binds this source: its own, else the whole ledger's."""
        return self.caps.get(source, self.caps.get(None))


@dataclass(frozen=True)
class _Partition:
    """Persons who are in the same sets form one class, for they are charged alike.

    people: uint64[persons], sorted; classes: int64[persons]; within: per set, the classes it consists of.
    """

    people: np.ndarray
    classes: np.ndarray
    within: dict[str, np.ndarray]

    @property
    def count(self) -> int:
        return int(self.classes.max()) + 1 if len(self.classes) else 0


def ledger_path() -> Path:
    """`$MIEN_LEDGER`, or `mien/ledger.sqlite` in `$XDG_DATA_HOME` (else `~/.local/share`)."""
    named = os.environ.get("MIEN_LEDGER")
    if named:
        return Path(named).expanduser()
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home).expanduser() / "mien" / "ledger.sqlite"


class Ledger:
    """An open ledger: `with Ledger.open() as ledger: …`. One process, one handle; many processes may have theirs."""

    def __init__(self, path: Path, db: sqlite3.Connection, key: bytes):
        self.path, self._db, self._key = path, db, key
        self._state = _State()
        self._members: dict[str, np.ndarray] = {}
        self._parts: tuple[tuple[int, int], _Partition] | None = None

    # --- opening ------------------------------------------------------------------------------------------------
    @staticmethod
    def open(path: Path | None = None) -> Ledger:
        """Open the ledger, or make it: folder 0700, files 0600. Walks the hash chain and compares the anchor file.

        MienError: on a network file system, readable by others, locked, corrupt, of another version, with a broken
        chain, behind its anchor, or without its key.
        """
        path = Path(path or ledger_path()).expanduser()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise MienError(
                f"cannot make the ledger's folder {path.parent}: {error.strerror}; set MIEN_LEDGER"
            ) from None
        path = path.resolve()
        kind = _filesystem(path.parent, _mounts())
        if _NETWORK.fullmatch(kind):
            raise MienError(
                f"{path.parent} is on a network file system ({kind}), where several machines would corrupt the ledger;"
                " set MIEN_LEDGER to a local path"
            )
        if path.is_dir():
            raise MienError(f"{path} is a folder; MIEN_LEDGER names the ledger's file")
        with _anchored(path) as anchor:
            key = _key(path, used=anchor.read() is not None)
            for file in (path, _beside(path, "key"), _beside(path, "anchor")):
                loose = _loose(file)
                if loose:
                    raise MienError(loose)
            with _explained(path):
                ledger = Ledger(path, _connect(path), key)
                try:
                    ledger._start(anchor)
                except BaseException:
                    ledger.close()
                    raise
        return ledger

    def _start(self, anchor: _Anchor) -> None:
        db, path, known = self._db, self.path, anchor.read()
        version = db.execute("PRAGMA user_version").fetchone()[0]
        application = db.execute("PRAGMA application_id").fetchone()[0]
        empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if empty and known is not None:
            raise MienError(f"{path} is empty or gone, but its anchor knows entry {known[0]}: put the ledger back")
        if empty:
            db.execute("BEGIN EXCLUSIVE")
            for statement in _statements():
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {VERSION}")
            self._append("genesis", None, {"schema": VERSION, "ledger": secrets.token_hex(8), "key": self._check()})
            db.execute("COMMIT")
        elif application != _APPLICATION:
            raise MienError(f"{path} is an SQLite file, but no Mien ledger; set MIEN_LEDGER to another path")
        elif version != VERSION:
            what = "newer: update mien" if version > VERSION else "older: use the version of mien that wrote it"
            raise MienError(f"{path} has schema version {version}, this mien reads {VERSION}; the file is {what}")
        for problem in self._schema_problems():
            raise MienError(f"{path}: {problem}; somebody has altered the file: restore a good copy")
        self._refresh(read=False)
        if known is not None:
            self.check_anchor(*known)
        if json.loads(db.execute("SELECT body FROM events WHERE seq = 1").fetchone()[0]).get("key") != self._check():
            raise MienError(f"{_beside(path, 'key')} is not the key that {path} was made with; put the right one back")
        if known is None and self._state.seq > 1:
            raise MienError(
                f"{_beside(path, 'anchor')} is missing or empty. If {path.name} is no older copy, write the newest position"
                f" you know of into it (in a run's report or a card: SEQ:HASH); this copy ends at"
                f" {self._state.seq}:{self._state.head}"
            )
        anchor.advance(*self.head())

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- charging -----------------------------------------------------------------------------------------------
    def reserve(
        self,
        *,
        run: str,
        source: str,
        persons: Sequence[str],
        events: Sequence[Event],
        delta: float,
        cap: float | None = None,
        note: str = "",
        mapping: Mapping[str, str] | None = None,
        mapping_source: str | None = None,
    ) -> Receipt:
        """Charge a run's whole plan to its persons before the first gradient, or raise BudgetExceeded.

        source: where the persons come from (data set plug-in; for a folder also its declared source): ids are told
        apart by it, so the same people under another source name need a mapping. persons: the cohort's ids. cap: in
        epsilon at `delta`; see the rule above. mapping: id here -> earlier id of the same person (in `mapping_source`,
        default the same source); it is remembered. The same run id with the same content gives the same receipt (a run
        that is continued); with other content, or once settled, it is refused.
        """
        _fraction(delta)
        if cap is not None:
            _positive("cap", cap)
        steps = _checked(events)
        if not any(e.steps for e in steps):
            raise MienError(f"run {run!r} reserves no steps; give its events")
        old = mapping_source or source
        blob, alias = self._set(source, persons, mapping or {}, old)
        what = {
            "source": source, "sources": sorted({source, old} if alias else {source}), "set": _digest(blob),
            "n": len(blob) // 8, "events": [e.to_json() for e in steps], "delta": float(delta),
            "cap": None if cap is None else float(cap), "note": note, "alias": _digest(alias) if alias else None,
        }  # fmt: skip
        return self._charge("reserve", run, what, [b for b in (blob, alias) if b])

    def plain(self, *, run: str, source: str, persons: Sequence[str]) -> Receipt:
        """Mark these persons epsilon = ∞: a run without protection reads them. BudgetExceeded where a cap binds."""
        blob, _ = self._set(source, persons, {}, source)
        what = {"source": source, "sources": [source], "set": _digest(blob), "n": len(blob) // 8}
        return self._charge("plain", run, what, [blob])

    def settle(self, run: str, events: Sequence[Event]) -> Receipt:
        """Replace a run's reservation by what it took: the same mechanisms, at most as many steps of each.

        An empty list, if it took none. Settling again with the same events gives the same receipt.
        """
        what = {"events": [e.to_json() for e in _checked(events)]}
        with self._writing():
            known = self._state.runs.get(run)
            if known is None or known.kind == "plain":
                raise MienError(f"run {run!r} has no reservation in {self.path}; reserve before the first step")
            if known.settle is not None:
                if known.settle[1] != _canonical(what):
                    raise MienError(
                        f"run {run!r} was settled with other events at entry {known.settle[0]}; that stands"
                    )
                return self._receipt(run, known.settle[0])
            for mechanism, steps in _mechanisms(what["events"]).items():
                if steps > known.reserved[mechanism]:
                    raise MienError(
                        f"run {run!r} reserved {known.reserved[mechanism]} steps at sample rate"
                        f" {mechanism.sample_rate:g}, noise multiplier {mechanism.noise_multiplier:g} and"
                        f" {mechanism.units_per_person} unit(s) per person; it cannot settle {steps}. Reserve what is"
                        " missing under another run id"
                    )
            self._append("settle", run, what)
        return self._receipt(run, self._state.seq)

    def set_cap(self, *, source: str | None, epsilon: float, delta: float) -> tuple[int, str]:
        """Record an operator's cap for one source, or (None) for every source without its own; inf lifts it.

        A cap below what is spent already is allowed: it refuses whatever comes next. Returns the new head.
        """
        if epsilon != math.inf:
            _positive("epsilon", epsilon)
        _fraction(delta)
        if source is not None:
            _name("source", source)
        stored = "inf" if epsilon == math.inf else float(epsilon)
        with self._writing():
            self._append("cap", None, {"source": source, "epsilon": stored, "delta": float(delta)})
        return self._state.seq, self._state.head

    def _charge(self, kind: str, run: str, what: dict[str, Any], blobs: Sequence[bytes]) -> Receipt:
        _name("run", run)
        with self._writing():
            known = self._state.runs.get(run)
            if known is not None:
                if (known.kind, known.body) != (kind, _canonical(what)):
                    raise MienError(
                        f"run id {run!r} is in the ledger already with other content ({known.kind}, entry {known.seq});"
                        " a run that asks for something else needs an id of its own"
                    )
                if known.settle is not None:
                    raise MienError(
                        f"run {run!r} was settled at entry {known.settle[0]}; training again is another charge: give"
                        " it another run id"
                    )
                return self._receipt(run, known.seq)
            for blob in blobs:
                digest = _digest(blob)
                if not self._db.execute("SELECT 1 FROM sets WHERE hash = ?", (digest,)).fetchone():
                    self._db.execute("INSERT INTO sets VALUES (?, ?)", (digest, blob))
            before = self._state.cap(what["source"])
            self._append(kind, run, what)
            if (
                kind == "reserve"
                and before is not None
                and before[0] < math.inf
                and not math.isclose(before[1], what["delta"])
            ):
                raise MienError(
                    f"the cap of {what['source']!r} is held at delta {before[1]:g}, run {run!r} asks at"
                    f" {what['delta']:g}; use privacy.delta={before[1]:g}, or record another cap (`mien ledger cap`)"
                )
            self._gate(run, what)
        return self._receipt(run, self._state.seq)

    def _gate(self, run: str, what: dict[str, Any]) -> None:
        """BudgetExceeded when the state, `run` included, passes a cap of anybody whom that run charges."""
        state, parts = self._state, self._partition(self._state)
        charged = parts.within[what["set"]]
        caps: dict[tuple[str, float, float], np.ndarray] = {}
        if what.get("cap") is not None:
            caps[what["source"], what["cap"], what["delta"]] = charged
        for source in {s for sources in state.sets.values() for s in sources}:
            cap = state.cap(source)
            if cap is not None and cap[0] < math.inf:
                theirs = np.unique(np.concatenate([parts.within[h] for h, s in state.sets.items() if source in s]))
                caps[source, *cap] = np.intersect1d(charged, theirs)
        table = _Table.of(state, parts) if caps else None
        for (source, most, delta), classes in caps.items():
            assert table is not None
            after = table.take(classes).filter(delta, most)
            if after > most:
                raise BudgetExceeded(
                    f"run {run!r} would bring somebody of {source!r} to epsilon {after:.4g} (delta {delta:g}), past the cap"
                    f" {most:g}; nothing was charged. `mien ledger plan` shows what fits; only an operator raises a cap"
                    " (`mien ledger cap`)"
                )

    # --- reading ------------------------------------------------------------------------------------------------
    def head(self) -> tuple[int, str]:
        """(seq, hash) of the newest entry; it goes into runs and cards."""
        self._refresh(read=False)
        return self._state.seq, self._state.head

    def status(self, run: str) -> str | None:
        """ "reserved", "settled" or "plain"; None for a run the ledger does not know."""
        self._refresh()
        known = self._state.runs.get(run)
        return (
            None if known is None else "plain" if known.kind == "plain" else "settled" if known.settle else "reserved"
        )

    def spent(
        self,
        *,
        source: str | None = None,
        persons: Sequence[str] | None = None,
        delta: float | None = None,
        pld: bool = True,
    ) -> list[Spent]:
        """What was charged: one row per source, or one for `source`, or for some of its `persons`.

        delta: default the cap's, else the smallest of the reservations. pld=False leaves the slow columns NaN.
        """
        self._refresh()
        if persons is not None and source is None:
            raise MienError("to look up persons, give the source they come from")
        sources = self._sources() if source is None else [source]
        return [self._spent(s, persons, delta, pld, (), 0) for s in sources]

    def what_if(
        self, events: Sequence[Event], *, times: int = 1, source: str | None = None, delta: float | None = None
    ) -> tuple[Spent, Spent]:
        """(now, after): the persons of a source before and after `times` more runs of `events`, if everybody is in all.

        Without a source: persons whom nothing has charged yet.
        """
        self._refresh()
        extra = _checked(events)
        if not any(e.steps for e in extra) or times < 1:
            raise MienError("a plan has at least one step and is run at least once")
        now, after = (self._spent(source or "", None, delta, True, extra, n) for n in (0, times))
        return now, after

    def fits(self, events: Sequence[Event], *, cap: float, source: str | None, delta: float) -> int:
        """How many runs of `events` fit under a cap for everybody of a source, by the filter; at most a million."""
        self._refresh()
        extra = _checked(events)

        def within(n: int) -> bool:
            return self._spent(source or "", None, delta, False, extra, n, cap).epsilon <= cap

        low, high = 0, 1
        while high <= 10**6 and within(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if within(middle) else (low, middle)
        return min(low, 10**6)

    def _spent(
        self,
        source: str,
        persons: Sequence[str] | None,
        delta: float | None,
        pld: bool,
        extra: Sequence[Event],
        times: int,
        under: float | None = None,
    ) -> Spent:
        state, parts = self._state, self._partition(self._state)
        sets = [h for h, sources in state.sets.items() if source in sources]
        classes = np.unique(np.concatenate([parts.within[h] for h in sets])) if sets else np.zeros(0, np.int64)
        count = int(np.isin(parts.classes, classes).sum())
        if persons is not None:
            blob, _ = self._set(source, persons, {}, source)
            asked = _resolve(np.frombuffer(blob, "<u8"), self._aliases(state))
            classes = np.unique(parts.classes[np.isin(parts.people, asked)])
            count = len(asked)
            sets = [h for h in state.sets if np.isin(parts.within[h], classes).any()]
        chosen = set(sets)
        runs = [r for r in state.runs.values() if r.members in chosen]
        cap = state.cap(source)
        if delta is None:
            delta = cap[1] if cap else min((r.delta for r in runs if r.delta is not None), default=1e-5)
        _fraction(delta)
        held = under if under is not None else cap[0] if cap else math.inf
        table = _Table.of(state, parts).take(classes).plus(extra, times)
        one = epsilon(extra, delta) if pld and times else 0.0
        return Spent(
            source=source, persons=count, runs=len(runs),
            unsettled=sum(r.kind == "reserve" and r.settled is None for r in runs), plain=bool(table.plain.any()),
            delta=delta, epsilon=table.filter(delta, held), epsilon_pld=table.pld(delta) if pld else math.nan,
            naive=self._naive(parts, classes, runs, delta) + times * one if pld else math.nan,
            cap=None if cap is None or cap[0] == math.inf else cap[0],
        )  # fmt: skip

    def _naive(self, parts: _Partition, classes: np.ndarray, runs: Sequence[_Run], delta: float) -> float:
        by_set: dict[str, float] = defaultdict(float)
        for run in runs:
            by_set[run.members] += math.inf if run.kind == "plain" else _single(frozenset(run.charged.items()), delta)
        total = np.zeros(parts.count)
        for members, value in by_set.items():
            total[parts.within[members]] += value
        return float(total[classes].max(initial=0.0))

    def _sources(self) -> list[str]:
        state = self._state
        return sorted(
            {s for sources in state.sets.values() for s in sources} | {s for s in state.caps if s is not None}
        )

    # --- checking -----------------------------------------------------------------------------------------------
    def check_anchor(self, seq: int, digest: str) -> None:
        """MienError unless entry `seq` exists and has this hash: an older copy, or another history, is noticed."""
        with _explained(self.path):
            row = self._db.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).fetchone()
        if row is None:
            last = self._db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
            raise MienError(
                f"{self.path} ends at entry {last}, yet entry {seq} was written once: this is an older copy, and what it"
                " lacks is spent all the same; put the newest copy back"
            )
        if row[0] != digest:
            raise MienError(
                f"entry {seq} of {self.path} is not the one that was written first ({row[0][:12]}, not {digest[:12]}): the"
                " file holds another history; put the right one back"
            )

    def verify(self, anchors: Sequence[tuple[int, str]] = ()) -> list[str]:
        """Everything wrong with the ledger: its file, triggers, chain, person sets, modes and anchors. Empty if fine."""
        found: list[str] = []
        with _anchored(self.path) as anchor:
            known = anchor.read()  # before the snapshot below, which others may leave behind
        with _explained(self.path):
            self._db.execute("BEGIN")
            try:
                rows = self._db.execute("PRAGMA integrity_check(5)").fetchall()
                found += [f"damaged file: {r[0]}" for r in rows if r[0] != "ok"]
                found += self._schema_problems()
                try:
                    _State().link(self._rows(0).fetchall())
                except MienError as error:
                    found.append(str(error))
                used = self._db.execute(
                    "SELECT DISTINCT json_extract(body, '$.set'), json_extract(body, '$.alias') FROM events"
                    " WHERE kind IN ('reserve', 'plain')"
                )
                named = {digest for row in used for digest in row if digest is not None}
                for digest, blob in self._db.execute("SELECT hash, members FROM sets"):
                    named.discard(digest)
                    if _digest(blob) != digest:
                        found.append(f"person set {digest[:12]} was changed")
                found += [f"person set {digest[:12]} is missing" for digest in sorted(named)]
                found += filter(None, map(_loose, (self.path, _beside(self.path, "key"), _beside(self.path, "anchor"))))
                for position in [known, *anchors]:
                    if position is None:
                        found.append(f"{_beside(self.path, 'anchor')} is missing or empty")
                        continue
                    try:
                        self.check_anchor(*position)
                    except MienError as error:
                        found.append(str(error))
            finally:
                self._db.execute("ROLLBACK")
        return found

    def export(self) -> list[dict[str, Any]]:
        """Every entry without anything about a person but counts; cohorts are numbered in the order they came."""
        self._refresh()
        numbers = {digest: n for n, digest in enumerate(self._state.sets, 1)}
        out = []
        with _explained(self.path):
            for seq, at, run, kind, body, _, digest in self._rows(0):
                what = json.loads(body)
                entry: dict[str, Any] = {"seq": seq, "at": at, "run": run, "kind": kind}
                entry |= {k: what[k] for k in ("source", "events", "delta", "cap", "epsilon", "note") if k in what}
                if "set" in what:
                    entry |= {"cohort": numbers[what["set"]], "persons": what["n"], "mapped": bool(what.get("alias"))}
                out.append(entry | {"hash": digest})
        return out

    # --- inside -------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction that nobody else can write beside; the state follows what is committed."""
        with _explained(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._refresh()
                before = self._state.seq
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._state, self._parts = _State(), None
                raise
        if self._state.seq > before:
            with _anchored(self.path) as anchor:
                anchor.advance(self._state.seq, self._state.head)

    def _append(self, kind: str, run: str | None, what: dict[str, Any]) -> None:
        state, body = self._state, _canonical(what)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        digest = _hash(state.seq + 1, at, run, kind, body, state.head)
        row = (state.seq + 1, at, run, kind, body, state.head, digest)
        self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        state.link([row])
        state.read()

    def _rows(self, after: int, last: int = sys.maxsize) -> sqlite3.Cursor:
        return self._db.execute("SELECT * FROM events WHERE seq > ? AND seq <= ? ORDER BY seq", (after, last))

    def _refresh(self, read: bool = True) -> None:
        with _explained(self.path):
            self._state.link(self._rows(self._state.seq).fetchall())
        if read:
            self._state.read()

    def _receipt(self, run: str, seq: int) -> Receipt:
        """The receipt of a run's entry as it was when written: later entries play no part."""
        state = self._state
        if state.seq != seq:
            state = _State()
            with _explained(self.path):
                state.link(self._rows(0, seq).fetchall())
            state.read()
        made, parts = state.runs[run], self._partition(state)
        cap = state.cap(made.source)
        delta = cap[1] if cap else made.delta
        table = _Table.of(state, parts).take(parts.within[made.members])
        after = math.inf if delta is None else table.filter(delta, cap[0] if cap else math.inf)
        return Receipt(run=run, seq=seq, head=state.head, epsilon_after=after)

    def _set(self, source: str, persons: Sequence[str], mapping: Mapping[str, str], old: str) -> tuple[bytes, bytes]:
        """(sorted hashes of the persons, pairs of hashes new and old of those mapped), 8 bytes a hash."""
        _name("source", source)
        _name("mapping_source", old)
        if isinstance(persons, str) or not len(persons):
            raise MienError(f"persons is a list of ids and not empty, got {persons!r}")
        ids = {_identity(p) for p in persons}
        blob = b"".join(sorted(self._hmac(source, p) for p in ids))
        renamed = {_identity(a): _identity(b) for a, b in mapping.items()}
        pairs = sorted((self._hmac(source, a), self._hmac(old, b)) for a, b in renamed.items() if a in ids)
        return blob, b"".join(a + b for a, b in pairs if a != b)

    def _hmac(self, source: str, person: str) -> bytes:
        # the length in front keeps ("a", "bc") and ("ab", "c") apart
        return hmac.digest(self._key, f"{len(source)}:{source}:{person}".encode(), "sha256")[:8]

    def _check(self) -> str:
        return hmac.digest(self._key, b"mien ledger", "sha256").hex()

    def _schema_problems(self) -> list[str]:
        found = dict(self._db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
        asked = _expected()
        out = [
            f"{name!r} is missing or altered, which keeps the ledger append-only"
            for name in asked
            if found.get(name) != asked[name]
        ]
        return out + [f"{name!r} does not belong in a ledger" for name in found if name not in asked]

    def _blob(self, digest: str) -> np.ndarray:
        if digest not in self._members:
            with _explained(self.path):
                row = self._db.execute("SELECT members FROM sets WHERE hash = ?", (digest,)).fetchone()
            if row is None or _digest(row[0]) != digest:
                raise MienError(f"{self.path}: person set {digest[:12]} was changed or removed; restore a good copy")
            self._members[digest] = np.frombuffer(row[0], "<u8")
        return self._members[digest]

    def _aliases(self, state: _State) -> dict[int, int]:
        """hash of a new id -> of the first id of the same person."""
        step: dict[int, int] = {}
        for digest in state.aliases:
            for new, old in self._blob(digest).reshape(-1, 2).tolist():
                if step.setdefault(new, old) != old:
                    raise MienError("the mapping gives an id to another person than an earlier mapping did; correct it")
        out = {}
        for new in step:
            at, seen = new, {new}
            while at in step:
                at = step[at]
                if at in seen:
                    raise MienError("the mapping goes in a circle: an id leads back to itself; correct it")
                seen.add(at)
            out[new] = at
        return out

    def _partition(self, state: _State) -> _Partition:
        key = (len(state.sets), len(state.aliases))  # both only grow
        if self._parts is None or self._parts[0] != key or state is not self._state:
            made = _partition({h: self._blob(h) for h in state.sets}, self._aliases(state))
            if state is not self._state:
                return made
            self._parts = (key, made)
        return self._parts[1]


# --- per person ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Table:
    """Steps of each mechanism per class of persons: int64[classes, mechanisms]; plain: bool[classes]."""

    mechanisms: tuple[Event, ...]
    steps: np.ndarray
    plain: np.ndarray

    @staticmethod
    def of(state: _State, parts: _Partition) -> _Table:
        mechanisms = tuple(dict.fromkeys(m for counts in state.steps.values() for m, n in counts.items() if n))
        steps = np.zeros((parts.count, len(mechanisms)), np.int64)
        plain = np.zeros(parts.count, bool)
        for members, counts in state.steps.items():
            steps[parts.within[members]] += np.array([counts[m] for m in mechanisms], np.int64)
        for members in state.plain:
            plain[parts.within[members]] = True
        return _Table(mechanisms, steps, plain)

    def take(self, classes: np.ndarray) -> _Table:
        """These classes only, those charged alike once; nobody: one person whom nothing was charged."""
        if not len(classes):
            return _Table(self.mechanisms, np.zeros((1, len(self.mechanisms)), np.int64), np.zeros(1, bool))
        both = np.unique(np.c_[self.steps[classes], self.plain[classes]], axis=0)
        return _Table(self.mechanisms, both[:, :-1], both[:, -1].astype(bool))

    def plus(self, events: Sequence[Event], times: int) -> _Table:
        """`times` more of the events for everybody."""
        if not times:
            return self
        more = {m: n * times for m, n in _mechanisms([e.to_json() for e in events]).items()}
        mechanisms = (*self.mechanisms, *(m for m in more if m not in self.mechanisms))
        steps = np.pad(self.steps, ((0, 0), (0, len(mechanisms) - len(self.mechanisms))))
        return _Table(mechanisms, steps + np.array([more.get(m, 0) for m in mechanisms], np.int64), self.plain)

    def filter(self, delta: float, cap: float = math.inf) -> float:
        """The largest Rényi epsilon over the classes, rounded up: at the cap's order, without a cap at the best one."""
        return max(self._filters(delta, cap))

    def pld(self, delta: float) -> float:
        """The largest PLD epsilon. Rényi's is the looser one, so classes whose Rényi epsilon is below the best are skipped."""
        if self.plain.any():
            return math.inf
        best, bounds = 0.0, self._filters(delta)
        for i in np.argsort(bounds)[::-1]:
            if bounds[i] <= best:
                break
            events = [dataclasses.replace(m, steps=int(n)) for m, n in zip(self.mechanisms, self.steps[i], strict=True)]
            best = max(best, epsilon(events, delta))
        return best

    def _filters(self, delta: float, cap: float = math.inf) -> list[float]:
        if self.plain.all():
            return [math.inf] * len(self.plain)
        out = []
        for plain, row in zip(self.plain, self.steps, strict=True):
            if plain or not row.any():
                out.append(math.inf if plain else 0.0)
                continue
            # a divergence may be inf at some order, and 0 times inf is no number
            total = sum(int(n) * _divergence(m)[1] for m, n in zip(self.mechanisms, row, strict=True) if n)
            orders = _divergence(self.mechanisms[int(row.argmax())])[0]
            values = np.asarray(total).tolist()
            if cap < math.inf:
                at = order_for(cap, delta)
                orders, values = orders[at : at + 1], values[at : at + 1]
            out.append(rdp_to_epsilon(orders, values, delta) * _OUTWARD)
        return out


@cache
def order_for(cap: float, delta: float) -> int:
    """Index in ORDERS of the order a cap is held at: where a plain Gaussian mechanism that uses the cap up is tightest.

    It depends on the cap and δ alone. A mechanism of ρ-zCDP has divergence ρ α at every order α.
    """
    a = np.array(ORDERS)
    margin = np.log1p(-1 / a) - (math.log(delta) + np.log(a)) / (a - 1)  # what the conversion to ε adds at each order
    return int(np.argmax((cap - margin) / a))


def _partition(sets: Mapping[str, np.ndarray], aliases: Mapping[int, int]) -> _Partition:
    arrays = [_resolve(a, aliases) for a in sets.values()]
    if not arrays:
        return _Partition(np.zeros(0, np.uint64), np.zeros(0, np.int64), {})
    people = np.unique(np.concatenate(arrays))
    where = [np.searchsorted(people, a) for a in arrays]
    classes = np.zeros(len(people), np.int64)
    for start in range(0, len(where), 31):  # 31 sets at a time: a class number and their bits fit one integer
        bits = np.zeros(len(people), np.int64)
        for j, at in enumerate(where[start : start + 31]):
            bits[at] |= 1 << j
        classes = np.unique(classes << 31 | bits, return_inverse=True)[1]
    return _Partition(people, classes, {h: np.unique(classes[at]) for h, at in zip(sets, where, strict=True)})


def _resolve(hashes: np.ndarray, aliases: Mapping[int, int]) -> np.ndarray:
    """Sorted hashes of the persons behind these ids."""
    if aliases:
        found = np.array([aliases.get(h, h) for h in hashes.tolist()], np.uint64)
        hashes = np.unique(found)
        if len(hashes) < len(found):
            raise MienError(
                "by the mapping, two ids of one cohort are the same person, who would count twice in every step; give"
                " that person one id in the cohort"
            )
    return hashes


@cache
def _divergence(mechanism: Event) -> tuple[tuple[float, ...], np.ndarray]:
    orders, values = rdp([mechanism])
    return orders, np.array(values)


@cache
def _single(charged: frozenset[tuple[Event, int]], delta: float) -> float:
    return epsilon([dataclasses.replace(m, steps=n) for m, n in charged], delta)


# --- what is stored -----------------------------------------------------------------------------------------------
def _mechanisms(stored: Sequence[Mapping[str, Any]]) -> Counter[Event]:
    """Stored events -> steps of each mechanism (an event of one step). Shared: never change it."""
    return _merged(tuple([tuple(e.items()) for e in stored]))


@cache
def _merged(events: tuple[tuple[tuple[str, Any], ...], ...]) -> Counter[Event]:
    out: Counter[Event] = Counter()
    for raw in events:
        event = Event.from_json(dict(raw))
        out[_mechanism(event)] += event.steps
    return out


def _mechanism(event: Event) -> Event:
    """One object per mechanism: dictionaries find it without comparing."""
    one = dataclasses.replace(event, steps=1)
    return _seen.setdefault(one, one)


_seen: dict[Event, Event] = {}


def _canonical(what: Mapping[str, Any]) -> str:
    return json.dumps(what, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _hash(seq: int, at: str, run: str | None, kind: str, body: str, prev: str) -> str:
    # no field but the last can hold a line break, so two entries never have the same text
    return hashlib.sha256(f"{prev}\n{seq}\n{at}\n{run}\n{kind}\n{body}".encode()).hexdigest()


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


# --- what is accepted ---------------------------------------------------------------------------------------------
def _checked(events: Sequence[Event]) -> list[Event]:
    for e in events:
        if not isinstance(e, Event):
            raise MienError(f"events is a list of privacy events, got {type(e).__name__}")
    return list(events)


def _positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not sys.float_info.min <= value < math.inf:
        raise MienError(f"{name} is a finite number above 0 (and no subnormal one), got {value!r}")


def _fraction(delta: Any) -> None:
    _positive("delta", delta)
    epsilon([], delta)  # the accountant knows which it can answer for


def _name(what: str, text: Any) -> None:
    if not isinstance(text, str) or not text.strip() or not text.isprintable() or len(text) > 500:
        raise MienError(f"{what} is a name of 1 to 500 printable characters, got {text!r}")


def _identity(person: Any) -> str:
    if not isinstance(person, str) or not person:
        raise MienError(f"a person's id is a text that is not empty, got {person!r}")
    return unicodedata.normalize("NFC", person)  # the same file name reads differently on two systems otherwise


# --- files --------------------------------------------------------------------------------------------------------
class _Anchor:
    """The anchor file, locked: the newest position in one line of fixed width, so that a write replaces all of it."""

    def __init__(self, file: int, path: Path):
        self._file, self._path = file, path

    def read(self) -> tuple[int, str] | None:
        text = os.pread(self._file, 200, 0).decode("ascii", "replace").strip()
        return position(text, self._path.name) if text else None

    def advance(self, seq: int, digest: str) -> None:
        known = self.read()
        if known is None or known[0] < seq:
            line = f"{seq:012d}:{digest}\n".encode()
            os.pwrite(self._file, line, 0)
            os.ftruncate(self._file, len(line))
            os.fsync(self._file)


def position(text: str, where: str = "--anchor") -> tuple[int, str]:
    """SEQ:HASH -> (seq, hash)."""
    found = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text.strip())
    if not found:
        raise MienError(f"{where}: an anchor is SEQ:HASH (a number, a colon, 64 hex digits), got {text[:80]!r}")
    return int(found[1]), found[2]


@contextlib.contextmanager
def _anchored(path: Path) -> Iterator[_Anchor]:
    file = _beside(path, "anchor")
    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MienError(
            f"cannot write {file}: {error.strerror}; make its folder writable, or set MIEN_LEDGER"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield _Anchor(handle, file)
    finally:
        os.close(handle)


def _key(path: Path, used: bool) -> bytes:
    """The HMAC key beside the ledger, made with a new ledger only."""
    file = _beside(path, "key")
    if not file.exists():
        if used or (path.exists() and path.stat().st_size):
            raise MienError(
                f"{file} is missing, without which the persons in {path.name} cannot be told apart; put it back"
            )
        part = file.with_name(f".{file.name}.{os.getpid()}.partial")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, secrets.token_bytes(32))
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(part, file)
    key = file.read_bytes()
    if len(key) != 32:
        raise MienError(f"{file} holds {len(key)} bytes, a key has 32; put the right one back")
    return key


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would make it readable by others
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    db.execute("PRAGMA trusted_schema = OFF")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    return db


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            why = f"another process has held it for more than {BUSY_S:g} s; wait for it, or stop it"
        elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            why = "it cannot be written; make the file and its folder writable, or set MIEN_LEDGER"
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            why = "the file is damaged or no ledger; restore a good copy"
        elif code == sqlite3.SQLITE_FULL:
            why = "the disk is full; free some space and run again"
        else:
            why = "the ledger refused"
        raise MienError(f"{path}: {why} ({error})") from None


def _loose(file: Path) -> str | None:
    mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0
    return f"{file} can be read by others (mode {mode:03o}); run: chmod 600 {file}" if mode & 0o077 else None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text()
    except OSError:
        return ""


def _filesystem(folder: Path, mounts: str) -> str:
    """Type of the file system a folder is on, from the text of /proc/mounts; empty if that does not tell."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        parts = line.split(" ")
        if len(parts) >= 3:
            point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), parts[1])
            if (
                folder.is_relative_to(point) and len(point) >= best
            ):  # of two on one point, the later one hides the other
                best, kind = len(point), parts[2]
    return kind


def _statements() -> list[str]:
    out, part = [], ""
    for line in _SCHEMA.splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            out.append(part.strip())
            part = ""
    return out


@cache
def _expected() -> dict[str, str]:
    db = sqlite3.connect(":memory:")
    for statement in _statements():
        db.execute(statement)
    found = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
    db.close()
    return found
