"""Zip files that somebody else packed: read into memory within bounds, never unpacked to disk.

A zip may hold millions of members, a member that grows ten-thousandfold, names that climb out of a folder, or sizes that
are not what its directory says. Each is refused by name before or while it is read.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ..core.errors import MienError

MEMBERS, MEGABYTES, RATIO = 1000, 1024, 150
_SMALL = 1 << 20  # bytes below which a member may shrink as far as it likes: a short file of zeros is no bomb


def read_zip(
    file: Path, wanted: Iterable[str], *, members: int = MEMBERS, megabytes: float = MEGABYTES, ratio: float = RATIO
) -> dict[str, bytes]:
    """File name -> content, of the members called one of `wanted` in whatever folder of the zip (those that are there).

    members: how many the zip may hold; megabytes: what all of it may grow to; ratio: how far a member over a megabyte
    may have shrunk. What macOS adds is passed over. MienError in one line: damaged, a bomb, encrypted, a name that leads
    out of the zip, a link, two files of one name.
    """
    wanted, limit = set(wanted), int(megabytes * (1 << 20))
    try:
        with zipfile.ZipFile(file) as archive:
            inside = archive.infolist()
            if len(inside) > members:
                raise MienError(f"{file} holds {len(inside)} files, more than {members}: refused; is it the right zip?")
            if sum(i.file_size for i in inside) > limit:
                grown = sum(i.file_size for i in inside) / (1 << 20)
                raise MienError(
                    f"{file} would grow to {grown:,.0f} MB, over {megabytes:g}: refused as a decompression bomb"
                )
            found: dict[str, bytes] = {}
            for info in inside:
                path = PurePosixPath(info.filename.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
                    raise MienError(f"{file}: the name {info.filename!r} leads out of the zip; refused")
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise MienError(f"{file}: {info.filename!r} is a link; refused")
                if info.file_size > max(_SMALL, ratio * info.compress_size):
                    times = info.file_size / max(1, info.compress_size)
                    raise MienError(
                        f"{file}: {info.filename!r} would grow {times:,.0f}-fold: refused as a decompression bomb"
                    )
                hidden = any(p.startswith(".") or p == "__MACOSX" for p in path.parts)
                if info.is_dir() or hidden or path.name not in wanted:
                    continue
                if info.flag_bits & 1:
                    raise MienError(f"{file}: {info.filename!r} is encrypted; unpack it yourself")
                if path.name in found:
                    raise MienError(f"{file} holds two files called {path.name}; keep one")
                found[path.name] = _read(archive, info)
            return found
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, OSError) as error:
        raise MienError(
            f"{file}: truncated, damaged or no zip ({str(error) or 'it ends early'}); fetch it again"
        ) from None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """One member; never more of it than its directory said, whatever it holds (its checksum is then wrong)."""
    with archive.open(info) as member:
        content = member.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} is not as long as the zip says")
    return content
