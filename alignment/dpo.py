"""Direct preference optimisation (arXiv 2305.18290): through TRL, or under the privacy of raters or recorded persons.

The grammar's mask is inside the model's forward, so policy and reference are both normalised over valid tokens. A pair's
loss depends on no other pair: the reference's log-likelihoods are computed once, from the private adapter alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ..adapters import training
from ..backbones.causal_lm import CausalBackbone
from ..core import console
from ..core.config import Section
from ..core.errors import MienError
from ..generation.layout import Layout
from ..generation.vocabulary import EOS, PAD
from ..privacy.plan import PrivacyPlan
from ..privacy.sampling import Units
from . import beside, pairs
from .pairs import Pairs


class Dpo(Section):
    """beta: how dear it is to leave the reference (equation 7); steps; batch: pairs per step over all processes; micro_batch: at
    most so many of them at a time in one process (None: all); lr: peak of a warm-up and cosine; fresh: documents of each class
    that are sampled anew, for each turn, so that the linear reward of the answers teaches by them (`crossed.py`, where a beta of 2
    goes as far as tilt says) and not the answers themselves (0: these); tilt: of what is chosen there, in standard deviations of
    the reward; turns: of sampling and learning."""

    beta: float = Field(default=0.1, gt=0)
    steps: int = Field(default=60, ge=1)
    batch: int = Field(default=16, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    lr: float = Field(default=5e-4, gt=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    fresh: int = Field(default=0, ge=0)
    tilt: float = Field(default=1.5, gt=0)
    turns: int = Field(default=1, ge=1)


def margins(backbone: CausalBackbone, model: Any, data: Pairs, prompt: int) -> np.ndarray:
    """float64[n, 2]: log p of chosen and rejected under the model as it is now."""
    docs = {d.tobytes(): d for d in (*data.chosen, *data.rejected)}  # raters and pairs share them
    known = dict(zip(docs, pairs.log_p(backbone, model, list(docs.values()), prompt)[0].tolist(), strict=True))
    return np.array([[known[d.tobytes()] for d in both] for both in zip(data.chosen, data.rejected, strict=True)])


def reference(backbone: CausalBackbone, model: Any, data: Pairs, prompt: int) -> np.ndarray:
    """`margins` under the private adapter alone."""
    with beside.reference(model):
        return margins(backbone, model, data, prompt)


def losses(backbone: CausalBackbone, beta: float) -> Callable[[Any, pairs.PairBatch], Any]:
    """losses(model, batch) -> float32[pairs]: -log σ(β (policy's margin - reference's margin)), equation 7."""
    import torch

    def of(model: Any, batch: pairs.PairBatch) -> Any:
        nll, _ = backbone.token_losses(model, batch)
        chosen, rejected = (-nll.sum(1)).chunk(2)
        return -torch.nn.functional.logsigmoid(beta * (chosen - rejected - batch.reference))

    return of


def train(
    model: Any, backbone: CausalBackbone, layout: Layout, data: Pairs, asked: Dpo, *, seed: int, folder: Path,
    accelerator: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """TRL's DPOTrainer on the aligned adapter; its log. MienError for private preferences."""
    refuse_private(data, "dpo")
    share, micro = dealt(asked, accelerator)
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    cut, known = layout.prompt_length, reference(backbone, model, data, layout.prompt_length)
    rows = {
        "prompt_ids": [backbone.own_ids(c[:cut]).tolist() for c in data.chosen],
        "chosen_ids": [backbone.own_ids(c[cut:]).tolist() for c in data.chosen],
        "rejected_ids": [backbone.own_ids(r[cut:]).tolist() for r in data.rejected],
        "ref_chosen_logps": known[:, 0].tolist(),
        "ref_rejected_logps": known[:, 1].tolist(),
    }

    class Trainer(DPOTrainer):
        """Documents are ids already, and their reference is not the bare base that TRL would take."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            return dataset

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return weighted(data, seed) or super()._get_train_sampler(*args, **kwargs)

    config = DPOConfig(
        output_dir=str(folder), beta=asked.beta, max_steps=asked.steps, per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro, learning_rate=asked.lr, lr_scheduler_type="cosine",
        warmup_steps=round(asked.warmup * asked.steps), max_length=None, precompute_ref_log_probs=True,
        logging_steps=max(1, asked.steps // 10), **common(accelerator, seed),
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=config, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer(backbone)
    )
    model.delete_adapter("ref")  # TRL's own copy of the private adapter; the reference is known already
    beside.ready(model)
    run(trainer, f"DPO on {len(data)} pairs", asked.steps)
    model.eval()
    return [row for row in trainer.state.log_history if "loss" in row]


def train_private(
    model: Any, backbone: CausalBackbone, layout: Layout, data: Pairs, asked: Dpo, plan: PrivacyPlan, *, seed: int,
    folder: Path, accelerator: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """The same loss under `plan`, whose unit is the rater, or the recorded person of whom an answer tells.

    All pairs of a unit are clipped together; at most plan.rows of them enter a step.
    """
    known = reference(backbone, model, data, layout.prompt_length)
    ref, prompt, device = known[:, 0] - known[:, 1], layout.prompt_length, accelerator.device

    def batch_of(rows: np.ndarray) -> pairs.PairBatch:
        return pairs.batch(backbone, data, rows.tolist(), ref, prompt, device)

    def probes() -> list[pairs.PairBatch]:
        order = np.argsort([max(len(c), len(r)) for c, r in zip(data.chosen, data.rejected, strict=True)])
        mine, others = order[0], order[1:]
        sets = [[mine], [mine, *others[:2]], [mine, *others[-2:]], [mine, *others[:2], *others[-2:][::-1]]]
        return [batch_of(np.array(s)) for s in sets]

    settings = training.Train(
        max_steps=asked.steps, batch=asked.batch, micro_batch=asked.micro_batch, lr=asked.lr, warmup=asked.warmup
    )
    return training.fit(
        model, losses(backbone, asked.beta), batch_of, len(data), settings, seed=seed, folder=folder,
        accelerator=accelerator, private=training.Private(plan=plan, units=units(data, plan.unit), probes=probes),
        label=f"aligning on {len(data)} pairs, each {plan.unit} protected",
    )  # fmt: skip


def units(data: Pairs, unit: str) -> Units:
    """The pairs of each unit of privacy. MienError where an answer names none."""
    names = np.asarray(whose(unit, data.rater, data.person)).astype(str)
    return Units.of(np.unique(names, return_inverse=True)[1])


def whose(unit: str, rater: Collection[str], person: Collection[str]) -> Collection[str]:
    """Each answer's unit of privacy, by name: its rater, or the person of whom it tells. MienError where one names none."""
    if unit == "recording":
        raise MienError("privacy.unit: preferences are protected per rater or per person, not per recording")
    names = rater if unit == "rater" else person
    if not all(names):
        raise MienError(
            f"privacy.unit: {unit}, and {sum(n == '' for n in names)} of {len(names)} preferences name no {unit}: nobody"
            " could say whose gradient they are"
        )
    return names


