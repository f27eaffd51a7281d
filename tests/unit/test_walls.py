"""Where a new user runs into a wall, and what is said there: one row per wall."""

from __future__ import annotations

import contextlib
import re

import pytest

from mien import cli
from mien.core import config, console, paths, runs, verbs

VERBS = [v for v in cli.VERBS if v != "demo"]


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
        ("data import folder --out x root=my-study", "my-study: no such folder"),
        ("data import folder root=my-study --out x", "my-study: no such folder"),
        ("generate recipes/watch/adapt.yaml", "looks like a recipe of `mien adapt`, not of `mien generate`"),
        ("adapt recipes/watch/generate.yaml adapter=x", "looks like a recipe of `mien generate`, not of `mien adapt`"),
        ("generate recipes/watch/adapt.yaml nonsense=1", "unknown key"),
        ("adapt recipes/watch/adapt.yaml lora=null", "lora: a section of keys is needed here (rank, alpha,"),
        (
            "adapt recipes/watch/adapt.yaml streams=acc",
            "streams: a list is needed here, such as streams='[acc]', got 'acc'",
        ),
        ("align recipes/watch/dpo.yaml simulate=null", "leave the key out for the defaults, got null"),
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


@pytest.mark.parametrize("verb", VERBS)
def test_every_verbs_help_names_a_recipe_of_its_own(capsys, verb):
    with pytest.raises(SystemExit) as e:
        cli.main([verb, "--help"])
    assert e.value.code == 0
    named = re.search(rf"example: mien {verb} (recipes/\S+\.yaml)", " ".join(capsys.readouterr().out.split()))
    assert named
    raw = config.read(named[1])  # found from any folder
    assert verb in verbs.made_for(raw)


@pytest.mark.parametrize("verb", VERBS)
def test_only_the_recipe_is_required(capsys, verb):
    with pytest.raises(SystemExit) as e:
        cli.main([verb])
    assert e.value.code == 2
    assert (
        capsys.readouterr().err.splitlines()[-1] == f"mien {verb}: error: the following arguments are required: recipe"
    )


def test_the_help_names_version(capsys):
    assert cli.main(["--help"]) == 0
    assert "mien --version" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "says"), [(KeyboardInterrupt(), "x: stopped at 230/400 in "), (None, "x: 230/400 in ")]
)
def test_a_bar_that_was_stopped_says_so(capsys, error, says):
    with contextlib.suppress(KeyboardInterrupt), console.progress("x", 400) as bar:
        bar.step(230)
        if error is not None:
            raise error
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(("n", "says"), [(0, "0 persons"), (1, "1 person"), (2, "2 persons")])
def test_a_count(n, says):
    assert console.count(n, "person") == says
