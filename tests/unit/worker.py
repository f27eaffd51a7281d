"""One process of a distributed test: `accelerate launch … worker.py OUT MODE`. The secret is fixed here, and only here."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from mien.adapters import optimizer, training, world
from mien.backbones.causal_lm import CausalBackbone
from mien.core import console
from mien.privacy import noise
from mien.privacy.plan import PrivacySpec
from mien.privacy.sampling import Units

PERSONS, VOCABULARY = 7, 32
SPEC = PrivacySpec(noise_multiplier=1.0, delta=1e-5, batch=3, rows=6, clip_norm=0.05)


def main(out: Path, mode: str) -> None:
    """mode: exact (fixed randomness), plain (no privacy), shard (FSDP2 natively). `exact` without a sharded base also
    runs forty steps to which nobody contributes, with the real randomness: what the optimiser gets is noise."""
    accelerator = world.accelerator(1)
    console.quiet()
    if mode == "shard":
        world.place = lambda model, accelerator: world.fully_shard(model, "cpu")
    real, noise._key = noise._key, lambda: bytes(range(48))
    found, model, whole = train(accelerator, out.parent / f"{out.stem}-run", 6, private=mode != "plain")
    here = sum(_here(p) for n, p in model.named_parameters() if "lora" not in n and "tokens_delta" not in n)
    facts = {"world": accelerator.num_processes, "kind": str(accelerator.distributed_type.value), "share": here / whole}
    if mode == "exact" and accelerator.distributed_type.value != "DEEPSPEED":
        noise._key = real
        steps = training.PrivateSteps._backward
        training.PrivateSteps._backward = lambda self, *a, **k: (steps(self, *a, **k), self.gradients.clear())
        pure, _, _ = train(accelerator, out.parent / f"{out.stem}-noise", 40, private=True)
        found["noise"] = pure["gradients"] * SPEC.batch / SPEC.clip_norm  # in units of the noise multiplier, which is 1
    if accelerator.is_main_process:
        np.savez(out, **found)
        out.with_suffix(".json").write_text(json.dumps(facts))


def train(accelerator, folder: Path, steps: int, private: bool) -> tuple[dict[str, np.ndarray], torch.nn.Module, int]:
    """vector and gradients of a run, its model, and the number of the base's elements."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, tie_word_embeddings=True,
        )
    )  # fmt: skip
    base.requires_grad_(False)
    whole = sum(p.numel() for p in base.parameters())
    model = get_peft_model(
        base, LoraConfig(r=4, target_modules="all-linear", trainable_token_indices=[3, 4, 5], task_type="CAUSAL_LM")
    )
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    rng = np.random.default_rng(1)
    # unequal persons, so that some go over several micro-batches and the processes' loads differ
    person = np.repeat(np.arange(PERSONS), [1, 2, 9, 3, 1, 5, 2])
    documents = [rng.integers(1, VOCABULARY, rng.integers(6, 14)) for _ in person]
    backbone = CausalBackbone(
        model=base, identity="", revision=None, fingerprint="", offset=0, lora_targets=(), speaks_behaviour=True
    )
    seen: dict[str, list[torch.Tensor]] = {"gradients": [], "vector": []}

    class Recording(optimizer.Adam):
        def step(self, vector, gradient, lr, variance=0.0):
            super().step(vector, gradient, lr, variance)
            seen["gradients"].append(gradient.detach().clone())
            seen["vector"] = [vector.detach().clone()]

    training.Adam = Recording
    folder.mkdir(exist_ok=True)
    training.fit(
        model, backbone.losses,
        lambda rows: backbone.batch([documents[i] for i in rows], prompt=2, persons=person[rows]), len(documents),
        training.Train(max_steps=steps, micro_batch=4, lr=1e-2, checkpoint_every=100, log_every=steps),
        seed=0, folder=folder, accelerator=accelerator,
        private=training.Private(
            plan=SPEC.plan(n=PERSONS, steps=steps), units=Units.of(person),
            probes=lambda: backbone.probes([documents[i] for i in (0, 5, 9)], prompt=2),
        ) if private else None,
    )  # fmt: skip
    return {k: torch.stack(v).numpy() for k, v in seen.items()}, model, whole


def _here(p: torch.Tensor) -> int:
    """Elements of a base parameter that lie in this process."""
    if hasattr(p, "ds_tensor"):
        return p.ds_tensor.numel()
    return p.to_local().numel() if hasattr(p, "to_local") else p.numel()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(Path(sys.argv[1]), sys.argv[2])
