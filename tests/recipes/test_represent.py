"""Representations through the verbs: pretrained towers, a plain, a private and an adversarial adapter, and what they are worth."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from datetime import date

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mien import cli
from mien.adapters import represented, training
from mien.core.plugins import ROOT
from mien.core.records import Cohort, Consent
from mien.data.datasets import motion

from .conftest import lab

TRAIN = {"max_steps": 12, "batch": 8, "checkpoint_every": 4, "log_every": 4, "threads": 1}
COHORT = {"name": "motion", "persons": 8, "recordings_per_person": 8, "seconds": 6}
RECIPES = {
    "pretrain_represent": {
        "study": "toy_represent", "cohort": {**COHORT, "seed": 3}, "task": "movement", "seconds": 2, "stride_s": 2,
        "represent": {"width": 16, "layers": 1, "heads": 2, "patches": 4, "dim": 8}, "train": TRAIN,
    },
    "represent": {
        "study": "toy_represent", "cohort": COHORT, "task": "movement", "seconds": 2, "stride_s": 2,
        "backbone": {"name": "behaviour", "recipe": "pretrain_represent.yaml"}, "represent": {"bind": "public"},
        "split": {"holdout": 3}, "lora": {"rank": 2, "alpha": 4}, "train": TRAIN,
    },
    "evaluate_represent": {
        "study": "toy_represent", "represented": "adapt-toy_represent", "dimension": 4,
        "transfer": {"draws": 100},
    },
    "autoencoder": {
        "study": "toy_autoencoder", "cohort": COHORT, "task": "movement", "seconds": 2, "stride_s": 2,
        "autoencoder": {"latent": 4, "hidden": 8}, "split": {"holdout": 3}, "train": TRAIN,
        "protections": [{"name": "adversary", "attributes": ["identity"]}],
    },
    "evaluate_autoencoder": {"study": "toy_autoencoder", "represented": "adapt-toy_autoencoder", "dimension": 4},
    "represent_film": {
        "study": "toy_film", "cohort": {"name": "simulated_film", "persons": 6, "sessions": 2, "seconds": 10, "side": 32, "film_hz": 0.4},
        "task": "stress", "seconds": 5, "stride_s": 5,
        "backbone": {"name": "dinov2_minilm", "model": "tiny", "side": 28, "tokens": 16, "frames": 2},
        "represent": {"streams": {"film": "image", "transcript": "text"}, "bind": "none", "cache": True},
        "split": {"holdout": 3}, "lora": {"rank": 2, "alpha": 4, "layers": 1}, "train": TRAIN,
    },
    "represent_patchtst": {
        "study": "toy_patchtst", "cohort": COHORT, "task": "movement", "seconds": 2, "stride_s": 2,
        "backbone": {"name": "patchtst", "model": "weights", "dim": 8, "signals": {
            "acc": {"channels": 3, "low": -4, "high": 4}, "gyro": {"channels": 3, "low": -10, "high": 10},
        }},
        "represent": {"bind": "public", "negatives": {"name": "motion", "persons": 2, "recordings_per_person": 8, "seconds": 6, "seed": 5}},
        "split": {"holdout": 3}, "lora": {"rank": 2, "alpha": 4, "targets": "attention"}, "train": TRAIN,
        "privacy": {"epsilon": 8, "batch": 2},
    },
    "evaluate_patchtst": {"study": "toy_patchtst", "represented": "adapt-toy_patchtst", "dimension": 4},
    "evaluate_film": {"study": "toy_film", "represented": "adapt-toy_film", "dimension": 4},
    "generate_autoencoder": {"study": "toy_autoencoder", "adapter": "adapt-toy_autoencoder", "sampling": {"per_label": 6}},
    "attack_autoencoder": {
        "study": "toy_autoencoder", "adapter": "adapt-toy_autoencoder", "synthetic": "generate-toy_autoencoder", "dimension": 4,
        "identity": [{"name": "linkage", "trees": 20}],
    },
    "evaluate_synthetic": {
        "study": "toy_synthetic", "synthetic": "generate-toy_autoencoder", "utility": [{"name": "tstr", "trees": 10}],
        "fidelity": [{"name": "spectra"}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    made = lab(tmp_path_factory.mktemp("represent") / "toy", RECIPES)
    made.run("adapt", "represent.yaml")
    return made


def only(toy, pattern):
    (one,) = (toy.folder / "runs").glob(pattern)
    return one


def test_adapt_leaves_a_plain_adapter_with_heads(toy):
    adapter = only(toy, "adapt-toy_represent-*") / "release" / "adapter"
    assert {f.name for f in adapter.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "heads.safetensors", "represent.json", "README.md",
    }  # fmt: skip
    raw = json.loads((adapter / "adapter_config.json").read_text())
    assert raw["base_model_name_or_path"].startswith("mien/behaviour-")
    assert str(toy.folder) not in "".join(f.read_text(errors="replace") for f in adapter.iterdir())


def test_evaluate_prints_worth_and_leakage(toy):
    out = toy.run("evaluate", "evaluate_represent.yaml").stdout
    assert "adapted macro-F1" in out
    run = only(toy, "evaluate-toy_represent-*")
    report = json.loads((run / "release" / "report.json").read_text())
    named = {r["metric"]: r for r in report["results"]}
    assert {b["name"] for b in named["adapted macro-F1"]["baselines"]} >= {
        "frozen base", "classical (forest)", "majority", "metadata only",
    }  # fmt: skip
    for kind in ("linear", "forest"):
        assert named[f"identity.adapted.recognised ({kind})"]["low"] is not None
    assert any(m.startswith("acc missing at test") for m in named)
    assert named["multimodal, movement: all modalities − best single: macro-F1"]["n_persons"] == 3
    assert not any("has changed since" in c for c in report["caveats"])
    assert any("Across tasks" in c for c in report["caveats"])
    page = (run / "release" / "report.html").read_text()
    assert "multimodal, movement: all modalities − best single: macro-F1" in page
    assert "motion-0" not in page
    assert "<h1>Representation: " in page


def test_a_private_twin_is_charged_and_says_its_guarantee(toy):
    groups = "privacy={epsilon: 8, batch: 2, rows: 4, groups: 2}"
    options = ["study=toy_private", groups, "represent={bind: group}", "train.max_steps=4"]
    out = toy.run("adapt", "represent.yaml", *options).stdout
    assert "ledger entry" in out
    report = json.loads((only(toy, "adapt-toy_private-*") / "release" / "report.json").read_text())
    assert "differential privacy for each person" in report["guarantee"]


def test_an_adversarial_twin_promises_nothing(toy):
    toy.run("adapt", "represent.yaml", "study=toy_adversary", "protections=[{name: adversary, attributes: [identity]}]")
    report = json.loads((only(toy, "adapt-toy_adversary-*") / "release" / "report.json").read_text())
    assert any("adversary: none" in c for c in report["caveats"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["privacy={epsilon: 8, batch: 2}", "represent={bind: batch}"], "no ε would follow"),
        (["privacy={epsilon: 8, batch: 2}", "represent={bind: group}"], "belong together"),
        (["represent={streams: {acc: thermal}}"], "no tower 'thermal'"),
        (["represent={streams: {ecg: acc}}"], "no stream 'ecg'"),
        (["backbone={name: tiny, recipe: pretrain.yaml, weights: x}"], "no towers to represent"),
        (["represent={heads: {mood: {}}}"], "declares 0 classes"),
        (["lora={layers: 9}"], "has 1"),
        (["represent={bynd: public}"], "did you mean 'bind'"),
        (["represent={cache: true}"], "say how many under lora.layers"),
        (["represent={cache: true}", "lora.layers=1"], "cannot be cut for a cache; towers that can: none"),
    ],
)
def test_recipes_that_cannot_be(toy, options, says, monkeypatch, capsys):
    assert says in refused(toy, monkeypatch, capsys, "adapt", "represent.yaml", *options)


def test_an_autoencoder_goes_through_the_same_verbs(toy, monkeypatch):
    for name in ("MIEN_CACHE", "MIEN_RUNS", "MIEN_LEDGER"):
        monkeypatch.setenv(name, toy.env[name])
    monkeypatch.chdir(toy.folder)
    steps = (
        "adapt autoencoder",
        "evaluate evaluate_autoencoder",
        "generate generate_autoencoder",
        "evaluate evaluate_synthetic",
        "attack attack_autoencoder",
    )
    for step in steps:
        verb, recipe = step.split()
        assert cli.main([verb, f"{recipe}.yaml"]) == 0, step
    adapted = only(toy, "adapt-toy_autoencoder-*") / "release"
    assert {f.name for f in (adapted / "adapter").iterdir()} == {
        "autoencoder.safetensors",
        "autoencoder.json",
        "README.md",
    }
    report = json.loads((adapted / "report.json").read_text())
    assert report["guarantee"].startswith("none")
    assert any("adversary: none" in c for c in report["caveats"])
    evaluated = json.loads((only(toy, "evaluate-toy_autoencoder-*") / "release" / "report.json").read_text())
    named = {r["metric"]: r for r in evaluated["results"]}
    assert {b["name"] for b in named["adapted macro-F1"]["baselines"]} >= {
        "untrained",
        "classical (forest)",
        "majority",
    }
    for kind in ("linear", "forest", "network"):
        assert named[f"identity.adapted.recognised ({kind})"]["low"] is not None
    assert any(m.startswith("gyro missing at test") for m in named)
    assert "An autoencoder of acc, gyro was trained whole" in evaluated["summary"]
    made = Cohort.read(only(toy, "generate-toy_autoencoder-*") / "release" / "cohort")
    assert made.card.synthetic
    assert made.card.guarantee.startswith("none")
    assert len(made) == 6 * len(made.card.tasks["movement"])
    worth = json.loads((only(toy, "evaluate-toy_synthetic-*") / "release" / "report.json").read_text())
    assert any("TSTR" in r["metric"] for r in worth["results"])
    attacked = json.loads((only(toy, "attack-toy_autoencoder-*") / "release" / "report.json").read_text())
    named = {r["metric"]: r for r in attacked["results"] if r["unit"] in ("person", "window")}
    for name in ("loss", "reference", "evidence", "reconstruction"):
        assert {"chance", "blind", "planted"} <= {b["name"] for b in named[f"{name}.auc"]["baselines"]}
    assert "identity.adapted.recognised (linear)" in named  # of its vectors
    assert "nearest.auc" in named  # of its synthetic recordings
    assert not any("needs 'tokens'" in r["note"] for r in attacked["results"])
    assert attacked["guarantee"] == report["guarantee"]


@pytest.mark.slow
def test_a_representation_is_attacked_by_its_heads_loss_and_how_near_things_lie(toy, monkeypatch):
    for name in ("MIEN_CACHE", "MIEN_RUNS", "MIEN_LEDGER"):
        monkeypatch.setenv(name, toy.env[name])
    monkeypatch.chdir(toy.folder)
    assert (
        cli.main(["attack", "attack_autoencoder.yaml", "study=seen", "adapter=adapt-toy_represent", "synthetic=null"])
        == 0
    )
    attacked = json.loads((only(toy, "attack-seen-*") / "release" / "report.json").read_text())
    named = {r["metric"]: r for r in attacked["results"]}
    assert "loss.auc" in named
    assert {"encoder.auc", "cosine.auc", "augmented.auc"} <= set(named)
    assert not named["cosine.auc"]["note"].startswith(
        "not run"
    )  # withheld: who trained is told by the split alone in a toy
    assert "evidence.auc" not in named
    assert "identity.adapted.recognised (linear)" in named


@pytest.mark.parametrize(
    ("recipe", "options", "says"),
    [
        ("autoencoder", ["privacy={epsilon: 8, batch: 2}"], "takes no `privacy:` section"),
        ("autoencoder", ["represent={bind: none}"], "leave out `backbone` and `represent`"),
        ("autoencoder", ["autoencoder=null"], "name a `backbone` to adapt"),
        ("autoencoder", ["train.checkpointing=reentrant"], "train.checkpointing"),
        ("autoencoder", ["autoencoder={heads: {mood: {}}}"], "declares 0 classes"),
        ("generate_autoencoder", ["sampling.temperature=2"], "leave out temperature"),
        ("generate_autoencoder", ["sampling.counts={run: 1}"], "no class 'run'"),
        ("generate_autoencoder", ["given={relation: vary}"], "leave out given"),
        ("generate_autoencoder", ["adapter=adapt-toy_represent"], "no model that writes them"),
    ],
)
def test_autoencoders_that_cannot_be(toy, recipe, options, says, monkeypatch, capsys):
    assert says in refused(
        toy, monkeypatch, capsys, recipe.split("_")[0].replace("autoencoder", "adapt"), f"{recipe}.yaml", *options
    )


@pytest.fixture
def here(toy, monkeypatch):
    """The study's folder, for verbs in this process."""
    for name in ("MIEN_CACHE", "MIEN_RUNS", "MIEN_LEDGER"):
        monkeypatch.setenv(name, toy.env[name])
    monkeypatch.chdir(toy.folder)
    return toy


