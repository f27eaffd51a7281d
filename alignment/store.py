"""What raters answered, kept in one SQLite file that is only ever appended to.

One transaction per answer, flushed to disk before it is acknowledged. An answer carries a nonce: the same form sent twice
(a double click, a retry after the server was killed) is stored once, and the same nonce with other content is refused.
Undoing writes a retraction; triggers refuse any UPDATE or DELETE. What counts for a rater and a pair is the last answer
that was not retracted. Every row carries the fingerprints of the cohort and of the model that it is about, and whatever
comes from others is refused.

The file is personal data of the raters and belongs into a run's private half; it is readable by its owner only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from ..core.errors import MienError
from .preferences import ASPECTS, PSEUDONYM, RATER, Choice, Preference

FORMAT = 1
KINDS = ("pair", "repeat", "control")
ADVICE = ("rating", "region", "correction", "instruction", "recognise")
LONGEST = {"comment": 4000, "instruction": 500}
_NONCE = re.compile(r"[A-Za-z0-9_-]{8,64}")
_SCHEMA = """
CREATE TABLE studies (format INTEGER NOT NULL, cohort TEXT NOT NULL, model TEXT NOT NULL, key BLOB NOT NULL,
  at TEXT NOT NULL);
CREATE TABLE pairs (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, a TEXT NOT NULL, b TEXT NOT NULL,
  label TEXT NOT NULL, kind TEXT NOT NULL, again TEXT REFERENCES pairs (id), private INTEGER NOT NULL,
  cohort TEXT NOT NULL, model TEXT NOT NULL);
CREATE TABLE seats (n INTEGER PRIMARY KEY, rater TEXT NOT NULL UNIQUE, at TEXT NOT NULL);
CREATE TABLE tokens (n INTEGER PRIMARY KEY, seat INTEGER NOT NULL REFERENCES seats (n), hash BLOB NOT NULL UNIQUE,
  at TEXT NOT NULL);
CREATE TABLE answers (n INTEGER PRIMARY KEY AUTOINCREMENT, seat INTEGER NOT NULL REFERENCES seats (n),
  nonce TEXT NOT NULL, pair TEXT NOT NULL REFERENCES pairs (id), body TEXT NOT NULL, cohort TEXT NOT NULL,
  model TEXT NOT NULL, at TEXT NOT NULL, UNIQUE (seat, nonce));
CREATE INDEX by_pair ON answers (seat, pair);
CREATE TABLE retractions (answer INTEGER PRIMARY KEY REFERENCES answers (n), at TEXT NOT NULL);
CREATE TABLE advice (n INTEGER PRIMARY KEY AUTOINCREMENT, seat INTEGER NOT NULL REFERENCES seats (n),
  nonce TEXT NOT NULL, pair TEXT NOT NULL REFERENCES pairs (id), recording TEXT NOT NULL, kind TEXT NOT NULL,
  body TEXT NOT NULL, cohort TEXT NOT NULL, model TEXT NOT NULL, at TEXT NOT NULL, UNIQUE (seat, nonce));
