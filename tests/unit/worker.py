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

PERSONS, STEPS, VOCABULARY = 7, 6, 32


def main(out: Path, mode: str) -> None:
    accelerator = world.accelerator(1)
    console.quiet()
    if mode == "shard":
        world.place = lambda model, accelerator: world.fully_shard(model, "cpu")
    if mode != "entropy":
        noise._key = lambda: bytes(range(48))
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
    spec = PrivacySpec(noise_multiplier=1.0, delta=1e-5, batch=3, rows=6, clip_norm=0.05)
    pure_noise = mode in ("noise", "entropy")
    steps = 40 if pure_noise else STEPS
    gradients: list[torch.Tensor] = []
    step = optimizer.Adam.step

    def record(self, vector, gradient, lr, variance=0.0):
        gradients.append(gradient.detach().clone())
        step(self, vector, gradient, lr, variance)

    optimizer.Adam.step = record

    def losses(model, batch):
        value = backbone.losses(model, batch)
        return value * 0 if pure_noise and gradients_started[0] else value

    gradients_started = [False]
    trained: dict[str, torch.Tensor] = {}
    take = training.PrivateSteps.take

    def started(self, at, lr):
        gradients_started[0] = True
        take(self, at, lr)
        trained["now"] = self.flat.vector

    training.PrivateSteps.take = started
    folder = out.parent / f"{out.stem}-run"
    folder.mkdir(exist_ok=True)
    private = training.Private(
        plan=spec.plan(n=PERSONS, steps=steps), units=Units.of(person),
        probes=lambda: backbone.probes([documents[i] for i in (0, 5, 9)], prompt=2),
    )  # fmt: skip
    if mode == "plain":
        private = None
        take_plain = training.PlainSteps.take

        def plainly(self, at, lr):
            take_plain(self, at, lr)
            trained["now"] = self.flat.vector

        training.PlainSteps.take = plainly
    log = training.fit(
        model, losses, lambda rows: backbone.batch([documents[i] for i in rows], prompt=2, persons=person[rows]),
        len(documents), training.Train(max_steps=steps, micro_batch=4, lr=1e-2, checkpoint_every=100, log_every=steps),
        seed=0, folder=folder, accelerator=accelerator,
        private=private,
    )  # fmt: skip
    here = sum(_here(p) for n, p in model.named_parameters() if "lora" not in n and "tokens_delta" not in n)
    if accelerator.is_main_process:
        np.savez(out, vector=trained["now"].numpy(), gradients=torch.stack(gradients).numpy())
        facts = {
            "world": accelerator.num_processes, "kind": str(accelerator.distributed_type.value), "whole": whole,
            "here": here, "loss": log[-1]["loss"], "expected": spec.batch, "clip": spec.clip_norm,
        }  # fmt: skip
        out.with_suffix(".json").write_text(json.dumps(facts))


def _here(p: torch.Tensor) -> int:
    """Elements of a base parameter that lie in this process."""
    if hasattr(p, "ds_tensor"):
        return p.ds_tensor.numel()
    return p.to_local().numel() if hasattr(p, "to_local") else p.numel()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main(Path(sys.argv[1]), sys.argv[2])
