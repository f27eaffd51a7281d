"""A generator that is shown a binder's embeddings, through the verbs: adapt, generate, attack, and what they refuse."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from mien import cli
from mien.backbones import tiny
from mien.core import runs
from mien.core.records import Cohort
from mien.data.lineage import touched
from mien.privacy.ledger import Ledger

from .conftest import RECIPES as TOY
from .conftest import Lab, lab

TRAIN = {"max_steps": 8, "batch": 8, "checkpoint_every": 2, "log_every": 4, "threads": 1}
COHORT = {"name": "motion", "persons": 6, "recordings_per_person": 16, "seconds": 8, "seed": 7}
WINDOWS = {"cohort": COHORT, "task": "movement", "seconds": 2, "stride_s": 2}
BINDER = {"name": "behaviour", "recipe": "pretrain_represent.yaml"}
RECIPES = {
    "pretrain": {**TOY["pretrain"], "train": TRAIN},
    "pretrain_represent": {
        **WINDOWS, "study": "toy_towers", "cohort": {**COHORT, "seed": 3},
        "represent": {"width": 16, "layers": 1, "heads": 2, "patches": 4, "dim": 8}, "train": TRAIN,
    },
    "represent": {
        **WINDOWS, "study": "toy_represent", "backbone": BINDER, "represent": {"bind": "public"}, "split": {"holdout": 3},
        "lora": {"rank": 2, "alpha": 4}, "train": TRAIN,
    },
    "adapt": {
        **WINDOWS, "study": "toy_shown", "codec": {"name": "transform", "hz": 2.0},
        "backbone": {"name": "llava", "model": "pretrain.yaml", "binder": {"run": "adapt-toy_represent"}},
        "condition": {"soft": 0.7}, "split": {"same_as": "adapt-toy_represent"}, "lora": {"rank": 4, "alpha": 8}, "train": TRAIN,
    },
    "generate": {
        "study": "toy_shown", "adapter": "adapt-toy_shown", "sampling": {"batch": 4},
        "given": {"relation": "vary", "soft": True, "windows": 6},
    },
    "represent_film": {
        "study": "toy_film", "cohort": {
            "name": "simulated_film", "persons": 6, "sessions": 2, "seconds": 10, "side": 32, "film_hz": 0.4,
            "streams": ["film", "transcript", "temp"],
        },
        "task": "stress", "seconds": 5, "stride_s": 5,
        "backbone": {"name": "dinov2_minilm", "model": "tiny", "side": 28, "tokens": 16, "frames": 2},
        "represent": {"streams": {"film": "image", "transcript": "text"}, "bind": "none"},
        "split": {"holdout": 3}, "lora": {"rank": 2, "alpha": 4, "layers": 1}, "train": TRAIN,
    },
    "attack": {"study": "toy_shown", "adapter": "adapt-toy_shown", "identity": [{"name": "linkage", "trees": 10}]},
}  # fmt: skip
PRIVATE = "privacy={epsilon: 8, batch: 2, rows: 4}"
BASE = f"backbone.binder={yaml.safe_dump({'base': BINDER}, default_flow_style=True).strip()}"


def enter(made, patch):
    for name in ("MIEN_CACHE", "MIEN_RUNS", "MIEN_LEDGER"):
        patch.setenv(name, made.env[name])
    patch.chdir(made.folder)
    return made


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Lab:
    made = lab(tmp_path_factory.mktemp("binder") / "toy", RECIPES)
    with pytest.MonkeyPatch.context() as patch:
        enter(made, patch)
        for verb, recipe in (
            ("pretrain",) * 2,
            ("pretrain", "pretrain_represent"),
            ("adapt", "represent"),
            ("adapt",) * 2,
        ):
            assert cli.main([verb, f"{recipe}.yaml"]) == 0
    return made


@pytest.fixture
def here(toy, monkeypatch):
    """The study's folder, for verbs in this process."""
    return enter(toy, monkeypatch)


def only(toy, pattern):
    (one,) = (toy.folder / "runs").glob(pattern)
    return one


def entries(toy):
    return Ledger.open(toy.folder / "ledger" / "ledger.sqlite").export()


def report(run):
    return json.loads((run / "release" / "report.json").read_text())


def refused(capsys, *argv):
    """What a verb says when it refuses."""
    capsys.readouterr()
    assert cli.main(list(argv)) == 2
    out = capsys.readouterr()
    return " ".join((out.out + out.err).split())


