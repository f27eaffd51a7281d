"""Trap checks on cohorts in which each trap was planted, and on ones without; the commands around them."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from mien import cli
from mien.core import plugins
from mien.core.errors import MienError
from mien.core.records import Cohort, CohortCard, Consent, Recording, Signal, StreamSpec, Text
from mien.data import commands, traps
from mien.data.clues import coded, columns, number

SPEC = StreamSpec(channels=("x",), unit="g", rate_hz=10.0, range=(-4.0, 4.0))


def cohort(persons=40, each=4, *, facts=None, start=None, label=None, values=None, card=None, seconds=None, text=None):
    """Each person as often "a" as "b", in an order that differs; what is planted comes as functions of (person, k, y)."""
    rng, made = np.random.default_rng(0), []
    for p in range(persons):
        for k in range(each):
            y = (p + k) % 2 if label is None else label(p, k)
            n = 50 if seconds is None else round(10 * seconds(p, k, y))
            x = rng.normal(p / 10, 1, (n, 1)) if values is None else values(p, k, rng)
            streams = {"acc": Signal(values=x, rate_hz=10.0, channels=("x",), unit="g")}
            if text is not None:
                streams["said"] = text(p, k)
            made.append(
                Recording(
                    id=f"db-{p:03d}-{k}", person=f"db-{p:03d}", streams=streams, labels={"t": "ab"[y]},
                    start_s=60.0 * k if start is None else start(p, k, y),
                    attributes={} if facts is None else facts(p, k, y),
                )
            )  # fmt: skip
    spec = {"acc": SPEC} | (
        {} if text is None else {"said": StreamSpec(channels=("interviewer", "participant"), kind="text")}
    )
    names = () if facts is None else tuple(facts(0, 0, 0))
    about = CohortCard(
        name="db",
        licence="invented",
        consent="invented",
        tasks={"t": ("a", "b")},
        attributes=names,
        streams=spec,
        **(card or {}),
    )
    return Cohort.build(made, card=about, consents={r.person: Consent() for r in made})


def levels(found):
    return {(f.level, f.where) for f in found}


def one(found, where, words=""):
    hits = [f for f in found if f.where.startswith(where) and words in f.problem]
    assert len(hits) == 1, [(f.level, f.where, f.problem) for f in found]
    return hits[0]


def test_a_plain_cohort_has_no_error_and_no_warning():
    found = traps.traps(cohort())
    assert {f.level for f in found} == {"info"}
    for f in found:
        assert f.where
        assert "\n" not in f.problem


@pytest.mark.parametrize(
    ("planted", "clue"),
    [
        ({"start": lambda p, k, y: 600.0 * y + p}, "start"),
        ({"seconds": lambda p, k, y: 5 + y}, "length"),
        ({"facts": lambda p, k, y: {"place": ["Bonn", "Rome"][y]}}, "place"),
        ({"facts": lambda p, k, y: {"record_date": f"2020-0{4 + y}-{1 + p % 20:02d}"}}, "record_date"),
        ({"facts": lambda p, k, y: {"cough": "yes"} if y else {"cough": ""}}, "cough"),
    ],
)
def test_a_label_that_metadata_gives_away(planted, clue):
    f = one(traps.traps(cohort(**planted)), "label t", "metadata alone")
    assert f.level == "warning"
    assert f"{clue} AUROC 1.00" in f.problem
    assert "balanced accuracy .50, accuracy .50" in f.problem


def test_a_half_confounded_label_is_measured_about_right():
    """Sex agrees with a person's label in three of four: AUROC is three quarters, and the interval holds it."""
    found = traps.traps(cohort(400, 1, label=lambda p, k: p % 2, facts=lambda p, k, y: {"sex": "mf"[y ^ (p % 8 > 5)]}))
    f = one(found, "label t", "metadata alone")
    assert re.search(r"sex AUROC \.7[456] \[\.[67]\d, \.[78]", f.problem), f.problem
    assert one(found, "label t", "one label per person").problem.endswith("400 persons")


