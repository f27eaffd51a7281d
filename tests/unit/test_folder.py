# pyright: reportArgumentType=false, reportOptionalOperand=false, reportCallIssue=false
import csv
import io
import os
import unicodedata
import zipfile
from datetime import date
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.adapters import budget
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import Cohort
from mien.data import check, folders, tables
from mien.data.datasets import folder
from mien.data.load import ledger_source
from mien.privacy.plan import PrivacySpec

SPEC = {
    "name": "my-study",
    "licence": "internal",
    "consent": {"basis": "form v3", "purposes": ["training", "generation", "audit", "evaluation"]},
    "tasks": {"activity": ["walk", "rest"]},
    "attributes": ["sex", "age"],
    "streams": {"acc": {"channels": ["x", "y", "z"], "unit": "g", "rate_hz": 50, "range": [-4, 4]}},
    "recordings": "recordings.csv",
}
ROWS = [
    {
        "recording": "a1",
        "person": "007",
        "session": "s1",
        "start_s": "0",
        "activity": "walk",
        "sex": "f",
        "age": "34",
    },
    {
        "recording": "a2",
        "person": "007",
        "session": "s1",
        "start_s": "60.5",
        "activity": "rest",
        "sex": "f",
        "age": "34",
    },
    {"recording": "b1", "person": "b", "session": "", "start_s": "", "activity": "", "sex": "", "age": "51"},
]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))


def samples(i=0, n=250, c=3):
    return np.random.default_rng(i).normal(0, 0.5, (n, c)).astype(np.float32)