def test_what_was_adapted(here):
    run, represent = only(here, "adapt-toy_shown-*"), only(here, "adapt-toy_represent-*")
    asked = runs.asked(run)
    assert asked["config"]["backbone"]["binder"]["run"] == represent.name  # that run, not the newest of its study
    assert asked["inputs"]["binder"] == runs.fingerprint(represent)
    weights = load_file(run / "release" / "adapter" / "adapter_model.safetensors")
    moved = {k for k, v in weights.items() if "lora_B" in k and v.abs().max() > 0}
    assert any("multi_modal_projector" in k for k in moved)
    assert any("language_model" in k for k in moved)
    said = "".join(f.read_text(errors="replace") for f in (run / "release").rglob("*") if f.is_file())
    assert str(here.folder.parent) not in said
    assert "its soft tokens are a binder's embeddings (mien/behaviour-" in said
    page = (run / "release" / "report.html").read_text()
    assert "Soft tokens" in page
    assert f">{represent.name}<" in page
    split = json.loads((represent / "private" / "splits.json").read_text())
    assert not any(p in said for p in split["train"])
    assert report(run)["guarantee"].startswith("none (plain training")
    assert not any("no strangers" in c for c in report(run)["caveats"])
    # a withdrawal from the representation touches what was made with it
    why = {name: said for name, _, said in touched(split["train"][0], here.folder / "runs")}
    assert run.name in why


def test_shown_unprotected_it_stays_private_and_protected_it_is_charged(here, capsys):
    assert cli.main(["generate", "generate.yaml"]) == 0
    assert "unprotected" in capsys.readouterr().out
    bare = only(here, "generate-toy_shown-*")
    assert not (bare / "release" / "cohort").exists()
    assert len(Cohort.read(bare / "private" / "cohort")) == 6
    assert "<svg" in (bare / "private" / "report.html").read_text()
    before = len(entries(here))
    assert cli.main(["generate", "generate.yaml", "study=toy_kept", "given.protect={epsilon: 4}"]) == 0
    assert [e["kind"] for e in entries(here)[before:]] == ["reserve", "settle"]
    safe = Cohort.read(only(here, "generate-toy_kept-*") / "release" / "cohort")
    assert safe.card.guarantee.startswith("none (plain training")
    assert "for each person whose recordings were shown" in safe.card.guarantee
    shown = np.load(only(here, "generate-toy_kept-*") / "private" / "shown.npy")
    assert shown.shape == (6, 2, 32)  # a token for each of two towers, as wide as the base
    # from labels alone, as any adapter
    assert cli.main(["generate", "generate.yaml", "study=toy_labels", "given=null", "sampling.per_label=1"]) == 0
    assert len(Cohort.read(only(here, "generate-toy_labels-*") / "release" / "cohort")) == 8


def test_it_is_attacked_like_any_other(here):
    assert cli.main(["attack", "attack.yaml"]) == 0
    named = {r["metric"] for r in report(only(here, "attack-toy_shown-*"))["results"]}
    assert "loss.auc" in named


@pytest.mark.parametrize(
    ("verb", "options", "says"),
    [
        ("adapt", [PRIVATE], "on recordings of the persons this run is to protect"),
        ("adapt", ["seconds=4", "stride_s=4"], "represents windows of 2 s, and `seconds` is 4"),
        ("adapt", ["backbone.binder.streams={acc: gyro, gyro: gyro}"], "the tower 'gyro' of adapt-toy_represent-"),
        (
            "adapt",
            ["backbone.binder.streams={eda: gyro}"],
            "is shown the stream 'eda', and cohort 'motion' has acc, gyro",
        ),
        ("adapt", ["backbone.binder={run: adapt-toy_shown}"], "whose recipe has a `represent:` section"),
        ("adapt", ["backbone.binder={run: adapt-nobody}"], "no finished run 'adapt-nobody'"),
        ("adapt", ["cohort.seconds=2", "study=toy_short"], "no recording has two of 2 s to choose from"),
        ("adapt", ["condition.soft=0"], "no recording is given as soft tokens"),
        (
            "adapt",
            [BASE, "seconds=4", "stride_s=4", "study=toy_long"],
            "a window of 4 s, and its tower was made for 2 s",
        ),
        ("generate", ["given.side=train", "given.protect={epsilon: 4}"], "without privacy on 3 of the 3 persons"),
        ("generate", ["personal={person: motion-0000}"], "leave out `given`"),
    ],
)
def test_refused_by_name(here, capsys, verb, options, says):
    before = len(entries(here))
    assert says in refused(capsys, verb, f"{verb}.yaml", *options)
    assert len(entries(here)) == before  # and nothing is charged


