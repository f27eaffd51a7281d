"""One training loop on accelerate: exact resume after a kill, and the same bits from the same seed.

Sampling, dropout and the learning rate are functions of (seed, step) alone, so a checkpoint holds only the trainable
tensors and the optimiser's moments, as safetensors.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ..core import console
from ..core.config import Section
from ..core.errors import MienError
from ..core.runs import whole_folder


class Train(Section):
    """max_steps: optimiser steps; batch: windows per step over all processes; lr: peak of a warm-up and cosine;
    checkpoint_every: steps between checkpoints; threads: CPU threads (None: the cores this process may use).
    """

    max_steps: int = Field(default=400, ge=1)
    batch: int = Field(default=16, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    checkpoint_every: int = Field(default=50, ge=1)
    log_every: int = Field(default=10, ge=1)
    threads: int | None = Field(default=None, ge=1)


def accelerator(threads: int | None = None) -> Any:
    """An Accelerator whose processes really talk to each other.

    accelerate falls back to one process silently on CPUs; a recipe that was launched on several must not then train
    several models. MienError when the world is not what the launcher promised.
    """
    import os

    import torch
    from accelerate import Accelerator

    world = int(os.environ.get("WORLD_SIZE", "1"))
    made = Accelerator()
    if made.num_processes != world:
        raise MienError(
            f"launched as {world} processes, but accelerate runs {made.num_processes}: on CPUs it wants"
            " ACCELERATE_USE_CPU=true in the environment and `distributed_type: MULTI_GPU` in the launch file"
        )
    if made.device.type == "cpu":
        torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // world))
    console.quiet(not made.is_main_process)
    return made


def draw(step: int, *, seed: int, batch: int, n: int) -> np.ndarray:
    """int64[batch]: the rows of one step. Epochs are fresh permutations, cut in order; a pure function of the step."""
    first = step * batch
    out = np.empty(batch, dtype=np.int64)
    at = 0
    while at < batch:
        epoch, inside = divmod(first + at, n)
        order = np.random.default_rng([seed, 0xE90C, epoch]).permutation(n)
        take = min(batch - at, n - inside)
        out[at : at + take] = order[inside : inside + take]
        at += take
    return out


def rate(step: int, train: Train) -> float:
    """Learning rate of a step: linear warm-up, then cosine to a tenth."""
    warm = max(1, round(train.warmup * train.max_steps))
    if step < warm:
        return train.lr * (step + 1) / warm
    share = (step - warm) / max(1, train.max_steps - warm)
    return train.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))


def fit(
    model: Any,
    losses: Callable[[Any, Any], Any],
    batch_of: Callable[[np.ndarray], Any],
    n: int,
    train: Train,
    *,
    seed: int,
    folder: Path,
    accelerator: Any,
    label: str = "training",
) -> list[dict[str, float]]:
    """Train every parameter that requires a gradient; returns the log (also in `folder/log.jsonl`).

    losses(model, batch) -> float[units]; batch_of(rows) -> batch; n: rows to draw from; folder: where checkpoints
    go (private: they and the losses depend on the recordings). Continues from the newest checkpoint there.
    MienError when the loss is not finite, naming the step.
    """
    import torch

    if train.batch % accelerator.num_processes:
        raise MienError(f"train.batch {train.batch} must be a multiple of the {accelerator.num_processes} processes")
    named = [(k, p) for k, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([p for _, p in named], lr=train.lr, weight_decay=train.weight_decay)
    start, log = _resume(folder, named, optimizer)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    share = train.batch // accelerator.num_processes
    rank = accelerator.process_index
    wrapped.train()
    since = time.monotonic()
    with console.progress(label, train.max_steps, start) as bar:
        for step in range(start, train.max_steps):
            rows = draw(step, seed=seed, batch=train.batch, n=n)[rank * share : (rank + 1) * share]
            torch.manual_seed(hash_seed(seed, step, rank))  # dropout
            for group in optimizer.param_groups:
                group["lr"] = rate(step, train)
            loss = losses(wrapped, batch_of(rows)).mean()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_([p for _, p in named], train.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            done = step + 1
            if done % train.log_every == 0 or done == train.max_steps:
                value = float(accelerator.reduce(loss.detach(), reduction="mean"))
                if not math.isfinite(value):
                    raise MienError(f"the training loss became {value} at step {done}; lower train.lr ({train.lr:g})")
                log.append({"step": done, "loss": value, "seconds": round(time.monotonic() - since, 2)})
                bar.step(done - bar.done, f"loss {value:.3f}")
            if done % train.checkpoint_every == 0 or done == train.max_steps:
                if accelerator.is_main_process:
                    _checkpoint(folder, done, named, optimizer, log)
                accelerator.wait_for_everyone()
    return log


def hash_seed(*parts: int) -> int:
    """One 63-bit seed from several integers."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _checkpoint(folder: Path, step: int, named: Sequence[tuple[str, Any]], optimizer: Any, log: list) -> None:
    from safetensors.torch import save_file

    inner = getattr(optimizer, "optimizer", optimizer)
    tensors = {}
    for name, p in named:
        tensors[f"param.{name}"] = p.detach().cpu().contiguous()
        for key, value in inner.state[p].items():
            tensors[f"{key}.{name}"] = value.detach().cpu().reshape(value.shape).contiguous().clone()
    with whole_folder(folder / "checkpoint") as part:
        save_file(tensors, part / "state.safetensors")
        (part / "state.json").write_text(json.dumps({"step": step, "log": log}))
    lines = "".join(json.dumps(row) + "\n" for row in log)
    (folder / "log.jsonl").write_text(lines)


def _resume(folder: Path, named: Sequence[tuple[str, Any]], optimizer: Any) -> tuple[int, list[dict[str, float]]]:
    import torch
    from safetensors.torch import load_file

    place = folder / "checkpoint"
    if not (place / "state.json").exists():
        return 0, []
    head = json.loads((place / "state.json").read_text())
    tensors = load_file(place / "state.safetensors")
    expected = {f"param.{n}" for n, _ in named}
    if expected != {k for k in tensors if k.startswith("param.")}:
        raise MienError(f"{place} is a checkpoint of another model; remove it, or run with --fresh")
    with torch.no_grad():
        for name, p in named:
            p.copy_(tensors[f"param.{name}"])
            state = {k: tensors[f"{k}.{name}"] for k in ("step", "exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {k: v.to(p.device) if k != "step" else v for k, v in state.items()}
    console.say(f"  continuing from step {head['step']}")
    return head["step"], head["log"]
