"""Run folders: reuse by hash, halves and modes, locks, atomic writes."""

from __future__ import annotations

import re
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from mien.core import runs
from mien.core.errors import MienError
from mien.core.runs import Run


@pytest.mark.parametrize("before", [False, True])
def test_a_private_file_is_its_owners_alone(tmp_path, before):
    file = tmp_path / "said.jsonl"
    if before:
        file.write_text("old")
        file.chmod(0o644)
    runs.write_text(file, "new", private=True)
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def start(config=None, inputs=None, **kw) -> Run:
    return Run.start("adapt", "toy", config or {"a": 1}, inputs or {"cohort": "f"}, **kw)


def test_two_halves_and_reuse(home, capsys):
    with start() as run:
        assert not run.reused
        assert stat.S_IMODE(run.private.stat().st_mode) == 0o700
        (run.release / "x").write_text("1")
        assert run.status() == "running"
    assert run.status() == "finished"
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["config"] == {"a": 1}
    with start() as again:
        assert again.reused
        assert again.folder == run.folder
    assert "reused" in capsys.readouterr().out
    with start(fresh=True) as third:
        assert not third.reused
        assert not (third.release / "x").exists()


def test_hash_covers_config_and_inputs(home):
    names = set()
    for config, inputs in [({"a": 1}, {"c": "f"}), ({"a": 2}, {"c": "f"}), ({"a": 1}, {"c": "g"})]:
        with start(config, inputs) as run:
            names.add(run.name)
    assert len(names) == 3


def test_the_run_asked_for_last_is_the_newest(home):
    folders = []
    for seed in (0, 1, 0):  # the third finds the first again
        with start({"seed": seed}) as run:
            folders.append(run.folder)
    assert folders[0] == folders[2] != folders[1]
    assert runs.find("adapt-toy", "adapt") == folders[0]


@pytest.mark.parametrize(("error", "status"), [(ValueError("x"), "failed"), (KeyboardInterrupt("x"), "running")])
def test_failed_run_is_continued_and_leftovers_are_swept(home, capsys, error, status):
    with pytest.raises(type(error), match="x"), start() as run:
        (run.private / "keep").write_text("1")
        (run.private / ".half.123.partial").write_text("1")
        raise error
    assert run.status() == status
    with pytest.raises(MienError, match=f"found only unfinished: {run.name}"):
        runs.find(run.name, "adapt")
    with start() as again:
        assert (again.private / "keep").exists()
        assert not (again.private / ".half.123.partial").exists()
        assert again.status() == "running"
    assert "continuing" in capsys.readouterr().out
    assert again.status() == "finished"
    with pytest.raises(ValueError, match="y"), start() as late:
        raise ValueError("y")
    assert late.status() == "finished"  # what was reused stays what it is


def test_two_writers_are_refused(home):
    with start(), pytest.raises(MienError, match="another process"):
        start()


def test_two_threads_write_one_file(tmp_path):
    """The studio's report, when two raters recognise somebody at once."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: runs.write_text(tmp_path / "report.json", f"{i % 10}" * 5000), range(100)))
    assert len(set((tmp_path / "report.json").read_text())) == 1
    assert [f.name for f in tmp_path.iterdir()] == ["report.json"]


def test_whole_folder_or_nothing(tmp_path):
    target = tmp_path / "t"
    with pytest.raises(ValueError, match="x"), runs.whole_folder(target) as part:
        (part / "a").write_text("1")
        raise ValueError("x")
    assert list(tmp_path.iterdir()) == []
    for text in "12":
        with runs.whole_folder(target) as part:
            (part / "a").write_text(text)
    assert (target / "a").read_text() == "2"
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("content", [b"", b'{"status": "fin', b"null", b"\xff\xfe"])
def test_a_damaged_status_names_the_study(home, content):
    with start() as run:
        pass
    (run.folder / "status.json").write_bytes(content)
    says = rf"found {run.name}, whose status.json is damaged\); make one with `mien adapt` and a recipe whose study is toy, or"
    for reference in (run.name, run.folder, "adapt-toy"):
        with pytest.raises(MienError, match=says):
            runs.find(reference, "adapt")
    with start() as again:  # the same command goes on
        assert not again.reused
    assert runs.find(run.name, "adapt") == run.folder


def test_find(home):
    with pytest.raises(MienError, match="`mien adapt` and a recipe whose study is toy"):
        runs.find("adapt-toy", "adapt")
    with start() as run:
        pass
    with pytest.raises(MienError, match="no finished run"), start({"a": 9}) as broken:
        runs.find(broken.folder, "adapt")
    assert runs.find("adapt-toy", "adapt") == run.folder
    assert runs.find(run.name, "adapt") == run.folder
    assert runs.find(run.folder, "adapt") == run.folder
    assert len(runs.fingerprint(run.folder)) == 64


@pytest.mark.parametrize("verb", ["generate", "pretrain", "attack"])
def test_a_run_of_another_verb_is_refused_by_name(home, verb):
    with Run.start(verb, "watch", {}, {}) as other:
        pass
    says = rf"{other.name} is a run of `mien {verb}`, where one of `mien adapt` is wanted .*make one with `mien adapt recipes/watch"
    for reference in (f"{verb}-watch", other.name, other.folder):
        with pytest.raises(MienError, match=says):
            runs.adapter(reference)
    with pytest.raises(
        MienError, match=rf"where one of `mien {'attack' if verb != 'attack' else 'evaluate'}` is wanted: name"
    ):
        runs.find(other.folder, "attack" if verb != "attack" else "evaluate")


def test_an_adapter_is_of_adapt_or_of_align_where_it_moved_one(home):
    for verb in ("adapt", "align"):
        with Run.start(verb, "toy", {}, {}) as run:
            (run.release / "adapter").mkdir()
        assert runs.adapter(f"{verb}-toy") == run.folder
    with pytest.raises(MienError, match="is a run of `mien align`, where one of `mien adapt` is wanted: name"):
        runs.find("align-toy", "adapt")
    with Run.start("align", "reward", {}, {}):
        pass
    with pytest.raises(MienError, match=r"align-reward-\w+ holds no adapter: `method: reward`"):
        runs.adapter("align-reward")


@pytest.mark.parametrize(
    ("verb", "study", "how"),
    [
        ("adapt", "watch", "`mien adapt recipes/watch/adapt.yaml`"),
        ("adapt", "simulated_represent", "`mien adapt recipes/simulated/represent.yaml`"),
        ("generate", "watch_private", "`mien generate recipes/watch/generate_private.yaml`"),
        ("adapt", "my.own", "`mien adapt` and a recipe whose study is my.own"),
    ],
)
def test_a_missing_run_says_which_shipped_recipe_makes_it(home, verb, study, how):
    with pytest.raises(MienError, match=f"make one with {re.escape(how)}, or"):
        runs.find(f"{verb}-{study}", verb)
