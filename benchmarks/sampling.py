"""Sampling documents of the simulated study: what the grammar takes of it, and `model.generate` without one beside it.

python benchmarks/sampling.py             (some minutes on one core)
python benchmarks/sampling.py --quick

The same fresh model samples the same number of steps in the same batch, in interleaved rounds: by `generation/sample.py`
(static batch, key/value cache, grammar in the forward, draws in float64), and by transformers' own `generate` on an
unconstrained twin. Ratios are of one round; a token is one row's step, padding after a document's end included on both sides.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.backbones import tiny
from mien.core import config, console
from mien.core.config import Plugin
from mien.core.records import CohortCard
from mien.data.datasets import simulated
from mien.generation import sample
from mien.generation.grammar import Bound, constrain
from mien.generation.layout import Layout

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "simulated" / "pretrain.yaml"


def timed(spent: dict[str, float]) -> None:
    """Let every scan and mask of a grammar add its seconds to `spent`."""
    for name in ("scan", "mask"):
        plain = getattr(Bound, name)

        def clocked(self: Bound, *args: Any, _plain: Any = plain, _name: str = name) -> Any:
            began = time.perf_counter()
            out = _plain(self, *args)
            spent[_name] += time.perf_counter() - began
            return out

        setattr(Bound, name, clocked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    console.quiet()
    batch, rounds = (8, 1) if args.quick else (args.batch, args.rounds)
    recipe = config.read(str(RECIPE))
    card = CohortCard(
        name="simulated", licence="", consent="", tasks={"stress": ("calm", "stress")}, streams=simulated.STREAMS
    )
    layout = Layout.of(
        card, seconds=recipe["seconds"], task="stress", codec=Plugin(name="transform"),
        codecs=[Plugin(**c) for c in recipe["codecs"]], streams=[s for c in recipe["codecs"] for s in c["streams"]],
    )  # fmt: skip
    free: Any = tiny.fresh(tiny.Shape(**recipe["shape"]), layout.vocabulary.size, 0).eval()
    model = constrain(copy.deepcopy(free), layout.grammar, 0)
    prompts = [layout.prompt(c) for c in layout.classes] * (batch // 2)
    spent = {"scan": 0.0, "mask": 0.0}
    timed(spent)
    ours, peers, shares = [], [], []
    for k in range(rounds):
        spent.update(scan=0.0, mask=0.0)
        began = time.perf_counter()
        rows = sample.documents(model, layout, lambda ids: ids, prompts, temperature=1.0, seed=k)
        mine = time.perf_counter() - began
        steps = rows.shape[1] - len(prompts[0])
        torch.manual_seed(k)
        began = time.perf_counter()
        with torch.inference_mode():
            made = free.generate(
                torch.as_tensor(np.array(prompts)), max_new_tokens=steps, min_new_tokens=steps, do_sample=True,
                pad_token_id=0, eos_token_id=None,
            )  # fmt: skip
        theirs = time.perf_counter() - began
        assert made.shape[1] - len(prompts[0]) == steps
        ours.append(len(rows) * steps / mine)
        peers.append(len(rows) * steps / theirs)
        shares.append((spent["scan"] + spent["mask"]) / mine)
    count = sum(p.numel() for p in free.parameters()) / 1e6
    ratio = [a / b for a, b in zip(ours, peers, strict=True)]
    print(
        f"Llama of {count:.1f} M parameters, {len(prompts)} documents at once, {args.threads} thread(s), {rounds} round(s)"
    )
    print(f"ours, with the grammar: {statistics.median(ours):,.0f} tokens/s")
    print(f"transformers' generate, without: {statistics.median(peers):,.0f} tokens/s")
    print(f"ours / theirs: {statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})")
    print(
        f"the grammar's share of our time: {100 * statistics.median(shares):.1f} % (at most {100 * max(shares):.1f} %)"
    )


if __name__ == "__main__":
    main()
