"""In a vision tower's place, a module without weights: what a binder makes of a recording, handed on as it is.

One embedding is one soft token. The binder stays outside the model (adapters/embedded.py): it is frozen, and asked once per
recording, so that training costs what the projector costs. The saved configuration says how many tokens there are, how wide, and of
which binder, by a fingerprint under the key of these run folders: no name, no path, and nothing to be recognised by elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class HandedConfig(PreTrainedConfig):
    """tokens: embeddings of a recording; hidden_size: numbers in each; binder: fingerprint of what makes them."""

    model_type = "handed_embeddings"

    tokens: int = 1
    hidden_size: int = 48
    binder: str = ""


class Handed(PreTrainedModel):
    """`pixel_values`: float[B, tokens, hidden], a recording's embeddings -> the same as hidden states."""

    config_class = HandedConfig
    config: HandedConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    _supports_sdpa = True

    def __init__(self, config: HandedConfig):
        super().__init__(config)
        self.register_buffer("like", torch.zeros(1), persistent=False)  # no weight says what the others are computed in
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        x = pixel_values.to(self.like.dtype)  # type: ignore[arg-type]
        return BaseModelOutputWithPooling(last_hidden_state=x, hidden_states=(x,))  # type: ignore[arg-type]


def register() -> None:
    """Let transformers know the class (safe to call again)."""
    AutoConfig.register("handed_embeddings", HandedConfig, exist_ok=True)
    AutoModel.register(HandedConfig, Handed, exist_ok=True)
