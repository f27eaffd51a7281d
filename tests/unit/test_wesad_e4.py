"""WESAD's wristband archives and questionnaires, invented in the official layout with planted moments and real quirks."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.data import empatica
from mien.data.datasets import wesad

from .test_wesad import person as pickled

ZERO = dt.datetime(2017, 5, 22, 7, 39, 1, tzinfo=dt.UTC).timestamp()  # 9:39:01 by the chest's clock
FIRST = ZERO - 45  # the wristband was switched on before
SECONDS = 600
QUEST = """# Subj;S{number};;;;;;;;
# ORDER;Base;TSST;Medi 1;Fun;Medi 2;sRead;fRead;;
# START;0.3;2.08;3.4;5.1;7;1.55;6.5;;
# END;1.5;3.3;5.01;6.3;8.05;2;6.55;;
;;;;;;;;
# PANAS;1;1;3
# STAI;3;1;1;3;1;3
# STAI;1;4;4;1;4;1
# STAI;4;1;1;4;1;4
# STAI;2;2;2;2;2;2
# STAI;4;1;1;4;;4
# DIM;7;3;;
# DIM;2;8;;
# DIM;8;1;;
# DIM;7;4;;
# DIM;9;1;;
# SSSQ;3;3;2
"""
HEADER = {"00:11": {"sensor": ["ECG"], "sampling rate": 700, "date": "2017-5-22", "time": "9:39:1.0"}}


def csv(rate, columns, values, start=FIRST):
    head = [", ".join([f"{start:f}"] * columns), ", ".join([f"{rate:f}"] * columns)]
    return "\n".join([*head, *(",".join(f"{x:g}" for x in row) for row in values)]) + "\n"


def archive(start=FIRST, seconds=SECONDS, **changes):
    """Every sensor says the second since the wristband began (BVP, EDA, TEMP, HR), or sixty-fourths of it (ACC)."""
    at = {rate: np.arange(rate * seconds) / rate for rate in (1, 4, 32, 64)}
    files = {
        "ACC.csv": csv(32, 3, np.tile(np.floor(at[32])[:, None] % 64, (1, 3)), start),
        "BVP.csv": csv(64, 1, at[64][:, None], start),
        "EDA.csv": csv(4, 1, at[4][:, None] / 100, start) + "\n",  # a blank line ends it
        "TEMP.csv": csv(4, 1, 30 + at[4][:, None] / 1000, start),
        "HR.csv": csv(1, 1, 60 + at[1][:, None] / 100, start + 10),
        "IBI.csv": f"{start:f}, IBI\n" + "".join(f"{0.8 * k:.6f},0.800000\n" for k in range(1, int(seconds / 0.8))),
        "tags.csv": f"{start + 100:.2f}\n{start + 200:.2f}\n",
        "info.txt": "an E4\n",
    }
    return {k: v for k, v in (files | changes).items() if v is not None}


def person(folder: Path, number: int, *, files=None, quest=QUEST, header=HEADER, packed=True) -> Path:
    home = folder / f"S{number}"
    home.mkdir(parents=True, exist_ok=True)
    if packed:
        with zipfile.ZipFile(home / f"S{number}_E4_Data.zip", "w", zipfile.ZIP_DEFLATED) as z:
            for name, text in (files or archive()).items():
                z.writestr(name, text)
    else:
        (home / f"S{number}_E4_Data").mkdir()
        for name, text in (files or archive()).items():
            (home / f"S{number}_E4_Data" / name).write_text(text)
    if quest is not None:
        (home / f"S{number}_quest.csv").write_text(quest.format(number=number))
    if header is not None:
        rows = "\n".join(f"{i}\t0\t1\t2\t" for i in range(9))
        (home / f"S{number}_respiban.txt").write_text(
            f"# OpenSignals Text File Format\n# {json.dumps(header)}\n# EndOfHeader\n{rows}\n"
        )
    (home / f"S{number}_readme.txt").write_text("Age: 25\nGender: male\n")
    return home


@pytest.fixture
def copy(home):
    person(home / "WESAD", 2)
    person(home / "WESAD", 3, packed=False)
    return home / "WESAD"


def read(root, **options):
    return wesad.load(wesad.Config(root=str(root), **{"source": "e4", **options}))


def test_conditions_are_cut_where_the_questionnaire_says(copy, capsys):
    """0.3 is 30 s; ten seconds are left at either end, as the pickles leave them; the wristband began 45 s before."""
    cohort = read(copy)
    assert cohort.persons == ["wesad-S2", "wesad-S3"]
    two, three = (list(cohort)[:5], list(cohort)[5:])
    assert [r.labels["affect"] for r in two] == ["baseline", "stress", "meditation", "amusement", "meditation"]
    spans = [(r.start_s, r.start_s + r.seconds) for r in two]
    assert spans == [(40, 100), (138, 200), (230, 291), (320, 380), (430, 475)]
    for r in two:
        for name, rate in (("bvp", 64), ("eda", 4)):
            x = r.streams[name].values[:, 0] * (100 if name == "eda" else 1)
            assert x[0] == pytest.approx(r.start_s + 45, abs=0.01)
            assert x[-1] == pytest.approx(r.start_s + r.seconds + 45 - 1 / rate, abs=0.01)
        assert r.streams["acc"].values[0] * 64 == pytest.approx([(r.start_s + 45) % 64] * 3)
        assert r.streams["hr"].values[0, 0] == pytest.approx(60 + (r.start_s + 45 - 10) / 100, abs=0.01)
    assert dict(two[0].attributes) == {"age": 25.0, "sex": "male"}
    assert [set(r.labels) for r in two][:3] == [{"affect", "stress"}, {"affect", "stress"}, {"affect"}]
    for a, b in zip(two, three, strict=True):  # packed or not
        assert a.streams["bvp"].values.tolist() == b.streams["bvp"].values.tolist()
    assert "left out" not in capsys.readouterr().out


def test_beats_and_presses_are_events(copy):
    base = read(copy)[0]
    beats, tags = base.streams["ibi"], base.streams["tags"]
    assert beats.durations_s == pytest.approx(np.full(74, 0.8))  # those that lie in the 60 s whole
    assert np.diff(beats.times_s) == pytest.approx(0.8)
    assert beats.times_s[0] == pytest.approx(107 * 0.8 - 45 - 40)  # the condition began 85 s after the wristband
    assert tags.times_s.tolist() == pytest.approx([100 - 45 - 40])
    assert (tags.kinds, tags.seconds) == (("tag",), 60)


def test_answers_are_labels_where_they_are_asked_for(copy):
    rows = [dict(r.labels) for r in read(copy, questionnaires=True)][:5]
    assert [(r.get("valence"), r.get("arousal"), r.get("stai")) for r in rows] == [
        (7, 3, 9), (2, 8, 24), (8, 1, 6), (7, 4, 15), (9, 1, None),  # one item of the last is blank
    ]  # fmt: skip
    assert not {"valence", "stai"} & set(read(copy)[0].labels)


def test_the_pickles_take_the_answers_too(home, capsys):
    pickled(home / "WESAD", 2)
    plain = wesad.load(wesad.Config(root=str(home / "WESAD")))
    (home / "WESAD" / "S2" / "S2_quest.csv").write_text(QUEST.format(number=2))
    asked = wesad.load(wesad.Config(root=str(home / "WESAD"), questionnaires=True))
    assert [r.labels.get("valence") for r in asked] == [7, 2, 7, 8]  # baseline, stress, amusement, meditation
    assert [r.id for r in asked] == [r.id for r in plain]
    assert {k: v for k, v in asked[0].labels.items() if k in plain[0].labels} == dict(plain[0].labels)
    (home / "WESAD" / "S2" / "S2_quest.csv").unlink()
    assert "valence" not in wesad.load(wesad.Config(root=str(home / "WESAD"), questionnaires=True))[0].labels
    assert "S2 has no S2_quest.csv" in capsys.readouterr().out


def test_a_blank_cell_is_a_gap_and_a_short_sensor_is_told(home, capsys):
    lines = archive()["TEMP.csv"].splitlines()
    lines[2 + 4 * 90] = "nan"
    person(home / "WESAD", 2, files=archive(**{"TEMP.csv": "\n".join(lines), "IBI.csv": None, "HR.csv": None}))
    cohort = read(home / "WESAD")
    assert (~cohort[0].streams["temp"].valid).sum() == 1
    assert not {"hr", "ibi"} & set(cohort[0].streams)
    person(home / "B", 2, files=archive(seconds=400))
    assert len(read(home / "B")) == 3
    assert (
        "2 condition(s) shorter than their margins, or that the wristband did not record whole"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("hours", [-2, 2, 1000])
def test_a_clock_that_is_hours_off_leaves_its_person_out(copy, hours, capsys):
    person(copy, 5, files=archive(start=FIRST + 3600 * hours))
    assert read(copy).persons == ["wesad-S2", "wesad-S3"]
    said = capsys.readouterr().out
    assert "1 person(s) whose conditions lie outside what the wristband recorded: is a clock off by hours?" in said
    assert f"by {-hours:+.1f} h" in said


def test_who_has_no_times_is_left_out(copy, capsys):
    person(copy, 5, quest=None)
    person(copy, 6, header=None)
    assert read(copy).persons == ["wesad-S2", "wesad-S3"]
    said = capsys.readouterr().out
    assert "1 person(s) without quest.csv" in said
    assert "1 person(s) without respiban.txt" in said


PARTS = [
    *(f"S2/S2_{what}" for what in ("E4_Data.zip", "quest.csv", "respiban.txt", "readme.txt")),
    *(f"S3/S3_{what}" for what in ("quest.csv", "respiban.txt", "readme.txt")),
    *(
        f"S3/S3_E4_Data/{n}"
        for n in ("ACC.csv", "BVP.csv", "EDA.csv", "TEMP.csv", "HR.csv", "IBI.csv", "tags.csv", "info.txt")
    ),
]


def values(recording):
    return {n: np.asarray(s.values if hasattr(s, "values") else s.times_s) for n, s in recording.streams.items()}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gone=st.sets(st.sampled_from(PARTS), min_size=1, max_size=6))
def test_missing_files_make_a_smaller_cohort_or_a_named_error(copy, tmp_path_factory, gone):
    """Whatever is left is what it was with all files there."""
    root = tmp_path_factory.mktemp("e4") / "WESAD"
    shutil.copytree(copy, root)
    whole = {r.id: (values(r), r.labels) for r in read(root)}
    for name in gone:
        (root / name).unlink()
    left, said = [], ""
    try:
        left = list(read(root))
    except MienError as error:
        said = str(error)
    assert left or re.search(r"S\d|WESAD|\.csv|\.zip", said), said
    for p in ("S2", "S3"):
        if gone & {f"{p}/{p}_quest.csv", f"{p}/{p}_respiban.txt", "S2/S2_E4_Data.zip" if p == "S2" else ""}:
            assert f"wesad-{p}" not in {r.person for r in left}
    for r in left:
        known, labels = whole[r.id]
        assert r.labels == labels
        assert set(r.streams) <= set(known)
        for n, x in values(r).items():
            np.testing.assert_array_equal(x, known[n])


def twice(root):
    person(root / "second", 2)


def link_out(root):
    outside = person(root.parent / "elsewhere", 7)
    (root / "S7").mkdir()
    (root / "S7" / "S7_E4_Data.zip").symlink_to(outside / "S7_E4_Data.zip")


def file_link_out(root):
    (root.parent / "secret.csv").write_text("1\n")
    file = root / "S3" / "S3_E4_Data" / "tags.csv"
    file.unlink()
    file.symlink_to(root.parent / "secret.csv")


def quest_link_out(root):
    (root.parent / "quest.csv").write_text(QUEST.format(number=2))
    (root / "S2" / "S2_quest.csv").unlink()
    (root / "S2" / "S2_quest.csv").symlink_to(root.parent / "quest.csv")


def truncated(root):
    file = root / "S2" / "S2_E4_Data.zip"
    file.write_bytes(file.read_bytes()[:-3000])


def bomb(root):
    with zipfile.ZipFile(root / "S2" / "S2_E4_Data.zip", "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("ACC.csv", b"1")
        z.filelist[0].file_size = 10 << 30


def files(**changes):
    def spoil(root):
        person(root, 2, files=archive(**{f"{k}.csv": v for k, v in changes.items()}))

    return spoil


def quest(old, new):
    def spoil(root):
        text = QUEST.format(number=2)
        assert old in text
        (root / "S2" / "S2_quest.csv").write_text(text.replace(old, new))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (twice, "S2 is there twice"),
        (link_out, "is a link out of"),
        (file_link_out, "is a link out of"),
        (quest_link_out, "is a link out of"),
        (truncated, "S2_E4_Data.zip: truncated, damaged or no zip"),
        (bomb, "refused as a decompression bomb"),
        (files(ACC=None), "has no ACC.csv"),
        (files(**dict.fromkeys(("ACC", "BVP", "EDA", "TEMP", "HR"))), "is it an E4 archive"),
        (files(BVP=csv(32, 1, np.zeros((9, 1)))), "BVP.csv is at 32 Hz, not 64"),
        (files(BVP=csv(64, 1, np.zeros((9, 1)), start=0)), "its clock was never set"),
        (files(BVP=csv(64, 2, np.zeros((9, 2)))), "not one number for 1 column"),
        (files(ACC=archive()["ACC.csv"] + "1,2\n"), "ACC.csv: the number of columns changed"),
        (files(EDA=archive()["EDA.csv"] + "x\n"), "EDA.csv: could not convert"),
        (files(TEMP="1495437325.0\n"), "ends before its rate"),
        (files(IBI="1495437325.0, IBI\n1.0,-0.8\n"), "is not a positive number"),
        (quest("2.08", "2.61"), "'2.61' is no time in minutes.seconds"),
        (quest("2.08", "2.080"), "'2.080' is no time"),
        (quest(";3.3;", ";1.3;"), "TSST ends at 1.3, before it starts at 2.08"),
        (quest("Medi 2", "Yoga"), "'Yoga' is no condition"),
        (quest("# END;1.5;", "# END;"), "7 conditions with 7 starts and 6 ends"),
        (quest("Subj;S2", "Subj;S4"), "is of 'S4', not S2"),
        (quest("DIM;7;3", "DIM;7;30"), "are not numbers from 1 to 9"),
        (lambda root: (root / "S2" / "S2_respiban.txt").write_text("# {}\n"), "its head has no date and time"),
        (lambda root: person(root, 2, header={"a": {"date": "22.5.2017", "time": "9:39"}}), "its head has no date and time"),
    ],
)  # fmt: skip
def test_traps_are_refused_by_name(copy, spoil, says):
    spoil(copy)
    with pytest.raises(MienError, match=says) as error:
        read(copy)
    assert "\n" not in str(error.value)


def test_the_chest_is_not_in_the_wristbands_archive(copy):
    with pytest.raises(MienError, match="takes device=wrist"):
        read(copy, device="both")


def test_a_cut_is_there_whole_or_not_at_all():
    trace = empatica.Trace(start=100.0, rate_hz=4.0, values=np.arange(40, dtype=np.float32)[:, None])
    spec = wesad.WRIST["eda"][2]
    assert empatica.signal(trace, spec, 1.0, 102.0, 104.0).values[:, 0].tolist() == list(range(8, 16))
    for start, end in ((99.0, 101.0), (109.0, 111.0), (102.0, 102.0)):
        assert empatica.signal(trace, spec, 1.0, start, end) is None