def test_a_model_gone_from_the_cache_is_made_again(here, capsys):
    """By the same command, which reuses the run; until then it is said what to do."""
    shutil.rmtree(here.folder.parent / "cache" / "towers")
    give = ["generate", "generate.yaml", "study=toy_again"]
    assert "is no longer in the cache" in refused(capsys, *give)
    assert cli.main(["adapt", "adapt.yaml"]) == 0
    assert "reused" in capsys.readouterr().out
    assert cli.main(give) == 0


def test_a_persons_own_adapter_on_top_looks_through_nothing(here):
    """What is written by it is written from labels."""
    person = json.loads((only(here, "adapt-toy_shown-*") / "private" / "splits.json").read_text())["holdout"][0]
    own = f"personal={{person: {person}, steps: 3}}"
    assert cli.main(["generate", "generate.yaml", "study=toy_own", "given=null", own, "sampling.per_label=1"]) == 0
    run = only(here, "generate-toy_own-*")
    assert len(Cohort.read(run / "private" / "cohort")) == 8
    assert person not in (run / "config.yaml").read_text()


@pytest.mark.slow
def test_a_film_and_words_are_shown_and_temperature_is_written(here):
    """Streams that no codec writes, through towers that stand for DINOv2 and MiniLM, to a base without behaviour tokens."""
    tiny.fresh(tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48), 60, 0).save_pretrained(here.folder / "words")
    assert cli.main(["adapt", "represent_film.yaml"]) == 0
    film = RECIPES["represent_film"]
    recipe = {k: film[k] for k in ("cohort", "task", "seconds", "stride_s", "train")} | {
        "study": "toy_told", "streams": ["temp"], "codecs": [{"name": "bins", "streams": ["temp"], "hz": 0.4}],
        "backbone": {"name": "llava", "model": "words", "binder": {"run": "adapt-toy_film"}},
        "condition": {"soft": 0.7}, "split": {"same_as": "adapt-toy_film"}, "lora": {"rank": 4, "alpha": 8},
    }  # fmt: skip
    (here.folder / "told.yaml").write_text(yaml.safe_dump(recipe))
    assert cli.main(["adapt", "told.yaml"]) == 0
    for study, protect in (("toy_told", "null"), ("toy_told_kept", "{epsilon: 4}")):
        options = [f"study={study}", "adapter=adapt-toy_told", "given.windows=4", f"given.protect={protect}"]
        assert cli.main(["generate", "generate.yaml", *options]) == 0
    made = Cohort.read(only(here, "generate-toy_told_kept-*") / "release" / "cohort")
    assert len(made) == 4
    assert set(made[0].streams) == {"temp"}


def test_private_beside_the_base_alone(here):
    """Nobody's recordings are in it: the claim is the run's own."""
    options = ["study=toy_base", BASE, PRIVATE, "split={holdout: 3}", "train.max_steps=3"]
    before = len(entries(here))
    assert cli.main(["adapt", "adapt.yaml", *options]) == 0
    run = only(here, "adapt-toy_base-*")
    told = json.loads((run / "release" / "adapter" / "guarantee.json").read_text())
    assert told["epsilon"] <= 8
    assert told["composed"] == 0
    assert "binder" not in runs.asked(run)["inputs"]
    assert [e["kind"] for e in entries(here)[before:]] == ["reserve", "settle"]
    assert (
        cli.main(
            ["generate", "generate.yaml", "study=toy_base", "adapter=adapt-toy_base", "given.protect={epsilon: 4}"]
        )
        == 0
    )
    made = Cohort.read(only(here, "generate-toy_base-*") / "release" / "cohort")
    assert made.card.guarantee.startswith("(")
    assert "For a person who is in both, the two add up" in made.card.guarantee


