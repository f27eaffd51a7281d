"""Ready-made identity attackers for voices and faces, where their packages are installed. Nothing is fetched.

Both give one vector for each clip or face; rows of such vectors are `identity.reidentify.Views`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import resample_poly

from ..core.assets import sha256
from ..core.errors import MienError

_RATE, _LEAST_S, _LOUDNESS = 16_000, 0.5, 10 ** (-30 / 20)
_WEIGHTS = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
_INSTALL = "pip install --no-deps resemblyzer==0.1.4 && pip install librosa webrtcvad-wheels"


def embed(audio: np.ndarray, rate: float) -> np.ndarray:
    """float32[256], unit length: Resemblyzer's speaker embedding (GE2E, arXiv 1710.10467) of a mono clip.

    audio: float[n] in [-1, 1], sampled at `rate` Hz; it is resampled to 16 kHz, and raised to -30 dBFS where it is
    fainter, as the encoder was trained; silence is kept. Raises MienError without Resemblyzer, where its weights are
    not those that were checked, and on NaN, silent or too short audio.
    """
    audio = np.asarray(audio, dtype=np.float64)
    if audio.ndim != 1 or not rate > 0 or len(audio) < _LEAST_S * rate:
        raise MienError(
            f"a voice is float[n] of {_LEAST_S} s or more, got shape {list(audio.shape)} at {rate:g} Hz; mix to mono, or"
            " leave the clip out"
        )
    loudness = float(np.sqrt((audio**2).mean()))
    if not np.isfinite(audio).all() or loudness == 0:
        raise MienError("a voice clip is silent, or holds NaN or infinite values; leave it out")
    encoder = _encoder()
    ratio = Fraction(_RATE / rate).limit_denominator(1000)
    wav = resample_poly(audio, ratio.numerator, ratio.denominator) * max(1.0, _LOUDNESS / loudness)
    return np.asarray(encoder.embed_utterance(wav.astype(np.float32)), dtype=np.float32)


def faces(weights: Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function uint8[150, 150, 3] (an aligned face) -> float64[128]: dlib's recognition network, from its `.dat` file
    on disk (a format of its own that holds numbers, no program). Raises MienError without dlib or the file."""
    try:
        import dlib  # type: ignore[import-not-found]
    except ImportError:
        raise MienError("the face attacker needs dlib; run `pip install dlib-bin`") from None
    if not Path(weights).is_file():
        raise MienError(f"no face weights at {weights}; name dlib_face_recognition_resnet_model_v1.dat")
    network: Any = dlib.face_recognition_model_v1(str(weights))  # type: ignore[attr-defined]
    return lambda face: np.asarray(network.compute_face_descriptor(np.ascontiguousarray(face, dtype=np.uint8)))


@cache
def _encoder() -> Any:
    # the package loads its checkpoint itself, and torch reads tensors only unless this variable says otherwise
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        raise MienError(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD lets weights run programs; unset it to load the voice attacker"
        )
    try:
        import resemblyzer  # type: ignore[import-not-found]
    except ImportError as error:
        raise MienError(f"the voice attacker needs Resemblyzer ({error}); run `{_INSTALL}`") from None
    weights = Path(str(resemblyzer.__file__)).with_name("pretrained.pt")
    if not weights.is_file() or sha256(weights) != _WEIGHTS:
        raise MienError(
            f"{weights} is not the checkpoint of Resemblyzer 0.1.4 that was checked; run `{_INSTALL}` again"
        )
    return resemblyzer.VoiceEncoder("cpu", verbose=False, weights_fpath=weights)
