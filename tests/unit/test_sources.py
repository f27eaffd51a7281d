"""What every reader does: items read side by side and handed over in order, sound and tables as their slow ways read them."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

from mien.core.errors import MienError
from mien.core.records import StreamSpec
from mien.data import sources

ANYHOW = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)


@given(st.lists(st.integers(0, 3), max_size=20), st.integers(1, 6))
@ANYHOW
def test_in_order_and_never_more_than_asked_at_once(cores, waits, at_once):
    lock, held, most = threading.Lock(), 0, 0

    def read(i):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        time.sleep(waits[i] / 2000)
        return i * i

    seen = []
    for i, made in sources.ahead("reading", range(len(waits)), read, at_once):
        seen.append((i, made))
        with lock:
            held -= 1  # what was handed over is given up when the next one is asked for
    assert seen == [(i, i * i) for i in range(len(waits))]
    assert most <= at_once


def test_two_are_read_side_by_side(cores):
    both = threading.Barrier(2, timeout=20)  # passed by nobody alone
    assert [made for _, made in sources.ahead("reading", range(4), lambda i: both.wait() >= 0, 2)] == [True] * 4


def test_an_error_comes_at_its_turn_and_ends_the_reading(cores):
    read, seen = [], []

    def one(i):
        read.append(i)
        if i == 3:
            raise MienError("the fourth is damaged")
        return i

    with pytest.raises(MienError, match="fourth"):
        for i, _ in sources.ahead("reading", range(100), one, 2):
            seen.append(i)
    assert seen == [0, 1, 2]
    assert len(read) <= 5
    assert not [t for t in threading.enumerate() if t.name.startswith("reader")]


def test_what_was_counted_side_by_side_is_told_in_order(capsys):
    left = sources.LeftOut()
    for name in ("a", "b"):
        own = sources.LeftOut()
        own.add("damaged", name)
        own.notes.append(f"of {name}")
        left.merge(own)
    left.tell()
    assert capsys.readouterr().out == "  of a\n  of b\n  left out: 2 damaged (such as a)\n"


# --- sound ---------------------------------------------------------------------------------------------------------
SPEC = StreamSpec(channels=("voice",), unit="full scale", rate_hz=8000.0, range=(-1.0, 1.0))


@given(samples=st.integers(2, 40), cut=st.integers(0, 100), tags=st.booleans(), eight_bit=st.booleans())
@ANYHOW
def test_sound_is_whole_or_cut_off_or_damaged(tmp_path, samples, cut, tags, eight_bit):
    file = tmp_path / "x.wav"
    values = np.arange(samples, dtype=np.uint8 if eight_bit else np.int16)
    wavfile.write(file, 8000, values)
    raw = file.read_bytes()
    if tags:
        raw = raw[:4] + (len(raw) + 2).to_bytes(4, "little") + raw[8:] + b"id3 \x02\0\0\0ab"
    kept = raw[: max(0, len(raw) - cut)]
    file.write_bytes(kept)
    found = sources.tried(file, SPEC)
    head = 44  # bytes before the samples
    if len(kept) >= head + values.nbytes:
        if isinstance(found, sources.Unreadable):
            assert tags  # cut within, they may be what is damaged
            assert 0 < cut < 10
        else:
            assert len(found.values) == samples
    else:
        assert isinstance(found, sources.Unreadable)
        assert str(found).startswith("cut off" if len(kept) > head else ("cut off", "damaged", "without a sample"))


def test_sound_read_side_by_side_is_judged_each_by_itself(tmp_path, cores):
    """What scipy warns of one file, it warned in whatever thread was listening."""
    files = []
    for i in range(60):
        file = tmp_path / f"{i}.wav"
        wavfile.write(file, 8000, np.arange(4000 + i, dtype=np.int16))
        if i % 3 == 0:
            file.write_bytes(file.read_bytes()[:-500])
        files.append(file)
    for i, (_, found) in enumerate(sources.ahead("reading", files, lambda f: sources.tried(f, SPEC), 8)):
        assert isinstance(found, sources.Unreadable) == (i % 3 == 0)


# --- tables --------------------------------------------------------------------------------------------------------
CELLS = st.sampled_from(["", " ", "1", " 2", "-3.5", "x y", "nan", "1e3", "\t", "é", '"', "a;b"])


@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=6),
    mark=st.sampled_from([",", ";", "\t"]),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
@ANYHOW
def test_plain_columns_are_the_columns(tmp_path, rows, mark, end, last):
    file = tmp_path / "x.csv"
    lines = [mark.join(["b", " a ", "c"]), *(mark.join(r) for r in rows)]
    file.write_text(end.join(lines) + (end if last else ""), encoding="utf-8", newline="")
    fast = sources.plain_columns(file, ("a", "b"))
    try:
        slow = list(sources.columns(file, ("a", "b")))
    except MienError:
        slow = None
    if fast is not None:
        assert slow == list(zip(*(c.to_pylist() for c in fast), strict=True))


@pytest.mark.parametrize(
    "text", ["", "a,b", "\n1,2\n", "a,a\n1,2\n", "a,c\n1,2\n", 'a,b\n"1",2\n', "a,b\n1\n", "a,b\né,1\n", "a,b\r1,2\r"]
)
def test_what_is_not_plain_is_left_to_the_careful_way(tmp_path: Path, text):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8", newline="")
    assert sources.plain_columns(tmp_path / "x.csv", ("a", "b")) is None