def test_what_identifies_a_person_does_not_predict_a_label_of_others():
    found = traps.traps(cohort(facts=lambda p, k, y: {"name": f"n{p}"}, label=lambda p, k: p % 2))
    assert one(found, "label t", "metadata alone").level == "info"  # "all of it" at chance


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (lambda x: (x - x.mean()) / x.std(), "mean 0 and deviation 1"),
        (lambda x: (x - x.min()) / (x.max() - x.min()), "lowest 0 and highest 1"),
        (lambda x: x, None),
    ],
)
def test_values_scaled_by_each_persons_own_recordings(scale, says):
    whole = {p: scale(np.random.default_rng(p).normal(p, 1 + p, (200, 1))) for p in range(40)}
    found = traps.traps(cohort(values=lambda p, k, rng: whole[p][50 * k : 50 * k + 50]))
    hits = [f for f in found if f.where == "acc.x"]
    assert [says in f.problem for f in hits] == ([True] if says else [])


def test_the_interviewer_is_heard():
    def said(who):
        return lambda p, k: Text(
            times_s=np.array([0.0]), ends_s=np.array([1.0]), text=("how are you",), speakers=(who,), seconds=5.0
        )

    f = one(traps.traps(cohort(text=said("interviewer"))), "stream said")
    assert f.level == "warning"
    assert "160 of 160" in f.problem
    assert not [f for f in traps.traps(cohort(text=said("participant"))) if f.where == "stream said"]


