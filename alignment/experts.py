"""A simulated expert, for tests, demonstrations and to plan how many answers a study needs. Nobody's judgement.

**Utility** of a recording: the mean over terms of how well each fits, times 6 (so that the standard deviation among
simulated recordings is about 1). A term is -|x - c| / width, not below -3, where c is what is usual, for stress c + shift; one-sided
terms lack nothing above (below) c. A term whose streams are missing, or that cannot be found, is absent, and the mean is over the
others. Terms are of two kinds.

*Vital signs*, which the report measures too (`data/vitals.py`), and whose fit to the label is what an expert sees first.

*Held out*: what no fidelity metric of the report measures, so that a generator that is tuned to the one may fail the other.
Marginals, spectra, autocorrelation, PRDC, C2ST, MMD and Fréchet distances are of statistics of one stream each, which, slopes
apart, a recording played backwards has too (the predictive score and DTW see direction, but no sign by name); sample by sample
across streams the report measures heart rate with breath, and voice with lips (`lips.py`), alone. Held out are therefore directions in
time and other relations across streams:

    SCR asymmetry        a response falls slower than it rises: half-recovery 2 to 10 s after rises of 1 to 3 s
                         (Dawson, Schell & Filion 2007, Handbook of Psychophysiology, ch. 7)
    HR after SCR         an orienting response slows the heart at first, an arousal response quickens it: change of HR from the
                         5 s before to the 2–8 s after a response (Graham & Clifton 1966, Psychol Bull 65:305)
    pulse after SCR      sympathetic outflow narrows skin vessels with sweating, so the pulse gets smaller
                         (Bini et al. 1980, J Physiol 306:537)
    HR course            the heart settles at rest, and stays up or rises under stress (recovery after stress: Linden et al. 1997,
                         Ann Behav Med 19:117)
    temperature and EDA  arousal cools the skin while its conductance rises (Vinkers et al. 2013, Stress 16:520)
    SCR habituation      responses become smaller when nothing new happens (Dawson et al. 2007)
    inspiration          breathing in takes less time than breathing out, more nearly equal under stress (Boiten et al. 1994, Psychol Bull
                         115:103)

*Movement*, for recordings without any vital sign: an accelerometer at a wrist shows gravity, and voluntary movement is slow
(nearly all of it below 5 Hz); held out: where the direction of the acceleration turns, the gyroscope turns as well. Rules of
thumb, of no clinical meaning.

**Answers.** Rater r sees the difference of utilities with own weights, weight * exp(taste * N), sharpened by `sharpness` * exp(spread *
N); adds `side` * N for what stands on the left; and answers A with the logistic chance of the sum; "tie" where sum and
noise together are within `tie`; "both_bad" where both utilities lie below `bad`; with chance `lapse` at random. All of it follows
from the seed, the rater, the pair and how often it was shown before.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from pydantic import Field

from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Recording, Signal, Stream
from ..data import physiology
from ..data.vitals import VITALS, roles_of, vitals
from .preferences import Choice, Preference


class Term(NamedTuple):
    """centre, and its shift under stress; width: of a deviation that counts 1; side: 0 both, +1 only what lies below
    lacks, -1 only what lies above; held_out: from the report's metrics."""

    centre: float
    shift: float
    width: float
    weight: float = 1.0
    side: Literal[-1, 0, 1] = 0
    held_out: bool = False


TERMS = {
    "HR": Term(70.0, 10.0, 10.0, 1.5),
    "RMSSD": Term(42.0, -14.0, 15.0),
    "breathing": Term(15.0, 2.0, 2.5),
    "HR-breath correlation": Term(0.6, 0.0, 0.2, side=1),
    "SCR rate": Term(3.0, 5.0, 3.0, 1.5),
    "SCR rise": Term(0.25, 0.1, 0.15),
    "tonic EDA": Term(4.0, 1.5, 3.0),
    "skin temperature": Term(33.2, -0.6, 1.0),
    "SCR asymmetry": Term(2.0, 0.0, 1.0, side=1, held_out=True),
    "HR after SCR": Term(0.0, 1.5, 4.0, 0.5, held_out=True),
    "pulse after SCR": Term(-0.03, -0.03, 0.15, 0.5, side=-1, held_out=True),
    "HR course": Term(-0.5, 1.5, 5.0, 0.5, held_out=True),
    "temperature and EDA": Term(0.0, -0.2, 0.5, 0.5, side=-1, held_out=True),
    "SCR habituation": Term(0.0, 0.0, 1.0, 0.5, side=-1, held_out=True),
    "inspiration": Term(0.42, 0.04, 0.06, 0.5, held_out=True),
    "gravity": Term(1.05, 0.0, 0.1),
    "slow movement": Term(0.95, 0.0, 0.1, side=1),
    "turn and tilt": Term(0.6, 0.0, 0.2, side=1, held_out=True),
}
Part = Literal["all", "held_out", "vital"]  # of the terms; vital: those that the report measures too
PARTS: tuple[Part, ...] = get_args(Part)
_WORST, _SCALE = 3.0, 6.0
WORST = -_SCALE * _WORST  # the least utility there is
_STRESS = ("stress", "stressed")


