"""GLOBEM's official layout, invented: daily features that count the days, and the traps of real copies."""

import shutil
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.core.records import Signal
from mien.data import commands, features
from mien.data.datasets import globem

CALL = "f_call:phone_calls_rapids_"
COLUMNS = [
    *(f"{w}_{f}" for w in ("incoming", "outgoing") for f in ("count", "distinctcontacts", "sumduration", "entropyduration")),
    "missed_count", "missed_distinctcontacts",
]  # fmt: skip
FIRST = date(2019, 4, 20)
DAYS = 40
LABELS = {  # person -> (day of a label, what dep says)
    "INS-W_300": [(date(2019, 5, 18), "True"), (date(2019, 5, 25), "False")],
    "INS-W_301": [(date(2019, 5, 18), "False"), (date(2019, 7, 30), "True")],  # the last is long after the phone was returned
    "INS-W_302": [(date(2019, 5, 18), "")],
}  # fmt: skip


def cells(person: str, i: int) -> dict[str, str]:
    """Day i: i calls in, 2 i out, 1 missed; every third day of 301 nothing at all; 300 had no call on day 5."""
    if person == "INS-W_301" and i % 3 == 0:
        return {}
    if person == "INS-W_300" and i == 5:  # no call: no sum, no entropy
        return {c: "0.0" for c in COLUMNS if c.endswith(("count", "contacts"))}
    of = {"count": i, "distinctcontacts": min(i, 3), "sumduration": 60 * i, "entropyduration": 0.5}
    out = {f"incoming_{k}": str(float(v)) for k, v in of.items()}
    out |= {f"outgoing_{k}": str(float(2 * v)) for k, v in of.items()}
    return out | {"missed_count": "1.0", "missed_distinctcontacts": "1.0"}


