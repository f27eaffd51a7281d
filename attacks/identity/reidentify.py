"""Re-identification: whose recording is this, given recordings of candidates?

Three attackers, in the words of the VoicePrivacy challenge: the *ignorant* one knows nothing of the protection (learns
from and enrols unprotected recordings), the *lazy-informed* one protects the enrolment with the tool, the
*semi-informed* one also learns from protected recordings of other persons. Only the last may rank protections: what
stops the others may just be strange to them, not safe.

All three measure persons in the same way: recordings as vectors, whitened by how a person varies between recordings,
weighed by how persons differ (linear discriminants with shrinkage), compared by cosine or by the likelihood ratio of
the two-covariance model (Brümmer & de Villiers 2010); which of them, and how scores become log-likelihood ratios, is
learnt on other persons by cross-fitting. An attacker who learnt too little fakes privacy: the same attacker must first
recognise unprotected recordings (the positive control), and where it cannot, every number is withheld.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from ...core.config import Section
from ...core.errors import MienError
from ...core.intervals import Interval
from ...core.results import Baseline, Result
from ..verification import Comparison, eer, open_set, rank, verification

NEEDS = ("protected", "plain")
_FAR = 10.0  # standard deviations; beyond it a value is as odd as it gets, and one column would rule a distance
_LEAST = 4  # other persons with two recordings each, or nothing can be learnt across persons


class Config(Section):
    """scoring: cosine, likelihood, or (best) the one that does better on the background; ranks: for identification;
    fpir: false alarm rate of open-set identification, where probes of persons without an enrolment are there; folds:
    of the background's persons, for calibration; allow_same_session: compare recordings of one session (day, visit)
    all the same: the result then says that the session may be what identifies; seed: who shares a fold.
    """

    scoring: Literal["best", "cosine", "likelihood"] = "best"
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 5), min_length=1)
    fpir: float = Field(default=0.1, gt=0, lt=1)
    folds: int = Field(default=5, ge=2)
    allow_same_session: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Views:
    """Representations or window statistics with their owners.

    X: float64[n, d], NaN where a statistic is missing; person, recording: str[n]; session: str[n], the visit or day of
    each row, or None where nobody knows. Raises MienError on other shapes, infinite values, rows without any value,
    and recordings with two persons or two sessions.
    """

    X: np.ndarray
    person: np.ndarray
    recording: np.ndarray
    session: np.ndarray | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "X", np.asarray(self.X, dtype=np.float64))
        for name in ("person", "recording", "session"):
            value = getattr(self, name)
            if value is not None:
                put(self, name, np.asarray([str(v) for v in value]))
                if self.X.ndim != 2 or self.X.size == 0 or getattr(self, name).shape != (len(self.X),):
                    raise MienError(f"views: X has shape {list(self.X.shape)} and there are {len(value)} {name}s")
        if np.isinf(self.X).any():
            raise MienError("views: infinite values; mark what is missing with NaN")
        if empty := int(np.isnan(self.X).all(1).sum()):
            raise MienError(f"views: {empty} of {len(self.X)} rows hold no value at all; leave them out")
        for name in ("person", "session"):
            if (other := getattr(self, name)) is not None:
                pairs = len(np.unique(np.stack([self.recording, other]), axis=1).T)
                if extra := pairs - len(np.unique(self.recording)):
                    raise MienError(f"views: {extra} recordings have two {name}s; a recording has one")

    def __len__(self) -> int:
        return len(self.X)

    def rows(self, keep: np.ndarray) -> Views:
        """The rows where the boolean (or index) array `keep` says so."""
        session = None if self.session is None else self.session[keep]
        return Views(X=self.X[keep], person=self.person[keep], recording=self.recording[keep], session=session)

    def pooled(self, by: Literal["recording", "person"]) -> Views:
        """One row, the mean over what is there, for each recording; or for each person, over recordings."""
        rows = self if by == "recording" else self.pooled("recording")
        names, first, code = np.unique(getattr(rows, by), return_index=True, return_inverse=True)
        there = ~np.isnan(rows.X)
        total, count = (np.zeros((len(names), rows.X.shape[1])) for _ in range(2))
        np.add.at(total, code, np.where(there, rows.X, 0.0))
        np.add.at(count, code, there)
        X = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        session = None if rows.session is None or by == "person" else rows.session[first]
        return Views(X=X, person=rows.person[first], recording=rows.recording[first], session=session)


@dataclass(frozen=True, kw_only=True)
class Sides:
    """probes: recordings whose owner is in question; gallery: recordings of candidates, under their names;
    background: recordings of other persons, two or more each, to learn from.

    A protected gallery or background is what the attacker made with the protection's tool: with other random draws
    than the probes, for the attacker does not have theirs.
    """

    probes: Views
    gallery: Views
    background: Views

    def __post_init__(self) -> None:
        columns = {v.X.shape[1] for v in (self.probes, self.gallery, self.background)}
        if len(columns) > 1:
            raise MienError(f"probes, gallery and background have {sorted(columns)} columns; represent them alike")


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """One attacker's finding. raw: scores as compared; llr: float64[P, G], the same calibrated on the background."""

    raw: Comparison
    llr: np.ndarray
    scoring: str


