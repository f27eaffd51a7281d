# pyright: reportArgumentType=false, reportCallIssue=false
import csv
from datetime import date

import numpy as np
import pytest
import yaml

from mien.core.errors import MienError
from mien.data import check, commands
from mien.data.datasets import folder

TODAY = date(2026, 6, 1)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))


def arrays(persons=12, each=4, seed=0):
    """values [N, 250, 2] around 0, persons, and labels in an order that differs between persons."""
    rng = np.random.default_rng(seed)
    who = [f"p{p:02d}" for p in range(persons) for _ in range(each)]
    labels = [["walk", "rest"][(k + p) % 2] for p in range(persons) for k in range(each)]
    return rng.normal(0, 0.5, (len(who), 250, 2)).astype(np.float32), who, labels


def study(root, **changes):
    values, persons, labels = arrays()
    made = {
        "values": values, "persons": persons, "labels": labels, "task": "activity", "rate_hz": 50, "unit": "g",
        "channels": ["x", "y"], "stream": "acc", "range": (-4, 4), "name": "study", "licence": "internal",
        "consent": "form v3",
    }  # fmt: skip
    return folder.write(root, **{**made, **changes})


def levels(found, level):
    return [f for f in found if f.level == level]


def only(found, level, words):
    """The findings of this level that say `words`; each is one line that names a place."""
    hits = [f for f in levels(found, level) if words in f"{f.where}: {f.problem}; {f.fix}"]
    assert hits, [(f.level, f.where, f.problem, f.fix) for f in found]
    for f in found:
        assert f.where
        assert f.problem
        assert "\n" not in f.problem
        assert f.fix or f.level == "info"
    return hits


def spec(root, **changes):
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


def edit(root, old, new):
    text = (root / "recordings.csv").read_text()
    assert old in text
    (root / "recordings.csv").write_text(text.replace(old, new, 1))


def test_a_good_folder_has_no_error_and_no_warning(tmp_path):
    assert check.check(study(tmp_path / "d"), TODAY) == []


def test_it_goes_on_after_the_first_error(tmp_path):
    root = study(tmp_path / "d")
    spec(root, licens="x", streams__acc__chanels=["x"])
    edit(root, "r00001,p00", "r00001,")
    edit(root, "r00002,p00,walk", "r00002,p00,wakl")
    edit(root, "r00003,", "r00000,")
    (root / "data" / "r00004.npz").unlink()
    whole = (root / "data" / "r00005.npz").read_bytes()
    (root / "data" / "r00005.npz").write_bytes(whole[:100])
    np.savez(root / "data" / "r00006.npz", acc=np.full((250, 2), np.nan))
    np.savez(root / "data" / "r00007.npz", acc=np.zeros((250, 3)))
    np.savez(root / "data" / "r00008.npz", acc=arrays()[0][8], acc_rate_hz=64)
    found = check.check(root, TODAY)
    for words in (
        "unknown key 'licens'; did you mean 'licence'?",
        "unknown key 'streams.acc.chanels'",
        "line 3: recording 'r00001' has no person",
        "activity='wakl' of recording 'r00002' is not a declared class (did you mean 'walk'?)",
        "line 5: recording 'r00000' is already at recordings.csv, line 2",
        "recording 'r00004': the file 'data/r00004.npz' does not exist",
        "data/r00005.npz (recording 'r00005'): truncated",
        "'r00006'), stream 'acc': NaN",
        "(recording 'r00007'): stream 'acc' has shape [250, 3]",
        "(recording 'r00008'): stream 'acc' is at 64 Hz",
    ):
        assert len(only(found, "error", words)) == 1
    assert len(levels(found, "error")) == 10
    assert [f.level for f in found] == sorted((f.level for f in found), key=["error", "warning", "info"].index)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"consent": None}, "'consent' is missing; say what people agreed to"),
        ({"consent__purposes": None}, "'consent.purposes' is missing"),
        ({"name": 3, "licence": None}, "name: input should be a valid string"),
        ({"name": 3, "licence": None}, "'licence' is missing"),
        ({"streams": {}}, "streams"),
        ({"recordings": "gone.csv"}, "'gone.csv' does not exist"),
        ({"persons": "gone.csv"}, "cohort.yaml, persons: the file 'gone.csv'"),
        ({"recordings": "../x.csv"}, "is not a path inside the folder"),
        ({"tasks": {"mood": ["a"]}}, "no column 'mood'"),
        ({"attributes": ["age"]}, "no column 'age'"),
        ({"consent__purposes": ["evaluation"]}, "nobody has agreed to training"),
        ({"consent__expires": date(2026, 5, 1)}, "nobody has agreed to training ({'expired': 12})"),
    ],
)
def test_faults_of_cohort_yaml(tmp_path, change, words):
    root = study(tmp_path / "d")
    spec(root, **change)
    only(check.check(root, TODAY), "error", words)