def test_persons_few_young_and_alone():
    found = traps.traps(cohort(8, facts=lambda p, k, y: {"age": 15 + p, "sex": "mf"[p % 2], "hobby": "chess"}))
    assert "12.5 points" in one(found, "persons", "8 persons").problem
    assert one(found, "persons", "under 18").problem.startswith("3 are")
    assert "8 of 8 persons (100 %)" in one(found, "attributes (age, sex)").problem
    assert one(found, "attributes (age, sex, hobby)").level == "warning"
    none = traps.traps(cohort(40, facts=lambda p, k, y: {"age": 30 + p // 20, "sex": "f"}))
    assert not [f for f in none if f.where.startswith(("persons", "attributes"))]


def test_terms_are_named():
    f = one(traps.traps(cohort(card={"restrictions": ("non-commercial", "attribution")})), "licence")
    assert f.level == "warning"
    assert "non-commercial (no commercial use)" in f.problem
    assert one(traps.traps(cohort(card={"restrictions": ("attribution",)})), "licence").level == "info"


@pytest.mark.parametrize(
    ("split", "level", "says"),
    [
        ("{}", "info", "20 to train on, 20 held out, nobody in both"),
        ("{kind: random_window}", "error", "the same persons are in training and in test"),
        ("{holdout: 40}", "error", "leave nobody to train on"),
    ],
)
def test_the_split_of_a_recipe(tmp_path, split, level, says):
    (tmp_path / "adapt.yaml").write_text(f"cohort: {{name: db}}\nsplit: {split}\n")
    f = one(traps.traps(cohort(), name="db", recipe=tmp_path / "adapt.yaml"), str(tmp_path))
    assert (f.level, says in f.problem) == (level, True)
    (tmp_path / "adapt.yaml").write_text("cohort: {name: watch}\nsplit: {}\n")
    one(traps.traps(cohort(), name="db", recipe=tmp_path / "adapt.yaml"), str(tmp_path), "reads the cohort 'watch'")


def folds(tmp_path, head, rows):
    file = tmp_path / "folds.csv"
    file.write_text("\n".join([head, *rows]) + "\n")
    return file


def by(key):
    """Rows of a division: `key(p, k)` says on which side recording k of person p is."""
    return [f"{p:03d}-{k}.wav,{key(p, k)}" for p in range(40) for k in range(4)]


@pytest.mark.parametrize(
    ("head", "key", "says"),
    [
        ("id,split", lambda p, k: "train" if k else "test", ["40 of 40 persons", "100.0 % of its recordings"]),
        ("id,split", lambda p, k: "train" if p else "test", None),
        ("id,split", lambda p, k: ["train", "dev", "test"][p % 3], None),
        ("id,split", lambda p, k: "test" if p > 29 or (p == 29 and k < 2) else "train", ["1 of 11 persons", "4.8 %"]),
        ("id,fold", lambda p, k: p % 4, None),
        ("id,fold", lambda p, k: k, ["40 of 40 persons"] * 4),
        ("id,fold,split", lambda p, k: f"{k % 2},{'test' if p < 20 else 'train'}", None),
        ("id,fold,split", lambda p, k: f"1,{'test' if k == 0 else 'train'}", ["40 of 40"]),
    ],
)
def test_persons_on_both_sides_of_published_folds(tmp_path, head, key, says):
    found = [f for f in traps.traps(cohort(), folds=folds(tmp_path, head, by(key))) if str(tmp_path) in f.where]
    errors = [f for f in found if f.level == "error"]
    if says is None:
        assert [f.level for f in found] == ["info"]
        return
    assert len(errors) == (len(says) if says[0] == says[-1] else 1)
    for words in says:
        assert any(words in f.problem for f in errors)


def test_folds_by_speaker_and_of_strangers(tmp_path):
    file = folds(tmp_path, "speaker,split", ["000,train", "001,test", "000,test", "999,test"])
    found = [f for f in traps.traps(cohort(), folds=file) if str(tmp_path) in f.where]
    assert "1 of 2 persons" in next(f.problem for f in found if f.level == "error")
    assert "1 of 4 rows name no person of the cohort, the first is '999'" in [f.problem for f in found][-1]


@pytest.mark.parametrize(
    ("text", "says"),
    [("id,part\n1,2\n", "a column fold or split"), ("split\ntrain\n", "a column id"), ("", "is empty")],
)
def test_a_file_that_is_no_folds(tmp_path, text, says):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(MienError, match=says):
        traps.traps(cohort(), folds=tmp_path / "f.csv")
    with pytest.raises(MienError, match="no such file"):
        traps.traps(cohort(), folds=tmp_path / "g.csv")


def test_columns_that_say_the_same_are_one_and_symptoms_are_taken_together():
    yes = ["yes", None, "yes", None]
    found = columns(
        {"session": ["20200413", "20200414"] * 2, "record_date": ["2020-04-13", "2020-04-14"] * 2, "empty": [None] * 4}
        | {f"symptom_{s}": yes for s in ("cough", "fever", "cold")}
    )
    assert {k: v.shape for k, v in found.items()} == {"session or record_date": (4, 2), "symptom_…": (4, 6)}


def test_a_clue_among_many_classes_is_told_by_how_far_it_is_from_chance():
    """Place agrees with one of seven classes in a person's two of three: .43 is far from one seventh."""
    facts, rng = [], np.random.default_rng(0)
    made = []
    for p in range(210):
        y = p % 7
        facts.append({"place": f"t{y if p % 5 < 2 else rng.integers(7)}"})
        made.append(
            Recording(
                id=f"r{p}", person=f"p{p}", labels={"t": "abcdefg"[y]}, attributes=facts[p],
                streams={"acc": Signal(values=rng.normal(size=(50, 1)), rate_hz=10.0, channels=("x",), unit="g")},
            )
        )  # fmt: skip
    card = CohortCard(
        name="db", licence="x", consent="x", tasks={"t": tuple("abcdefg")}, attributes=("place",), streams={"acc": SPEC}
    )
    f = one(traps.traps(Cohort.build(made, card=card)), "label t", "metadata alone")
    assert f.level == "warning"
    assert re.search(r"place balanced accuracy \.[45]\d \[", f.problem), f.problem
    assert "balanced accuracy .14, accuracy .14" in f.problem


def test_coding_of_metadata():
    assert number("2020-04-13") == number("20200413")
    assert [number(x) for x in ("2020-13-40", "twelve", True, 3)] == [None, None, None, 3.0]
    assert coded([1, 1, 2, None]).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert coded(list(range(100))).shape == (100, 10)
    assert coded([f"w{i}" for i in range(50)]).shape == (50, 31)


# --- the commands ---------------------------------------------------------------------------------------------
@pytest.fixture
def crema(home):
    """91 actors, each saying one sentence in two moods; one clip is silent."""
    rng, place = np.random.default_rng(0), home / "CREMA-D" / "AudioWAV"
    place.mkdir(parents=True)
    for actor in range(1001, 1092):
        for mood in ("ANG", "SAD"):
            wavfile.write(place / f"{actor}_IEO_{mood}_XX.wav", 16000, rng.integers(-99, 99, 400).astype(np.int16))
    wavfile.write(place / "1001_TIE_SAD_LO.wav", 16000, np.zeros(400, np.int16))
    return home / "CREMA-D"


def test_folds_with_every_actor_on_both_sides_are_refused(crema, home, capsys):
    """As EmoBox's folds of CREMA-D are."""
    rows = [f"{a}_IEO_{m}_XX,{s}" for a in range(1001, 1092) for m, s in (("ANG", "train"), ("SAD", "test"))]
    file = folds(home, "id,split", rows)
    assert cli.main(["data", "check", "crema_d", f"root={crema}", f"folds={file}"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "91 of 91" in said
    assert "1 error(s)" in said
    assert "silent throughout" in said
    assert cli.main(["data", "check", "crema_d", f"root={crema}"]) == 0


def test_import_says_what_was_left_out_also_from_the_cache(crema, home, capsys):
    out = home / "copy"
    for more in ([], ["--out", str(out)]):
        assert cli.main(["data", "import", "crema_d", f"root={crema}", *more]) == 0
        said = capsys.readouterr().out
        assert "1 silent throughout (such as 1001_TIE_SAD_LO.wav)" in said
        assert "share-alike" in said
        assert "cached: " in said
        assert f"next: mien data check crema_d root={crema}" in said
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert len(Cohort.read(out)) == 182
    assert cli.main(["data", "import", "crema_d", f"root={crema}", "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_credentialed_set_is_not_copied(home, monkeypatch, capsys):
    made = cohort(card={"restrictions": ("credentialed",)})
    monkeypatch.setattr(commands, "_resolved", lambda *_: made)
    assert cli.main(["data", "import", "watch", "--out", str(home / "x")]) == 2
    assert "no further copy is made" in capsys.readouterr().err
    assert not (home / "x").exists()


def test_a_stranger_is_told_what_a_database_is_and_how_to_get_it(home, capsys):
    """Without a copy; from the page that ships with the package, for every data set that needs one."""
    known = [n for n in plugins.names("data/datasets") if n != "folder"]
    needs = [n for n in known if "root" in plugins.load("data/datasets", n).Config.model_fields]
    assert {"wesad", "crema_d", "ravdess", "coswara", "studentlife", "globem"} <= set(needs)
    for name in needs:
        assert commands.describe_command([name]) == 0
        said = capsys.readouterr().out
        for part in ("**Licence", "**Get it", "**Expected", f"mien data import {name} root=…"):
            assert part in said, (name, part)
        assert traps.known_traps(name)
    assert commands.describe_command(["folder"]) == 0
    assert "cohort.yaml" in capsys.readouterr().out
    listed = tomllib.loads((Path(cli.__file__).parent / "pyproject.toml").read_text())
    assert "docs/databases.md" in listed["tool"]["setuptools"]["package-data"]["mien"]
    with pytest.raises(MienError, match="root"):
        commands.describe_command(["wesad", "device=chest"])
