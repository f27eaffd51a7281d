"""The module of `behaviour`: one tower per stream, of linear layers alone (so that LoRA and per-person gradients reach all of
it). What it is for stands in behaviour.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from ._encoder import Block, places

BANDS = 16  # of a whole window's spectrum


class BehaviourBinderConfig(PreTrainedConfig):
    """streams: per stream its `kind` and `channels`; of a signal its public range `low`, `high` and its `rate_hz` inside
    the tower, and its `unit`; the channels' (or events') `names`, both as its pretraining cohort has them. seconds: of a window."""

    model_type = "behaviour_binder"

    streams: dict | None = None
    seconds: float = 60.0
    width: int = 64
    layers: int = 2
    heads: int = 4
    patches: int = 10
    dim: int = 48
    initializer_range: float = 0.02


class _Tower(nn.Module):
    def __init__(self, config: BehaviourBinderConfig, token: int, whole: int):
        super().__init__()
        self.token, self.whole = nn.Linear(token, config.width), nn.Linear(whole, config.width)
        self.layers = nn.ModuleList([Block(config.width, config.heads, 2 * config.width) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, config.dim)

    def encode(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        x = x + places(x.shape[1], x.shape[2], x)
        for block in self.layers:
            x = block(x, there)
        weight = there[..., None].to(x.dtype)
        pooled = (self.norm(x) * weight).sum(1) / weight.sum(1)  # the token of the whole window is always there
        return F.normalize(self.project(pooled), dim=-1)


class SignalTower(_Tower):
    """values: float[B, T, C], scaled; there: float 0/1 [B, T] -> float[B, dim], of unit length."""

    def __init__(self, config: BehaviourBinderConfig, name: str):
        self_of = (config.streams or {})[name]
        c, patch = self_of["channels"], self_of["patch"]
        super().__init__(config, c * (patch + patch // 2 + 1) + 1, statistics(c))
        self.patch, self.rate_hz = patch, self_of["rate_hz"]

    def forward(self, values: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        b, t, c = values.shape
        n = t // self.patch
        cut = values.view(b, n, self.patch, c).transpose(2, 3)
        mark = there.view(b, n, self.patch).mean(-1)
        window = torch.hann_window(self.patch, periodic=False, device=values.device, dtype=values.dtype)
        spectrum = torch.fft.rfft((cut - cut.mean(-1, keepdim=True)) * window).abs().square()
        features = torch.cat([cut, torch.log1p(1e3 * spectrum / self.patch)], -1).flatten(2)
        tokens = self.token(torch.cat([features, mark[..., None]], -1))
        whole = self.whole(summary(values, there, self.rate_hz))[:, None]
        seen = torch.cat([torch.ones_like(mark[:, :1], dtype=torch.bool), mark > 0.5], 1)
        return self.encode(torch.cat([whole, tokens], 1), seen)


class EventsTower(_Tower):
    """events: float[B, EVENTS, kinds + 6]; there: float 0/1 [B, EVENTS]; counts: float[B, 2 kinds + 1] -> float[B, dim]."""

    def __init__(self, config: BehaviourBinderConfig, name: str):
        k = (config.streams or {})[name]["channels"]
        super().__init__(config, k + 6, 2 * k + 1)

    def forward(self, events: torch.Tensor, there: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        whole = self.whole(counts)[:, None]
        seen = torch.cat([torch.ones_like(there[:, :1], dtype=torch.bool), there > 0.5], 1)
        return self.encode(torch.cat([whole, self.token(events)], 1), seen)


class BehaviourBinder(PreTrainedModel):
    """`towers.<stream>`: one for each stream of its configuration."""

    config_class = BehaviourBinderConfig
    config: BehaviourBinderConfig
    _no_split_modules = ["Block"]

    def __init__(self, config: BehaviourBinderConfig):
        super().__init__(config)
        kinds = {"signal": SignalTower, "events": EventsTower}
        self.towers = nn.ModuleDict({n: kinds[s["kind"]](config, n) for n, s in (config.streams or {}).items()})
        self.post_init()

    def forward(self, inputs: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """{stream: what its tower takes} -> {stream: float[B, dim]}."""
        return {name: self.towers[name](**arrays) for name, arrays in inputs.items()}


def statistics(channels: int) -> int:
    """How many numbers `summary` gives."""
    return channels * (4 + BANDS) + channels * (channels - 1) // 2 + 1


def summary(values: torch.Tensor, there: torch.Tensor, rate_hz: float) -> torch.Tensor:
    """float[B, statistics(C)] of whole windows: per channel mean, spread, least and greatest value and the logarithm of
    its power in bands equally wide on a logarithmic scale, then correlations, then the share that was measured."""
    b, t, c = values.shape
    mask = there[..., None]
    n = mask.sum(1).clamp(min=1)
    mean = (values * mask).sum(1) / n
    centred = (values - mean[:, None]) * mask
    spread = (centred.square().sum(1) / n + 1e-12).sqrt()
    low = torch.where(mask > 0, values, 2.0).amin(1).clamp(max=2.0)
    high = torch.where(mask > 0, values, -2.0).amax(1).clamp(min=-2.0)
    power = torch.fft.rfft(centred, dim=1).abs().square() / t
    bands = torch.einsum("fk,bfc->bck", _bands(t, rate_hz, values), power)
    correlation = torch.einsum("btc,btd->bcd", centred, centred) / n[..., None]
    correlation = correlation / (spread[:, :, None] * spread[:, None] + 1e-9)
    one, two = torch.triu_indices(c, c, 1)
    head = torch.stack([mean, torch.log(spread + 1e-4) / 3, low, high], -1)
    return torch.cat(
        [torch.cat([head, torch.log(bands + 1e-6) / 5], -1).flatten(1), correlation[:, one, two], there.mean(1)[:, None]],
        1,
    )  # fmt: skip


def _bands(t: int, rate_hz: float, like: torch.Tensor) -> torch.Tensor:
    """float[t // 2 + 1, BANDS]: which line of the spectrum belongs to which band; every band has the line nearest to it."""
    hz = torch.fft.rfftfreq(t, 1 / rate_hz, device=like.device)
    edges = torch.logspace(np.log10(rate_hz / t), np.log10(rate_hz / 2), BANDS + 1, device=like.device)
    inside = (hz[:, None] >= edges[:-1] * (1 - 1e-6)) & (hz[:, None] < edges[1:] * (1 + 1e-6))
    nearest = (hz[:, None] - (edges[:-1] * edges[1:]).sqrt()).abs().argmin(0)
    inside[nearest, torch.arange(BANDS, device=like.device)] = True
    return inside.to(like.dtype)


def facts(model: BehaviourBinder, name: str, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """float32[B, k]: a window's statistics, as the tower's own first token has them; what pretraining asks back."""
    if "counts" in inputs:
        return inputs["counts"]
    return summary(inputs["values"], inputs["there"], float(model.config.streams[name]["rate_hz"]))  # type: ignore[index]


def fresh(config: BehaviourBinderConfig, seed: int) -> BehaviourBinder:
    torch.manual_seed(seed)
    model = BehaviourBinder(config)
    for module in model.modules():  # what a linear layer has by default; transformers' 0.02 is for far wider ones
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return model


def register() -> None:
    """Let transformers know the class (safe to call again)."""
    AutoConfig.register("behaviour_binder", BehaviourBinderConfig, exist_ok=True)
    AutoModel.register(BehaviourBinderConfig, BehaviourBinder, exist_ok=True)