def test_nothing_there(tmp_path):
    only(check.check(tmp_path / "no"), "error", "no such folder")
    only(check.check(tmp_path), "error", "cohort.yaml is missing")
    (tmp_path / "cohort.yaml").write_text("a: [")
    only(check.check(tmp_path), "error", "not valid YAML")
    (tmp_path / "cohort.yaml").write_text("- a")
    only(check.check(tmp_path), "error", "no mapping")


def test_empty_cohort_and_one_person(tmp_path):
    root = study(tmp_path / "d")
    (root / "recordings.csv").write_text("recording,person,activity,file\n")
    only(check.check(root, TODAY), "error", "the cohort is empty")
    values, _, labels = arrays(1)
    root = study(tmp_path / "e", values=values, persons=["p"] * 4, labels=labels)
    only(check.check(root, TODAY), "error", "only one person ('p')")


def test_persons_table(tmp_path):
    root = study(tmp_path / "d")
    spec(root, persons="persons.csv")
    with open(root / "persons.csv", "w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["person", "purposes", "expires", "withdrawn"])
        out.writerows([f"p{i:02d}", "default", "", ""] for i in range(2, 13))
        out.writerow(["p00", "default", "2026-05-01", ""])
        out.writerow(["p01", "default", "", "2026-05-02"])
    found = check.check(root, TODAY)
    assert levels(found, "error") == []
    only(found, "warning", "consent of person 'p00' is expired (2026-05-01)")
    only(found, "warning", "consent of person 'p01' is withdrawn (2026-05-02)")
    only(found, "warning", "person 'p12' has no recording")
    only(found, "info", "2 person(s) are left out of training")
    text = (root / "persons.csv").read_text().replace("p02,default", "p02,")
    (root / "persons.csv").write_text(text)
    only(check.check(root, TODAY), "error", "consent of 'p02': the cell 'purposes' is empty")


def test_signals(tmp_path):
    values, _, _ = arrays()
    values = values * 9.81 * 2
    values[3, :, 1] = 0.25
    long = [v if i else v[:100] for i, v in enumerate(values)]
    long[5] = long[5].copy()
    long[5][:50, 0] = np.nan
    found = check.check(study(tmp_path / "d", values=long, gaps="mark"), TODAY)
    assert levels(found, "error") == []
    only(found, "warning", "outside [-4.0, 4.0] g: probably another unit")
    only(found, "warning", "channel acc.y: constant in 1 recording(s), the first is 'r00003'")
    only(found, "warning", "shorter than 4 s, the first is 'r00000' (2 s)")
    only(found, "info", "% of the samples are gaps")
    only(check.check(study(tmp_path / "e", range=None), TODAY), "warning", "cohort.yaml, streams.acc: no range")
    values, _, _ = arrays()
    found = check.check(study(tmp_path / "g", range=None, values=[100 * v for v in values]), TODAY)
    only(found, "warning", "outside [-8.0, 8.0] g: probably another unit")  # the unit's usual span
    only(found, "warning", "convert them, or give the stream its range")
    one = {"channels": ["e"], "unit": "uS", "rate_hz": 4, "range": [0, 50]}
    root = study(tmp_path / "f")
    spec(root, streams__eda=one)
    only(check.check(root, TODAY), "warning", "streams.eda: no recording has this stream")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda whole: b"garbage" * 10, "not an npz archive; write it with np.savez"),
        (lambda whole: b"import numpy as np\n", "not an npz archive"),  # the script that makes the arrays
        (lambda whole: b"", "the file is empty"),
        (lambda whole: whole[:3], "truncated or not an npz archive"),
        (lambda whole: whole[:300], "truncated or not an npz archive"),
        (lambda whole: b"\x80\x04\x95.", "a pickle"),
    ],
)
def test_what_is_no_npz(tmp_path, capsys, content, words):
    root = study(tmp_path / "d")
    file = root / "data" / "r00000.npz"
    file.write_bytes(content(file.read_bytes()))
    assert len(only(check.check(root, TODAY), "error", words)) == 1
    argv = [str(file), str(tmp_path / "out"), "--rate", "50", "--channels", "x", "--unit", "g", "--task", "t"]
    with pytest.raises(MienError, match=words):
        commands.pack_command(argv)


