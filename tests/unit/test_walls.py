"""Where a new user runs into a wall, and what is said there: one row per wall."""

from __future__ import annotations

from pathlib import Path

import pytest

from mien import cli
from mien.core import config

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
    assert len(lines) == 1 and "Traceback" not in lines[0]
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
