"""Time and memory of one private LoRA step beside plain LoRA and named peers, all in one run.

Time: every variant holds its own adapter on one shared frozen base and takes one step a round, in an order that changes
from round to round; a round's ratios are to its own `plain` step. `plain_b` is a second copy of `plain`: its spread is
what this machine cannot tell apart. Memory: a fresh process each, one step, the highest value during the step; "above
load" subtracts what the process held once base and adapter were loaded. Before any time counts, the per-person
gradients are compared with vmap(grad) on the same model; the run ends there when they differ.

    python benchmarks/private_step.py [--shapes 16x256 4x1024] [--rounds 5] [--quick]
    python benchmarks/private_step.py --model ID --device cuda --dtype bfloat16 --shapes 8x1024
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

CHILD = "--child"
CLIP, NOISE, LR, PER_PERSON = 0.1, 1.0, 1e-4, 4
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}  # of a person's gradient's norm

Step = Callable[[Any], None]


# -- the model -------------------------------------------------------------------------------------------------------


def build(args: argparse.Namespace) -> Any:
    """A frozen base with LoRA r=16 on every linear layer but the head; B is random too, or A's gradient would be 0."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if args.model:
        base: Any = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    else:
        hidden, layers = (32, 2) if args.quick else (512, 6)
        base = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=8 * hidden, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
                num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=4096,
            )
        ).to(getattr(torch, args.dtype))  # fmt: skip
    base.config.use_cache = False
    base.requires_grad_(False)
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.02)
    return model.to(args.device).train()


def another(model: Any) -> Any:
    """A copy with an adapter of its own on the same frozen tensors."""
    shared = [*(p for p in model.parameters() if not p.requires_grad), *model.buffers()]
    return copy.deepcopy(model, {id(t): t for t in shared})


def draw(args: argparse.Namespace, model: Any, shape: tuple[int, int]) -> Any:
    """int64[B, T] token ids."""
    import torch

    size = model.get_input_embeddings().weight.shape[0]
    return torch.randint(0, size, shape, generator=torch.Generator().manual_seed(1)).to(args.device)


def losses(model: Any, ids: Any) -> Any:
    """float32[B]: each row's mean negative log-likelihood."""
    import torch

    logits = model(input_ids=ids).logits[:, :-1].float()
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return nll.view(len(ids), -1).mean(1)


def trainable(model: Any) -> dict[str, Any]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


# -- variants --------------------------------------------------------------------------------------------------------


def plain(model: Any) -> Step:
    import torch

    optimizer = torch.optim.AdamW(trainable(model).values(), lr=LR)

    def step(ids: Any) -> None:
        losses(model, ids).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def ours(model: Any, per_person: int = 1) -> Step:
    import torch

    from mien.adapters.optimizer import Adam
    from mien.privacy.flat import Flat
    from mien.privacy.gradients import ClippedSum, PersonGradients
    from mien.privacy.noise import Secret, noised

    flat = Flat(model)
    gradients, total = PersonGradients(flat), ClippedSum(flat, CLIP, "flat")
    adam, secret = Adam(flat.vector, weight_decay=0.01), Secret()

    def step(ids: Any) -> None:
        total.reset(CLIP)
        slots = torch.arange(len(ids), device=ids.device) // per_person
        persons = -(-len(ids) // per_person)
        with gradients.collect(slots, persons) as buffer:
            (losses(model, ids) / per_person).sum().backward()
        total.add(buffer)
        buffer.zero_()
        gradient = (noised(total.total, NOISE, CLIP, secret) / persons).to(flat.vector.dtype)
        adam.step(flat.vector, gradient, LR, (NOISE * CLIP / persons) ** 2)

    return step


def ours_4(model: Any) -> Step:
    return ours(model, PER_PERSON)


def opacus(model: Any) -> Step:
    import torch
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    wrapped: Any = GradSampleModule(model)
    parameters = list(trainable(model).values())
    inner = torch.optim.AdamW(parameters, lr=LR)
    optimizer = DPOptimizer(inner, noise_multiplier=NOISE, max_grad_norm=CLIP, expected_batch_size=1)

    def step(ids: Any) -> None:
        optimizer.expected_batch_size = len(ids)
        losses(wrapped, ids).mean().backward()
        without = sum(getattr(p, "grad_sample", None) is None for p in parameters)
        if without:
            raise RuntimeError(f"no gradient: {without} of {len(parameters)} tensors have no grad_sample")
        optimizer.step()
        optimizer.zero_grad()

    return step


def opacus_ghost(model: Any) -> Step:
    import torch
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    wrapped: Any = GradSampleModuleFastGradientClipping(model, max_grad_norm=CLIP)  # type: ignore[arg-type]
    inner = torch.optim.AdamW(trainable(model).values(), lr=LR)
    optimizer = DPOptimizerFastGradientClipping(
        inner, noise_multiplier=NOISE, max_grad_norm=CLIP, expected_batch_size=1
    )

    def step(ids: Any) -> None:
        optimizer.expected_batch_size = len(ids)
        DPTensorFastGradientClipping(wrapped, optimizer, losses(wrapped, ids)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def vmap_grad(model: Any) -> Step:
    import torch

    optimizer = torch.optim.AdamW(trainable(model).values(), lr=LR)

    def step(ids: Any) -> None:
        grads = by_vmap(model, ids)
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()]).norm(dim=0)
        scale = (CLIP / norms).clamp(max=1.0)
        for name, p in trainable(model).items():
            summed = torch.einsum("n,n...->...", scale, grads[name])
            p.grad = (summed + torch.randn_like(p) * (NOISE * CLIP)) / len(ids)
        optimizer.step()
        optimizer.zero_grad()

    return step


