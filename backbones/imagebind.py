"""`imagebind`: ImageBind (Girdhar et al., arXiv 2305.05665): pictures and films, text, sound, depth, thermal pictures and
movement in one space.

The weights are the reader's to fetch, and under their own licence: CC BY-NC-SA 4.0. It is printed at every load and binds
every adapter and figure made with them; no copy comes with Mien. Inputs are prepared as the published code does it, with
numpy, scipy, pillow and torch alone; where nothing was published (depth, thermal, movement), `prepare_*` says what is done.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field

from ..core import console
from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Signal, Text
from ._binder import Absent, Arrays, Binder, Tower
from .causal_lm import weights_digest

KIND = "binder"
LICENCE = "CC BY-NC-SA 4.0"
RESTRICTIONS = ("attribution", "share-alike", "non-commercial")
SOURCE = "https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth"
Modality = Literal["vision", "text", "audio", "depth", "thermal", "imu"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
_KINDS = {"vision": "video", "text": "text", "audio": "signal", "depth": "video", "thermal": "video", "imu": "signal"}

SIDE, CONTEXT = 224, 77
_MEAN = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)  # CLIP's, of pictures
_STD = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)
_DISPARITY_PX, _DISPARITY_MEAN, _DISPARITY_STD = 75.0, 0.0418, 0.0295  # Omnivore's, of depth (arXiv 2201.08377)
AUDIO_HZ, AUDIO_CLIP_S, MELS, AUDIO_FRAMES = 16_000, 2, 128, 204
_AUDIO_MEAN, _AUDIO_STD = -4.268, 9.138
VIDEO_CLIP_S = 2
IMU_STEPS, IMU_CLIP_S = 2000, 5
_SI = {("acc", "g"): 9.80665, ("gyro", "deg/s"): math.pi / 180}
IMU = ("acc x", "acc y", "acc z", "gyro x", "gyro y", "gyro z")
_START, _END = 49406, 49407


class Config(Section):
    """weights: the released `imagebind_huge.pth`, or the same tensors as .safetensors; size: `tiny` is the architecture
    with narrow towers, for tests (without `weights` its numbers are random); modalities: the towers to keep, the file's
    others are checked and left unread; tokenizer: a folder with CLIP's tokenizer files (default: open_clip's); video_clips,
    crops, audio_clips: how many parts of a window are looked at, and their embeddings averaged, as published."""

    weights: str | None = None
    size: Literal["huge", "tiny"] = "huge"
    modalities: tuple[Modality, ...] = MODALITIES
    dtype: Literal["float32", "bfloat16"] = "float32"
    tokenizer: str | None = None
    video_clips: int = Field(default=5, ge=1)
    crops: Literal[1, 3] = 3
    audio_clips: int = Field(default=3, ge=1)


# --- loading ------------------------------------------------------------------------------------------------------


def load(config: Config) -> Binder:
    """The frozen towers. MienError when there are no weights, or the file is not what was released: it then names every
    missing, unknown and misshapen tensor, and nothing is loaded."""
    import torch

    from . import _imagebind as inside

    shape = inside.HUGE if config.size == "huge" else inside.TINY
    if not config.modalities:
        raise MienError("backbone.modalities: name at least one of " + ", ".join(MODALITIES))
    names = tuple(m for m in MODALITIES if m in config.modalities)
    if config.weights is None:
        if config.size == "huge":
            raise MienError(
                f"backbone.weights: ImageBind's weights do not come with Mien. Fetch {SOURCE} (4.5 GB, {LICENCE}: no"
                " commercial use) and name the file"
            )
        torch.manual_seed(0)
        model, licence, restrictions = inside.ImageBind(shape, names), "Apache-2.0 (random weights)", ()
    else:
        console.say(
            f"ImageBind's weights are under {LICENCE}: no commercial use, its authors are to be cited, and what is made from"
            " them is passed on under the same terms"
        )
        with torch.device("meta"):
            model = inside.ImageBind(shape, names)
        tensors = read(Path(config.weights).expanduser(), inside.expected(shape), set(model.state_dict()))
        model.load_state_dict(tensors, assign=True)
        licence, restrictions = LICENCE, RESTRICTIONS
    model = model.to(getattr(torch, config.dtype)).eval().requires_grad_(False)
    scales: Any = model.modality_postprocessors
    scale = float(scales["text"]["1"].log_logit_scale.exp()) if "text" in names else 1 / 0.07
    return Binder(
        model=model,
        towers={m: _tower(m, shape.towers[m].layers, config) for m in names},
        dim=shape.dim,
        identity="imagebind_huge" if config.size == "huge" else "mien/imagebind-tiny",
        revision=None,
        fingerprint=weights_digest(model),
        lora_targets=("in_proj", "out_proj", "fc1", "fc2"),
        licence=licence,
        restrictions=restrictions,
        logit_scale=min(scale, 100.0),
    )


def read(path: Path, wanted: Mapping[str, tuple[int, ...]], keep: Iterable[str]) -> dict[str, Any]:
    """The tensors `keep` of a file that must hold exactly `wanted` (name -> shape). MienError listing all that differs."""
    import torch
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MienError(f"backbone.weights: no file {path}; fetch {SOURCE}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
                found = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118 - no mapping
                _compare(path, wanted, found)
                return {k: file.get_tensor(k) for k in keep}
        except (OSError, SafetensorError) as error:
            raise _unreadable(path, error) from None
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in any way there is
        raise _unreadable(path, error) from None
    if not isinstance(tensors, Mapping) or not all(torch.is_tensor(t) for t in tensors.values()):
        raise MienError(f"backbone.weights: {path} holds something else than tensors by name, as the release does")
    _compare(path, wanted, {k: tuple(t.shape) for k, t in tensors.items()})
    return {k: tensors[k] for k in keep}


def _unreadable(path: Path, error: Exception) -> MienError:
    why = (str(error) or type(error).__name__).splitlines()[0]
    return MienError(
        f"backbone.weights: {path} is no readable file of tensors ({why}); give the released .pth, or .safetensors"
    )


def _compare(path: Path, wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    wrong = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unknown": sorted(found.keys() - wanted.keys()),
        "of another shape": [
            f"{k} {list(found[k])}, not {list(wanted[k])}"
            for k in sorted(wanted)
            if found.get(k, wanted[k]) != wanted[k]
        ],
    }
    if any(wrong.values()):
        listed = "".join(f"\n  {what} ({len(names)}): {', '.join(names)}" for what, names in wrong.items() if names)
        raise MienError(f"backbone.weights: {path} is not what was released; nothing was loaded{listed}")


def _tower(modality: str, layers: int, config: Config) -> Tower:
    prepare: dict[str, Callable[[Any], Arrays]] = {
        "vision": lambda s: prepare_vision(s, clips=config.video_clips, crops=config.crops),
        "text": lambda s: prepare_text(s, config.tokenizer),
        "audio": lambda s: prepare_audio(s, clips=config.audio_clips),
        "depth": lambda s: prepare_map(s, "depth", clips=config.video_clips),
        "thermal": lambda s: prepare_map(s, "thermal", clips=config.video_clips),
        "imu": prepare_imu,
    }

    def embed(model: Any, inputs: Mapping[str, Any]) -> Any:
        import torch

        out = (
            model("text", inputs["ids"])
            if modality == "text"
            else model.clips(modality, inputs["values"], inputs["there"])
        )
        return torch.nn.functional.normalize(out, dim=-1)

    trunk = f"modality_trunks.{modality}"
    return Tower(
        kind=_KINDS[modality], module=trunk, layers=tuple(f"{trunk}.blocks.{i}" for i in range(layers)),
        prepare=prepare[modality], embed=embed, joins=modality == "imu",
    )  # fmt: skip


# --- windows as arrays: values float32[S, …] of S clips, and there bool[S] ----------------------------------------------


def _clips(values: Sequence[np.ndarray]) -> Arrays:
    return {"values": np.stack(values).astype(np.float32), "there": np.ones(len(values), bool)}


def starts(seconds: float, clip_s: float, count: int) -> list[float]:
    """Where `count` clips of clip_s seconds begin, evenly over a window; all at 0 of a shorter one."""
    return [float(s) for s in np.linspace(0, max(seconds - clip_s, 0), count)] if count > 1 else [0.0]


def _need(stream: Any, kind: type, modality: str) -> Any:
    if not isinstance(stream, kind):
        raise MienError(f"{modality}: this tower takes a {kind.__name__.lower()}, not {type(stream).__name__}")
    return stream


def _filled(signal: Signal, modality: str) -> np.ndarray:
    """float64[T, C], with a line across each gap. MienError when nothing was measured."""
    values = signal.values.astype(np.float64)
    good = np.ones(len(values), bool) if signal.valid is None else signal.valid
    if not good.any():
        raise Absent(f"{modality}: the window is empty: no sample was measured in it")
    if good.all():
        return values
    at = np.arange(len(values))
    return np.stack([np.interp(at, at[good], column[good]) for column in values.T], 1)


def at_rate(values: np.ndarray, rate_hz: float, wanted_hz: float, padtype: str = "constant") -> np.ndarray:
    """float64[T', C] at another rate, by a polyphase low-pass filter along axis 0."""
    from scipy.signal import resample_poly

    ratio = Fraction(wanted_hz / rate_hz).limit_denominator(1000)
    if ratio == 1:
        return values
    if not ratio:
        raise MienError(f"a rate of {rate_hz:g} Hz is too far from the {wanted_hz:g} Hz that the tower takes")
    return resample_poly(values, ratio.numerator, ratio.denominator, axis=0, padtype=padtype)


# pictures and films


def frames_of(stream: Any, modality: str) -> tuple[np.ndarray, float | None]:
    """[T, H, W, C] and the rate in Hz. stream: a film with `frames` and `rate_hz`, one picture as an array [H, W] or
    [H, W, C], or a pillow image. MienError without a frame."""
    rate = getattr(stream, "rate_hz", None)
    frames = getattr(stream, "frames", stream)
    if hasattr(frames, "convert") and modality == "vision":
        frames = frames.convert("RGB")
    frames = np.asarray(frames)
    if rate is None:
        frames = frames[None] if frames.ndim in (2, 3) else frames
    if frames.ndim == 3:
        frames = frames[..., None]
    channels = 3 if modality == "vision" else 1
    if (
        frames.dtype.kind not in "uif"
        or frames.ndim != 4
        or frames.shape[-1] != channels
        or (rate is None and len(frames) != 1)
    ):
        raise MienError(
            f"{modality}: takes one picture [height, width{', 3' if channels == 3 else ''}] or a film with frames"
            f" [time, height, width, {channels}] and rate_hz; got {type(stream).__name__} of shape {list(frames.shape)}"
        )
    if not len(frames):
        raise MienError(f"{modality}: a film of zero frames; leave the stream out of this recording")
    if min(frames.shape[1:3]) < 1:
        raise MienError(f"{modality}: a picture of {frames.shape[1]} x {frames.shape[2]} pixels")
    return frames, rate


def prepare_vision(stream: Any, *, clips: int = 5, crops: int = 3) -> Arrays:
    """values: float32[S, 3, T, 224, 224], normalised as CLIP's pictures.

    A picture (S = T = 1): its short side to 224 by bicubic interpolation, its centre. A film: from each of `clips` clips of
    2 s the first and the last frame (T = 2), short side to 224 (bilinear), and of these 1 or 3 `crops` along the long side.
    MienError for other than uint8 RGB.
    """
    import torch
    from PIL import Image

    frames, rate = frames_of(stream, "vision")
    if frames.dtype != np.uint8:
        raise MienError(f"vision: pixels must be uint8, 0 to 255; got {frames.dtype}")
    if rate is None or len(frames) == 1:
        height, width = frames.shape[1:3]
        picture = Image.fromarray(frames[0]).resize(_short(width, height), Image.Resampling.BICUBIC)
        made = np.asarray(_centre(picture), np.float32) / 255
        return _clips([((made - _MEAN) / _STD).transpose(2, 0, 1)[:, None]])
    out = []
    for start in starts(len(frames) / rate, VIDEO_CLIP_S, clips):
        first = min(math.ceil(rate * start), len(frames) - 1)
        last = max(min(math.ceil(rate * (start + VIDEO_CLIP_S)), len(frames)) - 1, first)
        pair = torch.from_numpy(np.ascontiguousarray(frames[[first, last]])).permute(0, 3, 1, 2).float() / 255
        width, height = _short(pair.shape[3], pair.shape[2])
        pair = torch.nn.functional.interpolate(pair, (height, width), mode="bilinear", align_corners=False)
        pair = ((pair - torch.from_numpy(_MEAN)[:, None, None]) / torch.from_numpy(_STD)[:, None, None]).transpose(0, 1)
        spare_y, spare_x = height - SIDE, width - SIDE
        for part in (0, 1, 2) if crops == 3 else (1,):
            y, x = (math.ceil(spare * part / 2) for spare in (spare_y, spare_x))
            out.append(pair[:, :, y : y + SIDE, x : x + SIDE].numpy())
    return _clips(out)


def _short(width: int, height: int) -> tuple[int, int]:
    """(width, height) once the shorter one is SIDE."""
    return (SIDE, height * SIDE // width) if width < height else (width * SIDE // height, SIDE)


def _centre(picture: Any) -> Any:
    x, y = round((picture.width - SIDE) / 2), round((picture.height - SIDE) / 2)
    return picture.crop((x, y, x + SIDE, y + SIDE))


def prepare_map(stream: Any, modality: str, *, clips: int = 5) -> Arrays:
    """values: float32[S, 1, 224, 224] of depth or thermal pictures: short side to 224 (bicubic), the centre; of a film,
    `clips` frames spread over it.

    Values must lie in 0 … 1 (uint8 is divided by 255). No code for them was published. Of depth the paper takes disparity,
    after Omnivore: give what `disparity` makes, and it is standardised as there. Of heat a fixed span of the camera's,
    which is left as it is; a span taken from each picture would differ between a person's windows. MienError for others.
    """
    from PIL import Image

    frames, _ = frames_of(stream, modality)
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, min(clips, len(frames))).round().astype(int)), ..., 0]
    scaled = chosen.astype(np.float32) / (255 if chosen.dtype == np.uint8 else 1)
    if not (np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 1):
        raise MienError(
            f"{modality}: values must lie in 0 … 1, or be uint8"
            + (": give disparity, not distance (imagebind.disparity)" if modality == "depth" else "")
        )
    out = []
    for frame in scaled:
        picture = Image.fromarray(frame).resize(_short(frame.shape[1], frame.shape[0]), Image.Resampling.BICUBIC)
        made = np.clip(np.asarray(_centre(picture)), 0, 1)
        out.append(((made - _DISPARITY_MEAN) / _DISPARITY_STD if modality == "depth" else made)[None])
    return _clips(out)