@dataclass(frozen=True, kw_only=True)
class Reidentified:
    """What the attackers found: each by name, or why it could not run; control: the attacker on unprotected
    recordings; sessions: what is known of them."""

    attackers: Mapping[str, Attacked | str]
    control: Attacked
    sessions: str
    config: Config

    def results(self) -> list[Result]:
        """All numbers of the semi-informed attacker, EER and rank-1 of the others, each beside the same number
        without protection; then the control. All are withheld where the control failed."""
        ranks = self.config.ranks
        plain = measured(self.control.raw, self.control.llr, ranks, self.config.fpir)
        control = plain["eer"][0]
        assert control is not None
        failed = control.high is None or control.high >= 0.5
        found = {
            name: measured(a.raw, a.llr, ranks, self.config.fpir) if isinstance(a, Attacked) else a
            for name, a in self.attackers.items()
        }
        rates = {k: m["eer"][0] for k, m in found.items() if not isinstance(m, str) and m["eer"][0] is not None}
        best = min(rates, key=lambda k: rates[k].value)
        out = []
        for name, m in found.items():
            attacked = self.attackers[name]
            if isinstance(m, str) or isinstance(attacked, str):
                out.append(Result(metric=f"reidentify.{name}.eer", value=None, note=f"not run: {m}"))
                continue
            note = f"{describe(attacked.raw)}; {attacked.scoring} scoring; {self.sessions}"
            if name != "semi_informed":
                note += "; a weaker attacker by design: never rank protections by it"
            elif rates[best].value < (rates[name].low or 0.0):
                note += (
                    f"; the {best} attacker did better (EER {rates[best].value:.3f}): this one has learnt too little"
                )
            if failed:
                note = (
                    f"withheld: the attacker does not recognise unprotected recordings (EER {control.value:.2f}), so what"
                    " it cannot find proves nothing; give it more background persons or recordings"
                )
            kept = m if name == "semi_informed" else {k: m[k] for k in ("eer", f"rank_{ranks[0]}") if k in m}
            more = told(f"reidentify.{name}", kept, plain, note, failed)
            if name == "semi_informed" and not failed:
                others = tuple(
                    Baseline(name=k, value=v.value, low=v.low, high=v.high) for k, v in rates.items() if k != name
                )
                more[0] = more[0].model_copy(update={"baselines": (*more[0].baselines, *others)})
            out += more
        note = f"positive control: unprotected recordings; {describe(self.control.raw)}; {self.sessions}"
        return [*out, *told("reidentify.control", {"eer": plain["eer"]}, {}, note, False)]


def score(protected: Sides, plain: Sides, config: Config) -> Reidentified:
    """Attack the probes of `protected`; `plain` holds the same persons without protection.

    Raises MienError where a background person is judged too, gallery and probes share a recording or (unless
    `allow_same_session`) a person's session, no probe's person is enrolled, or the background has fewer than four
    persons with two recordings.
    """
    sessions = _apart(protected, plain, config)
    same = protected.probes.X.shape[1] == plain.probes.X.shape[1]
    why = f"protected recordings have {protected.probes.X.shape[1]} columns and plain ones {plain.probes.X.shape[1]}"
    uninformed, informed = _Attacker(plain.background, config), _Attacker(protected.background, config)
    return Reidentified(
        attackers={
            "ignorant": uninformed(protected.probes, plain.gallery) if same else why,
            "lazy_informed": uninformed(protected.probes, protected.gallery) if same else why,
            "semi_informed": informed(protected.probes, protected.gallery),
        },
        control=uninformed(plain.probes, plain.gallery),
        sessions=sessions,
        config=config,
    )


Measured = dict[str, tuple[Interval | None, float, str]]


