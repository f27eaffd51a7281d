"""Training K shadow adapters: one after the other, stacked, and stacked over a cached prefix; ratios of one run.

python benchmarks/shadows.py              (about five minutes on one core)
python benchmarks/shadows.py --quick      (a smaller model, two rounds)
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mien.adapters import lora, stacked
from mien.adapters.lora import Lora
from mien.adapters.optimizer import Adam
from mien.adapters.training import Train
from mien.backbones.causal_lm import CausalBackbone, linear_names
from mien.core import console
from mien.privacy.flat import Flat


def backbone(hidden: int, layers: int) -> CausalBackbone:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192, hidden_size=hidden, intermediate_size=int(hidden * 2.75), num_hidden_layers=layers,
            num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=512, tie_word_embeddings=True,
        )
    )  # fmt: skip
    model.requires_grad_(False)
    return CausalBackbone(
        model=model, identity="", revision=None, fingerprint="", offset=0, lora_targets=linear_names(model),
        speaks_behaviour=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console.quiet()
    hidden, layers = (128, 4) if args.quick else (256, 8)
    rounds, steps = (2, 2) if args.quick else (args.rounds, args.steps)
    params = sum(p.numel() for p in backbone(hidden, layers).model.parameters()) / 1e6
    print(f"Llama of {params:.1f} M parameters, {args.adapters} adapters of rank 8 on q and v, {steps} steps a round,")
    print(f"{rounds} interleaved rounds, {args.threads} thread; medians, and the lowest and highest ratio of a round\n")
    print("| rows x tokens | LoRA in | loop, s | loop / stacked | loop / stacked with prefix |")
    print("|---|---|---|---|---|")
    for rows, length, last in ((1, 16, None), (4, 32, None), (1, 16, layers // 3), (2, 32, layers // 3)):
        ways = prepare(hidden, layers, args.adapters, rows, length, last, steps)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()  # once, unmeasured
        for _ in range(rounds):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                times[name].append(time.perf_counter() - began)
        cells = []
        for name in ("stacked", "prefix"):
            if name not in times:
                cells.append("–")
                continue
            ratios = [a / b for a, b in zip(times["loop"], times[name], strict=True)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        where = "all layers" if last is None else f"last {last} of {layers}"
        print(
            f"| {rows} x {length} | {where} | {statistics.median(times['loop']):.2f} | {' | '.join(cells)} |",
            flush=True,
        )


def prepare(
    hidden: int, layers: int, k: int, rows: int, length: int, last: int | None, steps: int
) -> dict[str, Callable[[], Any]]:
    """name -> a function that trains all K adapters for `steps` steps."""
    base = backbone(hidden, layers)
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 8000, length).astype(np.int32) for _ in range(64)]
    options = Lora(rank=8, alpha=16, targets=("q_proj", "v_proj"), layers=last, rows=False)
    train = Train(max_steps=steps, batch=rows, lr=1e-3)
    model = lora.attach(base, options, (), 0)
    parts = [np.sort(np.random.default_rng(i).permutation(64)[:32]) for i in range(k)]

    def batch(chosen: np.ndarray) -> Any:
        return base.batch([documents[i] for i in chosen.tolist()], prompt=1, persons=chosen)

    stack = stacked.Stack(model, k)

    def together(of: Callable = batch) -> None:
        stacked.fit(stack, base.losses, of, parts, train, seeds=range(k))

    def loop() -> None:
        from mien.adapters.training import draw

        flat: Flat = stack.flat
        for i in range(k):
            stack.select(i)
            flat.differentiable()
            optimizer = Adam(flat.vector)
            model.train()
            for step in range(steps):
                flat.grad.zero_()
                chosen = parts[i][draw(step, seed=i, batch=rows, n=32)]
                (base.losses(model, batch(chosen)).sum() / rows).backward()
                norm = float(torch.linalg.vector_norm(flat.grad))
                flat.grad.mul_(min(1.0, 1.0 / (norm + 1e-6)))
                optimizer.step(flat.vector, flat.grad, 1e-3)
        flat.constant()

    ways: dict[str, Callable[[], Any]] = {"loop": loop, "stacked": together}
    if last is not None:
        prefix = stacked.Prefix(model, layers - last, batch, len(documents))

        def short() -> None:
            with prefix:
                together(prefix.batch_of)

        ways["prefix"] = short
    return ways


if __name__ == "__main__":
    main()
