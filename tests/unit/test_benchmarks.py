"""That a benchmark still runs and fills its table. What it measures is in benchmarks/RESULTS.md, and asserted nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_private_step_prints_every_row():
    pytest.importorskip("opacus")
    command = [sys.executable, str(ROOT / "benchmarks" / "private_step.py"), "--quick"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = {
        cells[1].strip(): [c.strip() for c in cells[2:-1]]
        for line in run.stdout.splitlines()
        if len(cells := line.split("|")) > 2
    }
    timed = {"plain", "plain_b", "ours", "ours_4", "opacus", "opacus_ghost", "vmap_grad"}
    kept = {"plain", "ours", "opacus"}
    assert timed | {f"{name} + checkpointing" for name in kept} == set(rows) - {"variant", "---"}
    for name in timed:
        assert all("[" in cell for cell in rows[name][1:3]), (name, rows[name])
    for name in (timed - {"plain_b"}) | {"plain + checkpointing", "ours + checkpointing"}:
        assert float(rows[name][3]) > 0, (name, rows[name])
    assert run.stdout.count("against vmap(grad)") == 2


@pytest.mark.slow
def test_codecs_prints_every_table():
    command = [sys.executable, str(ROOT / "benchmarks" / "codecs.py"), "--persons", "2"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for title in ("bvp and resp", "eda", "temp", "acc"):
        assert f"\n{title}\n" in run.stdout
    assert run.stdout.count("plain bins") == 6
    assert "all five streams" in run.stdout


@pytest.mark.slow
def test_ceiling_prints_every_row():
    command = [sys.executable, str(ROOT / "benchmarks" / "ceiling.py"), "--persons", "5"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = [line.split("|") for line in run.stdout.splitlines() if line.startswith("| ")]
    assert {r[1].strip() for r in rows} > {"all streams", "bvp", "acc", "all vital signs", "skin conductance"}
    assert all(0 <= float(cell) <= 1 for r in rows[1:] for cell in r[2:-1])
    assert "statistics are out of reach" in run.stdout


@pytest.mark.slow
def test_sampling_prints_its_ratio():
    command = [sys.executable, str(ROOT / "benchmarks" / "sampling.py"), "--quick"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "ours / theirs: " in run.stdout
    assert "the grammar's share of our time: " in run.stdout


@pytest.mark.slow
def test_late_layers_prints_its_row():
    command = [sys.executable, str(ROOT / "benchmarks" / "late_layers.py"), "--quick"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [line for line in run.stdout.splitlines() if line.startswith("| 1 |")]