def table(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return
    with open(path, "w", newline="") as f:
        out = csv.DictWriter(f, list(rows[0]))
        out.writeheader()
        out.writerows(rows)


def columns(path, x, names=("x", "y", "z"), **more):
    data = {**more, **{n: x[:, i].astype(np.float64) for i, n in enumerate(names)}}
    if path.suffix == ".parquet":
        pq.write_table(pa.table({k: pa.array(v) for k, v in data.items()}), path)
        return
    with open(path, "w", newline="") as f:
        out = csv.writer(f)
        out.writerow(data)
        out.writerows(["" if isinstance(v, float) and np.isnan(v) else v for v in row] for row in
                      zip(*(np.asarray(v).tolist() for v in data.values()), strict=True))  # fmt: skip


def save(path, x, **more):
    if path.suffix == ".npz":
        np.savez(path, acc=x, **more)
    else:
        columns(path, x, **more)


def make(root, kind=".npz", spec=None, rows=None, persons=None):
    """A good folder of three recordings; `spec` and `rows` are merged over it."""
    root.mkdir()
    made = {**SPEC, **(spec or {})}
    if persons is not None:
        table(root / "persons.csv", persons)
        made["persons"] = "persons.csv"
    (root / "cohort.yaml").write_text(yaml.safe_dump({k: v for k, v in made.items() if v is not None}))
    rows = [{**r, "file": f"{r['recording']}{kind}"} for r in ROWS] if rows is None else rows
    table(root / made["recordings"], rows)
    for i, r in enumerate(ROWS):
        save(root / f"{r['recording']}{kind}", samples(i))
    return root


def load(root) -> Cohort:
    return folder.load(folder.Config(root=str(root)))


def refused(root):
    with pytest.raises(MienError) as caught:
        load(root)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    errors = [f for f in check.check(root) if f.level == "error"]  # the checker reads what `load` reads
    if isinstance(caught.value, folders.Problem):
        assert text in [str(folders.Problem(f.where, f.problem, f.fix)) for f in errors]
    assert errors
    return text


# --- good folders -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [".npz", ".csv", ".parquet"])
@pytest.mark.parametrize("recordings", ["recordings.csv", "recordings.parquet"])
def test_each_format_gives_the_same_cohort(tmp_path, kind, recordings):
    cohort = load(make(tmp_path / "d", kind, {"recordings": recordings}))
    assert [r.id for r in cohort] == ["a1", "a2", "b1"]
    for i, r in enumerate(cohort):
        assert np.allclose(r.streams["acc"].values, samples(i), atol=1e-6)
        assert r.streams["acc"].complete
    a2, b1 = cohort[1], cohort[2]
    assert (a2.person, a2.session, a2.start_s, a2.labels) == ("007", "s1", 60.5, {"activity": "rest"})
    assert a2.attributes == {"sex": "f", "age": 34}
    assert (b1.session, b1.start_s, b1.labels, b1.attributes) == ("", 0.0, {}, {"age": 51})
    assert cohort.card.streams["acc"].range == (-4, 4)
    assert cohort.card.source == ""
    assert str(tmp_path) not in str(cohort.card)
    assert cohort.for_purpose("training")[1] == {}
    with pytest.raises(MienError, match="nobody in cohort"):
        cohort.for_purpose("sharing")


def test_a_study_of_ones_own_is_known_to_the_ledger_by_its_source(tmp_path):
    """And by nothing else: two studies' P01 are two persons, and a private run asks for it."""
    named = load(make(tmp_path / "a", spec={"source": "ward-7-irb"}))
    other, unnamed = (
        load(make(tmp_path / "b", spec={"source": "other", "name": "my-study"})),
        load(make(tmp_path / "c")),
    )
    section = Plugin(name="folder", root="x")
    assert ledger_source(section, named) == "folder:ward-7-irb"
    assert ledger_source(section, other) == "folder:other"
    assert (
        ledger_source(section, load(make(tmp_path / "d", spec={"source": "ward-7-irb", "name": "renamed"})))
        == "folder:ward-7-irb"
    )
    split: Any = SimpleNamespace(kind="person", train=["007", "b"])
    asked = PrivacySpec(noise_multiplier=1.0, batch=1)
    assert budget.plan_of(asked, split, named, 3, named=True)
    with pytest.raises(MienError, match="source:"):
        budget.plan_of(asked, split, unnamed, 3, named=True)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_long_table(tmp_path, kind):
    root = tmp_path / "d"
    root.mkdir()
    x = np.concatenate([samples(i) for i in range(3)])
    rows = []
    for i, r in enumerate(ROWS):
        for k in range(250):
            v = x[250 * i + k].tolist()
            rows.append({**r, "time": k / 50, "x": v[0], "y": v[1], "z": v[2]})
    table(root / f"all.{kind}", rows)
    (root / "cohort.yaml").write_text(yaml.safe_dump({**SPEC, "recordings": None, "table": f"all.{kind}"}))
    cohort = load(root)
    assert [r.id for r in cohort] == ["a1", "a2", "b1"]
    for i, r in enumerate(cohort):
        assert np.allclose(r.streams["acc"].values, samples(i), atol=1e-6)
    assert cohort[0].person == "007"
    assert cohort[1].attributes == {"sex": "f", "age": 34}

    table(root / f"all.{kind}", [*rows, rows[0]])
    assert "'a1' is already at" in refused(root)
    table(root / f"all.{kind}", [{**r, "activity": "rest"} if i == 7 else r for i, r in enumerate(rows)])
    assert "changes within recording 'a1'" in refused(root)


def test_streams_in_their_own_files_keep_their_offset(tmp_path):
    root = tmp_path / "d"
    spec = {"streams": {**SPEC["streams"], "eda": {"channels": ["eda"], "unit": "uS", "rate_hz": 4}}}
    rows = [{**r, "file_acc": f"{r['recording']}.csv", "file_eda": "eda.csv" if i else ""} for i, r in enumerate(ROWS)]
    make(root, ".csv", spec, rows)
    for i in range(3):
        columns(root / f"{ROWS[i]['recording']}.csv", samples(i), time=1000 + np.arange(250) / 50)
    columns(root / "eda.csv", np.ones((20, 1)), ("eda",), time=1002 + np.arange(20) / 4)
    cohort = load(root)
    assert set(cohort[0].streams) == {"acc"}
    assert cohort[1].streams["acc"].offset_s == 0
    assert cohort[1].streams["eda"].offset_s == 2
    assert cohort[1].streams["eda"].rate_hz == 4


def test_time_column_opens_gaps(tmp_path):
    root = make(tmp_path / "d", ".csv")
    keep = np.r_[0:100, 110:250]
    columns(root / "a1.csv", samples(0)[keep], time=keep / 50 + 0.002 * (keep % 2))
    got = load(root)[0].streams["acc"]
    assert got.values.shape == (250, 3)
    assert np.flatnonzero(~got.valid).tolist() == list(range(100, 110))
    assert np.allclose(got.values[110:], samples(0)[110:], atol=1e-6)


@pytest.mark.parametrize("off", [0.019, 0.002, -0.002, -0.019])
def test_a_rate_that_is_a_little_off_moves_nothing(off):
    """An hour of rows that come faster or slower than declared: what happens at a time stays there."""
    time = 100 + np.arange(round(3600 * 16 * (1 + off))) / (16 * (1 + off))
    wave = np.stack([np.sin((time - 100) / 7), np.exp(-((time - 3100) ** 2))], 1)
    values, valid = tables.on_grid(time, wave, None, 16.0, "a.csv")
    assert valid is None
    assert values.dtype == np.float64
    t = np.arange(len(values)) / 16
    assert abs(t[-1] - (time[-1] - 100)) <= 1 / 16
    assert np.allclose(values[:, 0], np.sin(t / 7), atol=1e-3)
    assert t[values[:, 1].argmax()] == pytest.approx(3000, abs=1 / 16)


def test_a_rate_that_is_a_little_off_keeps_gaps(tmp_path):
    step = 0.02 * 0.985
    keep = np.r_[0:300, 400:1000]
    wave = np.sin(keep * step)[:, None] + np.zeros((1, 3))
    root = make(tmp_path / "d", ".csv")
    columns(root / "a1.csv", wave, time=keep * step, valid=(keep != 700).astype(int))
    got = load(root)[0].streams["acc"]
    t = np.arange(len(got.values)) / 50
    gone = ((t > 299 * step) & (t < 400 * step)) | ((t > 699 * step) & (t < 701 * step))
    assert np.array_equal(~got.valid, gone)
    assert np.allclose(got.values[got.valid, 0], np.sin(t[got.valid]), atol=1e-3)


@pytest.mark.parametrize("off", [0.0, 0.0005])
def test_samples_at_the_declared_rate_are_left_as_they_are(off):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 2))
    time = (np.arange(5000) + rng.uniform(-0.2, 0.2, 5000)) / (50 * (1 + off))
    assert tables.on_grid(time, x, None, 50.0, "a.csv")[0] is x
    short, stamps = x[:20], time[:20].round(3)  # jitter says nothing of a rate here
    assert tables.on_grid(stamps, short, None, 50.0, "a.csv")[0] is short


