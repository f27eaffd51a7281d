"""What a hostile or damaged copy may hold in the place of any file, for every reader of a public database."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mien.core.errors import MienError
from mien.core.records import Cohort
from mien.data import sources
from mien.data.datasets import coswara, crema_d, daic_woz, e_daic, globem, ravdess, studentlife, wesad

from . import test_coswara, test_daic_woz, test_e_daic, test_globem, test_speech_sets, test_studentlife, test_wesad
from . import test_wesad_e4 as wristband

coswara_copy, globem_copy, studentlife_copy = test_coswara.copy, test_globem.copy, test_studentlife.copy
crema, rav, woz, extended = test_speech_sets.crema, test_speech_sets.rav, test_daic_woz.woz, test_e_daic.extended
wesad_copy, e4_copy = test_wesad.copy, wristband.copy
E4 = {"source": "e4", "questionnaires": True}
COPIES = [  # fixture, reader, its options, one file of each kind that it reads
    ("coswara_copy", coswara, {}, ["combined_data.csv", "annotations/cough-heavy_labels.csv",
                                   "Extracted_data/20200413/anna/vowel-a.wav"]),
    ("crema", crema_d, {"labels": "voice"}, ["VideoDemographics.csv", "processedResults/summaryTable.csv",
                                             "AudioWAV/1001_IEO_ANG_HI.wav"]),
    ("rav", ravdess, {}, ["Audio_Speech_Actors_01-24/Actor_01/03-01-05-02-01-02-01.wav"]),
    ("woz", daic_woz, {}, ["train_split_Depression_AVEC2017.csv", "300_P/300_CLNF_AUs.txt", "300_P/300_TRANSCRIPT.csv"]),
    ("extended", e_daic, {}, ["labels/dev_split.csv", "labels/Detailed_PHQ8_Labels.csv", "data/300_P/300_Transcript.csv"]),
    ("globem_copy", globem, {}, ["INS-W_2/SurveyData/dep_weekly.csv", "INS-W_2/FeatureData/call.csv"]),
    ("studentlife_copy", studentlife, {}, ["survey/PHQ-9.csv", "EMA/response/Stress/Stress_u00.json",
                                           "call_log/call_log_u00.csv"]),
    ("wesad_copy", wesad, {}, ["S2/S2.pkl", "S2/S2_readme.txt"]),
    ("e4_copy", wesad, E4, ["S2/S2_quest.csv", "S2/S2_respiban.txt", "S2/S2_E4_Data.zip", "S3/S3_E4_Data/BVP.csv"]),
]  # fmt: skip
EVERY = [pytest.param(c, f, id=f"{c[0]}-{Path(f).name}") for c in COPIES for f in c[3]]


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def link(file: Path, to: Path) -> None:
    file.unlink()
    file.symlink_to(to)


def huge(file: Path) -> None:
    """Ten gigabytes, of which the disk holds none: read whole it would fill the memory."""
    os.truncate(file, 10 << 30)


SPOILT = {
    "a folder": folder,
    "a pipe": pipe,
    "a link to itself": lambda f: link(f, f),
    "a link to nowhere": lambda f: link(f, f.parent / "nowhere"),
    "empty": lambda f: f.write_bytes(b""),
    "one endless line": lambda f: f.write_bytes(f.read_bytes() + b"x" * 300_000 + b"\n"),
    "another encoding": lambda f: f.write_bytes(b"\xff\xfe" + f.read_bytes().decode("latin1").encode("utf-16-le")),
    "a page that says 404": lambda f: f.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>\n"),
}  # fmt: skip


def read(module, root: Path, options) -> dict[str, tuple]:
    cohort: Cohort = module.load(module.Config(root=str(root), **options))
    return {r.id: (r.person, dict(r.labels)) for r in cohort}


@pytest.mark.parametrize(("copy", "file"), EVERY)
def test_whatever_stands_in_a_files_place_is_an_error_or_a_loss_and_never_a_wrong_label(copy, file, request, tmp_path):
    name, module, options, _ = copy
    root = request.getfixturevalue(name)
    before = read(module, root, options)
    spoken: dict[str, str] = {}
    for what, spoil in SPOILT.items():
        other = tmp_path / what / root.name
        shutil.copytree(root, other)
        spoil(other / file)
        try:
            after = read(module, other, options)
        except MienError as error:
            spoken[what] = str(error)
            continue
        for key, (person, labels) in after.items():
            if file.endswith("_labels.csv"):  # of quality; without it bad sounds stay, which is told
                assert key in before, (what, key)
                continue
            assert key in before, (what, key)
            assert person == before[key][0], what
            assert labels.items() <= before[key][1].items(), (what, key)
    assert not [s for s in spoken.values() if "\n" in s]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'a,b\n1,"2\n3,4\n', "is not a csv file"),  # a quote that swallows what follows
        (b'a,"b"c\n1,2\n', "is not a csv file"),
        (b'a,b"\n1,2\n', "is damaged"),
        (b"a,b\0\n1,2\n", "is damaged|is not a csv file"),
    ],
)
def test_a_stray_quote_or_zero_byte_is_refused_where_it_would_hide_a_column_or_rows(tmp_path, text, says):
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(MienError, match=says):
        sources.table(tmp_path / "t.csv", ("a",))
    with pytest.raises(MienError, match=says):
        list(sources.columns(tmp_path / "t.csv", ("a",), ("b",)))


@pytest.mark.parametrize("kind", ["STAI", "DIM"])
def test_a_lost_answer_does_not_shift_the_others(e4_copy, kind):
    """The i-th answer is of the i-th condition: without the first, baseline would get what was said after stress."""
    file = e4_copy / "S2" / "S2_quest.csv"
    file.write_text(file.read_text().replace(f"# {kind};", f"# {kind}X;", 1))
    with pytest.raises(MienError, match=f"4 answers of {kind} to 5 conditions"):
        read(wesad, e4_copy, E4)


@pytest.mark.parametrize("age", ["fifteen", "nan", "-3", "151"])
def test_who_may_be_a_minor_is_left_out(coswara_copy, age):
    file = coswara_copy / "combined_data.csv"
    file.write_text(file.read_text().replace(",15,", f",{age},").replace("dora,15", f"dora,{age}"))
    cohort = coswara.load(coswara.Config(root=str(coswara_copy)))
    assert "coswara-dora" not in cohort.persons
    assert any("whose age is no number of years" in line for line in cohort.told)


def test_what_is_not_there_is_told(coswara_copy, wesad_copy):
    (coswara_copy / "annotations" / "cough-heavy_labels.csv").unlink()
    told = coswara.load(coswara.Config(root=str(coswara_copy))).told
    assert any("no annotations of" in line and "cough-heavy" in line for line in told)
    (wesad_copy / "S3" / "S3.pkl").unlink()
    told = wesad.load(wesad.Config(root=str(wesad_copy))).told
    assert any("1 person(s) whose folder holds no pickle (S3)" in line for line in told)


@pytest.mark.parametrize(
    ("name", "module", "options", "file"),
    [
        ("coswara_copy", coswara, {}, "combined_data.csv"),
        ("crema", crema_d, {}, "AudioWAV/1001_IEO_ANG_HI.wav"),
        ("woz", daic_woz, {}, "300_P/300_CLNF_AUs.txt"),
        ("e4_copy", wesad, E4, "S3/S3_E4_Data/BVP.csv"),
    ],
)
def test_ten_gigabytes_are_not_read_into_memory(name, module, options, file, request):
    root = request.getfixturevalue(name)
    huge(root / file)
    try:
        told = module.load(module.Config(root=str(root), **options)).told
    except MienError as error:
        told = (str(error),)
    assert any("over 2 GB" in line for line in told)
