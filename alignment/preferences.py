"""What an expert said of two synthetic recordings, and what follows from many such answers."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core import console
from ..core.errors import MienError
from ..core.intervals import Interval, clopper_pearson
from ..core.results import Result
from ..core.runs import write_text

Choice = Literal["A", "B", "tie", "both_bad"]
Level = Literal["nominal", "ordinal"]
Encode = Callable[[str], tuple[str, str]]  # recording id -> (prompt, completion), token strings
RATER = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}"
)  # so that nobody is two raters by a blank or a letter that looks alike
PSEUDONYM = "a pseudonym of letters, digits, . _ or -, at most 40"
_TEACH = ("pair", "correction")  # kinds of answers that are neither checks nor said twice
BROKEN = "broken:"  # so the id of a recording begins that was spoilt for a control pair
ASPECTS = ("realism", "label_fit", "physiology", "cross_modal")
_CODES: dict[str, int] = {"A": 0, "tie": 1, "B": 2, "both_bad": 3}
_VALUES = {
    "choice": tuple(_CODES), "side": ("a", "b"), "kind": ("pair", "repeat", "control", "correction"),
}  # fmt: skip
_OTHER_NAMES = {"pair_id": "pair", "rater_id": "rater", "model_hash": "model", "time_s": "seconds"}
_TRL = ("prompt", "chosen", "rejected", "weight", "margin", "person", "saw_real")


@dataclass(frozen=True, kw_only=True)
class Preference:
    """One answer of one rater about one pair.

    pair: the pair's id; a, b: ids of the two synthetic recordings (of the cohort `cohort`, a fingerprint, made by the
    model `model`, a run's fingerprint), "a" and "b" independent of the side they were shown on; label: the class both
    were made for; rater: a pseudonym; choice: over a and b (never over sides); side: which of them stood on the left;
    confidence: 1 to 5; aspects: of ASPECTS, each the choice in that respect; comment: plain text, never shown as HTML;
    kind: an ordinary pair, one shown again, a pair of real recordings, or a corrected recording against the original;
    recognised: id of a recording in which the rater recognises somebody (that recording is blocked and its run flagged);
    private: the answer tells something of the recorded persons, so that only private trainers may use it; seconds: taken
    to answer; at: UTC, ISO 8601.
    """

    pair: str
    a: str
    b: str
    rater: str
    choice: Choice
    label: str = ""
    side: Literal["a", "b"] = "a"
    confidence: int = 3
    aspects: Mapping[str, Choice] = field(default_factory=dict)
    comment: str = ""
    kind: Literal["pair", "repeat", "control", "correction"] = "pair"
    recognised: str | None = None
    private: bool = False
    cohort: str = ""
    model: str = ""
    seconds: float = 0.0
    at: str = ""


@dataclass(frozen=True, kw_only=True)
class Share:
    """k of n, with Clopper and Pearson's 95 % interval; value and limits None where n is 0."""

    k: float
    n: int

    @property
    def value(self) -> float | None:
        return self.k / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return clopper_pearson(self.k, self.n) if self.n else None

    def __str__(self) -> str:
        if not self.n:
            return "none asked"
        low, high = clopper_pearson(self.k, self.n)
        return f"{self.k / self.n:.2f} ({low:.2f} to {high:.2f}; n = {self.n})"


@dataclass(frozen=True, kw_only=True)
class RaterQuality:
    """answers: ordinary ones; sharpness and accuracy: `reliability`; consistent: of pairs shown again, answered alike;
    controls: of control pairs with a known answer, answered so; accepted: of control pairs, not called both bad (both are
    real); left: of decided answers, for whichever stood on the left (about half, unless a rater does not look)."""

    rater: str
    answers: int
    sharpness: float
    accuracy: float
    consistent: Share
    controls: Share
    accepted: Share
    left: Share


