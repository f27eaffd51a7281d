"""`patchtst`: wearable signals through a pretrained time-series encoder, PatchTST (Nie et al., arXiv 2211.14730), as transformers
has it: weights from a hub id or a folder of safetensors, such as IBM's granite-timeseries-patchtst (Apache-2.0).

The encoder knows one channel at a time, and normalises each window's, so that a level (which way gravity points) and a spread
are lost to it: both stand beside what it makes of a channel. A sample that was not measured is put where pretraining put masked
patches, at the normalised zero, and a patch weighs as much as was measured in it. It was pretrained to forecast meters and
prices, not people: what it is worth here is for `mien evaluate` to say.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from pydantic import Field

from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Signal
from ._binder import Absent, Arrays, Binder, Tower, still
from .causal_lm import Config as Source
from .causal_lm import fitted, source, weights_digest
from .dinov2_minilm import rotation

KIND = "binder"


class Channels(Section):
    """channels: of the stream; low, high: its public range, which scales levels and spreads: known beforehand, never taken
    from recordings."""

    channels: int = Field(ge=1)
    low: float
    high: float


class Config(Section):
    """model: a hub id or a local folder with config.json and model.safetensors; revision: of the hub; licence: of these
    weights, as whoever published them states it; signals: stream -> its channels and range, a tower each, all starting
    from the same weights; dim: of the common space."""

    model: str = "ibm-granite/granite-timeseries-patchtst"
    revision: str | None = None
    licence: str = "not stated by the recipe"
    signals: dict[str, Channels] = Field(min_length=1)
    dim: int = Field(default=64, ge=2)


def load(config: Config) -> Binder:
    """The frozen towers. MienError when they cannot be loaded, for tensors missing, unknown or misshapen (all are named), and
    for a configuration whose rows or channels would see each other."""
    import torch

    encoder = _encoder(config)
    model = still(_joined(encoder, config).float().requires_grad_(False))
    length = int(encoder.config.context_length)
    towers = {
        name: Tower(
            kind="signal", module=f"towers.{name}",
            layers=tuple(f"towers.{name}.encoder.encoder.layers.{i}" for i in range(encoder.config.num_hidden_layers)),
            prepare=partial(prepare, name=name, spec=spec, length=length), embed=partial(_embed, name=name),
        )
        for name, spec in config.signals.items()
    }  # fmt: skip
    place, identity = source(_from(config))
    return Binder(
        model=model, towers=towers, dim=config.dim, identity=identity, revision=None if place != identity else config.revision,
        fingerprint=weights_digest(model), licence=config.licence, logit_scale=10.0,
        lora_targets=[n for n, m in model.named_modules() if type(m) is torch.nn.Linear],
    )  # fmt: skip


def _from(config: Config) -> Source:
    return Source(model=config.model, revision=config.revision)


def _encoder(config: Config) -> Any:
    """`PatchTSTModel` of one channel, which draws no masks."""
    from transformers import AutoConfig, PatchTSTConfig, PatchTSTModel

    place, _ = source(_from(config))
    try:
        declared = AutoConfig.from_pretrained(place, revision=config.revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise MienError(
            f"backbone.model: no configuration at {config.model!r} ({str(error).splitlines()[0]}); give a hub id that you can"
            " reach, or a folder with config.json and model.safetensors"
        ) from None
    if not isinstance(declared, PatchTSTConfig):
        raise MienError(
            f"backbone.model: {config.model!r} is a {declared.model_type}, and this backbone is for patchtst"
        )
    wrong = [
        why
        for bad, why in (
            (declared.channel_attention, "channel_attention: channels would see each other"),
            (not declared.share_embedding, "share_embedding: false: an embedding for each of other channels"),
            (declared.scaling not in ("std", None, False), f"scaling: {declared.scaling}: rows would see each other"),
            (declared.context_length <= declared.patch_length, "context_length: no longer than a patch"),
        )
        if bad
    ]
    if wrong:
        raise MienError(f"backbone.model: {config.model!r} cannot be a tower here ({'; '.join(wrong)})")
    declared.num_input_channels, declared.do_mask_input = 1, False
    return fitted(PatchTSTModel, _from(config), "time-series encoder", declared, unused=("head.",))


def _joined(encoder: Any, config: Config) -> Any:
    """Towers as submodules of `towers`: the encoder of each (`encoder`), and `join`, into the common space."""
    import torch
    from torch import nn

    class Side(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.encoder = copy.deepcopy(encoder)
            self.join = nn.Linear(channels * (encoder.config.d_model + 2), config.dim, bias=False)
            with torch.no_grad():
                self.join.weight.copy_(rotation(config.dim, self.join.in_features))

    model = nn.Module()
    model.towers = nn.ModuleDict({name: Side(spec.channels) for name, spec in config.signals.items()})
    return model


def prepare(stream: Any, *, name: str, spec: Channels, length: int) -> Arrays:
    """values: float32[length, C], the window at the encoder's number of samples, whatever its rate, scaled from the public
    range to -1 … 1, 0 in gaps; there: float32[length]. MienError for another kind of stream or other channels; Absent where
    nothing was measured."""
    from ._encoder import resampled

    if not isinstance(stream, Signal):
        raise MienError(f"{name}: this tower takes a signal, not {type(stream).__name__.lower()}")
    if stream.values.shape[1] != spec.channels:
        raise MienError(f"{name}: {stream.values.shape[1]} channels, and backbone.signals says {spec.channels}")
    values, there = resampled(stream, length / stream.seconds, length)
    if not there.any():
        raise Absent(f"{name}: no sample was measured in this window")
    scaled = (values - spec.low) / (spec.high - spec.low) * 2 - 1
    return {"values": np.where(there[:, None], scaled, 0).astype(np.float32), "there": there.astype(np.float32)}


def _embed(model: Any, inputs: Mapping[str, Any], *, name: str) -> Any:
    import torch
    from torch.nn.functional import layer_norm, normalize

    side, values, there = model.towers[name], inputs["values"], inputs["there"][..., None]
    first, width = int(side.encoder.config.use_cls_token), side.encoder.config.d_model
    weight = side.encoder.patchifier(there)[:, 0].mean(-1, keepdim=True)  # [B, patches, 1]
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
    measured, parts = there.sum(1, keepdim=True).clamp(min=1), []
    # channel by channel, so that every layer has a window a row: whose each row is stays clear
    for c in range(values.shape[-1]):
        one = values[..., c : c + 1]
        level = (one * there).sum(1, keepdim=True) / measured
        one = torch.where(there > 0, one, level)
        spread = ((one - level).square().sum(1) / measured[:, 0] + 1e-6).sqrt()
        state = side.encoder(past_values=one, past_observed_mask=there).last_hidden_state[:, 0, first:]
        found = layer_norm((state * weight).sum(1), (width,))
        # a typical window's level and spread are as long as what the encoder makes of it
        beside = torch.cat([level[:, 0], spread.log10() + 1.5], 1) * (width / 2) ** 0.5
        parts.append(torch.cat([found, beside], 1))
    return normalize(side.join(torch.cat(parts, 1)), dim=-1)
