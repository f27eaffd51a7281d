"""`audio_codec`: sound as the codes of a pretrained neural codec: Mimi, EnCodec or DAC, through transformers.

One header token says the window's loudness in dB re full scale; then, frame by frame, one code of each codebook. The model
is given by the recipe (a hub id or a local folder with safetensors weights), is never trained here, and has to have been
trained on public data: then the tokens depend on nobody's recording. Mimi with one codebook is 12.5 tokens a second, EnCodec
(24 kHz) 75 for each codebook, DAC (16 kHz) 50. The first two codebooks are for what is said and roughly how; they do carry
whose voice it is. Without weights there is `audio_features`.

The vocabulary is fixed: two codebooks of 2,048 codes at most. Windows are encoded one by one, for padding and chunks of a
batch would let one window's length into another's codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ...backbones.causal_lm import weights_digest
from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Signal, Stream, StreamSpec
from ..machine import Machine
from ..units import span, stack, whole

VERSION = 1
STREAMS = 1
KIND = "signal"
PLACE = "model"
CODES = 2048  # of a codebook, at most
_LEVELS_DB = np.arange(-94.0, 1.0, 2.0)  # the window's loudness; the lowest is silence
TOKENS = {"level": len(_LEVELS_DB), "first": CODES, "second": CODES}
_AT = dict(zip(TOKENS, np.cumsum([0, *TOKENS.values()]).tolist(), strict=False))
_BOOKS = ("first", "second")
_WORKING_DB = -20.0  # how loud the model hears every window
_KNOWN = ("mimi", "encodec", "dac")


class Config(Section):
    """model: hub id or local folder; revision: the hub commit to pin; codebooks: how many, the coarsest first; sha256: of
    the weights, which an adapter's layout keeps: tokens of other weights mean other sounds; device: cuda where there is one,
    else the CPU."""

    model: str
    revision: str | None = None
    codebooks: int = Field(default=1, ge=1, le=len(_BOOKS))
    sha256: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"


class Codec:
    """One stream of one channel of sound, one window length: level, then `codebooks` codes a frame."""

    def __init__(self, config: Config, specs: Mapping[str, StreamSpec], seconds: float):
        ((self.name, self.spec),) = specs.items()
        if len(self.spec.channels) != 1:
            raise MienError(
                f"stream {self.name!r} has {len(self.spec.channels)} channels; the audio_codec codec takes one channel of sound"
            )
        if not 8000 <= self.spec.rate_hz <= 48000:
            raise MienError(
                f"stream {self.name!r}: sound at {self.spec.rate_hz:g} Hz; the audio_codec codec takes 8 to 48 kHz"
            )
        self.low, self.high = span(self.name, self.spec)
        self.model, self.digest = _load(config.model, config.revision, config.device)
        if config.sha256 is not None and config.sha256 != self.digest:
            raise MienError(
                f"audio_codec: the weights of {config.model!r} are sha256 {self.digest}, not {config.sha256}: take those, or"
                " adapt again with these"
            )
        self.books, self.codes = config.codebooks, int(self.model.config.codebook_size)
        _refuse(self.model.config, config)
        self.samples = round(seconds * self.spec.rate_hz)
        hop = _hop(self.model.config)
        self.inner = round(seconds * self.model.config.sampling_rate)
        self.padded = -(-self.inner // hop) * hop
        if self.inner < hop:
            raise MienError(
                f"stream {self.name!r}: a window of {seconds:g} s is shorter than one frame of {config.model!r}"
            )
        self.frames = self._codes(np.zeros(self.inner)).shape[1]

    @cached_property
    def machine(self) -> Machine:
        """Level; then one code of each codebook per frame. Codes that the model does not have are never allowed."""
        books = [(_AT[b], _AT[b] + self.codes) for b in _BOOKS[: self.books]]
        return Machine.of([(0, TOKENS["level"]), *books * self.frames])

    def encode(self, windows: Sequence[Mapping[str, Stream]]) -> list[np.ndarray | str]:
        """One block per window, or why it has none: a gap."""
        x, why = whole(*stack(windows, self.name, self.spec, self.samples), self.name)
        rows = (self._block(w[:, 0]) for w in x)
        return [w or next(rows) for w in why]

    def _block(self, x: np.ndarray) -> np.ndarray:
        x = np.clip((x - (self.low + self.high) / 2) / ((self.high - self.low) / 2), -1, 1)
        x = _resampled(x - x.mean(), self.inner)
        db = 10 * np.log10(max(float((x**2).mean()), 1e-12))
        level = int(np.abs(_LEVELS_DB - db).argmin())
        codes = self._codes(x * 10 ** ((_WORKING_DB - _LEVELS_DB[level]) / 20) if level else np.zeros(self.inner))
        first = np.array([_AT[b] for b in _BOOKS[: self.books]])
        return np.concatenate([[level], (codes.T + first).ravel()]).astype(np.int32)

    def _codes(self, x: np.ndarray) -> np.ndarray:
        """Sound at the model's rate [inner] -> int[codebooks, frames]."""
        import torch

        padded = np.pad(x, (0, self.padded - len(x)))
        wave = torch.as_tensor(padded, dtype=torch.float32, device=self.model.device)[None, None]
        kind, config = self.model.config.model_type, self.model.config
        with torch.inference_mode():
            if kind == "mimi":
                codes = self.model.encode(
                    wave, num_quantizers=max(self.books, config.num_semantic_quantizers)
                ).audio_codes[0]
            elif kind == "dac":
                codes = self.model.encode(wave, n_quantizers=self.books).audio_codes.reshape(self.books, -1)
            else:  # a residual codebook does not depend on those after it: the cheapest rate that has enough of them
                rate = min(b for b in config.target_bandwidths if _books_at(config, b) >= self.books)
                codes = self.model.encode(wave, bandwidth=rate).audio_codes[0, 0]
        return codes[: self.books].cpu().numpy()

    def decode(self, ids: np.ndarray) -> dict[str, Stream]:
        """The reverse; total on every block that `machine` allows."""
        import torch

        ids = np.asarray(ids, dtype=np.int64)
        first = np.array([_AT[b] for b in _BOOKS[: self.books]])
        codes = torch.as_tensor((ids[1:].reshape(-1, self.books) - first).T.copy(), device=self.model.device)[None]
        level = int(ids[0])
        if level == 0:
            x = np.zeros(self.samples)
        else:
            with torch.inference_mode():
                if self.model.config.model_type == "encodec":
                    made = self.model.decode(codes[None], [None]).audio_values
                else:
                    made = self.model.decode(audio_codes=codes).audio_values
            x = made.reshape(-1).float().cpu().numpy().astype(float)[: self.inner]
            x = _resampled(np.pad(x, (0, self.inner - len(x))), self.samples)
            x = x * 10 ** ((_LEVELS_DB[level] - _WORKING_DB) / 20)
        x = np.clip(x, -1, 1) * (self.high - self.low) / 2 + (self.low + self.high) / 2
        made = Signal(values=x[:, None], rate_hz=self.spec.rate_hz, channels=self.spec.channels, unit=self.spec.unit)
        return {self.name: made}


