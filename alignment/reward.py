"""A reward model: which of two documents an expert would prefer, as a number per document.

The adapter's frozen base with a fresh head and a LoRA of its own, trained by TRL's RewardTrainer on the logistic loss of
Bradley and Terry; its scale is calibrated on pairs that it did not learn from (temperature, arXiv 1706.04599).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from scipy import special, stats

from ..backbones.causal_lm import CausalBackbone
from ..core.config import Section
from ..core.errors import MienError
from ..core.intervals import Interval, clopper_pearson, newcombe_auc
from ..core.runs import whole_folder
from ..generation.layout import Layout
from .dpo import common, per_process, public_world, refuse_private, run, tokenizer, weighted
from .pairs import Pairs


class Reward(Section):
    """kind: neural, as below, or linear: of the vital signs of what a document decodes to (`decoded.py`), with l2 its ridge. rank: of
    the LoRA on the base's linear layers; steps; batch: pairs per step over all processes; lr; validation: share of the training pairs
    kept for calibration. run: for `method: ppo`, a finished run of `method: reward` on this adapter, whose neural
    one is taken; nobody is asked again, and what is told of new samples is by those who taught it."""

    run: str | None = None
    kind: Literal["neural", "linear"] = "neural"
    l2: float = Field(default=10.0, gt=0)
    rank: int = Field(default=8, ge=1)
    steps: int = Field(default=120, ge=1)
    batch: int = Field(default=16, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    validation: float = Field(default=0.2, gt=0, lt=1)


def fresh(base: Any, vocabulary: str, eos: int, pad: int, seed: int) -> Any:
    """A sequence classifier with one output over a copy of the language model `base`, its head fresh (and zero, so
    that every document begins with the same reward). MienError for a base without such a class.

    vocabulary: the digest of the behaviour tokens it will know.
    """
    import copy

    import torch
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(base.config.get_text_config())
    config.num_labels, config.pad_token_id, config.eos_token_id = 1, pad, eos
    config.problem_type = None
    config.behaviour_vocabulary = vocabulary
    torch.manual_seed(seed)
    try:
        model = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        raise MienError(
            f"a reward model needs a language model with a classifier class; {config.model_type} has none"
        ) from None
    inside = getattr(model, model.base_model_prefix)
    inside.load_state_dict(base.get_decoder().state_dict())
    torch.nn.init.zeros_(model.score.weight)
    return model.to(base.device)


def dealt(asked: Reward, accelerator: Any) -> int:
    """Pairs of one process's step; MienError as for DPO."""
    public_world(accelerator)
    return per_process(asked.batch, accelerator, "reward.batch")


def train(
    backbone: CausalBackbone, decoder: Any, layout: Layout, data: Pairs, asked: Reward, *, seed: int, folder: Path,
    accelerator: Any,
) -> tuple[Any, float]:  # fmt: skip
    """(reward model in eval mode, temperature). decoder: the frozen base without any adapter. MienError for private
    preferences."""
    refuse_private(data, "reward")
    share = dealt(asked, accelerator)
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    made = tokenizer(backbone)
    model = fresh(decoder, layout.vocabulary.digest, made.eos_token_id, made.pad_token_id, seed)
    kept = calibration(data, asked.validation, seed)
    learn, check = data.rows(~kept), data.rows(kept)
    if not len(learn):
        raise MienError("a reward model needs preferences about two pairs at least, one of them to calibrate it on")
    rows = {
        f"{side}_ids": [backbone.own_ids(d).tolist() for d in getattr(learn, side)] for side in ("chosen", "rejected")
    }
    config = RewardConfig(
        output_dir=str(folder), max_steps=asked.steps, learning_rate=asked.lr, lr_scheduler_type="cosine",
        per_device_train_batch_size=share, max_length=None,
        weight_decay=asked.weight_decay, logging_steps=max(1, asked.steps // 10), **common(accelerator, seed),
    )  # fmt: skip

    class Trainer(RewardTrainer):
        """Pairs are drawn by their weights."""

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return weighted(learn, seed) or super()._get_train_sampler(*args, **kwargs)

    trainer = Trainer(
        model=model, args=config, train_dataset=Dataset.from_dict(rows), processing_class=made,
        peft_config=LoraConfig(
            r=asked.rank, lora_alpha=2 * asked.rank, task_type="SEQ_CLS", modules_to_save=["score"],
            target_modules=[n for n in backbone.lora_targets if n != "score"],
        ),
    )  # fmt: skip
    run(trainer, f"a reward model of {len(learn)} pairs", asked.steps)
    merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()  # type: ignore[operator]
    merged.requires_grad_(False).eval()
    difference = score(backbone, merged, check.chosen) - score(backbone, merged, check.rejected)
    temperature = calibrate(difference)
    with torch.no_grad():
        merged.score.weight.div_(temperature)
    return merged, temperature


def calibration(data: Pairs, share: float, seed: int) -> np.ndarray:
    """bool[n]: about this share of the answers, of whole pairs: another rater's answer about the same pair has taught already."""
    pairs, of, count = np.unique(data.pair.astype(str), return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 0xCA11]).permutation(len(pairs))
    before = np.cumsum(count[order]) - count[order]
    return np.isin(of, order[before < max(1, round(share * len(data)))])


