"""`audio_features`: how something is said, without what is said by whom: pitch, loudness and colour of a voice.

A header in physical units (median pitch, loudness, the share of each of four bands and how its power lies within it, while
there is voice and while there is none, the noise behind everything, and how deeply a voice falls between its syllables), then
per frame three tokens of what rises above that noise: pitch in half semitones from the median, or unvoiced; loudness in 2 dB
from the window's; and one product code of what the four bands have of their own. Decoding needs no weights: harmonics of a
continuous phase and noise, shaped to the bands; the noise behind them and the dips are drawn anew. What comes back is prosody:
rhythm, melody and emphasis are audible; words, mostly, are not, and neither is whose voice it was, save by pitch and colour.
Nothing above 8 kHz comes back.

Constants are public facts about speaking voices, fixed by VERSION.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.errors import MienError
from ...core.records import Signal, Stream, StreamSpec
from ...data import voice
from ..machine import Machine
from ..units import Ladder, hiss, rng_of, span, stack, whole

VERSION = 2
STREAMS = 1
KIND = "signal"
_MEDIANS_HZ = np.geomspace(voice.LOWEST_HZ, voice.HIGHEST_HZ, 64)
_LEVELS_DB = np.arange(-94.0, 1.0, 2.0)  # the window's loudness; the lowest is silence
_SHARES_DB = np.arange(-60.0, 1.0, 3.0)  # a band's share of the power
_SEMITONE, _WIDE = 0.5, 36  # pitch: steps of half a semitone to ±18
_SOUNDS_DB = np.arange(-50.0, 21.0, 2.0)  # a frame's loudness from the window's
_COLOURS_DB = np.array([-12.0, -5.0, 0.0, 5.0, 12.0])  # a band's share from the header's
EDGES_HZ = (50.0, 700.0, 1500.0, 2800.0, 8000.0)
BANDS = len(EDGES_HZ) - 1
# the parts of the bands, whose shares are told once for all frames with voice and once for those without
FINE_HZ = (50.0, *(100.0 * np.array([1.2, 2, 4, 7, 11, 15, 21, 28, 35, 42, 50, 60, 70, 80])))
_BEGINS = np.searchsorted(FINE_HZ, EDGES_HZ)[:-1]  # which of them each band begins with
_BAND = np.repeat(np.arange(BANDS), np.diff([*_BEGINS, len(FINE_HZ) - 1]))
_NOISES = 321
_DIPS_DB = np.arange(0.0, 16.0)  # within a frame with voice, the mean of decibels below the decibels of the mean
_SYLLABLES_HZ = (3.5, 5.5)  # how fast people speak: where the dips come, for frames do not say
_SHAPES_DB = np.arange(-60.0, 16.0, 3.0)  # power per Hz of a part, from its band's
TOKENS = {
    "median": len(_MEDIANS_HZ), "voiceless": 1, "level": len(_LEVELS_DB), "share": len(_SHARES_DB),
    "pitch": 2 * _WIDE + 1, "unvoiced": 1, "loudness": len(_SOUNDS_DB), "colour": len(_COLOURS_DB) ** BANDS,
    "shape": len(_SHAPES_DB), "noise": _NOISES, "dip": len(_DIPS_DB),
}  # fmt: skip
_AT = dict(zip(TOKENS, np.cumsum([0, *TOKENS.values()]).tolist(), strict=False))
_SHARES = 2 + 2 * BANDS  # where the header's shares end
_HEADS = _SHARES + 2 * len(_BAND) + 2
_NOISE = Ladder(low=-1.0, high=1.0, levels=2, scales=_NOISES, floor=1e-5)  # of full scale, in steps of 3.4 %; 0: none
_INNER_HZ = 16000.0  # what is faster is analysed and made at this rate
_PARTS = 100  # of a second: how finely pitch is followed
_SPREAD_S = 0.008  # delay of what is at 8 kHz against what is at 0
_NOISE_FROM_HZ, _NOISE_TO_HZ = 1500.0, 5000.0  # breath in a voice: little below, mostly noise above


class Config(Section):
    """hz: frames per second. 5 keep emphasis, 10 most of the melody."""

    hz: float = Field(default=8.0, ge=2, le=20)


class Codec:
    """One stream of one channel of sound, one window length."""

    def __init__(self, config: Config, specs: Mapping[str, StreamSpec], seconds: float):
        ((self.name, self.spec),) = specs.items()
        if len(self.spec.channels) != 1:
            raise MienError(
                f"stream {self.name!r} has {len(self.spec.channels)} channels; the audio_features codec takes one channel of"
                " sound (average them, or name a stream for each)"
            )
        rate = self.spec.rate_hz
        if not 8000 <= rate <= 48000:
            raise MienError(f"stream {self.name!r}: sound at {rate:g} Hz; the audio_features codec takes 8 to 48 kHz")
        if seconds * config.hz < 1:
            raise MienError(
                f"stream {self.name!r}: a window of {seconds:g} s is shorter than a frame at {config.hz:g} Hz"
            )
        self.low, self.high = span(self.name, self.spec)
        self.seconds, self.samples = seconds, round(seconds * rate)
        self.rate = min(rate, _INNER_HZ)
        self.inner = self.samples if rate == self.rate else round(seconds * self.rate)
        self.frames = round(seconds * config.hz)
        self.edges = np.rint(np.linspace(0, self.inner, self.frames + 1)).astype(int)

    @cached_property
    def machine(self) -> Machine:
        """Median or voiceless, level, shares, shapes, noise, dips; then pitch or unvoiced, loudness, colour for each frame."""
        groups = [("median", "voiceless"), ("level", "level"), *[("share", "share")] * (2 * BANDS)]
        groups += [*[("shape", "shape")] * (2 * len(_BAND)), ("noise", "noise"), ("dip", "dip")]
        groups += [("pitch", "unvoiced"), ("loudness", "loudness"), ("colour", "colour")] * self.frames
        return Machine.of([(_AT[a], _AT[b] + TOKENS[b]) for a, b in groups])

    # --- writing --------------------------------------------------------------------------------------------
    def encode(self, windows: Sequence[Mapping[str, Stream]]) -> list[np.ndarray | str]:
        """One block per window, or why it has none: a gap."""
        x, why = whole(*stack(windows, self.name, self.spec, self.samples), self.name)
        rows = (self._block(w[:, 0]) for w in x)
        return [w or next(rows) for w in why]

    def _block(self, x: np.ndarray) -> np.ndarray:
        pitch, sound, share, shape, noise, dip = self._heard(x)
        level = _nearest(_LEVELS_DB, 10 * np.log10((10 ** (sound / 10)).mean()))
        voiced = pitch > 0
        semitones = 12 * np.log2(np.where(voiced, pitch, 1.0))
        middle = float(np.median(semitones[voiced])) if voiced.any() else 0.0
        median = _nearest(12 * np.log2(_MEDIANS_HZ), middle) if voiced.any() else _AT["voiceless"]
        weight = 10 ** (sound / 20)  # loud frames say more about the colour than quiet ones
        heads = []
        for kind in (voiced, ~voiced):
            mine = kind if kind.any() else np.ones_like(kind)
            heads.append(_nearest(_SHARES_DB, weight[mine] @ share[mine] / weight[mine].sum()))
        head = np.array(heads)
        centre = 12 * np.log2(_MEDIANS_HZ[median]) if voiced.any() else 0.0
        step = np.rint(np.clip((semitones - centre) / _SEMITONE, -_WIDE, _WIDE)).astype(int) + _WIDE
        own = _nearest(_COLOURS_DB, share - _SHARES_DB[np.where(voiced[:, None], head[0], head[1])])
        body = np.stack([
            np.where(voiced, _AT["pitch"] + step, _AT["unvoiced"]),
            _AT["loudness"] + _nearest(_SOUNDS_DB, sound - _LEVELS_DB[level]),
            _AT["colour"] + own @ len(_COLOURS_DB) ** np.arange(BANDS),
        ], axis=1)  # fmt: skip
        start = [median, _AT["level"] + int(level), *(_AT["share"] + head.ravel())]
        start += [
            *(_AT["shape"] + _nearest(_SHAPES_DB, shape).ravel()),
            _AT["noise"] + int(_NOISE.scale(np.array(noise))),
        ]
        start.append(_AT["dip"] + int(_nearest(_DIPS_DB, dip)))
        return np.concatenate([start, body.ravel()]).astype(np.int32)

    def measure(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One window [T] -> of each frame, above the noise: pitch in Hz (0: unvoiced), loudness in dB re full scale, bands'
        shares in dB."""
        return self._heard(x)[:3]

    def _heard(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, float]:
        """What `measure` gives; then float[2, parts] dB, power per Hz of each part of a band from the band's, with voice and
        without; the noise behind everything, as a standard deviation of full scale; and how deep a voice's dips are, in dB."""
        from scipy.signal import resample

        x = (x - (self.low + self.high) / 2) / ((self.high - self.low) / 2)
        x = np.clip(x, -1, 1)
        x = x - x.mean()
        if self.inner != self.samples:
            x = np.asarray(resample(x, self.inner))
        each = max(1, round(_PARTS * self.seconds / self.frames))
        t = voice.track(x, self.rate, self.frames * each, FINE_HZ)
        hz, raw = t.hz.reshape(-1, each), t.power.reshape(-1, each, len(_BAND))
        weight = raw.sum(2) + 1e-14
        on = (hz > 0) * weight
        voiced = on.sum(1) > 0.5 * weight.sum(1)
        # of the moments with voice the median, weighted by power: a mean would lie between a pitch and its octave
        order = np.argsort(hz, axis=1)
        so_far = np.cumsum(np.take_along_axis(on, order, 1), axis=1)
        half = np.take_along_axis(order, (so_far >= 0.5 * so_far[:, -1:]).argmax(1)[:, None], 1)
        pitch = np.take_along_axis(hz, half, 1)[:, 0]
        # white noise: what the upper half of the spectrum has where the lower is quietest, or the choice would be for little
        top = self.rate / 2
        wide = np.diff(np.minimum(FINE_HZ, top))
        upper = (wide > 0) & (np.array(FINE_HZ[:-1]) >= top / 2)
        quiet = np.argsort(t.power[:, ~upper].sum(1), kind="stable")[: max(1, len(t.power) // 5)]
        density = t.power[quiet][:, upper].mean(0).sum() / wide[upper].sum()
        noise, floor = float(np.sqrt(density * top)), density * wide
        frames = np.clip(raw.mean(1) - floor, 0, None) + 1e-3 * floor + 1e-14
        bands = np.add.reduceat(frames, _BEGINS, axis=1)
        share = 10 * np.log10(bands / bands.sum(1, keepdims=True))
        total = 10 ** (voice.loudness(x, self.edges) / 10)
        left = np.where(total > 1.3 * noise**2, total - noise**2, 0)
        parts = np.clip(raw - floor, 0.03 * floor, None) + 1e-14
        inside = np.add.reduceat(parts, _BEGINS, axis=2) / np.maximum(np.add.reduceat(wide, _BEGINS), 1)
        shape = 10 * np.log10(parts / np.maximum(wide, 1) / inside[..., _BAND])
        shapes = []
        for kind in (hz > 0, hz == 0):
            mine = kind if kind.any() else ~kind
            lost = raw[mine].mean(0) < 1.1 * floor  # in the noise
            shapes.append(np.where(lost, _SHAPES_DB[0], shape[mine].mean(0)))
        sound = 10 * np.log10(np.maximum(left, 1e-12))
        flow = parts.sum(2)[voiced]
        dips = 10 * np.log10(flow.mean(1)) - 10 * np.log10(flow).mean(1)
        return (
            np.where(voiced, pitch, 0.0),
            sound,
            share,
            np.array(shapes),
            noise,
            float(dips.mean()) if len(dips) else 0.0,
        )

    # --- reading --------------------------------------------------------------------------------------------
    def decode(self, ids: np.ndarray) -> dict[str, Stream]:
        """The reverse; total on every block that `machine` allows, and the same sound each time."""
        from scipy.signal import resample

        ids = np.asarray(ids, dtype=int)
        median, level = int(ids[0]), int(ids[1]) - _AT["level"]
        head = (ids[2:_SHARES] - _AT["share"]).reshape(2, BANDS)
        shape = _SHAPES_DB[(ids[_SHARES : _HEADS - 2] - _AT["shape"]).reshape(2, -1)]
        body = ids[_HEADS:].reshape(-1, 3)
        voiced = (body[:, 0] != _AT["unvoiced"]) & (median != _AT["voiceless"])
        centre = _MEDIANS_HZ[median if median < len(_MEDIANS_HZ) else 0]
        pitch = centre * 2 ** ((body[:, 0] - _AT["pitch"] - _WIDE) * _SEMITONE / 12)
        pitch = np.where(voiced, np.clip(pitch, voice.LOWEST_HZ, voice.HIGHEST_HZ), 0.0)
        sound = _LEVELS_DB[level] + _SOUNDS_DB[body[:, 1] - _AT["loudness"]]
        own = (body[:, 2:] - _AT["colour"]) // len(_COLOURS_DB) ** np.arange(BANDS) % len(_COLOURS_DB)
        share = _SHARES_DB[np.where(voiced[:, None], head[0], head[1])] + _COLOURS_DB[own]
        rng, dip = rng_of(ids), float(_DIPS_DB[ids[_HEADS - 1] - _AT["dip"]])
        x = self.sound(pitch, sound, share, shape, dip, rng) if level else np.zeros(self.inner)
        noise = ids[_HEADS - 2] - _AT["noise"]
        if noise:
            x = x + hiss(rng, _NOISE.sd(np.array([noise])), self.inner)[:, 0]
        if self.inner != self.samples:
            x = np.asarray(resample(x, self.samples))
        x = np.clip(x, -1, 1) * (self.high - self.low) / 2 + (self.low + self.high) / 2
        made = Signal(values=x[:, None], rate_hz=self.spec.rate_hz, channels=self.spec.channels, unit=self.spec.unit)
        return {self.name: made}

    def sound(
        self,
        pitch: np.ndarray,
        sound: np.ndarray,
        share: np.ndarray,
        shape: np.ndarray,
        dip: float,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Frames -> sound [inner]: pulses and noise, in short overlapping pieces that are given the bands' power and shape."""
        n, rate = self.inner, self.rate
        at = (self.edges[:-1] + self.edges[1:] - 1) / 2
        t, voiced = np.arange(n), pitch > 0
        if voiced.any():
            f0 = np.exp(np.interp(t, at[voiced], np.log(pitch[voiced])))
        else:
            f0 = np.full(n, 120.0)
        # sum of cos(k phase), k = 1 … K, in closed form; K is constant over the window, so that nothing clicks
        phase = 2 * np.pi * np.cumsum(f0) / rate
        most = max(1, int(min(rate / 2, _NOISE_TO_HZ) / f0.max()))
        half = np.sin(phase / 2)
        safe = np.where(np.abs(half) < 1e-6, 1.0, half)
        pulses = np.where(np.abs(half) < 1e-6, most, 0.5 * np.sin((most + 0.5) * phase) / safe - 0.5)
        pulses *= np.sqrt(f0.mean() / rate) * 2  # as much power per Hz as the noise
        noise = np.random.default_rng(0).standard_normal(n)
        # pieces of 32 ms every 8 ms
        hop = max(1, round(0.008 * rate))
        w = 4 * hop
        window = np.sqrt(np.hanning(w + 1)[:-1])
        pieces = -(-n // hop) + 3
        index = np.arange(pieces)[:, None] * hop + np.arange(w)
        total = (pieces + 3) * hop
        spectra = [np.fft.rfft(np.pad(s, (w - hop, total - n))[index] * window) for s in (pulses, noise)]
        middle = np.clip(np.arange(pieces) * hop + w / 2 - (w - hop), 0, n - 1)
        frame = np.clip(np.searchsorted(self.edges, middle, side="right") - 1, 0, self.frames - 1)
        hz = np.fft.rfftfreq(w, 1 / rate)
        breath = np.interp(hz, (_NOISE_FROM_HZ, _NOISE_TO_HZ), (0.05, 1.0))
        breath = np.where(voiced[frame][:, None], breath, 1.0)
        # later for higher harmonics: pulses whose parts are all in phase would be clipped, and buzz
        spread = np.exp(-1j * np.pi * _SPREAD_S * hz**2 / EDGES_HZ[-1])
        mixed = np.sqrt(1 - breath) * spread * spectra[0] + np.sqrt(breath) * spectra[1]
        centres = (np.array(FINE_HZ[1:]) + FINE_HZ[:-1]) / 2
        lines = 10 ** (np.stack([np.interp(hz, centres, s) for s in shape]) / 20)
        mixed *= np.where(voiced[frame][:, None], lines[0], lines[1])
        wanted = np.stack([np.interp(middle, at, s) for s in share.T], axis=1)
        wanted = 10 ** ((wanted - 10 * np.log10((10 ** (wanted / 10)).sum(1, keepdims=True))) / 10)
        gain = np.zeros(mixed.shape)
        cuts = np.searchsorted(hz, EDGES_HZ)
        for i, (a, b) in enumerate(pairwise(cuts)):
            there = (np.abs(mixed[:, a:b]) ** 2).sum(1)
            gain[:, a:b] = np.sqrt(wanted[:, i] / np.maximum(there, 1e-12))[:, None]
        made = np.fft.irfft(mixed * gain, w) * window
        out = np.zeros(total)
        for k in range(4):  # overlap-add, a quarter of each piece at a time
            part = made[:, k * hop : (k + 1) * hop].ravel()
            out[k * hop : k * hop + len(part)] += part
        out = out[w - hop : w - hop + n]
        if dip and voiced.any():  # a power of a sine's square that is so much deeper in decibels than in the mean
            powers = np.linspace(0, 8, 81)
            u = np.abs(np.sin(np.pi * (np.arange(1000) + 0.5) / 1000))
            deep = [10 * np.log10((u**p).mean()) - p * 10 * np.log10(u).mean() for p in powers]
            turn = np.pi * (rng.uniform() + t / rate * rng.uniform(*_SYLLABLES_HZ))
            within = np.maximum(np.abs(np.sin(turn)), 0.03) ** (np.interp(dip, deep, powers) / 2)
            out = out * np.where(
                voiced[np.clip(np.searchsorted(self.edges, t, side="right") - 1, 0, self.frames - 1)], within, 1
            )
        for _ in range(3):  # the frames' loudness, as a smooth curve of gain
            lack = np.clip(sound - voice.loudness(out, self.edges), -60, 100)
            out = out * 10 ** (np.interp(t, at, lack) / 20)
        return out


def _nearest(grid: np.ndarray, value: np.ndarray | float) -> np.ndarray:
    """The index of the nearest of ascending values."""
    value = np.asarray(value)
    return np.searchsorted((grid[1:] + grid[:-1]) / 2, value)
