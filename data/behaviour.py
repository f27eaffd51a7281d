"""How simulated persons look from outside: body, words, voice, face and phone, of one recording at a time.

Behind `datasets/simulated_life.py`, which says what these functions are given (`v`: trait -> value in physical units;
habits: name -> preferences, as logits) and what depends on what. Nothing here was fitted to anybody's recordings: formants,
rates and resting levels are round textbook numbers, and the sentences are invented.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ..core.records import Events
from .datasets.simulated import _wander as wander

AUS = ("01", "02", "04", "05", "06", "07", "09", "10", "12", "14", "15", "17", "20", "23", "25", "26", "45")
DAY_S = 86400.0
VOICE_HZ = 16000
# Hz: the first three formants of a, e, i, o, u in a vocal tract of middling length
FORMANTS = np.array([(750, 1250, 2600), (480, 1950, 2650), (300, 2250, 3000), (500, 900, 2550), (340, 850, 2450)])
_WIDTHS = (80.0, 100.0, 140.0)
_VOWELS = {**{c: i for i, c in enumerate("aeiou")}, "y": 2, "æ": 0, "ø": 3}
FILLERS = ("well", "uhm", "you know", "tja", "ну", "bueno", "voilà", "嗯")
TOPICS = (
    "the garden", "the late bus", "my sister’s café", "the exam", "the rowing club", "the new flat", "the piñata",
    "my shift", "the piano", "the neighbour’s dog", "the ferry to Ærø", "the choir",
)  # fmt: skip
CALM = ("quiet", "fine", "easy", "slow and pleasant", "sunny", "all right")
TENSE = ("too much", "unbearable", "a mess", "far too late", "exhausting", "out of control")
_SENTENCES = (
    "{filler}, {topic} was {state}.",
    "I keep thinking of {topic}… it is {state}.",
    "{filler}, we talked about {topic}, and it felt {state}.",
    "Yesterday {topic} turned out {state}, {filler}.",
    "To me {topic} is naïvely put {state}.",
    "And then, {filler}, {topic} again: {state}!",
)


def moving(share: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """float64[B, 2]: bouts of walking [s, s), one in every quarter of a minute or so, which fill `share` of the time."""
    count = max(1, round(seconds / 15))
    part = seconds / count
    start = np.arange(count) * part + rng.uniform(size=count) * (1 - share) * part
    return np.stack([start, start + share * part], axis=1)


def inertial(bouts: np.ndarray, v: Mapping[str, float], seconds: float, rng: np.random.Generator):
    """What a sensor at the waist measures at 50 Hz: acceleration [g] and rates [rad/s], float64[T, 3] each.

    cadence: steps/s; stride: g, amplitude of the vertical swing. A stride is two steps, so the sideways sway and the
    turning go at half the cadence.
    """
    t = np.arange(round(seconds * 50)) / 50
    i = np.clip(np.searchsorted(bouts[:, 0], t, side="right") - 1, 0, None)
    into, left = t - bouts[i, 0], bouts[i, 1] - t
    on = np.clip(np.minimum(into, left) / 0.5, 0, 1)  # half a second to start and to stop
    step = 2 * np.pi * (np.cumsum(v["cadence"] * np.exp(0.03 * wander(t, 2.0, rng))) / 50 + rng.uniform())
    tilt = np.array([0.0, 1.0, 0.0]) + 0.12 * rng.normal(size=3)
    size = v["stride"] * on
    swing = [0.4 * np.sin(step / 2), np.sin(step) + 0.3 * np.sin(2 * step + 0.8), 0.5 * np.sin(step + 1.0)]
    acc = tilt / np.linalg.norm(tilt) + size[:, None] * np.stack(swing, axis=1)
    turn = [0.8 * np.sin(step + 0.4), 2.0 * np.sin(step / 2), 1.0 * np.sin(step / 2 + 0.9)]
    gyro = size[:, None] * np.stack(turn, axis=1)
    return acc + 0.01 * rng.normal(size=acc.shape), gyro + 0.02 * rng.normal(size=gyro.shape)


class Said(NamedTuple):
    """Utterances (start, end [s] and words) and their syllables (start, length [s], and vowel as a row of FORMANTS)."""

    start: np.ndarray
    end: np.ndarray
    text: tuple[str, ...]
    onset: np.ndarray
    length: np.ndarray
    vowel: np.ndarray


def syllables(text: str) -> list[int]:
    """The vowels of a text: a syllable each (a word without one has one e)."""
    found = []
    for word in re.findall(r"\w+", unicodedata.normalize("NFD", text.lower())):
        runs = re.findall(r"[aeiouyæø]+", "".join(c for c in word if not unicodedata.combining(c)))
        found += [_VOWELS[r[0]] for r in runs] or [1]
    return found


def speech(v: Mapping[str, float], habits: Mapping[str, np.ndarray], seconds: float, rng: np.random.Generator) -> Said:
    """rate: syllables/s; pause: s, mean; tense: the chance of a word from TENSE. A sentence that no longer fits is not
    begun."""
    text: list[str] = []
    start, end, onset, length, vowel = [], [], [], [], []
    fillers, topics = softmax(habits["fillers"]), softmax(habits["topics"])
    now = rng.uniform(0.2, 0.8)
    while True:
        words = TENSE if rng.uniform() < v["tense"] else CALM
        said = _SENTENCES[rng.integers(len(_SENTENCES))].format(
            filler=FILLERS[rng.choice(len(FILLERS), p=fillers)], topic=TOPICS[rng.choice(len(TOPICS), p=topics)],
            state=words[rng.integers(len(words))],
        )  # fmt: skip
        vowels = syllables(said)
        lasting = np.exp(0.2 * rng.normal(size=len(vowels)) - 0.02) / v["rate"]
        if now + lasting.sum() > seconds - 0.1:
            break
        text.append(said[0].upper() + said[1:])
        start.append(now)
        onset += (now + np.cumsum(lasting) - lasting).tolist()
        length += lasting.tolist()
        vowel += vowels
        now += lasting.sum()
        end.append(now)
        now += v["pause"] * rng.gamma(4.0, 0.25)
    return Said(np.array(start), np.array(end), tuple(text), np.array(onset), np.array(length), np.array(vowel, int))


def opening(said: Said, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At times t (ascending): how far the syllable is open, 0 … 1 (0: silence), and its vowel."""
    if not len(said.onset):
        return np.zeros(len(t)), np.zeros(len(t), int)
    i = np.repeat(np.arange(-1, len(said.onset)), np.diff(np.r_[0, np.searchsorted(t, said.onset), len(t)]))
    i = np.maximum(i, 0)
    u = (t - said.onset[i]) / said.length[i]
    return np.where((u >= 0) & (u <= 1), np.sin(np.pi * np.clip(u, 0, 1)), 0.0), said.vowel[i]


