"""The simulators are frozen: figures in the docs and RESULTS.md say something only about the cohorts they were measured on.

A changed simulator, or a changed cohort of a study, fails here. Measure the study again, put the new figures where the old
ones stand (docs/log.md, docs/simulated.md, benchmarks/RESULTS.md), and then re-record:

    python -m tests.unit.test_frozen
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from mien.core import config, plugins

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = ROOT / "tests" / "reference" / "simulators.json"
CODE = {
    "simulated": ("data/datasets/simulated.py",),
    "simulated_life": ("data/datasets/simulated.py", "data/datasets/simulated_life.py", "data/behaviour.py"),
    "simulated_film": ("data/datasets/simulated_film.py", "data/drawn.py"),  # beside those of simulated_life
    "simulated_phone": ("data/datasets/simulated_phone.py",),  # beside those of simulated_life
}
STUDIES = {
    "simulated": ("simulated/pretrain", "simulated/adapt"),
    "simulated_life": (
        "simulated_life/pretrain",
        "simulated_life/adapt",
        "simulated_days/pretrain",
        "simulated_days/adapt",
        "simulated/represent_voice",
    ),
    "simulated_film": ("simulated/represent_film",),
    "simulated_phone": ("simulated_life/pretrain_all", "simulated_life/adapt_all"),
}


def digest(what: bytes) -> str:
    return hashlib.sha256(what).hexdigest()


def code(name: str, root: Path = ROOT) -> str:
    """sha256 of the simulator's sources, one after the other."""
    return digest(b"".join((root / f).read_bytes() for f in CODE[name]))


def cohort(recipe: str) -> str:
    """sha256 of a recipe's cohort, every option of it resolved: a default that moves is another cohort."""
    section = config.Plugin(**config.read(str(ROOT / recipe))["cohort"])
    _, options = plugins.resolve("data/datasets", section)
    return digest(json.dumps([section.name, options.model_dump(mode="json")], sort_keys=True).encode())


def now() -> dict[str, Any]:
    return {
        name: {"code": code(name), "cohorts": {r: cohort(f"recipes/{r}.yaml") for r in STUDIES[name]}} for name in CODE
    }


@pytest.mark.parametrize("name", CODE)
def test_the_simulators_are_those_the_figures_were_measured_on(name):
    kept = json.loads(FILE.read_text())[name]
    assert now()[name] == kept, __doc__


def test_the_base_never_saw_the_study():
    for name, simulator in (("simulated",) * 2, ("simulated_life",) * 2, ("simulated_days", "simulated_life")):
        kept = json.loads(FILE.read_text())[simulator]["cohorts"]
        assert kept[f"{name}/pretrain"] != kept[f"{name}/adapt"]


def test_the_check_can_fail(tmp_path):
    for file in CODE["simulated"]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    assert code("simulated", tmp_path) == code("simulated")
    (tmp_path / CODE["simulated"][0]).write_bytes((ROOT / CODE["simulated"][0]).read_bytes().replace(b"0.3", b"0.31"))
    assert code("simulated", tmp_path) != code("simulated")


if __name__ == "__main__":
    FILE.write_text(json.dumps(now(), indent=1) + "\n")