""" + "".join(
    f"CREATE TRIGGER {table}_{what} BEFORE {what} ON {table}"
    f" BEGIN SELECT RAISE(ABORT, '{table} is only ever appended to'); END;\n"
    for table in ("studies", "pairs", "seats", "tokens", "answers", "retractions", "advice")
    for what in ("UPDATE", "DELETE")
)


class Refused(MienError):
    """A form that cannot be stored: nothing was changed, and what was stored before stays."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two recordings to compare. a, b: their ids; label: the class both were made for; kind: an ordinary pair, one shown
    again (`again`: which), or a control; private: answers to it tell something of recorded persons.

    Of a control whose answer is known, a is the one that is better.
    """

    id: str
    a: str
    b: str
    label: str = ""
    kind: Literal["pair", "repeat", "control"] = "pair"
    again: str | None = None
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one form says. nonce: of the form; choice, aspects: over a and b; side: which stood on the left."""

    pair: str
    nonce: str
    choice: Choice
    side: Literal["a", "b"] = "a"
    confidence: int = 3
    aspects: Mapping[str, Choice] = field(default_factory=dict)
    comment: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.choice not in get_args(Choice):
            raise Refused(f"choice: one of {', '.join(get_args(Choice))}, got {str(self.choice)[:20]!r}")
        _name(self.pair)
        if self.side not in ("a", "b"):
            raise Refused("side: a or b")
        if type(self.confidence) is not int or not 1 <= self.confidence <= 5:
            raise Refused(f"confidence: a whole number from 1 to 5, got {str(self.confidence)[:20]!r}")
        if not isinstance(self.aspects, Mapping):
            raise Refused("aspects: a mapping")
        for aspect, choice in self.aspects.items():
            if aspect not in ASPECTS or choice not in get_args(Choice):
                raise Refused(f"aspects: {', '.join(ASPECTS)}, each one of {', '.join(get_args(Choice))}")
        _text("comment", self.comment)
        if not _number(self.seconds) or not 0 <= self.seconds <= 1e6:
            raise Refused("seconds: between 0 and a million")


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What a rater said of one recording beyond comparing it. body, by kind: rating {value: 1 to 5}; region {stream,
    start, end [s]}; correction {stream, mark: beat | scr, moves: [[mark's number, to [s], rise to add [uS]], …]};
    instruction {text}; recognise {}."""

    pair: str
    recording: str
    nonce: str
    kind: str
    body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks = {
            "rating": {"value": _rating}, "region": {"stream": _name, "start": _second, "end": _second},
            "correction": {"stream": _name, "mark": _mark, "moves": _moves}, "instruction": {"text": _words},
            "recognise": {},
        }  # fmt: skip
        _name(self.pair)
        wanted = checks.get(self.kind) if isinstance(self.kind, str) else None
        if wanted is None:
            raise Refused(f"advice: one of {', '.join(ADVICE)}, got {str(self.kind)[:20]!r}")
        if not isinstance(self.body, Mapping) or set(self.body) != set(wanted):
            raise Refused(f"advice of kind {self.kind} says {', '.join(wanted) or 'nothing more'}")
        for key, check in wanted.items():
            check(self.body[key])
        if self.kind == "region" and not self.body["start"] < self.body["end"]:
            raise Refused("a region ends after it begins")


@dataclass(frozen=True, kw_only=True)
class Advised:
    """One stored piece of advice, with who gave it. n: its number in the store."""

    n: int
    rater: str
    advice: Advice
    at: str

    @property
    def of(self) -> str:
        """What a correction is called: by rater, recording and stream alone, for its number in the store is moved by what others
        say, and which side it is held out to follows from its name (`preferences.split`)."""
        said = json.dumps([self.rater, self.advice.recording, self.advice.body["stream"]])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


class Store:
    """One study's file. Every method may be called from any thread; one at a time writes.

    elsewhere: recordings of its cohort in which somebody was recognised in another study (nobody, until it is told).
    """

    elsewhere: frozenset[str] = frozenset()

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self.path, self._db, self._lock = Path(path), connection, threading.RLock()
        row = connection.execute("SELECT format, cohort, model, key FROM studies").fetchone()
        self.cohort, self.model, self.key = row[1], row[2], bytes(row[3])

    # --- opening ----------------------------------------------------------------------------------------
    @staticmethod
    def create(path: Path, *, cohort: str, model: str) -> Store:
        """Open the file, or make it. cohort, model: fingerprints of what is compared. MienError for a file about others."""
        path = Path(path)
        if not path.exists():
            part = path.with_name(f".{path.name}.{os.getpid()}.partial")
            part.unlink(missing_ok=True)
            os.close(os.open(part, os.O_CREAT | os.O_EXCL, 0o600))
            db = sqlite3.connect(part, isolation_level=None)
            db.executescript(_SCHEMA)
            db.execute(
                "INSERT INTO studies VALUES (?, ?, ?, ?, ?)", (FORMAT, cohort, model, secrets.token_bytes(32), _now())
            )
            db.close()
            os.replace(part, path)  # the file appears with its study in it, or not at all
        store = Store.open(path)
        if (store.cohort, store.model) != (cohort, model):
            raise MienError(
                f"{path} holds answers about another cohort or model ({store.cohort[:10]}, {store.model[:10]}); give this"
                " one a study of its own"
            )
        return store

    @staticmethod
    def open(path: Path) -> Store:
        """Open a file that exists. MienError for one that is none, or of another format."""
        if not Path(path).is_file():
            raise MienError(f"no answers at {path}; `mien feedback` makes them")
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        try:
            (found,) = db.execute("SELECT format FROM studies").fetchone()
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")  # an acknowledged answer survives a power cut too
            db.execute("PRAGMA foreign_keys = ON")
        except (sqlite3.DatabaseError, TypeError) as error:
            db.close()
            raise MienError(f"{path} is no file of answers ({error}); restore it from a copy") from None
        if found != FORMAT:
            db.close()
            raise MienError(f"{path} has format {found}; this Mien reads {FORMAT}")
        return Store(path, db)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is stored inside is stored whole, or not at all."""
        with self._writing():
            yield

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._db.in_transaction:  # of `together`, by this thread
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # --- pairs and seats --------------------------------------------------------------------------------
    def add(self, pairs: Iterable[Pair], *, cohort: str, model: str) -> None:
        """All of them or none. MienError for a pair of another cohort or model, of a recording with itself, or whose id
        stands for another pair already; the same pair again is no error."""
        self._mine(cohort, model)
        known = {p.id: p for p in self.pairs()}
        with self._writing() as db:
            for p in pairs:
                if p.kind not in KINDS or p.a == p.b or (p.kind == "repeat") != (p.again is not None):
                    raise Refused(f"pair {p.id}: two different recordings, and `again` for one shown again")
                if known.setdefault(p.id, p) != p:
                    raise Refused(f"pair {p.id} is another pair already")
                values = (p.id, p.a, p.b, p.label, p.kind, p.again, p.private, cohort, model)
                db.execute(
                    "INSERT OR IGNORE INTO pairs (id, a, b, label, kind, again, private, cohort, model)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    values,
                )

    def pairs(self) -> list[Pair]:
        """In the order they were added."""
        rows = self._read("SELECT id, a, b, label, kind, again, private FROM pairs ORDER BY n")
        return [Pair(id=r[0], a=r[1], b=r[2], label=r[3], kind=r[4], again=r[5], private=bool(r[6])) for r in rows]

    def seat(self, rater: str, *, anew: bool = False, told: bool = True) -> str | None:
        """Give a rater (a pseudonym) a seat. Returns the token that opens it, which is stored hashed and never told again;
        None where the rater has one already. anew: a new token, and the old one opens nothing any more; told: whether anybody
        is to be told one now (else the first call that tells makes it)."""
        if not RATER.fullmatch(rater):
            raise MienError(f"rater {rater[:50]!r}: {PSEUDONYM}")
        token = secrets.token_urlsafe(32)
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO seats (rater, at) VALUES (?, ?)", (rater, _now()))
            (seat,) = db.execute("SELECT n FROM seats WHERE rater = ?", (rater,)).fetchone()
            known = db.execute("SELECT 1 FROM tokens WHERE seat = ?", (seat,)).fetchone()
            if not told or (known and not anew):
                return None
            db.execute("INSERT INTO tokens (seat, hash, at) VALUES (?, ?, ?)", (seat, _hash(token), _now()))
        return token

    def rater(self, token: str) -> str | None:
        """Whose seat a token opens; None for a token that opens none (any more)."""
        rows = self._read(
            "SELECT s.rater, t.n = (SELECT max(n) FROM tokens WHERE seat = s.n) FROM tokens t JOIN seats s ON s.n = t.seat"
            " WHERE t.hash = ?",
            _hash(token),
        )
        return rows[0][0] if rows and rows[0][1] else None

    def raters(self) -> list[str]:
        return [r for (r,) in self._read("SELECT rater FROM seats ORDER BY n")]

    # --- answers ----------------------------------------------------------------------------------------
    def answer(self, rater: str, said: Answer, *, cohort: str, model: str, at: str = "") -> int:
        """Store one form; returns its number, the same one however often it is sent. Refused: an unknown rater or pair,
        another cohort or model, a nonce that stands for another form."""
        self._mine(cohort, model)
        body = dataclasses.asdict(said) | {"aspects": dict(sorted(said.aspects.items()))}
        values = (said.pair, json.dumps({k: body[k] for k in sorted(body) if k not in ("pair", "nonce")}))
        return self._append("answers", ("pair", "body"), rater, said.nonce, values, at)

    def undo(self, rater: str, answer: int, *, at: str = "") -> None:
        """Retract one's own answer; again is no error. Refused: what is no answer of this rater."""
        if type(answer) is not int or not 0 < answer < 2**62:
            raise Refused("undo: an answer's number")
        with self._writing() as db:
            seat = self._seat(db, rater)
            if not db.execute("SELECT 1 FROM answers WHERE n = ? AND seat = ?", (answer, seat)).fetchone():
                raise Refused("this is no answer of yours")
            db.execute("INSERT OR IGNORE INTO retractions VALUES (?, ?)", (answer, at or _now()))

    def standing(self, rater: str | None = None) -> list[tuple[int, str, Answer, str]]:
        """(number, rater, answer, at): the last answer not retracted of each rater and pair, in order of time."""
        rows = self._read(
            "SELECT a.n, s.rater, a.pair, a.nonce, a.body, a.at FROM answers a JOIN seats s ON s.n = a.seat WHERE a.n IN"
            " (SELECT max(n) FROM answers WHERE n NOT IN (SELECT answer FROM retractions) GROUP BY seat, pair)"
            " AND (?1 IS NULL OR s.rater = ?1) ORDER BY a.n",
            rater,
        )
        return [
            (n, who, Answer(pair=pair, nonce=nonce, **json.loads(body)), at) for n, who, pair, nonce, body, at in rows
        ]

    def tries(self, rater: str, pair: str) -> int:
        """How many answers, standing or not, a rater gave to a pair."""
        sql = "SELECT count(*) FROM answers WHERE pair = ? AND seat = (SELECT n FROM seats WHERE rater = ?)"
        return int(self._read(sql, pair, rater)[0][0])

    def times(self, rater: str, pair: str) -> list[str]:
        """When a rater answered a pair, and when they took an answer back."""
        sql = (
            "WITH mine AS (SELECT n, at FROM answers WHERE pair = ?1 AND seat = (SELECT n FROM seats WHERE rater = ?2))"
            " SELECT at FROM mine UNION SELECT r.at FROM retractions r JOIN mine ON mine.n = r.answer"
        )
        return [at for (at,) in self._read(sql, pair, rater)]

    def stands(self, answer: int) -> bool:
        """Whether an answer is there and was not retracted (another may have followed)."""
        sql = "SELECT 1 FROM answers WHERE n = ?1 AND NOT EXISTS (SELECT 1 FROM retractions WHERE answer = ?1)"
        return bool(self._read(sql, answer))

    def number(self, rater: str, nonce: str) -> int | None:
        """The number of a rater's answer by its form's nonce; None where there is none."""
        sql = "SELECT n FROM answers WHERE nonce = ? AND seat = (SELECT n FROM seats WHERE rater = ?)"
        rows = self._read(sql, nonce, rater)
        return rows[0][0] if rows else None

    # --- advice -----------------------------------------------------------------------------------------
    def advise(self, rater: str, said: Advice, *, cohort: str, model: str, at: str = "") -> int:
        """Store one piece of advice; returns its number. Refused as answers are, and for a recording that the pair lacks."""
        self._mine(cohort, model)
        with self._lock:
            found = self._read("SELECT a, b FROM pairs WHERE id = ?", said.pair)
            if not found or said.recording not in found[0]:
                raise Refused("this recording is none of the pair's")
            body = json.dumps(dict(said.body), sort_keys=True)
            values = (said.pair, said.recording, said.kind, body)
            return self._append("advice", ("pair", "recording", "kind", "body"), rater, said.nonce, values, at)

    def advice(self, rater: str | None = None, pair: str | None = None) -> list[Advised]:
        """All of it, or one rater's, or about one pair, in order of time."""
        rows = self._read(
            "SELECT d.n, s.rater, d.pair, d.recording, d.nonce, d.kind, d.body, d.at FROM advice d"
            " JOIN seats s ON s.n = d.seat WHERE (?1 IS NULL OR s.rater = ?1) AND (?2 IS NULL OR d.pair = ?2) ORDER BY d.n",
            rater,
            pair,
        )
        return [
            Advised(n=r[0], rater=r[1], at=r[7],
                    advice=Advice(pair=r[2], recording=r[3], nonce=r[4], kind=r[5], body=json.loads(r[6])))
            for r in rows
        ]  # fmt: skip

    def blocked(self) -> frozenset[str]:
        """Recordings in which a rater recognised somebody, here or elsewhere: shown to nobody any more."""
        found = self._read("SELECT DISTINCT recording FROM advice WHERE kind = 'recognise'")
        return self.elsewhere.union(r for (r,) in found)

    # --- what follows -----------------------------------------------------------------------------------
    def preferences(self, *, blocked: bool = False) -> list[Preference]:
        """The standing answers, and each rater's last correction of a recording as one over the original (`corrected-…`,
        `Advised.of`).

        A pair shown again has the first one's id. blocked: with the answers about recordings that were recognised; the
        rater who recognised says so in theirs. Without, they are left out, for nobody should learn from them.
        """
        pairs, out = {p.id: p for p in self.pairs()}, self.blocked()
        advice = self.advice()
        recognised = {(d.rater, d.advice.pair): d.advice.recording for d in advice if d.advice.kind == "recognise"}
        common: dict[str, Any] = {"cohort": self.cohort, "model": self.model}
        found = []
        for _, rater, said, at in self.standing():
            p, seen = pairs[said.pair], recognised.get((rater, said.pair))
            if blocked or not {p.a, p.b} & out:
                found.append(
                    Preference(
                        pair=p.again or p.id, a=p.a, b=p.b, rater=rater, choice=said.choice, label=p.label, side=said.side,
                        confidence=said.confidence, aspects=said.aspects, comment=said.comment, kind=p.kind,
                        recognised=seen, private=p.private or seen is not None, seconds=said.seconds, at=at, **common,
                    )
                )  # fmt: skip
        for d in self.corrections():
            p = pairs[d.advice.pair]
            if blocked or d.advice.recording not in out:
                found.append(
                    Preference(
                        pair=f"correction-{d.of}", a=f"corrected-{d.of}", b=d.advice.recording, rater=d.rater, choice="A",
                        label=p.label, kind="correction", private=p.private, at=d.at, **common,
                    )
                )  # fmt: skip
        return found

    def corrections(self) -> list[Advised]:
        """Of each rater, recording and stream the last correction; one without moves takes the earlier ones back. Of control
        pairs none: a real recording is no sample, however it was changed, and one in pieces is to be believed by nobody. Nor
        of a pair whose answer was undone: the page shows the correction, and another answer lets it stand again."""
        controls, undone = {p.id for p in self.pairs() if p.kind == "control"}, self._undone()
        last: dict[tuple[str, str, str], Advised] = {}
        for d in self.advice():
            stands = d.advice.pair not in controls and (d.rater, d.advice.pair) not in undone
            if d.advice.kind == "correction" and stands:
                last[d.rater, d.advice.recording, d.advice.body["stream"]] = d
        return [d for d in last.values() if d.advice.body["moves"]]

    def told(self) -> list[Advised]:
        """The advice that stands, in order of time: of each rater, pair and recording the last rating, all regions and
        instructions, and `corrections`. None of control pairs, of undone answers, or of whom somebody recognised."""
        controls, undone, out = {p.id for p in self.pairs() if p.kind == "control"}, self._undone(), self.blocked()
        kept: dict[Any, Advised] = {d.n: d for d in self.corrections()}
        for d in self.advice():
            pair, recording, kind = d.advice.pair, d.advice.recording, d.advice.kind
            if kind in ("rating", "region", "instruction") and pair not in controls and (d.rater, pair) not in undone:
                kept[(d.rater, pair, recording) if kind == "rating" else d.n] = d
        return sorted((d for d in kept.values() if d.advice.recording not in out), key=lambda d: d.n)

    def _undone(self) -> set[tuple[str, str]]:
        """(rater, pair) that were answered, and of which no answer stands."""
        said = self._read("SELECT DISTINCT s.rater, a.pair FROM answers a JOIN seats s ON s.n = a.seat")
        return {(rater, pair) for rater, pair in said} - {(rater, a.pair) for _, rater, a, _ in self.standing()}

    def counts(self) -> dict[str, int]:
        """Numbers without anybody in them."""
        said = self.preferences(blocked=True)
        found = {"raters": len(self.raters()), "pairs": len(self.pairs()), "answers": len(self.standing())}
        found |= {f"answered {c}": sum(p.choice == c for p in said if p.kind != "correction") for c in get_args(Choice)}
        found |= {f"answers to a {k}": sum(p.kind == k for p in said) for k in ("repeat", "control")}
        (found["retracted"],) = self._read("SELECT count(*) FROM retractions")[0]
        found |= {f"advice: {k}": sum(d.advice.kind == k for d in self.advice()) for k in ADVICE}
        return found | {"recordings recognised": len(self.blocked())}

    def fingerprint(self) -> str:
        """Of all that was said so far: another answer is another fingerprint."""
        digest = hashlib.sha256(f"{self.cohort} {self.model}".encode())
        for table in ("answers", "retractions", "advice"):
            digest.update(json.dumps(self._read(f"SELECT * FROM {table} ORDER BY 1")).encode())
        return digest.hexdigest()

    def copy(self, path: Path) -> None:
        """A whole copy of the file as it is now, for a run that continues this one."""
        part = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.partial")
        os.close(os.open(part, os.O_CREAT | os.O_TRUNC, 0o600))
        with self._lock:
            to = sqlite3.connect(part)
            self._db.backup(to)
            to.close()
        os.replace(part, path)

    # --- inside -----------------------------------------------------------------------------------------
    def _mine(self, cohort: str, model: str) -> None:
        if (cohort, model) != (self.cohort, self.model):
            raise Refused(
                "this is about recordings of another cohort or another model; open the study's own page again"
            )

    @staticmethod
    def _seat(db: sqlite3.Connection, rater: str) -> int:
        found = db.execute("SELECT n FROM seats WHERE rater = ?", (rater,)).fetchone()
        if found is None:
            raise Refused(f"no rater {rater[:50]!r} has a seat in this study")
        return found[0]

    def _append(
        self, table: str, columns: Sequence[str], rater: str, nonce: str, values: tuple[str, ...], at: str
    ) -> int:
        if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
            raise Refused("nonce: 8 to 64 letters, digits, _ or -")
        names = ", ".join(columns)
        with self._writing() as db:
            seat = self._seat(db, rater)
            old = db.execute(f"SELECT n, {names} FROM {table} WHERE seat = ? AND nonce = ?", (seat, nonce)).fetchone()
            if old is not None:
                if old[1:] != values:
                    raise Refused("this form was sent before, and said something else; what was stored first stands")
                return old[0]
            if not db.execute("SELECT 1 FROM pairs WHERE id = ?", (values[0],)).fetchone():
                raise Refused("no such pair in this study")
            marks = ", ".join("?" * len(columns))
            done = db.execute(
                f"INSERT INTO {table} (seat, nonce, cohort, model, at, {names}) VALUES (?, ?, ?, ?, ?, {marks})",
                (seat, nonce, self.cohort, self.model, at or _now(), *values),
            )
            return int(done.lastrowid or 0)


def _hash(token: str) -> bytes:
    """Tokens are 256 random bits, so that a plain hash is enough: there is nothing to guess."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _text(what: str, text: Any) -> None:
    if not isinstance(text, str) or len(text) > LONGEST[what] or "\0" in text:
        raise Refused(f"{what}: text of at most {LONGEST[what]} characters")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Refused(f"{what}: half a character is no text") from None


def _words(text: Any) -> None:
    _text("instruction", text)
    if not text.strip():
        raise Refused("an instruction says something")


def _number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e300  # neither NaN nor infinite


def _rating(value: Any) -> None:
    if type(value) is not int or not 1 <= value <= 5:
        raise Refused("a rating is a whole number from 1 to 5")


def _name(name: Any) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable():
        raise Refused("pair, stream: the name of one")


def _second(t: Any) -> None:
    if not _number(t) or not 0 <= t <= 1e8:
        raise Refused("start and end are seconds from the recording's beginning")


def _mark(mark: Any) -> None:
    if mark not in ("beat", "scr"):
        raise Refused("mark: beat or scr")


def _moves(moves: Any) -> None:
    fine = isinstance(moves, list | tuple) and len(moves) <= 2000
    fine = fine and all(isinstance(m, list | tuple) and len(m) == 3 and all(map(_number, m)) for m in moves)
    if not fine or len({m[0] for m in moves}) != len(moves) or any(m[0] != int(m[0]) or m[0] < 0 for m in moves):
        raise Refused("moves: up to 2000 times [a mark's number, where to (s), what to add to its height]")