def voice(said: Said, v: Mapping[str, float], seconds: float, rng: np.random.Generator) -> np.ndarray:
    """float64[T] at 16 kHz, within ±1: pulses at f0 [Hz], which falls along an utterance, through three resonances per vowel.

    tract: formants relative to FORMANTS; loudness: root mean square while speaking, of full scale. Pulses are smooth, so
    nothing aliases; each vowel has its filter, and syllables close in between, so filters change unheard.
    """
    from scipy.signal import sosfilt

    t = np.arange(round(seconds * VOICE_HZ)) / VOICE_HZ
    sound = 0.0005 * rng.normal(size=len(t))
    if not len(said.onset):
        return sound
    slow = np.arange(0, seconds + 0.02, 0.01)
    i = np.clip(np.searchsorted(said.start, slow, side="right") - 1, 0, None)
    along = np.clip((slow - said.start[i]) / (said.end - said.start)[i], 0, 1)
    f0 = v["f0"] * np.exp(0.04 * wander(slow, 0.4, rng) - 0.15 * (along - 0.5))
    phase = 2 * np.pi * np.cumsum(np.interp(t, slow, f0)) / VOICE_HZ
    pulses = np.diff(np.exp(100 * (np.cos(phase) - 1)), prepend=0.0)  # lips radiate the derivative
    open_, vowel = opening(said, t)
    made = np.zeros(len(t))
    for k, centres in enumerate(FORMANTS * v["tract"]):
        at = np.flatnonzero((vowel == k) & (open_ > 0))
        if len(at):
            excited = np.zeros(len(t))
            excited[at] = pulses[at] * open_[at]
            made += sosfilt(_resonances(centres), excited)
    loud = open_ > 0
    return np.clip(sound + made * v["loudness"] / np.sqrt(np.mean(made[loud] ** 2)), -0.99, 0.99)


def _resonances(centres: np.ndarray) -> np.ndarray:
    """Second-order sections: a pole pair per formant [Hz], no gain at 0 Hz."""
    r = np.exp(-np.pi * np.array(_WIDTHS) / VOICE_HZ)
    a1, a2 = -2 * r * np.cos(2 * np.pi * centres / VOICE_HZ), r * r
    zero = np.zeros(3)
    return np.stack([1 + a1 + a2, zero, zero, np.ones(3), a1, a2], axis=1)


def face(said: Said, v: Mapping[str, float], seconds: float, coupling: float, rng: np.random.Generator):
    """At 30 Hz: action units [0 … 5] float64[T, 17], gaze [rad] float64[T, 2], head [rad] float64[T, 3].

    au01 …: mean level of an action unit; blinks: 1/min; gaze: rad, how far the eyes stray. The lips part and the jaw
    drops (AU25, AU26) with the open syllable, and the head nods a little, all times `coupling`.
    """
    t = np.arange(round(seconds * 30)) / 30
    mouth = coupling * opening(said, t)[0]
    units = np.empty((len(t), len(AUS)))
    for k, name in enumerate(AUS):
        units[:, k] = v[f"au{name}"] * np.exp(0.35 * wander(t, 1.5, rng) - 0.06)
    units[:, AUS.index("25")] += 1.8 * mouth
    units[:, AUS.index("26")] += 1.1 * mouth
    shut = rng.uniform(0, seconds, size=rng.poisson(v["blinks"] * seconds / 60))
    blink = np.exp(-((t[:, None] - shut) ** 2) / (2 * 0.06**2))
    units[:, AUS.index("45")] += 3.0 * blink.max(axis=1, initial=0.0)
    units += 0.03 * np.abs(rng.normal(size=units.shape))
    gaze = v["gaze"] * np.stack([wander(t, 0.6, rng), 0.6 * wander(t, 0.9, rng)], axis=1)
    head = 0.08 * np.stack([wander(t, 2.0, rng) for _ in range(3)], axis=1) + np.outer(mouth, [0.05, 0.0, 0.0])
    return np.clip(units, 0, 5), np.clip(gaze, -1.2, 1.2), np.clip(head, -1.2, 1.2)


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max())
    return p / p.sum()


