"""LoRA through PEFT on a frozen base, with the token rows the base has never seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from ..backbones.causal_lm import CausalBackbone
from ..core.config import Section
from ..core.errors import MienError
from ..core.records import RESTRICTIONS
from ..core.runs import whole_folder, write_text

_TARGETS = {"attention": ("q_proj", "k_proj", "v_proj", "o_proj")}


class Lora(Section):
    """rank, alpha, dropout as in LoRA (arXiv 2106.09685); targets: every linear layer, attention only, or literal names;
    freeze_a: train only the B factors (FFA-LoRA, arXiv 2403.12313): in a private run noise then enters B A once;
    layers: adapt the last so many layers only; rows: train the token rows of labels and streams too. With few layers
    and no rows everything below is frozen, and shadow models cost a fraction (adapters/stacked.py)."""

    rank: int = Field(default=16, ge=1, le=4096)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all", "attention"] | tuple[str, ...] = "all"
    freeze_a: bool = False
    layers: int | None = Field(default=None, ge=1)
    rows: bool = True


class Base(Protocol):
    """What a saved adapter says of its base, whatever kind of backbone that is."""

    model: Any
    identity: str
    revision: str | None


def attach(backbone: CausalBackbone, lora: Lora, rows: Sequence[int], seed: int) -> Any:
    """The base inside a `PeftModel` with a fresh adapter named "default".

    rows: token ids (the model's own) whose embedding rows are trained beside the LoRA factors.
    MienError when a target names no module of the base.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    if isinstance(lora.targets, str):
        wanted = _TARGETS.get(lora.targets, tuple(backbone.lora_targets))
        targets = [t for t in wanted if t in backbone.lora_targets]
    else:
        targets = list(lora.targets)
    missing = [t for t in targets if t not in backbone.lora_targets]
    if missing or not targets:
        raise MienError(
            f"lora.targets: {missing or lora.targets} not among the base's linear layers {list(backbone.lora_targets)}"
        )
    depth = int(backbone.model.config.get_text_config().num_hidden_layers)
    if lora.layers is not None and lora.layers > depth:
        raise MienError(f"lora.layers: {lora.layers}, and the base has {depth}")
    if lora.layers is not None and backbone.beside:
        raise MienError(
            f"lora.layers counts the layers of the language model, and {', '.join(backbone.beside)} are adapted too:"
            " leave lora.layers out, or adapt the language model alone"
        )
    if not lora.rows and not backbone.speaks_behaviour:
        raise MienError(
            "lora.rows: false needs a base that knows behaviour tokens; this one's rows for them are untrained"
        )
    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
        exclude_modules=backbone.excluded,
        trainable_token_indices=(sorted(rows) or None) if lora.rows else None,
        layers_to_transform=None if lora.layers is None else list(range(depth - lora.layers, depth)),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(backbone.model, config)
    if lora.freeze_a:
        for name, p in model.named_parameters():
            if ".lora_A." in name:
                p.requires_grad_(False)
    return model


def save(model: Any, folder: Path, backbone: Base) -> None:
    """Write a plain PEFT adapter (`adapter_config.json`, `adapter_model.safetensors`), whole or not at all.

    PEFT writes the local path of the base into the configuration; here it is replaced by the base's public name.
    """
    with whole_folder(folder) as part:
        model.save_pretrained(part, safe_serialization=True, save_embedding_layers=False)
        (part / "README.md").unlink(missing_ok=True)  # PEFT's stub; the card is written at release
        file = part / "adapter_config.json"
        raw = json.loads(file.read_text())
        raw["base_model_name_or_path"], raw["revision"] = backbone.identity, backbone.revision
        # sets are written in hash order otherwise: the same adapter must be the same bytes
        raw["target_modules"] = sorted(raw["target_modules"])
        file.write_text(json.dumps(raw, indent=2, sort_keys=True))


def restore(backbone: Base, folder: Path) -> Any:
    """A saved adapter on its base, for sampling and attacks. MienError if files are missing or tensors do not fit."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        raw = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise MienError(f"{folder} holds no readable adapter: {error}") from None
    if raw.get("base_model_name_or_path") != backbone.identity:
        raise MienError(
            f"this adapter was made for {raw.get('base_model_name_or_path')!r}, the base here is {backbone.identity!r}"
        )
    keys = ("r", "lora_alpha", "lora_dropout", "target_modules", "trainable_token_indices", "task_type")
    optional = {k: raw[k] for k in ("layers_to_transform", "exclude_modules") if raw.get(k) is not None}
    model = get_peft_model(backbone.model, LoraConfig(**{k: raw[k] for k in keys}, **optional))
    outcome = set_peft_model_state_dict(model, tensors)
    unexpected = list(outcome.unexpected_keys)
    own = {n for n, p in model.named_parameters() if p.requires_grad}  # a tied head's rows are listed once
    missing = [k for k in outcome.missing_keys if k in own]
    if unexpected or missing:
        raise MienError(f"{folder / 'adapter_model.safetensors'}: unexpected {unexpected[:3]}, missing {missing[:3]}")
    model.eval()
    return model


def write_notes(folder: Path, backbone: Base, how: str, guarantee: str, restrictions: Sequence[str] = ()) -> None:
    """`README.md` beside the adapter: how to load it with PEFT alone (`how`, a line of Python before PEFT's), under what
    guarantee it was made, and what the licences of its recordings and of its base (`restrictions`, of
    core/records.RESTRICTIONS) ask of it."""
    front = json.dumps(backbone.identity)
    bound = "".join(f"- **{r}**: {RESTRICTIONS[r]}\n" for r in restrictions)
    if bound:
        bound = f"\nWhat it was made from came under terms that bind this adapter and its output too:\n\n{bound}"
    licence = "license: other\n" if restrictions else ""
    write_text(
        folder / "README.md",
        f"""---
library_name: peft
base_model: {front}
base_model_relation: adapter
{licence}tags: [lora, behaviour]
---
# A behaviour adapter

Guarantee: {guarantee}
{bound}
Load it without Mien (only grammar-constrained sampling needs Mien):

```python
{how}
model = PeftModel.from_pretrained(base, "this folder")
```
""",
    )


def switch(model: Any, names: Sequence[str]) -> None:
    """Let exactly these adapters act: their updates are added. What is trainable stays as it is (PEFT's own set_adapter refuses two
    adapters where one has token rows, and makes what it activates trainable)."""
    for _, layer in layers(model):
        layer._active_adapter = list(names)


def layers(model: Any) -> list[tuple[str, Any]]:
    """The LoRA layers of a `PeftModel`, by name."""
    from peft.tuners.lora import LoraLayer

    return [(name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer)]