def adapted(toy, study):
    """The trained numbers of its adapter, heads among them."""
    folder = only(toy, f"adapt-{study}-*") / "release" / "adapter"
    return {**load_file(folder / "adapter_model.safetensors"), **load_file(folder / "heads.safetensors")}


def test_cached_late_layers_end_where_the_whole_towers_end(here, capsys):
    assert cli.main(["adapt", "represent_film.yaml"]) == 0
    said = capsys.readouterr().out
    assert "caching image before its last 1 blocks" in said
    assert "caching text before its last 1 blocks" in said
    assert not (only(here, "adapt-toy_film-*") / "private" / "frozen").exists()  # they are recordings of people
    assert cli.main(["adapt", "represent_film.yaml", "study=toy_whole", "represent.cache=false"]) == 0
    assert "caching" not in capsys.readouterr().out
    found, known = adapted(here, "toy_film"), adapted(here, "toy_whole")
    assert {n.split(".")[2] for n in found if "lora_B" in n} == {"image", "text"}
    assert found.keys() == known.keys()
    for name in known:
        torch.testing.assert_close(found[name], known[name], atol=2e-5, rtol=0, msg=name)
    assert cli.main(["evaluate", "evaluate_film.yaml"]) == 0
    said = capsys.readouterr().out
    assert "caching text before its last 1 blocks" in said  # once, for the adapter, its base and the losses
    assert "identity.adapted.recognised" in said
    assert not list(only(here, "adapt-toy_film-*").rglob("*frozen*"))
    one, other = (represented.opened(only(here, f"adapt-{s}-*"), "evaluation") for s in ("toy_film", "toy_whole"))
    for o in (one, other):
        for name, known in (
            ("Z", represented.vectors(o.made, o.windows)), ("frozen", represented.frozen(o.made, o.windows)),
            ("loss", represented._losses(o.made, o.windows)),
        ):  # fmt: skip
            np.testing.assert_allclose(getattr(o, name), known, atol=1e-5, rtol=0, err_msg=name)


