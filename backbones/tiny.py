"""`tiny`: a Llama of at most 4 M parameters, pretrained here on simulated, public recordings.

It speaks behaviour tokens only. `recipes/pretrain.py` makes it once; every study then adapts the same frozen file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..core import config, console, plugins, runs
from ..core.config import Plugin, Section
from ..core.errors import MienError
from ..core.paths import runs_home
from .causal_lm import CausalBackbone, linear_names, weights_digest

LIMIT = 4_000_000


class Config(Section):
    """recipe: the pretraining recipe that makes the weights; weights: the run that did, or a folder of your own."""

    recipe: str = "recipes/watch/pretrain.yaml"
    weights: str | None = None


class Shape(Section):
    """The architecture: width, layers, heads, feed-forward width."""

    hidden: int = 160
    layers: int = 4
    heads: int = 4
    feed_forward: int = 480
    context: int = 1024


def fresh(shape: Shape, behaviour_tokens: int, seed: int) -> Any:
    """A randomly initialised Llama over the behaviour vocabulary. MienError above LIMIT parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=behaviour_tokens,
            hidden_size=shape.hidden,
            intermediate_size=shape.feed_forward,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    count = sum(p.numel() for p in model.parameters())
    if count > LIMIT:
        raise MienError(f"backbone tiny: {count:,} parameters are more than {LIMIT:,}; make `shape` smaller")
    return model


def load(options: Config, behaviour_tokens: int) -> CausalBackbone:
    """The pretrained base, frozen. `weights` names a pretrain run (the recipe finds it) or a folder."""
    from transformers import LlamaForCausalLM

    named = options.weights or ""
    folder = Path(named).expanduser() if "/" in named else runs_home() / named / "release" / "base"
    if not named or not (folder / "model.safetensors").exists():
        raise MienError(
            f"the tiny base is not there ({named or 'not pretrained yet'}): run `mien pretrain {options.recipe}`"
        )
    model: Any = LlamaForCausalLM.from_pretrained(folder, use_safetensors=True)
    rows = model.get_input_embeddings().weight.shape[0]
    if rows != behaviour_tokens:
        raise MienError(
            f"the tiny base in {folder} knows {rows} behaviour tokens, this Mien has {behaviour_tokens}:"
            f" run `mien pretrain {options.recipe}` again; where it is reused, its `codecs:` are others than this recipe's: make them"
            " the same"
        )
    model.requires_grad_(False)
    digest = weights_digest(model)
    return CausalBackbone(
        model=model,
        identity=f"mien/tiny-{digest[:12]}",
        revision=None,
        fingerprint=digest,
        offset=0,
        lora_targets=linear_names(model),
        speaks_behaviour=True,
    )


def with_weights(section: Plugin) -> Plugin:
    """A recipe's backbone section, for a base that is pretrained here with the run that holds its weights; pretrained now
    if need be.

    Other backbones, and a section that names weights, come back as they are. MienError when pretraining fails.
    """
    if section.name not in ("tiny", "behaviour") or section.options.get("weights"):
        return section
    recipe = plugins.resolve("backbones", section, f"backbone {section.name}")[1].recipe
    run = _pretrained(recipe)
    if run is None:
        console.say(f"the base {section.name} is not pretrained yet: `mien pretrain {recipe}`, once")
        # a process of its own, outside any launcher's world: every rank of that world waits for the one base
        launcher = (
            "RANK",
            "WORLD_SIZE",
            "MASTER_",
            "LOCAL_",
            "ACCELERATE_",
            "TORCHELASTIC_",
            "GROUP_",
            "ROLE_",
        )
        clean = {k: v for k, v in os.environ.items() if not k.startswith(launcher)}
        if subprocess.run([sys.executable, "-m", "mien.cli", "pretrain", recipe], env=clean).returncode:
            raise MienError(f"pretraining the base did not finish; `mien pretrain {recipe}` continues it")
        run = _pretrained(recipe)
    return Plugin(name=section.name, recipe=recipe, weights=run)  # type: ignore[call-arg]


def missing(section: Plugin | None) -> str | None:
    """The pretraining recipe that `with_weights` would run first; None where a base is there, or made by nothing here."""
    if section is None or section.name != "tiny" or section.options.get("weights"):
        return None
    recipe = plugins.resolve("backbones", section, f"backbone {section.name}")[1].recipe
    return None if _pretrained(recipe) else recipe


def _pretrained(recipe: str) -> str | None:
    """The name of the newest finished pretrain run of exactly this recipe."""
    wanted, found = config.read(recipe), []
    for folder in runs_home().glob(f"pretrain-{wanted.get('study')}-*"):
        if runs.status(folder) == "finished":
            asked = runs.asked(folder)["config"]
            if config.merge(asked, wanted) == asked:
                found.append((folder.stat().st_mtime_ns, folder.name))
    return max(found)[1] if found else None
