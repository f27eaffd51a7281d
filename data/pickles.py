"""Reading data sets that were published as pickles, without giving the pickle a chance to run anything.

A pickle is a program. Here it runs in a child process with bounded memory, processor time and output, under an
unpickler that knows five numpy names and nothing else; the child hands back plain numbers and text in an .npz that
the parent reads without unpickling. Two fences: the names, and the process.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..core.errors import MienError
from ..core.paths import cache_home

LENGTHS = ".lengths"
_REFUSED, _DAMAGED, _MEMORY = 3, 4, 5


def read_npy_dict(
    path: str | Path, *, memory_mb: int = 2048, seconds: float = 120, keys: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """A dict of arrays out of an object .npy, or out of a plain pickle.

    keys: hand back these only (those that are there); a dict inside the dict gives keys like "signal/wrist/EDA".

    Values may be arrays, numbers, text, lists of those, or lists (object arrays) of arrays of one dtype that differ
    in their first axis only; these come back as their concatenation under `key` and their lengths under
    `key.lengths`. No array in the result holds objects. memory_mb: what the child may take beyond an idle Python;
    seconds: of processor and of wall time. Raises MienError in one line: refused, damaged, too big or too slow.
    """
    path = Path(path)
    if not path.is_file():
        raise MienError(f"no such file: {path}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix=".unpickle-", dir=cache_home()) as staging:
        plain = Path(staging) / "plain.npz"
        command = [sys.executable, "-m", "mien.data.pickles", str(path.resolve()), str(plain)]
        command += [str(int(memory_mb)), str(max(1, round(seconds))), *keys]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=seconds, env=environment
            )
        except subprocess.TimeoutExpired:
            raise MienError(f"{path}: not unpickled within {seconds:g} s; give it more, or distrust it") from None
        if done.returncode:
            raise MienError(f"{path}: {_why(done, memory_mb, seconds)}")
        with np.load(plain, allow_pickle=False) as arrays:
            return {key: arrays[f"arr_{i}"] for i, key in enumerate(arrays["arr_0"].tolist(), 1)}


def split(arrays: dict[str, np.ndarray], key: str) -> list[np.ndarray]:
    """The list of arrays that `read_npy_dict` put end to end (views, no copies)."""
    return np.split(arrays[key], np.cumsum(arrays[key + LENGTHS])[:-1])


def _why(done: subprocess.CompletedProcess[str], memory_mb: int, seconds: float) -> str:
    said = (done.stderr.strip().splitlines() or [""])[-1][:200]
    if done.returncode == _REFUSED:
        return f"refused, and nothing in it was run: {said}; ask its owner for plain arrays (.npz)"
    if done.returncode == _DAMAGED:
        return f"truncated or damaged ({said}); fetch it again"
    if done.returncode == _MEMORY:
        return f"needs more than {memory_mb} MB to unpickle; give it more memory, or distrust it"
    if done.returncode < 0:
        return f"stopped by signal {-done.returncode} while unpickling (limits: {memory_mb} MB, {seconds:g} s)"
    return f"could not be unpickled ({said or f'exit code {done.returncode}'})"


# --- the child ------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """The pickle asks for something that plain data does not need."""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What Python 3 writes for bytes in old pickles; `_codecs.encode` itself would take any codec."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


def _scalar(dtype: np.dtype, raw: bytes = b"") -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise _Refused("a numpy scalar of objects")
    return np.frombuffer(raw, dtype=dtype, count=1)[0]


def _frombuffer(raw: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise _Refused("a numpy buffer of objects")
    return np.frombuffer(raw, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(subtype: type, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array for `__setstate__` to fill; subclasses of ndarray are never made."""
    if subtype is not np.ndarray:
        raise _Refused(f"an array of type {subtype!r}")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    # numpy 1 wrote numpy.core, numpy 2 writes numpy._core; both mean the same here
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    """Finds the names above and no others; knows no persistent ids."""

    def __init__(self, source: IO[bytes]):
        super().__init__(source, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"it asks for {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it asks for a persistent id")


