"""`mien align` on a toy of the simulated study: experts are asked, DPO moves the adapter, bounds are held, later verbs take it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import lab

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "dpo": ["dpo.steps=4", "dpo.batch=4", "dpo.fresh=8"],
    "ppo": ["ppo={fresh: 4, episodes: 8, batch: 4, epochs: 1, minibatches: 1}"],
}  # fmt: skip
TINY = [
    "adapter=adapt-toy_align", "simulate={per_label: 16, pairs: 60, judge_again: 4}", "minimum_alpha=0.1", "threads=1",
    "bounds={win_rate: 0.0}",
]  # fmt: skip

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
        "dpo": {"steps": 6, "batch": 4, "fresh": 8, "turns": 2}, "bounds": {"win_rate": 0.0},
    },
    "generate_toy": {"study": "toy_align", "adapter": "align-toy_align", "sampling": {"per_label": 4, "batch": 8}},
}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    made = lab(tmp_path_factory.mktemp("align") / "toy", RECIPES)
    made.run("adapt", "adapt_toy.yaml")
    return made


def test_a_round_of_simulated_feedback_and_dpo(toy):
    out = toy.run("align", "dpo_toy.yaml").stdout
    assert "win rate against before" in out
    (run,) = (toy.folder / "runs").glob("align-toy_align-*")
    report = json.loads((run / "release" / "report.json").read_text())
    named = {r["metric"]: r for r in report["results"]}
    assert named["valid sequences"]["value"] == 1.0
    for part in ("", ", held-out terms", ", vital signs"):
        assert named[f"expert utility gain{part}"]["low"] is not None
    assert named["raters' agreement α"]["value"] > 0.1
    assert named["reward accuracy on held-out answers"]["low"] is not None  # of what labelled the fresh samples
    assert 0 <= named["preference attack AUC"]["low"] <= named["preference attack AUC"]["high"] <= 1
    assert not any("no attack looked" in m for m in report["not_measured"])
    assert json.loads((run / "release" / "reward" / "linear.json").read_text())["weights"]
    assert any("post-processing" in c for c in report["caveats"])
    adapter = json.loads((run / "release" / "adapter" / "adapter_config.json").read_text())
    assert adapter["r"] == 4 + 2
    page, inside = ((run / half / "report.html").read_text() for half in ("release", "private"))
    assert "win rate against before" in page
    assert "Training loss" not in page
    assert "Training loss" in inside
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
def test_a_strength_near_nothing_leaves_the_reference(toy):
    toy.run("align", "dpo_toy.yaml", "study=toy_strength", "dpo.lr=0.01", "lora.strength=1.0e-4", "dpo.turns=1")
    kl = report(toy, "toy_strength")["KL to the reference"]
    assert abs(kl["value"]) < 1e-3


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


def test_answers_in_a_file_are_refused_before_anything_is_sampled(toy):
    rows = [
        {"pair_id": f"p{i}", "a": f"a{i}", "b": f"b{i}", "rater": r, "choice": "AB"[(i + (r == "y") * (i % 2)) % 2]}
        for i in range(20)
        for r in "xy"
    ]
    (toy.folder / "coins.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    done = toy.run("align", "dpo_toy.yaml", "study=toy_early", "preferences=coins.jsonl", "bounds={}", ok=False)
    assert done.returncode == 2
    assert "raters agree too little" in done.stderr
    assert not list((toy.folder / "runs").glob("align-toy_early-*"))


def report(toy, study: str) -> dict:
    (run,) = (toy.folder / "runs").glob(f"align-{study}-*")
    return {r["metric"]: r for r in json.loads((run / "release" / "report.json").read_text())["results"]}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("method", "how", "processes"),
    [("dpo", "cpu", 1), ("dpo", "ddp", 2), ("dpo", "zero2", 2), ("ppo", "cpu", 1), ("ppo", "ddp", 2)],
)
def test_the_shipped_recipes_on_one_and_two_processes(toy, method, how, processes):
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / f"{how}.yaml"),
        "--num_processes", str(processes), "--main_process_port", "0", str(ROOT / "recipes" / "align.py"),
        str(ROOT / "recipes" / "simulated" / f"{method}.yaml"), f"study=toy_{method}_{how}", *TINY, *SMALL[method],
    ]  # fmt: skip
    env = {**toy.env, **({} if how == "zero2" else {"ACCELERATE_USE_CPU": "true"})}
    done = subprocess.run(command, cwd=toy.folder, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = report(toy, f"toy_{method}_{how}")
    assert found["valid sequences"]["value"] == 1.0
    assert found["KL to the reference"]["value"] is not None
    if method == "ppo":
        assert found["reward accuracy on held-out answers"]["low"] is not None
        (run,) = (toy.folder / "runs").glob(f"align-toy_ppo_{how}-*")
        assert json.loads((run / "release" / "reward" / "linear.json").read_text())["weights"]
    assert done.stdout.count("alignment of toy") == 1  # the main process alone speaks


@pytest.mark.slow
def test_two_rounds_have_utility_and_leakage_each(toy):
    toy.run("align", "dpo_toy.yaml", "study=toy_rounds", "rounds=2", "dpo={steps: 2, batch: 4, fresh: 0}")
    found = report(toy, "toy_rounds")
    for k in (1, 2):
        assert found[f"mean utility of what was rated (round {k})"]["high"] < 0
        assert found[f"reference attack AUC (round {k})"]["value"] is not None
    assert found["reference attack AUC"]["value"] == found["reference attack AUC (round 2)"]["value"]
    assert found["coverage"]["value"] is None  # too few windows, and said so
    assert "not measured" in found["coverage"]["note"]


@pytest.mark.slow
def test_a_reward_model_alone_is_held_to_no_bound(toy):
    toy.run(
        "align",
        "dpo_toy.yaml",
        "study=toy_reward",
        "method=reward",
        "bounds={}",
        "reward={steps: 4, batch: 4, rank: 2}",
    )
    (run,) = (toy.folder / "runs").glob("align-toy_reward-*")
    found = report(toy, "toy_reward")
    assert found["reward accuracy on held-out answers"]["low"] is not None
    assert (run / "release" / "reward" / "model.safetensors").exists()
    assert not (run / "release" / "adapter").exists()


def answered(toy, study: str, file: str) -> None:
    """A synthetic cohort of the toy, and what three raters say of it, in a file."""
    generate = {"study": study, "adapter": "adapt-toy_align", "sampling": {"per_label": 16, "batch": 16}}
    feedback = {"study": study, "synthetic": f"generate-{study}", "raters": ["ann", "ben", "cid"], "pairs": 60}
    for name, recipe in (("generate", generate), ("feedback", feedback)):
        (toy.folder / f"{name}_{study}.yaml").write_text(json.dumps(recipe))
    toy.run("generate", f"generate_{study}.yaml")
    toy.run("feedback", f"feedback_{study}.yaml", "simulate={}")
    toy.run("feedback", f"feedback_{study}.yaml", "simulate={}", f"export={file}")


@pytest.mark.slow
def test_a_reward_is_trained_once_and_taken_by_ppo(toy):
    small = ["method=reward", "bounds={}", "reward={steps: 4, batch: 4, rank: 2}"]
    toy.run("align", "dpo_toy.yaml", "study=toy_kept", *small)
    take = ["align", "dpo_toy.yaml", "method=ppo", "reward={run: align-toy_kept}", *SMALL["ppo"]]
    toy.run(*take, "study=toy_taken")
    found, there = report(toy, "toy_taken"), report(toy, "toy_kept")
    told = "reward accuracy on held-out answers"
    assert found[told] == there[told]  # as that run measured it
    assert "held-out answers ordered right" not in found
    assert found["win rate against before"]["value"] is not None
    assert found["valid sequences"]["value"] == 1.0
    done = toy.run(*take, "study=toy_gate", "minimum_alpha=0.99", ok=False)
    assert done.returncode == 2
    assert "raters agree too little" in done.stderr
    # a reward of another adapter's samples tells of what that one has learned, though both have the same persons
    toy.run(
        "adapt",
        "adapt_toy.yaml",
        "study=toy_other",
        "split={holdout: 4, same_as: adapt-toy_align}",
        "train.max_steps=2",
    )
    done = toy.run(*take, "study=toy_others", "adapter=adapt-toy_other", ok=False)
    assert done.returncode == 2
    assert "no finished run" in done.stderr
    toy.run("align", "dpo_toy.yaml", "study=toy_leak", "adapter=adapt-toy_other", "simulate.pairs=200", *small)
    done = toy.run(*take, "study=toy_leaks", "reward={run: align-toy_leak}", ok=False)
    assert done.returncode == 2
    assert "learned from samples of another adapter (adapt-toy_other)" in done.stderr
    (kept,) = (toy.folder / "runs").glob("align-toy_kept-*")
    config = kept / "release" / "reward" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"behaviour_vocabulary": "another"}))
    done = toy.run(*take, "study=toy_words", ok=False)
    assert done.returncode == 2
    assert "knows other behaviour tokens (another)" in done.stderr


@pytest.mark.slow
def test_a_reward_of_persons_is_judged_by_no_program(toy):
    answered(toy, "toy_said", "said.jsonl")
    small = ["method=reward", "bounds={}", "reward={steps: 4, batch: 4, rank: 2}", "preferences=said.jsonl"]
    toy.run("align", "dpo_toy.yaml", "study=toy_said", *small)
    take = ["align", "dpo_toy.yaml", "study=toy_by", "method=ppo", "reward={run: align-toy_said}", *SMALL["ppo"]]
    done = toy.run(*take, ok=False)
    assert done.returncode == 2
    assert "bounds.win_rate" in done.stderr
    toy.run(*take, "bounds.win_rate=null")
    assert "win rate against before" not in report(toy, "toy_by")
    (run,) = (toy.folder / "runs").glob("align-toy_by-*")
    page = (run / "release" / "report.html").read_text()
    assert "nobody judged them" in page
    assert "of raters, from a file" in page
    assert "said.jsonl" not in page + (run / "release" / "report.json").read_text()


@pytest.mark.slow
def test_ppo_towards_a_neural_reward(toy):
    toy.run(
        "align", "dpo_toy.yaml", "study=toy_neural", "method=ppo", "reward={steps: 4, batch: 4, rank: 2}", *SMALL["ppo"]
    )
    found = report(toy, "toy_neural")
    assert found["valid sequences"]["value"] == 1.0
    assert found["reward accuracy on held-out answers: linear model on vital signs"]["low"] is not None


@pytest.mark.slow
def test_raters_are_protected_and_charged(toy):
    toy.run(
        "align", "dpo_toy.yaml", "study=toy_raters", "dpo.fresh=0", "dpo.turns=1",
        "privacy={unit: rater, noise_multiplier: 1.0, batch: 3, rows: 4}",
        "simulate={per_label: 16, pairs: 20, raters: 6, judge_again: 4}", "dpo.steps=2",
    )  # fmt: skip
    (run,) = (toy.folder / "runs").glob("align-toy_raters-*")
    said = json.loads((run / "release" / "report.json").read_text())
    assert any(c.startswith("For the raters:") and "rater" in c for c in said["caveats"])
    assert any("post-processing" in c for c in said["caveats"])
    found = report(toy, "toy_raters")
    assert found["preference attack AUC"]["value"] is None
    assert any("no attack looked" in m for m in said["not_measured"])


@pytest.mark.slow
def test_what_persons_said_in_a_file(toy):
    """From a synthetic cohort to an aligned adapter with `mien feedback` and `mien align` alone."""
    answered(toy, "toy_file", "pairs.jsonl")
    toy.run("align", "dpo_toy.yaml", "study=toy_file", "preferences=pairs.jsonl", "dpo.steps=2", "bounds.win_rate=null")
    found = report(toy, "toy_file")
    assert found["raters' agreement α"]["value"] > 0.1
    assert "win rate against before" not in found  # nobody judged the new samples
    (run,) = (toy.folder / "runs").glob("align-toy_file-*")
    for file in (run / "release").glob("report.*"):
        assert "nobody judged them" in file.read_text()
        assert "pairs.jsonl" not in file.read_text()
    assert found["valid sequences"]["value"] == 1.0
    other = [json.loads(line) | {"model": "f" * 40} for line in (toy.folder / "pairs.jsonl").read_text().splitlines()]
    (toy.folder / "other.jsonl").write_text("".join(json.dumps(r) + "\n" for r in other))
    done = toy.run("align", "dpo_toy.yaml", "study=toy_file", "preferences=other.jsonl", "bounds={}", ok=False)
    assert done.returncode == 2
    assert "samples of another model" in done.stderr
    words = [r | {"model": ""} | ({"prompt": f"word {r['prompt']}"} if "prompt" in r else {}) for r in other]
    (toy.folder / "words.jsonl").write_text("".join(json.dumps(r) + "\n" for r in words))
    done = toy.run("align", "dpo_toy.yaml", "study=toy_words", "preferences=words.jsonl", "bounds={}", ok=False)
    assert "made for another vocabulary" in done.stderr
    assert not list((toy.folder / "runs").glob("align-toy_words-*"))


@pytest.mark.slow
def test_the_benchmark_fills_its_table(toy):
    command = [
        sys.executable, str(ROOT / "benchmarks" / "align.py"), "--rows", "dpo", "--seeds", "3", "4", "--override", *TINY,
        *SMALL["dpo"],
    ]  # fmt: skip
    done = subprocess.run(command, cwd=toy.folder, env=toy.env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| dpo")]
    assert [r.split()[3] for r in rows] == ["3", "4"]
    assert all("| 1.000 |" in r for r in rows)  # valid sequences
