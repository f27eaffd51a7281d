"""A tower for signals, in a vision tower's place: one soft token per second of a recording.

All streams come in one tensor, resampled to one rate, each with a channel that says where it was measured. A second is a
patch: a linear layer over its samples (a convolution whose kernel is its stride), then a small transformer. Linear layers
alone carry weights worth adapting, so that LoRA reaches all of it and every per-person gradient has a rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..core.errors import MienError
from ..core.records import Signal, StreamSpec


class BehaviourEncoderConfig(PreTrainedConfig):
    """signals: per stream its number of `channels` and public range `low`, `high`, in the order they are stacked; seconds:
    of a recording, at most; rate_hz: samples a second that everything is resampled to."""

    model_type = "behaviour_encoder"

    signals: dict | None = None
    seconds: int = 8
    rate_hz: int = 32
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 128
    initializer_range: float = 0.02

    @property
    def channels(self) -> int:
        """Of the packed tensor: every channel of every stream, and one mask a stream."""
        return sum(s["channels"] + 1 for s in (self.signals or {}).values())

    def pack(self, given: Sequence[Mapping[str, Any] | None]) -> np.ndarray:
        """{stream: Signal}, or None -> float32[B, channels, seconds * rate_hz]: values scaled from their range to -1 … 1
        (0 where there is none), then the mask, stream after stream. MienError for a longer recording, or other channels."""
        length = self.seconds * self.rate_hz
        out = np.zeros((len(given), self.channels, length), dtype=np.float32)
        for row, streams in zip(out, given, strict=True):
            at = 0
            for name, s in (self.signals or {}).items():
                n, at = s["channels"], at + s["channels"] + 1
                signal = (streams or {}).get(name)
                if signal is None:
                    continue
                if not isinstance(signal, Signal) or signal.values.shape[1] != n:
                    raise MienError(f"{name}: the tower takes a signal of {n} channels, as it was made for")
                if signal.seconds > self.seconds + 0.5 / self.rate_hz:
                    raise MienError(
                        f"{name} is {signal.seconds:g} s long, and the tower takes {self.seconds} s at most: cut windows"
                    )
                values, there = resampled(signal, self.rate_hz, length)
                low, high = s["low"], s["high"]
                scaled = np.clip((values - low) / (high - low) * 2 - 1, -1.5, 1.5)
                row[at - n - 1 : at - 1], row[at - 1] = np.where(there[:, None], scaled, 0).T, there
        return out


def resampled(signal: Signal, rate_hz: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(float[length, C], bool[length]) at another rate: the mean of what was measured in each sample's span, and, where a
    slower sensor measured nothing in it, a line between its neighbours, if both are valid and next to each other."""
    n, c = signal.values.shape
    good = np.ones(n, dtype=bool) if signal.valid is None else signal.valid
    values = np.where(good[:, None], signal.values, 0).astype(np.float64)
    place = np.floor(np.arange(n) * (rate_hz / signal.rate_hz) + 1e-9).astype(int)
    keep = good & (place < length)
    count = np.bincount(place[keep], minlength=length)[:length]
    total = np.stack([np.bincount(place[keep], values[keep, k], minlength=length)[:length] for k in range(c)], axis=1)
    out, there = total / np.maximum(count, 1)[:, None], count > 0
    if signal.rate_hz < rate_hz and n:
        exact = np.arange(length) * (signal.rate_hz / rate_hz)
        before = np.floor(exact + 1e-9).astype(int)
        after = np.minimum(before + 1, n - 1)  # the last sample is held until its span ends
        inside = before < n
        before = np.minimum(before, n - 1)
        there = inside & good[before] & good[after]
        part = (exact - before)[:, None]
        out = np.where(
            after[:, None] > before[:, None], values[before] * (1 - part) + values[after] * part, values[before]
        )
        out = np.where(there[:, None], out, 0)
    return out, there


