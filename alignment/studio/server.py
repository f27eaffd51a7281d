"""The studio's server: one page, and a handful of requests that each carry a rater's token.

It is meant for one study on one machine. Every request's Host (and Origin, where there is one) must be the server's own
name, so that no other page in the same browser can reach it; a token travels in a header only, never in an address, a
cookie or a log; bodies are small; answers are on disk before they are acknowledged.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import re
import signal
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import MienError
from ...core.records import Recording
from ..preferences import ASPECTS
from ..store import Advice, Answer, Pair, Refused, Store
from . import mended, plan, shown

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

HERE = Path(__file__).parent
BODY = 256 * 1024  # bytes of one form
KEPT = 96 * 1024 * 1024  # bytes of prepared recordings kept in memory
_SIDES = ("left", "right")
_CHOICES = {"left": "left", "right": "right", "tie": "tie", "both_bad": "both_bad"}


@dataclass(kw_only=True)
class Study:
    """What a studio shows. recording: id -> recording (also of control pairs); roles: role -> stream; gone: recordings that are
    not there any more; title, task: words for the raters; notice: one line about what they look at."""

    store: Store
    recording: Callable[[str], Recording]
    roles: Mapping[str, str] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    title: str = ""
    task: str = ""
    notice: str = ""

    @property
    def key(self) -> str:
        """Names cohort and model: a form of another study's page does not carry it."""
        return hashlib.sha256(f"{self.store.cohort} {self.store.model}".encode()).hexdigest()[:24]

    @property
    def about(self) -> dict[str, Any]:
        return {
            "study": self.key, "title": self.title, "task": self.task, "notice": self.notice, "aspects": list(ASPECTS),
            "ranges": {k: r._asdict() for k, r in shown.RANGES.items()},
        }  # fmt: skip