@lru_cache(maxsize=2)
def _load(model: str, revision: str | None, device: str) -> tuple[Any, str]:
    """The frozen model, in float32 and evaluation mode, and its weights' sha256."""
    import torch
    from transformers import AutoConfig, AutoModel

    local = Path(model).expanduser()
    place = str(local) if local.is_dir() else model
    try:
        kind = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False).model_type
        if kind not in _KNOWN:
            raise MienError(f"audio_codec: {model!r} is a {kind} model; this codec speaks {', '.join(_KNOWN)}")
        made: Any = AutoModel.from_pretrained(
            place, revision=revision, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise MienError(
            f"audio_codec: cannot load {model!r}: {str(error).splitlines()[0]} – give a hub id you can reach or a local folder"
            " with config.json and model.safetensors; without weights, take the audio_features codec"
        ) from None
    made.requires_grad_(False)
    # a layout goes to other machines than the one whose recipe said cuda
    return made.eval().to(device if torch.cuda.is_available() else "cpu"), weights_digest(made)


def _refuse(model: Any, config: Config) -> None:
    """MienError for a codec whose codes are not the fixed vocabulary's."""
    what = f"audio_codec: {config.model!r}"
    have = {"mimi": lambda: model.num_quantizers, "dac": lambda: model.n_codebooks}.get(
        model.model_type, lambda: max(_books_at(model, b) for b in model.target_bandwidths)
    )()
    if model.codebook_size > CODES:
        raise MienError(
            f"{what} has codebooks of {model.codebook_size} codes; the vocabulary is fixed and holds {CODES} of each"
        )
    if config.codebooks > have:
        raise MienError(f"{what} has {have} codebook(s), not {config.codebooks}; set codebooks to that")
    if model.model_type == "mimi" and config.codebooks < model.num_semantic_quantizers:
        raise MienError(f"{what} needs its {model.num_semantic_quantizers} semantic codebooks to be decoded")
    if getattr(model, "audio_channels", 1) != 1:
        raise MienError(f"{what} is for {model.audio_channels} channels; take one for a single channel")
    if getattr(model, "normalize", False) or getattr(model, "chunk_length_s", None) is not None:
        raise MienError(
            f"{what} codes chunk by chunk with a scale for each, which no token says; take the 24 kHz model"
        )


def _books_at(model: Any, kbps: float) -> int:
    """How many of EnCodec's codebooks a rate pays for."""
    return int(max(1, np.floor(kbps * 1000 / (np.log2(model.codebook_size) * model.frame_rate) + 1e-9)))


def _hop(model: Any) -> int:
    """Samples of one frame."""
    return int(model.frame_size if model.model_type == "mimi" else model.hop_length)


def _resampled(x: np.ndarray, samples: int) -> np.ndarray:
    from scipy.signal import resample

    return x if len(x) == samples else np.asarray(resample(x, samples))
