"""What the page is given of a recording: streams in physical units, what was detected in them, and vital signs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from ...core.records import Events, Recording, Signal, Stream, Text, Video
from ...data import physiology

SOUND_HZ = 4000.0  # from here on a stream is heard
MOST = 20_000  # points of a line; a longer one is drawn as its least and largest values


class Range(NamedTuple):
    """Where a vital sign usually lies in adults at rest, and what the page's scale spans."""

    unit: str
    low: float
    high: float
    least: float
    most: float
    source: str


RANGES = {
    "heart rate": Range("/min", 60, 100, 30, 160, "usual clinical limits, adults at rest"),
    "RMSSD": Range("ms", 19, 75, 0, 150, "short-term norms, Nunan, Sandercock & Brodie 2010, PACE 33:1407"),
    "breathing": Range("/min", 12, 20, 4, 36, "usual clinical limits, adults at rest"),
    "skin responses": Range("/min", 1, 3, 0, 20, "Dawson, Schell & Filion, Handbook of Psychophysiology; more with arousal"),
    "skin conductance": Range("µS", 2, 20, 0, 30, "Dawson, Schell & Filion, Handbook of Psychophysiology"),
    "skin temperature": Range("°C", 30, 36, 20, 42, "wrist or finger, in a warm room"),
}  # fmt: skip


def show(r: Recording, roles: Mapping[str, str]) -> dict[str, Any]:
    """A recording as the page reads it (JSON). roles: role -> stream, as `evaluation/vitals.roles` finds them. No id, no
    person, no label: what a rater must not know is not sent."""
    found = marks(r, roles)
    streams = [_stream(name, s, found.get(name)) for name, s in r.streams.items()]
    return {"seconds": r.seconds, "streams": streams, "vitals": _vitals(r, roles, found)}