def terms(recording: Recording, task: str | None = None) -> np.ndarray:
    """float64[len(TERMS)]: how each term fits, -3 to 0; NaN where it cannot be found. task: whose label counts (default: the
    first, by name)."""
    where = roles_of(recording.streams)
    found = dict(zip(VITALS, vitals(recording.streams, where), strict=True)) | held_out(recording.streams, where)
    found |= moves(recording.streams, where)
    label = recording.labels.get(task or min(recording.labels, default=""), "")
    stress = str(label).lower() in _STRESS
    out = []
    for name, t in TERMS.items():
        off = (found[name] - t.centre - t.shift * stress) / t.width
        lack = abs(off) if t.side == 0 else max(0.0, -t.side * off)
        out.append(-min(lack, _WORST) if math.isfinite(off) else math.nan)
    return np.array(out)


def held_out(streams: Mapping[str, Stream], where: Mapping[str, str]) -> dict[str, float]:
    """The held-out signs (see the module's head; changes of HR in beats/min, of the pulse's height as a logarithm, HR course
    in beats/min per minute, habituation as a logarithm per minute); NaN for what cannot be found."""

    def of(role: str) -> Signal | None:
        s = streams.get(where.get(role, ""))
        return s if isinstance(s, Signal) and s.complete else None

    out = dict.fromkeys((n for n, t in TERMS.items() if t.held_out), math.nan)
    pulse, breath, eda, temp = (of(r) for r in ("pulse", "breath", "eda", "temp"))
    heart = pulse or of("ecg")
    beats = (
        np.empty(0)
        if heart is None
        else physiology.beats(heart.values[:, 0], heart.rate_hz, "pulse" if pulse else "ecg")
    )
    rate = _rate(beats)
    if rate is not None:
        out["HR course"] = 60 * float(np.polyfit(rate[0] - rate[0].mean(), rate[1], 1)[0])
    height = _heights(pulse, beats) if pulse is not None else None
    if eda is not None:
        x = eda.values[:, 0].astype(np.float64) / (1000 if eda.unit == "nS" else 1)
        peaks, rises = physiology.responses(x, eda.rate_hz)
        onset, ratio = _shapes(x, eda.rate_hz, peaks)
        if len(ratio) >= 2:
            out["SCR asymmetry"] = float(np.median(ratio))
        if len(peaks) >= 4 and np.ptp(peaks) > 10:
            out["SCR habituation"] = 60 * float(np.polyfit(peaks, np.log(rises), 1)[0])
        out["HR after SCR"] = _after(onset, rate, 5.0, (2.0, 8.0))
        out["pulse after SCR"] = _after(onset, height, 4.0, (2.0, 7.0))
        if temp is not None:
            out["temperature and EDA"] = _together(temp, eda)
    if breath is not None:
        out["inspiration"] = _inspiration(breath)
    return out