class Desk:
    """One rater's seat: what comes next, and what their forms mean. Every method may be called from any thread."""

    def __init__(self, study: Study, rater: str):
        self.study, self.rater, self._lock = study, rater, threading.RLock()
        self.order = plan.order(study.store.pairs(), rater, study.store.key)
        self.pairs = {p.id: (p, left) for p, left in self.order}
        self._read()

    def _read(self) -> None:
        self.done = {a.pair: (n, a) for n, _, a, _ in self.study.store.standing(self.rater)}
        self.last = max((n for n, _ in self.done.values()), default=None)

    def state(self, closed: frozenset[str]) -> dict[str, Any]:
        """How far the rater is, the next two pairs with the nonces of their forms, and the number of the last answer."""
        with self._lock:
            # a pair in which somebody is recognised is not asked for any more; answered, it stays answered
            shut = {p.id for p, _ in self.order if {_plain(p.a), _plain(p.b)} & closed} if closed else set()
            open_to = ((p, left) for p, left in self.order if p.id not in self.done and p.id not in shut)
            coming = [self._form(p, left) for p, left in islice(open_to, 2)]
            total = len(self.order) - len(shut - self.done.keys())
            return {"done": len(self.done), "total": total, "upcoming": coming, "last": self.last}

    def _form(self, p: Pair, left: str) -> dict[str, Any]:
        store = self.study.store
        told = [
            {"side": self._on(p, left, d.advice.recording), "kind": d.advice.kind, **d.advice.body}
            for d in store.advice(self.rater, p.id)
        ]
        return {
            "pair": p.id,
            "label": p.label,
            "nonce": self._nonce(p.id, store.tries(self.rater, p.id)),
            "advice": told,
        }

    @staticmethod
    def _on(p: Pair, left: str, recording: str) -> str:
        return "left" if (recording == p.a) == (left == "a") else "right"

    def _nonce(self, pair: str, n: int) -> str:
        """Of this rater's n-th form about a pair: nobody else can make it, and two windows get the same one."""
        said = f"{self.rater}\0{pair}\0{n}".encode()
        return hmac.new(self.study.store.key, said, hashlib.sha256).hexdigest()[:32]

    @property
    def seal(self) -> str:
        """What this rater's page in a file carries, and what comes back from it: nobody can make another rater's."""
        return hmac.new(self.study.store.key, f"page\0{self.rater}".encode(), hashlib.sha256).hexdigest()[:32]

    def recording(self, pair: str, side: str) -> str:
        """The id of what stands on one side of a pair."""
        p, left = self._pair(pair)
        if side not in _SIDES:
            raise Refused("side: left or right")
        return p.a if (side == "left") == (left == "a") else p.b

    def _pair(self, pair: Any) -> tuple[Pair, str]:
        found = self.pairs.get(pair) if isinstance(pair, str) else None
        if found is None:
            raise Refused("no such pair in this study")
        return found

    def answer(self, form: Mapping[str, Any], *, at: str = "", ours: bool = True) -> int:
        """Store a form of the page (choices by side). ours: the nonce must be one that this server made."""
        said = _fields(form, {"pair", "nonce", "choice"}, {"confidence", "aspects", "comment", "seconds"})
        p, left = self._pair(said["pair"])
        with self._lock:
            if ours:
                tries = self.study.store.tries(self.rater, p.id)
                mine = (self._nonce(p.id, n) for n in range(tries, -1, -1))
                if not any(
                    hmac.compare_digest(n.encode(), str(said["nonce"]).encode("utf-8", "replace")) for n in mine
                ):
                    raise Forged("this form was not made by this studio for this pair; reload the page")
            aspects = said.pop("aspects", {})
            if not isinstance(aspects, Mapping):
                raise Refused("aspects: a mapping")
            made = Answer(
                **{**said, "choice": _choice(said["choice"], left)}, side="a" if left == "a" else "b",
                aspects={k: _choice(v, left) for k, v in aspects.items()},
            )  # fmt: skip
            n = self.study.store.answer(self.rater, made, **self._mine, at=at)
            # it stands, unless the form is an old one sent again that was taken back or changed since
            if self.done.get(p.id, (0, None))[0] <= n and self.study.store.stands(n):
                self.done[p.id], self.last = (n, made), max(n, self.last or 0)
            return n

    def undo(self, answer: Any, *, at: str = "") -> dict[str, Any]:
        """Retract an answer, and say what it was (by side), for the rater to change it."""
        with self._lock:
            found = next((a for n, a in self.done.values() if n == answer), None)
            self.study.store.undo(self.rater, answer, at=at)
            self._read()
            if found is None:
                return {}
            _, left = self._pair(found.pair)
            said = {k: v for k, v in dataclasses.asdict(found).items() if k in ("pair", "confidence", "comment")}
            return said | {
                "choice": _choice(found.choice, left, back=True),
                "aspects": {k: _choice(v, left, back=True) for k, v in found.aspects.items()},
            }

    def advise(self, form: Mapping[str, Any], *, at: str = "") -> int:
        """Store a piece of advice about one side of a pair. Refused: a correction that cannot be made."""
        said = _fields(form, {"pair", "nonce", "side", "kind"}, {"body"})
        recording = self.recording(said["pair"], said["side"])
        if said["kind"] == "recognise" and recording.startswith(plan.BROKEN):
            recording = self._pair(said["pair"])[0].a
        advice = Advice(
            pair=said["pair"], nonce=said["nonce"], kind=said["kind"], body=said.get("body", {}), recording=recording
        )
        if advice.kind == "correction":
            study, body = self.study, advice.body
            try:
                source = study.recording(recording)
                mended.corrected(source, body["stream"], body["mark"], body["moves"], study.roles, "corrected")
            except Refused:
                raise
            except MienError as error:
                raise Refused(str(error)) from None
        return self.study.store.advise(self.rater, advice, **self._mine, at=at)

    def said(self) -> list[dict[str, Any]]:
        """The rater's own standing answers, by side."""
        with self._lock:
            out = []
            for _, a in sorted(self.done.values(), key=lambda x: x[0]):
                left = self.pairs[a.pair][1]
                row = {k: getattr(a, k) for k in ("pair", "nonce", "confidence", "comment", "seconds")}
                row |= {"choice": _choice(a.choice, left, back=True)}
                out.append(row | {"aspects": {k: _choice(v, left, back=True) for k, v in a.aspects.items()}})
            return out

    @property
    def _mine(self) -> dict[str, str]:
        return {"cohort": self.study.store.cohort, "model": self.study.store.model}


class Forged(Refused):
    """A form with a nonce that this server did not make."""


def _plain(recording: str) -> str:
    """The recording that a broken one was made of."""
    return recording.removeprefix(plan.BROKEN)


def _choice(said: Any, left: str, *, back: bool = False) -> Any:
    """left / right <-> A / B, given what stands on the left; other words stay (and are checked by `Answer`)."""
    there = {"left": "A", "right": "B"} if left == "a" else {"left": "B", "right": "A"}
    if back:
        return {v: k for k, v in there.items()}.get(said, said)
    if not isinstance(said, str) or said not in _CHOICES:
        raise Refused(f"choice: one of {', '.join(_CHOICES)}")
    return there.get(said, said)


