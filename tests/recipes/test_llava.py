"""The loop on a LLaVA-style base: every verb unchanged, plain and private; a tower of signals that nothing looks through
is refused before anything is charged."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers as t
import yaml
from safetensors.torch import load_file

from mien.core import runs
from mien.core.records import Cohort
from mien.privacy.ledger import Ledger

from ..conftest import fetched
from ..unit import soft
from .conftest import RECIPES, Lab, lab

BASE = {"name": "llava", "model": "base"}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Lab:
    """The toy study on a random LLaVA of a few thousand parameters in the folder `base`."""
    made = lab(tmp_path_factory.mktemp("llava") / "study")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    t.LlavaForConditionalGeneration(
        t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**shape, image_size=28, patch_size=14),  # type: ignore[arg-type]
            text_config=t.LlamaConfig(**shape, vocab_size=300, max_position_embeddings=512),  # type: ignore[arg-type]
            image_token_index=299,
        )
    ).save_pretrained(made.folder / "base")
    plain = {**RECIPES["adapt"], "backbone": BASE}
    private = {
        **plain, "study": "toy_private", "privacy": {"epsilon": 8, "batch": 2, "rows": 6},
        "train": {**plain["train"], "micro_batch": 4}, "lora": {"rank": 4, "alpha": 8},
    }  # fmt: skip
    seeing = {**private, "study": "toy_seeing", "backbone": {**BASE, "adapt_vision": True}}
    for name, recipe in {"adapt": plain, "private": private, "seeing": seeing}.items():
        (made.folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return made


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_loop_on_a_llava(study):
    for verb in ("adapt", "generate", "attack", "evaluate"):
        study.run(verb, f"{verb}.yaml")
    config = json.loads((study.only("adapt") / "release" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "local/base"
    assert "vision_tower" in config["exclude_modules"]
    assert min(config["trainable_token_indices"]) == 300  # every behaviour row, no word
    assert len(Cohort.read(study.only("generate") / "release" / "cohort")) == 12 * 8
    report = json.loads((study.only("generate") / "release" / "report.json").read_text())
    assert report["results"][0]["value"] == 1.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_private_run_on_a_llava(study):
    ledger = study.folder / "ledger" / "ledger.sqlite"
    before = Ledger.open(ledger).head()
    refused = study.run("adapt", "seeing.yaml", ok=False)
    assert refused.returncode
    assert "no recording is given as soft tokens" in refused.stdout + refused.stderr
    assert Ledger.open(ledger).head() == before
    study.run("adapt", "private.yaml")
    (run,) = (study.folder / "runs").glob("adapt-toy_private-*")
    assert 7 < json.loads((run / "release" / "adapter" / "guarantee.json").read_text())["epsilon"] <= 8


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("private", [False, True])
def test_recordings_shown_as_soft_tokens(study, private):
    made, name = study, f"toy_soft{'_private' * private}"
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    t.LlamaForCausalLM(t.LlamaConfig(**shape, vocab_size=300, max_position_embeddings=512)).save_pretrained(  # type: ignore[arg-type]
        made.folder / "words"
    )
    base = {"name": "llava", "model": "words", "signals": {"rate_hz": 8, "width": 16, "layers": 1}}
    adapt = {**RECIPES["adapt"], "study": name, "backbone": base, "condition": {"soft": 0.7}}
    if private:
        adapt |= {"privacy": {"epsilon": 8, "batch": 2, "rows": 6}, "lora": {"rank": 4, "alpha": 8}}
    given = {"relation": "vary", "soft": True, "windows": 7}
    shown = {"study": name, "adapter": f"adapt-{name}", "sampling": {"batch": 4}, "given": given}
    kept = {**shown, "given": {**given, "protect": {"epsilon": 4.0}}}
    for verb, recipe in {"adapt": adapt, "open": shown, "kept": kept}.items():
        (made.folder / f"{name}_{verb}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    made.run("adapt", f"{name}_adapt.yaml")
    (run,) = (made.folder / "runs").glob(f"adapt-{name}-*")
    weights = load_file(run / "release" / "adapter" / "adapter_model.safetensors")
    for part in ("vision_tower", "multi_modal_projector"):
        assert any(part in k and "lora_B" in k and v.abs().max() > 0 for k, v in weights.items())
    ledger = made.folder / "ledger" / "ledger.sqlite"
    before = Ledger.open(ledger).head()
    done = made.run("generate", f"{name}_open.yaml")
    assert "unprotected" in done.stdout + done.stderr
    (bare,) = (made.folder / "runs").glob(f"generate-{name}-*")
    assert not (bare / "release" / "cohort").exists()
    assert len(Cohort.read(bare / "private" / "cohort")) == 7
    assert Ledger.open(ledger).head() == before
    made.run("generate", f"{name}_kept.yaml")
    (safe,) = set((made.folder / "runs").glob(f"generate-{name}-*")) - {bare}
    cohort = Cohort.read(safe / "release" / "cohort")
    assert len(cohort) == 7
    assert "for each person whose recordings were shown" in cohort.card.guarantee
    assert cohort.card.guarantee.startswith("(" if private else "none (plain training")
    charged = [e for e in Ledger.open(ledger).export() if e["seq"] > before[0]]
    assert [e["kind"] for e in charged] == ["reserve", "settle"]
    assert not (safe / "private" / "cohort").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("private", [False, True])
def test_a_voice_through_the_models_own_tower(study, private):
    """Written: a temperature. Shown: a voice, to the audio tower of a random thinker of a few thousand parameters."""
    made, name = study, f"toy_voice{'_private' * private}"
    torch.manual_seed(0)
    soft.MAKE["qwen2_5_omni_thinker"]().save_pretrained(made.folder / "omni")
    heard = {"feature_size": 16, "sampling_rate": 16000, "hop_length": 160, "n_fft": 400}
    (made.folder / "omni" / "preprocessor_config.json").write_text(json.dumps(heard))
    cohort = {"persons": 6, "sessions": 2, "seconds": 12, "streams": ["temp", "voice"], "missing": 0.2}
    adapt = {
        "study": name, "cohort": {"name": "simulated_life", **cohort}, "task": "stress", "seconds": 4, "stride_s": 4,
        "streams": ["temp"], "codec": {"name": "bins", "hz": 0.5}, "condition": {"soft": 0.6}, "split": {"holdout": 0.5},
        "backbone": {"name": "llava", "model": "omni", "shown": {"seconds": 2}}, "lora": {"rank": 4, "alpha": 8},
        "train": {"max_steps": 3, "batch": 4, "lr": 1e-3},
    }  # fmt: skip
    if private:
        adapt["privacy"] = {"epsilon": 8, "batch": 2, "rows": 6}
    given = {"relation": "vary", "soft": True, "windows": 6}
    shown = {"study": name, "adapter": f"adapt-{name}", "sampling": {"batch": 4}, "given": given}
    kept = {**shown, "given": {**given, "protect": {"epsilon": 4.0}}}
    for verb, recipe in {"adapt": adapt, "open": shown, "kept": kept}.items():
        (made.folder / f"{name}_{verb}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    made.run("adapt", f"{name}_adapt.yaml")
    (run,) = (made.folder / "runs").glob(f"adapt-{name}-[0-9a-f]*")
    told = runs.asked(run)["config"]["backbone"]["shown"]
    assert told == {"stream": "voice", "tower": "audio", "seconds": 2.0}
    weights = load_file(run / "release" / "adapter" / "adapter_model.safetensors")
    assert all("language_model" in k for k in weights)
    assert "the base's own audio tower's of voice" in (run / "release" / "adapter" / "README.md").read_text()
    made.run("generate", f"{name}_open.yaml")
    (bare,) = (made.folder / "runs").glob(f"generate-{name}-[0-9a-f]*")
    assert len(Cohort.read(bare / "private" / "cohort")) == 6
    made.run("generate", f"{name}_kept.yaml")
    (safe,) = set((made.folder / "runs").glob(f"generate-{name}-[0-9a-f]*")) - {bare}
    cohort = Cohort.read(safe / "release" / "cohort")
    assert len(cohort) == 6
    assert "for each person whose recordings were shown" in cohort.card.guarantee
    report = json.loads((safe / "release" / "report.json").read_text())
    assert report["results"][0]["value"] == 1.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not fetched("watch", "dinov2-s", "smollm2-135m"), reason="needs `mien assets fetch watch dinov2-s smollm2-135m`"
)
def test_watch_on_real_weights(tmp_path):
    made = lab(tmp_path / "watch_llava")
    env = {**os.environ, "MIEN_RUNS": str(made.folder / "runs"), "MIEN_LEDGER": str(made.folder / "ledger.sqlite")}
    for command in (
        ["adapt", "recipes/watch_llava/adapt.yaml", "train.max_steps=3", "train.batch=4", "stride_s=60"],
        ["generate", "recipes/watch_llava/generate.yaml", "sampling.per_label=2"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "mien.cli", *command], cwd=made.folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-2500:]
    runs = made.folder / "runs"
    (adapter,) = runs.glob("adapt-watch_llava-*/release/adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "mien-assets/dinov2-smollm2"
    assert min(config["trainable_token_indices"]) == 49153
    (cohort,) = runs.glob("generate-watch_llava-*/release/cohort")
    assert len(Cohort.read(cohort)) == 14
