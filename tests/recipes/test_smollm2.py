"""The watch study end to end on a real pretrained language model, for a few steps."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mien.core.records import Cohort

from ..conftest import fetched
from .conftest import lab


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not fetched("watch", "smollm2-135m"), reason="needs `mien assets fetch watch` and `mien assets fetch smollm2-135m`"
)
def test_watch_on_smollm2(tmp_path):
    import os

    made = lab(tmp_path / "smollm2")
    env = {**os.environ, "MIEN_RUNS": str(made.folder / "runs")}
    for command in (
        ["adapt", "recipes/watch_smollm2/adapt.yaml", "train.max_steps=3", "train.batch=4", "stride_s=60"],
        ["generate", "recipes/watch_smollm2/generate.yaml", "sampling.per_label=2"],
        ["attack", "recipes/watch_smollm2/attack.yaml"],
        ["evaluate", "recipes/watch_smollm2/evaluate.yaml"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "mien.cli", *command], cwd=made.folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-2500:]
    runs = made.folder / "runs"
    (adapter,) = runs.glob("adapt-watch_smollm2-*/release/adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "mien-assets/smollm2-135m"
    assert min(config["trainable_token_indices"]) == 49152  # every behaviour row, no word
    (cohort,) = runs.glob("generate-watch_smollm2-*/release/cohort")
    assert len(Cohort.read(cohort)) == 14
    (report,) = runs.glob("generate-watch_smollm2-*/release/report.json")
    assert json.loads(report.read_text())["results"][0]["value"] == 1.0