def features_of(file: Path, change=lambda person, i, row: row, people=tuple(LABELS), segment="allday", backwards=False):
    """FeatureData/call.csv with every version of every feature, as published; `_norm` and `_dis` are planted wrong."""
    names = [
        f"{CALL}{c}{v}:{s}" for s in ("14dhist", "morning", segment) for c in COLUMNS for v in ("", "_norm", "_dis")
    ]
    lines = [",".join(["pid", "date", *names])]
    order = [(p, i) for p in people for i in range(1, DAYS)]
    for person, i in reversed(order) if backwards else order:
        row = change(person, i, cells(person, i))
        values = {f"{CALL}{c}:{segment}": v for c, v in row.items()}
        values |= {n: "l" for n in names if row and ("_norm:" in n or "_dis:" in n or not n.endswith(segment))}
        lines.append(",".join([person, str(FIRST + timedelta(days=i)), *(values.get(n, "") for n in names)]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def labels_of(folder: Path, labels=None, name="dep_weekly"):
    rows = [f"{p},{day},2.0,{dep}" for p, of in (labels or LABELS).items() for day, dep in of]
    (folder / "SurveyData").mkdir(parents=True, exist_ok=True)
    (folder / "SurveyData" / f"{name}.csv").write_text("\n".join(["pid,date,phq4,dep", *rows]) + "\n")


@pytest.fixture
def copy(home) -> Path:
    root = home / "globem"
    folder = root / "INS-W_2"
    features_of(folder / "FeatureData" / "call.csv", people=(*LABELS, "INS-W_399"))
    labels_of(folder)
    labels_of(folder, {"INS-W_300": [(date(2019, 5, 26), "True")]}, "dep_endterm")
    (folder / "ParticipantsInfoData").mkdir()
    (folder / "ParticipantsInfoData" / "platform.csv").write_text("pid,platform\nINS-W_300,ios\nINS-W_301,Android\n")
    return root


def read(root, **options):
    return globem.load(globem.Config(root=str(root), **options))


def signal(recording, name) -> Signal:
    stream = recording.streams[name]
    assert isinstance(stream, Signal)
    return stream


def test_a_recording_is_the_28_days_before_a_label(copy, capsys):
    cohort = read(copy)
    assert [r.id for r in cohort] == [
        "globem-INS-W_300-2019-05-18", "globem-INS-W_300-2019-05-25", "globem-INS-W_301-2019-05-18"
    ]  # fmt: skip
    first, second, other = cohort
    calls = signal(first, "calls")
    assert (calls.rate_hz, calls.values.shape, calls.channels) == (
        1 / 86400,
        (28, 3),
        ("incoming", "outgoing", "missed"),
    )
    days = np.arange(28.0)  # 20 April + 0 … 27: day 0 is in no row, the label's day (28) is not in
    assert calls.valid is not None
    assert np.flatnonzero(~calls.valid).tolist() == [0]
    expected = np.stack([days, 2 * days, np.ones(28)], axis=1)
    expected[5] = 0
    assert np.array_equal(calls.values[1:], expected[1:])
    assert np.isnan(calls.values[0]).all()
    talk, entropy = signal(first, "talk"), signal(first, "talk_entropy")
    assert talk.values[5].tolist() == entropy.values[5].tolist() == [0, 0]  # of no call, by definition
    assert talk.values[6].tolist() == [360, 720]
    assert signal(second, "calls").values[:, 0].tolist() == [*range(7, 35)]
    assert signal(second, "calls").valid is None
    gaps = signal(other, "calls").valid
    assert gaps is not None
    assert np.flatnonzero(~gaps).tolist() == list(range(0, 28, 3))
    assert [r.labels["depression"] for r in cohort] == ["yes", "no", "no"]
    assert dict(first.attributes) == {"dataset": "INS-W_2", "year": 2019, "platform": "ios"}
    assert other.attributes["platform"] == "android"
    assert (first.start_s, second.start_s) == (50 * 86400, 57 * 86400)  # since 1 March
    said = capsys.readouterr().out
    for why in (
        "1 row(s) of dep_weekly.csv without an answer", "1 label(s) with no feature in the 28 days",
        "1 person(s) of call.csv without a label",
    ):  # fmt: skip
        assert why in said, said
    assert "PhysioNet" in cohort.card.licence
    assert len(cohort.for_purpose("training")[0]) == 3
    with pytest.raises(MienError, match="agreed to sharing"):
        cohort.for_purpose("sharing")


@pytest.mark.parametrize(("valid", "kept"), [(1.0, 1), (0.9, 2), (0.6, 3)])
def test_a_recipe_says_how_many_days_there_must_be(copy, valid, kept):
    table = features.tabulate(
        read(copy), seconds=28 * 86400, stride_s=86400, task="depression", streams=("calls",), valid=valid
    )
    full = np.isfinite(table.X[:, 0])
    assert full.sum() == kept
    mean = np.mean([i for i in range(1, 28) if i != 5] + [0])
    if valid == 0.9:
        assert table.X[0, 0] == pytest.approx(mean)  # over the days there are


def test_other_days_segments_and_labels(copy):
    assert [r.streams["calls"].values[:, 0].tolist() for r in read(copy, days=3)][1] == [32, 33, 34]
    assert [r.id for r in read(copy, labels="endterm")] == ["globem-INS-W_300-2019-05-26"]
    with pytest.raises(MienError, match="has no column 'f_call:.*:evening'"):
        read(copy, segment="evening")
    features_of(copy / "INS-W_2" / "FeatureData" / "call.csv", segment="evening")
    assert len(read(copy, segment="evening")) == 3


def test_the_table_of_all_sensors_will_do(copy):
    whole = read(copy)
    folder = copy / "INS-W_2" / "FeatureData"
    (folder / "call.csv").rename(folder / "rapids.csv")
    again = read(copy)
    assert again.fingerprint == whole.fingerprint
    with pytest.raises(MienError, match="has no column 'f_slp:"):
        read(copy, sensors=("sleep",))


def test_rows_in_any_order_and_with_a_byte_order_mark(copy):
    whole = read(copy)
    file = copy / "INS-W_2" / "FeatureData" / "call.csv"
    features_of(file, backwards=True)
    file.write_text("\ufeff" + file.read_text().replace(",", ";"))
    assert read(copy).fingerprint == whole.fingerprint


@pytest.mark.parametrize("bad", ["-60.0", "many", "inf", "1.2.3", "1e999"])
def test_a_value_that_cannot_be_is_a_gap_of_that_stream(copy, bad, capsys):
    def change(person, i, row):
        return row | {"incoming_sumduration": bad} if (person, i) == ("INS-W_300", 7) else row

    features_of(copy / "INS-W_2" / "FeatureData" / "call.csv", change)
    first = read(copy)[0]
    valid = signal(first, "talk").valid
    assert valid is not None
    assert np.flatnonzero(~valid).tolist() == [0, 7]
    assert np.flatnonzero(~signal(first, "calls").valid).tolist() == [0]
    assert "1 value(s) below nothing or not a number" in capsys.readouterr().out


def test_a_sum_that_is_missing_beside_calls_is_a_gap_and_never_filled(copy):
    def change(person, i, row):
        return {k: v for k, v in row.items() if k != "outgoing_sumduration" or i != 7}

    features_of(copy / "INS-W_2" / "FeatureData" / "call.csv", change)
    valid = signal(read(copy)[0], "talk").valid
    assert valid is not None
    assert np.flatnonzero(~valid).tolist() == [0, 7]


def test_several_years_are_read_when_asked_for_and_it_is_said(copy, capsys):
    third = copy / "INS-W_3"
    labels_of(third, {"INS-W_600": [(date(2020, 5, 24), "True")]})
    shift = timedelta(days=366)
    features_of(third / "FeatureData" / "call.csv", people=("INS-W_600",))
    file = third / "FeatureData" / "call.csv"
    for i in range(DAYS):
        file.write_text(
            file.read_text().replace(str(FIRST + timedelta(days=i)), str(FIRST + shift + timedelta(days=i)))
        )
    cohort = read(copy, sets=(2, 3))
    assert [r.attributes["year"] for r in cohort] == [2019, 2019, 2019, 2020]
    assert "platform" not in cohort[3].attributes
    said = capsys.readouterr().out
    assert "who came back has another id" in said
    assert "INS-W_3 has no platform.csv" in said


def test_the_published_samples_are_read_by_name(copy):
    shutil.move(copy / "INS-W_2", copy / "INS-W-sample_2")
    with pytest.raises(MienError, match="it holds INS-W-sample_2; set sets and samples"):
        read(copy)
    assert read(copy, samples=True)[0].attributes["dataset"] == "INS-W-sample_2"


def put(name: str, raw: bytes):
    return lambda root: (root / "INS-W_2" / name).write_bytes(raw)


def outside(root):
    shutil.move(root / "INS-W_2" / "FeatureData", root.parent / "FeatureData")
    (root / "INS-W_2" / "FeatureData").symlink_to(root.parent / "FeatureData")


def doubled(root):
    file = root / "INS-W_2" / "FeatureData" / "call.csv"
    file.write_text(file.read_text() + file.read_text().splitlines()[1] + "\n")


WEEKLY, CALLS = "SurveyData/dep_weekly.csv", "FeatureData/call.csv"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda root: shutil.rmtree(root / "INS-W_2"), "is it GLOBEM, unpacked"),
        (lambda root: shutil.copytree(root / "INS-W_2", root / "again" / "INS-W_2"), "holds two of INS-W_2"),
        (outside, "is a link out of"),
        (lambda root: (root / "INS-W_2" / WEEKLY).unlink(), "holds no SurveyData/dep_weekly.csv"),
        (lambda root: (root / "INS-W_2" / CALLS).unlink(), "neither FeatureData/call.csv nor rapids.csv"),
        (put(CALLS, b""), "call.csv is empty"),
        (put(CALLS, b"pid|date\n1|2\n"), "has no column 'pid'"),
        (put(CALLS, b"pid,date\nINS-W_300,2019-05-01\n"), "has no column 'f_call:"),
        (put(CALLS, b"version https://git-lfs.github.com/spec/v1\n"), "LFS pointer"),
        (doubled, "INS-W_300 has two rows on 2019-04-21"),
        (put(WEEKLY, b"pid,date,dep\nINS-W_300,18 May,True\n"), "'18 May' is no date"),
        (put(WEEKLY, b"pid,date,dep\nINS-W_300,2019-05-18,maybe\n"), "dep is 'maybe' for INS-W_300"),
        (put(WEEKLY, b"pid,date,dep\n,2019-05-18,True\n"), "a row without a pid"),
        (put(WEEKLY, b"pid,date,dep\na,2019-05-18,True\na,2019-05-18,False\n"), "two labels on 2019-05-18"),
        (put(WEEKLY, b"pid,date,dep\nINS-W_3\xff0,2019-05-18,True\n"), "is not UTF-8"),
        (put(WEEKLY, b"pid,date,dep\n"), "4 person.s. of call.csv without a label"),
        (put(WEEKLY, b"pid,date,dep\nINS-W_300,2018-05-18,True\n"), "1 label.s. with no feature in the 28 days"),
    ],
)  # fmt: skip
def test_traps_are_refused_by_name(copy, spoil, says):
    spoil(copy)
    with pytest.raises(MienError, match=says) as error:
        read(copy)
    assert "\n" not in str(error.value)