def test_a_pretrained_time_series_encoder_is_adapted_privately_and_judged(here, capsys):
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    torch.manual_seed(0)
    shape = {
        "context_length": 32,
        "patch_length": 8,
        "patch_stride": 8,
        "d_model": 16,
        "num_hidden_layers": 1,
        "ffn_dim": 16,
    }
    PatchTSTForPrediction(PatchTSTConfig(num_input_channels=7, **shape)).save_pretrained(here.folder / "weights")
    assert cli.main(["adapt", "represent_patchtst.yaml"]) == 0
    raw = json.loads((only(here, "adapt-toy_patchtst-*") / "release" / "adapter" / "adapter_config.json").read_text())
    assert raw["base_model_name_or_path"] == "local/weights"
    assert {t.rpartition(".")[2] for t in raw["target_modules"]} == {"q_proj", "k_proj", "v_proj", "out_proj"}
    report = json.loads((only(here, "adapt-toy_patchtst-*") / "release" / "report.json").read_text())
    assert "differential privacy for each person" in report["guarantee"]
    assert cli.main(["evaluate", "evaluate_patchtst.yaml"]) == 0
    assert "identity.adapted.recognised" in capsys.readouterr().out


def test_killed_it_goes_on_from_its_cache(here, capsys, monkeypatch):
    kept = training._checkpoint

    def broken(*args):
        kept(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_checkpoint", broken)
    command = ["adapt", "represent_film.yaml", "study=toy_broken"]
    assert cli.main(command) == 130
    assert {f.name for f in (only(here, "adapt-toy_broken-*") / "private" / "frozen").iterdir()} == {
        "image.npy", "image.json", "text.npy", "text.json",
    }  # fmt: skip
    monkeypatch.setattr(training, "_checkpoint", kept)
    capsys.readouterr()
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "continuing from step 4" in said
    assert "caching" not in said
    assert cli.main(["adapt", "represent_film.yaml", "study=toy_unbroken"]) == 0
    found, known = adapted(here, "toy_broken"), adapted(here, "toy_unbroken")
    for name in known:
        torch.testing.assert_close(found[name], known[name], atol=0, rtol=0, msg=name)


def test_a_cache_spends_what_is_spent_without_it(here):
    privacy = "privacy={epsilon: 8, batch: 2}"
    for study, cache in (("toy_p1", "true"), ("toy_p2", "false")):
        assert cli.main(["adapt", "represent_film.yaml", privacy, f"study={study}", f"represent.cache={cache}"]) == 0
    guarantees = [
        json.loads((only(here, f"adapt-{s}-*") / "release" / "report.json").read_text())["guarantee"]
        for s in ("toy_p1", "toy_p2")
    ]
    assert guarantees[0] == guarantees[1]
    assert "differential privacy for each person" in guarantees[0]


def refused(toy, monkeypatch, capsys, *argv):
    """What the verb says when it refuses, in this process."""
    for name in ("MIEN_CACHE", "MIEN_RUNS", "MIEN_LEDGER"):
        monkeypatch.setenv(name, toy.env[name])
    monkeypatch.chdir(toy.folder)
    assert cli.main(list(argv)) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["synthetic=generate-toy"], "name either a generate run"),
        (["represented=adapt-nothing"], "no finished run"),
        (["transfer={across_tasks: [mood]}"], "no window has a label 'mood'"),
        (["transfer={across_tasks: [movement]}"], "the run was adapted to 'movement'"),
        (
            [f"transfer={{across_cohorts: [{{cohort: {COHORT}}}]}}"],
            "transfer.across_cohorts[0] (motion): 5 of its 8 persons",
        ),
        (
            ["transfer={across_cohorts: [{cohort: {name: simulated, persons: 2}}]}"],
            "has no label 'movement'; it has stress",
        ),
        (
            ["transfer={across_cohorts: [{cohort: {name: simulated, persons: 2}, task: stress}]}"],
            "there is no stream 'gyro'",
        ),
        (["transfer={k_shot: [1]}"], "two recordings of one person overlap in time"),
        (["personal={k: [5]}"], "two recordings of one person overlap in time"),
        (["transfer={across_cohort: []}"], "did you mean 'across_cohorts'"),
        (["represented=null", "synthetic=generate-toy", "transfer={}"], "with explain, transfer or personal"),
    ],
)
def test_evaluations_that_cannot_be(toy, options, says, monkeypatch, capsys):
    assert says in refused(toy, monkeypatch, capsys, "evaluate", "evaluate_represent.yaml", *options)


