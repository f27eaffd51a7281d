"""Zips that mean harm, or were cut off: refused by name, in little memory, with nothing written to disk."""

from __future__ import annotations

import io
import stat
import tracemalloc
import zipfile
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.data.archives import read_zip


def packed(file, members, *, method=zipfile.ZIP_DEFLATED, change=lambda z: None):
    with zipfile.ZipFile(file, "w", method) as z:
        for name, content in members:
            z.writestr(name, content)
        change(z)
    return file


def says(size):
    """The directory says so, whatever the member holds."""

    def change(z):
        z.filelist[0].file_size = size

    return change


def linked(file):
    with zipfile.ZipFile(file, "w") as z:
        info = zipfile.ZipInfo("ACC.csv")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        z.writestr(info, "/etc/passwd")
    return file


def encrypted(file):
    raw = bytearray(packed(file, [("ACC.csv", "1")]).read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + at] |= 1
    file.write_bytes(bytes(raw))
    return file


def flipped(file):
    raw = bytearray(packed(file, [("ACC.csv", "1234567890" * 50)], method=zipfile.ZIP_STORED).read_bytes())
    raw[60] ^= 1
    file.write_bytes(bytes(raw))
    return file


def cut(file):
    whole = packed(file, [("ACC.csv", bytes(range(256)) * 50)]).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    return file


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda f: packed(f, [("ACC.csv", b"1")], change=says(10 << 30)),
            "would grow to 10,240 MB, over 1024: refused",
        ),
        (lambda f: packed(f, [("ACC.csv", bytes(50 << 20))]), "-fold: refused as a decompression bomb"),
        (lambda f: packed(f, [("ACC.csv", bytes(50 << 20))], change=says(1000)), "damaged"),
        (lambda f: packed(f, [("ACC.csv", b"12")], change=says(99)), "damaged"),
        (lambda f: packed(f, [(f"{i}.csv", b"") for i in range(1001)]), "holds 1001 files, more than 1000"),
        (lambda f: packed(f, [("../ACC.csv", b"1")]), "'../ACC.csv' leads out of the zip"),
        (lambda f: packed(f, [("/tmp/ACC.csv", b"1")]), "leads out of the zip"),
        (lambda f: packed(f, [("C:/ACC.csv", b"1")]), "leads out of the zip"),
        (lambda f: packed(f, [("..\\ACC.csv", b"1")]), "leads out of the zip"),
        (lambda f: packed(f, [("a/ACC.csv", b"1"), ("b/ACC.csv", b"2")]), "two files called ACC.csv"),
        (linked, "is a link"),
        (encrypted, "is encrypted"),
        (flipped, "damaged"),
        (cut, "truncated"),
        (lambda f: f.write_bytes(b"") and f, "truncated, damaged or no zip"),
    ],
)
def test_what_is_refused(tmp_path, make, words):
    file = tmp_path / "x.zip"
    make(file)
    tracemalloc.start()
    with pytest.raises(MienError) as error:
        read_zip(file, ["ACC.csv"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)
    assert peak < 8 << 20
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]


def test_what_is_wanted_is_read_from_any_folder(tmp_path):
    members = [
        ("S2/ACC.csv", b"1\n2\n"), ("S2/", b""), ("__MACOSX/S2/._ACC.csv", b"junk"), ("__MACOSX/ACC.csv", b"junk"),
        ("other.csv", bytes(9)), ("TEMP.csv", bytes(900_000)),
    ]  # fmt: skip
    found = read_zip(packed(tmp_path / "x.zip", members), ["ACC.csv", "TEMP.csv", "EDA.csv"])
    assert found == {"ACC.csv": b"1\n2\n", "TEMP.csv": bytes(900_000)}


WHOLE = io.BytesIO()
with zipfile.ZipFile(WHOLE, "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr("ACC.csv", "1495437325.0\n32.0\n" + "1,2,3\n" * 200)
    z.writestr("TEMP.csv", "33.0\n" * 100)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(WHOLE.getvalue()) - 1), st.integers(1, 255), st.booleans())
def test_any_damage_is_one_plain_error_or_harmless(tmp_path, at, change, shorten):
    raw = bytearray(WHOLE.getvalue())
    if shorten:
        del raw[at:]
    else:
        raw[at] ^= change
    file = tmp_path / "x.zip"
    file.write_bytes(bytes(raw))
    found: dict[str, bytes] = {}
    with suppress(MienError):  # anything else is a failure
        found = read_zip(file, ["ACC.csv", "TEMP.csv"])
    whole = read_zip(packed_whole(tmp_path), ["ACC.csv", "TEMP.csv"])
    assert len(whole) == 2
    assert all(whole[k] == v for k, v in found.items())


def packed_whole(tmp_path):
    file = tmp_path / "whole.zip"
    file.write_bytes(WHOLE.getvalue())
    return file
