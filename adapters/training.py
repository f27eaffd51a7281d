"""One training loop for plain and private runs, on any number of processes, with exact resume after a kill.

A plain run is a function of its seed: sampling, dropout and the learning rate follow from (seed, step), so a
checkpoint holds only the trainable tensors and the optimiser's moments. A private run draws its batches and its noise
from the operating system, and nothing of them is written; what is exact there is the count of steps: each is recorded
before it begins, and a step that was begun and lost is charged, not repeated.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..core import console
from ..core.config import Section
from ..core.errors import MienError
from ..core.runs import whole_folder
from ..privacy.flat import Flat
from ..privacy.plan import PrivacyPlan
from ..privacy.sampling import Units
from . import world
from .optimizer import Adam
from .private import PrivateSteps


class Train(Section):
    """max_steps: optimiser steps; batch: windows per step over all processes (a plain run; a private one draws
    privacy.batch persons); micro_batch: windows per forward pass and process (None: all at once, or 16 in a private
    run), smaller needs less memory; lr: peak of a warm-up and cosine; checkpointing: recompute activations in the
    backward pass; checkpoint_every: steps between checkpoints; trackers: of accelerate (tensorboard, wandb …; a
    private run sends them nothing that depends on the recordings); threads: CPU threads (None: the cores this process
    may use).
    """

    max_steps: int = Field(default=400, ge=1)
    batch: int = Field(default=16, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    checkpointing: Literal["off", "non_reentrant", "reentrant"] = "off"
    checkpoint_every: int = Field(default=50, ge=1)
    log_every: int = Field(default=10, ge=1)
    trackers: tuple[str, ...] = ()
    threads: int | None = Field(default=None, ge=1)


@dataclass(kw_only=True)
class Private:
    """What makes a run private. units: the rows of each person (or recording); probes: batches for the start-up
    checks (privacy/guards.py)."""

    plan: PrivacyPlan
    units: Units
    probes: Callable[[], Sequence[Any]]


def draw(step: int, *, seed: int, batch: int, n: int) -> np.ndarray:
    """int64[batch]: the rows of one plain step. Epochs are fresh permutations, cut in order; a function of the step."""
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
    private: Private | None = None,
    label: str = "training",
) -> list[dict[str, float]]:
    """Train every parameter that requires a gradient; returns the log (also in `folder/log.jsonl`).

    losses(model, batch) -> float[units]; batch_of(rows) -> batch with `unit`[rows of the forward]; n: rows to draw
    from; folder: where checkpoints go (private: they and the losses depend on the recordings). Continues from the
    newest checkpoint there. MienError when the loss is not finite, naming the step; when a start-up check fails,
    before any gradient; when the checkpoint belongs to another model or plan.
    """
    import torch

    flat = Flat(model)
    flat.vector = flat.vector.to(accelerator.device)
    flat.constant()
    model = world.place(model, accelerator)
    world.from_main(flat.vector)
    if train.checkpointing != "off":
        reentrant = train.checkpointing == "reentrant"
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()  # reentrant blocks need an input that requires a gradient
    optimizer = Adam(flat.vector, weight_decay=train.weight_decay)
    model.train()
    common = dict(
        model=model, losses=losses, batch_of=batch_of, train=train, flat=flat, optimizer=optimizer, seed=seed,
        folder=folder, accelerator=accelerator,
    )  # fmt: skip
    steps = PlainSteps(n=n, **common) if private is None else PrivateSteps(private=private, **common)
    start, log = _resume(folder, flat, optimizer, steps, accelerator)
    steps.prepare(start)
    start = steps.start
    if train.trackers:
        accelerator.project_configuration.set_directories(str(folder))
        accelerator.init_trackers("mien", config=train.model_dump(mode="json"))
    since = time.monotonic()
    with console.progress(label, train.max_steps, start) as bar:
        for step in range(start, train.max_steps):
            torch.manual_seed(hash_seed(seed, step, accelerator.process_index))  # dropout
            steps.take(step, rate(step, train))
            done = step + 1
            if done % train.log_every == 0 or done == train.max_steps:
                row = steps.log(done)
                log.append({"step": done, **row, "seconds": round(time.monotonic() - since, 2)})
                bar.step(done - bar.done, f"loss {row['loss']:.3f}" if row.get("loss") is not None else "")
                if train.trackers:
                    accelerator.log({"lr": rate(step, train), **(row if private is None else {})}, step=done)
            if done % train.checkpoint_every == 0 or done == train.max_steps:
                world.agree(flat.vector, "adapters")
                if accelerator.is_main_process:
                    _checkpoint(folder, done, flat, optimizer, steps, log)
                accelerator.wait_for_everyone()
    for tracker in accelerator.trackers if train.trackers else ():
        tracker.finish()
    steps.finish()
    flat.release()
    return log


class PlainSteps:
    """The mean loss of a seeded batch, its gradient added up over processes, clipped, one AdamW step."""

    def __init__(self, *, model, losses, batch_of, train, flat, optimizer, seed, folder, accelerator, n):
        if train.batch % accelerator.num_processes:
            raise MienError(
                f"train.batch {train.batch} must be a multiple of the {accelerator.num_processes} processes"
            )
        self.model, self.losses, self.batch_of, self.train, self.flat = model, losses, batch_of, train, flat
        self.optimizer, self.seed, self.accelerator, self.n = optimizer, seed, accelerator, n
        self.start, self._loss = 0, None

    def state(self) -> dict[str, Any]:
        return {"plan": None}

    def load(self, state: dict[str, Any]) -> None:
        if state.get("plan") is not None:
            raise MienError("the checkpoint is of a private run; run with --fresh")

    def prepare(self, start: int) -> None:
        self.start = start
        self.flat.differentiable()

    def take(self, step: int, lr: float) -> None:
        import torch

        share = self.train.batch // self.accelerator.num_processes
        rank = self.accelerator.process_index
        rows = draw(step, seed=self.seed, batch=self.train.batch, n=self.n)[rank * share : (rank + 1) * share]
        size = self.train.micro_batch or share
        self.flat.grad.zero_()
        self._loss = torch.zeros((), dtype=torch.float64, device=self.flat.vector.device)
        for at in range(0, share, size):
            with self.accelerator.autocast():
                loss = self.losses(self.model, self.batch_of(rows[at : at + size])).sum() / self.train.batch
            loss.backward()
            self._loss += loss.detach().double()
        gradient = world.add_up(self.flat.grad)
        norm = float(torch.linalg.vector_norm(gradient))
        if not math.isfinite(norm):
            raise MienError(
                f"the gradient of step {step + 1} is not finite; lower train.lr ({self.train.lr:g}), and check the"
                " recordings with `mien data check`"
            )
        gradient.mul_(min(1.0, self.train.clip_norm / (norm + 1e-6)))
        self.optimizer.step(self.flat.vector, gradient, lr)

    def log(self, step: int) -> dict[str, float]:
        value = float(world.add_up(self._loss))
        if not math.isfinite(value):
            raise MienError(f"the training loss became {value} at step {step}; lower train.lr ({self.train.lr:g})")
        return {"loss": value}

    def finish(self) -> None:
        pass


def hash_seed(*parts: int) -> int:
    """One 63-bit seed from several integers."""
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _checkpoint(folder: Path, step: int, flat: Flat, optimizer: Adam, steps: Any, log: list) -> None:
    from safetensors.torch import save_file

    tensors = {}
    for name, vector in (
        ("param", flat.vector),
        ("exp_avg", optimizer.exp_avg),
        ("exp_avg_sq", optimizer.exp_avg_sq),
    ):
        for slot in flat.slots:
            tensors[f"{name}.{slot.name}"] = vector[slot.start : slot.stop].view(slot.shape).detach().cpu().clone()
    with whole_folder(folder / "checkpoint") as part:
        save_file(tensors, part / "state.safetensors")
        head = {"step": step, "updates": optimizer.steps, "log": log, **steps.state()}
        with open(part / "state.json", "w") as f:
            f.write(json.dumps(head))
            f.flush()
            os.fsync(f.fileno())
    lines = "".join(json.dumps(row) + "\n" for row in log)
    (folder / "log.jsonl").write_text(lines)


def _resume(folder: Path, flat: Flat, optimizer: Adam, steps: Any, accelerator: Any) -> tuple[int, list]:
    """The main process reads the checkpoint; the others get its tensors from it."""
    place, head = folder / "checkpoint", None
    if accelerator.is_main_process and (place / "state.json").exists():
        head = _read(place, flat, optimizer, steps)
    (start, updates) = world.numbers_from_main(
        None if not accelerator.is_main_process else [head["step"], head["updates"]] if head else [0, 0],
        flat.vector.device,
    )
    for vector in (flat.vector, optimizer.exp_avg, optimizer.exp_avg_sq):
        world.from_main(vector)
    optimizer.steps = updates
    return start, head["log"] if head else []


def _read(place: Path, flat: Flat, optimizer: Adam, steps: Any) -> dict[str, Any]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        head = json.loads((place / "state.json").read_text())
        tensors = load_file(place / "state.safetensors")
        steps.load(head)
        with torch.no_grad():
            for name, vector in (
                ("param", flat.vector),
                ("exp_avg", optimizer.exp_avg),
                ("exp_avg_sq", optimizer.exp_avg_sq),
            ):
                for slot in flat.slots:
                    value = tensors.pop(f"{name}.{slot.name}")
                    vector[slot.start : slot.stop].copy_(value.reshape(-1))
        if tensors:
            raise KeyError(next(iter(tensors)))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise MienError(
            f"{place} is damaged, or a checkpoint of another model ({error}); remove it, or run with --fresh"
        ) from None
    console.say(f"  continuing from step {head['step']}")
    return head
