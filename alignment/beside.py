"""LoRA on LoRA: an adapter that learns from experts beside the one that learned from recordings, which stays frozen.

Both act on the same frozen base, so their updates add up. The reference of DPO and PPO is the private adapter alone; PEFT's
`disable_adapter` would give the bare base, which has never seen a recording.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from ..adapters import lora
from ..backbones.causal_lm import CausalBackbone
from ..core.config import Section
from ..core.errors import MienError
from ..core.runs import whole_folder

PRIVATE, ALIGNED = "default", "aligned"


class Aligned(Section):
    """rank, alpha: of the new adapter, on the modules and layers that the private one adapts (arXiv 2106.09685); the
    private one's token rows stay as they are. strength: how much of its way from the reference it keeps, once a round is learned:
    less pleases less, and costs less variety (`keep`)."""

    rank: int = Field(default=8, ge=1, le=4096)
    alpha: float = Field(default=16, gt=0)
    strength: float = Field(default=1, gt=0, le=1)


def attach(model: Any, asked: Aligned, seed: int) -> Any:
    """The `PeftModel` of an adapt run with a fresh adapter beside its own, the only thing in it that trains.

    The new one's B is zero, so nothing has changed yet. Dropout is off from here on: the frozen adapter is one function,
    and the reference the same one.
    """
    import torch
    from peft import LoraConfig

    if ALIGNED in model.peft_config:
        raise MienError("this model has an aligned adapter already")
    private = model.peft_config[PRIVATE]
    if private.use_dora or private.use_rslora or private.bias != "none" or private.modules_to_save:
        raise MienError("only a plain LoRA adapter can carry another beside it, and become one with it")
    torch.manual_seed(seed)
    config = LoraConfig(
        r=asked.rank,
        lora_alpha=asked.alpha,  # type: ignore[arg-type]
        target_modules=private.target_modules,
        exclude_modules=private.exclude_modules,
        layers_to_transform=private.layers_to_transform,
        task_type=private.task_type,
    )
    model.add_adapter(ALIGNED, config)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.to(model.get_input_embeddings().weight.device)
    return ready(model)


def ready(model: Any) -> Any:
    """Both adapters act, and only the new one trains. Whoever lets PEFT or TRL touch the adapters calls this after."""
    for name, p in model.named_parameters():
        p.requires_grad_(f".{ALIGNED}." in name)
    lora.switch(model, (PRIVATE, ALIGNED))
    return model


def keep(model: Any, strength: float) -> None:
    """Move what was learned towards the reference, to `strength` of its update.

    Linear interpolation toward the initialisation (arXiv 2406.16768, "LITI"; of fine-tuned weights at large: 2109.01903). Halfway
    costs about a quarter of the KL and, where weights answer linearly, leaves half of the gain. It reads no data.
    """
    import torch

    with torch.no_grad():
        for _, layer in lora.layers(model):
            layer.lora_B[ALIGNED].weight.mul_(strength)


@contextlib.contextmanager
def reference(model: Any) -> Iterator[Any]:
    """Inside, the model is its private adapter alone; what trains stays as it is."""
    before = active(model)
    lora.switch(model, (PRIVATE,))
    try:
        yield model
    finally:
        lora.switch(model, before)


def active(model: Any) -> tuple[str, ...]:
    """The adapters whose updates are added now."""
    return tuple(lora.layers(model)[0][1].active_adapters)


def export(model: Any, folder: Path, backbone: CausalBackbone) -> None:
    """Write both as one plain PEFT adapter, whole or not at all: W + s₁ B₁ A₁ + s₂ B₂ A₂ = W + [s₁ B₁, s₂ B₂] [A₁; A₂].

    Ranks add up, the scaling is folded into B, token rows are the private adapter's.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    one = get_peft_model_state_dict(model, adapter_name=PRIVATE, save_embedding_layers=False)
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in one.items()}
    for name, layer in lora.layers(model):
        down = torch.cat([layer.lora_A[a].weight.detach() for a in (PRIVATE, ALIGNED)], 0)
        up = torch.cat([layer.scaling[a] * layer.lora_B[a].weight.detach() for a in (PRIVATE, ALIGNED)], 1)
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = (t.cpu().contiguous() for t in (down, up))
    if set(tensors) != set(one):
        raise MienError(f"the adapters do not lie beside each other: {sorted(set(tensors) ^ set(one))[:3]}")
    config = model.peft_config[PRIVATE].to_dict()
    rank = model.peft_config[PRIVATE].r + model.peft_config[ALIGNED].r
    config |= {"r": rank, "lora_alpha": rank, "lora_dropout": 0.0, "inference_mode": True}
    config |= {"base_model_name_or_path": backbone.identity, "revision": backbone.revision}
    config["target_modules"] = sorted(config["target_modules"])
    with whole_folder(folder) as part:
        save_file(tensors, part / "adapter_model.safetensors", metadata={"format": "pt"})
        (part / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True, default=str))
