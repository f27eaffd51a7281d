"""The private step: draw persons, clip each one's gradient, add up, add noise once, divide by the expected number."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core import console
from ..core.errors import MienError
from ..privacy import guards, noise, sampling
from ..privacy.gradients import ClippedSum, PersonGradients
from . import world

BEGUN = "steps-begun"


class PrivateSteps:
    """Steps of a PrivacyPlan; the counterpart of training.PlainSteps."""

    def __init__(self, *, model, losses, batch_of, train, flat, optimizer, seed, folder, accelerator, private):
        self.model, self.losses, self.batch_of, self.train, self.flat = model, losses, batch_of, train, flat
        self.optimizer, self.accelerator, self.folder = optimizer, accelerator, folder
        self.plan, self.units, self.probes = private.plan, private.units, private.probes
        if self.plan.steps != train.max_steps:
            raise MienError(f"the privacy plan has {self.plan.steps} steps, train.max_steps is {train.max_steps}")
        self.gradients = PersonGradients(flat)
        self.sum = ClippedSum(flat, self.plan.clip_norm, self.plan.clipping)
        self.clip_norm = self.plan.clip_norm
        self.secret = noise.Secret()
        self.begun = Begun(folder / BEGUN)
        self.start = 0
        self.not_finite = 0
        self._loss, self._drawn, self._steps_logged = 0.0, 0, 0
        self._clipped, self._normed = 0, 0

    def state(self) -> dict[str, Any]:
        return {"plan": self.plan.fingerprint, "clip_norm": self.clip_norm, "not_finite": self.not_finite}

    def load(self, state: dict[str, Any]) -> None:
        if state.get("plan") != self.plan.fingerprint:
            raise MienError(
                f"the checkpoint in {self.folder} was made under another privacy plan; its steps cannot be charged to"
                " this one. Run with --fresh (the earlier run stays charged)"
            )
        self.clip_norm, self.not_finite = float(state["clip_norm"]), int(state["not_finite"])

    def prepare(self, start: int) -> None:
        """Run the start-up checks; then go on after the last step that was begun, whether or not it was kept."""
        import torch

        console.waiting(f"checking that no {self.plan.unit}'s loss depends on another's")
        guards.still(self.model)
        with self.accelerator.autocast():
            guards.check(self.model, self.losses, self.probes(), self.flat, self.gradients)
        rows = np.concatenate([np.zeros(1, dtype=np.int64), *self.units.rows])
        world.agree(torch.as_tensor(rows, device=self.flat.vector.device), "recordings, or another split of them")
        begun = self.begun.read() if self.accelerator.is_main_process else 0
        if self.accelerator.is_main_process and begun < start:
            raise MienError(
                f"{self.begun.path} says {begun} steps were begun, the checkpoint is of step {start}: what was spent"
                " cannot be known any more. Run with --fresh (this run stays charged in full)"
            )
        (self.start,) = world.numbers_from_main(
            [begun] if self.accelerator.is_main_process else None, self.flat.vector.device
        )
        clip = world.from_main(self.flat.vector.new_tensor([self.clip_norm]).double())
        self.clip_norm = float(clip)
        if self.start > start:
            console.say(
                f"  steps {start + 1} to {self.start} were begun and lost: they are charged, and not taken again"
            )

    def take(self, step: int, lr: float) -> None:
        import torch

        device, main = self.flat.vector.device, self.accelerator.is_main_process
        if main:
            self.begun.write(step + 1)
        batch = self._draw()
        self.sum.reset(self.clip_norm)
        size = self.train.micro_batch or 16
        shares = [
            sampling.share(batch, r, self.accelerator.num_processes) for r in range(self.accelerator.num_processes)
        ]
        cut = [sampling.whole(s) if self.plan.groups else sampling.micro_batches(s, size) for s in shares]
        mine, rounds = cut[self.accelerator.process_index], max(map(len, cut))
        weight = _weights(shares[self.accelerator.process_index])
        at = 0
        for i in range(rounds):
            if i < len(mine):
                micro = mine[i]
                self._backward(micro.rows, micro.slot, micro.open, weight[at : at + len(micro.rows)])
                at += len(micro.rows)
                self._close(micro)
            else:  # a sharded base needs every process in every forward; this one's gradient goes nowhere
                self._backward(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), 1, np.ones(1), log=False)
                self.gradients.clear()
        total = self.sum.total
        if self.plan.count_noise is not None:
            count = torch.tensor([self.sum.below - len(self.sum.norms) / 2], dtype=torch.float64, device=device)
            total = torch.cat([total, count])
        if main:
            total = total.clone()
            p = len(self.flat.vector)
            total[:p] = noise.noised(total[:p], self.plan.gradient_noise, self.clip_norm, self.secret)
            if self.plan.count_noise is not None:
                total[p:] += self.secret.normal(1, device) * self.plan.count_noise
        total = world.add_up(total)
        self._update(total, lr)
        self.not_finite += self.sum.not_finite
        self._normed += len(self.sum.norms)
        self._clipped += len(self.sum.norms) - self.sum.below
        self._drawn += len(batch)
        self._steps_logged += 1

    def _draw(self) -> list[np.ndarray]:
        """The step's units, drawn by the main process; the others are told."""
        numbers = None
        if self.accelerator.is_main_process:
            batch = sampling.draw(self.units, self.plan.sample_rate, self.plan.rows, self.secret)
            if self.plan.groups is not None:
                batch = sampling.grouped(batch, self.plan.groups, self.secret)
            numbers = [len(batch), *map(len, batch), *(int(r) for rows in batch for r in rows)]
        numbers = world.numbers_from_main(numbers, self.flat.vector.device)
        n, lengths = numbers[0], numbers[1 : 1 + numbers[0]]
        rows = np.array(numbers[1 + n :], dtype=np.int64)
        return np.split(rows, np.cumsum(lengths)[:-1]) if n else []

    def _backward(self, rows: np.ndarray, slot: np.ndarray, n: int, weight: np.ndarray, log: bool = True) -> None:
        import torch

        device = self.flat.vector.device
        batch = self.batch_of(rows)
        slots = torch.as_tensor(slot, device=device)[batch.unit.to(device)]
        if self.plan.groups is not None:
            batch.group = slots  # whom a row's loss may see
        with self.gradients.collect(slots, n), self.accelerator.autocast():
            losses = self.losses(self.model, batch)
            weighted = losses * torch.as_tensor(weight, dtype=losses.dtype, device=losses.device)
            weighted.sum().backward()
        # a loss that is no number may still have a finite gradient; whoever it belongs to counts as broken all the same
        broken = ~torch.isfinite(losses.detach())
        if bool(broken.any()):
            self.gradients.buffer[torch.as_tensor(slot, device=device)[broken]] = math.nan
        if log:
            self._loss += float(weighted.detach().double().nansum())

    def _close(self, micro: sampling.Micro) -> None:
        """Clip and add what is complete; what is not moves to slot 0."""
        buffer = self.gradients.buffer
        if micro.closes:
            self.sum.add(buffer[: micro.closes])
        if micro.open > micro.closes and micro.closes:
            buffer[0].copy_(buffer[micro.closes])
            buffer[1:].zero_()
        elif micro.closes:
            buffer.zero_()

    def _update(self, total: Any, lr: float) -> None:
        p = len(self.flat.vector)
        expected = self.plan.expected_batch
        gradient = (total[:p] / expected).to(self.flat.vector.dtype)
        deviation = self.plan.gradient_noise * self.clip_norm / expected
        self.optimizer.step(self.flat.vector, gradient, lr, deviation**2 if self.plan.adam_correction else 0.0)
        if not bool(self.flat.vector.isfinite().all()):
            raise MienError(f"the adapter is no longer finite; lower train.lr ({self.train.lr:g})")
        if self.plan.count_noise is not None:  # arXiv 1905.03871, section 2.1: geometric update, rate 0.2
            share = float(total[p]) / expected + 0.5
            self.clip_norm *= math.exp(-0.2 * min(max(share - self.plan.quantile, -5.0), 5.0))

    def log(self, step: int) -> dict[str, float]:
        import torch

        mine = [self._loss, self._clipped, self._normed]
        sums = world.add_up(torch.tensor(mine, dtype=torch.float64, device=self.flat.vector.device))
        row = {
            "loss": float(sums[0]) / max(1, self._drawn), "persons": self._drawn / max(1, self._steps_logged),
            "not_finite": self.not_finite, "clip_norm": self.clip_norm,
            "clipped": float(sums[1] / sums[2]) if sums[2] else None,
            "median_norm": float(np.median(self.sum.norms)) if self.sum.norms else None,
        }  # fmt: skip
        self._loss, self._drawn, self._steps_logged, self._clipped, self._normed = 0.0, 0, 0, 0, 0
        return row

    def finish(self) -> None:
        import torch

        self.gradients.detach()
        if self.optimizer.steps == 0:
            raise MienError(
                "every step was begun and lost before a checkpoint: the budget is spent and nothing was learned. Lower"
                " train.checkpoint_every, and run with --fresh (which is charged anew)"
            )
        lost = torch.tensor([self.not_finite], dtype=torch.float64, device=self.flat.vector.device)
        if int(world.add_up(lost)):
            console.say(
                f"  {int(lost)} times a drawn {self.plan.unit}'s gradient was not finite; it counted as zero. Look for"
                " broken recordings with `mien data check`"
            )


class Begun:
    """How many steps were begun, on disk before each begins (a write-ahead record of what was spent)."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> int:
        """0 where no step was begun. MienError when the file cannot be read as a number."""
        try:
            return int(self.path.read_text())
        except FileNotFoundError:
            return 0
        except ValueError:
            raise MienError(
                f"{self.path} does not hold a number of steps: what was spent cannot be known; run with --fresh"
            ) from None

    def write(self, steps: int) -> None:
        new = not self.path.exists()
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, f"{steps:>12d}\n".encode(), 0)
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)


def _weights(batch: Sequence[np.ndarray]) -> np.ndarray:
    """float64[rows of all units]: each row counts as one over the rows its unit was drawn with: a person's gradient
    is that of the mean loss over the windows drawn."""
    return np.concatenate([np.full(len(rows), 1 / len(rows)) for rows in batch]) if batch else np.zeros(0)