def test_gaps_by_mask_or_by_mark(tmp_path):
    x = samples(0)
    x[3:5, 1] = np.nan
    flags = ~np.isnan(x).any(1)
    for kind, more in ((".npz", {"acc_valid": flags}), (".csv", {"valid": flags.astype(int)})):
        root = make(tmp_path / f"mask{kind}", kind)
        save(root / f"a1{kind}", x, **more)
        assert np.array_equal(load(root)[0].streams["acc"].valid, flags)
        marked = {"streams": {"acc": {**SPEC["streams"]["acc"], "gaps": "mark"}}}
        root = make(tmp_path / f"mark{kind}", kind, marked)
        save(root / f"a1{kind}", x)
        assert np.array_equal(load(root)[0].streams["acc"].valid, flags)


def test_consent_and_attributes_per_person(tmp_path):
    rows = [{k: v for k, v in r.items() if k != "age"} | {"file": f"{r['recording']}.npz"} for r in ROWS]
    persons = [
        {
            "person": "007",
            "age": "34",
            "purposes": "training;audit",
            "expires": "2030-01-01",
            "withdrawn": "",
        },
        {"person": "b", "age": "51", "purposes": "default", "expires": "", "withdrawn": "2026-02-01"},
        {"person": "c", "age": "20", "purposes": "none", "expires": "", "withdrawn": ""},
    ]
    cohort = load(make(tmp_path / "d", rows=rows, persons=persons))
    assert cohort.consents["007"].purposes == ("training", "audit")
    assert cohort.consents["b"].withdrawn == date(2026, 2, 1)
    kept, left = cohort.for_purpose("training", date(2026, 6, 1))
    assert kept.persons == ["007"]
    assert left == {"withdrawn": 1}
    assert cohort[0].attributes == {"sex": "f", "age": 34}


