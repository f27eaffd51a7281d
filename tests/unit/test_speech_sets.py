"""CREMA-D's and RAVDESS's official layouts, invented: tones of a few tenths of a second, and the traps of real copies."""

import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

from mien.core.errors import MienError
from mien.core.records import StreamSpec
from mien.data import sources
from mien.data.datasets import crema_d, ravdess

STUB = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 81964\n"


def tone(file: Path, hz: float, rate: int = 16000, seconds: float = 0.2, channels: int = 1) -> Path:
    """A 16-bit tone of half full scale; a second channel is silent."""
    file.parent.mkdir(parents=True, exist_ok=True)
    one = np.round(16384 * np.cos(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.int16)
    wavfile.write(file, rate, one if channels == 1 else np.stack([one, 0 * one], axis=1))
    return file


def pitch(values: np.ndarray, rate: float) -> float:
    return float(np.abs(np.fft.rfft(values)).argmax() * rate / len(values))


# --- CREMA-D ---------------------------------------------------------------------------------------------------
CLIPS = {"1001_IEO_ANG_HI": 100, "1001_TIE_NEU_XX": 150, "1002_IEO_SAD_LO": 200, "1091_WSI_HAP_MD": 250}


@pytest.fixture
def crema(home) -> Path:
    root = home / "CREMA-D"
    for name, hz in CLIPS.items():
        tone(root / "AudioWAV" / f"{name}.wav", hz)
    (root / "VideoDemographics.csv").write_text(
        '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'
        '1002,21,"Female","African American","Hispanic"\n1091,,"Male","Unknown","Not Hispanic"\n'
    )
    (root / "processedResults").mkdir()
    (root / "processedResults" / "summaryTable.csv").write_text(
        '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"\n'
        '"1","1001_IEO_ANG_HI","D","58","A","70","A","66"\n"2","1001_TIE_NEU_XX","A:D","50:50","N","80","N","77"\n'
        '"3","1002_IEO_SAD_LO","S","58","S","70","S","66"\n'
    )
    return root


def read_crema(root, **options):
    return crema_d.load(crema_d.Config(root=str(root), **options))


def test_crema_d_is_read_and_every_sound_stays_with_its_name(crema, capsys):
    (crema / "AudioWAV" / "._1001_IEO_ANG_HI.wav").write_bytes(b"left by macOS")
    cohort = read_crema(crema)
    assert [r.id.removeprefix("crema-d-") for r in cohort] == sorted(CLIPS)
    for r in cohort:
        audio = r.streams["audio"]
        assert pitch(audio.values[:, 0], audio.rate_hz) == CLIPS[r.id.removeprefix("crema-d-")]
        assert audio.values.max() == pytest.approx(0.5)
    first = cohort[0]
    assert (first.person, dict(first.labels)) == (
        "crema-d-1001", {"emotion": "anger", "level": "high", "sentence": "IEO"}
    )  # fmt: skip
    assert dict(first.attributes) == {"age": 51.0, "sex": "male", "race": "caucasian", "ethnicity": "not hispanic"}
    assert "age" not in cohort[3].attributes
    assert "Open Database" in cohort.card.licence
    assert "left out" not in capsys.readouterr().out
    assert len(cohort.for_purpose("training")[0]) == 4


@pytest.mark.parametrize(
    ("labels", "emotions"),
    [
        ("intended", ["anger", "neutral", "sadness", "happiness"]),
        ("voice", ["disgust", None, "sadness", None]),  # a tie; nobody rated the last
        ("face", ["anger", "neutral", "sadness", None]),
    ],
)
def test_crema_d_says_whose_emotion_it_is(crema, labels, emotions, capsys):
    cohort = read_crema(crema, labels=labels)
    assert [r.labels.get("emotion") for r in cohort] == emotions
    assert labels in cohort.card.source
    assert (f"{emotions.count(None)} clip(s) without an emotion" in capsys.readouterr().out) == (None in emotions)


def test_what_cannot_be_used_is_left_out_and_counted(crema, capsys):
    audio = crema / "AudioWAV"
    (audio / "1003_IEO_ANG_HI.wav").write_bytes(STUB)
    (audio / "1004_IEO_ANG_HI.wav").write_bytes(b"RIFFnothing")
    (audio / "1005_IEO_ANG_HI.wav").write_bytes(b"")
    tone(audio / "1006_IEO_ANG_HI.wav", 100, rate=44100)
    wavfile.write(audio / "1007_IEO_ANG_HI.wav", 16000, np.zeros(1600, np.int16))
    wavfile.write(audio / "1008_IEO_ANG_HI.wav", 16000, np.zeros(0, np.int16))
    tone(audio / "1076_MTI_SAD_XX.wav", 100)
    tone(audio / "notes.wav", 100)
    whole = tone(audio / "1009_IEO_ANG_HI.wav", 100).read_bytes()
    (audio / "1009_IEO_ANG_HI.wav").write_bytes(whole[: len(whole) // 2])
    cohort = read_crema(crema)
    assert len(cohort) == 4
    said = capsys.readouterr().out
    for why in (
        "1 Git LFS pointers", "2 damaged or not wav", "1 at 44100 Hz, not 16000", "1 silent throughout",
        "1 without a sample", "1 known to be damaged", "1 whose name is not", "1 cut off before their end",
    ):  # fmt: skip
        assert why in said, said


def outside(root):
    (root / "AudioWAV" / "1010_IEO_ANG_HI.wav").symlink_to(tone(root.parent / "else.wav", 100))


def replace(root, old, new):
    file = root / "processedResults" / "summaryTable.csv"
    file.write_text(file.read_text().replace(old, new))


def people(root, text):
    (root / "VideoDemographics.csv").write_bytes(text)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda root: shutil.rmtree(root / "AudioWAV"), "holds no folder AudioWAV"),
        (lambda root: shutil.copytree(root / "AudioWAV", root / "again" / "AudioWAV"), "holds two of AudioWAV"),
        (lambda root: [f.write_bytes(STUB) for f in (root / "AudioWAV").iterdir()], "git lfs pull"),
        (lambda root: [f.unlink() for f in (root / "AudioWAV").iterdir()], "AudioWAV is empty"),
        (outside, "is a link out of"),
        (lambda root: (root / "processedResults" / "summaryTable.csv").unlink(), "take labels=intended"),
        (lambda root: replace(root, "VoiceVote", "Vote"), "has no column 'VoiceVote'"),
        (lambda root: replace(root, '"D"', '"Q"'), "the vote 'Q' is none of"),
        (lambda root: replace(root, '"S","58","S"', '"S"'), "row 4: 6 cells under 8 names"),
        (lambda root: people(root, b""), "VideoDemographics.csv is empty"),
        (lambda root: people(root, STUB), "has no column|LFS pointer"),
        (lambda root: people(root, b"ActorID,Age,Sex,Race,Ethnicity\n1001,\xff,a,b,c\n"), "is not UTF-8"),
        (lambda root: people(root, b"ActorID,Age,Sex,Race,Ethnicity\n1,2,a,b,c\n1,3,a,b,c\n"), "actor 1 has two rows"),
    ],
)
def test_crema_d_traps_are_refused_by_name(crema, spoil, says):
    spoil(crema)
    with pytest.raises(MienError, match=says) as error:
        read_crema(crema, labels="voice")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables_of_other_separators_and_with_a_byte_order_mark_are_read(crema, mark):
    text = (crema / "VideoDemographics.csv").read_text().replace(",", mark)
    (crema / "VideoDemographics.csv").write_text("\ufeff" + text)
    assert read_crema(crema)[0].attributes["age"] == 51.0