def measured(raw: Comparison, llr: np.ndarray, ranks: Sequence[int], fpir: float | None = None) -> Measured:
    """name -> (interval, value of knowing nothing, what to add to the note)."""
    beside = {
        "eer": (0.5, ""), "cllr": (1.0, "calibrated on other persons"), "min_cllr": (1.0, "the best calibration"),
        "d_sys": (0.0, "ω = 1"), "zebra": (0.0, "expected disclosure in bits, 0.7213 at most"),
    }  # fmt: skip
    found: Measured = {k: (v, *beside[k]) for k, v in verification(raw, llr).items()}
    size = len(raw.entry)
    found |= {f"rank_{k}": (rank(raw, k), k / size, f"closed set, {size} enrolled") for k in ranks if k < size}
    if fpir is not None and not np.isin(raw.probe, raw.entry).all():
        rate, note = open_set(raw, fpir)
        found[f"found_at_fpir_{fpir:g}"] = (rate, fpir / size, f"{note}; {size} enrolled")
    return found


def told(name: str, found: Measured, beside: Measured, note: str, withheld: bool) -> list[Result]:
    """The results of `measured`, each beside chance and the same number in `beside`."""
    out = []
    for key, (interval, chance, more) in found.items():
        shown = None if withheld else interval
        plain = beside.get(key, (None, 0.0, ""))[0]
        if interval is not None and interval.low is None:
            more += "; no interval, for leaving a person out changes nothing"
        control = [Baseline(name="unprotected", value=plain.value, low=plain.low, high=plain.high)] if plain else []
        out.append(Result(
            metric=f"{name}.{key}", value=None if shown is None else shown.value, low=None if shown is None else shown.low,
            high=None if shown is None else shown.high, n_persons=0 if interval is None else interval.n_persons,
            unit="recording", higher_is_better=key in ("eer", "cllr", "min_cllr"),
            baselines=(Baseline(name="chance", value=chance), *control),
            note=note if withheld else "; ".join(v for v in (more, note) if v),
        ))  # fmt: skip
    return out


def describe(c: Comparison) -> str:
    return f"{len(c.probe)} probes of {len(set(c.probe))} against a gallery of {len(c.entry)}"


class _Attacker:
    """Learns from the background; compares probes with a gallery."""

    def __init__(self, background: Views, config: Config):
        rows = background.pooled("recording")
        people, size = np.unique(rows.person, return_counts=True)
        able = people[size >= 2]
        if len(able) < _LEAST:
            raise MienError(
                f"{len(able)} background persons have two recordings; the attacker needs {_LEAST} or more to learn what"
                " stays the same in a person"
            )
        kinds = ("cosine", "likelihood") if config.scoring == "best" else (config.scoring,)
        mated, other = ({k: [] for k in kinds} for _ in range(2))
        folds = min(config.folds, len(able) // 2)
        turn = np.random.default_rng(config.seed).permutation(len(able)) % folds
        for f in range(folds):
            held = able[turn == f]
            model = _Model(rows.rows(~np.isin(rows.person, held)))
            probes, gallery = _halves(rows.rows(np.isin(rows.person, held)))
            for k in kinds:
                found = model.compare(probes, gallery, k)
                mated[k].append(found.score[found.mated])
                other[k].append(found.score[~found.mated])
        pairs = {k: (np.concatenate(mated[k]), np.concatenate(other[k])) for k in kinds}
        self.scoring = min(kinds, key=lambda k: eer(*pairs[k]))
        self.calibrate = _calibration(*pairs[self.scoring])
        self.model = _Model(rows)

    def __call__(self, probes: Views, gallery: Views) -> Attacked:
        raw = self.model.compare(probes.pooled("recording"), gallery.pooled("recording"), self.scoring)
        return Attacked(raw=raw, llr=self.calibrate(raw.score), scoring=self.scoring)


class _Model:
    """The two-covariance model of recordings (rows of `rows`, each its own recording)."""

    def __init__(self, rows: Views):
        people, who, size = np.unique(rows.person, return_inverse=True, return_counts=True)
        self.ready = ready(rows.X)
        z = self.ready(rows.X)
        sums = np.zeros((len(people), z.shape[1]))
        np.add.at(sums, who, z)
        means = sums / size[:, None]
        several = size[who] >= 2
        inside = (z - means[who])[several]
        spread, _ = ledoit_wolf(inside, assume_centered=True)
        spread *= several.sum() / max(1, several.sum() - (size >= 2).sum())  # degrees of freedom the means took
        value, axes = np.linalg.eigh(spread + 1e-9 * np.eye(len(spread)))
        white = axes / np.sqrt(np.maximum(value, 1e-9))
        between, _ = ledoit_wolf(means @ white)
        value, axes = np.linalg.eigh(between)
        self.between = np.maximum(value - (1 / size).mean(), 1e-3)  # a mean of n recordings varies by 1/n by itself
        self.axes = white @ axes
        self.centre = means.mean(0) @ self.axes

    def compare(self, probes: Views, gallery: Views, scoring: str) -> Comparison:
        """Every probe recording against every gallery person. probes, gallery: one row per recording."""
        entries, who, n = np.unique(gallery.person, return_inverse=True, return_counts=True)
        x, g = (self.ready(v.X) @ self.axes - self.centre for v in (probes, gallery))
        mean = np.zeros((len(entries), g.shape[1]))
        np.add.at(mean, who, g / n[who, None])
        b = self.between
        if scoring == "cosine":
            # with one recording on each side the two-covariance score is x·g weighed by b / (2b + 1), and squares
            sides = [v * np.sqrt(b / (2 * b + 1)) for v in (x, mean)]
            x, mean = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in sides)
            found = x @ mean.T
        else:
            rest = 1 / (1 / b + n[:, None])  # what is not known of a person after n recordings, [entries, d]
            m, v = rest * n[:, None] * mean, rest + 1
            same = (x**2) @ (1 / v).T - 2 * x @ (m / v).T + (m**2 / v + np.log(v)).sum(1)
            any_one = (x**2 / (b + 1) + np.log(b + 1)).sum(1)
            found = (any_one[:, None] - same) / 2
        return Comparison(score=found, probe=probes.person, entry=entries)