def test_imported_once_and_again_after_a_change(tmp_path, monkeypatch):
    root = make(tmp_path / "d")
    first = load(root)
    monkeypatch.setattr(folders, "read_streams", lambda *_: pytest.fail("the cache was not used"))
    assert load(root).fingerprint == first.fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    np.savez(root / "a1.npz", acc=samples(99))
    again = load(root)
    assert again.fingerprint != first.fingerprint
    assert np.array_equal(again[0].streams["acc"].values, samples(99))
    text = (root / "recordings.csv").read_text()
    (root / "recordings.csv").write_text(text.replace("a1,007,s1,0,walk", "a1,007,s1,0,rest"))
    assert load(root)[0].labels == {"activity": "rest"}


# --- hostile folders ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../secret.npz", "sub/../../secret.npz", "C:\\x.npz", "link.npz", "away/x.npz"]
)
def test_no_file_outside_the_folder(tmp_path, name):
    np.savez(tmp_path / "secret.npz", acc=samples())
    (tmp_path / "elsewhere").mkdir()
    np.savez(tmp_path / "elsewhere" / "x.npz", acc=samples())
    root = make(tmp_path / "d", rows=[{**ROWS[0], "file": name}])
    (root / "link.npz").symlink_to(tmp_path / "secret.npz")
    (root / "away").symlink_to(tmp_path / "elsewhere")
    text = refused(root)
    assert repr(name) in text
    assert "folder" in text


def test_tables_and_cohort_yaml_stay_inside_too(tmp_path):
    root = make(tmp_path / "d", spec={"recordings": "recordings.csv"})
    (tmp_path / "out.csv").write_text((root / "recordings.csv").read_text())
    (root / "recordings.csv").unlink()
    (root / "recordings.csv").symlink_to(tmp_path / "out.csv")
    assert "leads out of the folder" in refused(root)
    (root / "recordings.csv").unlink()
    os.mkfifo(root / "recordings.csv")
    assert "not a regular file" in refused(root)
    (root / "cohort.yaml").rename(tmp_path / "cohort.yaml")
    (root / "cohort.yaml").symlink_to(tmp_path / "cohort.yaml")
    assert "leads out of the folder" in refused(root)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("pickle-was-run",))


@pytest.mark.parametrize("form", ["object", "pickle", "npy", "zip", "header"])
def test_nothing_in_an_npz_is_executed(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    root = make(tmp_path / "d")
    file = root / "a1.npz"
    if form == "object":
        np.savez(file, acc=np.array([Bomb()], dtype=object), allow_pickle=True)
    elif form == "pickle":
        import pickle

        file.write_bytes(pickle.dumps(Bomb()))
    elif form == "npy":
        buffer = io.BytesIO()
        np.save(buffer, samples())
        file.write_bytes(buffer.getvalue())
    else:
        with zipfile.ZipFile(file, "w") as z:
            z.writestr("acc.npy" if form == "header" else "acc.txt", b"\x93NUMPY\x01\x00\xff\xffnonsense")
    assert "a1.npz (recording 'a1')" in refused(root)
    assert not (tmp_path / "pickle-was-run").exists()


# --- bad input --------------------------------------------------------------------------------------------------
def edit(file, old, new):
    def change(root):
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new, 1))

    return change


def spec(**changes):
    def change(root):
        raw = yaml.safe_load((root / "cohort.yaml").read_text())
        for key, value in changes.items():
            *path, last = key.split("__")
            node = raw
            for part in path:
                node = node[part]
            if value is None:
                del node[last]
            else:
                node[last] = value
        (root / "cohort.yaml").write_text(yaml.safe_dump(raw))

    return change


def npz(**arrays):
    return lambda root: np.savez(root / "a1.npz", **{"acc": samples(), **arrays})


def cut_short(name):
    def change(root):
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])

    return change


def hole(x, value=np.nan):
    x = x.copy()
    x[7, 1] = value
    return x