def _limit(memory_mb: int, seconds: int) -> None:
    """Bound this process for good: address space, processor seconds, file size; no core file."""
    try:
        import resource
    except ImportError:
        raise _Refused("this system cannot limit a process, so no pickle is read here") from None
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory_mb << 20, memory_mb << 20))
    idle = 0
    with suppress(OSError, ValueError, IndexError):  # /proc: what the interpreter and numpy have mapped already
        idle = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with suppress(OSError, ValueError):  # macOS does not know this limit; the time limits hold there
        limit = idle + (memory_mb << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _unpickle(source: IO[bytes]) -> Any:
    """The one object in an open .npy or pickle file."""
    magic = source.read(6)
    source.seek(0)
    if magic == b"\x93NUMPY":
        version = np.lib.format.read_magic(source)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise _Refused(f"an .npy of version {version}")
        _, _, dtype = read[version](source)
        if dtype != np.dtype(object):
            raise _Refused(f"an .npy of plain {dtype}, no dict: read it with numpy.load")
    return _Unpickler(source).load()


def _plain(data: Any, keys: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The dict's values as arrays without objects."""
    if isinstance(data, np.ndarray) and data.shape == ():
        data = data.item()
    if not isinstance(data, dict):
        raise _Refused(f"it holds a {type(data).__name__}, not a dict")
    out: dict[str, np.ndarray] = {}
    for key, value in _leaves(data, ""):
        if keys and key not in keys:
            continue
        for name, array in _arrays(key, value).items():
            if name in out:
                raise _Refused(f"two entries are called {name!r}")
            out[name] = array
    return out


def _leaves(data: dict, prefix: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(path, value) of everything that is not a dict."""
    if depth > 8:
        raise _Refused("dicts nested deeper than eight")
    for key, value in data.items():
        if isinstance(key, bytes):
            key = key.decode("latin1")
        if not isinstance(key, str):
            raise _Refused(f"a key is a {type(key).__name__}, not text")
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}/", depth + 1)
        else:
            yield prefix + key, value


def _arrays(key: str, value: Any) -> dict[str, np.ndarray]:
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return {key: value}
    if isinstance(value, bool | int | float | str | np.generic):
        return {key: _uniform(key, [value])[0]}
    items = list(value) if isinstance(value, list | tuple) else None
    if isinstance(value, np.ndarray) and value.ndim == 1:
        items = value.tolist()
    if items is None:
        raise _Refused(f"{key!r} holds a {type(value).__name__}, which is neither array, number nor text")
    if items and all(isinstance(x, np.ndarray) for x in items):
        first = items[0]
        for x in items:
            if x.dtype != first.dtype or x.dtype.hasobject or x.ndim < 1 or x.shape[1:] != first.shape[1:]:
                raise _Refused(f"{key!r} holds arrays of different kinds, or of objects")
        lengths = np.array([len(x) for x in items], dtype=np.int64)
        return {key: np.concatenate(items), key + LENGTHS: lengths}
    return {key: _uniform(key, items)}


def _uniform(key: str, items: list[Any]) -> np.ndarray:
    """Numbers, or text, as one array."""
    texts = [x.decode("latin1") if isinstance(x, bytes) else x for x in items]
    if all(isinstance(x, str) for x in texts):
        return np.array([str(x) for x in texts])
    if all(isinstance(x, bool | int | float | np.number | np.bool_) for x in items):
        made = np.array(items)
        if not made.dtype.hasobject:
            return made
    raise _Refused(f"{key!r} holds a list of something other than numbers, text or arrays")


def _child(source: str, plain: str, memory_mb: str, seconds: str, *keys: str) -> int:
    try:
        warnings.simplefilter("ignore")
        _limit(int(memory_mb), int(seconds))
        with open(source, "rb") as opened:
            data = _plain(_unpickle(opened), keys)
        np.savez(plain, np.array(list(data), dtype=str), *data.values())  # arr_0: the keys
    except _Refused as error:
        return _say(_REFUSED, str(error))
    except MemoryError:
        return _MEMORY
    except RecursionError:
        return _say(_REFUSED, "nested too deeply")
    except OSError as error:  # a full disk, or more output than allowed
        return _say(1, str(error))
    except Exception as error:  # a broken pickle can raise nearly anything; all of it means "not readable"
        return _say(_DAMAGED, f"{type(error).__name__}: {error}")
    return 0


def _say(code: int, why: str) -> int:
    print(" ".join(why.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    raise SystemExit(_child(*sys.argv[1:]))