def ready(X: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that standardises columns by the mean and sd of X; missing becomes the mean, 0; ends at ±10 sd."""
    there = ~np.isnan(X)
    n = np.maximum(there.sum(0), 1)
    mean = np.where(there, X, 0.0).sum(0) / n
    sd = np.sqrt((np.where(there, X - mean, 0.0) ** 2).sum(0) / n)
    moves = sd > 1e-12 * (1 + np.abs(mean))
    if not moves.any():
        raise MienError("every column of the background is constant; nothing can be learnt from it")

    def standardised(new: np.ndarray) -> np.ndarray:
        z = (new[:, moves] - mean[moves]) / sd[moves]
        return np.clip(np.where(np.isnan(z), 0.0, z), -_FAR, _FAR)

    return standardised


def _halves(rows: Views) -> tuple[Views, Views]:
    """(probes, gallery): each person's sessions, or recordings where these are one or unknown, dealt in turn."""
    probe = np.zeros(len(rows), bool)
    for p in np.unique(rows.person):
        mine = np.flatnonzero(rows.person == p)
        of = rows.recording[mine] if rows.session is None else rows.session[mine]
        if len(set(of)) < 2:
            of = rows.recording[mine]
        probe[mine] = np.unique(of, return_inverse=True)[1] % 2 == 0
    return rows.rows(probe), rows.rows(~probe)


def _calibration(mated: np.ndarray, other: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Scores -> log-likelihood ratios by logistic regression at even odds (Platt); never against the scores' order."""
    s = np.r_[mated, other]
    centre, scale = s.mean(), max(float(s.std()), 1e-12)
    y = np.arange(len(s)) < len(mated)
    weight = np.where(y, 1.0, len(mated) / len(other))
    model = LogisticRegression(max_iter=500).fit(((s - centre) / scale)[:, None], y, sample_weight=weight)
    slope, start = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:
        return lambda new: np.zeros_like(new)
    return lambda new: slope * (new - centre) / scale + start


def _apart(protected: Sides, plain: Sides, config: Config) -> str:
    """What is known of the sessions; MienError where the persons, recordings or sessions are not apart."""
    sides = (protected, plain)
    judged = {p for s in sides for v in (s.probes, s.gallery) for p in v.person}
    if shared := judged & {p for s in sides for p in s.background.person}:
        raise MienError(f"{len(shared)} background persons are judged too; learn from other persons")
    used = [{r for s in sides for r in getattr(s, name).recording} for name in ("probes", "gallery")]
    if both := used[0] & used[1]:
        raise MienError(
            f"{len(both)} recordings are probes and in the gallery; what finds itself shows nothing: enrol other ones"
        )
    for s in sides:
        if not set(s.probes.person) & set(s.gallery.person):
            raise MienError("none of the probes' persons is in the gallery; enrol them with other recordings")
    views = [v for s in sides for v in (s.probes, s.gallery)]
    if any(v.session is None for v in views):
        return "sessions unknown: how a device was worn that day may be what identifies"
    pairs = [
        {(p, d) for s in sides for p, d in zip(getattr(s, n).person, getattr(s, n).session, strict=True)}
        for n in ("probes", "gallery")
    ]
    both = pairs[0] & pairs[1]
    if both and not config.allow_same_session:
        raise MienError(
            f"{len(both)} sessions of a person are in probes and gallery; the session would identify (device, room):"
            " enrol other sessions, or say allow_same_session"
        )
    if both:
        return f"{len(both)} sessions are on both sides: the session (device, room, day) may be what identifies"
    return "gallery and probes of other sessions"
