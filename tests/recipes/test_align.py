"""`mien align` on a toy of the simulated study: experts are asked, DPO moves the adapter, bounds are held, later verbs take it."""

from __future__ import annotations

import json

import pytest
import yaml

from .conftest import lab

CODECS = [
    {"name": "beats", "streams": ["bvp", "resp"]},
    {"name": "eda", "streams": ["eda"]},
    {"name": "bins", "streams": ["temp"], "hz": 0.1},
    {"name": "activity", "streams": ["acc"]},
]
COMMON = {"study": "toy_align", "task": "stress", "seconds": 30, "stride_s": 30, "codecs": CODECS}
COHORT = {"name": "simulated", "sessions": 2, "seconds": 30}
TRAIN = {"batch": 8, "checkpoint_every": 50, "log_every": 10, "threads": 1, "lr": 3e-3}
RECIPES = {
    "pretrain_toy": {
        **COMMON, "cohort": {**COHORT, "persons": 12, "seed": 5}, "train": {**TRAIN, "max_steps": 40},
        "shape": {"hidden": 32, "layers": 2, "heads": 2, "feed_forward": 64},
    },
    "adapt_toy": {
        **COMMON, "cohort": {**COHORT, "persons": 8}, "backbone": {"name": "tiny", "recipe": "pretrain_toy.yaml"},
        "split": {"holdout": 4}, "lora": {"rank": 4, "alpha": 8}, "train": {**TRAIN, "max_steps": 10},
    },
    "dpo_toy": {
        "study": "toy_align", "adapter": "adapt-toy_align", "minimum_alpha": 0.1, "threads": 1,
        "simulate": {"per_label": 16, "pairs": 60, "judge_again": 8}, "lora": {"rank": 2, "alpha": 4},
        "dpo": {"steps": 6, "batch": 4}, "bounds": {"win_rate": 0.0},
    },
    "generate_toy": {"study": "toy_align", "adapter": "align-toy_align", "sampling": {"per_label": 4, "batch": 8}},
}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    made = lab(tmp_path_factory.mktemp("align") / "toy")
    for name, recipe in RECIPES.items():
        (made.folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    made.run("adapt", "adapt_toy.yaml")
    return made


def test_a_round_of_simulated_feedback_and_dpo(toy):
    out = toy.run("align", "dpo_toy.yaml").stdout
    assert "win rate against before" in out
    (run,) = (toy.folder / "runs").glob("align-toy_align-*")
    report = json.loads((run / "release" / "report.json").read_text())
    named = {r["metric"]: r for r in report["results"]}
    assert named["valid sequences"]["value"] == 1.0
    assert named["expert utility gain"]["low"] is not None
    assert named["raters' agreement α"]["value"] > 0.1
    assert any("post-processing" in c for c in report["caveats"])
    adapter = json.loads((run / "release" / "adapter" / "adapter_config.json").read_text())
    assert adapter["r"] == 4 + 2
    toy.run("generate", "generate_toy.yaml")  # the aligned adapter goes on like any other
    assert list((toy.folder / "runs").glob("generate-toy_align-*/release/cohort"))


@pytest.mark.slow
def test_a_passed_bound_ends_the_verb_with_3(toy):
    done = toy.run(
        "align", "dpo_toy.yaml", "study=toy_bound", "dpo.steps=2", "bounds={win_rate: 1.0, kl: 1.0e-9}", ok=False
    )
    assert done.returncode == 3, done.stderr[-2000:]
    assert "bound passed: win rate against before" in done.stdout + done.stderr


@pytest.mark.slow
def test_raters_who_toss_coins_are_not_learned_from(toy):
    done = toy.run(
        "align",
        "dpo_toy.yaml",
        "study=toy_coins",
        "simulate.expert={sharpness: 0, spread: 0, tie: 0, bad: -1.0e+9}",
        ok=False,
    )
    assert done.returncode == 2
    assert "α" in done.stderr
