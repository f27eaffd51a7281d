"""What the codecs of movement, faces and voices lose, beside plain uniform bins at the same number of tokens a second.

python benchmarks/codecs_media.py                       (needs `mien assets fetch watch`; under a minute on one core)
python benchmarks/codecs_media.py --speech FOLDER       (also speech: every .wav of one channel and 16 bits in it)

The peer is what many token models of sensors do: every channel averaged over equal steps, one of 256 uniform bins of the
sensor's range (or, "fitted", of the window's own minimum and maximum, two header tokens per channel) per step, and read
back by straight lines. Of sound, so few bins leave nothing: that row says only why sound needs features. Faces and the
voice are invented (see `expressions` and `spoken`): they show mechanics, not how people are. Figures are means over
windows; nothing here is a time that anything asserts.
"""

from __future__ import annotations

import argparse
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mien.core.records import Signal, StreamSpec, cut, recording_windows
from mien.data import features, splits
from mien.data.datasets import watch
from mien.generation.codecs import audio_features, face, motion

Coder = Callable[[np.ndarray], np.ndarray]


def bins(spec: StreamSpec, tokens_per_s: float, seconds: float, fitted: bool) -> Coder:
    """The peer: [T, C] -> [T, C] at about as many tokens."""
    samples, k = round(seconds * spec.rate_hz), len(spec.channels)
    steps = max(2, min(samples, int((tokens_per_s * seconds - (2 * k if fitted else 0)) / k)))
    edges = np.rint(np.linspace(0, samples, steps + 1)).astype(int)
    at, t = (edges[:-1] + edges[1:] - 1) / 2, np.arange(samples)

    def through(x: np.ndarray) -> np.ndarray:
        mean = np.add.reduceat(x, edges[:-1], axis=0) / np.diff(edges)[:, None]
        low, high = (x.min(0), x.max(0) + 1e-9) if fitted else spec.range or (0.0, 1.0)
        q = np.rint(np.clip((mean - low) / (np.asarray(high) - low), 0, 1) * 255) / 255 * (np.asarray(high) - low) + low
        return np.stack([np.interp(t, at, c) for c in q.T], axis=1)

    return through


def ours(codec: motion.Codec | face.Codec | audio_features.Codec) -> Coder:
    def through(x: np.ndarray) -> np.ndarray:
        (block,) = codec.encode([{codec.name: _signal(codec.spec, x)}])
        made = codec.decode(np.asarray(block))[codec.name]
        assert isinstance(made, Signal)
        return made.values.astype(float)

    return through


def _signal(spec: StreamSpec, x: np.ndarray) -> Signal:
    return Signal(values=x, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit)


def snr(x: np.ndarray, y: np.ndarray, rate: float, below_hz: float) -> np.ndarray:
    """dB per channel, windows pooled: power of movement in (0, below_hz) over power of the error in [0, below_hz)."""
    hz = np.fft.rfftfreq(x.shape[1], 1 / rate)
    a, b = np.fft.rfft(x, axis=1)[:, hz < below_hz], np.fft.rfft(y, axis=1)[:, hz < below_hz]
    return 10 * np.log10((np.abs(a[:, 1:]) ** 2).sum((0, 1)) / (np.abs(a - b) ** 2).sum((0, 1)))


# --- movement ---------------------------------------------------------------------------------------------
def of_movement(trees: int) -> None:
    from sklearn.ensemble import RandomForestClassifier

    cohort = watch.load(watch.Config())
    print("\nmotion: watch set (10 persons, 6 channels at 50 Hz), windows end to end")
    print(f"{'seconds':>8} {'codec':<14} {'tokens/s':>8} {'dB < 5 Hz':>10} {'worst':>6} {'dB all':>7}")
    for seconds in (2.0, 4.0, 10.0, 18.0):
        raw = [(r, cut(r, w)[0]) for r in cohort for w in recording_windows(r, seconds, seconds)]
        raw = [(r, s) for r, s in raw if s]
        made: dict[str, dict[str, np.ndarray]] = {}
        rates = {}
        for name, spec in watch.STREAMS.items():
            x = np.stack([s[name].values for _, s in raw]).astype(float)
            codec = motion.Codec(motion.Config(), {name: spec}, seconds)
            rate = codec.machine.length / seconds
            coders = {
                "motion": ours(codec),
                "uniform": bins(spec, rate, seconds, False),
                "fitted": bins(spec, rate, seconds, True),
            }
            made[name] = {"raw": x} | {n: np.stack([c(v) for v in x]) for n, c in coders.items()}
            rates[name] = rate
        for n in ("motion", "uniform", "fitted"):
            low = np.concatenate([snr(m["raw"], m[n], 50.0, 5.0) for m in made.values()])
            every = np.concatenate([snr(m["raw"], m[n], 50.0, 26.0) for m in made.values()])
            print(
                f"{seconds:8g} {n:<14} {sum(rates.values()):8.1f} {low.mean():10.1f} {low.min():6.1f} {every.mean():7.1f}"
            )
        if seconds == 4.0:
            forest(cohort, raw, made, trees, RandomForestClassifier)


