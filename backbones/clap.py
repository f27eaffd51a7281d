"""`clap`: sound and words through CLAP (Wu et al., arXiv 2211.06687; Elizalde et al., 2206.04769), as transformers has it.

Its sound tower is a Swin transformer: attention is among patches of a local square, so that these layers see several rows of
each window. LoRA leaves them out of its default targets: whose a row is must be clear for every person's gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Signal
from ._binder import Absent, Arrays, Binder, Tower, still, words_of
from .causal_lm import weights_digest
from .imagebind import at_rate, starts

KIND = "binder"
# ITU-R BS.775-3, table 2, to one channel: what the centre and the surrounds weigh beside left and right; no LFE.
_WEIGHTS = {"fl": 2**-0.5, "fr": 2**-0.5, "fc": 1.0, "lfe": 0.0, "sl": 0.5, "sr": 0.5}
_ALIASES = {"l": "fl", "r": "fr", "c": "fc", "left": "fl", "right": "fr", "centre": "fc", "center": "fc", "ls": "sl", "rs": "sr",
            "bl": "sl", "br": "sr", "sub": "lfe"}  # fmt: skip


class Config(Section):
    """model: a hub id or a local folder, of safetensors; revision: of the hub; licence: of these weights, as whoever
    published them states it; tokens: of a text, at most; clips: how many parts of a window longer than the tower's own span
    are heard, and their embeddings averaged."""

    model: str = "laion/clap-htsat-unfused"
    revision: str | None = None
    licence: str = "not stated by the recipe"
    tokens: int = Field(default=64, ge=4, le=512)
    clips: int = Field(default=1, ge=1)


def load(config: Config) -> Binder:
    """The frozen towers. MienError when they cannot be loaded, or tensors are missing."""
    import torch
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    how: dict[str, Any] = {"revision": config.revision} if config.revision else {}
    try:
        made: Any = ClapModel.from_pretrained(
            config.model, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **how
        )
        model, outcome = made
        tokenizer = AutoTokenizer.from_pretrained(config.model, trust_remote_code=False, **how)
        ears = ClapFeatureExtractor.from_pretrained(config.model, **how)
    except Exception as error:  # hub, disk, json and shapes each fail in their own way
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise MienError(
            f"backbone.model: cannot load CLAP from {config.model!r} ({why}); give a hub id that you can reach, or a folder"
            " with config.json, model.safetensors, preprocessor_config.json and a tokenizer"
        ) from None
    if lost := sorted(outcome["missing_keys"]):
        raise MienError(f"backbone.model: {config.model!r} lacks {len(lost)} tensors, {lost[0]} first: no CLAP model")
    model = still(model.float().requires_grad_(False))
    ears.truncation = "fusion" if model.config.audio_config.enable_fusion else "rand_trunc"  # it tells the mel scale
    local = Path(config.model).exists()
    targets = [
        n for n, m in model.named_modules()
        if type(m) is torch.nn.Linear and not (n.startswith("audio_model.") and ".attention." in n)
    ]  # fmt: skip
    blocks = {
        "audio": tuple(n for n, m in model.named_modules() if type(m).__name__ == "ClapAudioLayer"),
        "text": tuple(n for n, m in model.named_modules() if type(m).__name__ == "ClapTextLayer"),
    }
    towers = {
        "audio": Tower(
            kind="signal", module="audio_model", layers=blocks["audio"], embed=_audio,
            prepare=partial(prepare_audio, ears=ears, clips=config.clips),
        ),
        "text": Tower(
            kind="text", module="text_model", layers=blocks["text"], embed=_text,
            prepare=partial(prepare_text, tokenizer=tokenizer, tokens=config.tokens),
        ),
    }  # fmt: skip
    return Binder(
        model=model, towers=towers, dim=model.config.projection_dim,
        identity=f"local/{Path(config.model).name}" if local else config.model,
        revision=None if local else config.revision, fingerprint=weights_digest(model), lora_targets=targets,
        licence=config.licence, logit_scale=min(float(model.logit_scale_a.exp()), 100.0),
    )  # fmt: skip


def mono(signal: Signal) -> np.ndarray:
    """float64[T] of one channel, of two (their mean) or of 5.1, whose channels are named (fl, fr, fc, lfe, sl, sr, or the
    like), mixed down as ITU-R BS.775 says and scaled so that it cannot clip. Gaps are silence. MienError for others."""
    good = np.ones(len(signal.values), bool) if signal.valid is None else signal.valid
    if not good.any():
        raise Absent("audio: the window is empty: no sample was measured in it")
    values = np.where(good[:, None], signal.values, 0).astype(np.float64)
    if values.shape[1] <= 2:
        return values.mean(1)
    names = [_ALIASES.get(c.lower(), c.lower()) for c in signal.channels]
    if len(set(names)) < len(names) or set(names) - set(_WEIGHTS):
        raise MienError(
            f"audio: {len(names)} channels ({', '.join(signal.channels)}); name those of 5.1 fl, fr, fc, lfe, sl, sr, or mix"
            " them down to one or two before (ITU-R BS.775)"
        )
    weights = np.array([_WEIGHTS[n] for n in names])
    return values @ (weights / max(weights.sum(), 1.0))


def prepare_audio(stream: Any, *, ears: Any, clips: int) -> Arrays:
    """values: float32[S, C, frames, mels] of S clips, as the model's own feature extractor makes them at its own rate
    (usually 48 kHz). Windows shorter than its span are repeated and padded, as published; longer ones are cut into `clips`
    clips, evenly spread, where the published code cuts at random. MienError for less than a frame."""
    if not isinstance(stream, Signal):
        raise MienError(f"audio: this tower takes a signal, not {type(stream).__name__}")
    rate = int(ears.sampling_rate)
    wave = at_rate(mono(stream)[:, None], stream.rate_hz, rate)[:, 0].astype(np.float32)
    if len(wave) < ears.fft_window_size:
        raise MienError(f"audio: {len(wave) / rate:g} s are shorter than one frame ({ears.fft_window_size / rate:g} s)")
    span, out = int(ears.nb_max_samples), []
    for start in starts(len(wave) / rate, span / rate, clips):
        first = int(start * rate + 1e-6)
        heard = ears(wave[first : first + span], sampling_rate=rate, padding="repeatpad", return_tensors="np")
        out.append(np.asarray(heard["input_features"])[0])
    return {"values": np.stack(out).astype(np.float32)}


def prepare_text(stream: Any, *, tokenizer: Any, tokens: int) -> Arrays:
    """ids, there: int64[tokens]. Absent where there are no words."""
    made = tokenizer(words_of(stream), padding="max_length", truncation=True, max_length=tokens)
    return {"ids": np.asarray(made["input_ids"], np.int64), "there": np.asarray(made["attention_mask"], np.int64)}


def _audio(model: Any, inputs: Mapping[str, Any]) -> Any:
    import torch
    from torch.nn.functional import normalize

    values = inputs["values"]
    short = torch.zeros(
        len(values), 1, dtype=torch.bool, device=values.device
    )  # no clip is longer than the tower's span
    found = [model.get_audio_features(values[:, i], is_longer=short).pooler_output for i in range(values.shape[1])]
    return normalize(torch.stack(found, 1).mean(1), dim=-1)


def _text(model: Any, inputs: Mapping[str, Any]) -> Any:
    from torch.nn.functional import normalize

    return normalize(model.get_text_features(inputs["ids"], attention_mask=inputs["there"]).pooler_output, dim=-1)