class Block(torch.nn.Module):
    """Pre-norm attention and feed-forward (`inner` wide), of linear layers alone. x: [B, T, width]; there: bool[B, T], which
    tokens may be attended to."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.q_proj, self.k_proj = torch.nn.Linear(width, width), torch.nn.Linear(width, width)
        self.v_proj, self.out_proj = torch.nn.Linear(width, width), torch.nn.Linear(width, width)
        self.fc1, self.fc2 = torch.nn.Linear(width, inner), torch.nn.Linear(inner, width)

    def forward(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        h = self.norm1(x)
        q, k, v = (f(h).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        x = x + self.out_proj(mixed.transpose(1, 2).reshape(b, t, d))
        return x + self.fc2(torch.nn.functional.gelu(self.fc1(self.norm2(x))))


class BehaviourEncoder(PreTrainedModel):
    """`pixel_values`: float[B, channels, seconds * rate_hz] of `BehaviourEncoderConfig.pack` -> hidden states
    [B, seconds, hidden]. Seconds without any measurement are not attended to."""

    config_class = BehaviourEncoderConfig
    config: BehaviourEncoderConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    _no_split_modules = ["Block"]
    _supports_sdpa = True

    def __init__(self, config: BehaviourEncoderConfig):
        super().__init__(config)
        self.patch = torch.nn.Linear(config.channels * config.rate_hz, config.hidden_size)
        self.layers = torch.nn.ModuleList(
            [
                Block(config.hidden_size, config.num_attention_heads, config.intermediate_size)
                for _ in range(config.num_hidden_layers)
            ]
        )
        self.norm = torch.nn.LayerNorm(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> Any:
        return self.patch

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        b, c, t = pixel_values.shape
        rate = self.config.rate_hz
        patches = pixel_values.to(self.norm.weight.dtype).view(b, c, t // rate, rate).transpose(1, 2)
        marks, at = [], 0
        for s in (self.config.signals or {}).values():
            at += s["channels"] + 1
            marks.append(at - 1)
        there = (patches[:, :, marks] > 0).any(-1).any(-1)
        there = there | ~there.any(1, keepdim=True)  # of nothing at all, attention needs some row
        x = self.patch(patches.reshape(b, t // rate, c * rate))
        x = x + places(t // rate, x.shape[-1], x)
        states = [x]
        for block in self.layers:
            states.append(block(states[-1], there))
        states[-1] = self.norm(states[-1])
        return BaseModelOutputWithPooling(
            last_hidden_state=states[-1], pooler_output=states[-1].mean(1), hidden_states=tuple(states)
        )  # type: ignore[arg-type]


def places(n: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Sine and cosine of each second's place (arXiv 1706.03762, section 3.5): no table to save or to train."""
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-np.log(10_000.0) / width))
    angle = torch.arange(n, device=like.device)[:, None] * rates
    return torch.stack([angle.sin(), angle.cos()], -1).reshape(n, -1)[:, :width].to(like.dtype)


def register() -> None:
    """Let transformers know the class (safe to call again)."""
    AutoConfig.register("behaviour_encoder", BehaviourEncoderConfig, exist_ok=True)
    AutoModel.register(BehaviourEncoderConfig, BehaviourEncoder, exist_ok=True)


def tower(
    streams: Mapping[str, StreamSpec], *, seconds: int, rate_hz: int = 32, width: int = 64, layers: int = 2
) -> BehaviourEncoderConfig:
    """A tower for the signals among a cohort's streams, by name. Ranges come from the card, never from recordings."""
    signals = {
        n: {"channels": len(s.channels), "low": float(s.range[0]), "high": float(s.range[1])}
        for n, s in sorted(streams.items()) if s.kind == "signal" and s.range is not None
    }  # fmt: skip
    lost = [n for n, s in streams.items() if s.kind == "signal" and s.range is None]
    if lost or not signals:
        raise MienError(
            f"a tower for signals needs their ranges on the card; none for {', '.join(lost) or 'any stream'}"
        )
    return BehaviourEncoderConfig(
        signals=signals, seconds=seconds, rate_hz=rate_hz, hidden_size=width, num_hidden_layers=layers,
        intermediate_size=2 * width,
    )  # fmt: skip


def join(text: Any, vision: Any, *, strategy: Literal["default", "full"], seed: int = 0) -> Any:
    """`LlavaForConditionalGeneration` of a causal LM (a loaded model) and a tower (a loaded one, or a configuration: fresh
    weights, or none), with a fresh projector of two layers. One row, the placeholder's, is added to the LM's vocabulary.

    The projector starts random, as the first stage of LLaVA does (arXiv 2304.08485, section 4.2), at the scale of the LM's
    own embeddings; it is trained through LoRA, like everything else (a full-rank LoRA where that is wanted).
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from . import _handed

    register()
    _handed.register()
    torch.manual_seed(seed)
    rows = text.get_input_embeddings().weight.shape[0]
    text.resize_token_embeddings(rows + 1, mean_resizing=False)
    shape = text.config
    config = LlavaConfig(
        vision_config=vision if isinstance(vision, PreTrainedConfig) else vision.config, text_config=shape,
        image_token_index=rows, vision_feature_select_strategy=strategy, vision_feature_layer=-1,
        tie_word_embeddings=bool(shape.tie_word_embeddings),
    )  # fmt: skip
    model: Any = LlavaForConditionalGeneration(config)
    inner = model.model
    inner.language_model.load_state_dict(text.base_model.state_dict())
    model.lm_head.load_state_dict(text.get_output_embeddings().state_dict())
    if isinstance(vision, PreTrainedModel):
        inner.vision_tower.load_state_dict(vision.state_dict())
    with torch.no_grad():
        scale = float(inner.language_model.get_input_embeddings().weight.float().pow(2).mean().sqrt())
        for layer, gain in ((inner.multi_modal_projector.linear_1, 1.0), (inner.multi_modal_projector.linear_2, scale)):
            layer.weight.normal_(0, gain / layer.in_features**0.5)
            layer.bias.zero_()
    model.tie_weights()
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    """As safetensors, with nothing of this machine in it."""
    model.config._name_or_path = ""
    model.save_pretrained(folder, safe_serialization=True)
    return folder