def calibrate(difference: np.ndarray) -> float:
    """The temperature T > 0 that makes -mean log σ(d / T) smallest; d: float[n], reward of chosen less rejected.

    Where the pairs are all ordered right, any smaller T is better still: it stops at 1/20 of the mean difference.
    """
    from scipy import optimize

    size = float(np.abs(difference).mean())
    if not size > 0:
        return 1.0

    def loss(log_t: float) -> float:
        return float(np.logaddexp(0, -difference / np.exp(log_t)).mean())

    around = np.log(size)
    found = optimize.minimize_scalar(loss, bounds=(around - 3, around + 6), method="bounded")
    return float(np.exp(found.x))


def score(backbone: CausalBackbone, model: Any, docs: Any, size: int = 32) -> np.ndarray:
    """float64[n]: the reward of each document, read at its last token."""
    import torch

    out = np.zeros(len(docs))
    with torch.no_grad():
        for at in range(0, len(docs), size):
            part = docs[at : at + size]
            made = backbone.batch(part, prompt=1, persons=np.zeros(len(part), np.int64), device=model.device)
            hidden = getattr(model, model.base_model_prefix)(input_ids=made.ids, attention_mask=made.mask)[0]
            last = made.mask.sum(1) - 1
            found = model.score(hidden[torch.arange(len(part), device=hidden.device), last])[:, 0]
            out[at : at + size] = found.double().cpu().numpy()
    return out


def accuracy(backbone: CausalBackbone, model: Any, data: Pairs) -> Interval:
    """The share of pairs ordered as the raters did, ½ for equal rewards, with `share`'s interval."""
    difference = score(backbone, model, data.chosen) - score(backbone, model, data.rejected)
    return share((difference > 0) + 0.5 * (difference == 0), data)


def share(right: np.ndarray, data: Pairs) -> Interval:
    """The mean of right float64[n], in 0 to 1, one of each answer; its n_persons counts recordings.

    Answers about pairs that share a recording hang together, and at random pairs most are linked through others, so that
    linked groups leave no two to compare. The variance is that of dyads (Aronow, Samii & Assenova 2015, Political Analysis
    23:564, equation 2): the products of two answers' residuals, summed over all that share a recording, never less than by
    answers about the same two recordings; the interval is on the logit scale, with t of recordings - 1. Where all are
    right or wrong: Clopper and Pearson's for so many answers as there are pairs without a common recording.
    """
    right = np.asarray(right, dtype=np.float64)
    a, b, nodes = _ends(data.chosen, data.rejected)
    value = float(right.mean())
    if nodes < 4:
        return Interval(value=value, low=None, high=None, n_persons=nodes)
    if value in (0.0, 1.0):
        n = _disjoint(a, b)
        low, high = clopper_pearson(value * n, n)
        return Interval(value=value, low=low, high=high, n_persons=nodes)
    return _of_dyads(value, (right - value) / len(right), a, b, nodes)


