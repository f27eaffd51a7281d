"""Adapting the last blocks of DINOv2-S from cached frozen features, against the naive loop, in one run.

    python benchmarks/late_layers.py            # needs `mien assets fetch dinov2-s minilm` once
    python benchmarks/late_layers.py --quick    # tiny random towers: does it run

The naive loop runs the whole tower in every step. Both adapt the same LoRA from the same seed on the same batches of
invented pictures; the two ends are compared. The cache's own cost is counted in the second ratio, over `--epochs`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from mien.adapters.cached import cached
from mien.adapters.lora import Lora
from mien.adapters.representation import Represent, attach
from mien.adapters.windows import Windows
from mien.backbones import dinov2_minilm
from mien.core.records import Video


def pictures(binder: Any, n: int) -> Windows:
    """Discs of any colour: nobody."""
    y, x = np.mgrid[:96, :96]
    rng, arrays = np.random.default_rng(0), []
    for _ in range(n):
        ground, colour = rng.integers(0, 256, (2, 3))
        a, b, r = rng.uniform([20, 20, 8], [76, 76, 30])
        frame = np.where(((y - a) ** 2 + (x - b) ** 2 < r * r)[..., None], colour, ground).astype(np.uint8)
        arrays.append({"image": binder.towers["image"].prepare(Video(frames=frame[None], rate_hz=1))})
    return Windows(
        modalities=("image",), arrays=arrays, persons=["invented"], person=np.zeros(n, int), recordings=["invented"],
        recording=np.zeros(n, int), session=np.full(n, "1", object), start_s=np.arange(n) * 1.0,
        labels={"kind": np.arange(n) % 2 * 1.0},
    )  # fmt: skip


def loop(binder: Any, windows: Windows, layers: int, steps: int, batch: int) -> tuple[list[float], dict[str, Any]]:
    """(seconds of every step, what was trained)"""
    card: Any = SimpleNamespace(name="invented", tasks={"kind": ("a", "b")})
    made = attach(binder, Represent(bind="none"), Lora(rank=8, layers=layers), "kind", card, {"image": "image"}, 0)
    optimizer = torch.optim.Adam([p for p in made.model.parameters() if p.requires_grad], lr=1e-3)
    made.model.train()
    rng, seconds = np.random.default_rng(0), []
    for _ in range(steps):
        rows = rng.choice(len(windows), batch, replace=False)
        since = time.perf_counter()
        optimizer.zero_grad()
        made.losses(made.model, made.batch(windows, rows)).mean().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - since)
    return seconds, {n: p.detach().clone() for n, p in made.model.named_parameters() if p.requires_grad}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--windows", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=20, help="over which the cache's own cost is counted")
    parser.add_argument("--quick", action="store_true")
    a = parser.parse_args()
    config = dinov2_minilm.Config(model="tiny", side=56) if a.quick else dinov2_minilm.Config()
    if a.quick:
        a.layers, a.windows, a.steps = [1], 16, 3
    torch.set_num_threads(1)
    print(f"{a.windows} pictures of {config.side} px, batches of {a.batch}, {a.steps} steps, LoRA of rank 8, 1 thread")
    print("| last blocks | naive, ms a step | cached, ms a step | naive / cached | with the cache made, "
          f"{a.epochs} epochs | largest difference of a trained number |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for layers in a.layers:
        binder = dinov2_minilm.load(config)
        windows = pictures(binder, a.windows)
        slow, known = loop(binder, windows, layers, a.steps, a.batch)
        binder = dinov2_minilm.load(config)
        with tempfile.TemporaryDirectory() as folder:
            since = time.perf_counter()
            rest, features = cached(binder, windows, "image", layers, Path(folder))
            once = time.perf_counter() - since
            fast, found = loop(rest, features, layers, a.steps, a.batch)
        naive, ours = statistics.median(slow), statistics.median(fast)
        steps = a.epochs * a.windows / a.batch
        apart = max(float((known[n] - found[n]).abs().max()) for n in known)
        print(f"| {layers} | {1e3 * naive:.0f} | {1e3 * ours:.0f} | {naive / ours:.1f} |"
              f" {steps * naive / (once + steps * ours):.1f} | {apart:.1e} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
