"""Coswara's official layout, invented: four persons with a tone per sound, and the traps of real copies."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

from mien.core.errors import MienError
from mien.data.datasets import coswara

HEAD = "id,a,covid_status,record_date,ep,g,l_c,l_l,l_s,rU,cough,fever,smoker,um,test_status"
ROWS = {
    "anna": ("20200413", "31,healthy,2020-04-13,y,female,India,,Karnataka,n,,,,,"),
    "bela": ("20200413", '52,positive_mild,2020-04-13,n,male,India,"Old Town, North",Kerala,y,True,True,True,y,p'),
    "cleo": ("20210501", ",recovered_full,2021-05-01,y,other,Oman,,,n,,,,,n"),
    "dora": ("20210501", "15,healthy,2021-05-01,y,female,India,,Delhi,n,,,,,"),
}
SOUNDS = {"cough-heavy": 500, "vowel-a": 700, "breathing-deep": 900}


def tone(file: Path, hz: float, rate: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(file, rate, np.round(16384 * np.cos(2 * np.pi * hz * np.arange(rate // 5) / rate)).astype(np.int16))


def write_table(root: Path, rows=ROWS, head=HEAD) -> None:
    lines = [head, *(f"{person},{cells}" for person, (_, cells) in rows.items())]
    (root / "combined_data.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def copy(home) -> Path:
    root = home / "Coswara-Data"
    for n, (person, (day, _)) in enumerate(ROWS.items()):
        for sound, hz in SOUNDS.items():
            tone(
                root / "Extracted_data" / day / person / f"{sound}.wav",
                hz + 10 * n,
                44100 if person == "bela" else 48000,
            )
    write_table(root)
    (root / "annotations").mkdir()
    (root / "annotations" / "cough-heavy_labels.csv").write_text(
        "FILENAME, QUALITY\nanna_cough-heavy,2\nbela_cough-heavy,0\nelsewhere_cough-heavy,1\n"
    )
    return root


def read(root, **options):
    return coswara.load(coswara.Config(root=str(root), **options))


def test_the_layout_is_read_and_every_sound_stays_with_its_person(copy, capsys):
    cohort = read(copy)
    assert cohort.persons == ["coswara-anna", "coswara-bela", "coswara-cleo"]
    for n, r in enumerate(cohort):
        assert set(r.streams) == {
            "vowel_a",
            "breathing_deep",
            *(("cough_heavy",) if r.person != "coswara-bela" else ()),
        }
        for sound, hz in SOUNDS.items():
            if (s := r.streams.get(sound.replace("-", "_"))) is not None:
                assert s.rate_hz == 16000
                assert s.seconds == pytest.approx(0.2, abs=1e-3)
                peak = np.abs(np.fft.rfft(s.values[:, 0])).argmax() / s.seconds
                assert peak == pytest.approx(hz + 10 * n, abs=6)  # 48 and 44.1 kHz alike
                assert np.abs(s.values[200:-200]).max() == pytest.approx(0.5, abs=0.02)
    anna, bela, cleo = cohort
    assert dict(anna.labels) == {"covid": "no", "status": "healthy"}
    assert dict(bela.labels) == {"covid": "yes", "status": "positive_mild"}
    assert dict(cleo.labels) == {"status": "recovered_full"}
    assert dict(bela.attributes) == {
        "age": 52.0, "sex": "male", "country": "India", "state": "Kerala", "locality": "Old Town, North",
        "record_date": "2020-04-13", "english_proficient": "n", "returning_user": "y", "wears_mask": "y",
        "test_status": "p", "smoker": "True", "symptom_cough": "yes", "symptom_fever": "yes",
    }  # fmt: skip
    assert "symptom_cough" not in anna.attributes  # blank is not reported, not "no"
    assert "age" not in cleo.attributes
    assert set(bela.attributes) <= set(cohort.card.attributes)
    said = capsys.readouterr().out
    assert "1 person(s) under 18" in said
    assert "1 sound(s) below the minimum quality" in said
    assert "1 person(s) say they recorded before" in said


def test_minors_and_bad_sounds_are_read_when_asked(copy):
    cohort = read(copy, minors=True, minimum_quality=0)
    assert len(cohort) == 4
    assert all(len(r.streams) == 3 for r in cohort)


def test_an_older_table_without_dates_takes_the_folders(copy):
    undated = {p: (day, ",".join(c for c in cells.split(",") if "-" not in c)) for p, (day, cells) in ROWS.items()}
    write_table(copy, undated, HEAD.replace("record_date,", ""))
    assert [r.attributes["record_date"] for r in read(copy)] == ["2020-04-13", "2020-04-13", "2021-05-01"]


def test_who_cannot_be_used_is_left_out_and_counted(copy, capsys):
    rows = dict(ROWS) | {"emil": ("20210501", "40,under_validation,2021-05-01,y,male,India,,,n,,,,,")}
    rows |= {"fred": ("20210501", "40,healthy,2021-05-01,y,male,India,,,n,,,,,")}  # no folder
    del rows["anna"]
    write_table(copy, rows)
    tone(copy / "Extracted_data" / "20210501" / "emil" / "vowel-a.wav", 500, 48000)
    (copy / "Extracted_data" / "20210501" / "cleo" / "vowel-a.wav").write_bytes(b"")
    cohort = read(copy)
    assert cohort.persons == ["coswara-bela", "coswara-cleo"]
    assert set(cohort[1].streams) == {"cough_heavy", "breathing_deep"}
    said = capsys.readouterr().out
    for why in (
        "1 person(s) without a row", "1 person(s) of status 'under_validation'", "1 sound(s) damaged or not wav",
        "1 row(s) of combined_data.csv have no folder",
    ):  # fmt: skip
        assert why in said, said


def twice(root):
    shutil.copytree(root / "Extracted_data" / "20200413" / "anna", root / "Extracted_data" / "20210501" / "anna")


def packed(root):
    shutil.rmtree(root / "Extracted_data")
    (root / "20200413").mkdir()
    (root / "20200413" / "20200413.tar.gz.aa").write_bytes(b"x")


def outside(root):
    shutil.move(root / "Extracted_data" / "20200413" / "anna", root.parent / "anna")
    (root / "Extracted_data" / "20200413" / "anna").symlink_to(root.parent / "anna")


def sound_outside(root):
    file = next((root / "Extracted_data" / "20200413" / "anna").glob("*.wav"))
    shutil.move(file, root.parent / "else.wav")
    file.symlink_to(root.parent / "else.wav")


def doubled(root):
    with open(root / "combined_data.csv", "a") as f:
        f.write(f"anna,{ROWS['anna'][1]}\n")


def ratings(root, text):
    (root / "annotations" / "cough-heavy_labels.csv").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda root: (root / "combined_data.csv").unlink(), "holds no combined_data.csv"),
        (lambda root: (root / "combined_data.csv").write_text(""), "combined_data.csv is empty"),
        (lambda root: (root / "combined_data.csv").write_text("id,a\nanna,3\n"), "has no column 'g'"),
        (lambda root: write_table(root, {"anna": ("", "1,2")}), "row 2: 3 cells under 15 names"),
        (doubled, "the id anna has two rows"),
        (twice, "one id is in two folders"),
        (packed, r"run the copy's extract_data.py"),
        (lambda root: shutil.rmtree(root / "Extracted_data"), "is it Coswara-Data, unpacked"),
        (outside, "is a link out of"),
        (sound_outside, "is a link out of"),
        (lambda root: ratings(root, "FILENAME, QUALITY\nanna_cough-heavy,9\n"), "is not <id>_<sound> with 0, 1 or 2"),
        (lambda root: ratings(root, "FILENAME, QUALITY\nanna,1\n"), "is not <id>_<sound>"),
        (lambda root: [f.write_bytes(b"") for f in root.rglob("*.wav")], "no person of Coswara could be read"),
    ],
)  # fmt: skip
def test_traps_are_refused_by_name(copy, spoil, says):
    spoil(copy)
    with pytest.raises(MienError, match=says) as error:
        read(copy)
    assert "\n" not in str(error.value)


FILES = [f"Extracted_data/{day}/{p}/{s}.wav" for p, (day, _) in ROWS.items() for s in SOUNDS if p != "dora"]
FILES += ["annotations/cough-heavy_labels.csv"]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(FILES)))
def test_missing_files_make_a_smaller_cohort_or_a_named_error(copy, tmp_path_factory, gone):
    root = tmp_path_factory.mktemp("coswara") / "Coswara-Data"
    shutil.copytree(copy, root)
    for name in gone:
        (root / name).unlink()
    rated = FILES[-1] not in gone
    left = {}
    for name in set(FILES[:-1]) - gone:
        _, _, person, sound = name.removesuffix(".wav").split("/")
        if not (rated and (person, sound) == ("bela", "cough-heavy")):
            left.setdefault(f"coswara-{person}", set()).add(sound.replace("-", "_"))
    if not left:
        with pytest.raises(MienError, match="no person of Coswara could be read"):
            read(root)
        return
    assert {r.person: set(r.streams) for r in read(root)} == left
