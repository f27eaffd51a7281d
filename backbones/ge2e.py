"""`ge2e`: sound through a speaker encoder with real weights out of a registry package: the generalised end-to-end loss of Wan
et al. (arXiv 1710.10467), trained by Resemble AI on LibriSpeech and VoxCeleb (`mien assets fetch resemblyzer`).

**It was trained to tell people apart, and nothing else.** That makes it the worst case for whoever wants to keep identity out
of a representation, and a fair test of what protects: no tower knows voices better.

Three recurrent layers (LSTM) over mel frames. LoRA adapts what enters each layer's gates, for all frames at once, and the
projection at the end: there a row is a window, as every person's own gradient needs it. What a layer says to itself from
frame to frame stays frozen. Silences are not cut out, as the published code does by a voice detector.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..core import assets
from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Signal
from ._binder import Arrays, Binder, Tower, still
from .causal_lm import weights_digest
from .clap import mono
from .imagebind import at_rate, starts

KIND = "binder"
PART = "resemblyzer"
RATE_HZ = 16_000
HOP, FRAME, MELS, FRAMES = 160, 400, 40, 160  # 10 ms, 25 ms; 1.6 s are one clip, as it was trained
_QUIETEST_DBFS = -30.0  # what is quieter is made as loud, as published
_LAYERS, _WIDTH = 3, 256


class Config(Section):
    """model: `resemblyzer`, or `tiny`, random and for tests; clips: how many stretches of 1.6 s of a window are heard, evenly
    spread, and their embeddings averaged."""

    model: Literal["resemblyzer", "tiny"] = "resemblyzer"
    clips: int = Field(default=3, ge=1)


def load(config: Config) -> Binder:
    """The frozen tower. MienError when its weights were not fetched or are damaged."""
    import torch

    if config.model == "tiny":
        torch.manual_seed(0)
        model = encoder(width=16)
        identity, licence = "mien/ge2e-tiny", "Apache-2.0 (random weights)"
    else:
        assets.verify(PART)
        model = encoder()
        fill(model, assets.file(PART))
        identity, licence = f"mien-assets/{PART}", f"{PART}: {assets.describe(PART).licence}"
    model = still(model.float().requires_grad_(False))
    tower = Tower(
        kind="signal", module="audio", layers=tuple(f"audio.layers.{i}" for i in range(_LAYERS)), embed=_embed, early=_early,
        late=_late, prepare=partial(prepare, clips=config.clips),
    )  # fmt: skip
    targets = [n for n, m in model.named_modules() if type(m) is torch.nn.Linear and not n.endswith(".recurrent")]
    return Binder(
        model=model, towers={"audio": tower}, dim=model.audio.linear.out_features, identity=identity, revision=None,
        fingerprint=weights_digest(model), licence=licence, lora_targets=targets,
    )  # fmt: skip


def encoder(width: int = _WIDTH) -> Any:
    """The network with random weights: `audio.layers.N.{inputs, recurrent}`, the four gates of an LSTM as linear layers, and
    `audio.linear`."""
    from torch import nn

    class Layer(nn.Module):
        def __init__(self, given: int) -> None:
            super().__init__()
            self.inputs, self.recurrent = nn.Linear(given, 4 * width), nn.Linear(width, 4 * width)

        def forward(self, x: Any) -> Any:
            """float32[B, clips, frames, given] -> [B, clips, frames, width] (Hochreiter and Schmidhuber 1997, with a forget
            gate; the order of gates is torch's)."""
            import torch

            driven = self.inputs(x).flatten(0, 1)
            h = c = driven.new_zeros(len(driven), width)
            out = []
            for moment in driven.unbind(1):
                i, f, g, o = (moment + self.recurrent(h)).chunk(4, -1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                out.append(h)
            return torch.stack(out, 1).unflatten(0, x.shape[:2])

    class Voice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Layer(MELS if i == 0 else width) for i in range(_LAYERS)])
            self.linear = nn.Linear(width, width)

    model = nn.Module()
    model.audio = Voice()
    return model


def fill(model: Any, path: Path) -> None:
    """The weights of a published checkpoint (`model_state` with `lstm.*` and `linear.*`). MienError, with all names, when some
    are missing or misshapen; nothing is half filled."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        found = {k: v for k, v in state.items() if torch.is_tensor(v)}
    except Exception as error:  # a damaged pickle fails in any way there is
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise MienError(f"{path} cannot be read ({why}); run `mien assets fetch {PART}`") from None
    names = {
        f"audio.layers.{i}.{part}.{kind}": f"lstm.{kind}_{short}_l{i}"
        for i in range(_LAYERS)
        for part, short in (("inputs", "ih"), ("recurrent", "hh"))
        for kind in ("weight", "bias")
    }
    names |= {f"audio.linear.{kind}": f"linear.{kind}" for kind in ("weight", "bias")}
    own = model.state_dict()
    wrong = [n for k, n in names.items() if n not in found or found[n].shape != own[k].shape]
    if wrong:
        raise MienError(
            f"{path}: {', '.join(wrong)} missing or misshapen; it is no GE2E encoder as Resemblyzer ships it"
        )
    model.load_state_dict({k: found[n] for k, n in names.items()})


def prepare(stream: Any, *, clips: int) -> Arrays:
    """mel: float32[clips, 160, 40], power in mel bands (Slaney's, not a logarithm), as librosa computes it: 25 ms Hann windows
    every 10 ms. Shorter windows end in silence. `Absent` without a sample, MienError for another kind of stream."""
    from transformers.audio_utils import spectrogram, window_function

    if not isinstance(stream, Signal):
        raise MienError(f"audio: this tower takes a signal, not {type(stream).__name__}")
    wave = at_rate(mono(stream)[:, None], stream.rate_hz, RATE_HZ)[:, 0]
    level = 10 * np.log10(max(float(np.mean(wave**2)), 1e-12))
    wave = wave * 10 ** (max(_QUIETEST_DBFS - level, 0.0) / 20) if level > -100 else wave  # of silence nothing is made
    seconds = len(wave) / RATE_HZ
    wave = np.pad(wave, (0, max(0, HOP * FRAMES - len(wave))))
    mel = spectrogram(
        wave, window_function(FRAME, "hann"), FRAME, HOP, power=2.0, center=True, pad_mode="constant", mel_filters=_filters(),
        mel_floor=0.0,
    ).T  # fmt: skip
    first = [round(s * RATE_HZ / HOP) for s in starts(seconds, HOP * FRAMES / RATE_HZ, clips)]
    return {"mel": np.stack([mel[f : f + FRAMES] for f in first]).astype(np.float32)}


@lru_cache(maxsize=1)
def _filters() -> np.ndarray:
    """float64[201, 40]"""
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(FRAME // 2 + 1, MELS, 0.0, RATE_HZ / 2, RATE_HZ, norm="slaney", mel_scale="slaney")


def _early(model: Any, inputs: Mapping[str, Any], k: int) -> Any:
    """float32[B, clips, frames, bands or width] before the last k layers."""
    x = inputs["mel"]
    for layer in model.audio.layers[: _LAYERS - k]:
        x = layer(x)
    return x


def _late(model: Any, x: Any, k: int) -> Any:
    from torch.nn.functional import normalize

    for layer in model.audio.layers[_LAYERS - k :]:
        x = layer(x)
    each = normalize(model.audio.linear(x[..., -1, :]).relu(), dim=-1)
    return normalize(each.mean(1), dim=-1)


def _embed(model: Any, inputs: Mapping[str, Any]) -> Any:
    return _late(model, inputs["mel"], _LAYERS)
