"""`behaviour`: small towers for what ImageBind and CLIP lack: wearable signals, face and body features, event logs.

One tower per stream, all into one space. A signal of any rate and any number of channels is cut into a fixed number of
patches; each is shown to a linear layer as its samples and its spectrum, beside one patch of statistics of the whole
window (patches: Nie et al., arXiv 2211.14730; a gap is marked, not filled). An event log is a sequence of its events,
beside one token of counts. Then a small transformer of linear layers, a mean, a projection to unit length.

`mien pretrain` makes the weights on *simulated* recordings: streams of one window are pulled together against those of
the others, and each embedding has to give its window's statistics back. Nobody's recordings are in them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.config import Section
from ..core.errors import MienError
from ..core.paths import runs_home
from ..core.records import CohortCard, Events, Signal, StreamSpec
from ..core.units import conversion
from ._binder import Arrays, Binder, Tower
from .causal_lm import weights_digest

if TYPE_CHECKING:
    from ._behaviour import BehaviourBinder, BehaviourBinderConfig

KIND = "binder"
EVENTS = 64  # of a window, at most; the counts are of all of them
FASTEST_HZ = 64  # faster signals are averaged down to it
SOUND_HZ, MELS, FRAMES_HZ = (
    4000,
    24,
    50,
)  # from that rate on a signal is sound: shown as mel bands, so many frames a second
NEGATIVES = "negatives.safetensors"


class Config(Section):
    """recipe: the pretraining recipe that makes the weights; weights: the run that did, or a folder of your own."""

    recipe: str = "recipes/watch/pretrain_represent.yaml"
    weights: str | None = None


class Shape(Section):
    """The architecture. width, layers, heads: of each tower's transformer; patches: of each signal's window; dim: of the
    common space."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    patches: int = 10
    dim: int = 48


def shaped(card: CohortCard, shape: Shape, seconds: float, streams: Sequence[str] = ()) -> BehaviourBinderConfig:
    """Towers for a cohort's signals and events (streams: which; default all of them). Ranges and rates come from its
    card, never from recordings. MienError for what no tower here can take."""
    chosen = {n: s for n, s in sorted(card.streams.items()) if n in streams or (not streams and s.kind != "text")}
    if unknown := sorted(set(streams) - set(card.streams)):
        raise MienError(f"cohort {card.name!r} has no stream {unknown[0]!r}; it has {', '.join(sorted(card.streams))}")
    made: dict[str, Any] = {}
    for name, spec in chosen.items():
        if spec.kind == "events":
            made[name] = {"kind": "events", "channels": len(spec.channels), "names": list(spec.channels)}
        elif spec.kind != "signal":
            raise MienError(
                f"stream {name!r} is {spec.kind}; `behaviour` has towers for signals and events. Words and pictures are"
                " for the backbones open_clip and imagebind"
            )
        elif spec.range is None:
            raise MienError(f"stream {name!r} declares no range, without which its tower cannot scale it publicly")
        else:
            sound = spec.rate_hz >= SOUND_HZ
            rate = FRAMES_HZ if sound else min(spec.rate_hz, FASTEST_HZ)
            size = max(1, round(rate * seconds / shape.patches))  # samples of a patch
            low, high = (-7.0, 1.0) if sound else spec.range  # of sound: the logarithm of a band's energy
            made[name] = {
                "kind": "signal", "channels": MELS if sound else len(spec.channels), "low": float(low),
                "high": float(high), "rate_hz": size * shape.patches / seconds, "patch": size, "sound": sound,
                "unit": spec.unit, "names": list(spec.channels),
            }  # fmt: skip
    if not made:
        raise MienError(f"cohort {card.name!r} has neither a signal nor events")
    from ._behaviour import BehaviourBinderConfig

    return BehaviourBinderConfig(streams=made, seconds=seconds, **shape.model_dump())