def told_apart(inside: np.ndarray, outside: np.ndarray, taught: Pairs, kept: Pairs) -> Interval:
    """The AUC of PREMIA (arXiv 2407.06443): is an answer that taught told from one that was held out by how far the margin between
    its two recordings has moved? inside float64[n], outside float64[m]: these moves, of `taught` and `kept`; its n_persons counts
    recordings.

    ½ is chance: what holds for answers at large moves both alike. The interval is `share`'s, of the two sides' placements (DeLong et
    al. 1988, Biometrics 44:837); where one side wins throughout, Newcombe's for pairs without a common recording.
    """
    over = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    value = float(over.mean())
    a, b, nodes = _ends((*taught.chosen, *kept.chosen), (*taught.rejected, *kept.rejected))
    n = len(inside)
    if min(n, len(outside), nodes - 2) < 2:
        return Interval(value=value, low=None, high=None, n_persons=nodes)
    if value in (0.0, 1.0):
        low, high = newcombe_auc(value, _disjoint(a[:n], b[:n]), _disjoint(a[n:], b[n:]))
        return Interval(value=value, low=low, high=high, n_persons=nodes)
    influence = np.r_[(over.mean(1) - value) / n, (over.mean(0) - value) / len(outside)]
    return _of_dyads(value, influence, a, b, nodes)


def _ends(chosen: Sequence[np.ndarray], rejected: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """(int64[n], int64[n]) which recordings each answer is about, and how many there are."""
    _, ends = np.unique([d.tobytes() for d in (*chosen, *rejected)], return_inverse=True)
    a, b = ends.reshape(2, -1)
    return a, b, int(ends.max()) + 1


def _of_dyads(value: float, influence: np.ndarray, a: np.ndarray, b: np.ndarray, nodes: int) -> Interval:
    """`share`'s interval of a value in 0 to 1 to whose error each answer adds its influence float64[n]."""
    _, pair = np.unique(np.sort(np.stack([a, b], 1), axis=1), axis=0, return_inverse=True)
    same = float((np.bincount(pair.ravel(), influence) ** 2).sum())
    at = np.bincount(a, influence, nodes) + np.bincount(b, influence, nodes)
    variance = max(same, float((at**2).sum()) - same)  # two answers of one pair share both ends
    half = float(stats.t.ppf(0.975, nodes - 1)) * np.sqrt(variance) / (value * (1 - value))
    low, high = special.expit(special.logit(value) + np.array([-half, half])).tolist()
    return Interval(value=value, low=low, high=high, n_persons=nodes)


def _disjoint(a: np.ndarray, b: np.ndarray) -> int:
    """How many pairs without a common recording can be picked one after the other."""
    taken: set[int] = set()
    n = 0
    for pair in zip(a.tolist(), b.tolist(), strict=True):
        if not taken & set(pair):
            taken |= set(pair)
            n += 1
    return n


def save(model: Any, folder: Path, temperature: float, identity: str) -> None:
    """A plain Hugging Face folder, and what it was made for."""
    with whole_folder(folder) as part:
        model.save_pretrained(part, safe_serialization=True)
        (part / "reward.json").write_text(json.dumps({"base": identity, "temperature": temperature}, indent=1))


def require(folder: Path, layout: Layout) -> None:
    """MienError where a folder holds no reward model, or one that was made for other behaviour tokens."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise MienError(
            f"{folder} holds no reward model: {str(error).splitlines()[0]} (`method: reward` with `reward.kind: neural` writes one)"
        ) from None
    known = getattr(config, "behaviour_vocabulary", None)
    if known != layout.vocabulary.digest or config.num_labels != 1:
        raise MienError(
            f"the reward model in {folder} knows other behaviour tokens ({known}) than this layout"
            f" ({layout.vocabulary.digest}): its numbers would mean nothing. Train one with `method: reward` on this adapter"
        )


def load(folder: Path, layout: Layout) -> Any:
    """The reward model in eval mode. MienError as `require`."""
    from transformers import AutoModelForSequenceClassification

    require(folder, layout)
    try:
        model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise MienError(f"{folder} holds no reward model: {str(error).splitlines()[0]}") from None
    return model.requires_grad_(False).eval()
