"""Spectra: how far synthetic power spectra lie from real ones, beside how far real persons lie from each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...core.config import Section
from ...core.records import Signal, Stream
from ...core.results import Baseline, Result
from ..comparisons import alike
from ..protocols import Inputs

HIGHER_IS_BETTER = False


class Config(Section):
    """floor: power below this share of the strongest frequency counts as this much (what sensors call noise); seed."""

    floor: float = 1e-4
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    """Per stream, the RMS difference of log10 mean power over frequencies and channels, in decades; synthetic windows with the
    training windows' mix of labels.

    Not measured (value None, and why) where a side lacks the stream, or rates, lengths or channels differ.
    """
    w, results = inputs.windows, []
    for stream in (n for n, spec in w.card.streams.items() if spec.kind == "signal"):
        why = _incomparable(stream, w.train, w.test, w.synthetic)
        if why:
            results.append(
                Result(
                    metric=f"log-spectrum distance {stream}", value=None, unit="window", higher_is_better=False,
                    note=f"not measured: {why}",
                )
            )  # fmt: skip
            continue
        whole = _whole(w.synthetic, stream)
        like = inputs.tables.train.label[_whole(w.train, stream)]
        few = whole[alike(inputs.tables.synthetic.label[whole], like, len(whole), config.seed)]
        mixed = [w.synthetic[i] for i in few.tolist()]
        real, other, made = (spectrum(x, stream, config.floor) for x in (w.train, w.test, mixed))
        assert real is not None
        assert made is not None
        control = None if other is None else _distance(real, other)
        results.append(
            Result(
                metric=f"log-spectrum distance {stream}", value=_distance(real, made), unit="window",
                higher_is_better=False, note="decades of power, RMS over frequencies; one release, so no interval",
                baselines=(Baseline(name="real vs real persons", value=control),),
            )
        )  # fmt: skip
    return results


def spectrum(windows: Sequence[Mapping[str, Stream]], stream: str, floor: float) -> np.ndarray | None:
    """float64[F, C]: log10 of the mean Welch power of a stream's windows; None when no window has it whole."""
    from scipy.signal import welch

    parts = [s for w in windows if isinstance(s := w.get(stream), Signal) and s.complete]
    if not parts:
        return None
    values = np.stack([p.values for p in parts]).astype(np.float64)
    _, power = welch(values, fs=parts[0].rate_hz, nperseg=min(values.shape[1], 256), axis=1)
    mean = power.mean(0)[1:]  # without the level
    return np.log10(np.maximum(mean, floor * mean.max(0, keepdims=True) + 1e-30))


def _whole(windows: Sequence[Mapping[str, Stream]], stream: str) -> np.ndarray:
    """The numbers of the windows that have the stream without a gap."""
    return np.array([i for i, w in enumerate(windows) if isinstance(s := w.get(stream), Signal) and s.complete], int)


def _incomparable(stream: str, *sides: Sequence[Mapping[str, Stream]]) -> str:
    """Why the spectra of train, test and synthetic windows cannot be laid over each other, or "". Test may be absent."""
    train, _, made = sides
    for name, side in (("training", train), ("synthetic", made)):
        found = [s for w in side if isinstance(s := w.get(stream), Signal)]
        if not any(s.complete for s in found):
            return (
                f"every {name} window of {stream} has a gap" if found else f"no {name} window has the stream {stream}"
            )
    kinds = {
        (s.rate_hz, len(s.values), s.channels) for side in sides for w in side if isinstance(s := w.get(stream), Signal)
    }
    return "" if len(kinds) == 1 else f"windows of {stream} differ in rate, length or channels"


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a - b) ** 2).mean()))
