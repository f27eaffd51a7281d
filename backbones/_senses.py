"""A model's own towers for pictures and sounds, and what they make of one recording.

LLaVA-1.5's tower takes a row of pixels for each row of a batch, and may be adapted with the language model. The others may not:
Qwen's towers take all pictures and sounds of a batch as one sequence, and LLaVA-OneVision's takes several cuts of one picture, so
that whose a row of their layers is cannot be told, and no person's gradient is to be had there. They and what projects their
output stay frozen. Each recording goes through them alone, once, and its finished soft tokens are handed to the language model:
what a row is shown depends on no other row.

How many soft tokens a recording takes is fixed by the recipe: a picture is one square (its middle; LLaVA-OneVision fills it up to
one), a film its middle picture, a sound so many seconds (a shorter one is followed by silence, and gaps are silence). A
recording without the stream is zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Signal, StreamSpec, Video
from . import clap, imagebind
from ._binder import Absent

TOWERS = {
    "llava": ("image",),
    "llava_onevision": ("image",),
    "qwen2_vl": ("image",),
    "qwen2_5_vl": ("image",),
    "qwen3_vl": ("image",),
    "qwen2_5_omni_thinker": ("image", "audio"),
}
FROZEN = tuple(k for k in TOWERS if k != "llava")
LOWEST_HZ = 4000.0  # of what is taken for a sound: half a telephone's rate
TAKES = {"image": "a film (kind video)", "audio": f"a sound (a signal of {LOWEST_HZ:g} Hz or more)"}
_HEARD = ("feature_size", "sampling_rate", "hop_length", "n_fft")

Packing = Callable[[Sequence[Any]], np.ndarray]


class Shown(Section):
    """What of a recording the model's own towers are shown. stream: which of the cohort's (default: the only one that a tower
    takes); tower: image or audio (default: as the stream is); seconds: how much of a sound, from its start (default: the window);
    side: of the square that a Qwen is shown of a picture, in pixels (default 224)."""

    stream: str | None = None
    tower: Literal["image", "audio"] | None = None
    seconds: float | None = Field(default=None, gt=0)
    side: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, kw_only=True)
class Sense:
    """soft: tokens that stand for one recording (0: this class takes none); pack: recordings, None for nothing -> float32[B, …];
    finished: that is soft tokens, not what the tower takes; square: rows and columns that they stand in, where the language
    model counts places so (M-RoPE; 0: in a line)."""

    soft: int = 0
    pack: Packing | None = None
    finished: bool = False
    square: int = 0


def takes(spec: StreamSpec) -> str | None:
    """Which tower a stream is for, None where none takes it."""
    if spec.kind == "video":
        return "image"
    return "audio" if spec.kind == "signal" and spec.rate_hz >= LOWEST_HZ else None


def chosen(asked: Shown, kind: str, streams: Mapping[str, StreamSpec], seconds: float) -> Shown:
    """`asked` in full, for a cohort's streams and windows of so many seconds; kind: the model's type. MienError naming the key
    where no stream fits, or several do."""
    fits = {n: t for n, s in sorted(streams.items()) if (t := takes(s)) in TOWERS[kind] and asked.tower in (None, t)}
    wanted = " or ".join(TAKES[t] for t in TOWERS[kind] if asked.tower in (None, t))
    if asked.stream is not None and asked.stream not in streams:
        raise MienError(
            f"backbone.shown.stream: no stream {asked.stream!r}; the cohort has {', '.join(sorted(streams))}"
        )
    if asked.stream is not None and asked.stream not in fits:
        raise MienError(
            f"backbone.shown.stream: {asked.stream!r} is nothing for a tower of {kind}, which takes {wanted}"
        )
    if asked.stream is None and len(fits) != 1:
        raise MienError(
            f"backbone.shown.stream: the towers of {kind} take {wanted}, and of the cohort's streams "
            + (f"{', '.join(fits)} are such: name one" if fits else f"({', '.join(sorted(streams))}) none is")
        )
    stream = asked.stream or next(iter(fits))
    full: dict[str, Any] = {"stream": stream, "tower": fits[stream]}
    if fits[stream] == "audio":
        full["seconds"] = seconds if asked.seconds is None else asked.seconds
        if full["seconds"] > seconds + 1e-9:
            raise MienError(f"backbone.shown.seconds: {full['seconds']:g} s of sound, and a window has {seconds:g}")
    return asked.model_copy(update=full)


def own(model: Any, place: str, revision: str | None, asked: Shown | None) -> Sense:
    """How a model of TOWERS is shown recordings by its own tower; place: the folder or hub id that says how these are prepared.
    MienError for a tower that it has not, and sizes that its tower cannot take."""
    config, asked = model.config, asked or Shown()
    kind, there = config.model_type, TOWERS[config.model_type]
    if asked.tower is not None and asked.tower not in there:
        raise MienError(
            f"backbone.shown.tower: {kind} has no tower for {asked.tower}; it has one for {' and '.join(there)}"
        )
    tower = asked.tower or (there[0] if len(there) == 1 else None)
    if tower is None:
        return Sense()
    if tower == "image" and asked.seconds is not None:
        raise MienError("backbone.shown.seconds is of a sound, and the image tower takes a picture; leave it out")
    if asked.side is not None and (tower == "audio" or kind in ("llava", "llava_onevision")):
        raise MienError(
            "backbone.shown.side is of what a Qwen is shown of a picture; this tower knows its own size: leave it out"
        )
    width = config.get_text_config().hidden_size
    if tower == "audio":
        sounds = Sounds.read(place, revision, config.audio_config.num_mel_bins, asked.seconds)
        _, tokens = model.model.audio_tower._get_feat_extract_output_lengths(sounds.frames)
        if tokens < 1:
            raise MienError(f"backbone.shown.seconds: {sounds.seconds:g} s of sound are too short for the tower")
        made = Own(model=model, tokens=tokens, width=width, prepare=partial(_sound, sounds, asked.stream), embed=_heard)
        return Sense(soft=tokens, pack=made.pack, finished=True)
    vision = config.vision_config
    if kind.startswith("llava"):
        images = Images.read(place, revision, vision.image_size)
        tokens = (images.size // vision.patch_size) ** 2 + (config.vision_feature_select_strategy == "full")
        if (
            kind == "llava"
        ):  # "full" has the tower's own first token; LLaVA-OneVision has none, and ends the line with one
            return Sense(soft=tokens, pack=lambda given: images.pack([picture(g, asked.stream) for g in given]))
        prepare = partial(_pixels, replace(images, whole=True), asked.stream)
        made = Own(model=model, tokens=tokens, width=width, prepare=prepare, embed=_seen)
        return Sense(soft=tokens, pack=made.pack, finished=True)
    step = vision.patch_size * vision.spatial_merge_size
    side = asked.side or max(1, 224 // step) * step
    if side % step:
        raise MienError(
            f"backbone.shown.side: {side} pixels, and {kind} sees squares of {step}: take {max(1, side // step) * step}"
        )
    known = Images.read(place, revision, side)
    images = Images(size=side, resize=side, mean=known.mean, std=known.std)
    levels = len(getattr(vision, "deepstack_visual_indexes", None) or ())
    prepare = partial(
        _patches, images, asked.stream, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    )
    made = Own(model=model, tokens=(side // step) ** 2, width=width * (1 + levels), prepare=prepare, embed=_looked)
    return Sense(soft=made.tokens, pack=made.pack, finished=True, square=side // step)


@dataclass(frozen=True, kw_only=True)
class Own:
    """A frozen tower with its projector. prepare(recording) -> what the tower takes of it, None where there is nothing;
    embed(model, that as a tensor) -> float[tokens, width]; width: the language model's, times one more than the layers it is
    shown features at (Qwen3-VL's deepstack features follow the soft tokens themselves)."""

    model: Any
    tokens: int
    width: int
    prepare: Callable[[Any], np.ndarray | None]
    embed: Callable[[Any, Any], Any]

    def pack(self, given: Sequence[Any]) -> np.ndarray:
        """float32[B, tokens, width], each recording by itself. On the GPU where there is one: towers alone, for a language model
        that is sharded over several need not fit one."""
        import torch

        out = np.zeros((len(given), self.tokens, self.width), dtype=np.float32)
        ready = [(row, taken) for row, g in zip(out, given, strict=True) if (taken := self.prepare(g)) is not None]
        if not ready:
            return out
        decoder = self.model.get_decoder()
        towers = [m.eval() for m in self.model.model.children() if m is not decoder]
        device = next(towers[0].parameters()).device
        if device.type == "cpu" and torch.cuda.is_available():
            device = torch.device("cuda")
            for m in towers:
                m.to(device)
        with torch.no_grad():
            for row, taken in ready:
                row[:] = self.embed(self.model.model, torch.as_tensor(taken, device=device)).float().cpu().numpy()
        return out


def _seen(inner: Any, pixels: Any) -> Any:
    """LLaVA-OneVision: the whole picture as one, as it takes each of several pictures."""
    import torch

    sizes = torch.tensor([pixels.shape[1:]], device=pixels.device)
    found = inner.get_image_features(
        pixel_values=pixels[None], image_sizes=sizes, batch_num_images=torch.tensor([2]), return_dict=True
    )
    return found.pooler_output[0]


def _looked(inner: Any, patches: Any) -> Any:
    import torch

    side = round(len(patches) ** 0.5)
    grid = torch.tensor([[1, side, side]], device=patches.device)
    found = inner.get_image_features(pixel_values=patches, image_grid_thw=grid, return_dict=True)
    deeper = getattr(found, "deepstack_features", None) or ()
    return torch.cat([found.pooler_output[0], *(level[0] for level in deeper)], -1)


def _heard(inner: Any, mel: Any) -> Any:
    import torch

    there = torch.ones(1, mel.shape[1], dtype=torch.long, device=mel.device)
    return inner.get_audio_features(mel[None], feature_attention_mask=there, return_dict=True).last_hidden_state


# --- pictures ---------------------------------------------------------------------------------------------------------
def picture(given: Any, stream: str | None) -> Any:
    """What `Images.pack` takes of a recording {stream: Stream}, of a film (its middle picture), or of a picture; None of nothing."""
    found = _of(given, stream)
    return found.frames[len(found.frames) // 2] if isinstance(found, Video) else found


def _of(given: Any, stream: str | None) -> Any:
    if not isinstance(given, Mapping):
        return given
    if stream is None:
        raise MienError(f"backbone.shown.stream: say which of {', '.join(sorted(given))} the tower is shown")
    return given.get(stream)


def _pixels(images: Images, stream: str | None, given: Any) -> np.ndarray | None:
    found = picture(given, stream)
    return None if found is None else images.pack([found])[0]


def _patches(images: Images, stream: str | None, patch: int, merge: int, times: int, given: Any) -> np.ndarray | None:
    """float32[n, 3 · times · patch · patch], as Qwen2VLImageProcessor orders them: by squares of merge x merge patches, each
    picture `times` times over."""
    pixels = _pixels(images, stream, given)
    if pixels is None:
        return None
    n = images.size // (patch * merge)
    cut = pixels.reshape(3, n, merge, patch, n, merge, patch).transpose(1, 4, 2, 5, 0, 3, 6)
    return np.repeat(cut[:, :, :, :, :, None], times, axis=5).reshape((n * merge) ** 2, -1)


@dataclass(frozen=True, kw_only=True)
class Images:
    """How a tower was shown its images: shortest side resized to `resize` pixels (bicubic), the middle `size` x `size`
    cut out, scaled to 0 … 1, less `mean`, over `std`; whole: it is filled up to a square with the mean colour first. Without mean
    and std nothing is known, and `pack` says so."""

    size: int
    resize: int
    whole: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @staticmethod
    def read(place: str, revision: str | None, size: int) -> Images:
        from transformers import ImageProcessingMixin

        try:
            raw, _ = ImageProcessingMixin.get_image_processor_dict(place, revision=revision)
        except (OSError, ValueError):
            return Images(size=size, resize=size)
        crop, short = raw.get("crop_size") or size, raw.get("size") or size
        crop = crop.get("height", size) if isinstance(crop, Mapping) else int(crop)
        short = short.get("shortest_edge", short.get("height", crop)) if isinstance(short, Mapping) else int(short)
        mean, std = raw.get("image_mean"), raw.get("image_std")
        return Images(size=crop, resize=short, mean=mean and tuple(mean), std=std and tuple(std))

    def pack(self, given: Sequence[Any]) -> np.ndarray:
        """uint8[H, W, 3] arrays, PIL images or None -> float32[B, 3, size, size]."""
        from PIL import Image

        if self.mean is None or self.std is None:
            raise MienError(
                "the base has no preprocessor_config.json with image_mean and image_std: nobody knows how its tower was"
                " shown images"
            )
        out = np.zeros((len(given), 3, self.size, self.size), dtype=np.float32)
        for i, image in enumerate(given):
            if image is None:
                continue
            if isinstance(image, np.ndarray):
                if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                    raise MienError(f"an image is uint8[height, width, 3], not {image.dtype}{list(image.shape)}")
            elif not isinstance(image, Image.Image):
                raise MienError(f"an image is uint8[height, width, 3] or a PIL image, not {type(image).__name__}")
            picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
            if not all(picture.size):
                raise MienError(f"an image has height and width, not {picture.size[1]} x {picture.size[0]} pixels")
            picture = picture.convert("RGB")
            if self.whole:
                wide, high = picture.size
                side = max(wide, high)
                square = Image.new("RGB", (side, side), tuple(int(m * 255) for m in self.mean))
                square.paste(picture, ((side - wide) // 2, (side - high) // 2))
                picture = square
            scale = self.resize / min(picture.size)
            wide, high = (max(self.size, round(s * scale)) for s in picture.size)
            picture = picture.resize((wide, high), Image.Resampling.BICUBIC)
            x, y = (wide - self.size) // 2, (high - self.size) // 2
            pixels = np.asarray(picture, dtype=np.float32)[y : y + self.size, x : x + self.size] / 255
            out[i] = ((pixels - np.array(self.mean)) / np.array(self.std)).transpose(2, 0, 1)
        return out


# --- sounds -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Sounds:
    """How a tower was given its sounds: ears, the model's own feature extractor (log-mel frames, as Whisper's), and how many
    seconds it hears here."""

    ears: Any
    seconds: float

    @staticmethod
    def read(place: str, revision: str | None, mels: int, seconds: float | None) -> Sounds:
        from transformers import WhisperFeatureExtractor

        if seconds is None:
            raise MienError(
                "backbone.shown.seconds: how much of a sound the audio tower is to hear; a recipe's window is the default"
            )
        try:
            raw, _ = WhisperFeatureExtractor.get_feature_extractor_dict(place, revision=revision)
        except (OSError, ValueError):
            raw = {}
        lacks = [k for k in _HEARD if not isinstance(raw.get(k), int)]
        if lacks or raw.get("feature_extractor_type", "WhisperFeatureExtractor") != "WhisperFeatureExtractor":
            raise MienError(
                f"the base has no preprocessor_config.json of a WhisperFeatureExtractor with {', '.join(lacks or _HEARD)}: nobody"
                " knows how its tower was given sounds"
            )
        if raw["feature_size"] != mels:
            raise MienError(
                f"preprocessor_config.json of the base has {raw['feature_size']} mel bands (feature_size), and its audio tower {mels}"
            )
        return Sounds(ears=WhisperFeatureExtractor(**{k: raw[k] for k in _HEARD}), seconds=seconds)

    @property
    def samples(self) -> int:
        return round(self.seconds * self.ears.sampling_rate)

    @property
    def frames(self) -> int:
        return -(-self.samples // self.ears.hop_length)

    def wave(self, sound: Any) -> np.ndarray | None:
        """float32[samples] at the tower's rate, one channel; a shorter sound is followed by silence; None of one that holds no
        sample. MienError for what is no sound."""
        if not isinstance(sound, Signal):
            raise MienError(f"a sound is a Signal (values, rate_hz), not {type(sound).__name__}")
        try:
            one = clap.mono(sound)
        except Absent:
            return None
        rate = int(self.ears.sampling_rate)
        found = imagebind.at_rate(one[:, None], sound.rate_hz, rate)[: self.samples, 0]
        return np.pad(found, (0, self.samples - len(found))).astype(np.float32)

    def mel(self, sound: Any) -> np.ndarray | None:
        """float32[mels, frames], as of a sound that silence follows: so the model's own processor takes a short one."""
        wave = self.wave(sound)
        if wave is None:
            return None
        longer, rate = np.pad(wave, (0, self.ears.n_fft)), int(self.ears.sampling_rate)
        made = self.ears(longer, sampling_rate=rate, padding="do_not_pad", truncation=False, return_tensors="np")
        return np.asarray(made["input_features"][0], dtype=np.float32)[:, : self.frames]


def _sound(sounds: Sounds, stream: str | None, given: Any) -> np.ndarray | None:
    found = _of(given, stream)
    return None if found is None else sounds.mel(found)