def fitted(name: str, made: Mapping[str, Any], spec: StreamSpec) -> tuple[Any, str]:
    """What turns a cohort's stream into what the tower `name` was pretrained on, and what that is in words: a unit the
    cohort's card declares converted, an arbitrary one scaled from the card's public range, channels in order. MienError for
    another physical unit. Of towers made before they kept their units nothing is known: streams are taken as they come."""
    if "names" not in made:
        return (lambda s: s), (
            f"{name}: its tower was made before towers kept their units, so {spec.unit or 'the unit'} is taken as it comes;"
            " `mien pretrain` makes one that converts, and refuses what does not fit"
        )
    if spec.kind != made["kind"] or (len(spec.channels) != made["channels"] and not made.get("sound")):
        return (lambda s: s), ""  # `prepare` says what it takes
    names = spec.channels if made.get("sound") else tuple(made["names"])  # of sound, channels are averaged
    span = (-1.0, 1.0) if made.get("sound") else (made.get("low", 0.0), made.get("high", 1.0))
    ours = StreamSpec(channels=names, unit=made.get("unit", ""), range=span, kind=made["kind"])
    return conversion(spec, ours, f"stream for the tower {name!r}", renamed=True)


# --- windows as arrays --------------------------------------------------------------------------------------------


def prepared_signal(signal: Any, name: str, spec: Mapping[str, Any], seconds: float) -> Arrays:
    """values: float32[T, C] scaled from the public range to -1 … 1, 0 in gaps; there: float32[T]. MienError for another
    kind of stream, other channels or another length."""
    from ._encoder import resampled

    if not isinstance(signal, Signal):
        raise MienError(f"{name}: this tower takes a signal, not {type(signal).__name__.lower()}")
    if spec.get("sound"):
        signal = mel(signal, name)
    if signal.values.shape[1] != spec["channels"]:
        raise MienError(
            f"{name}: {signal.values.shape[1]} channels, and its tower was made for {spec['channels']}; pretrain one for"
            " this cohort's streams"
        )
    if abs(signal.seconds - seconds) > 1 / signal.rate_hz + 1e-6:
        raise MienError(f"{name}: a window of {signal.seconds:g} s, and its tower was made for {seconds:g} s")
    length = round(spec["rate_hz"] * seconds)
    values, there = resampled(signal, spec["rate_hz"], length)
    scaled = np.clip((values - spec["low"]) / (spec["high"] - spec["low"]) * 2 - 1, -1.5, 1.5)
    return {"values": np.where(there[:, None], scaled, 0).astype(np.float32), "there": there.astype(np.float32)}