def encode(shown: Mapping[str, Any]) -> bytes:
    """JSON that may also stand inside a script element of a page."""
    text = json.dumps(shown, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()


class Marks(NamedTuple):
    """What was detected in a stream: kind "beat" or "scr", times [s] of the recording's clock, heights (rises [uS])."""

    kind: str
    times: np.ndarray
    heights: np.ndarray


def marks(r: Recording, roles: Mapping[str, str]) -> dict[str, Marks]:
    """Stream -> detected beats or skin conductance responses; a stream with a gap has none."""
    out = {}
    for role, kind in (("pulse", "beat"), ("ecg", "beat"), ("eda", "scr")):
        s = r.streams.get(roles.get(role, ""))
        if not isinstance(s, Signal) or not s.complete:
            continue
        x = s.values[:, 0].astype(np.float64)
        if kind == "beat":
            times = physiology.beats(x, s.rate_hz, "ecg" if role == "ecg" else "pulse")
            heights = np.zeros(len(times))
        else:
            times, heights = physiology.responses(x / (1000 if s.unit == "nS" else 1), s.rate_hz)
        out[roles[role]] = Marks(kind, times + s.offset_s, heights)
    return out


def _vitals(r: Recording, roles: Mapping[str, str], found: Mapping[str, Marks]) -> dict[str, float]:
    """Name (of RANGES) -> value; what cannot be found is left out."""

    def stream(role: str) -> Signal | None:
        s = r.streams.get(roles.get(role, ""))
        return s if isinstance(s, Signal) and s.complete and len(s.values) else None

    out: dict[str, float] = {}
    for role in ("pulse", "ecg"):
        if roles.get(role) in found and "heart rate" not in out:
            heart = physiology.heart(found[roles[role]].times)
            out |= {"heart rate": heart["hr"], "RMSSD": heart["rmssd"]}
    if (breath := stream("breath")) is not None:
        out["breathing"] = 60 * physiology.breathing_hz(breath.values[:, 0], breath.rate_hz)
    if (eda := stream("eda")) is not None:
        out["skin responses"] = 60 * len(found[roles["eda"]].times) / eda.seconds
        out["skin conductance"] = float(np.median(eda.values)) / (1000 if eda.unit == "nS" else 1)
    if (temp := stream("temp")) is not None:
        out["skin temperature"] = float(temp.values.mean())
    return {k: round(v, 3) for k, v in out.items() if np.isfinite(v)}


def _stream(name: str, s: Stream, found: Marks | None) -> dict[str, Any]:
    head: dict[str, Any] = {"name": name, "offset": s.offset_s, "seconds": s.seconds}
    if isinstance(s, Events):
        assert s.party is not None
        return head | {
            "kind": "events", "kinds": s.kinds, "times": s.times_s.tolist(), "durations": s.durations_s.tolist(),
            "codes": s.codes.tolist(), "party": s.party.tolist(),
        }  # fmt: skip
    if isinstance(s, Text):
        return head | {
            "kind": "text", "times": s.times_s.tolist(), "ends": s.ends_s.tolist(), "text": s.text, "speakers": s.speakers,
        }  # fmt: skip
    if isinstance(s, Video):
        return head | {"kind": "video", **_video(s)}
    head |= {"kind": "signal", "unit": s.unit, "channels": s.channels}
    if found is not None:
        head["marks"] = {
            "kind": found.kind, "times": [round(t, 4) for t in found.times.tolist()],
            "heights": [round(h, 4) for h in found.heights.tolist()],
        }  # fmt: skip
    if s.rate_hz >= SOUND_HZ:
        head |= {"kind": "sound", **_sound(s)}
    values = s.values.astype("<f4")
    if s.valid is not None:
        values = np.where(s.valid[:, None], values, np.float32("nan"))
    values, rate = _thin(values, s.rate_hz)
    return head | {"rate": rate, "values": base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()}


def _thin(x: np.ndarray, rate_hz: float) -> tuple[np.ndarray, float]:
    """x float32[T, C], or where it is long the least and the largest value of each stretch, in turn."""
    step = -(-len(x) // (MOST // 2))
    if step <= 2:
        return x, rate_hz
    part = x[: len(x) // step * step].reshape(-1, step, x.shape[1])
    with np.errstate(invalid="ignore"):
        return np.stack([part.min(1), part.max(1)], axis=1).reshape(-1, x.shape[1]), 2 * rate_hz / step


def _sound(s: Signal) -> dict[str, Any]:
    """A wav of 16 bits and a spectrogram, uint8[bands, frames] over 80 dB, both in base64."""
    from scipy.io import wavfile
    from scipy.signal import stft

    x = np.clip(np.nan_to_num(s.values[:, 0].astype(np.float64)), -1, 1)
    file = io.BytesIO()
    wavfile.write(file, round(s.rate_hz), np.rint(x * 32767).astype(np.int16))
    wav = {"wav": base64.b64encode(file.getvalue()).decode()}
    n = 512 if s.rate_hz >= 8000 else 256
    if len(x) < n:
        return wav
    hop = max(n // 4, -(-len(x) // 1500))
    hz, _, z = stft(x, fs=s.rate_hz, nperseg=n, noverlap=max(0, n - hop), padded=False, boundary=cast(str, None))
    top = min(5000.0, s.rate_hz / 2)
    level = 20 * np.log10(np.abs(z[hz <= top]) + 1e-9)
    level = (np.clip(level - level.max(), -80, 0) + 80) / 80 * 255
    picture = np.rint(level[::-1]).astype(np.uint8)  # the highest band first, as a picture is drawn
    return wav | {
        "spectrogram": base64.b64encode(np.ascontiguousarray(picture).tobytes()).decode(), "bands": picture.shape[0],
        "top": top, "first": n / 2 / s.rate_hz, "hop": min(hop, n) / s.rate_hz,
    }  # fmt: skip


def _video(s: Video) -> dict[str, Any]:
    """At most 120 small pictures (JPEG, base64) and how many a second."""
    from PIL import Image

    step = -(-len(s.frames) // 120)
    pictures = []
    for frame in s.frames[::step]:
        small = Image.fromarray(frame)
        small.thumbnail((240, 240))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=80)
        pictures.append(base64.b64encode(file.getvalue()).decode())
    return {"pictures": pictures, "rate": s.rate_hz / step}
