"""Published pickles are read as data: whatever else they ask for is refused, and does not run."""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import pytest

from mien.core.errors import MienError
from mien.data import pickles


class Runs:
    """Unpickling one of these calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def ragged(*arrays):
    out = np.empty(len(arrays), dtype=object)
    out[:] = arrays
    return out


GOOD = {
    "X": [np.arange(6.0).reshape(3, 2), np.ones((5, 2))],
    "y": np.array([1, 2]),
    "names": ["left", "right"],
    "rate": 50.0,
    "side": np.float64(1.0),
    "mixed": (1, 2.5),
}


def save(path, data, protocol=None):
    if path.suffix == ".npy":
        np.save(path, np.array(data, dtype=object))
    else:
        path.write_bytes(pickle.dumps(data, protocol=protocol))
    return path


@pytest.mark.parametrize(("name", "protocol"), [("a.npy", None), ("a.pkl", 2), ("a.pkl", 4), ("a.pkl", 5)])
def test_a_good_file(home, name, protocol):
    got = pickles.read_npy_dict(save(home / name, GOOD, protocol))
    assert set(got) == {"X", "X.lengths", "y", "names", "rate", "side", "mixed"}
    assert not any(a.dtype.hasobject for a in got.values())
    assert got["X"].shape == (8, 2)
    assert [len(x) for x in pickles.split(got, "X")] == [3, 5]
    for back, original in zip(pickles.split(got, "X"), GOOD["X"], strict=True):
        np.testing.assert_array_equal(back, original)
    assert got["names"].tolist() == ["left", "right"]
    assert (got["rate"], got["side"]) == (50.0, 1.0)


def test_an_object_array_of_arrays_and_old_names(home):
    path = save(home / "a.pkl", {"X": ragged(np.zeros(2), np.ones(3)), "b": np.bytes_(b"x")}, 2)
    path.write_bytes(path.read_bytes().replace(b"numpy._core", b"numpy.core"))  # as numpy 1 wrote it
    got = pickles.read_npy_dict(path)
    assert got["X.lengths"].tolist() == [2, 3]
    assert list(home.rglob(".unpickle-*")) == []


@pytest.mark.parametrize("wrap", ["bare", "in a dict", "in an object array", "as a key's array"])
@pytest.mark.parametrize("suffix", [".npy", ".pkl"])
def test_a_hostile_pickle_runs_nothing(home, wrap, suffix):
    mark = home / "it-ran"
    bomb = Runs(os.system, f"touch {mark}")
    data = {
        "bare": bomb,
        "in a dict": {"X": [1, 2], "y": bomb},
        "in an object array": {"X": ragged(np.zeros(2), ragged(bomb))},
        "as a key's array": {"X": ragged(bomb)},
    }[wrap]
    path = save(home / f"a{suffix}", data)
    with pytest.raises(MienError, match=r"refused, and nothing in it was run: it asks for (posix|nt)\.system"):
        pickles.read_npy_dict(path)
    assert not mark.exists()


def test_the_hostile_pickle_is_really_hostile(home):
    mark = home / "it-ran"
    path = save(home / "a.pkl", Runs(os.system, f"touch {mark}"))
    pickle.loads(path.read_bytes())  # noqa: S301 – ours, to show that the refusals above refuse something
    assert mark.exists()


@pytest.mark.parametrize(
    "function",
    [eval, getattr, np.load, np.fromfile, np.memmap, pickle.loads, os.remove],
    ids=lambda f: f.__name__,
)
def test_other_names_are_refused(home, function):
    with pytest.raises(MienError, match="refused"):
        pickles.read_npy_dict(save(home / "a.pkl", {"x": Runs(function, "1")}))


def test_the_allowed_names_are_kept_narrow(home):
    import _codecs

    for bad in (Runs(_codecs.encode, b"x", "zlib_codec"), Runs(_codecs.encode, "x", "rot13")):
        with pytest.raises(MienError, match="refused"):
            pickles.read_npy_dict(save(home / "a.pkl", {"x": bad}))
    dotted = b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    (home / "b.pkl").write_bytes(dotted)
    with pytest.raises(MienError, match=r"numpy\.ndarray\.tofile"):
        pickles.read_npy_dict(home / "b.pkl")
    (home / "c.pkl").write_bytes(b"\x80\x02X\x01\x00\x00\x00aQ.")
    with pytest.raises(MienError, match="persistent id"):
        pickles.read_npy_dict(home / "c.pkl")


def test_what_is_no_plain_data_is_refused(home):
    for data in (
        [1, 2],
        {"x": {"y": {1: 2}}},
        {1: 2},
        {"x": [1, "a"]},
        {"x": [np.zeros((2, 3)), np.zeros((2, 4))]},
    ):
        with pytest.raises(MienError, match="refused"):
            pickles.read_npy_dict(save(home / "a.pkl", data))
    np.save(home / "plain.npy", np.zeros(3))
    with pytest.raises(MienError, match="numpy.load"):
        pickles.read_npy_dict(home / "plain.npy")


def test_truncated_and_missing_files(home):
    path = save(home / "a.npy", GOOD)
    whole = path.read_bytes()
    for part in (0, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:part])
        with pytest.raises(MienError, match="truncated or damaged"):
            pickles.read_npy_dict(path)
    with pytest.raises(MienError, match="no such file"):
        pickles.read_npy_dict(home / "absent.npy")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no memory limit on this system")
def test_too_much_memory(home):
    huge = b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x."  # says it holds a terabyte of bytes
    (home / "a.pkl").write_bytes(huge)
    with pytest.raises(MienError, match="truncated or damaged|needs more than 64 MB"):
        pickles.read_npy_dict(home / "a.pkl", memory_mb=64)
    many = Runs(np.ndarray, (1 << 27,), np.dtype("f8"))  # a gigabyte in a few bytes
    with pytest.raises(MienError, match="needs more than 64 MB"):
        pickles.read_npy_dict(save(home / "b.pkl", {"x": many}), memory_mb=64)


def test_too_slow(home):
    with pytest.raises(MienError, match="not unpickled within"):
        pickles.read_npy_dict(save(home / "a.npy", GOOD), seconds=0.01)