BAD = {
    "unknown key": (spec(licens="x"), "did you mean 'licence'"),
    "unknown stream key": (spec(streams__acc__chanels=["x"]), "did you mean 'channels'"),
    "no consent": (spec(consent=None), "'consent' is missing"),
    "no purposes": (spec(consent__purposes=None), "'consent.purposes' is missing"),
    "unknown purpose": (spec(consent__purposes=["trainning"]), "consent.purposes.0"),
    "rate": (spec(streams__acc__rate_hz="fast"), "streams.acc.rate_hz"),
    "negative rate": (spec(streams__acc__rate_hz=-1), "greater than 0"),
    "range order": (spec(streams__acc__range=[4, -4]), "the lower first"),
    "stream name": (spec(streams={"a b": SPEC["streams"]["acc"]}), "stream 'a b'"),
    "stream called file": (spec(streams={"file": SPEC["streams"]["acc"]}), "stream 'file': the name is taken"),
    "yaml booleans": (edit("cohort.yaml", "- walk", "- yes"), "put the classes in quotes"),
    "class not a list": (spec(tasks__activity="walk"), "tasks.activity"),
    "two tables": (spec(table="all.csv"), "exactly one of"),
    "reserved": (spec(attributes=["session"]), "'session' is declared twice or is a column name"),
    "broken yaml": (edit("cohort.yaml", "name: my-study", "name: [my-study"), "not valid YAML"),
    "no cohort.yaml": (lambda r: (r / "cohort.yaml").unlink(), "cohort.yaml is missing"),
    "no table": (lambda r: (r / "recordings.csv").unlink(), "'recordings.csv' does not exist"),
    "empty table": (lambda r: (r / "recordings.csv").write_text(""), "recordings.csv: the file is empty"),
    "only a header": (lambda r: (r / "recordings.csv").write_text("recording,person,activity,sex,age,file\n"), "empty"),
    "ragged table": (edit("recordings.csv", "a1,007,", "a1,007,extra,"), "recordings.csv, line 2: 9 cells"),
    "not text": (lambda r: (r / "recordings.csv").write_bytes(b"\xff\xfe\x00"), "not readable as UTF-8"),
    "no person": (edit("recordings.csv", "a1,007", "a1,"), "line 2: recording 'a1' has no person"),
    "no id": (edit("recordings.csv", "a1,007", ",007"), "line 2: a recording without an id"),
    "twice": (edit("recordings.csv", "a2,007", "a1,007"), "'a1' is already at recordings.csv, line 2"),
    "label": (edit("recordings.csv", "walk", "wakl"), "activity='wakl' of recording 'a1' is not a declared class (did"),
    "start": (edit("recordings.csv", "60.5", "noon"), "start_s='noon'"),
    "column": (edit("recordings.csv", "activity", "activty"), "no column 'activity' (did you mean 'activty'?)"),
    "attribute column": (edit("recordings.csv", ",sex,", ",gender,"), "no column 'sex'"),
    "two columns": (edit("recordings.csv", ",sex,", ",age,"), "two columns are called 'age'"),
    "no file column": (edit("recordings.csv", ",file", ",data"), "'file'"),
    "file of no stream": (edit("recordings.csv", ",file", ",file_ac"), "'file_ac' is for a stream"),
    "no file": (edit("recordings.csv", "a1.npz", ""), "'a1' names no data file"),
    "missing file": (lambda r: (r / "a2.npz").unlink(), "recording 'a2': the file 'a2.npz' does not exist"),
    "folder as file": (lambda r: ((r / "a2.npz").unlink(), (r / "a2.npz").mkdir()), "not a regular file"),
    "suffix": (edit("recordings.csv", "a1.npz", "cohort.yaml"), "not '.yaml'"),
    "truncated npz": (cut_short("a1.npz"), "a1.npz (recording 'a1'): truncated"),
    "array name": (lambda r: np.savez(r / "a1.npz", Acc=samples()), "array 'Acc' belongs to no declared stream (did"),
    "no array": (lambda r: np.savez(r / "a1.npz"), "no declared stream is in it"),
    "channels": (npz(acc=samples(c=2)), "stream 'acc' has shape [250, 2]"),
    "one axis": (npz(acc=samples()[:, 0]), "has shape [250]"),
    "text array": (npz(acc=np.array([["a"]])), "not real numbers"),
    "no samples": (npz(acc=np.zeros((0, 3))), "no sample in it"),
    "two rates": (npz(acc_rate_hz=64), "stream 'acc' is at 64 Hz, cohort.yaml declares 50 Hz"),
    "rate shape": (npz(acc_rate_hz=[50, 50]), "acc_rate_hz is not one number"),
    "valid shape": (npz(acc_valid=np.ones(3, bool)), "acc_valid has shape [3]"),
    "valid alone": (lambda r: np.savez(r / "a1.npz", acc_valid=np.ones(3, bool)), "without the array 'acc'"),
    "nan": (npz(acc=hole(samples())), "no valid mask covers (1 rows, the first is row 7, channel 'y')"),
    "inf": (npz(acc=hole(samples(), np.inf)), "no valid mask covers"),
    "overflow": (npz(acc=hole(samples().astype(np.float64), 1e300)), "no valid mask covers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_folders_are_refused_in_one_line(tmp_path, name):
    root = make(tmp_path / "d")
    change, words = BAD[name]
    change(root)
    assert words in refused(root)


def data_file(x=None, names=("x", "y", "z"), **more):
    return lambda file: columns(file, samples() if x is None else x, names, **more)


def clock(change):
    t = np.arange(250) / 50
    change(t)
    return t


BAD_COLUMNS = {
    "channel missing": (data_file(samples(c=2), ("x", "y")), "no column for channel 'z' of stream 'acc'"),
    "no channel": (data_file(samples(c=1), ("q",)), "no declared stream is in it"),
    "empty cell": (data_file(hole(samples())), "NaN or infinite samples that no valid mask covers"),
    "another rate": (data_file(time=np.arange(250) / 52), "at about 52 Hz, cohort.yaml declares 50 Hz"),
    "half the rate": (data_file(time=np.arange(250) / 25), "at about 25 Hz"),
    "milliseconds": (data_file(time=np.arange(250) * 20.0), "milliseconds?"),
    "backwards": (data_file(time=clock(lambda t: t.__setitem__(9, 0.0))), "does not increase at row 9"),
    "no time": (data_file(time=clock(lambda t: t.__setitem__(9, np.nan))), "row 9 has no time"),
    "a day's gap": (data_file(time=clock(lambda t: t.__setitem__(slice(100, None), t[100:] + 86400))), "a gap of 8.64"),
    "flag": (data_file(valid=["1"] * 249 + ["perhaps"]), "row 249: 'perhaps' is no flag"),
    "no rows": (data_file(samples(n=0)), "a1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", [".csv", ".parquet"])
@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_bad_data_tables_are_refused_in_one_line(tmp_path, name, kind):
    root = make(tmp_path / "d", kind)
    change, words = BAD_COLUMNS[name]
    change(root / f"a1{kind}")
    text = refused(root)
    assert words in text
    assert f"a1{kind}" in text


def test_broken_data_tables(tmp_path):
    root = make(tmp_path / "d", ".csv")
    (root / "a1.csv").write_text("x,y,z\n1,2,3\n1,2,three\n")
    assert "a1.csv (recording 'a1')" in refused(root)
    (root / "a1.csv").write_text("x,y,z\n1,2,3\n1,2\n")
    assert "a1.csv (recording 'a1')" in refused(root)
    root = make(tmp_path / "e", ".parquet")
    cut_short("a1.parquet")(root)
    assert "a1.parquet" in refused(root)


def test_two_rates_or_one_name_in_one_table(tmp_path):
    other = {"channels": ["x"], "unit": "deg/s", "rate_hz": 50}
    root = make(tmp_path / "d", ".csv", {"streams": {**SPEC["streams"], "gyro": other}})
    assert "column 'x' may belong to more than one stream" in refused(root)
    other = {"channels": ["w"], "unit": "deg/s", "rate_hz": 25}
    root = make(tmp_path / "e", ".csv", {"streams": {**SPEC["streams"], "gyro": other}})
    columns(root / "a1.csv", samples(c=4), ("x", "y", "z", "w"))
    assert "streams of different rates (25, 50 Hz)" in refused(root)


PERSONS = [
    {"person": "007", "purposes": "default", "expires": ""},
    {"person": "b", "purposes": "none", "expires": ""},
]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"purposes": ""}, "consent of 'b': the cell 'purposes' is empty"),
        ({"purposes": "training;audits"}, "unknown consent purpose 'audits' (did you mean 'audit'?)"),
        ({"expires": "soon"}, "column 'expires': 'soon' is not a date"),
        ({"person": "007"}, "person '007' has two rows"),
        ({"person": ""}, "a row without a person"),
        ({"person": "c"}, "person 'b' has no (usable) row in persons.csv"),
    ],
)
def test_bad_persons_tables(tmp_path, change, words):
    assert words in refused(make(tmp_path / "d", persons=[PERSONS[0], {**PERSONS[1], **change}]))