def test_the_same_problem_in_many_files_is_one_row(tmp_path, capsys):
    root = study(tmp_path / "d")
    files = sorted((root / "data").glob("*.npz"))
    for file in files[:10]:
        file.write_bytes(b"garbage")
    for k, file in enumerate(files[10:20]):
        np.savez(file, acc=np.where(np.arange(250)[:, None] < k + 1, np.nan, np.zeros((250, 2))))
    for file in files[20:25]:
        file.unlink()
    for file in files[25:27]:
        np.savez(file, acc=np.zeros((250, 3)))
    edit(root, "r00047,p11,", "r00047,,")
    assert commands.check_command([str(root)]) == 1
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in ("10 files, such as", "5 lines, such as", "[time, 2]", "28 error(s)"):
        assert words in out
    assert out.count("not an npz archive") == 1
    assert out.count("does not") == 1
    assert out.count("NaN or infinite") == 1
    assert out.count("has shape") == 2  # few are told one by one


def test_labels(tmp_path):
    root = study(tmp_path / "d")
    spec(root, tasks__activity=["rest", "walk", "run"])
    edit(root, "r00001,p00,rest", "r00001,p00,")
    found = check.check(root, TODAY)
    only(found, "warning", "1 recording(s) have no label, the first is 'r00001' (recordings.csv, line 3)")
    only(found, "warning", "no recording is labelled 'run'")


def test_labels_of_one_class(tmp_path, capsys):
    root = study(tmp_path / "d", labels=["walk"] * 48)
    only(check.check(root, TODAY), "error", "only one class occurs")
    assert commands.check_command([str(root)]) == 1  # adapt and baseline refuse it
    assert "next:" not in capsys.readouterr().out
    rows = (root / "recordings.csv").read_text().splitlines()
    moods = ["mood", *(["low", "high"][k % 2] for k in range(48))]
    (root / "recordings.csv").write_text("\n".join(f"{a},{b}" for a, b in zip(rows, moods, strict=True)))
    spec(root, tasks={"activity": ["walk", "rest"], "mood": ["low", "high"]})
    only(check.check(root, TODAY), "warning", "only one class occurs")  # with the other task the verbs go on
    assert commands.check_command([str(root)]) == 0
    assert "task=mood" in capsys.readouterr().out


@pytest.mark.parametrize("clue", ["session", "start_s", "length", "attribute"])
def test_a_label_that_metadata_gives_away(tmp_path, clue):
    values, _, labels = arrays()
    walk = np.array(labels) == "walk"
    rng = np.random.default_rng(1)
    changes = {
        "session": {"sessions": np.where(walk, "morning", "evening")},
        "start_s": {"starts": np.where(walk, 0, 600) + rng.random(len(walk))},
        "length": {"values": [v[: 250 - 20 * w] for v, w in zip(values, walk, strict=True)]},
        "attribute": {"attributes": {"site": np.where(walk, "A", "B")}},
    }[clue]
    found = check.check(study(tmp_path / "d", **changes), TODAY)
    hits = only(found, "warning", "alone predicts the label for 100 %")
    assert len(hits) == 1
    assert clue in hits[0].problem
    assert "50 %" in hits[0].problem


def test_what_only_names_a_person_is_no_clue(tmp_path):
    _, persons, _ = arrays()
    labels = [["walk", "rest"][int(p[1:]) % 2] for p in persons]
    found = check.check(study(tmp_path / "d", labels=labels, sessions=[f"of-{p}" for p in persons]), TODAY)
    only(found, "info", "a person-level task")
    assert not [f for f in found if "predicts the label" in f.problem]


def test_attributes_that_single_people_out(tmp_path):
    _, persons, _ = arrays()
    ages = [20 + int(p[1:]) for p in persons]
    found = check.check(study(tmp_path / "d", attributes={"age": ages}), TODAY)
    only(found, "warning", "of the persons, 100 % are the only one with their combination of age")
    found = check.check(study(tmp_path / "e", attributes={"age": [20 + a % 2 for a in ages]}), TODAY)
    assert found == []


def test_undeclared_columns_are_said_to_be_ignored(tmp_path):
    root = study(tmp_path / "d", attributes={"town": ["a", "b"] * 24})
    spec(root, attributes=[])
    only(check.check(root, TODAY), "info", "column 'town' is not declared: it is ignored")


def test_summary(tmp_path):
    root = study(tmp_path / "d")
    lines = dict(commands.summary(folder.load(folder.Config(root=str(root)))))
    assert lines["persons"] == "12"
    assert lines["recordings"] == "48 (4 to 4 per person)"
    assert lines["time"].startswith("240 s")
    assert lines["label activity"] == "rest 24, walk 24"
    assert "x, y in g at 50 Hz, range -4 to 4; 48 recordings, 240 s" in lines["stream acc"]