def forest(cohort, raw, made, trees: int, kind) -> None:
    """Which exercise, on persons never seen: five splits by person, half of them held out."""
    label, person = np.array([r.labels["exercise"] for r, _ in raw]), np.array([r.person for r, _ in raw])
    table = {}
    for n in ("raw", "motion", "uniform", "fitted"):
        rows = [{s: _signal(watch.STREAMS[s], m[n][i]) for s, m in made.items()} for i in range(len(raw))]
        table[n] = np.array([features.vector(row, cohort.card) for row in rows])
    scores: dict[str, list[tuple[float, float]]] = {n: [] for n in table}
    for seed in range(5):
        held = np.isin(person, splits.draw(cohort, holdout=0.5, seed=seed).holdout)
        before = kind(trees, random_state=seed, n_jobs=1).fit(table["raw"][~held], label[~held])
        for n, x in table.items():
            after = kind(trees, random_state=seed, n_jobs=1).fit(x[~held], label[~held])
            scores[n].append(
                (np.mean(before.predict(x[held]) == label[held]), np.mean(after.predict(x[held]) == label[held]))
            )
    print(f"         forest of {trees} trees, windows of 4 s, 5 splits by person (5 of 10 held out), % right:")
    for n, s in scores.items():
        a, b = 100 * np.mean(s, axis=0)
        print(f"         {n:<14} trained raw, asked {n}: {a:5.1f}    trained and asked {n}: {b:5.1f}")


# --- faces ------------------------------------------------------------------------------------------------
AUS = tuple(f"AU{i:02d}_r" for i in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45))
ANGLES = ("gaze_angle_x", "gaze_angle_y", "pose_Rx", "pose_Ry", "pose_Rz")


def expressions(seed: int, seconds: float, hz: float = 30.0) -> np.ndarray:
    """Invented: AUs rise and fall over one or two seconds, gaze and head wander."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * hz)) / hz
    columns = []
    for _ in AUS:
        rises = [
            rng.exponential(1.0) * np.exp(-(((t - rng.uniform(0, seconds)) / rng.uniform(0.8, 2)) ** 2))
            for _ in range(2)
        ]
        columns.append(np.clip(rng.uniform(0, 0.5) + sum(rises), 0, 5))
    for _ in ANGLES:
        columns.append(
            rng.normal(0, 0.15)
            + rng.uniform(0.02, 0.2) * np.sin(2 * np.pi * rng.uniform(0.05, 0.25) * t + rng.uniform(0, 6))
        )
    return np.stack(columns, axis=1)


def of_faces(seconds: float = 10.0) -> None:
    print("\nface: 200 invented windows of 10 s at 30 Hz, 17 AUs (0-5) and 5 angles (rad), mean RMS error")
    print(
        f"{'frames/s':>8} {'codec':<14} {'tokens/s':>8} {'AUs':>6} {'gaze':>7} {'head':>7}   spread of the AUs, angles"
    )
    x = [expressions(s, seconds) for s in range(200)]
    groups = (slice(0, 17), slice(17, 19), slice(19, 22))
    for hz in (1.0, 2.0, 4.0):
        spec = StreamSpec(channels=(*AUS, *ANGLES), rate_hz=30.0)
        codec = face.Codec(face.Config(hz=hz), {"face": spec}, seconds)
        rate = codec.machine.length / seconds
        wide = StreamSpec(channels=spec.channels, rate_hz=30.0, range=(-1.6, 5.0))
        for name, coder in (
            ("face", ours(codec)),
            ("uniform", bins(wide, rate, seconds, False)),
            ("fitted", bins(wide, rate, seconds, True)),
        ):
            error = np.mean([np.sqrt(((coder(v) - v) ** 2).mean(0)) for v in x], axis=0)
            spread = np.mean([v.std(0) for v in x], axis=0)
            said = " ".join(f"{error[g].mean():7.3f}" for g in groups)
            print(f"{hz:8g} {name:<14} {rate:8.1f}{said}   {spread[:17].mean():.2f}, {spread[17:].mean():.2f}")


# --- voices -----------------------------------------------------------------------------------------------
def spoken(seed: int, seconds: float, rate: float) -> np.ndarray:
    """Invented: phrases of 1.2 s about a pitch of 90-220 Hz, a hiss, a pause."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    base = rng.uniform(90, 220)
    pitch = base * 2 ** (0.25 * np.sin(2 * np.pi * rng.uniform(0.3, 0.6) * t + rng.uniform(0, 6)))
    kind, phase = np.floor(t / 0.6).astype(int) % 4, 2 * np.pi * np.cumsum(pitch) / rate
    x = np.zeros(len(t))
    for k in range(1, int(3800 / pitch.max())):
        hz = k * base
        tone = 1 / (1 + ((hz - 600) / 250) ** 2) + 0.4 / (1 + ((hz - 1700) / 300) ** 2) + 0.02
        x += tone * np.cos(k * phase + rng.uniform(0, 6))
    noise = np.diff(rng.standard_normal(len(t) + 1))
    x = 0.12 * (1 + 0.6 * np.sin(4 * t)) * ((kind <= 1) * x / x.std() + 0.25 * (kind == 2) * noise)
    return np.clip(x + 1e-5 * rng.standard_normal(len(t)), -1, 1)