# --- write ------------------------------------------------------------------------------------------------------
WORD = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=8)
WORD = WORD.map(lambda word: unicodedata.normalize("NFC", word))  # other spellings are refused, by a test of their own
STREAM = {"task": "t", "rate_hz": 50, "unit": "g", "name": "n", "licence": "l", "consent": "c"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_what_is_loaded(tmp_path_factory, data):
    n, c = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=n, max_size=n))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = [rng.normal(size=(t, c)).astype(np.float32) for t in lengths]
    persons = data.draw(st.lists(WORD, min_size=n, max_size=n))
    labels = data.draw(st.lists(WORD, min_size=n, max_size=n))
    towns = data.draw(st.lists(WORD.map(lambda w: "x" + w), min_size=n, max_size=n))
    root = tmp_path_factory.mktemp("w") / "study"
    made = {"channels": [f"c{i}" for i in range(c)], "stream": "s", "attributes": {"town": towns}}
    folder.write(root, values=values, persons=persons, labels=labels, **made, **STREAM)
    got = list(load(root))
    assert [r.person for r in got] == persons
    assert [r.labels["t"] for r in got] == labels
    assert [r.attributes["town"] for r in got] == towns
    assert all(np.array_equal(r.streams["s"].values, x) for r, x in zip(got, values, strict=True))