# --- commands ---------------------------------------------------------------------------------------------------
PACK = [
    "--rate",
    "50",
    "--channels",
    "x,y",
    "--unit",
    "g",
    "--task",
    "activity",
    "--range",
    "-4,4",
    "--stream",
    "acc",
]


def saved(path, **changes):
    values, persons, labels = arrays()
    made = {"values": values, "person": np.array(persons), "label": np.array(labels), **changes}
    np.savez(path, allow_pickle=True, **{k: v for k, v in made.items() if v is not None})
    return str(path)


def test_pack_check_describe_list(tmp_path, capsys):
    starts, ages = np.arange(48.0), np.repeat([30, 40], 24)
    file, out = saved(tmp_path / "a.npz", start_s=starts, attribute_age=ages), str(tmp_path / "my study")
    assert commands.pack_command([file, out, *PACK, "--licence", "internal", "--consent", "form v3"]) == 0
    assert f"next: mien data check '{out}'" in capsys.readouterr().out
    cohort = folder.load(folder.Config(root=out))
    assert cohort[47].start_s == 47
    assert cohort[47].attributes == {"age": 40}
    assert cohort.card.streams["acc"].range == (-4, 4)
    assert cohort.card.licence == "internal"
    assert np.array_equal(cohort[5].streams["acc"].values, arrays()[0][5])
    assert commands.check_command([out]) == 0
    text = capsys.readouterr().out
    assert "0 error(s)" in text
    assert text.strip().endswith(f"mien adapt recipes/folder/adapt.yaml cohort.root='{out}' task=activity")
    assert commands.describe_command(["folder", f"root={out}"]) == 0
    assert "12 person(s)" in capsys.readouterr().out
    assert commands.list_command([]) == 0
    assert "folder" in capsys.readouterr().out
    (tmp_path / "my study" / "data" / "r00000.npz").unlink()
    assert commands.check_command([out]) == 1
    text = capsys.readouterr().out
    assert "1 error(s)" in text
    assert text.strip().endswith(f"mien data check '{out}'")


def test_pack_takes_recordings_of_unequal_length(tmp_path):
    values = {f"values_{i}": np.full((9 + i, 2), i) for i in range(12)}
    people = {"person": np.repeat(list("abc"), 4), "label": np.array([0, 1] * 6)}
    file = saved(tmp_path / "a.npz", values=None, **values, **people)
    assert commands.pack_command([file, str(tmp_path / "d"), *PACK]) == 0
    cohort = folder.load(folder.Config(root=str(tmp_path / "d")))
    assert [len(r.streams["acc"].values) for r in cohort] == list(range(9, 21))
    assert cohort[11].streams["acc"].values[0, 0] == 11
    assert cohort.card.tasks == {"activity": ("0", "1")}
    only(check.check(tmp_path / "d"), "warning", "the basis of consent is not stated")


@pytest.mark.parametrize(
    ("changes", "extra", "words"),
    [
        ({"person": None}, [], "no array 'person'"),
        ({"label": np.array(["a", {}], dtype=object)}, [], "Python objects"),
        ({"values": np.zeros((48, 9))}, [], "must be [recordings, time, channels]"),
        ({"values": None}, [], "give either `values`"),
        ({"values": None, "values_1": np.zeros((9, 2))}, [], "no values_0"),
        ({"labels": np.zeros(48)}, [], "unknown array 'labels'; did you mean 'label'?"),
        ({"person": np.array([["a"]] * 48)}, [], "'person' has shape [48, 1]"),
        ({"person": np.array(["a"] * 3)}, [], "'person' has 3 values for 48 recordings"),
        ({}, ["--channels", "x,y,z"], "recording 0 of `values`"),
        ({}, ["--range", "4"], "--range is LOW,HIGH"),
        ({}, ["--purposes", "all"], "consent.purposes"),
        ({}, ["--rate", "-5"], "rate_hz"),
    ],
)
def test_pack_refuses_in_one_line(tmp_path, changes, extra, words):
    file = saved(tmp_path / "a.npz", **changes)
    with pytest.raises(MienError) as caught:
        commands.pack_command([file, str(tmp_path / "d"), *PACK, *extra])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("command", ["check", "pack", "list", "describe", "import"])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as caught:
        getattr(commands, f"{command}_command")(["--help"])
    assert caught.value.code == 0
    assert f"mien data {command}" in capsys.readouterr().out


def test_describe_names_the_nearest(tmp_path):
    with pytest.raises(MienError, match="did you mean 'folder'"):
        commands.describe_command(["foldr"])
    with pytest.raises(MienError, match="did you mean 'root'"):
        commands.describe_command(["folder", "rot=x", "root=y"])
    with pytest.raises(MienError, match="key=value"):
        commands.describe_command(["folder", "root"])