def _fields(form: Any, needed: set[str], may: set[str]) -> dict[str, Any]:
    if not isinstance(form, Mapping) or not needed <= set(form) or not set(form) <= needed | may:
        raise Refused(f"a form has {', '.join(sorted(needed))}, and may have {', '.join(sorted(may))}")
    return dict(form)


class Studio:
    """Desks and prepared recordings, for the server's threads."""

    def __init__(self, study: Study, recognised: Callable[[], None] = lambda: None):
        self.study, self._recognised = study, recognised
        self._desks: dict[str, Desk] = {}
        self._ready: OrderedDict[str, bytes] = OrderedDict()
        self._lock, self._closed = threading.Lock(), study.store.blocked() | study.gone

    def desk(self, rater: str) -> Desk:
        with self._lock:
            if rater not in self._desks:
                self._desks[rater] = Desk(self.study, rater)
            return self._desks[rater]

    def state(self, rater: str) -> dict[str, Any]:
        return self.desk(rater).state(self._closed)

    def advise(self, rater: str, form: Mapping[str, Any]) -> None:
        self.desk(rater).advise(form)
        if form.get("kind") == "recognise":
            self._closed = self.study.store.blocked() | self.study.gone
            self._recognised()

    def ready(self, rater: str, pair: str, side: str) -> bytes:
        """What stands on one side, prepared for the page. Refused where somebody was recognised in it."""
        recording = self.desk(rater).recording(pair, side)
        if _plain(recording) in self._closed:
            raise Refused("this recording is not shown any more")
        with self._lock:
            if recording in self._ready:
                self._ready.move_to_end(recording)
                return self._ready[recording]
        made = shown.encode(shown.show(self.study.recording(recording), self.study.roles))
        with self._lock:
            self._ready[recording] = made
            while len(self._ready) > 2 and sum(map(len, self._ready.values())) > KEPT:
                self._ready.popitem(last=False)
        return made


# --- the page ------------------------------------------------------------------------------------------------
def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _parts() -> tuple[str, str, str]:
    html, css, js = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    return html, css, js


