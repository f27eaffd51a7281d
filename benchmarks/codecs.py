"""What is left of a minute of wearable signals when codecs have written it as tokens, beside plain bins.

python benchmarks/codecs.py [--persons 75] [--neurokit]

Simulated minutes (data/datasets/simulated.py; a seed on which no constant was chosen), two of each person, coded and
decoded; the same detectors read both sides, so an error also holds what a detector makes of a disturbed original.
Each error is given as mean / median / 95th percentile over minutes. Plain bins are the peer: each stream resampled
(polyphase) to a low rate and back, in 256 uniform values over ±5 of its own standard deviations, level and scale given
exactly; `transform` is our own general codec. --neurokit: neurokit2 finds the beats, of a pulse and of its simulated ECGs,
and either detector is held against the beats that the simulator put there.
Times are of one core: what is coded, in seconds, per second of processor time, the best of three rounds (scipy is loaded
and the codec's tables are made in the first).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from mien.core import plugins
from mien.core.records import Signal, Stream, StreamSpec
from mien.data import physiology as ph
from mien.data.datasets import simulated

SECONDS, SEED = 60.0, 2027
Windows = Sequence[Mapping[str, Stream]]
ECG = StreamSpec(channels=("ecg",), unit="mV", rate_hz=250.0, range=(-5.0, 5.0))


@dataclass
class PlainBins:
    """The peer: streams at low rates in 256 uniform bins, two tokens of level and scale each."""

    hz: Mapping[str, float]
    specs: Mapping[str, StreamSpec] = field(default_factory=lambda: simulated.STREAMS)
    tokens = 256 + 2 * 256
    span = 5.0

    def encode(self, windows: Windows) -> list[Any]:
        from scipy.signal import resample_poly

        out: list[Any] = [{} for _ in windows]
        for name, hz in self.hz.items():
            x = np.stack([values(w, name) for w in windows])
            ratio = self.ratio(name, hz)
            frames = resample_poly(x, ratio.numerator, ratio.denominator, axis=1, padtype="line")
            mean, sd = frames.mean(1, keepdims=True), frames.std(1, keepdims=True) + 1e-9
            q = np.rint((np.clip((frames - mean) / sd / self.span, -1, 1) + 1) / 2 * 255)
            for i in range(len(x)):
                out[i][name] = (mean[i], sd[i], q[i])
        return out

    def decode(self, block: Any) -> dict[str, Stream]:
        from scipy.signal import resample_poly

        out: dict[str, Stream] = {}
        for name, (mean, sd, q) in block.items():
            spec, ratio = self.specs[name], self.ratio(name, self.hz[name])
            frames = mean + sd * (q / 255 * 2 - 1) * self.span
            x = resample_poly(frames, ratio.denominator, ratio.numerator, axis=0, padtype="line")
            x = x[: round(SECONDS * spec.rate_hz)]
            out[name] = Signal(values=x, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit)
        return out

    def ratio(self, name: str, hz: float) -> Fraction:
        return Fraction(hz).limit_denominator(100) / Fraction(self.specs[name].rate_hz).limit_denominator(100)

    @staticmethod
    def length(block: Any) -> int:
        return sum(2 * q.shape[1] + q.size for _, _, q in block.values())


@dataclass
class Ours:
    """A codec of the house on some of the streams."""

    name: str
    specs: Mapping[str, StreamSpec]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        module = plugins.load("generation/codecs", self.name)
        self.codec = module.Codec(module.Config(**self.options), self.specs, SECONDS)
        self.tokens = sum(module.TOKENS.values())
        self.encode, self.decode, self.length = self.codec.encode, self.codec.decode, len


def ours(name: str, *streams: str, **options: Any) -> Ours:
    return Ours(name, {s: simulated.STREAMS[s] for s in streams}, options)


@dataclass(frozen=True)
class Coded:
    codec: Any
    pairs: list[tuple[Mapping[str, Stream], Mapping[str, Stream]]]  # before, after
    lengths: np.ndarray
    refused: int
    speed: float

    @staticmethod
    def of(codec: Any, windows: Windows) -> Coded:
        best = np.inf
        for _ in range(3):
            began = time.process_time()
            blocks = codec.encode(windows)
            best = min(best, time.process_time() - began)
        kept = [(w, b) for w, b in zip(windows, blocks, strict=True) if not isinstance(b, str)]
        return Coded(
            codec=codec,
            pairs=[(w, codec.decode(b)) for w, b in kept],
            lengths=np.array([codec.length(b) for _, b in kept]),
            refused=len(blocks) - len(kept),
            speed=len(windows) * SECONDS / max(best, 1e-9),
        )

    def row(self, label: str, *errors: str) -> str:
        cost = f"{self.lengths.mean():>7.0f}{self.lengths.max():>6}{self.codec.tokens:>7}{self.speed:>12,.0f}{self.refused:>9}"
        return f"{label:<28}{cost}  " + "".join(f"{e:>27}" for e in errors)


def values(window: Mapping[str, Stream], name: str) -> np.ndarray:
    s = window[name]
    assert isinstance(s, Signal)
    return s.values.astype(np.float64)


def spread(errors: Sequence[float]) -> str:
    e = np.abs(np.asarray(errors))
    lost = f" ({np.isnan(e).sum()} none)" if np.isnan(e).any() else ""
    return f"{np.nanmean(e):.3f} / {np.nanmedian(e):.3f} / {np.nanpercentile(e, 95):.3f}{lost}"


def neurokit_beats(x: np.ndarray, rate_hz: float, kind: str) -> np.ndarray:
    import neurokit2 as nk

    rate = round(rate_hz)
    if kind == "ecg":
        found = nk.ecg_peaks(nk.ecg_clean(x, sampling_rate=rate), sampling_rate=rate)[1]
        return np.asarray(found["ECG_R_Peaks"], dtype=float) / rate
    found = nk.ppg_findpeaks(nk.ppg_clean(x, sampling_rate=rate), sampling_rate=rate)
    return np.asarray(found["PPG_Peaks"], dtype=float) / rate


def true_beats(config: simulated.Config) -> list[np.ndarray]:
    """When each minute's beats are, which the simulator knows: where the angle of its pulse's first bump is a whole turn."""
    angles: list[np.ndarray] = []
    bump = simulated._bump

    def seen(angle: np.ndarray, sharpness: float) -> np.ndarray:
        angles.append(angle)
        return bump(angle, sharpness)

    simulated._bump = seen
    try:
        for p in range(config.persons):
            for s in simulated.sessions(config, p):
                simulated.record(s, config)
    finally:
        simulated._bump = bump
    turns = [a / (2 * np.pi) for a in angles[::2]]  # each pulse has two bumps
    return [np.interp(np.arange(np.ceil(a[0]), np.floor(a[-1]) + 1), a, np.arange(len(a)) / 64) for a in turns]


def judged(done: Coded, truth: Sequence[np.ndarray], find: Callable[..., np.ndarray]) -> list[str]:
    """A detector's own errors, against the simulator's beats: in the pulse as it was, and as it is decoded."""
    lines = []
    for side, called in enumerate(("as it was", "decoded")):
        off: dict[str, list[float]] = {"hr": [], "rmssd": [], "coherence": []}
        for pair, beats in zip(done.pairs, truth, strict=True):
            found = find(values(pair[side], "bvp")[:, 0], pair[side]["bvp"].rate_hz, "pulse")  # type: ignore[union-attr]
            one, two = ph.heart(beats), ph.heart(found)
            off["hr"].append(one["hr"] - two["hr"])
            off["rmssd"].append(one["rmssd"] - two["rmssd"])
            real, mine = (values(w, "resp")[:, 0] for w in (pair[0], pair[side]))
            off["coherence"].append(ph.coherence(beats, real, 25) - ph.coherence(found, mine, 25))
        lines.append(f"{called} | " + " | ".join(spread(e) for e in off.values()))
    return lines


def heart(done: Coded, name: str, kind: str, find: Callable[..., np.ndarray], breath: bool = True) -> list[str]:
    rate = done.pairs[0][0][name].rate_hz  # type: ignore[union-attr]
    off: dict[str, list[float]] = {"hr": [], "rmssd": [], "coherence": [], "breath": []}
    for before, after in done.pairs:
        times = [find(values(w, name)[:, 0], rate, kind) for w in (before, after)]
        one, two = (ph.heart(t) for t in times)
        off["hr"].append(one["hr"] - two["hr"])
        off["rmssd"].append(one["rmssd"] - two["rmssd"])
        if breath:
            x, y = (values(w, "resp")[:, 0] for w in (before, after))
            off["coherence"].append(ph.coherence(times[0], x, 25) - ph.coherence(times[1], y, 25))
            off["breath"].append(60 * (ph.breathing_hz(x, 25) - ph.breathing_hz(y, 25)))
    return [spread(e) for e in off.values() if e]


def skin(done: Coded) -> list[str]:
    before, after = (
        np.array([len(ph.responses(values(pair[k], "eda")[:, 0], 4)[0]) for pair in done.pairs]) for k in (0, 1)
    )
    level = [values(a, "eda").mean() - values(b, "eda").mean() for a, b in done.pairs]
    return [f"{before.mean():.2f} -> {after.mean():.2f}", spread((before - after).tolist()), spread(level)]


def warmth(done: Coded) -> list[str]:
    return [
        spread([1000 * np.abs(values(a, "temp") - values(b, "temp")).mean() for a, b in done.pairs]),
        spread([1000 * (ph.slope(values(a, "temp")[:, 0], 4) - ph.slope(values(b, "temp")[:, 0], 4)) for a, b in done.pairs]),
    ]  # fmt: skip


def movement(done: Coded) -> list[str]:
    from scipy.signal import butter, sosfiltfilt

    sos = butter(2, 0.3, btype="high", fs=32, output="sos")

    def much(window: Mapping[str, Stream]) -> np.ndarray:
        return np.log(sosfiltfilt(sos, values(window, "acc"), axis=0).reshape(30, 64, 3).std(1).mean(1))

    return [
        spread([np.abs(values(a, "acc").mean(0) - values(b, "acc").mean(0)).max() for a, b in done.pairs]),
        spread([np.abs(much(a) - much(b)).mean() for a, b in done.pairs]),
    ]


def ecgs(count: int) -> list[dict[str, Stream]]:
    import neurokit2 as nk

    out: list[dict[str, Stream]] = []
    for i in range(count):
        x = nk.ecg_simulate(
            duration=int(SECONDS), sampling_rate=250, heart_rate=50 + 60 * i // count, heart_rate_std=3, noise=0.02, random_state=i
        )  # fmt: skip
        out.append({"ecg": Signal(values=np.asarray(x)[:, None], rate_hz=250.0, channels=("ecg",), unit="mV")})
    return out


def table(title: str, columns: Sequence[str], rows: Sequence[str]) -> None:
    print(f"\n{title}\n{'':<28}{'tokens':>7}{'most':>6}{'kinds':>7}{'x real time':>12}{'refused':>9}  ", end="")
    print("".join(f"{c:>27}" for c in columns))
    print("\n".join(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, default=75)
    parser.add_argument("--neurokit", action="store_true")
    chosen = parser.parse_args()
    config = simulated.Config.model_validate(
        {"persons": chosen.persons, "sessions": 2, "seconds": SECONDS, "seed": SEED}
    )
    windows = [
        simulated.record(s, config).streams for p in range(config.persons) for s in simulated.sessions(config, p)
    ]
    print(f"{len(windows)} simulated minutes; errors: mean / median / 95th percentile")

    heads = ("HR [beats/min]", "RMSSD [ms]", "HR-RESP coherence", "breaths/min")
    beats = Coded.of(ours("beats", "bvp", "resp"), windows)
    cardiac = {
        "beats": beats,
        "plain bins 8 Hz, 2 Hz": Coded.of(PlainBins({"bvp": 8.0, "resp": 2.0}), windows),
        "plain bins 6 Hz, 1 Hz": Coded.of(PlainBins({"bvp": 6.0, "resp": 1.0}), windows),
        "plain bins 4 Hz, 1 Hz": Coded.of(PlainBins({"bvp": 4.0, "resp": 1.0}), windows),
    }
    table("bvp and resp", heads, [c.row(n, *heart(c, "bvp", "pulse", ph.beats)) for n, c in cardiac.items()])
    if chosen.neurokit:
        rows = [c.row(n, *heart(c, "bvp", "pulse", neurokit_beats)) for n, c in cardiac.items()]
        table("the same, beats found by neurokit2", heads, rows)
        truth = true_beats(config)
        finders = {"ours": ph.beats, "neurokit2": neurokit_beats}
        rows = [f"{n}, pulse {line}" for n, f in finders.items() for line in judged(beats, truth, f)]
        table("against the simulator's own beats", heads[:3], rows)
        ecg = Coded.of(Ours("beats", {"ecg": ECG}), ecgs(40))
        rows = [ecg.row(f"beats, found by {n}", *heart(ecg, "ecg", "ecg", f, False)) for n, f in finders.items()]
        table("ecg (neurokit2's)", heads[:2], rows)

    eda = Coded.of(ours("eda", "eda"), windows)
    skins = {
        "eda": eda,
        "bins 1 Hz": Coded.of(ours("bins", "eda", hz=1.0), windows),
        "transform < 0.5 Hz": Coded.of(ours("transform", "eda", hz=0.5), windows),
        "plain bins 1 Hz": Coded.of(PlainBins({"eda": 1.0}), windows),
    }
    table("eda", ("responses/min", "responses, each minute", "level [uS]"), [c.row(n, *skin(c)) for n, c in skins.items()])  # fmt: skip
    temp = Coded.of(ours("bins", "temp", hz=0.1), windows)
    temps = {"bins 0.1 Hz": temp, "plain bins 0.1 Hz": Coded.of(PlainBins({"temp": 0.1}), windows)}
    table("temp", ("[mK]", "slope [mK/min]"), [c.row(n, *warmth(c)) for n, c in temps.items()])
    acc = Coded.of(ours("activity", "acc"), windows)
    moves = {"activity": acc, "transform < 1 Hz": Coded.of(ours("transform", "acc", hz=1.0), windows)}
    moves["plain bins 2 Hz"] = Coded.of(PlainBins({"acc": 2.0}), windows)
    table("acc", ("posture [g]", "log movement > 0.3 Hz"), [c.row(n, *movement(c)) for n, c in moves.items()])

    parts = (beats, eda, temp, acc)
    if not any(c.refused for c in parts):
        # a marker before each block; begin, label and end
        whole = np.sum([c.lengths + 1 for c in parts], axis=0) + 3
        speed = 1 / sum(1 / c.speed for c in parts)
        print(
            f"\nall five streams: {whole.mean():.0f} tokens a minute ({whole.max()} at most), {speed:,.0f} x real time"
        )


if __name__ == "__main__":
    main()
