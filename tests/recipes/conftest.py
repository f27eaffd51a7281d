"""A toy study: simulated movement of six persons, a base and an adapter of a few steps; every verb as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import warm

RECIPES = {
    "pretrain": {
        "study": "toy", "cohort": {"name": "motion", "persons": 8, "recordings_per_person": 8, "seconds": 12},
        "task": "movement", "seconds": 2, "stride_s": 2, "codec": {"name": "transform", "hz": 2.0},
        "shape": {"hidden": 32, "layers": 2, "heads": 2, "feed_forward": 64},
        "train": {"max_steps": 30, "batch": 8, "threads": 1},
    },
    "adapt": {
        "study": "toy", "cohort": {"name": "motion", "persons": 6, "recordings_per_person": 16, "seconds": 8, "seed": 7},
        "task": "movement", "seconds": 2, "stride_s": 2, "codec": {"name": "transform", "hz": 2.0},
        "backbone": {"name": "tiny", "recipe": "pretrain.yaml"}, "split": {"holdout": 3},
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
        "train": {"max_steps": 24, "batch": 8, "checkpoint_every": 4, "log_every": 4, "threads": 1},
    },
    "generate": {"study": "toy", "adapter": "adapt-toy", "sampling": {"per_label": 12, "batch": 16}},
    "attack": {
        "study": "toy", "adapter": "adapt-toy", "synthetic": "generate-toy",
        "identity": [{"name": "linkage", "trees": 20}],
    },
    "evaluate": {
        "study": "toy", "synthetic": "generate-toy", "attack": "attack-toy",
        "utility": [{"name": "tstr", "trees": 20}], "fidelity": [{"name": "c2st", "trees": 20}, {"name": "spectra"}, {"name": "validity"}],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Lab:
    """A folder with the toy recipes; `run` calls `mien` there in a process of its own, which has read what it imports already
    (`warm.py`), and `fresh` in one that has read nothing."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "MIEN_CACHE": str(self.folder.parent / "cache"),
            "MIEN_RUNS": str(self.folder / "runs"),
            "MIEN_LEDGER": str(self.folder / "ledger" / "ledger.sqlite"),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "mien.cli", *args]

    def run(self, *args: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        done = warm.server.run(args, self.folder, self.env)
        assert not ok or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    def fresh(self, *args: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(*args), cwd=self.folder, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    def runs(self, verb: str) -> list[Path]:
        return sorted((self.folder / "runs").glob(f"{verb}-toy-*"))

    def only(self, verb: str) -> Path:
        (one,) = self.runs(verb)
        return one


def lab(folder: Path, recipes: Mapping[str, Any] = RECIPES) -> Lab:
    """A lab with these recipes, name -> content."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return Lab(folder)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """All verbs, run once. Tests read it; whoever changes something copies it first (see `copy_of`)."""
    made = lab(tmp_path_factory.mktemp("toy") / "chain")
    made.fresh("adapt", "adapt.yaml")  # pretrains the base by itself
    for verb in ("generate", "attack", "evaluate"):
        made.fresh(verb, f"{verb}.yaml")
    return made


def copy_of(chain: Lab, name: str, *verbs: str) -> Lab:
    """A lab of its own with the finished runs of some verbs (and the shared cache of simulated cohorts)."""
    import shutil

    made = lab(chain.folder.parent / name)
    (made.folder / "runs").mkdir(exist_ok=True)
    shutil.copy(chain.folder / "runs" / ".key", made.folder / "runs" / ".key")
    for verb in verbs:
        for run in chain.runs(verb):
            shutil.copytree(run, made.folder / "runs" / run.name, dirs_exist_ok=True)
    return made