def policy(connect: str) -> str:
    """The page's Content-Security-Policy: its own style and script by their hashes, and nothing from anywhere else."""
    _, css, js = _parts()
    return (
        f"default-src 'none'; style-src 'sha256-{_hash(css)}'; script-src 'sha256-{_hash(js)}'; img-src data: blob:;"
        f" media-src blob:; connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def page(data: bytes = b"null") -> str:
    """The whole page. data: what `export.page` puts in for a page without a server, JSON in which no < stands."""
    html, css, js = _parts()
    meta = (
        ""
        if data == b"null"
        else f'<meta http-equiv="Content-Security-Policy" content="{policy(chr(39) + "none" + chr(39))}">'
    )
    # the data last: what stands in it could look like a mark
    for mark, text in (("<!--policy-->", meta), ("/*css*/", css), ("/*js*/", js), ("/*data*/", data.decode())):
        head, found, tail = html.partition(mark)
        assert found, mark
        html = head + text + tail
    return html


# --- HTTP ----------------------------------------------------------------------------------------------------
def app(study: Study, hosts: Sequence[str], recognised: Callable[[], None] = lambda: None) -> Starlette:
    """The ASGI application. hosts: the names (with port) under which it may be asked for; recognised: called after a rater
    recognised somebody."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    studio, allowed = Studio(study, recognised), {h.lower() for h in hosts}
    text = page().encode()
    common = {
        "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": policy("'self'") + "; frame-ancestors 'none'",
    }  # fmt: skip

    def no(status: int, why: str) -> Response:
        return JSONResponse({"error": why}, status, headers=common)

    def asked(call: Callable[[str, Request, Any], Any], *, form: bool = False) -> Callable[[Request], Any]:
        """Who asks, with what; a refusal is a status and a sentence."""

        async def handle(request: Request) -> Response:
            problem = _foreign(request, allowed)
            if problem:
                return no(403, problem)
            body: Any = None
            if form:
                raw = await _body(request)
                if raw is None:
                    return no(413, f"a form of more than {BODY // 1024} KiB")
                if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                    return no(415, "a form is application/json")
            rater = await run_in_threadpool(study.store.rater, request.headers.get("x-seat", ""))
            if rater is None:
                return no(401, "this link opens no seat (any more); ask for a new one")
            if form:
                try:
                    body = json.loads(raw or b"")
                except (ValueError, RecursionError):
                    return no(400, "a form is JSON")
                if not isinstance(body, dict) or body.pop("study", None) != study.key:
                    return no(409, "this form is about another cohort or another model; reload the page")
            try:
                made = await run_in_threadpool(call, rater, request, body)
            except Forged as error:
                return no(403, str(error))
            except Refused as error:
                return no(409, str(error))
            if isinstance(made, bytes):
                return Response(made, media_type="application/json", headers=common)
            return JSONResponse(made, headers=common)

        return handle

    def start(rater: str, request: Request, form: Any) -> Any:
        return {**study.about, "rater": rater, **studio.state(rater)}

    def recording(rater: str, request: Request, form: Any) -> bytes:
        return studio.ready(rater, request.path_params["pair"], request.path_params["side"])

    def answer(rater: str, request: Request, form: Any) -> Any:
        n = studio.desk(rater).answer(form)
        return {"stored": n, **studio.state(rater)}

    def undo(rater: str, request: Request, form: Any) -> Any:
        said = studio.desk(rater).undo(form.get("answer"))
        return {"undone": said, **studio.state(rater)}

    def advise(rater: str, request: Request, form: Any) -> Any:
        studio.advise(rater, form)
        return studio.state(rater)

    def mine(rater: str, request: Request, form: Any) -> Any:
        return {"answers": studio.desk(rater).said()}

    async def home(request: Request) -> Response:
        problem = _foreign(request, allowed)
        if problem:
            return no(403, problem)
        return Response(text, media_type="text/html; charset=utf-8", headers=common)

    return Starlette(
        routes=[
            Route("/", home),
            Route("/api/seat", asked(start)),
            Route("/api/recording/{pair}/{side}", asked(recording)),
            Route("/api/answer", asked(answer, form=True), methods=["POST"]),
            Route("/api/undo", asked(undo, form=True), methods=["POST"]),
            Route("/api/advice", asked(advise, form=True), methods=["POST"]),
            Route("/api/mine", asked(mine)),
        ]
    )


def _foreign(request: Request, allowed: set[str]) -> str | None:
    host, origin = request.headers.get("host", "").lower(), request.headers.get("origin")
    if host not in allowed:
        return "this studio is not served under that name"
    if origin is not None and re.sub(r"^https?://", "", origin.lower()) not in allowed:
        return "another page may not ask this studio"
    return None


async def _body(request: Request) -> bytes | None:
    """The request's body, or None as soon as it is larger than a form is."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY:
            return None
        parts.append(part)
    return b"".join(parts)


def names(host: str, port: int, more: Sequence[str] = ()) -> list[str]:
    """The names under which a server at host and port is asked for; more: of a proxy in front of it. MienError where nobody
    could ask for it: every address of a machine is no name of it."""
    everywhere = host in ("", "0", "0.0.0.0", "::")
    if everywhere and not more:
        raise MienError(
            f"host: {host or 'nothing'!r} stands for every address of this machine, and a link needs one: give the address that raters"
            " reach (host=192.168.1.20), or the name of the proxy in front (names='[studio.example.org]')"
        )
    here = everywhere or host in ("127.0.0.1", "localhost", "::1")
    own = ["127.0.0.1", "localhost", "[::1]"] if here else [f"[{host}]" if ":" in host else host]
    return [f"{h}:{port}" for h in own] + list(more)


def serve(
    study: Study, *, host: str, port: int, more: Sequence[str] = (), recognised: Callable[[], None] = lambda: None,
    ready: Callable[[int], None] = lambda port: None,
) -> None:  # fmt: skip
    """Serve until SIGINT or SIGTERM. port 0: a free one; ready: told the port before the first request is taken."""
    import uvicorn

    names(host, port, more)  # refused before anybody is let in
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(128)  # from here on, whoever is told of it gets in
        except OSError as error:
            raise MienError(
                f"cannot listen on {host} port {port} ({error.strerror}); choose another with port=N"
            ) from None
        port = listening.getsockname()[1]
        made = app(study, names(host, port, more), recognised)
        config = uvicorn.Config(
            made, log_level="error", access_log=False, server_header=False, date_header=False, lifespan="off", ws="none",
            timeout_graceful_shutdown=5,
        )  # fmt: skip

        class Server(uvicorn.Server):
            @contextmanager
            def capture_signals(
                self,
            ) -> Iterator[None]:  # the library's own raises the signal again once it has stopped
                with _told_to_stop(lambda: setattr(self, "should_exit", True)):
                    yield

        ready(port)
        Server(config).run(sockets=[listening])


@contextmanager
def _told_to_stop(stop: Callable[[], None]) -> Iterator[None]:
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.signal(s, lambda number, frame: stop()) for s in signals}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