def by_vmap(model: Any, ids: Any) -> dict[str, Any]:
    """Per-row gradients by torch.func: name -> [B, *shape]."""
    import torch

    parameters = {n: p.detach() for n, p in trainable(model).items()}

    def one(values: Any, row: Any) -> Any:
        def call(input_ids: Any) -> Any:
            return torch.func.functional_call(model, values, kwargs={"input_ids": input_ids})

        return losses(call, row[None])[0]

    return torch.func.vmap(torch.func.grad(one), in_dims=(None, 0))(parameters, ids)


VARIANTS: dict[str, Callable[[Any], Step]] = {
    "plain": plain, "plain_b": plain, "ours": ours, "ours_4": ours_4, "opacus": opacus, "opacus_ghost": opacus_ghost,
    "vmap_grad": vmap_grad,
}  # fmt: skip
MEMORY = [(name, False) for name in VARIANTS if name != "plain_b"] + [(n, True) for n in ("plain", "ours", "opacus")]


def difference(model: Any, ids: Any, dtype: str) -> None:
    """Print how far per-person gradients are from vmap(grad), one and four rows per person; end the run if far."""
    import torch

    from mien.privacy.flat import Flat
    from mien.privacy.gradients import PersonGradients

    model = another(model)
    rows = torch.cat([g.flatten(1) for g in by_vmap(model, ids).values()], dim=1)
    flat = Flat(model)
    gradients = PersonGradients(flat)
    for label, per in (("ours", 1), ("ours_4", PER_PERSON)):
        gradients.clear()
        persons = -(-len(ids) // per)
        with gradients.collect(torch.arange(len(ids), device=ids.device) // per, persons) as buffer:
            (losses(model, ids) / per).sum().backward()
        expected = torch.stack([r.sum(0) / per for r in rows.split(per)])
        error = buffer - expected
        relative = float((error.norm(dim=1) / expected.norm(dim=1)).max())
        print(
            f"{label} against vmap(grad), {len(ids)} rows: max abs error {float(error.abs().max()):.2e}, largest"
            f" gradient entry {float(expected.abs().max()):.2e}, relative error of a person's norm {relative:.1e}",
            flush=True,
        )
        if not relative <= TOLERANCE[dtype]:
            raise SystemExit(f"{label} does not equal vmap(grad); its time means nothing")


# -- time ------------------------------------------------------------------------------------------------------------


def seconds(device: str, step: Step, ids: Any) -> tuple[float, float]:
    """Wall and CPU seconds of one step."""
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    step(ids)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def times(args: argparse.Namespace, model: Any, ids: Any) -> dict[str, list[tuple[float, float]] | str]:
    """Variant -> (wall, CPU) seconds of each round, or why it could not be run."""
    steps: dict[str, Step] = {}
    out: dict[str, Any] = {}
    for name in args.variants:
        try:
            steps[name] = VARIANTS[name](another(model))
            steps[name](ids if args.device == "cuda" else ids[:, :16])  # warm-up
            out[name] = []
        except (ImportError, RuntimeError) as error:
            if name.startswith(("plain", "ours")):
                raise
            steps.pop(name, None)
            out[name] = reason(error)
    for r in range(args.rounds):
        names = list(steps)
        turn = r // 2 % len(names)
        order = names[turn:] + names[:turn]
        for name in order[:: 1 if r % 2 == 0 else -1]:
            out[name].append(seconds(args.device, steps[name], ids))
        row = " ".join(f"{n} {out[n][-1][0]:.3f}" for n in steps)
        print(f"round {r + 1}, load {os.getloadavg()[0]:.1f}, seconds: {row}", file=sys.stderr, flush=True)
    return out


def reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:100]


# -- memory ----------------------------------------------------------------------------------------------------------


def child(args: argparse.Namespace, name: str, checkpointing: bool, shape: tuple[int, int]) -> None:
    """One step in this fresh process; prints {"load", "peak"} in bytes, or {"failed"}."""
    import torch

    model = build(args)
    ids = draw(args, model, shape)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    gc.collect()
    if args.device == "cuda":
        load = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark anew: loading has peaks of its own
        load = resident("VmRSS")
    try:
        VARIANTS[name](model)(ids)
    except (ImportError, RuntimeError) as error:
        print(json.dumps({"failed": reason(error)}))
        return
    peak = torch.cuda.max_memory_allocated() if args.device == "cuda" else resident("VmHWM")
    print(json.dumps({"load": load, "peak": peak}))


def resident(key: str) -> int:
    """Bytes. (ru_maxrss would do, but a child starts with its parent's.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc/self/status (Linux)")


def memory(shape: tuple[int, int], variants: list[str]) -> dict[tuple[str, bool], dict[str, Any]]:
    out = {}
    for name, checkpointing in [key for key in MEMORY if key[0] in variants]:
        run = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], CHILD, name, str(int(checkpointing)), "x".join(map(str, shape))],
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        out[name, checkpointing] = json.loads(run.stdout.splitlines()[-1])
        print(name, checkpointing, run.stdout.splitlines()[-1], file=sys.stderr, flush=True)
    return out


# -- the table -------------------------------------------------------------------------------------------------------


def spread(values: list[float], base: list[float]) -> str:
    ratios = [v / b for v, b in zip(values, base, strict=True)]
    return f"{median(ratios):.3f} [{min(ratios):.3f} – {max(ratios):.3f}]"


def show(shape: tuple[int, int], timed: dict[str, Any], sizes: dict[tuple[str, bool], dict[str, Any]]) -> None:
    print(f"\n{shape[0]} rows of {shape[1]} tokens\n")
    print("| variant | median s | wall ratio to plain | CPU ratio to plain | peak GiB | ratio | above load, ratio |")
    print("|---|---|---|---|---|---|---|")
    walls = {n: [w for w, _ in t] for n, t in timed.items() if not isinstance(t, str)}
    cpus = {n: [c for _, c in t] for n, t in timed.items() if not isinstance(t, str)}
    rows = [(name, False) for name in timed] + [key for key in sizes if key[1]]
    for name, checkpointing in rows:
        cells = [name + (" + checkpointing" if checkpointing else "")]
        if checkpointing:
            cells += ["", "", ""]
        elif name in walls:
            cells += [f"{median(walls[name]):.3f}"]
            cells += [spread(walls[name], walls["plain"]), spread(cpus[name], cpus["plain"])]
        else:
            cells += [str(timed[name]), "", ""]
        size = sizes.get((name, checkpointing))
        if size is None:
            cells += ["", "", ""]
        elif "failed" in size:
            cells += [size["failed"], "", ""]
        else:
            base = sizes["plain", False]
            above = (size["peak"] - size["load"]) / (base["peak"] - base["load"])
            cells += [f"{size['peak'] / 2**30:.3f}", f"{size['peak'] / base['peak']:.3f}", f"{above:.3f}"]
        print("| " + " | ".join(cells) + " |")


def pair(text: str) -> tuple[int, int]:
    rows, _, length = text.partition("x")
    return int(rows), int(length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=pair, nargs="+", help="rows x tokens (default 16x256 4x1024)")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--time-only", action="store_true", help="leave memory out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", help="hub id or folder of a causal LM (default: a random Llama of 30.5 M)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=list(TOLERANCE), help="of the frozen base")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument(CHILD, nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(args.threads)
    if args.child:
        name, checkpointing, shape = args.child
        child(args, name, checkpointing == "1", pair(shape))
        return
    args.variants = [n for n in VARIANTS if n == "plain" or n in args.variants]
    shapes = args.shapes or ([(4, 16)] if args.quick else [(16, 256), (4, 1024)])
    rounds = args.rounds or (1 if args.quick else 5)
    args.rounds = rounds
    versions = [f"{m} {version(m)}" for m in ("torch", "transformers", "peft", "opacus")]
    print(f"{', '.join(versions)}; {args.device}, {args.dtype}, {args.threads} thread(s), {rounds} rounds")
    for shape in shapes:
        sizes = {} if args.time_only else memory(shape, args.variants)
        model = build(args)
        counts = [sum(p.numel() for p in model.parameters()), sum(p.numel() for p in trainable(model).values())]
        ids = draw(args, model, shape)
        print(f"\n{counts[0] / 1e6:.1f} M parameters, {counts[1] / 1e6:.2f} M trainable; load {os.getloadavg()[0]:.1f}")
        difference(model, ids[:PER_PERSON], args.dtype)
        show(shape, times(args, model, ids), sizes)
        del model
        gc.collect()


def version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    try:
        return of(package)
    except PackageNotFoundError:
        return "missing"


if __name__ == "__main__":
    main()
