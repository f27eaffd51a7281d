"""Physiology: do synthetic recordings have hearts, breaths and skin that could be somebody's, and like those of real ones?

The share of windows whose heart and breath are possible at all; then per vital sign (`data/vitals.py`) the
Kolmogorov–Smirnov and Wasserstein distances between synthetic and real training windows, over all and label by label, beside
those between real persons. Coherence and correlation of heart rate and breath are had only by recordings of one and the
same body. Mean heart rate is insensitive; RMSSD is not.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ...core.config import Section
from ...core.results import Baseline, Result
from ...data.vitals import VITALS, needs, roles, table
from ..comparisons import OVER, alike, baseline, compared, known, ks, not_measured, some, spread, wasserstein
from ..protocols import Inputs

HIGHER_IS_BETTER = False
_LEAST = 5  # windows in which a sign must be found, on each side


class Config(Section):
    """hr, rmssd, breathing: what is possible [beats/min, ms, 1/min]; streams: role (ecg, pulse, breath, eda, temp, acc) ->
    stream, where names and units do not say; labels: label by label too; most: windows per side at most; seed."""

    hr: tuple[float, float] = (40.0, 180.0)
    rmssd: tuple[float, float] = (0.0, 120.0)
    breathing: tuple[float, float] = (6.0, 35.0)
    streams: dict[str, str] = {}
    labels: bool = True
    most: int = Field(default=400, ge=10)
    seed: int = 0


def measure(inputs: Inputs, config: Config) -> list[Result]:
    w, t = inputs.windows, inputs.tables
    where = roles(w.card, config.streams)
    if not where:
        why = "no stream has the name or unit of a pulse, an ECG, breath, EDA, temperature or acceleration"
        return [not_measured("possible physiology", why, higher_is_better=True)]
    picks = (
        some(len(w.train), config.most, config.seed), some(len(w.test), config.most, config.seed),
        alike(t.synthetic.label, t.train.label, config.most, config.seed),
    )  # fmt: skip
    train, test, made = (
        table([x[i] for i in rows.tolist()], where)
        for x, rows in zip((w.train, w.test, w.synthetic), picks, strict=True)
    )
    person, others = t.train.person[picks[0]], t.test.person[picks[1]]
    label = [x.label[rows] for x, rows in zip((t.train, t.test, t.synthetic), picks, strict=True)]
    out = _possible(train, test, made, person, config)
    per_label: list[Result] = []
    for i, (name, (unit, _)) in enumerate(VITALS.items()):
        lacking = [group for group in needs(name) if not set(group) & set(where)]
        if lacking:
            out.append(not_measured(f"KS {name}", f"no stream for {' and '.join(' or '.join(g) for g in lacking)}"))
            continue
        real, other, fake = train[:, i], test[:, i], made[:, i]
        found = [int(np.isfinite(x).sum()) for x in (real, fake)]
        if min(found) < _LEAST:
            why = f"found in {found[0]} of {len(real)} training and {found[1]} of {len(fake)} synthetic windows"
            out.append(not_measured(f"KS {name}", f"{name} was {why}"))
            continue
        note = f"means: synthetic {np.nanmean(fake):.3g}, real {np.nanmean(real):.3g} {unit}".strip()
        if found[1] < len(fake):
            note += f"; found in {found[1]} of {len(fake)} synthetic windows, {found[0]} of {len(real)} real ones"
        in_unit = f"in {unit}" if unit else ""
        over = "; ".join(x for x in (in_unit, OVER) if x)
        out.append(compared(f"KS {name}", ks, real, other, fake, person, others, note))
        out.append(compared(f"Wasserstein {name}", wasserstein, real, other, fake, person, others, over))
        for c in t.classes if config.labels else ():
            a, b, m = (x == c for x in label)
            if min(np.isfinite(real[a]).sum(), np.isfinite(fake[m]).sum()) < _LEAST:
                continue
            for kind, distance, said in (("KS", ks, "of this label alone"), ("Wasserstein", wasserstein, in_unit)):
                metric = f"{kind} {name} | {c}"
                per_label.append(compared(metric, distance, real[a], other[b], fake[m], person[a], others[b], said))
    for name in ("HR-breath coherence", "HR-breath correlation"):
        i = list(VITALS).index(name)
        if min(np.isfinite(made[:, i]).sum(), np.isfinite(train[:, i]).sum()) >= _LEAST:
            real, whose = known(train[:, i], person)
            floor = 0.0 if "coh" in name else None  # a correlation may be negative
            real = spread(lambda v: float(v.mean()), whose, real, floor=floor)
            note = "magnitude-squared, at the breathing frequency" if "coh" in name else "largest within 5 s of lag"
            out.append(
                Result(
                    metric=f"mean {name}", value=float(np.nanmean(made[:, i])), unit="recording",
                    note=f"{note}; one release, so no interval", baselines=(baseline("real training windows", real),),
                )
            )  # fmt: skip
    return out + per_label


def _possible(
    train: np.ndarray, test: np.ndarray, made: np.ndarray, person: np.ndarray, config: Config
) -> list[Result]:
    """The share of windows in which every sign that real windows show is found, and within its limits: a heart in which
    no beat can be found is no possible heart."""
    names = list(VITALS)
    limits = {"HR": config.hr, "RMSSD": config.rmssd, "breathing": config.breathing}
    asked = [n for n in limits if np.isfinite(train[:, names.index(n)]).any()]
    if not asked:
        why = "neither heart nor breath can be found in real windows"
        return [not_measured("possible physiology", why, higher_is_better=True)]

    def good(v: np.ndarray) -> np.ndarray:
        inside = [(v[:, names.index(n)] >= limits[n][0]) & (v[:, names.index(n)] <= limits[n][1]) for n in asked]
        return np.stack(inside, axis=1).astype(float)

    parts = good(made)
    each = ", ".join(
        f"{n} {limits[n][0]:g} to {limits[n][1]:g} in {s:.0%}" for n, s in zip(asked, parts.mean(0), strict=True)
    )
    real = spread(lambda v: float(v.mean()), person, np.asarray(good(train).all(axis=1)))
    held_out = float(good(test).all(1).mean()) if len(test) else None
    return [
        Result(
            metric="possible physiology", value=float(parts.all(1).mean()), unit="recording",
            note=f"{each}; one release, so no interval",
            baselines=(baseline("real training windows", real), Baseline(name="real held-out windows", value=held_out)),
        )
    ]  # fmt: skip
