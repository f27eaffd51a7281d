"""The pictures-and-words and the sound recipes as shipped, on real weights out of registry packages: few persons, few steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from mien.core.plugins import ROOT

from ..conftest import fetched

COMMAND = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "cpu.yaml")]
SMALL = ["cohort.persons=12", "train.max_steps=4", "train.batch=8", "train.threads=1"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("what", "assets", "base", "towers", "options"),
    [
        ("film", ("dinov2-s", "minilm"), "mien-assets/dinov2-minilm", {"image", "text"}, ["represent.negatives.persons=4"]),
        ("voice", ("resemblyzer",), "mien-assets/resemblyzer", {"audio"}, []),
    ],
)  # fmt: skip
def test_a_shipped_recipe_on_real_weights(tmp_path, what, assets, base, towers, options):
    if not fetched(*assets):
        pytest.skip(f"needs `mien assets fetch {' '.join(assets)}`")
    env = {**os.environ, "MIEN_RUNS": str(tmp_path / "runs"), "MIEN_LEDGER": str(tmp_path / "ledger.sqlite")}
    for command in (
        [*COMMAND, str(ROOT / "recipes" / "adapt.py"), f"recipes/simulated/represent_{what}.yaml", *SMALL, *options],
        [sys.executable, "-m", "mien.cli", "evaluate", f"recipes/simulated/evaluate_represent_{what}.yaml"],
    ):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-2500:]
    (adapter,) = tmp_path.glob("runs/adapt-*/release/adapter")
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == base
    trained = load_file(adapter / "adapter_model.safetensors")
    moved = {n.split(".")[2] for n, v in trained.items() if "lora_B" in n and v.abs().max() > 0}
    assert moved == towers
    assert not list(tmp_path.glob("runs/adapt-*/private/frozen"))
    (file,) = tmp_path.glob("runs/evaluate-*/release/report.json")
    named = {r["metric"]: r["value"] for r in json.loads(file.read_text())["results"]}
    assert named["adapted macro-F1"] is not None
    assert named["identity.adapted.recognised (linear)"] is not None
