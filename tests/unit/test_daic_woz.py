"""DAIC-WOZ's official layout, invented: sessions whose every moment is known, and the traps of real copies."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

from mien.core.errors import MienError
from mien.core.records import Signal, Text
from mien.data import commands, splits
from mien.data.datasets import daic_woz

HEAD = "Participant_ID,PHQ8_Binary,PHQ8_Score,Gender,PHQ8_NoInterest"
TRAIN, DEV, TEST = (f"{p}_split_Depression_AVEC2017.csv" for p in ("train", "dev", "test"))
SECONDS = 10
TALK = (
    "0.1\t0.2\tParticipant\t<sync>", "0.5\t1.0\tEllie\thi i'm ellie", "1.0\t2.0\tParticipant\tgood",
    "2.0\t3.0\tEllie\thow_doing (how are you)", '2.5\t4.0\tParticipant\ti said "fine', "4.0\t5.0\tParticipant\tscrubbed_entry",
    "6.0\t7.0\tEllie\tokay", "7.0\t8.0\tParticipant\t<laughter> yes", "no\t9\tParticipant\tbroken", "9\t8\tParticipant\tbackwards", "3",
)  # fmt: skip
OTHER = ("1.0\t2.0\tEllie\tyeah3 (yeah)", "2.0\t6.0\tParticipant\tno (really)", "6.5\t7.0\tEllie\tdone")
ALONE = (
    "2.0\t6.0\tParticipant\twell",
    "1.0\t1.5\tParticipant\thello",
)  # the interviewer's turns are lost; out of order
VOICE_300 = [(1.0, 2.0), (2.5, 4.0), (5.0, 6.0), (7.0, 8.0)]  # not Ellie alone, not scrubbed, not outside the interview


def turns(root: Path, number: int, lines, mark="\t") -> None:
    text = "\n".join(["start_time\tstop_time\tspeaker\tvalue", "", *lines]) + "\n"
    (root / f"{number}_P").mkdir(parents=True, exist_ok=True)
    (root / f"{number}_P" / f"{number}_TRANSCRIPT.csv").write_text(text.replace("\t", mark))


def table(file: Path, head: list[str], times, cell, mark=", ", lost=(), prefix="") -> None:
    """Rows of a tracker: `cell(row, column)`; rows 30 to 39 fail, 40 to 44 are uncertain."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [mark.join(head)]
    for i, t in enumerate(times):
        if i not in lost:
            success, sure = (0 if 30 <= i < 40 else 1), (0.5 if 40 <= i < 45 else 0.95)
            rows.append(
                mark.join([str(i + 1), f"{t:.3f}", str(sure), str(success), *(str(cell(i, c)) for c in head[4:])])
            )
    file.write_text("\n".join(rows) + "\n")


TRACK = ["frame", "timestamp", "confidence", "success"]
AUS = [*(f"{a}_r" for a in daic_woz._INTENSITIES), *(f"{a}_c" for a in daic_woz._PRESENCES)]


def aus(root: Path, number: int, first_s: float = 0.0, seconds: float = SECONDS, ext="txt") -> None:
    """AU01 says which frame it is, AU02 whose."""
    times = first_s + np.arange(round(seconds * 30)) / 30
    value = {"AU01_r": lambda i: i / 100, "AU02_r": lambda i: number / 100}
    table(
        root / f"{number}_P" / f"{number}_CLNF_AUs.{ext}", [*TRACK, *reversed(AUS)], times,
        lambda i, c: value.get(c, lambda i: 0)(i), lost=(60, 61, 62) if number == 300 else (),
    )  # fmt: skip


def sound(root: Path, number: int, name="AUDIO") -> None:
    t = np.arange(SECONDS * 16000) / 16000
    wave = np.round(16000 * np.cos(2 * np.pi * number * t)).astype(np.int16)
    if number == 300:
        wave[4 * 16000 : 5 * 16000] = 0
    file = root / f"{number}_P" / f"{number}_{name}.wav"
    file.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(file, 16000, wave)