SOME = [f"AudioWAV/{c}.wav" for c in CLIPS] + ["VideoDemographics.csv", "processedResults/summaryTable.csv"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(SOME)), st.sampled_from(["intended", "audiovisual"]))
def test_missing_files_of_crema_d_make_a_smaller_cohort_or_a_named_error(crema, tmp_path_factory, gone, labels):
    root = tmp_path_factory.mktemp("crema") / "CREMA-D"
    shutil.copytree(crema, root)
    whole = {r.id: r for r in read_crema(root, labels=labels)}
    for name in gone:
        (root / name).unlink()
    left = {f"crema-d-{c}" for c in CLIPS if f"AudioWAV/{c}.wav" not in gone}
    if not left or (labels != "intended" and SOME[-1] in gone):
        with pytest.raises(MienError, match=r"AudioWAV is empty|no processedResults/summaryTable.csv"):
            read_crema(root, labels=labels)
        return
    cohort = read_crema(root, labels=labels)
    assert {r.id for r in cohort} == left
    for r in cohort:
        assert (r.person, r.labels) == (whole[r.id].person, whole[r.id].labels)
        assert np.array_equal(r.streams["audio"].values, whole[r.id].streams["audio"].values)
        assert dict(r.attributes) == ({} if SOME[-2] in gone else dict(whole[r.id].attributes))