@dataclass(frozen=True, kw_only=True)
class Quality:
    """alpha: Krippendorff's, with its interval over pairs (its n_persons counts pairs), None where no pair has two
    answers; decided: the same of the answers A and B alone, which teach; raw: of answers about the same pair by two raters,
    the share alike; raters: one each."""

    alpha: Interval | None
    decided: Interval | None
    raw: float | None
    pairs: int
    answers: int
    undecided: int
    raters: tuple[RaterQuality, ...]

    def __str__(self) -> str:
        """Of all raters together: what a release may say."""
        pairs = self.decided.n_persons if self.decided else 0
        return (
            f"{_alpha(self.alpha)} over {self.pairs} pairs and {self.answers} answers of {len(self.raters)} raters; of A"
            f" and B alone, which teach, {_alpha(self.decided)} over {console.count(pairs, 'pair')}"
        )

    def doubt(self, minimum_alpha: float) -> str:
        """Why nothing is to be learned from these raters; "" where nothing speaks against it."""
        return doubt(self.alpha, self.decided, minimum_alpha)

    def rows(self) -> list[str]:
        """One line a rater: theirs, for the private half."""
        return [
            f"{r.rater}: {r.answers} answers, sharpness {r.sharpness:.2f} (accuracy {r.accuracy:.2f}), self-consistency"
            f" {r.consistent}, controls {r.controls}"
            for r in self.raters
        ]


# ------------------------------------------------------------------------------------------------------------ agreement
def krippendorff(values: np.ndarray, level: Level = "nominal") -> float:
    """Krippendorff's α of values float64[raters, units]: codes (ranks, if ordinal), NaN where a rater did not answer.

    1 - D_o / D_e from the coincidence matrix (Krippendorff 2011, "Computing Krippendorff's alpha-reliability", steps B to
    E); units with a single answer do not count. NaN without two answers about any unit, or where all answers are the same
    (nothing was told apart, so agreement means nothing).
    """
    counts = _counts(np.asarray(values, dtype=np.float64))
    return float(_alphas(_coincidences(counts).sum(0)[None], level)[0])


def agreement(preferences: Iterable[Preference], level: Level = "nominal") -> Interval | None:
    """α of the raters' ordinary answers with a jackknife interval over pairs; None where no pair has two answers.

    Which recording of a pair is called a is arbitrary, so every pair counts under both names: swapping a and b of a pair
    (and its answers with them) changes nothing. Nominal: A, B, tie and both_bad are four answers; ordinal: A < tie < B,
    and both_bad, which orders nothing, stands with tie. Jackknife: limits are t quantiles (pairs - 1) of standard
    errors from leaving out each pair; pairs that share recordings are taken as independent. Where no pair has any disagreement,
    low is what Clopper and Pearson's for the share of pairs without makes of α (none for ordinal α): above 0 from five pairs on,
    for fewer could come from coins. Simulated coverage of 95 %:
    0.93 to 0.96 where α is 0 or 0.4 (10 to 200 pairs), 0.86 and 0.92 where it is 0.75 and there are 10 and 20 pairs.
    low/high None with fewer than three pairs.
    """
    table, _, _ = _table(first_answers(preferences))
    if level == "ordinal":
        table = np.where(table == 3, 1, table)
    return _agreement(table, level)


def _agreement(table: np.ndarray, level: Level) -> Interval | None:
    """table: float64[raters, pairs], 0 A, 1 tie, 2 B, 3 both_bad, NaN."""
    mirrored = np.where((table == 0) | (table == 2), 2 - table, table)
    size = 4  # both namings have the same codes
    both = _coincidences(_counts(table, size)) + _coincidences(_counts(mirrored, size))
    both = both[both.sum((1, 2)) > 0]
    if not len(both):
        return None
    total = both.sum(0)
    value = float(_alphas(total[None], level)[0])
    n = len(both)
    left = _alphas(total - both, level)
    if n < 3 or not np.isfinite(left).all() or not np.isfinite(value):
        return Interval(value=value, low=None, high=None, n_persons=n)
    from scipy import stats

    if value > 1 - 1e-9:  # no pair disagrees: a spread of zero would be an empty boast
        low = None if level == "ordinal" else 1 - (1 - clopper_pearson(n, n)[0]) / _by_chance(total)
        return Interval(value=value, low=low, high=None if low is None else 1.0, n_persons=n)
    half = float(stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()))
    return Interval(value=value, low=value - half, high=min(1.0, value + half), n_persons=n)


