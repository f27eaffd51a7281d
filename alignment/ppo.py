"""Proximal policy optimisation (arXiv 1707.06347, for preferences 1909.08593) over behaviour tokens, through TRL 1.12.

The only file that imports `trl.experimental.ppo`, which later versions of TRL no longer have. Samples are drawn through
the grammar's mask in the model's forward, so every one of them is a whole document.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ..backbones.causal_lm import CausalBackbone
from ..core.config import Section
from ..core.errors import MienError
from ..generation.grammar import ungiven
from ..generation.layout import Layout
from . import beside
from .dpo import common, per_process, public_world, run, tokenizer


class Ppo(Section):
    """episodes: documents sampled in all; batch: of them per update over all processes; epochs: passes over each
    update's samples; minibatches: an update's samples are cut into so many steps; lr, the value model's too; kl: how dear it is
    to leave the reference, per nat; gae: λ of generalised advantages (arXiv 1506.02438); temperature: of sampling; fresh: documents of
    each class that are sampled first, beside the judged ones, for the linear reward's critic to learn what tokens let expect
    of it."""

    episodes: int = Field(default=512, ge=1)
    batch: int = Field(default=32, ge=2)
    epochs: int = Field(default=2, ge=1)
    minibatches: int = Field(default=2, ge=1)
    lr: float = Field(default=3e-4, gt=0)
    kl: float = Field(default=0.02, ge=0)
    gae: float = Field(default=0.95, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)
    fresh: int = Field(default=0, ge=0)


def dealt(asked: Ppo, accelerator: Any) -> int:
    """Documents of one process's step. MienError for a launch file that TRL's PPO cannot run under, and for a step that cannot be
    dealt to its processes."""
    public_world(accelerator)
    if str(accelerator.distributed_type.value) == "DEEPSPEED":
        raise MienError(
            "TRL's PPO holds policy and value in one module, which DeepSpeed would split: use launch/ddp.yaml"
        )
    local = per_process(asked.batch, accelerator, "ppo.batch")
    if local % asked.minibatches:
        raise MienError(f"ppo.minibatches: {asked.minibatches} does not divide the {local} documents of one process")
    return local


def train(
    model: Any, backbone: CausalBackbone, layout: Layout, reward: Any, value: Any, asked: Ppo, *, seed: int, folder: Path,
    accelerator: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """TRL's PPOTrainer on the aligned adapter; its log. reward: from `reward.py` or `decoded.py`; value: a sequence classifier, which
    learns on.

    MienError where the reward model is of another vocabulary, or the launch file asks for DeepSpeed.
    """
    local = dealt(asked, accelerator)
    known = getattr(reward.config, "behaviour_vocabulary", None)
    if known != layout.vocabulary.digest:
        raise MienError(
            f"the reward model knows other behaviour tokens ({known}) than this layout ({layout.vocabulary.digest})"
        )
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import torch
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    class Reference(torch.nn.Module):
        """The private adapter alone, inside the one model; it holds no weights of its own."""

        def forward(self, **kwargs: Any) -> Any:
            with beside.reference(model):
                return model(**kwargs)

    class Trainer(PPOTrainer):
        """TRL would take the bare base where it has no reference model."""

        @contextlib.contextmanager
        def null_ref_context(self) -> Iterator[None]:
            with beside.reference(model):
                yield

    made = tokenizer(backbone)
    prompts = [backbone.own_ids(np.array(layout.prompt(c))).tolist() for c in layout.classes]
    queries = [prompts[i % len(prompts)] for i in range(max(asked.episodes, asked.batch))]
    generation = copy.deepcopy(model.generation_config)
    model.generation_config.pad_token_id = made.pad_token_id
    config = PPOConfig(
        output_dir=str(folder), total_episodes=asked.episodes, learning_rate=asked.lr,
        # one optimiser step for each minibatch: TRL would gather gradients over minibatches that it is told to accumulate
        per_device_train_batch_size=local, gradient_accumulation_steps=1, num_mini_batches=asked.minibatches,
        num_ppo_epochs=asked.epochs, kl_coef=asked.kl, lam=asked.gae, temperature=asked.temperature,
        response_length=layout.body + 1, stop_token="eos", local_rollout_forward_batch_size=local,
        num_sample_generations=0, logging_steps=1, **common(accelerator, seed),
    )  # fmt: skip
    trainer = Trainer(
        args=config, processing_class=made, model=model, ref_model=Reference(),  # type: ignore[arg-type]
        reward_model=reward, value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": queries}),
    )  # fmt: skip
    with ungiven(model):  # TRL samples from labels, and what opens a document beside them would be given by nobody
        run(trainer, f"PPO, {asked.batch} documents an update", -(-asked.episodes // asked.batch))
    model.generation_config = generation
    beside.ready(model).eval()
    return [row for row in trainer.state.log_history if "objective/kl" in row]