def test_an_id_in_two_years_is_refused(copy):
    shutil.copytree(copy / "INS-W_2", copy / "INS-W_3")
    with pytest.raises(MienError, match="INS-W_300 is in INS-W_2 and INS-W_3"):
        read(copy, sets=(2, 3))


def test_describe_tells_it(copy, capsys):
    assert commands.describe_command(["globem", f"root={copy}"]) == 0
    assert "no 2, yes 1" in capsys.readouterr().out


FILES = [WEEKLY, CALLS, "FeatureData/rapids.csv", "ParticipantsInfoData/platform.csv", "SurveyData/dep_endterm.csv"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gone=st.sets(st.sampled_from(FILES)), labels=st.sampled_from(["weekly", "endterm"]))
def test_missing_files_make_a_smaller_cohort_or_a_named_error(copy, tmp_path_factory, gone, labels):
    root = tmp_path_factory.mktemp("gl") / "globem"
    shutil.copytree(copy, root)
    folder = root / "INS-W_2"
    shutil.copy(folder / CALLS, folder / "FeatureData" / "rapids.csv")
    whole = {r.id: r for r in read(root, labels=labels)}
    for name in gone:
        (folder / name).unlink()
    if f"SurveyData/dep_{labels}.csv" in gone or {CALLS, "FeatureData/rapids.csv"} <= gone:
        with pytest.raises(MienError, match="holds no|holds neither"):
            read(root, labels=labels)
        return
    cohort = read(root, labels=labels)
    assert {r.id for r in cohort} == set(whole)
    for r in cohort:
        was = whole[r.id]
        assert (r.labels, r.start_s) == (was.labels, was.start_s)
        platform = FILES[3] in gone
        assert dict(r.attributes) == {k: v for k, v in was.attributes.items() if not (platform and k == "platform")}
        for name, s in r.streams.items():
            assert np.array_equal(s.values, was.streams[name].values, equal_nan=True)