def moves(streams: Mapping[str, Stream], where: Mapping[str, str]) -> dict[str, float]:
    """What is to be seen of a wrist that moves: mean norm of the acceleration (g), share of its power below 5 Hz, and the
    correlation of the gyroscope's rate with how fast the direction of the acceleration turns. NaN beside any vital
    sign, which an expert would look at."""
    out: dict[str, float] = dict.fromkeys(("gravity", "slow movement", "turn and tilt"), math.nan)
    acc, gyro = streams.get(where.get("acc", "")), streams.get("gyro")
    if set(where) & {"ecg", "pulse", "breath", "eda", "temp"} or not isinstance(acc, Signal) or not acc.complete:
        return out
    from scipy.ndimage import uniform_filter1d

    x = acc.values.astype(np.float64) / (1.0 if acc.unit == "g" else 9.80665)
    out["gravity"] = float(np.linalg.norm(x, axis=1).mean())
    power = (np.abs(np.fft.rfft(x - x.mean(0), axis=0)) ** 2).sum(1)
    if power.sum() > 0:
        out["slow movement"] = float(power[np.fft.rfftfreq(len(x), 1 / acc.rate_hz) < 5].sum() / power.sum())
    if isinstance(gyro, Signal) and gyro.complete and gyro.rate_hz == acc.rate_hz and len(gyro.values) == len(x):
        width = max(1, round(0.2 * acc.rate_hz))
        smooth = uniform_filter1d(x, width, axis=0)
        way = smooth / np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-6)
        tilt = uniform_filter1d(np.linalg.norm(np.gradient(way, axis=0), axis=1), width)
        turn = uniform_filter1d(np.linalg.norm(gyro.values.astype(np.float64), axis=1), width)
        if tilt.std() > 1e-9 and turn.std() > 1e-9:
            out["turn and tilt"] = float(np.corrcoef(tilt, turn)[0, 1])
    return out