class Week(NamedTuple):
    """Whole days from midnight on. steps: float64[days, 1] a day; hr: float64[minutes, 1], beats/min."""

    calls: Events
    messages: Events
    activities: Events
    steps: np.ndarray
    hr: np.ndarray


def week(
    v: Mapping[str, float], habits: Mapping[str, np.ndarray], days: int, coupling: float, rng: np.random.Generator
) -> Week:
    """A phone's log and a wristband's. Each walk and run is an event, makes steps (the count is their sum), and raises the
    heart rate of its minutes by 25 and 60 beats/min times `coupling`; sleep lowers it by 8, always."""
    parties = softmax(habits["contacts"] - v["focus"] * np.arange(len(habits["contacts"])))
    total = days * DAY_S
    times, out, party = _log(v["calls"], v["night"], days, parties, rng)
    missed = rng.uniform(size=len(times)) < v["missed"]
    lasting = np.maximum(1, np.rint(v["talk"] * np.exp(0.7 * rng.normal(size=len(times)))))
    calls = Events(
        times_s=times, durations_s=np.where(missed, 0.0, lasting), codes=np.where(missed, 2, out), party=party,
        kinds=("in", "out", "missed"), seconds=total,
    )  # fmt: skip
    times, out, party = _log(v["messages"], 0.05, days, parties, rng)
    messages = Events(
        times_s=times,
        durations_s=np.zeros(len(times)),
        codes=out,
        party=party,
        kinds=("received", "sent"),
        seconds=total,
    )

    rise = np.clip(v["rise"] + 0.4 * rng.normal(size=days), 4, 12) * 3600 + np.arange(days) * DAY_S
    bed = np.clip(v["bed"] + 0.5 * rng.normal(size=days), 20, 27) * 3600 + np.arange(days) * DAY_S
    spans = [(0, a, b) for a, b in zip(np.r_[0, bed], np.r_[rise, total], strict=True) if a < b]
    for a, b in zip(rise, np.minimum(bed, total), strict=True):
        walks, runs = rng.poisson(v["walks"]), rng.poisson(v["runs"])
        starts = np.sort(rng.uniform(a, b, size=walks + runs))
        kind = rng.permutation(np.r_[np.ones(walks, int), np.full(runs, 2)])
        length = np.where(kind == 1, 360, 1500) * np.exp(0.5 * rng.normal(size=len(kind)))
        ends = np.minimum(starts + length, np.r_[starts[1:], b])  # one thing at a time
        spans += list(zip(kind, starts, ends, strict=True))
    begin, end = (np.floor([x[k] for x in spans]) for k in (1, 2))
    codes = np.array([x[0] for x in spans], int)
    order = np.argsort(begin, kind="stable")
    begin, end, codes = begin[order], end[order], codes[order]
    activities = Events(
        times_s=begin, durations_s=end - begin, codes=codes, kinds=("sleeping", "walking", "running"), seconds=total
    )
    per_s = np.array([0.0, v["cadence"], 2.7])[codes]
    steps = np.bincount((begin // DAY_S).astype(int), weights=np.rint(per_s * (end - begin)), minlength=days)

    minute = np.arange(round(total / 60)) * 60.0
    i = np.searchsorted(begin, minute + 30, side="right") - 1
    doing = np.where((i >= 0) & (minute + 30 < end[np.maximum(i, 0)]), codes[np.maximum(i, 0)], 3)
    hr = v["hr"] + np.array([-8.0, 25 * coupling, 60 * coupling, 0.0])[doing]
    hr = hr + 3 * np.cos(2 * np.pi * (minute / DAY_S - 16 / 24)) + 2 * wander(minute, 900.0, rng)
    hr = np.clip(hr + rng.normal(size=len(hr)), 30, 220)
    return Week(calls, messages, activities, steps[:, None], hr[:, None])


def _log(
    per_day: float, night: float, days: int, parties: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poisson in number -> times [s], whole seconds, ascending; 1 for out and 0 for in, by a fair coin; with whom.

    night: the chance that one falls between midnight and 6 o'clock; the others fall between 8 and 22.
    """
    count = rng.poisson(per_day * days)
    late = rng.uniform(size=count) < night
    hour = np.where(late, rng.uniform(0, 6, size=count), rng.uniform(8, 22, size=count))
    times = np.floor(rng.integers(days, size=count) * DAY_S + 3600 * hour)
    party = rng.choice(len(parties), size=count, p=parties)
    return np.sort(times), rng.integers(2, size=count), party
