"""Sound, call logs and transcripts in a folder of one's own; and what a new user's tables have wrong."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.io import wavfile

from mien.core.errors import MienError
from mien.core.records import Events, Recording, Signal, Text
from mien.data import check
from mien.data.datasets import folder

VOICE = {"channels": ["voice"], "unit": "full scale", "rate_hz": 16000, "range": [-1, 1]}
EDA = {"channels": ["eda"], "unit": "uS", "rate_hz": 4, "range": [0, 60]}
CALLS = {"kind": "events", "channels": ["in", "out", "missed"]}
WORDS = {"kind": "text", "channels": ["patient", "nurse"]}
ROW = {"recording": "r1", "person": "p1", "mood": "low"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8-sig") as f:
        out = csv.DictWriter(f, list(dict.fromkeys(k for r in rows for k in r)))
        out.writeheader()
        out.writerows(rows)


def study(root: Path, streams: dict[str, Any], **row: Any) -> Path:
    root.mkdir(exist_ok=True)
    spec = {
        "name": "ward", "licence": "internal", "consent": {"basis": "form", "purposes": ["training"]},
        "tasks": {"mood": ["low", "high"]}, "streams": streams, "recordings": "recordings.csv",
    }  # fmt: skip
    (root / "cohort.yaml").write_text(yaml.safe_dump(spec))
    table(root / "recordings.csv", [{**ROW, **row}])
    return root


def load(root: Path) -> Recording:
    return folder.load(folder.Config(root=str(root)))[0]


def fault(root: Path) -> str:
    """What `load` refuses a folder for; the check says the same."""
    with pytest.raises(MienError) as refused:
        load(root)
    found = [f for f in check.check(root) if f.level == "error"]
    assert found
    assert all(" ".join(x.split()) in str(refused.value) for x in (found[0].where, found[0].problem))
    return str(refused.value)


def tone(rate: int, seconds: float = 2.0, hz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_a_wav_file_is_heard_at_the_declared_rate(tmp_path: Path, rate: int):
    root = study(tmp_path / "s", {"voice": VOICE}, file="a.WAV")
    stereo = np.stack([tone(rate), tone(rate)], 1)
    wavfile.write(root / "a.WAV", rate, np.rint(stereo * 32767).astype(np.int16))
    heard = load(root).streams["voice"]
    assert isinstance(heard, Signal)
    assert (heard.values.shape, heard.rate_hz) == ((32000, 1), 16000)
    middle = slice(2000, 30000)  # the filter's edges apart
    assert np.abs(heard.values[middle, 0] - tone(16000)[middle]).max() < 2e-3


def test_silence_is_taken_and_told(tmp_path: Path):
    root = study(tmp_path / "s", {"voice": VOICE}, file_voice="a.wav")
    wavfile.write(root / "a.wav", 16000, np.zeros(64000, np.int16))
    assert load(root).seconds == 4
    assert any(f.level == "warning" and "constant" in f.problem for f in check.check(root))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"ID3\x04 this is an mp3", "damaged or not wav"),
        (b"", "damaged or not wav"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("cut", "cut off before their end"),
        ("nan", "not numbers"),
    ],
)
def test_what_is_no_sound_is_refused_by_name(tmp_path: Path, content: bytes | str, said: str):
    root = study(tmp_path / "s", {"voice": VOICE}, file_voice="d_voice.wav")
    file = root / "d_voice.wav"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "nan":
        wavfile.write(file, 16000, np.full(16000, np.nan, np.float32))
    else:
        wavfile.write(file, 16000, np.rint(tone(16000) * 32767).astype(np.int16))
        file.write_bytes(file.read_bytes()[:20000])
    text = fault(root)
    assert "d_voice.wav (recording 'r1')" in text
    assert said in text


def test_a_sound_begins_when_the_table_says(tmp_path: Path):
    root = study(tmp_path / "s", {"voice": VOICE, "eda": EDA}, file_voice="a.wav", file_eda="e.csv", time_voice=102.5)
    wavfile.write(root / "a.wav", 16000, tone(16000).astype(np.float32))
    table(root / "e.csv", [{"time": 100 + i / 4, "eda": 2 + i / 100} for i in range(40)])
    made = load(root).streams
    assert (made["eda"].offset_s, made["voice"].offset_s) == (0.0, 2.5)
    study(root, {"voice": VOICE, "eda": EDA}, file_voice="a.wav", file_eda="e.csv")
    assert "time_voice" in fault(root)  # and is not guessed


def test_a_call_log_and_a_transcript(tmp_path: Path):
    root = study(tmp_path / "s", {"calls": CALLS, "said": WORDS}, file_calls="c.csv", file_said="t.csv", seconds=60)
    table(
        root / "c.csv",
        [
            {"time": 30, "kind": "out", "duration": 12, "party": "+49 170 555"},
            {"time": 3, "kind": "missed", "duration": "", "party": ""},
            {"time": 5, "kind": "in", "duration": 0.5, "party": "Dr X"},
            {"time": 40, "kind": "in", "duration": 2, "party": "+49 170 555"},
        ],
    )
    table(
        root / "t.csv",
        [
            {"time": 1, "end": 2, "speaker": "nurse", "text": "Wie geht’s, Frau Ä 日本 🙂?"},
            {"time": 3, "end": "", "speaker": "patient", "text": "gut,\n„danke“"},
            {"time": 4, "end": 5, "speaker": "patient", "text": ""},
        ],
    )
    made = load(root).streams
    calls, said = made["calls"], made["said"]
    assert isinstance(calls, Events)
    assert isinstance(said, Text)
    assert calls.party is not None
    assert calls.times_s.tolist() == [3, 5, 30, 40]
    assert calls.durations_s.tolist() == [0, 0.5, 12, 2]
    assert [calls.kinds[c] for c in calls.codes] == ["missed", "in", "out", "in"]
    assert calls.party.tolist() == [-1, 0, 1, 1]  # numbered as they appear; no number, no name
    assert calls.seconds == 60
    assert said.text == ("Wie geht’s, Frau Ä 日本 🙂?", "gut,\n„danke“")
    assert said.speakers == ("nurse", "patient")
    assert said.ends_s.tolist() == [2, 3]
    # nothing of whom the calls were with is in the cache
    cache = b"".join(f.read_bytes() for f in (tmp_path / "cache").rglob("*") if f.is_file())
    assert b"gut" in cache
    assert not {x for x in (b"555", b"Dr X") if x in cache}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"time": 3, "kind": "in", "duration": -4}, "c.csv, line 2 (recording 'r1'): duration -4 s"),
        ({"time": 3, "kind": "mised", "duration": 4}, "did you mean 'missed'"),
        ({"time": "3,5", "kind": "in", "duration": 4}, "time '3,5' is no number"),
        ({"time": 3, "kind": "in", "duration": "nan"}, "duration 'nan' is no number"),
        ({"time": 61, "kind": "in", "duration": 4}, "outside the recording, which lasts 60 s"),
        ({"time": -1, "kind": "in", "duration": 4}, "outside the recording"),
        ({"time": 3, "kind": "in", "name": "Dr X"}, "column 'name' is none of time, kind, duration, party"),
        ({"when": 3, "kind": "in"}, "no column 'time'"),
    ],
)
def test_a_faulty_log_is_refused_by_its_line(tmp_path: Path, row: dict[str, Any], said: str):
    root = study(tmp_path / "s", {"calls": CALLS}, file_calls="c.csv", seconds=60)
    table(root / "c.csv", [row])
    assert said in fault(root)


def test_how_long_a_log_was_kept_is_told_or_follows_from_signals(tmp_path: Path):
    root = study(tmp_path / "s", {"calls": CALLS}, file_calls="c.csv")
    table(root / "c.csv", [{"time": 3, "kind": "in"}])
    assert "add a column `seconds`" in fault(root)
    study(root, {"calls": CALLS, "eda": EDA}, file_calls="c.csv", file="e.csv")
    table(root / "e.csv", [{"eda": 2 + i / 100} for i in range(40)])
    assert load(root).streams["calls"].seconds == 10


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        ({"kind": "events", "channels": ["in"], "rate_hz": 4}, "events have no `rate_hz`"),
        ({"channels": ["x"]}, "a signal needs `unit` and `rate_hz`"),
        ({"channels": ["x"], "unit": "g"}, "a signal needs `rate_hz`"),
    ],
)
def test_a_stream_is_declared_as_what_it_is(tmp_path: Path, stream: dict[str, Any], said: str):
    root = study(tmp_path / "s", {"a": stream}, file_a="c.csv", seconds=60)
    table(root / "c.csv", [{"time": 3}])
    with pytest.raises(MienError, match=said):
        load(root)
    assert any(said in f.problem for f in check.check(root))


# --- csv as devices and spreadsheets write it ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timestamp,eda\n0,2\n0.25,2.1\n", "the column 'timestamp' looks like a clock and is not read"),
        ("time;eda\n0,25;2,1\n", "separated by semicolons"),
        ("time\teda\n0.25\t2.1\n", "separated by tabs"),
        ("time,EDA\n0,2\n", "no declared stream is in it: its columns are time, EDA ('EDA' is near)"),
        ('time,eda\n0,"2,1"\n', "write plain numbers with a point"),
        ("time,eda\n2026-03-01T10:00:00+01:00,2.1\n", "datetime.timestamp()"),
        ("time,eda\n0,2\n0,2.1\n", "rows of one moment"),
    ],
)
def test_a_csv_of_another_make_is_refused_with_what_to_do(tmp_path: Path, text: str, said: str):
    root = study(tmp_path / "s", {"eda": EDA}, file="e.csv")
    (root / "e.csv").write_text(text)
    assert said in fault(root)


def test_a_clock_of_another_name_is_refused_in_a_long_table_too(tmp_path: Path):
    root = study(tmp_path / "s", {"eda": EDA})
    spec = yaml.safe_load((root / "cohort.yaml").read_text())
    del spec["recordings"]
    (root / "cohort.yaml").write_text(yaml.safe_dump({**spec, "table": "all.csv"}))
    table(root / "all.csv", [{**ROW, "Timestamp": i / 4, "eda": 2} for i in range(9)])
    assert "'Timestamp' looks like a clock" in fault(root)


@pytest.mark.parametrize(("other", "n"), [(1000, 1), (1e-4, 1), (1, 0)])
def test_one_recording_in_another_unit_is_found_among_many(tmp_path: Path, other: float, n: int):
    root = study(tmp_path / "s", {"eda": EDA})
    table(root / "recordings.csv", [{**ROW, "recording": f"r{i}", "file": f"e{i}.csv"} for i in range(200)])
    for i in range(200):
        x = (2 + np.sin(np.arange(40))) * (other if i == 7 else 1)
        table(root / f"e{i}.csv", [{"eda": v} for v in x])
    found = [f for f in check.check(root) if "unit" in f.problem]
    assert len(found) == n
    assert all("'r7'" in f.problem for f in found)