@pytest.mark.parametrize("privacy", [[], ["privacy={epsilon: 8, batch: 2}"]])
def test_a_stream_that_nobody_has_is_refused_by_name(toy, monkeypatch, capsys, privacy):
    made = motion.load(motion.Config(**{k: v for k, v in COHORT.items() if k != "name"}))
    rows = [dataclasses.replace(r, streams={"acc": r.streams["acc"]}) for r in made]
    there = Cohort.build(rows, card=made.card)
    monkeypatch.setattr(motion, "load", lambda config: there)
    said = refused(toy, monkeypatch, capsys, "adapt", "represent.yaml", "study=toy_gone", *privacy)
    assert "stream 'gyro' is in no window of the training persons" in said


def test_replaced_recordings_are_judged_anew_and_a_withdrawal_is_told(toy, monkeypatch):
    """What an evaluation said of other recordings, or of somebody who has withdrawn since, is not said again."""
    kept = motion.load

    def put(seed, withdrawn=()):
        made = kept(motion.Config(**{k: v for k, v in COHORT.items() if k != "name"} | {"seed": seed}))
        card = dataclasses.replace(made.card, synthetic=False)
        consents = {p: Consent(withdrawn=date(2026, 1, 1) if p in withdrawn else None) for p in made.persons}
        there = Cohort.build(made, card=card, consents=consents)
        monkeypatch.setattr(motion, "load", lambda config: there)

    put(0)
    for name in ("MIEN_CACHE", "MIEN_RUNS", "MIEN_LEDGER"):
        monkeypatch.setenv(name, toy.env[name])
    monkeypatch.chdir(toy.folder)
    assert cli.main(["adapt", "represent.yaml", "study=toy_ours"]) == 0

    def judged():
        assert (
            cli.main(
                ["evaluate", "evaluate_represent.yaml", "study=toy_ours", "represented=adapt-toy_ours", "transfer=null"]
            )
            == 0
        )
        run = max(
            (toy.folder / "runs").glob("evaluate-toy_ours-*"), key=lambda p: (p / "status.json").stat().st_mtime_ns
        )
        return json.loads((run / "release" / "report.json").read_text())

    first, same = judged(), judged()
    assert first["run"] == same["run"]
    assert not any("has changed since" in c for c in first["caveats"])
    held = json.loads((only(toy, "adapt-toy_ours-*") / "private" / "splits.json").read_text())["holdout"]
    put(0, held[:1])
    without = judged()
    put(5)
    other = judged()
    assert len({r["data_fingerprint"] for r in (first, without, other)}) == 3
    assert without["consent"] == {"withdrawn": 1}
    for report in (without, other):
        assert any("has changed since" in c for c in report["caveats"])
        assert report["inputs"]["cohort"] == report["data_fingerprint"]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("recipe", ["represent", "represent_film", "autoencoder"])
def test_two_processes_make_one_adapter(toy, recipe):
    config = ["--config_file", str(ROOT / "launch" / "ddp.yaml"), "--num_processes", "2"]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", *config, str(ROOT / "recipes" / "adapt.py"), f"{recipe}.yaml",
        f"study=two_{recipe}",
    ]  # fmt: skip
    env = {**toy.env, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=toy.folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