def mel(signal: Signal, name: str) -> Signal:
    """Sound as MELS bands, 60 Hz to 2 kHz, equally wide on the mel scale (O'Shaughnessy's formula): log10 of the energy in
    frames of 25 ms, FRAMES_HZ a second. Channels are averaged first: what a microphone array or 5.1 adds is where a sound
    comes from. MienError below SOUND_HZ, where there are no such bands."""
    if signal.rate_hz < SOUND_HZ:
        raise MienError(f"{name}: {signal.rate_hz:g} Hz; this tower takes sound of {SOUND_HZ} Hz or more")
    x, size = signal.values.mean(1), round(0.025 * signal.rate_hz)
    if signal.valid is not None:
        x = np.where(signal.valid, x, 0)
    n = max(1, round(signal.seconds * FRAMES_HZ))
    centres = ((np.arange(n) + 0.5) * len(x) / n).astype(int)
    padded = np.pad(x, size)
    frames = padded[(centres + size - size // 2)[:, None] + np.arange(size)] * np.hanning(size)
    energy = np.abs(np.fft.rfft(frames, axis=1)) ** 2 / size
    low, high = (2595 * np.log10(1 + f / 700) for f in (60.0, 2000.0))
    edges = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    hz = np.fft.rfftfreq(size, 1 / signal.rate_hz)
    rise = (hz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hz) / (edges[2:] - edges[1:-1])[:, None]
    bands = np.clip(np.minimum(rise, fall), 0, None)
    bands[np.arange(MELS), np.abs(hz - edges[1:-1, None]).argmin(1)] += 1e-9  # a narrow band has its nearest line
    bands /= bands.sum(1, keepdims=True)
    valid = None if signal.valid is None else signal.valid[centres]
    return Signal(
        values=np.log10(energy @ bands.T + 1e-7), rate_hz=n / signal.seconds, channels=tuple(f"mel{i}" for i in range(MELS)),
        unit="log10", valid=valid,
    )  # fmt: skip


def prepared_events(events: Any, name: str, spec: Mapping[str, Any], seconds: float) -> Arrays:
    """events, there, counts as `EventsTower` takes them. Who is called is a rank within the window, never a name; of
    more than EVENTS, evenly spread ones are shown. MienError for another kind of stream, or other kinds of event."""
    if not isinstance(events, Events):
        raise MienError(f"{name}: this tower takes events, not {type(events).__name__.lower()}")
    k = spec["channels"]
    if len(events.kinds) != k:
        raise MienError(f"{name}: {len(events.kinds)} kinds of event, and its tower was made for {k}")
    assert events.party is not None
    n, rows = len(events.codes), np.zeros((EVENTS, k + 6), dtype=np.float32)
    shown = np.arange(n) if n <= EVENTS else np.linspace(0, n - 1, EVENTS).round().astype(int)
    gaps = np.diff(events.times_s, prepend=0.0)
    ranks: dict[int, int] = {}
    rank = np.array([ranks.setdefault(int(p), len(ranks)) if p >= 0 else -1 for p in events.party])
    for row, i in zip(rows, shown, strict=False):
        at = events.times_s[i] / seconds
        row[events.codes[i]] = 1
        row[k:] = (
            2 * at - 1, np.sin(2 * np.pi * at), np.log1p(events.durations_s[i]) / 6, np.log1p(gaps[i]) / 6,
            float(rank[i] >= 0), min(max(rank[i], 0), 8) / 8,
        )  # fmt: skip
    counts = np.bincount(events.codes, minlength=k)
    total = np.bincount(events.codes, events.durations_s, minlength=k)
    there = (np.arange(EVENTS) < len(shown)).astype(np.float32)
    facts = np.concatenate([np.log1p(counts) / 3, np.log1p(total) / 6, [np.log1p(len(ranks)) / 3]])
    return {"events": rows, "there": there, "counts": facts.astype(np.float32)}


# --- loading ------------------------------------------------------------------------------------------------------


def binder(model: BehaviourBinder, identity: str, digest: str, negatives: Path | None = None) -> Binder:
    """A model of this file with what every binder has."""
    config, towers = model.config, {}
    prepare = {"signal": prepared_signal, "events": prepared_events}
    for name, spec in (config.streams or {}).items():
        towers[name] = Tower(
            kind=spec["kind"],
            module=f"towers.{name}",
            layers=tuple(f"towers.{name}.layers.{i}" for i in range(config.layers)),
            prepare=lambda stream, n=name, s=spec: prepare[s["kind"]](stream, n, s, config.seconds),
            embed=lambda base, inputs, n=name: base.towers[n](**inputs),
            fit=lambda card, n=name, s=spec: fitted(n, s, card),
        )
    return Binder(
        model=model, towers=towers, dim=config.dim, identity=identity, revision=None, fingerprint=digest,
        lora_targets=("token", "whole", "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "project"),
        licence="Apache-2.0 (pretrained on simulated recordings)", logit_scale=10.0, negatives=negatives,
    )  # fmt: skip


def load(options: Config) -> Binder:
    """The pretrained towers, frozen. `weights` names a pretrain run (the recipe finds it) or a folder."""
    from ._behaviour import BehaviourBinder, register

    register()
    named = options.weights or ""
    folder = Path(named).expanduser() if "/" in named else runs_home() / named / "release" / "base"
    if not named or not (folder / "model.safetensors").exists():
        raise MienError(
            f"the behaviour towers are not there ({named or 'not pretrained yet'}): run `mien pretrain {options.recipe}`"
        )
    model = BehaviourBinder.from_pretrained(folder, use_safetensors=True)
    model.requires_grad_(False)
    digest = weights_digest(model)
    if any("names" in s for s in (model.config.streams or {}).values()):  # the same weights scale otherwise
        digest = hashlib.sha256((digest + json.dumps(model.config.streams, sort_keys=True)).encode()).hexdigest()
    return binder(model, f"mien/behaviour-{digest[:12]}", digest, folder / NEGATIVES)
