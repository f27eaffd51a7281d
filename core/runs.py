"""Run folders: `runs/<verb>-<study>-<hash>/` with `config.yaml`, a `private/` half (0700) and a `release/` half.

The hash covers the resolved recipe, the code and the inputs' fingerprints, so the same question finds the same
answer again. Everything is written beside its place and renamed into it; a killed run is continued by running the
same command again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from . import config, console
from .errors import MienError
from .paths import runs_home

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = (
    "core",
    "data",
    "backbones",
    "privacy",
    "adapters",
    "generation",
    "alignment",
    "attacks",
    "evaluation",
    "recipes",
)


@cache
def code_version() -> str:
    """Package version and a digest of its sources: a changed line of code is another run."""
    from .. import __version__

    digest = hashlib.sha256()
    for package in _PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode())
            digest.update(file.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a whole file or nothing: beside its place, flushed to disk, renamed. Also from several threads at once. private: nobody
    but its owner may ever read it (mode 0600)."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with open(part, "w", encoding="utf-8", opener=_owners if private else None) as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _owners(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` (replacing it) when the block ends well, and vanishes otherwise."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


class Run:
    """One run folder, locked while open.

    Use `with Run.start(...) as run:`; inside, `run.private` and `run.release` are folders to write to, and
    `run.reused` says that a finished run of the same hash was found (then do nothing). Leaving the block without
    an exception marks it finished, with an error failed; stopped or killed it stays as running. The next start continues
    either.
    """

    def __init__(self, folder: Path, verb: str, study: str, digest: str, reused: bool, inputs: Mapping[str, str]):
        self.folder, self.verb, self.study, self.digest, self.reused = folder, verb, study, digest, reused
        self.inputs = dict(inputs)
        self._lock: Any = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def private(self) -> Path:
        return self.folder / "private"

    @property
    def release(self) -> Path:
        return self.folder / "release"

    @staticmethod
    def start(
        verb: str,
        study: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        *,
        fresh: bool = False,
        main: bool = True,
        wait: Any = None,
        again: str = "reused (--fresh reruns it)",
    ) -> Run:
        """Find or make the folder for this recipe and these inputs.

        inputs: name -> fingerprint of everything read (cohort, adapter run …). fresh: forget an earlier result.
        main / wait: under several processes only the main one writes; the others pass main=False and a barrier. again: what
        becomes of a run that is finished, in words.
        """
        asked = {
            "verb": verb,
            "study": study,
            "config": config,
            "inputs": dict(inputs),
            "code": code_version(),
        }
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
        folder = runs_home() / f"{verb}-{study}-{digest[:10]}"
        run = Run(folder, verb, study, digest, reused=False, inputs=inputs)
        if main:
            run._acquire()
            if fresh:
                for half in (run.private, run.release):
                    shutil.rmtree(half, ignore_errors=True)
                (folder / "status.json").unlink(missing_ok=True)
            status = run.status()
            if status == "finished":
                run.reused = True
                run._now()  # asked for last: what the next verb takes as the newest
                console.say(f"{run.name}: finished earlier with the same recipe, code and inputs; {again}")
            else:
                if status is not None:
                    console.say(f"{run.name}: continuing an unfinished run")
                run._layout(asked)
        if wait is not None:
            wait()
            run.reused = run.status() == "finished"
        return run

    def status(self) -> str | None:
        return status(self.folder)

    def _acquire(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / ".lock", "w")  # noqa: SIM115 - held for the run's whole life
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MienError(f"{self.folder} is being written by another process; wait for it, or stop it") from None

    def _layout(self, asked: Mapping[str, Any]) -> None:
        self.private.mkdir(mode=0o700, exist_ok=True)
        self.private.chmod(0o700)
        self.release.mkdir(exist_ok=True)
        for stale in [*self.folder.rglob(".*.partial"), *self.folder.rglob(".*.old")]:
            shutil.rmtree(stale, ignore_errors=True)
            stale.unlink(missing_ok=True)
        write_text(
            self.folder / "config.yaml",
            yaml.safe_dump(json.loads(json.dumps(asked, default=str)), sort_keys=False),
        )
        self._mark("running")

    def _mark(self, status: str) -> None:
        write_text(self.folder / "status.json", json.dumps({"status": status, "hash": self.digest}))
        self._now()

    def _now(self) -> None:
        # a file system stamps with the kernel's coarse clock, where two runs within some milliseconds tie
        now = time.time_ns()
        os.utime(self.folder / "status.json", ns=(now, now))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._lock is None:
            return
        try:
            if kind is None and not self.reused:
                self._mark("finished")
            elif isinstance(error, Exception) and not self.reused:  # not a stop (KeyboardInterrupt)
                with contextlib.suppress(OSError):  # a full disk: what went wrong is told, not this
                    self._mark("failed")
        finally:
            self._lock.close()
            self._lock = None


def find(reference: str | Path, verb: str, made_from: str = "", also: Collection[str] = ()) -> Path:
    """The folder of a finished run: a path, a run's name, or `<verb>-<study>` for its newest finished run.

    made_from: only runs that read the run of this hash; also: other verbs whose runs will do. Raises MienError with the
    command that makes one.
    """
    path = Path(reference)
    if (path / "status.json").exists():
        candidates = [path]
    else:
        home = runs_home()
        candidates = [
            p for p in home.glob(f"{path.name}*") if p.name == path.name or p.name.rpartition("-")[0] == path.name
        ]
    for found in candidates:
        about = _asked(found)
        if about and about["verb"] not in (verb, *also):
            raise MienError(
                f"{found.name} is a run of `mien {about['verb']}`, where one of `mien {verb}` is wanted"
                f"{''.join(f' (or of `mien {v}`)' for v in also)}: name one, or make one with {_how(verb, about['study'])}"
            )
    done = [p for p in candidates if status(p) == "finished"]
    if done and made_from:
        done = [p for p in done if made_from in asked(p)["inputs"].values()]
        if not done:
            raise MienError(
                f"no finished run {str(reference)!r} was made from run {made_from[:10]}; run `mien {verb}` for that"
                " adapter again, or name the runs that belong together"
            )
    if not done:
        found, study = "", re.sub("-[0-9a-f]{10}$", "", path.name.removeprefix(f"{verb}-"))
        if candidates:
            damaged = (candidates[0] / "status.json").exists() and not _head(candidates[0])
            found = f" (found {candidates[0].name}, whose status.json is damaged)" if damaged else ""
            found = found or f" (found only unfinished: {candidates[0].name})"
        raise MienError(
            f"no finished run {str(reference)!r} in {runs_home()}{found}; make one with {_how(verb, study)}, or name a run"
            " folder"
        )
    newest = max(done, key=lambda p: (p / "status.json").stat().st_mtime_ns)
    return newest.resolve()


def adapter(reference: str | Path) -> Path:
    """The folder of a finished run that a model is opened from: of adapt, or of align where it moved an adapter."""
    found = find(reference, "adapt", also=("align",))
    if not (found / "release" / "adapter").is_dir():
        raise MienError(
            f"{found.name} holds no adapter: `method: reward` makes a reward model alone. Name the run it was made from, or one"
            " of `method: dpo` or `ppo`"
        )
    return found


def _how(verb: str, study: str) -> str:
    """The command that makes a study's run, as the head of a shipped recipe says it."""
    for command, file in config.commands(verb):
        if re.search(rf"^study: {re.escape(study)}$", file.read_text(), re.M):
            return f"`{command}`"
    return f"`mien {verb}` and a recipe whose study is {study}"