def covarep(root: Path, number: int, columns: int = 74) -> None:
    """100 rows a second: F0 is the row, voiced in even seconds only."""
    rest = ["nan" if c == 7 else "0.5" for c in range(2, columns)]
    rows = [",".join([str(i), str(int(i % 200 < 100)), *rest]) for i in range(SECONDS * 100)]
    (root / f"{number}_P" / f"{number}_COVAREP.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def woz(home) -> Path:
    root = home / "DAIC-WOZ"
    turns(root, 300, TALK)
    turns(root, 409, OTHER)
    turns(root, 451, ALONE)
    turns(root, 342, OTHER)  # excluded by the authors
    turns(
        root, 373, ["340\t351\tParticipant\tbefore", "353\t360\tParticipant\tcome in", "431\t440\tParticipant\tafter"]
    )
    for number in (300, 409, 451):
        aus(root, number, ext="csv" if number == 409 else "txt")
        sound(root, number)
    aus(root, 373, first_s=350)
    covarep(root, 300)
    folder = root / "300_P"
    (folder / "._300_TRANSCRIPT.csv").write_bytes(b"\0\5\x16\7")
    grid = np.arange(SECONDS * 30) / 30
    eyes = [f"{a}_{e}" for e in ("0", "1", "h0", "h1") for a in "xyz"]
    table(folder / "300_CLNF_gaze.txt", [*TRACK, *eyes], grid, lambda i, c: "-1.#IND" if i == 50 else 0.25)
    head = [*TRACK, "Tx", "Ty", "Tz", "Rx", "Ry", "Rz"]
    table(folder / "300_CLNF_pose.txt", head, grid, lambda i, c: 700 if c[0] == "T" else 0.1)
    (root / TRAIN).write_text(f"{HEAD}\n300,0,2,1,0\n373,1,12,0,3\n")
    (root / DEV).write_text(f"{HEAD}\n409,0,10,1,2\n")  # the known wrong one
    (root / TEST).write_text("participant_ID,Gender\n451,0\n")
    (root / "full_test_split.csv").write_text("Participant_ID,PHQ_Binary,PHQ_Score,Gender\n451,1,17,0\n")
    return root


def read(root, module=daic_woz, **options):
    return module.load(module.Config(root=str(root), **options))


def spans(signal: Signal) -> list[tuple[float, float]]:
    """Stretches of valid samples in seconds."""
    valid = np.ones(len(signal.values), bool) if signal.valid is None else signal.valid
    edges = np.flatnonzero(np.diff(np.concatenate([[False], valid, [False]]).astype(int)))
    at = [round(e / signal.rate_hz + signal.offset_s, 2) for e in edges]
    return list(zip(at[::2], at[1::2], strict=True))


def said(text) -> list[tuple[float, str, str]]:
    assert isinstance(text, Text)
    return list(zip(text.times_s.tolist(), text.speakers, text.text, strict=True))


def test_every_stream_keeps_its_person_and_its_moment(woz, capsys):
    cohort = read(woz, streams=("transcript", "face", "presence", "gaze", "pose", "position", "sound", "f0"))
    assert cohort.persons == ["daic-300", "daic-373", "daic-409", "daic-451"]
    full, cut_, other, alone = cohort
    assert set(full.streams) == {"transcript", "face", "presence", "gaze", "pose", "position", "sound", "f0"}
    assert [dict(r.labels) for r in cohort] == [
        {"official_split": "train", "phq8": 2.0, "depression": "no"}, {"official_split": "train", "phq8": 12.0, "depression": "yes"},
        {"official_split": "dev", "phq8": 10.0, "depression": "yes"}, {"official_split": "test", "phq8": 17.0, "depression": "yes"},
    ]  # fmt: skip
    assert [r.attributes["sex"] for r in cohort] == ["female", "male", "female", "male"]
    face = full.streams["face"]
    for i in np.flatnonzero(face.valid):
        assert face.values[i, :2].tolist() == pytest.approx([i / 100, 3.0])
    lost = {*range(30, 45), 60, 61, 62, *range(120, 150)}  # no success, not sure, no row, scrubbed
    assert set(np.flatnonzero(~face.valid).tolist()) == lost
    assert set(np.flatnonzero(~full.streams["gaze"].valid).tolist()) == {*range(30, 45), 50, *range(120, 150)}
    assert full.streams["gaze"].channels == ("x_0", "y_0", "z_0", "x_1", "y_1", "z_1")
    assert full.streams["pose"].values[0].tolist() == pytest.approx([0.1] * 3)
    assert full.streams["position"].values[0].tolist() == [700] * 3
    assert full.streams["presence"].channels == ("AU04", "AU12", "AU15", "AU23", "AU28", "AU45")
    for r, number in ((full, 300), (other, 409), (alone, 451)):
        heard = r.streams["sound"]
        a, b = spans(heard)[0]
        part = heard.values[round(a * 16000) : round(b * 16000), 0]
        assert np.abs(np.fft.rfft(part)).argmax() / (b - a) == pytest.approx(number, abs=1)
        assert {s.values[0, 1] for n, s in r.streams.items() if n == "face"} == {np.float32(number / 100)}
    assert cut_.streams["face"].offset_s == 350
    assert spans(cut_.streams["face"])[-1][1] == 352  # the interruption is a gap
    assert said(cut_.streams["transcript"]) == [(340, "participant", "before"), (431, "participant", "after")]
    told = capsys.readouterr().out
    for why in (
        "says otherwise: 409", "1 session(s) that the authors excluded (such as 342)", "1 line(s) of a transcript that only mark",
        "3 line(s) of a transcript without a start before their stop", "1 line(s) of a transcript during an interruption",
        "1 session(s) without sound (such as 373)", "3 session(s) without gaze",
    ):  # fmt: skip
        assert why in told, told


def test_the_interviewer_is_neither_read_nor_heard_unless_asked_for(woz, capsys):
    cohort = read(woz, streams=("transcript", "sound", "f0", "face"))
    full, _, other, alone = cohort
    assert said(full.streams["transcript"]) == [
        (1, "participant", "good"), (2.5, "participant", 'i said "fine'), (7, "participant", "<laughter> yes")
    ]  # fmt: skip
    assert said(other.streams["transcript"]) == [(2, "participant", "no (really)")]  # brackets are hers only
    assert spans(full.streams["sound"]) == VOICE_300
    voiced = [(1.0, 1.0), (2.5, 3.0), (5.0, 5.0), (7.0, 7.0)]  # even seconds only
    assert spans(full.streams["f0"]) == [s for s in voiced if s[0] < s[1]]
    assert spans(other.streams["sound"]) == [(2.0, 6.5)]  # nobody speaks at the end
    assert spans(alone.streams["sound"]) == [
        (1.0, 1.5),
        (2.0, 6.0),
    ]  # where she speaks is lost: only what is certainly not her
    assert spans(other.streams["face"])[-1][1] == SECONDS  # a face that listens is the participant's own
    assert "interviewer's turns left out" in cohort.card.source
    assert cohort.card.streams["transcript"].channels == ("participant",)
    capsys.readouterr()
    whole = read(woz, streams=("transcript", "sound"), prompts=True)
    assert said(whole[0].streams["transcript"])[0] == (0.5, "interviewer", "hi i'm ellie")
    assert said(whole[0].streams["transcript"])[2] == (
        2,
        "interviewer",
        "how_doing (how are you)",
    )  # up to 363 as it is
    assert said(whole[2].streams["transcript"])[0] == (1, "interviewer", "yeah")
    assert spans(whole[0].streams["sound"]) == [(0.0, 4.0), (5.0, 10.0)]
    assert "with the interviewer's turns" in whole.card.source
    assert "the interviewer's turns are read" in capsys.readouterr().out
    assert whole.fingerprint != cohort.fingerprint


def test_pitch_is_where_there_is_voicing(woz):
    f0 = read(woz, streams=("f0",), prompts=True)[0].streams["f0"]
    for i in range(SECONDS * 100):
        assert f0.valid[i] == (i % 200 < 100 and not 400 <= i < 500)
        if f0.valid[i]:
            assert f0.values[i, 0] == i
    with pytest.raises(MienError, match="1 voice stream\\(s\\) without a usable moment"):  # a column of nan throughout
        read(woz, streams=("voice",))


def test_words_of_late_transcripts_are_moved_to_their_sound(woz, capsys):
    turns(woz, 341, ["1.0\t2.0\tParticipant\tlate"])
    (woz / DEV).write_text(f"{HEAD}\n409,0,10,1,2\n341,0,3,0,0\n")
    r = next(r for r in read(woz, streams=("transcript",)) if r.person == "daic-341")
    assert said(r.streams["transcript"])[0][0] == pytest.approx(7.1892)
    assert "session 341: its transcript is read 6.2 s later" in capsys.readouterr().out


def test_parts_are_the_official_ones_and_a_copy_around_is_found(woz, capsys):
    assert read(woz.parent, parts=("test",), streams=("face",)).persons == ["daic-451"]
    (woz / "full_test_split.csv").unlink()
    (woz / TRAIN).unlink()
    cohort = read(woz, streams=("transcript",))
    assert [dict(r.labels) for r in cohort][1] == {"official_split": "test"}
    told = capsys.readouterr().out
    assert f"no {TRAIN}: nobody of its part is read" in told
    assert "2 session(s) that no table of the split names" in told
    assert "1 recording(s) without a depression label" in told


def test_the_official_split_can_be_asked_for_by_name(woz):
    """It is a label without classes, for it is no trait of anybody."""
    drawn = splits.draw(read(woz), kind="official", by="official_split")
    assert (drawn.train, drawn.validation, drawn.holdout) == (("daic-300", "daic-373"), ("daic-409",), ("daic-451",))
    with pytest.raises(MienError, match="no attribute 'official'"):
        splits.draw(read(woz), kind="official", by="official")


def test_it_is_read_once_and_again_when_a_file_changes(woz, monkeypatch):
    first = read(woz).fingerprint
    with monkeypatch.context() as m:
        m.setattr(daic_woz, "_session", lambda *_: pytest.fail("read again"))
        assert read(woz).fingerprint == first
    turns(woz, 300, TALK[:3])
    assert read(woz).fingerprint != first


def test_it_can_be_described_and_may_not_be_shared(woz, capsys):
    assert commands.describe_command(["daic_woz", f"root={woz}"]) in (0, None)
    out = capsys.readouterr().out
    assert "label depression" in out
    assert "no 1, yes 3" in out
    cohort = read(woz, streams=("transcript",))
    assert "not to be shared" in cohort.card.licence
    assert len(cohort.for_purpose("training")[0]) == 4
    with pytest.raises(MienError):
        cohort.for_purpose("sharing")


# --- what cannot be used is left out by name -----------------------------------------------------------------------
def shorten(file: Path, to: int) -> None:
    file.write_bytes(file.read_bytes()[:to])


@pytest.mark.parametrize(
    ("name", "spoil", "gone", "says"),
    [
        ("AUs.txt", lambda f: shorten(f, 5000), "face", "1 face stream(s) cut off or damaged (such as 300_CLNF_AUs.txt)"),
        ("AUs.txt", lambda f: f.write_text(f.read_text().replace(",", ";")), "face", "face stream(s) with no column timestamp"),
        ("AUs.txt", lambda f: f.write_text(""), "face", "face stream(s) that are empty"),
        ("AUs.txt", lambda f: f.write_text(f.read_text().splitlines()[0] + "\n"), "face", "face stream(s) without a row"),
        ("AUs.txt", lambda f: f.write_text(f.read_text().replace("AU02_r", "AU01_r")), "face", "face stream(s) with two columns au01_r"),
        ("AUs.txt", lambda f: f.write_text(f.read_text().replace("\n8, 0.233", "\n8, 9999999")), "face", "whose times are not in order"),
        ("AUs.txt", lambda f: f.write_text("\n".join(f.read_text().splitlines()[::3])), "face", "face stream(s) not at 30 rows a second"),
        ("AUs.txt", lambda f: f.write_bytes(f.read_bytes().replace(b"0.95", b"\xff\xfe")), "face", "face stream(s) cut off or damaged"),
        ("AUs.txt", lambda f: f.write_text(f.read_text().replace(", 1, ", ", 0, ")), "face", "face stream(s) without a usable moment"),
        ("AUDIO.wav", lambda f: shorten(f, 5000), "sound", "sound stream(s) cut off before their end"),
        ("AUDIO.wav", lambda f: f.write_bytes(b""), "sound", "sound stream(s) damaged or not wav"),
        ("AUDIO.wav", lambda f: f.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "sound", "Git LFS pointers"),
        ("TRANSCRIPT.csv", lambda f: f.unlink(), "transcript sound", "sound stream(s) of whose voices no transcript tells"),
        ("TRANSCRIPT.csv", lambda f: f.write_text(""), "transcript sound", "transcript(s) without TAB-separated start_time"),
        ("TRANSCRIPT.csv", lambda f: f.write_text(f.read_text().replace("\t", ",")), "transcript sound", "without TAB-separated"),
        ("TRANSCRIPT.csv", lambda f: f.write_bytes(f.read_bytes() + b"\xff"), "transcript sound", "transcript(s) that are not UTF-8"),
        ("TRANSCRIPT.csv", lambda f: shorten(f, 40), "transcript sound", "the participant says nothing"),
        ("TRANSCRIPT.csv", lambda f: f.write_text(f.read_text().replace("Part", "P")), "transcript sound", "the participant says nothing"),
    ],
)  # fmt: skip
def test_a_damaged_file_costs_its_stream_and_is_told(woz, capsys, name, spoil, gone, says):
    spoil(next(f for f in (woz / "300_P").glob(f"300_*{name}")))
    first, *others = read(woz, streams=("transcript", "face", "sound"))
    assert first.person == "daic-300"
    assert set(first.streams) == {"transcript", "face", "sound"} - set(gone.split())
    assert len(others) == 3
    assert says in (out := capsys.readouterr().out), out


def moved(root: Path, what: str, to: str = "elsewhere") -> None:
    shutil.move(root / what, root.parent / to)
    (root / what).symlink_to(root.parent / to)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda r: [shutil.rmtree(f) for f in r.glob("*_P")], "holds no folder 300_P, 301_P …: is it DAIC-WOZ, and unpacked"),
        (lambda r: [shutil.move(f, f.with_suffix(".zip")) for f in r.glob("*_P")], r"5 archive\(s\) that are not unpacked"),
        (lambda r: shutil.copytree(r / "300_P", r / "copy" / "300_P"), "session 300 is in two folders"),
        (lambda r: shutil.copytree(r / "300_P", r / "300_P" / "again"), "holds one file twice"),
        (lambda r: moved(r, "300_P"), "300_P is a link out of"),
        (lambda r: moved(r, "300_P/300_AUDIO.wav"), "300_AUDIO.wav is a link out of"),
        (lambda r: moved(r, TRAIN), "is a link out of"),
        (lambda r: [f.unlink() for f in r.glob("*.csv")], f"holds no {TRAIN}, where the labels"),
        (lambda r: shutil.copy(r / TRAIN, r / "300_P" / TRAIN), f"holds two of {TRAIN}"),
        (lambda r: (r / TRAIN).write_text(""), f"{TRAIN} is empty"),
        (lambda r: (r / TRAIN).write_bytes(b"Participant_ID\n\xff\n"), f"{TRAIN} is not UTF-8"),
        (lambda r: (r / TRAIN).write_text("id,PHQ8_Score\n300,2\n"), "has no column Participant_ID"),
        (lambda r: (r / TRAIN).write_text(f"{HEAD}\n300,0\n"), "row 2: 2 cells under 5 names"),
        (lambda r: (r / TRAIN).write_text(f"{HEAD}\n999,0,2,1,0\n"), "'999' is no participant of the database"),
        (lambda r: (r / TRAIN).write_text(f"{HEAD}\n300.5,0,2,1,0\n"), "'300.5' is no participant"),
        (lambda r: (r / TRAIN).write_text(f"{HEAD}\n300,0,2,1,0\n300,0,2,1,0\n"), "300 has two rows"),
        (lambda r: (r / DEV).write_text(f"{HEAD}\n300,0,2,1,0\n"), "300 is in two parts of the split"),
        (lambda r: (r / TRAIN).write_text(f"{HEAD}\n300,0,25,1,0\n"), "the PHQ-8 score of 300, '25', is not a number from 0 to 24"),
        (lambda r: (r / TRAIN).write_text(f"{HEAD}\n300,0,x,1,0\n"), "the PHQ-8 score of 300, 'x'"),
        (lambda r: (r / TRAIN).write_text(f"{HEAD}\n300,0,2,7,0\n"), "the gender '7' of 300"),
        (lambda r: [f.write_bytes(b"") for f in r.glob("*_P/*")], "no session of DAIC-WOZ could be read"),
    ],
)  # fmt: skip
def test_what_would_mix_up_persons_or_labels_is_refused_by_name(woz, spoil, says):
    spoil(woz)
    with pytest.raises(MienError, match=says) as error:
        read(woz)
    assert "\n" not in str(error.value)