def disparity(distance_m: np.ndarray, focal_px: float, baseline_m: float = 0.075) -> np.ndarray:
    """float32 in 0 … 1, as the depth tower takes it: of distances in metres, what a pair of cameras of this focal length
    in pixels, baseline_m apart (a Kinect's), sees things shifted by, over 75 pixels. 0 where the distance is unknown (0)."""
    seen = np.divide(
        baseline_m * focal_px, distance_m, out=np.zeros(np.shape(distance_m)), where=np.asarray(distance_m) > 0
    )
    return (np.minimum(seen, _DISPARITY_PX) / _DISPARITY_PX).astype(np.float32)


# sound


def prepare_audio(stream: Any, *, clips: int = 3) -> Arrays:
    """values: float32[S, 1, 128, 204]: `clips` clips of 2 s at 16 kHz as log mel energies, standardised as published.

    Other rates are resampled (of slower ones the upper bands stay silent, as the towers never heard it: said once). Of two
    channels the mean is taken (the published code takes the left one); more are refused, for how a room's channels add up
    is not ours to guess. Gaps are silence. MienError for what is shorter than one frame, 25 ms.
    """
    signal = _need(stream, Signal, "audio")
    if len(signal.channels) > 2:
        raise MienError(
            f"audio: {len(signal.channels)} channels ({', '.join(signal.channels)}); mix them down to one or two before (5.1:"
            " ITU-R BS.775)"
        )
    good = np.ones(len(signal.values), bool) if signal.valid is None else signal.valid
    if not good.any():
        raise Absent("audio: the window is empty: no sample was measured in it")
    wave = np.where(good[:, None], signal.values, 0).astype(np.float64).mean(1)
    if signal.rate_hz < AUDIO_HZ:
        _say_once(
            f"audio: {signal.rate_hz:g} Hz is resampled to {AUDIO_HZ} Hz; nothing above {signal.rate_hz / 2:g} Hz was recorded,"
            " and ImageBind learned from sound that has it"
        )
    wave = at_rate(wave, signal.rate_hz, AUDIO_HZ)
    if len(wave) < 400:
        raise MienError(f"audio: {len(wave) / AUDIO_HZ:g} s are shorter than one frame (0.025 s)")
    out = []
    for start in starts(len(wave) / AUDIO_HZ, AUDIO_CLIP_S, clips):
        first = int(start * AUDIO_HZ + 1e-6)
        bank = fbank(wave[first : first + AUDIO_CLIP_S * AUDIO_HZ])[:AUDIO_FRAMES]
        padded = np.pad(bank, ((0, AUDIO_FRAMES - len(bank)), (0, 0)))
        out.append(((padded.T - _AUDIO_MEAN) / _AUDIO_STD)[None])
    return _clips(out)