def keyed(fingerprint: str) -> str:
    """A cohort's fingerprint under a key of these run folders (`.key`, mode 0600), for names and reports.

    The bare fingerprint of private recordings would let anybody who holds all of them but one person's find out whether
    that person is among them, by computing it both ways.
    """
    home = runs_home()
    home.mkdir(parents=True, exist_ok=True)
    file = home / ".key"
    with contextlib.suppress(FileExistsError):
        part = file.with_name(f".key.{os.getpid()}.partial")
        part.touch(mode=0o600)
        part.write_bytes(secrets.token_bytes(32))
        try:
            os.link(part, file)  # the first process's key stands
        finally:
            part.unlink()
    return hmac.new(file.read_bytes(), fingerprint.encode(), hashlib.sha256).hexdigest()


def by_hash(digest: str) -> Path:
    """The folder of the finished run with this hash. MienError when it is gone."""
    for folder in runs_home().glob(f"*-{digest[:10]}"):
        if _head(folder) == {"status": "finished", "hash": digest}:
            return folder.resolve()
    raise MienError(f"the run {digest[:10]} this was made from is no longer in {runs_home()}; make the chain again")


def _head(folder: Path) -> dict[str, str]:
    try:
        head = json.loads((Path(folder) / "status.json").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return head if isinstance(head, dict) else {}


def status(folder: Path) -> str | None:
    """ "running" (or stopped, or killed), "failed", "finished", or None where no run is."""
    return _head(folder).get("status")


def fingerprint(folder: Path) -> str:
    """The hash a run was made under; "" where no run is."""
    return _head(folder).get("hash", "")


def asked(folder: Path) -> dict[str, Any]:
    """What a run was asked: verb, study, config, inputs, code."""
    return yaml.safe_load((folder / "config.yaml").read_text())


def _asked(folder: Path) -> dict[str, Any]:
    """The same; {} where that cannot be read."""
    try:
        found = asked(folder)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) and {"verb", "study"} <= {*found} else {}
