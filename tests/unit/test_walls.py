"""Where a new user runs into a wall, and what is said there: one row per wall."""

from __future__ import annotations

from pathlib import Path

import pytest

from mien import cli
from mien.core import config, paths, runs, verbs

VERBS = [v for v in cli.VERBS if v != "demo"]
SHIPPED = Path(config.RECIPES)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder of one's own, with nothing of Mien in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("MIEN_RUNS", "MIEN_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


def said(capsys, *words: str) -> str:
    assert cli.main(list(words)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "Traceback" not in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("data import ravdess rooot=rav", "unknown key 'rooot'; did you mean 'root'?"),
        ("generate recipes/watch/adapt.yaml", "looks like a recipe of `mien adapt`, not of `mien generate`"),
        ("adapt recipes/watch/generate.yaml adapter=x", "looks like a recipe of `mien generate`, not of `mien adapt`"),
        ("generate recipes/watch/adapt.yaml nonsense=1", "unknown key"),
    ],
)
def test_what_is_said(capsys, words, says):
    assert says in said(capsys, *words.split())


def start() -> None:
    runs.Run.start("adapt", "x", {}, {})


@pytest.mark.parametrize(
    ("variable", "value", "does"),
    [
        ("MIEN_RUNS", "/proc/x", start),
        ("MIEN_RUNS", "afile", start),
        ("MIEN_RUNS", "afile", lambda: runs.keyed("abc")),
        ("MIEN_CACHE", "afile", paths.cache_home),
        ("MIEN_CACHE", "/proc/x/y", paths.cache_home),
        ("MIEN_CACHE", "afile/deeper", paths.cache_home),
    ],
)
def test_an_unusable_folder_names_its_variable(capsys, monkeypatch, tmp_path, variable, value, does):
    (tmp_path / "afile").write_text("x")
    monkeypatch.setenv(variable, value)
    assert verbs.guard(does) == 2
    assert f"; set {variable} to a folder you can write to" in capsys.readouterr().err


def test_other_missing_files_stay_faults(monkeypatch, tmp_path):
    """A file gone from a run folder that can be written to is not the variable's fault, and keeps its traceback."""
    (tmp_path / "mien_runs").mkdir()

    def broken() -> None:
        (tmp_path / "mien_runs" / "gone").read_text()

    with pytest.raises(FileNotFoundError):
        verbs.guard(broken)