# --- RAVDESS ---------------------------------------------------------------------------------------------------
SPOKEN = {"03-01-05-02-01-02-01": 100, "03-01-01-01-02-01-02": 150, "03-01-08-01-02-01-24": 200}
SUNG = {"03-02-04-02-02-01-01": 250}


@pytest.fixture
def rav(home) -> Path:
    root = home / "RAVDESS"
    for folder, clips in (("Audio_Speech_Actors_01-24", SPOKEN), ("Audio_Song_Actors_01-24", SUNG)):
        for stem, hz in clips.items():
            tone(root / folder / f"Actor_{stem[-2:]}" / f"{stem}.wav", hz, 48000)
    (root / "Audio_Speech_Actors_01-24" / "Actor_01" / "01-01-05-02-01-02-01.mp4").write_bytes(b"video")
    return root


def read_rav(root, **options):
    return ravdess.load(ravdess.Config(root=str(root), **options))


def test_ravdess_is_read_by_its_seven_numbers(rav):
    cohort = read_rav(rav, channel="both")
    assert {r.id.removeprefix("ravdess-") for r in cohort} == {*SPOKEN, *SUNG}
    for r in cohort:
        audio = r.streams["audio"]
        assert pitch(audio.values[:, 0], audio.rate_hz) == (SPOKEN | SUNG)[r.id.removeprefix("ravdess-")]
    first = next(r for r in cohort if r.id == "ravdess-03-01-05-02-01-02-01")
    assert (first.person, dict(first.attributes)) == ("ravdess-01", {"sex": "male"})
    assert dict(first.labels) == {"emotion": "anger", "intensity": "strong", "statement": "kids", "channel": "speech"}
    assert {r.labels["emotion"] for r in read_rav(rav)} == {"anger", "neutral", "surprise"}
    assert [r.labels["emotion"] for r in read_rav(rav, channel="song")] == ["sadness"]
    assert "non-commercial" in cohort.card.licence


def test_a_doubled_copy_is_taken_once_and_said(rav, capsys):
    whole = rav / "Audio_Speech_Actors_01-24"
    shutil.copytree(whole, rav / "audio_speech_actors_01-24_again" / "audio_speech_actors_01-24")
    assert Counter(r.person for r in read_rav(rav)) == Counter(f"ravdess-{s[-2:]}" for s in SPOKEN)
    assert "3 clip(s) are there twice" in capsys.readouterr().out


def test_a_stereo_clip_is_averaged(rav):
    stem = next(iter(SPOKEN))
    tone(rav / "Audio_Speech_Actors_01-24" / "Actor_01" / f"{stem}.wav", 100, 48000, channels=2)
    first = next(r for r in read_rav(rav) if r.id == f"ravdess-{stem}")
    assert first.streams["audio"].values.shape[1] == 1
    assert first.streams["audio"].values.max() == pytest.approx(0.25)


def elsewhere(root):
    folder = root / "Audio_Speech_Actors_01-24"
    tone(folder / "Actor_03" / "03-01-05-02-01-02-01.wav", 100, 48000)