def test_write_refuses_and_leaves_nothing(tmp_path):
    good = {
        "values": np.zeros((2, 9, 1)),
        "persons": ["a", "b"],
        "labels": [0, 1],
        "channels": ["x"],
        **STREAM,
    }
    bad = [
        ({"persons": ["a"]}, "'person' has 1 values for 2 recordings"),
        ({"persons": ["a", ""]}, "recording 1 of `values`: has no person"),
        ({"persons": ["a", " b"]}, "spaces around it"),
        ({"channels": ["x", "y"]}, "recording 0 of `values`: shape [9, 1]"),
        ({"values": np.full((2, 9, 1), np.nan)}, "recording 0 of `values`: NaN"),
        ({"purposes": ["all"]}, "consent.purposes"),
        ({"range": (1, 0)}, "the lower first"),
        ({"values": [], "persons": [], "labels": []}, "at least one"),
    ]
    for change, words in bad:
        with pytest.raises(MienError) as caught:
            folder.write(tmp_path / "w", **{**good, **change})
        assert words in str(caught.value)
        assert not list(tmp_path.iterdir())
    folder.write(tmp_path / "w", **good)
    assert load(tmp_path / "w")[1].labels == {"t": "1"}
    with pytest.raises(MienError, match="exists already"):
        folder.write(tmp_path / "w", **good)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(["a1.npz", "a1.csv", "a1.parquet", "recordings.csv", "cohort.yaml"]))
def test_damaged_files_never_end_in_anything_but_one_line(tmp_path_factory, data, name):
    kind = name[2:] if name.startswith("a1") else ".npz"
    root = make(tmp_path_factory.mktemp("damaged") / "d", kind)
    raw = bytearray((root / name).read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:at]
    else:
        raw[at : at + 4] = data.draw(st.binary(max_size=8))
    (root / name).write_bytes(raw)
    errors = [f for f in check.check(root) if f.level == "error" and "only one person" not in f.problem]
    try:
        load(root)
        text = ""
    except MienError as error:
        text = str(error)
    assert "\n" not in text
    assert bool(errors) == bool(text) or all("agreed" in f.problem for f in errors)