def _by_chance(coincidences: np.ndarray) -> float:
    """The disagreement of values drawn by chance, from float64[codes, codes]."""
    share = coincidences.sum(0)
    n = share.sum()
    return float((n**2 - (share**2).sum()) / (n * (n - 1)))


def _counts(values: np.ndarray, size: int | None = None) -> np.ndarray:
    """float64[units, codes]: how many raters gave each value; without `size`, codes are the values in order."""
    if size is None:
        known = np.unique(values[np.isfinite(values)])
        return np.stack([(values == c).sum(0) for c in known], axis=1).astype(float) if len(known) else np.zeros((0, 1))
    return np.stack([(values == c).sum(0) for c in range(size)], axis=1).astype(float)


def _coincidences(counts: np.ndarray) -> np.ndarray:
    """float64[units, codes, codes]: ordered pairs of values within a unit, over its number of answers less one."""
    m = counts.sum(1)
    pairs = counts[:, :, None] * counts[:, None, :]
    at = np.arange(counts.shape[1])
    pairs[:, at, at] -= counts
    return pairs * np.where(m > 1, 1 / np.maximum(m - 1, 1), 0.0)[:, None, None]


def _alphas(coincidences: np.ndarray, level: Level) -> np.ndarray:
    """float64[k] from float64[k, codes, codes]."""
    share = coincidences.sum(1)
    n = share.sum(1)
    if level == "nominal":
        delta = 1.0 - np.eye(share.shape[1])[None]
    else:  # squared number of values between two ranks, half of the outer ones (Krippendorff 2011, step E)
        below = np.cumsum(share, 1) - share / 2
        delta = (below[:, :, None] - below[:, None, :]) ** 2
    observed = (coincidences * delta).sum((1, 2))
    expected = (share[:, :, None] * share[:, None, :] * delta).sum((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((n > 1) & (expected > 0), 1 - (n - 1) * observed / expected, np.nan)


def first_answers(preferences: Iterable[Preference]) -> list[Preference]:
    """Ordinary pairs, each rater's first answer: repeats, controls and corrections judge something else."""
    seen: set[tuple[str, frozenset[str]]] = set()
    out = []
    for p in preferences:
        if p.kind == "pair" and (p.rater, compared(p)) not in seen:
            seen.add((p.rater, compared(p)))
            out.append(p)
    return out


def _named(p: Preference, first: str) -> Choice:
    """The choice as if `first` were called a."""
    swap: dict[Choice, Choice] = {"A": "B", "B": "A"}
    return p.choice if p.a == first else swap.get(p.choice, p.choice)


def _table(answers: Sequence[Preference]) -> tuple[np.ndarray, list[str], list[frozenset[str]]]:
    """(codes float64[raters, pairs], raters, pairs)."""
    raters = sorted({p.rater for p in answers})
    keys = sorted({compared(p) for p in answers}, key=sorted)
    row, column = {r: i for i, r in enumerate(raters)}, {k: i for i, k in enumerate(keys)}
    table = np.full((len(raters), len(keys)), np.nan)
    for p in answers:
        table[row[p.rater], column[compared(p)]] = _CODES[_named(p, min(p.a, p.b))]
    return table, raters, keys


def compared(p: Preference) -> frozenset[str]:
    """The two recordings: a pair is what was compared, whatever it was called and whichever stood first."""
    return frozenset((p.a, p.b))


# ---------------------------------------------------------------------------------------------------------- reliability
def reliability(preferences: Iterable[Preference], spread: float = 2.0) -> dict[str, float]:
    """Rater -> sharpness d: P(rater r says A) = σ(d_r Δ), where Δ ~ N(0, 1) is how much better a is.

    A Bradley–Terry model with a discrimination per rater, as Crowd-BT (Chen et al. 2013, WSDM) has a
    reliability; the difference of each pair is integrated out (marginal maximum likelihood, Bock & Aitkin 1981,
    Psychometrika 46:443, by quadrature) instead of fitted, for with a few answers a pair joint
    estimates of Δ and d overfit. d has the prior N(1, spread²): 0 is a coin, below 0 a rater who has A and B mixed up.
    Ties count half for each; both_bad not at all. Nobody whose pairs no other rater has answered can be judged: d is
    then the prior's 1.
    """
    table, raters, _ = _table(first_answers(preferences))
    if not raters:
        return {}
    return dict(zip(raters, _sharpness(_wins(table), spread).tolist(), strict=True))


def _wins(table: np.ndarray) -> np.ndarray:
    """1 for A, ½ for a tie, 0 for B, NaN for both_bad and no answer."""
    return np.where(table == 3, np.nan, 1 - table / 2)


_NODES = (np.arange(120) - 59.5) / 10  # midpoint rule for a standard normal variable; symmetric, without a node at 0
_AT = -(_NODES**2) / 2 - np.log(np.exp(-(_NODES**2) / 2).sum())


def _sharpness(wins: np.ndarray, spread: float) -> np.ndarray:
    from scipy import optimize, special

    asked = np.isfinite(wins)
    y = np.where(asked, wins, 0.5)

    def loss(d: np.ndarray) -> tuple[float, np.ndarray]:
        at = np.outer(d, _NODES)  # [raters, nodes]
        p, a, b = special.expit(at), special.log_expit(at), special.log_expit(-at)
        joint = (asked * y).T @ a + (asked * (1 - y)).T @ b + _AT  # [pairs, nodes]
        total = np.logaddexp.reduce(joint, axis=1)
        after = np.exp(joint - total[:, None])
        slope = (asked * y) @ after - (asked @ after) * p  # Σ over pairs of E[y - p | answers], by node
        prior = (d - 1) / spread**2
        return -float(total.sum()) + 0.5 * float(prior @ (d - 1)), prior - slope @ _NODES

    found = optimize.minimize(loss, np.ones(len(wins)), jac=True, method="L-BFGS-B")
    return np.asarray(found.x)


def accuracy(sharpness: float) -> float:
    """How often a rater of that sharpness picks the better recording: E σ(d |Δ|) over pairs."""
    from scipy import special

    return float(np.exp(_AT) @ special.expit(sharpness * np.abs(_NODES)))


def weights(preferences: Sequence[Preference], spread: float = 2.0) -> np.ndarray:
    """float64[n], mean 1: how much each answer counts, by its rater's reliability: 2 * accuracy - 1, not below 0.

    A weight tells of the other raters' answers: a private trainer, whose units may not depend on each other, takes none.
    """
    sharp = reliability(preferences, spread)
    raw = np.array([max(0.0, 2 * accuracy(sharp.get(p.rater, 1.0)) - 1) for p in preferences])
    return raw / raw.mean() if len(raw) and raw.mean() > 0 else np.ones(len(raw))


def quality(preferences: Sequence[Preference]) -> Quality:
    """All numbers on the raters. Of a control pair with a recording that was broken the other one is the known answer."""
    answers = first_answers(preferences)
    table, raters, keys = _table(answers)
    sharp = reliability(answers)
    first = {(p.rater, compared(p)): p for p in answers}
    out = []
    for rater in raters:
        mine = [p for p in preferences if p.rater == rater]
        again = [(p, first[rater, compared(p)]) for p in mine if p.kind == "repeat" and (rater, compared(p)) in first]
        control = [p for p in mine if p.kind == "control"]
        known = [p for p in control if p.a.startswith(BROKEN) != p.b.startswith(BROKEN)]
        decided = [p for p in mine if p.choice in ("A", "B") and p.kind != "correction"]  # no side of these was chosen
        out.append(
            RaterQuality(
                rater=rater, answers=sum(p.rater == rater for p in answers), sharpness=sharp[rater],
                accuracy=accuracy(sharp[rater]),
                consistent=Share(k=sum(_named(p, q.a) == q.choice for p, q in again), n=len(again)),
                controls=Share(k=sum(p.choice == ("B" if p.a.startswith(BROKEN) else "A") for p in known), n=len(known)),
                accepted=Share(k=sum(p.choice != "both_bad" for p in control), n=len(control)),
                left=Share(k=sum((p.choice == "A") == (p.side == "a") for p in decided), n=len(decided)),
            )
        )  # fmt: skip
    alike, of = 0, 0
    for i in range(len(raters)):
        for j in range(i):
            both = np.isfinite(table[i]) & np.isfinite(table[j])
            alike, of = alike + int((table[i] == table[j])[both].sum()), of + int(both.sum())
    return Quality(
        alpha=_agreement(table, "nominal"), decided=_agreement(np.where(table % 2 == 0, table, np.nan), "nominal"),
        raw=alike / of if of else None, pairs=len(keys), answers=len(answers),
        undecided=sum(p.choice in ("tie", "both_bad") for p in answers), raters=tuple(out),
    )  # fmt: skip


def doubt(alpha: Interval | Result | None, decided: Interval | Result | None, minimum_alpha: float) -> str:
    """Why nothing is to be learned from raters with these α, of all that they say and of what teaches (A and B alone); "" where they
    agree at least so well in both: raters who agree on which recordings are bad may toss coins between the others. Also where the
    interval of an α reaches down to 0, whatever its value: so few answers could come from coins."""
    where = " where they decide between A and B, which alone teaches"
    for a, said, twice in (
        (alpha, "", "answered by two raters with different answers among them"),
        (decided, where, "decided by two raters"),
    ):
        if a is None or a.value is None or not np.isfinite(a.value):
            return f"no pair was {twice}, so nothing tells judgement from chance{said}"
        if a.value < minimum_alpha:
            return f"raters agree too little to learn from{said}: α is below {minimum_alpha:g}"
        if a.low is None or a.low <= 0:
            return f"so few pairs were answered twice that α may be 0{said}"
    return ""


def gate(preferences: Sequence[Preference], *, minimum_alpha: float = 0.4) -> Quality:
    """The numbers, if nothing speaks against learning from these raters (`Quality.doubt`); else MienError with all of them."""
    found = quality(preferences)
    why = found.doubt(minimum_alpha)
    if not why:
        return found
    said = "; ".join([str(found), *found.rows()])
    raise MienError(f"{why}. {said}. Have more pairs rated by two raters, or talk the disagreements through first")


def _alpha(a: Interval | None) -> str:
    if a is None:
        return "α cannot be told"
    return f"α = {a.value:.2f}" + (f" ({a.low:.2f} to {a.high:.2f})" if a.low is not None else " (no interval)")


# ------------------------------------------------------------------------------------------------- to and from TRL
@dataclass(frozen=True, kw_only=True)
class Rows:
    """rows: in TRL's format; left_out: why others are not there, with counts."""

    rows: list[dict[str, Any]]
    left_out: dict[str, int]


def trl_rows(
    preferences: Sequence[Preference],
    encode: Encode,
    weight: np.ndarray | None = None,
    person: Callable[[Preference], str] | None = None,
) -> Rows:
    """Answers as TRL's `prompt`, `chosen`, `rejected`, with `pair_id`, `rater`, `person`, `private` and `weight` beside.

    encode: recording id -> (prompt, completion), token strings; weight: float64[n], each answer's (`weights`), 1 if left
    out; person: an answer -> the recorded person it tells of, "" for nobody. Left out and counted: ties and both_bad,
    control pairs, pairs shown again (they would count double), and pairs with a recording in which anybody recognised
    somebody. MienError where the two recordings of a pair have different prompts, or nothing is left.
    """
    if weight is not None and len(weight) != len(preferences):
        raise MienError(f"{len(weight)} weights for {len(preferences)} preferences")
    blocked = {p.recognised for p in preferences} - {None}
    out: list[dict[str, Any]] = []
    left: Counter[str] = Counter()
    for i, p in enumerate(preferences):
        if p.kind in ("control", "repeat"):
            left[f"{p.kind} pairs"] += 1
        elif {p.a, p.b} & blocked:
            left["somebody was recognised"] += 1
        elif p.choice not in ("A", "B"):
            left[p.choice] += 1
        else:
            better, worse = (p.a, p.b) if p.choice == "A" else (p.b, p.a)
            (prompt, chosen), (other, rejected) = encode(better), encode(worse)
            if prompt != other:
                raise MienError(
                    f"pair {p.pair}: its two recordings were made for different prompts; nothing compares them"
                )
            out.append({
                "prompt": prompt, "chosen": chosen, "rejected": rejected, "pair_id": p.pair, "rater": p.rater,
                "person": person(p) if person else "", "private": p.private,
                "weight": 1.0 if weight is None else float(weight[i]),
            })  # fmt: skip
    if not out:
        why = ", ".join(f"{n} {w}" for w, n in left.items()) or "there are none"
        raise MienError(f"no preference is left to learn from: {why}")
    return Rows(rows=out, left_out=dict(left))


def teaches(p: Preference) -> bool:
    """Whether an answer prefers one sample to another, and is neither a check nor said twice."""
    return p.kind in _TEACH and p.choice in ("A", "B")


def require_public(preferences: Iterable[Preference], trainer: str = "this trainer") -> None:
    """MienError if any is private: what it tells of recorded persons would be learnt without a guarantee."""
    hidden = sorted({p.pair for p in preferences if p.private})
    if hidden:
        raise MienError(
            f"{trainer} is not private, and the answers about {len(hidden)} pairs are (the first: {hidden[0]}): they tell"
            " something of recorded persons, which the model could repeat. Train with `privacy:`, or leave them out"
        )


def write(
    path: Path, preferences: Sequence[Preference], encode: Encode | None = None,
    saw_real: Collection[str] = (),
) -> None:  # fmt: skip
    """JSONL, one answer a line, with every field of a Preference (pair as `pair_id`). With `encode` (`trl_rows`), the answers
    that teach (decided, of an ordinary pair or a correction) have TRL's `prompt`, `chosen` and `rejected` as well. The others
    have not, and are there because agreement is theirs too; TRL alone wants the lines that have `chosen`. saw_real: raters
    who saw real recordings too (control pairs, say), which may not be in this file: their lines say so. Only its owner may read it."""
    lines = []
    for p in preferences:
        row: dict[str, Any] = {"pair_id": p.pair, **asdict(p)}
        del row["pair"]
        row["aspects"] = dict(p.aspects)
        if p.rater in saw_real:
            row["saw_real"] = True
        if encode is not None and teaches(p):
            better, worse = (p.a, p.b) if p.choice == "A" else (p.b, p.a)
            (prompt, chosen), (_, rejected) = encode(better), encode(worse)
            row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, **row}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(Path(path), "".join(lines), private=True)


def rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(number of the line, from 1; what it says) of a JSONL file's lines that are not empty. MienError naming the line that is no
    JSON object."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # not splitlines: a comment may hold other line ends
    except (OSError, UnicodeDecodeError) as error:
        raise MienError(f"cannot read the preferences {path}: {error}") from None
    out = []
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise MienError(f"{path}, line {n}: not a JSON object")
        out.append((n, row))
    return out


def read(path: Path, raters: Collection[str] | None = None) -> list[Preference]:
    """The answers of a JSONL file of `write`'s, or of another tool that names pair_id, a, b, rater and choice.

    MienError naming the line: no JSON, an unknown or missing key, a value that is none of the field's, a rater's name that is
    no pseudonym, or not among `raters`, a pair of a recording with itself, a rater who said two things of one pair, or of the same
    two recordings under two names (a pair shown again is of kind "repeat"); and for a file whose answers are all ties or both bad.
    An answer that is there twice counts once, and is private, or of somebody who was recognised, where either says so.
    """
    return [p for _, p in numbered(path, raters)]


def numbered(path: Path, raters: Collection[str] | None = None) -> list[tuple[int, Preference]]:
    """`read`, each answer with the number of its (first) line."""
    out: dict[tuple[Any, ...], tuple[int, Preference]] = {}
    named: dict[tuple[str, ...], tuple[Any, ...]] = {}  # an answer by its pair's name -> its key in `out`
    for n, row in rows(path):
        p = _answer(row, f"{path}, line {n}")
        if raters is not None and p.rater not in raters:
            raise MienError(f"{path}, line {n}: {p.rater!r} is none of this study's raters")
        # what teaches is one answer by whatever name, or a rater could outvote themselves; checks may show two recordings again
        said = ("teaches",) if p.kind in _TEACH else (p.kind, p.pair)
        once = (p.rater, compared(p), *said, *((p.at, str(p.seconds)) if p.kind == "repeat" else ()))
        name = (p.rater, p.pair, p.kind, *((p.at, str(p.seconds)) if p.kind == "repeat" else ()))
        first = named.setdefault(name, once)
        key = once if once in out else first
        if key in out:
            at, before = out[key]
            if before.choice != _named(p, before.a) or compared(before) != compared(p):
                called = "" if before.pair == p.pair else f", which it calls {before.pair}"
                raise MienError(
                    f"{path}, line {n}: {p.rater!r} says {p.choice} of pair {p.pair}, and line {at} something else{called};"
                    ' keep the one that holds (an answer to a pair shown again is of kind "repeat")'
                )
            if None not in (before.recognised, p.recognised) and before.recognised != p.recognised:
                raise MienError(
                    f"{path}, lines {at} and {n} are one answer, and somebody is recognised in another recording; keep one"
                )
            out[key] = (
                at,
                replace(before, private=before.private or p.private, recognised=before.recognised or p.recognised),
            )
            continue
        out[key] = n, p
    found = list(out.values())
    if not any(p.choice in ("A", "B") for _, p in found):
        raise MienError(f"{path}: {len(found)} answers, and none prefers one recording to another")
    return found


def _answer(row: Mapping[str, Any], where: str) -> Preference:
    bare = "chosen" in row
    row = {_OTHER_NAMES.get(str(k), str(k)): v for k, v in row.items() if k not in _TRL}
    if bare and not row.keys() & {"pair", "a", "b", "rater"}:
        raise MienError(
            f"{where}: prompt, chosen and rejected alone do not say who compared which recordings, so that nobody could tell how well"
            " raters agree, or hold a pair out; add pair_id, a, b (ids of the two recordings), rater and choice (A where a is the"
            " chosen one)"
        )
    known = {f.name: f for f in fields(Preference)}
    for key in row:
        if key not in known:
            near = difflib.get_close_matches(key, [*known, *_OTHER_NAMES, *_TRL], 1)
            raise MienError(f"{where}: unknown key {key!r}" + (f"; {near[0]!r}?" if near else ""))
    for key in ("pair", "a", "b", "rater", "choice"):
        if not row.get(key):
            raise MienError(f"{where}: no {key}")
    for key, value in row.items():
        if not _fits(key, value):
            raise MienError(f"{where}: {key}: {value!r} is none of its values")
    if not RATER.fullmatch(row["rater"]):
        raise MienError(f"{where}: rater {row['rater'][:50]!r}: {PSEUDONYM}")
    if row["a"] == row["b"]:
        raise MienError(f"{where}: pair {row['pair']} compares a recording with itself")
    return Preference(**row)


def moment(at: str) -> datetime | None:
    """A time as the store and the pages write it (ISO 8601, UTC where it does not say); None for what is none."""
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _fits(key: str, value: Any) -> bool:
    if key in _VALUES:
        return isinstance(value, str) and value in _VALUES[key]
    if key == "aspects":
        return isinstance(value, dict) and all(k in ASPECTS and _fits("choice", v) for k, v in value.items())
    if key == "confidence":
        return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 5
    if key == "private":
        return isinstance(value, bool)
    if key == "at":
        return value == "" or (isinstance(value, str) and moment(value) is not None)
    if key == "seconds":
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    return isinstance(value, str) or (key == "recognised" and value is None)


# -------------------------------------------------------------------------------------------------------------- split
@dataclass(frozen=True, kw_only=True)
class Sides:
    """shared: recordings that occur on both sides; 0 means disjoint in recordings too."""

    train: list[Preference]
    held_out: list[Preference]
    shared: int


def split(preferences: Sequence[Preference], fraction: float, seed: int, *, alone: bool = False) -> Sides:
    """About `fraction` of the answers held out.

    alone: a pair's side follows from the seed and the pair and from no other answer, as a private trainer needs it, so that
    one rater more or less moves nobody else's answers to the other side; recordings may then stand on both.

    Guaranteed: all answers about two recordings, whatever the pair was called, by whomever and how often, are on one side.
    As far as possible: pairs that are linked by shared recordings stay together (whole connected components are held out, in
    random order, while they fit); where they do not, one component is cut along a walk through shared recordings, and
    `shared` says how many recordings stand on both sides. Raters are on both sides.
    """
    if not 0 < fraction < 1:
        raise MienError(f"a share of answers to hold out lies between 0 and 1, got {fraction}")
    by: dict[frozenset[str], list[int]] = {}
    for i, p in enumerate(preferences):
        by.setdefault(frozenset((p.a, p.b)), []).append(i)
    if len(by) < 2:
        raise MienError(f"answers about {len(by)} pairs cannot be split into two sides")
    if alone:
        out = {i for k in by if _coin(k, seed) < fraction for i in by[k]}
        if len(out) in (0, len(preferences)):
            raise MienError(
                f"of {len(by)} pairs {'all' if out else 'none'} fell to the held-out side; more pairs, or another seed"
            )
        return _sides(preferences, out)
    order = sorted(by, key=sorted)
    order = [order[i] for i in np.random.default_rng([seed, 0x5B117]).permutation(len(order))]
    target = max(1, round(fraction * len(preferences)))
    held: list[frozenset[str]] = []
    size = 0
    parts = sorted(
        _components(order), key=lambda part: sum(len(by[k]) for k in part) > target
    )  # those that cannot fit last
    for cut in (False, True):
        for part in parts:
            n = sum(len(by[k]) for k in part)
            if not cut and size + n <= target:
                held += part
                size += n
        if size >= 0.9 * target:
            break
        if cut:
            rest = [k for part in parts for k in part if k not in set(held)]
            while size < target and len(rest) > 1:
                held.append(rest.pop(0))
                size += len(by[held[-1]])
    return _sides(preferences, {i for k in held for i in by[k]})


def _coin(pair: frozenset[str], seed: int) -> float:
    """A number between 0 and 1 of a pair's own."""
    said = json.dumps([seed, *sorted(pair)]).encode()
    return int.from_bytes(hashlib.sha256(said).digest()[:8], "big") / 2**64


def _sides(preferences: Sequence[Preference], out: Collection[int]) -> Sides:
    """out: places of the answers that are held out."""
    train = [p for i, p in enumerate(preferences) if i not in out]
    test = [p for i, p in enumerate(preferences) if i in out]
    both = {x for p in train for x in (p.a, p.b)} & {x for p in test for x in (p.a, p.b)}
    return Sides(train=train, held_out=test, shared=len(both))


def linked(preferences: Sequence[Preference]) -> list[str]:
    """Per answer the name of its group: answers whose pairs are linked by shared recordings have the same."""
    pairs = sorted({frozenset((p.a, p.b)) for p in preferences}, key=sorted)
    name = {k: min(min(x) for x in part) for part in _components(pairs) for k in part}
    return [name[frozenset((p.a, p.b))] for p in preferences]


def _components(pairs: Sequence[frozenset[str]]) -> list[list[frozenset[str]]]:
    """Pairs connected by shared recordings, each component in the order of a breadth-first walk."""
    of: dict[str, list[frozenset[str]]] = {}
    for k in pairs:
        for r in sorted(k):
            of.setdefault(r, []).append(k)
    seen: set[frozenset[str]] = set()
    out = []
    for start in pairs:
        if start in seen:
            continue
        walk = [start]
        seen.add(start)
        for k in walk:
            for r in sorted(k):
                for other in of[r]:
                    if other not in seen:
                        seen.add(other)
                        walk.append(other)
        out.append(walk)
    return out
