"""Checks on the user's own model and data, before the first private gradient.

Each one stands for a way in which a privacy claim becomes false without any error: a parameter that quietly gets no
per-person gradient, a loss that lets one row see the others, statistics over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..core.errors import MienError
from .flat import Flat
from .gradients import PersonGradients

# of gradients, relative to the largest entry, and of losses: what arithmetic of that width may do, and no more
_GRADIENT = {"float64": 1e-9, "float32": 2e-3, "bfloat16": 5e-2, "float16": 5e-2}
_LOSS = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}


def batch_statistics(model: Any) -> None:
    """MienError when a module in training mode mixes rows: batch norm, or instance norm with running statistics."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._NormBase) and module.training:
            mixes = isinstance(module, torch.nn.modules.batchnorm._BatchNorm) or module.track_running_stats
            if mixes:
                raise MienError(
                    f"{name} ({type(module).__name__}) computes statistics over the batch in training mode: one"
                    " person's rows would change everybody's loss, unclipped. Replace it by group or layer norm, or by"
                    " one that stays in eval mode"
                )


def still(model: Any) -> None:
    """Switch the frozen base's own dropout off, in its modules and where attention reads a number. LoRA's is left to
    `check`, which refuses it: the recipe asked for it."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and "lora_dropout" not in name:
            module.p = 0.0
        for attribute in ("dropout", "attention_dropout", "activation_dropout", "dropout_prob", "layerdrop"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)


def check(
    model: Any, losses: Callable[[Any, Any], Any], probes: Sequence[Any], flat: Flat, gradients: PersonGradients
) -> None:
    """Prove on `model` what the guarantee rests on. MienError naming the module and the way out.

    losses(model, batch) -> float[units]; probes: batches whose unit 0 is the same recording, while the other units
    differ in content, length and label; the first batch holds unit 0 alone. The adapter is moved away from its start
    meanwhile (a fresh LoRA has a factor whose gradient is exactly zero) and put back.
    """
    import torch

    batch_statistics(model)
    kept = flat.vector.clone()
    training = {m: m.training for m in model.modules()}
    generator = torch.Generator(device="cpu").manual_seed(0)
    with torch.no_grad():
        shift = torch.randn(len(kept), generator=generator, dtype=kept.dtype).to(kept.device)
        flat.vector.add_(shift, alpha=0.02)
    model.train()
    try:
        _deterministic(model, losses, probes[0])
        reference = _plain(model, losses, probes[0], flat, gradients)
        alone, first = _mine(model, losses, probes[0], flat, gradients)
        _every_parameter(flat, gradients)
        widths = {str(p.dtype).removeprefix("torch.") for p in [kept, *_floats(model)]} & set(_LOSS)
        widths |= {"bfloat16"} if torch.is_autocast_enabled(kept.device.type) else set()
        limit, near = max(_GRADIENT[w] for w in widths), max(_LOSS[w] for w in widths)
        _same_gradient(reference, alone, flat, limit)
        for batch in probes[1:]:
            _, value = _mine(model, losses, batch, flat, gradients, backward=False)
            if not torch.allclose(value, first, rtol=near, atol=near):
                raise MienError(
                    "the loss of a recording moved when only the other recordings of its batch changed"
                    f"{_suspect(model)}: the sensitivity of a step would not be the clip norm. Compute the loss per"
                    " recording (Backbone.losses), not as a mean over the tokens of the batch or its padded width"
                )
        mixed, _ = _mine(model, losses, probes[-1], flat, gradients)
        _same_gradient(alone, mixed, flat, limit, others=True)
    finally:
        with torch.no_grad():
            flat.vector.copy_(kept)
        for module, was in training.items():
            module.training = was
        gradients.buffer = None
        gradients.touched.clear()


def _deterministic(model: Any, losses: Callable, batch: Any) -> None:
    """MienError when the loss depends on random numbers: they are dealt out by place in the batch, so one person more
    would change everybody's."""
    import torch

    with torch.no_grad():
        torch.manual_seed(0)
        first = _values(model, losses, batch)
        torch.manual_seed(1)
        if not torch.equal(first, _values(model, losses, batch)):
            active = [n for n, m in model.named_modules() if getattr(m, "p", 0) and "ropout" in type(m).__name__]
            where = f" ({active[0]})" if active else " (a dropout inside the base's attention, say)"
            raise MienError(
                f"the loss of a recording is not the same twice{where}: dropout masks follow the place in the batch, so one"
                " person more would change everybody's gradient. Set lora.dropout to 0, and the base's dropouts in its"
                " configuration"
            )


def _mine(
    model: Any, losses: Callable, batch: Any, flat: Flat, gradients: PersonGradients, backward: bool = True
) -> Any:
    """Gradient and loss of unit 0, computed together with whatever else is in the batch."""
    import torch

    gradients.buffer = None
    gradients.touched.clear()
    n = int(batch.unit.max()) + 1
    torch.manual_seed(0)
    with gradients.collect(batch.unit, n) as buffer:
        values = _values(model, losses, batch)
        if backward:
            values.sum().backward()
    return buffer[0].clone() if backward else None, values[0].detach().double()


def _plain(model: Any, losses: Callable, batch: Any, flat: Flat, gradients: PersonGradients) -> Any:
    """The gradient of the same loss by ordinary autograd, with every layer's own forward."""
    import torch

    gradients.detach()
    flat.differentiable()
    try:
        torch.manual_seed(0)
        _values(model, losses, batch)[0].backward()
        return flat.grad.clone()
    finally:
        flat.constant()
        gradients._attach()


def _values(model: Any, losses: Callable, batch: Any) -> Any:
    values, n = losses(model, batch), int(batch.unit.max()) + 1
    if tuple(values.shape) != (n,):
        raise MienError(
            f"losses(model, batch) returned shape {tuple(values.shape)} for {n} recordings; it must return one number"
            " per recording, not a mean over the batch"
        )
    return values


def _every_parameter(flat: Flat, gradients: PersonGradients) -> None:
    for slot in flat.slots:
        if slot.name not in gradients.touched:
            raise MienError(
                f"{slot.name} received no per-person gradient: its layer was not called, or nothing before it is"
                " differentiable. Take it out of lora.targets; with reentrant checkpointing call"
                " model.enable_input_require_grads() first"
            )


def _same_gradient(expected: Any, got: Any, flat: Flat, limit: float, others: bool = False) -> None:
    scale = float(expected.abs().max())
    for slot in flat.slots:
        a, b = expected[slot.start : slot.stop], got[slot.start : slot.stop]
        worst = float((a - b).abs().max())
        if not worst <= limit * max(scale, 1e-12):
            if others:
                raise MienError(
                    f"{slot.name}: a recording's gradient changed by {worst:.2g} when other recordings joined its batch:"
                    " rows are mixed somewhere, or this layer's rows are not the batch's (give it a row map)"
                )
            raise MienError(
                f"{slot.name}: its per-person gradient differs from the ordinary one by {worst:.2g} (largest entry"
                f" {scale:.2g}): the tensor is used outside its layer's forward. Take it out of lora.targets, or switch"
                " the PEFT option off that uses it (use_dora, …)"
            )


def _floats(model: Any) -> list[Any]:
    return [p for p in model.parameters() if p.is_floating_point()]


def _suspect(model: Any) -> str:
    """The first module whose kind is known to mix rows, for the message."""
    for name, module in model.named_modules():
        kind = type(module).__name__.lower()
        if "router" in kind or "moe" in kind or "expert" in kind:
            return f" (probably {name}, {type(module).__name__}: experts' capacity and balancing mix rows)"
    return ""