def linked(root):
    tone(root.parent / "else.wav", 100, 48000)
    folder = root / "Audio_Speech_Actors_01-24" / "Actor_01"
    (folder / "03-01-08-01-01-01-01.wav").symlink_to(root.parent / "else.wav")


def differing(root):
    tone(root / "more" / "Actor_01" / "03-01-05-02-01-02-01.wav", 120, 48000)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (elsewhere, "its name says actor 01, its folder another"),
        (differing, "have one name and differ"),
        (linked, "is a link out of"),
        (shutil.rmtree, "no such folder"),
        (lambda root: [f.unlink() for f in root.rglob("*.wav")], "is it RAVDESS"),
        (lambda root: [f.write_bytes(b"") for f in root.rglob("*.wav")], "no clip of RAVDESS could be read: 3 damaged"),
    ],
)
def test_ravdess_traps_are_refused_by_name(rav, spoil, says):
    spoil(rav)
    with pytest.raises(MienError, match=says):
        read_rav(rav)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(sorted(SPOKEN))))
def test_missing_files_of_ravdess_make_a_smaller_cohort_or_a_named_error(rav, tmp_path_factory, gone):
    root = tmp_path_factory.mktemp("rav") / "RAVDESS"
    shutil.copytree(rav, root)
    for stem in gone:
        next(root.rglob(f"{stem}.wav")).unlink()
    if len(gone) == len(SPOKEN):
        with pytest.raises(MienError, match=r"holds no Actor_01"):
            read_rav(root)
        return
    assert {r.id for r in read_rav(root)} == {f"ravdess-{s}" for s in SPOKEN if s not in gone}


def coloured(file: Path, seconds: float = 3.0, fps: int = 10) -> None:
    """A film, wider than high, red in its first second, then green, then blue; its left and right margins are white."""
    av = pytest.importorskip("av", reason="needs mien[film]")
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for i in range(round(seconds * fps)):
            picture = np.full((96, 160, 3), 255, np.uint8)
            picture[:, 32:128] = np.eye(3, dtype=np.uint8)[min(i // fps, 2)] * 220
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture
def filmed(rav) -> Path:
    """Actor 1's clip with and without its sound, actor 2's with it; actor 24 was not filmed; one film has no sound file."""
    for actor, stem in (("01", "01-01-05-02-01-02-01"), ("01", "02-01-05-02-01-02-01"), ("02", "01-01-01-01-02-01-02"),
                        ("02", "02-01-07-01-02-01-02")):  # fmt: skip
        coloured(rav / "Video_Speech_Actor_01" / f"Actor_{actor}" / f"{stem}.mp4")
    (rav / "Audio_Speech_Actors_01-24" / "Actor_01" / "01-01-05-02-01-02-01.mp4").unlink()
    return rav


def test_ravdess_is_seen_at_a_slow_rate(filmed):
    cohort = read_rav(filmed, film_hz=1.0, side=32)
    assert cohort.card.streams["film"].kind == "video"
    streams = {r.id.removeprefix("ravdess-"): set(r.streams) for r in cohort}
    assert streams == {
        "03-01-05-02-01-02-01": {"audio", "film"}, "03-01-01-01-02-01-02": {"audio", "film"},
        "03-01-08-01-02-01-24": {"audio"}, "03-01-07-01-02-01-02": {"film"},
    }  # fmt: skip
    first = next(r for r in cohort if r.id == "ravdess-03-01-05-02-01-02-01")
    assert first.labels["emotion"] == "anger"
    frames = first.streams["film"].frames
    assert frames.shape == (3, 32, 32, 3)
    assert [int(f.reshape(-1, 3).mean(0).argmax()) for f in frames] == [
        0,
        1,
        2,
    ]  # what is shown in each second's middle
    assert frames.mean((0, 1, 2)).max() < 130  # nothing of the white margins
    half = next(iter(read_rav(filmed, film_hz=2.0, side=32))).streams["film"]
    assert len(half.frames) == 6
    assert {r.id.removeprefix("ravdess-") for r in read_rav(filmed)} == set(
        SPOKEN
    )  # films are read where asked for alone


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: f.write_bytes(b"#EXTM3U\nfile:///etc/passwd\n"), "1 damaged or not mp4"),
        (lambda f: f.write_bytes(f.read_bytes()[:300]), "1 damaged or not mp4"),
        (lambda f: coloured(f, 0.4), "1 shorter than one picture at 1 Hz"),
        (lambda f: f.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "1 Git LFS pointers"),
    ],
)
def test_a_film_that_cannot_be_read_is_left_out_and_said(filmed, spoil, says, capsys):
    spoil(filmed / "Video_Speech_Actor_01" / "Actor_01" / "02-01-05-02-01-02-01.mp4")
    cohort = read_rav(filmed, film_hz=1.0, side=32)
    assert says in capsys.readouterr().out
    (clip,) = (r for r in cohort if r.id == "ravdess-03-01-05-02-01-02-01")
    assert set(clip.streams) == {"audio"}