def test_private_beside_a_private_representation(here, capsys):
    """Both runs are in the claim; each is in the ledger once."""
    few = "train.max_steps=3"
    assert cli.main(["adapt", "represent.yaml", "study=toy_hidden", PRIVATE, few]) == 0
    binder = "backbone.binder={run: adapt-toy_hidden}"
    before = len(entries(here))
    assert cli.main(["adapt", "adapt.yaml", "study=toy_both", binder, PRIVATE, few, "split={holdout: 3}"]) == 0
    assert "what may be claimed is ε = 1" in capsys.readouterr().out
    run = only(here, "adapt-toy_both-*")
    told = json.loads((run / "release" / "adapter" / "guarantee.json").read_text())
    alone = json.loads((only(here, "adapt-toy_hidden-*") / "release" / "adapter" / "guarantee.json").read_text())
    assert told["composed"] == 1
    assert told["events"][0] == alone["events"][0]
    assert alone["epsilon"] <= 8 < told["epsilon"] <= 16
    assert report(run)["guarantee"].startswith(f"({np.ceil(told['epsilon'] * 10) / 10:.3g},")
    charged = entries(here)[before:]
    assert [e["kind"] for e in charged] == ["reserve", "settle"]
    # who is shown, and was learned from privately, has both beside the claim of a plain generator
    assert cli.main(["adapt", "adapt.yaml", "study=toy_mixed", binder, few, "split={same_as: adapt-toy_hidden}"]) == 0
    give = ["study=toy_mixed", "adapter=adapt-toy_mixed", "given.protect={epsilon: 4}"]
    assert cli.main(["generate", "generate.yaml", *give]) == 0
    card = Cohort.read(only(here, "generate-toy_mixed-*") / "release" / "cohort").card
    assert "The binder they are shown through: (" in card.guarantee


def test_who_is_held_out_and_taught_the_binder_is_told(here):
    assert (
        cli.main(["adapt", "adapt.yaml", "study=toy_known", "split={holdout: 3}", "seed=1", "train.max_steps=1"]) == 0
    )
    run, represent = only(here, "adapt-toy_known-*"), only(here, "adapt-toy_represent-*")
    mine, theirs = (json.loads((r / "private" / "splits.json").read_text()) for r in (run, represent))
    assert set(mine["holdout"]) & set(theirs["train"])
    assert any("no strangers" in c for c in report(run)["caveats"])


def test_a_killed_run_goes_on_as_if_it_had_not_been(here):
    """Plain: the same bits as a run that was never stopped."""
    whole = only(here, "adapt-toy_shown-*") / "release" / "adapter" / "adapter_model.safetensors"
    command = here.command("adapt", "adapt.yaml", "study=toy_killed", "train.checkpoint_every=1")
    log = here.folder / "killed.txt"
    with open(log, "w") as out:
        running = subprocess.Popen(command, cwd=here.folder, env=here.env, stdout=out, stderr=subprocess.STDOUT)
        for _ in range(1200):
            found = list((here.folder / "runs").glob("adapt-toy_killed-*/private/log.jsonl"))
            if found or running.poll() is not None:
                break
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert not list((here.folder / "runs").glob("adapt-toy_killed-*/release/adapter")), log.read_text()
    here.run("adapt", "adapt.yaml", "study=toy_killed", "train.checkpoint_every=1")
    again = only(here, "adapt-toy_killed-*") / "release" / "adapter" / "adapter_model.safetensors"
    one, other = load_file(whole), load_file(again)
    assert one.keys() == other.keys()
    assert all((one[k] == other[k]).all() for k in one)


def test_a_binder_that_changed_or_is_gone_is_refused(here, capsys):
    """By name, in every later verb, before anything is charged."""
    represent = only(here, "adapt-toy_represent-*")
    kept = represent.with_name("kept")
    shutil.copytree(represent, kept)
    before = len(entries(here))
    give = ["generate", "generate.yaml", "study=toy_later", "given.protect={epsilon: 4}"]
    try:
        file = represent / "release" / "adapter" / "adapter_model.safetensors"
        save_file({k: v + 0.1 for k, v in load_file(file).items()}, file)
        for argv in (give, ["attack", "attack.yaml", "study=toy_later"]):
            assert f"{represent.name} is no longer what this model's soft tokens were made with" in refused(
                capsys, *argv
            )
        shutil.rmtree(represent)
        for argv in (give, ["attack", "attack.yaml", "study=toy_later"]):
            assert f"no finished run '{represent.name}'" in refused(capsys, *argv)
    finally:
        shutil.rmtree(represent, ignore_errors=True)
        kept.rename(represent)
    assert len(entries(here)) == before
    assert cli.main(give) == 0
