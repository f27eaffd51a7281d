"""The processes of a run: that they are what the launcher promised, how the base is sharded, what they exchange.

The adapter's tensors are outside every engine (privacy/flat.py), so all engines reduce to two questions: where the
frozen base lies, and one sum over processes per step.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..core import console
from ..core.errors import MienError


def accelerator(threads: int | None = None, trackers: Sequence[str] = ()) -> Any:
    """An Accelerator whose processes really talk to each other, on the engine that the launch file names.

    accelerate falls back to one process, or to plain DDP, silently where it finds no GPU; several models would then
    be trained, or a model that should be sharded would not be. MienError when the world is not what was promised.
    """
    if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0":
        console.waiting("starting torch")
    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    world = int(os.environ.get("WORLD_SIZE", "1"))
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    handlers: list[Any] = []
    if deepspeed:
        _quiet_deepspeed()
        if not torch.cuda.is_available():
            handlers = [InitProcessGroupKwargs(backend="gloo")]
    if fsdp and not torch.cuda.is_available():
        raise MienError(
            "the launch file asks for FSDP; without a GPU accelerate would drop it silently and run something else."
            " Use launch/zero3.yaml to shard the base on CPUs"
        )
    made = Accelerator(kwargs_handlers=handlers, log_with=list(trackers) or None)
    if deepspeed:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()  # or ZeRO-3 would split the base while it is loaded, before anybody has seen it
    if made.num_processes != world:
        raise MienError(
            f"launched as {world} processes, but accelerate runs {made.num_processes}: on CPUs it wants"
            " ACCELERATE_USE_CPU=true in the environment with launch/ddp.yaml; launch/zero*.yaml need nothing"
        )
    kind = str(made.distributed_type.value)
    promised = "DEEPSPEED" if deepspeed else "FSDP" if fsdp else None
    if promised and kind != promised:
        raise MienError(
            f"the launch file asks for {promised}, but accelerate runs {kind}: without a GPU it drops FSDP silently."
            " Use launch/zero3.yaml to shard the base on CPUs"
        )
    if made.mixed_precision == "fp16":
        raise MienError("mixed_precision: fp16 needs loss scaling, which would reach the clip; use bf16")
    if world > 1:
        backend = torch.distributed.get_backend()
        expected = "nccl" if made.device.type == "cuda" else "gloo"
        if expected not in backend:
            raise MienError(f"the processes talk through {backend!r}; on {made.device.type} it must be {expected}")
    if made.device.type == "cpu":
        torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // world))
    console.quiet(not made.is_main_process)
    return made


def _quiet_deepspeed() -> None:
    """Without a GPU, keep DeepSpeed from compiling a shared-memory op at start (minutes, and a stale lock if killed)."""
    import logging

    import torch

    try:
        import deepspeed.ops
    except ImportError:
        raise MienError("this launch file needs DeepSpeed: pip install 'mien[deepspeed]'") from None
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def place(model: Any, accelerator: Any) -> Any:
    """Put the frozen model where the launch file says: on the device, or sharded over the processes. In place.

    ZeRO-3 and FSDP2 shard it. ZeRO-1 and 2 shard gradients and optimiser states, of which a frozen base has none, so
    they hold it whole in every process like DDP.
    """
    kind = str(accelerator.distributed_type.value)
    if kind == "DEEPSPEED" and accelerator.state.deepspeed_plugin.zero_stage == 3:
        return _zero3(model, accelerator.state.deepspeed_plugin)
    if kind == "FSDP":
        plugin = accelerator.state.fsdp_plugin
        if getattr(plugin, "fsdp_version", 1) != 2:
            raise MienError("launch file: fsdp_version must be 2")
        offload = bool(getattr(plugin, "cpu_offload", False))
        return fully_shard(model, accelerator.device, offload=offload)
    return model if _quantised(model) else model.to(accelerator.device)


def _zero3(model: Any, plugin: Any) -> Any:
    import deepspeed

    asked = plugin.deepspeed_config["zero_optimization"]
    zero: dict[str, Any] = {"stage": 3}
    if asked.get("offload_param", {}).get("device", "none") not in ("none", None):
        zero["offload_param"] = {"device": asked["offload_param"]["device"]}
    config: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero, "steps_per_print": 10**9}
    if plugin.deepspeed_config.get("bf16", {}).get("enabled") is True:
        config["bf16"] = {"enabled": True}
    engine, *_ = deepspeed.initialize(model=model, config=config)
    return engine.module  # the engine's own call expects to see the backward pass; nothing of it would be ours


def fully_shard(model: Any, device: Any, offload: bool = False) -> Any:
    """FSDP2 over all processes: every transformer block, then the rest. In place."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy
    from torch.distributed.fsdp import fully_shard as shard

    kind = torch.device(device).type
    mesh = init_device_mesh(kind, (torch.distributed.get_world_size(),))
    policy = CPUOffloadPolicy() if offload else OffloadPolicy()
    blocks = set(getattr(model, "_no_split_modules", None) or [])
    for _, module in list(model.named_modules()):
        if type(module).__name__ in blocks:
            shard(module, mesh=mesh, offload_policy=policy)
    shard(model, mesh=mesh, offload_policy=policy)
    return model


def _quantised(model: Any) -> bool:
    return bool(getattr(model, "is_quantized", False) or getattr(model, "is_loaded_in_8bit", False))


def world() -> int:
    import torch

    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def add_up(tensor: Any) -> Any:
    """The sum over processes, in place."""
    import torch

    if world() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def from_main(tensor: Any) -> Any:
    """The main process's values, in place."""
    import torch

    if world() > 1:
        torch.distributed.broadcast(tensor, src=0)
    return tensor


def numbers_from_main(numbers: Sequence[int] | None, device: Any) -> list[int]:
    """A list of integers that only the main process knows (the others pass None)."""
    import torch

    if world() == 1:
        assert numbers is not None
        return list(numbers)
    size = from_main(torch.tensor([len(numbers or [])], dtype=torch.long, device=device))
    values = torch.zeros(int(size), dtype=torch.long, device=device)
    if numbers is not None and len(numbers):
        values.copy_(torch.tensor(list(numbers), dtype=torch.long))
    return from_main(values).tolist() if int(size) else []


def agree(vector: Any, what: str) -> None:
    """MienError unless every process holds the same bytes."""
    import torch

    if world() == 1:
        return
    digest = hashlib.sha256(vector.detach().cpu().numpy().tobytes()).digest()
    mine = torch.frombuffer(bytearray(digest[:32]), dtype=torch.int64).to(vector.device)
    low, high = mine.clone(), mine.clone()
    torch.distributed.all_reduce(low, op=torch.distributed.ReduceOp.MIN)
    torch.distributed.all_reduce(high, op=torch.distributed.ReduceOp.MAX)
    if not torch.equal(low, high):
        raise MienError(f"the processes hold different {what}: one of them has computed something else; start again")