def test_films_that_are_not_there(rav):
    pytest.importorskip("av", reason="needs mien[film]")
    (rav / "Audio_Speech_Actors_01-24" / "Actor_01" / "01-01-05-02-01-02-01.mp4").unlink()
    with pytest.raises(MienError, match="with its video zips unpacked"):
        read_rav(rav, film_hz=1.0)


def test_without_pyav_the_extra_is_named(rav, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MienError, match=r"install mien\[film\]"):
        read_rav(rav, film_hz=1.0)
    assert len(read_rav(rav)) == len(SPOKEN)


# --- sound -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.uint8, 127), (np.int16, 32767), (np.int32, 2**31 - 1), (np.float32, 1.0)]
)
def test_full_scale_is_one_whatever_the_file_holds(tmp_path, dtype, scale):
    wave = np.sin(np.linspace(0, 40, 800))
    raw = np.round(128 + 127 * wave) if dtype == np.uint8 else wave * scale
    wavfile.write(tmp_path / "a.wav", 8000, raw.astype(dtype))
    spec = StreamSpec(channels=("voice",), unit="full scale", rate_hz=8000.0)
    assert sources.sound(tmp_path / "a.wav", spec).values[:, 0] == pytest.approx(wave, abs=0.02)


def test_a_second_reading_comes_from_the_cache_until_a_file_changes(crema, monkeypatch):
    first = read_crema(crema).fingerprint
    monkeypatch.setattr(sources, "sound", lambda *_: pytest.fail("read again"))
    assert read_crema(crema).fingerprint == first
    monkeypatch.undo()
    tone(crema / "AudioWAV" / "1091_WSI_HAP_MD.wav", 300, seconds=0.3)
    assert read_crema(crema).fingerprint != first


# --- what is not there ---------------------------------------------------------------------------------------------
def test_published_sets_have_as_many_clips_as_are_expected():
    assert (
        len(crema_d._expected([str(a) for a in range(1001, 1092)])) == 7442 + 20
    )  # those of which there is no recording
    actors = [f"{i:02d}" for i in range(1, 25)]
    of = {channel: ravdess._expected(actors, channel) for channel in ("speech", "song", "both")}
    assert {c: len(names) for c, names in of.items()} == {"speech": 1440, "song": 1012, "both": 2452}
    assert all(ravdess._NAME.fullmatch(n) for n in of["both"])
    assert all(crema_d._NAME.fullmatch(n) for n in crema_d._expected(["1001"]))


def test_clips_that_are_not_there_are_counted_and_one_is_named(crema, capsys):
    read_crema(crema)
    assert "243 clip(s) that these actors recorded are not there (such as 1001_IEO_ANG_LO)" in capsys.readouterr().out
    for name in crema_d._expected(["1001", "1002", "1091"]):
        if not (file := crema / "AudioWAV" / f"{name}.wav").exists():
            tone(file, 100, seconds=0.01)
    read_crema(crema)
    assert "are not there" not in capsys.readouterr().out