def of_voices(name: str, clips: list[tuple[np.ndarray, float]]) -> None:
    seconds = sum(len(x) / r for x, r in clips)
    print(f"\naudio_features: {name}, {len(clips)} clips, {seconds:.0f} s; measured anew on what was decoded,")
    print("in frames within 40 dB of the loudest, by the codec's own pitch tracker on both sides")
    print(
        f"{'frames/s':>8} {'codec':<14} {'tokens/s':>8} {'voicing %':>9} {'pitch st':>9} {'> 1 st %':>9} {'loud dB':>8}"
    )
    for hz in (5.0, 8.0, 10.0):
        found: dict[str, list[tuple]] = {"audio_features": [], "fitted": []}
        tokens = 0
        for x, rate in clips:
            spec = StreamSpec(channels=("sound",), unit="full scale", rate_hz=rate, range=(-1.0, 1.0))
            codec = audio_features.Codec(audio_features.Config(hz=hz), {"voice": spec}, len(x) / rate)
            tokens += codec.machine.length
            peer = bins(spec, codec.machine.length / (len(x) / rate), len(x) / rate, True)
            pitch, loud, _ = codec.measure(x)
            for n, coder in (("audio_features", ours(codec)), ("fitted", peer)):
                again, after, _ = codec.measure(coder(x[:, None])[:, 0])
                heard = loud > loud.max() - 40
                both = (pitch > 0) & (again > 0) & heard
                error = np.abs(12 * np.log2(again[both] / pitch[both]))
                found[n].append((((pitch > 0) == (again > 0))[heard], error, np.abs(after - loud)[heard]))
        for n, rows in found.items():
            agree, error, db = (np.concatenate(c) for c in zip(*rows, strict=True))
            pitch = (
                f"{np.median(error):9.2f} {100 * (error > 1).mean():9.1f}" if len(error) else f"{'none':>9} {'none':>9}"
            )
            print(f"{hz:8g} {n:<14} {tokens / seconds:8.1f} {100 * agree.mean():9.1f} {pitch} {db.mean():8.2f}")


def read(folder: Path) -> list[tuple[np.ndarray, float]]:
    out = []
    for path in sorted(folder.rglob("*.wav")):
        with wave.open(str(path)) as f:
            if f.getnchannels() == 1 and f.getsampwidth() == 2 and f.getnframes() > f.getframerate():
                out.append((np.frombuffer(f.readframes(f.getnframes()), "<i2") / 32768, float(f.getframerate())))
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, help="a folder of .wav files")
    parser.add_argument("--trees", type=int, default=200)
    given = parser.parse_args()
    of_movement(given.trees)
    of_faces()
    of_voices("invented voices", [(spoken(s, 6.0, 16000.0), 16000.0) for s in range(20)])
    if given.speech:
        of_voices(f"speech in {given.speech.name}", read(given.speech))