# --- what every trainer of TRL is told ----------------------------------------------------------------------------------
def refuse_private(data: Pairs, method: str) -> None:
    """MienError when a preference is for private trainers only."""
    if data.private.any():
        raise MienError(
            f"{int(data.private.sum())} of {len(data)} preferences are private: they tell something of recorded persons, and"
            f" `method: {method}` without a `privacy:` section would let the adapter keep it. Give `method: dpo` a privacy"
            " section, or leave them out"
        )


def weighted(data: Pairs, seed: int) -> Any:
    """A sampler that draws pairs in proportion to their weights, so that the expected loss is the weighted one; None where all
    count the same. Its draws follow from the seed, and are the same on every process. MienError for weights that are none."""
    import torch

    if not (np.isfinite(data.weight).all() and (data.weight >= 0).all() and data.weight.any()):
        raise MienError("weights of preferences are finite, not negative, and not all 0")
    if np.ptp(data.weight) == 0:
        return None
    draw = torch.Generator().manual_seed(seed % 2**31)
    return torch.utils.data.WeightedRandomSampler(data.weight.tolist(), len(data), generator=draw)


def public_world(accelerator: Any) -> None:
    """MienError where TRL's trainers would run on something else than the launch file says."""
    kind = str(accelerator.distributed_type.value)
    if kind == "DEEPSPEED" and accelerator.state.deepspeed_plugin.zero_stage == 3:
        raise MienError("alignment runs under DeepSpeed ZeRO-1 or 2 (launch/zero2.yaml); the base is frozen and small")
    if kind == "FSDP":
        raise MienError("alignment runs on one process, DDP or DeepSpeed ZeRO-1 and 2, not under FSDP")


def dealt(asked: Dpo, accelerator: Any) -> tuple[int, int]:
    """(pairs of one process's step, of these at a time). MienError for a launch file that TRL cannot run under, and for a step that
    cannot be dealt to its processes."""
    public_world(accelerator)
    share = per_process(asked.batch, accelerator, "dpo.batch")
    micro = min(asked.micro_batch or share, share)
    if share % micro:
        raise MienError(f"dpo.micro_batch: {micro} does not divide the {share} pairs of one process's step")
    return share, micro


def per_process(batch: int, accelerator: Any, key: str) -> int:
    """The share of one process."""
    if batch % accelerator.num_processes:
        raise MienError(f"{key}: {batch} must be a multiple of the {accelerator.num_processes} processes")
    return batch // accelerator.num_processes


def common(accelerator: Any, seed: int) -> dict[str, Any]:
    """Options of every TRL config: nothing is sent, saved or shown by TRL itself, and numbers stay float32."""
    cpu = accelerator.device.type == "cpu"
    return {
        "seed": seed % 2**31, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "bf16": False,
        "gradient_checkpointing": False, "dataloader_pin_memory": not cpu,
        **({"ddp_backend": "gloo"} if cpu and accelerator.num_processes > 1 else {}),
    }  # fmt: skip


def run(trainer: Any, label: str, steps: int) -> None:
    """Train, with a progress bar over its steps in place of raw dictionaries of numbers, which are in the trainer's history."""
    from transformers import PrinterCallback, TrainerCallback

    class Told(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            bar.step()

    trainer.remove_callback(PrinterCallback)
    with console.progress(label, steps, quiet=not trainer.accelerator.is_main_process) as bar:
        trainer.add_callback(Told())
        trainer.train()


def tokenizer(backbone: CausalBackbone) -> Any:
    """What TRL asks of a tokenizer where documents are ids already: which id is padding, and which ends a document."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    ids = {
        "<behaviour.pad>": int(backbone.own_ids(np.array(PAD))),
        "<behaviour.eos>": int(backbone.own_ids(np.array(EOS))),
    }
    made = Tokenizer(models.WordLevel(ids, unk_token="<behaviour.pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<behaviour.pad>", eos_token="<behaviour.eos>", padding_side="left"
    )