def test_folders_of_no_session_and_empty_ones_are_left_out(woz, capsys):
    turns(woz, 999, OTHER)
    (woz / "301_P").mkdir()
    shutil.copytree(woz / "300_P", woz / "new" / "300_P")
    shutil.rmtree(woz / "300_P")
    shutil.move(woz / "new" / "300_P", woz / "new" / "x")
    shutil.move(woz / "new" / "x", woz / "300_P" / "300_P")  # as some tools unpack
    assert len(read(woz, streams=("transcript",))) == 4
    told = capsys.readouterr().out
    assert "1 folder(s) of no session of the database (such as 999_P)" in told
    assert "1 folder(s) without a file (such as 301_P)" in told


KINDS = ("TRANSCRIPT.csv", "CLNF_AUs.txt", "AUDIO.wav")
FILES = [*(f"{n}_P/{n}_{k}" for n in (300, 409, 451) for k in KINDS), TRAIN, DEV, TEST, "full_test_split.csv"]


@settings(max_examples=14, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(FILES)))
def test_missing_files_make_a_smaller_cohort_or_a_named_error(woz, tmp_path_factory, gone):
    root = tmp_path_factory.mktemp("woz") / "DAIC-WOZ"
    shutil.copytree(woz, root)
    shutil.rmtree(root / "373_P")
    (root / "409_P" / "409_CLNF_AUs.csv").rename(root / "409_P" / "409_CLNF_AUs.txt")
    for name in gone:
        (root / name).unlink()
    expected = {}
    for number, tables in ((300, {TRAIN}), (409, {DEV}), (451, {TEST, "full_test_split.csv"})):
        there = {f for f in KINDS if f"{number}_P/{number}_{f}" not in gone}
        streams = {"transcript"} if "TRANSCRIPT.csv" in there else set()
        streams |= {"face"} if "CLNF_AUs.txt" in there else set()
        streams |= {"sound"} if {"TRANSCRIPT.csv", "AUDIO.wav"} <= there else set()
        if streams and tables - gone:
            expected[f"daic-{number}"] = (streams, bool(tables - {TEST} - gone))
    wanted = ("transcript", "face", "sound")
    if not expected:
        with pytest.raises(MienError, match=r"no session of DAIC-WOZ could be read|holds no "):
            read(root, streams=wanted)
        return
    assert {r.person: (set(r.streams), "depression" in r.labels) for r in read(root, streams=wanted)} == expected
