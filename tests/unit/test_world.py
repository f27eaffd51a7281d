"""Several real processes: the same numbers as one, a base that is really sharded, noise added exactly once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker.py")
SLOW = pytest.mark.slow


def launch(out: Path, how: str, mode: str = "exact") -> tuple[dict[str, np.ndarray], dict]:
    """What a worker run under a launch file found, and its facts."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MIEN_CACHE": str(out.parent / "cache")}
    env |= {"ACCELERATE_USE_CPU": "true"} if how == "ddp" else {}
    if how == "one":
        command = [sys.executable]
    else:
        file = ROOT / "launch" / f"{how}.yaml"
        accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
        command = [*accelerate, "--config_file", str(file), "--num_processes", "2", "--main_process_port", "0"]
    done = subprocess.run([*command, str(WORKER), str(out), mode], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-4000:]
    return dict(np.load(out)), json.loads(out.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("one") / "one.npz", "one")[0]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("how", "mode", "kind", "share"),
    [
        ("ddp", "exact", "MULTI_CPU", 1.0),
        ("ddp", "shard", "MULTI_CPU", 0.5),
        ("zero3", "exact", "DEEPSPEED", 0.5),
        pytest.param("zero3_offload", "exact", "DEEPSPEED", 0.5, marks=SLOW),
        pytest.param("zero2", "exact", "DEEPSPEED", 1.0, marks=SLOW),
        pytest.param("zero1", "exact", "DEEPSPEED", 1.0, marks=SLOW),
    ],
)
def test_the_same_noised_parameters_as_one_process(alone, tmp_path, how, mode, kind, share):
    found, facts = launch(tmp_path / "two.npz", how, mode)
    assert facts["world"] == 2
    assert facts["kind"] == kind
    assert facts["share"] == pytest.approx(share, rel=0.1)  # really sharded; ZeRO pads small tensors
    assert np.abs(found["gradients"] - alone["gradients"]).max() < 1e-6
    assert np.abs(found["vector"] - alone["vector"]).max() < 1e-5
    if "noise" in found:
        added_once_and_normal(found["noise"])


def test_one_process_adds_the_same_noise(alone):
    added_once_and_normal(alone["noise"])


def added_once_and_normal(noise: np.ndarray) -> None:
    """[steps, P] in units of the noise multiplier, 1: per coordinate, over all, and from step to step."""
    z = noise.ravel().astype(np.float64)
    n, steps = len(z), len(noise)
    assert n > 50_000
    assert z.std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * n))
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert stats.kstest(z, "norm").pvalue > 1e-4
    per_coordinate = (z.reshape(noise.shape) ** 2).sum(axis=0)
    assert stats.kstest(per_coordinate, "chi2", args=(steps,)).pvalue > 1e-4
    across = np.corrcoef(noise)[np.triu_indices(steps, 1)]
    assert np.abs(across).max() < 6 / np.sqrt(noise.shape[1])  # no step's noise is another's


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "zero3"])
def test_a_plain_run_too(tmp_path, how):
    one, two = (launch(tmp_path / f"{h}.npz", h, "plain") for h in ("one", how))
    assert two[1]["world"] == 2
    assert np.abs(one[0]["vector"] - two[0]["vector"]).max() < 1e-5
