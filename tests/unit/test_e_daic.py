"""E-DAIC's official layout, invented: three sessions whose every moment is known, and the traps of real copies."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.data import commands
from mien.data.datasets import e_daic

from .test_daic_woz import SECONDS, TRACK, read, said, shorten, sound, spans, table

E_HEAD = "Participant_ID,Gender,PHQ_Binary,PHQ_Score,PCL-C (PTSD),PTSD Severity"
E_AUS = [*(f"{a}_r" for a in e_daic._INTENSITIES), *(f"{a}_c" for a in e_daic._PRESENCES)]
E_COLUMNS = [f"pose_{k}{a}" for k in "TR" for a in "xyz"] + list(e_daic._EYES) + E_AUS


@pytest.fixture
def extended(home) -> Path:
    root = home / "E-DAIC"
    for number in (300, 600, 718):
        folder = root / "data" / f"{number}_P"
        features = folder / "features"
        features.mkdir(parents=True)
        (folder / f"{number}_Transcript.csv").write_text(
            f'Start_Time,End_Time,Text,Confidence\n1.0,2.0,"well, yes",0.9\n5.0,6.5,number {number},0.8\n7.0,7.5,scrubbed_entry,0.1\n'
        )
        sound(root / "data", number)
        value = {"AU01_r": lambda i: i / 100, "AU02_r": lambda i, n=number: n / 200, "pose_Rx": lambda i: -0.5}
        table(
            features / f"{number}_OpenFace2.1.0_Pose_{'Gaze' if number == 600 else 'gaze'}_AUs.csv", [*TRACK, *E_COLUMNS],
            np.arange(SECONDS * 30) / 30, lambda i, c, v=value: v.get(c, lambda i: 0)(i), mark=",",
        )  # fmt: skip
        for kind, names in (("egemaps", e_daic._EGEMAPS), ("mfcc", [f"pcm_fftMag_{c}" for c in e_daic._MFCC])):
            rows = [f"'x';{i / 100:.2f};" + ";".join([str(i)] * len(names)) for i in range(SECONDS * 100)]
            rows.insert(0, ";".join(["name", "frameTime", *names]))
            (features / f"{number}_OpenSMILE2.3.0_{kind}.csv").write_text("\n".join(rows) + "\n")
    (root / "labels").mkdir()
    (root / "labels" / "train_split.csv").write_text(f"{E_HEAD}\n300,female,0,4,0,20\n")
    (root / "labels" / "dev_split.csv").write_text(f"{E_HEAD},Age\n600,male,1,11,1,55,44\n")
    (root / "labels" / "test_split.csv").write_text(f"{E_HEAD}\n718,male,,,0,\n")
    (root / "labels" / "Detailed_PHQ8_Labels.csv").write_text("Participant_ID,PHQ_8NoInterest,PHQ_8Total\n300,1,5\n718,2,12\n")  # fmt: skip
    return root


def test_e_daic_is_read_with_its_own_separators_and_labels(extended, capsys):
    cohort = read(extended, e_daic, streams=tuple(["transcript", *e_daic.SPECS]))
    assert cohort.persons == ["daic-300", "daic-600", "daic-718"]
    assert [dict(r.labels) for r in cohort] == [
        {"official_split": "train", "phq8": 4.0, "depression": "no", "ptsd": "no", "pcl_c": 20.0},
        {"official_split": "dev", "phq8": 11.0, "depression": "yes", "ptsd": "yes", "pcl_c": 55.0},
        {"official_split": "test", "phq8": 12.0, "depression": "yes", "ptsd": "no"},
    ]  # fmt: skip
    assert [dict(r.attributes) for r in cohort] == [{"sex": "female"}, {"sex": "male", "age": 44.0}, {"sex": "male"}]
    for r in cohort:
        number = int(r.session)
        assert len(r.streams) == 9
        assert said(r.streams["transcript"]) == [
            (1, "participant", "well, yes"),
            (5, "participant", f"number {number}"),
        ]
        face = r.streams["face"]
        assert face.values[200, :2].tolist() == pytest.approx([2.0, number / 200])
        assert set(np.flatnonzero(~face.valid).tolist()) == {*range(30, 45), *range(210, 225)}  # tracking, scrubbed
        assert r.streams["pose"].values[0].tolist() == [-0.5, 0, 0]
        for name in ("sound", "egemaps", "mfcc"):
            assert spans(r.streams[name]) == [(1.0, 2.0), (5.0, 6.5)]  # their own utterances
        assert r.streams["egemaps"].values[150].tolist() == [150] * 23
        assert r.streams["mfcc"].values[555].tolist() == [555] * 13
    assert "not the sum of their items, taken as they are: 300" in capsys.readouterr().out
    assert "participant's utterances alone" in cohort.card.source
    whole = read(extended, e_daic, streams=("sound",), prompts=True)
    assert spans(whole[1].streams["sound"]) == [(0.0, 7.0), (7.5, 10.0)]
    assert spans(whole[0].streams["sound"]) == [(0.0, 4.0), (5.0, 7.0), (7.5, 10.0)]  # cut out, and no line says so
    assert "with the interviewer's voice" in whole.card.source
    assert commands.describe_command(["e_daic", f"root={extended}", "streams=[face]"]) in (0, None)
    assert "label ptsd" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r: shutil.rmtree(r / "data"), "holds no folder 300_P, 301_P …: is it E-DAIC, and unpacked"),
        (lambda r: [shutil.move(f, f"{f}.tar.gz") for f in (r / "data").glob("*_P")], r"3 archive\(s\) that are not unpacked"),
        (lambda r: shutil.rmtree(r / "labels"), "holds no labels/train_split.csv"),
        (lambda r: shutil.copytree(r / "data" / "300_P", r / "300_P"), "session 300 is in two folders"),
        (lambda r: (r / "labels" / "dev_split.csv").write_text(f"{E_HEAD}\n300,female,0,4,0,20\n"), "300 is in two parts"),
        (lambda r: (r / "labels" / "dev_split.csv").write_text(f"{E_HEAD}\n550,female,0,4,0,20\n"), "'550' is no participant"),
        (lambda r: (r / "labels" / "dev_split.csv").write_text(f"{E_HEAD}\n600,female,0,4,2,20\n"), "the PTSD label of 600, '2'"),
        (lambda r: (r / "labels" / "Detailed_PHQ8_Labels.csv").write_text("a,b\n1,2\n"), "has no column 'Participant_ID'"),
        (lambda r: (r / "labels" / "Detailed_PHQ8_Labels.csv").write_text("Participant_ID,PHQ_8Total\n300,99\n"), "'300', '99' is not"),
    ],
)  # fmt: skip
def test_e_daic_refuses_by_name(extended, spoil, says):
    spoil(extended)
    with pytest.raises(MienError, match=says):
        read(extended, e_daic)


@pytest.mark.parametrize(
    ("name", "spoil", "gone", "says"),
    [
        ("features/*egemaps.csv", lambda f: f.write_text(f.read_text().replace(";", ",")), "egemaps", "with no column frametime"),
        ("features/*egemaps.csv", lambda f: shorten(f, 5000), "egemaps", "egemaps stream(s) cut off or damaged"),
        ("features/*AUs.csv", lambda f: f.unlink(), "face", "session(s) without face"),
        ("*_Transcript.csv", lambda f: f.write_bytes(f.read_bytes() + b"8,9,\xff"), "transcript egemaps", "that are not UTF-8 tables"),
        ("*_Transcript.csv", lambda f: f.write_text("a,b\n1,2\n"), "transcript egemaps", "not UTF-8 tables of Start_Time"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_e_daic_costs_its_stream(extended, capsys, name, spoil, gone, says):
    spoil(next((extended / "data" / "300_P").glob(name)))
    first, *others = read(extended, e_daic, streams=("transcript", "face", "egemaps"))
    assert set(first.streams) == {"transcript", "face", "egemaps"} - set(gone.split())
    assert len(others) == 2
    assert says in (out := capsys.readouterr().out), out


E_FILES = [f"data/{n}_P/{n}_Transcript.csv" for n in (300, 600)] + [
    *(f"data/{n}_P/features/{n}_OpenSMILE2.3.0_egemaps.csv" for n in (300, 600)), "labels/train_split.csv", "labels/dev_split.csv",
    "labels/Detailed_PHQ8_Labels.csv",
]  # fmt: skip


@settings(max_examples=14, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(E_FILES)))
def test_missing_files_of_e_daic_make_a_smaller_cohort_or_a_named_error(extended, tmp_path_factory, gone):
    root = tmp_path_factory.mktemp("edaic") / "E-DAIC"
    shutil.copytree(extended, root, ignore=shutil.ignore_patterns("*.wav", "718_P", "test_split.csv"))
    for name in gone:
        (root / name).unlink()
    expected = {}
    for number, part in ((300, "train"), (600, "dev")):
        talk = f"data/{number}_P/{number}_Transcript.csv" not in gone
        heard = talk and f"data/{number}_P/features/{number}_OpenSMILE2.3.0_egemaps.csv" not in gone
        there = {n for n, is_there in (("transcript", talk), ("egemaps", heard)) if is_there}
        if there and f"labels/{part}_split.csv" not in gone:
            expected[f"daic-{number}"] = there
    streams = ("transcript", "egemaps")
    if not expected:
        with pytest.raises(MienError, match=r"no session of E-DAIC could be read|holds no "):
            read(root, e_daic, streams=streams)
        return
    assert {r.person: set(r.streams) for r in read(root, e_daic, streams=streams)} == expected