@cache
def _say_once(text: str) -> None:
    console.say(text)


def fbank(wave: np.ndarray) -> np.ndarray:
    """float64[frames, 128]: Kaldi's log mel energies of float64[T] at 16 kHz, its mean taken off: frames of 25 ms every
    10 ms that fit whole, each without its mean, pre-emphasised by 0.97, under a Hann window, in triangles that are even on
    Kaldi's mel scale from 20 Hz to 8 kHz, floored at float32's epsilon."""
    frames = np.lib.stride_tricks.sliding_window_view(wave - wave.mean(), 400)[::160]
    frames = frames - frames.mean(1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    power = np.abs(np.fft.rfft((frames - 0.97 * before) * np.hanning(400), 512)) ** 2
    return np.log(np.maximum(power @ _triangles(), np.finfo(np.float32).eps))


@cache
def _triangles() -> np.ndarray:
    """float64[257, 128]"""
    mel = 1127 * np.log1p(np.arange(257) * (AUDIO_HZ / 512) / 700)
    low, high = 1127 * math.log1p(20 / 700), 1127 * math.log1p(AUDIO_HZ / 2 / 700)
    edge = low + np.arange(MELS + 2) * (high - low) / (MELS + 1)
    up = (mel[:, None] - edge[:-2]) / (edge[1:-1] - edge[:-2])
    down = (edge[2:] - mel[:, None]) / (edge[2:] - edge[1:-1])
    return np.maximum(0, np.minimum(up, down))


# movement


def prepare_imu(stream: Any) -> Arrays:
    """values: float32[S, 6, 2000]: 5 s of acceleration in m/s² and turning rate in rad/s, resampled to 2,000 steps (400 Hz).

    stream: a signal with all six axes, or several by name, as {"acc": …, "gyro": …}. The paper says no more than length and
    steps (appendix B), and no code was published; g and degrees become SI units, other units stay. A shorter window holds
    its last value, of a longer one three clips of 5 s are taken. Gaps become lines. MienError for a missing axis: the six
    are found by name.
    """
    parts = dict(stream) if isinstance(stream, Mapping) else {"": stream}
    names = [
        (part, i, f"{part} {c}".strip())
        for part, s in parts.items()
        for i, c in enumerate(_need(s, Signal, "imu").channels)
    ]
    places = [names[i][:2] for i in imu_order([n for _, _, n in names])]
    steps = {
        part: at_rate(_filled(s, "imu"), s.rate_hz, IMU_STEPS / IMU_CLIP_S, "line")
        for part, s in parts.items() if any(part == p for p, _ in places)
    }  # fmt: skip
    length = min(map(len, steps.values()))
    units = [_SI.get((axis.split()[0], parts[part].unit), 1.0) for axis, (part, _) in zip(IMU, places, strict=True)]
    values = np.stack([steps[part][:length, i] * unit for unit, (part, i) in zip(units, places, strict=True)])
    longer = length > IMU_STEPS * 1.01  # a window cut to 5 s may have a sample more
    out = []
    for start in starts(length * IMU_CLIP_S / IMU_STEPS, IMU_CLIP_S, 3 if longer else 1):
        first = int(start * IMU_STEPS / IMU_CLIP_S + 1e-6)
        clip = values[:, first : first + IMU_STEPS]
        out.append(np.pad(clip, ((0, 0), (0, IMU_STEPS - clip.shape[1])), mode="edge"))
    return _clips(out)


def imu_order(channels: Sequence[str]) -> list[int]:
    """Where acc x, y, z and gyro x, y, z are among the channels. MienError naming what is missing."""
    found: dict[str, int] = {}
    for i, name in enumerate(channels):
        if match := re.fullmatch(r"(?:.*?(acc|gyr|rot)\w*?|([agw]))[ _.-]?([xyz])", name.lower()):
            sensor = "acc" if (match[1] or match[2])[0] == "a" else "gyro"
            found.setdefault(f"{sensor} {match[3]}", i)
    if lost := [axis for axis in IMU if axis not in found]:
        raise MienError(
            f"imu: no channel for {', '.join(lost)} among {', '.join(channels)}; the tower needs acceleration and turning rate"
            " along three axes (acc_x … gyro_z)"
        )
    return [found[axis] for axis in IMU]


# words


def prepare_text(stream: Any, tokenizer: str | None = None) -> Arrays:
    """ids: int64[77]: CLIP's tokens between its start and its end, cut to fit, then zeros. stream: Text (its utterances,
    joined) or a string. Absent where there are no words."""
    words = " ".join(stream.text) if isinstance(stream, Text) else stream
    if not isinstance(words, str):
        raise MienError(f"text: this tower takes text, not {type(stream).__name__}")
    if not words.strip():
        raise Absent("text: there are no words in this window")
    ids = _tokens(tokenizer)(words)
    return {"ids": np.pad(np.asarray(ids, np.int64), (0, CONTEXT - len(ids)))}


@cache
def _tokens(folder: str | None) -> Callable[[str], list[int]]:
    if folder is None:
        try:
            from open_clip.tokenizer import SimpleTokenizer
        except ImportError:
            raise MienError(
                "text: CLIP's vocabulary is not here: pip install 'mien[clip]', or name a folder with CLIP's tokenizer files"
                " under backbone.tokenizer"
            ) from None
        clip = SimpleTokenizer()
        return lambda words: [_START, *clip.encode(words)[: CONTEXT - 2], _END]
    from transformers import CLIPTokenizer

    try:
        files = CLIPTokenizer.from_pretrained(str(Path(folder).expanduser()), local_files_only=True)
        edges = files("a")["input_ids"]
    except (OSError, ValueError, TypeError) as error:
        raise MienError(f"backbone.tokenizer: no CLIP tokenizer in {folder}: {str(error).splitlines()[0]}") from None
    if (edges[0], edges[-1]) != (_START, _END):
        raise MienError(
            f"backbone.tokenizer: {folder} numbers its tokens otherwise than CLIP (its ends are not {_START}, {_END})"
        )
    return lambda words: files(words, truncation=True, max_length=CONTEXT)["input_ids"]