def _rate(beats: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(times [s], beats/min) of plausible intervals; None with fewer than ten."""
    rr = physiology.intervals(beats)
    good = np.isfinite(rr)
    return (((beats[:-1] + beats[1:]) / 2)[good], 60 / rr[good]) if good.sum() >= 10 else None


def _heights(pulse: Signal, beats: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(times [s], log height of the pulse wave) per beat."""
    x = pulse.values[:, 0].astype(np.float64)
    size = [
        np.ptp(x[max(0, round((t - 0.4) * pulse.rate_hz)) : round((t + 0.2) * pulse.rate_hz)]) for t in beats.tolist()
    ]
    good = np.array(size) > 0
    return (beats[good], np.log(np.array(size)[good])) if good.sum() >= 10 else None


def _after(
    onset: np.ndarray, series: tuple[np.ndarray, np.ndarray] | None, before_s: float, after_s: tuple[float, float]
) -> float:
    """The mean change of a series from before the onsets to after them; NaN with fewer than two onsets that have both."""
    if series is None:
        return math.nan
    t, v = series
    changes = []
    for at in onset.tolist():
        old = v[(t >= at - before_s) & (t < at)]
        new = v[(t >= at + after_s[0]) & (t < at + after_s[1])]
        if len(old) >= 2 and len(new) >= 2:
            changes.append(float(new.mean() - old.mean()))
    return float(np.mean(changes)) if len(changes) >= 2 else math.nan


def _shapes(x: np.ndarray, rate_hz: float, peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(onsets [s], half-recovery time over rise time of those responses that recover by half before the next)."""
    onsets, ratios = [], []
    at = np.rint(peaks * rate_hz).astype(int)
    for k, top in enumerate(at.tolist()):
        first = max(0, top - round(5 * rate_hz), at[k - 1] if k else 0)
        foot = first + int(np.argmin(x[first : top + 1]))
        onsets.append(foot / rate_hz)
        last = at[k + 1] if k + 1 < len(at) else len(x)
        half = np.flatnonzero(x[top:last] <= (x[top] + x[foot]) / 2)
        if top > foot and len(half):
            ratios.append(float(half[0]) / (top - foot))
    return np.array(onsets), np.array(ratios)


def _together(temp: Signal, eda: Signal) -> float:
    """The correlation of temperature and skin conductance, both smoothed over 10 s and sampled each second."""
    from scipy.ndimage import uniform_filter1d

    seconds = np.arange(0, min(temp.seconds, eda.seconds) - 1)
    if len(seconds) < 20:
        return math.nan
    a, b = (
        uniform_filter1d(np.interp(seconds, np.arange(len(s.values)) / s.rate_hz, s.values[:, 0]), 10)
        for s in (temp, eda)
    )
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else math.nan


def _inspiration(breath: Signal) -> float:
    """The share of time in which the breath signal rises, smoothed over half a second."""
    from scipy.ndimage import uniform_filter1d

    x = uniform_filter1d(breath.values[:, 0].astype(np.float64), max(1, round(0.5 * breath.rate_hz)))
    step = np.diff(x)
    return float((step > 0).mean()) if len(step) > 8 * breath.rate_hz and step.any() else math.nan


class Config(Section):
    """sharpness: of a difference of 1; spread, taste, side: how raters differ (see the module's head); tie, bad, lapse;
    held_out: times the weight of the held-out terms (0: only vital signs); task: whose label is judged; seed."""

    sharpness: float = Field(default=3.0, ge=0)
    spread: float = Field(default=0.3, ge=0)
    taste: float = Field(default=0.2, ge=0)
    side: float = Field(default=0.1, ge=0)
    tie: float = Field(default=0.2, ge=0)
    bad: float = -8.0
    lapse: float = Field(default=0.02, ge=0, le=1)
    held_out: float = Field(default=1.0, ge=0)
    task: str | None = None
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True, kw_only=True)
class Expert:
    """weights: float64[len(TERMS)]."""

    config: Config
    weights: np.ndarray

    @staticmethod
    def of(config: Config | None = None) -> Expert:
        config = config or Config()
        return Expert(
            config=config,
            weights=np.array([t.weight * (config.held_out if t.held_out else 1.0) for t in TERMS.values()]),
        )

    def utility(self, recording: Recording, part: Part = "all") -> float:
        """0 is the best there is; NaN where no term of the part can be found."""
        return self.utilities(recording)[part]

    def utilities(self, recording: Recording) -> dict[Part, float]:
        """`utility` of every part, looked for once."""
        found, held_out = terms(recording, self.config.task), np.array([t.held_out for t in TERMS.values()])
        mine: dict[Part, np.ndarray] = {"all": np.ones(len(TERMS)), "held_out": held_out, "vital": ~held_out}
        return {part: _mean(found, self.weights * keep) for part, keep in mine.items()}

    def compare(self, a: Recording, b: Recording, *, pair: str, rater: str, again: int = 0) -> Preference:
        """One rater's answer; again: how often they had this pair before."""
        task = self.config.task
        return self._answer(a, b, terms(a, task), terms(b, task), pair=pair, rater=rater, again=again)

    def _answer(
        self, a: Recording, b: Recording, of_a: np.ndarray, of_b: np.ndarray, *, pair: str, rater: str, again: int,
        kind: Literal["pair", "control"] = "pair",
    ) -> Preference:  # fmt: skip
        c = self.config
        own = _rng(c.seed, "rater", rater)
        sharpness = c.sharpness * math.exp(c.spread * own.normal())
        left = c.side * own.normal()
        weights = self.weights * np.exp(c.taste * own.normal(size=len(TERMS)))
        rng = _rng(c.seed, "answer", rater, pair, str(again))
        side: Literal["a", "b"] = "a" if rng.uniform() < 0.5 else "b"
        # nothing to be judged by is as bad as it gets; as 0 it would be the best there is
        ua, ub = (u if math.isfinite(u := _mean(x, weights)) else WORST for x in (of_a, of_b))
        pull = sharpness * (ua - ub) + (left if side == "a" else -left)
        seen = pull + rng.logistic()
        choice: Choice = "A" if seen > 0 else "B"
        if rng.uniform() < c.lapse:
            choice = "A" if rng.uniform() < 0.5 else "B"
        elif max(ua, ub) < c.bad:
            choice = "both_bad"
        elif abs(seen) < c.tie:
            choice = "tie"
        return Preference(
            pair=pair, a=a.id, b=b.id, rater=rater, choice=choice, side=side, label=_label(a, c.task),
            confidence=1 + min(4, int(abs(seen))), kind="repeat" if again else kind,
            seconds=round(float(rng.lognormal(2.3, 0.5)), 1),
        )  # fmt: skip


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    there = np.isfinite(values) & (weights > 0)
    return _SCALE * float(values[there] @ weights[there] / weights[there].sum()) if there.any() else math.nan


def _label(r: Recording, task: str | None) -> str:
    return str(r.labels.get(task or min(r.labels, default=""), ""))


def _rng(seed: int, *words: str) -> np.random.Generator:
    digest = hashlib.sha256("\x1f".join((str(seed), *words)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def ask(
    expert: Expert, recordings: Sequence[Recording], n_pairs: int, raters: int | Sequence[str], seed: int, *,
    repeats: float = 0.05, controls: Sequence[Recording] = (), control_share: float = 0.05,
) -> list[Preference]:  # fmt: skip
    """All raters on the same n pairs of recordings of one label, drawn at random without repetition; then a share of these once
    more; then pairs of `controls` (real recordings, where their card allows it), a share of n. Raters: names, or a number.

    MienError where there are fewer than n such pairs, or two recordings of one id.
    """
    names = [f"simulated-{i + 1}" for i in range(raters)] if isinstance(raters, int) else list(raters)
    if len({r.id for r in (*recordings, *controls)}) < len(recordings) + len(controls):
        raise MienError("two of the recordings have the same id, so that answers about them could not be told apart")
    rng, task = np.random.default_rng([seed, 0xA5F]), expert.config.task
    pairs = _pairs(recordings, n_pairs, task, rng)
    again = pairs[: math.ceil(repeats * len(pairs))] if repeats > 0 else []
    checks = _pairs(controls, math.ceil(control_share * n_pairs), task, rng) if controls else []
    known = {r.id: terms(r, task) for r in {r.id: r for p in (*pairs, *checks) for r in p}.values()}
    out = []
    for kind, times, some in (("pair", 0, pairs), ("pair", 1, again), ("control", 0, checks)):
        for i, (a, b) in enumerate(some):
            for rater in names:
                out.append(
                    expert._answer(
                        a, b, known[a.id], known[b.id], pair=f"{kind}-{seed}-{i:05d}", rater=rater, again=times,
                        kind="control" if kind == "control" else "pair",
                    )
                )  # fmt: skip
    return out


def _pairs(
    recordings: Sequence[Recording], n: int, task: str | None, rng: np.random.Generator
) -> list[tuple[Recording, Recording]]:
    """n different pairs of one label. Labels in proportion to their number of pairs."""
    by: dict[str, list[Recording]] = {}
    for r in recordings:
        by.setdefault(_label(r, task), []).append(r)
    groups = list(by.values())
    sizes = [len(g) * (len(g) - 1) // 2 for g in groups]
    if sum(sizes) < n:
        raise MienError(f"{n} pairs of one label are asked for, and {len(recordings)} recordings make {sum(sizes)}")
    out = []
    edges = np.cumsum([0, *sizes])
    for k in rng.choice(sum(sizes), size=n, replace=False).tolist():
        g = int(np.searchsorted(edges, k, side="right")) - 1
        k -= int(edges[g])
        j = (1 + math.isqrt(8 * k + 1)) // 2  # the k-th pair i < j, counted by j
        i = k - j * (j - 1) // 2
        a, b = groups[g][i], groups[g][j]
        out.append((a, b) if rng.uniform() < 0.5 else (b, a))
    return out


@dataclass(frozen=True, kw_only=True)
class Plan:
    """pairs, each answered by `raters`, so answers = pairs * raters; power: what is reached."""

    pairs: int
    raters: int
    answers: int
    power: float


def power(win_rate: float, *, raters: int = 1, agreement: float = 0.6, level: float = 0.05, power: float = 0.8) -> Plan:
    """How many pairs show that one generator wins against another more (or less) often than half of the time.

    The exact two-sided binomial test of `win_rate` against ½ at `level`, with at least `power`, for the number of independent
    answers; raters who answer the same pairs agree (α = `agreement`, the correlation of two answers about one pair),
    so that r answers about a pair are worth r / (1 + (r - 1) α) (Kish 1965, Survey Sampling). Undecided answers
    are to be asked in addition. MienError for a win rate of ½.
    """
    from scipy import stats

    if not (0 < win_rate < 1 and abs(win_rate - 0.5) >= 0.005 and raters >= 1 and 0 <= agreement <= 1):
        raise MienError(f"a win rate of {win_rate:g} by {raters} raters with α = {agreement:g} cannot be planned for")
    if not (0 < level < 1 and 0 < power < 1):
        raise MienError(f"level {level:g} and power {power:g} lie between 0 and 1")
    better = max(win_rate, 1 - win_rate)
    worth = raters / (1 + (raters - 1) * agreement)

    def reached(n: np.ndarray) -> np.ndarray:
        least = stats.binom.isf(level / 2, n, 0.5) + 1  # smallest k with P(K >= k) <= level / 2
        return stats.binom.sf(least - 1, n, better) + stats.binom.cdf(n - least, n, better)

    high = 16
    while reached(np.arange(high, 2 * high)).min() < power:
        high *= 2
    enough = reached(np.arange(1, 2 * high)) >= power
    # the power of an exact test goes up in a zigzag: from here on it stays above
    n = int(np.flatnonzero(~enough)[-1]) + 2 if not enough.all() else 1
    pairs = math.ceil(n / worth)
    return Plan(pairs=pairs, raters=raters, answers=pairs * raters, power=float(reached(np.array([n]))[0]))
