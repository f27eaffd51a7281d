"""The privacy–utility picture: what a synthetic cohort is worth against what it gives away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.results import Baseline, Result
from . import pictures


@dataclass(frozen=True, kw_only=True)
class Point:
    """One protected (or plain) release: utility and leakage, each a Result with its interval. family: of points that are one
    protection at several strengths, joined by a line in their order."""

    label: str
    utility: Result
    leakage: Result
    family: str = ""


def draw(points: Sequence[Point], lines: Sequence[Baseline], blind: float | None, nothing: float = 0.5) -> str:
    """SVG: x leakage (`nothing`: where an attacker learns nothing), y utility; horizontal lines: TRTR, majority and the like.

    A point without a measured leakage stands hollow at the right edge: unknown is not private. One without a measured
    utility has no place and is left out.
    """
    figure, axes = pictures._figure(pictures.PHONE, 3.2 + 0.19 * max(0, len(points) - 4))
    axis = axes[0][0]
    for i, r in enumerate(r for r in lines if r.value is not None):
        axis.axhline(r.value, color="0.45", linestyle=pictures.LINES[1 + i % 3], linewidth=1)
        axis.text(
            0.01, r.value, r.name, transform=axis.get_yaxis_transform(), ha="left", va="bottom", fontsize=9, color="0.3"
        )
    axis.axvline(nothing, color="0.8", linewidth=1)
    if blind is not None:
        axis.axvline(blind, color=pictures.COLOURS[4], linestyle=":", linewidth=1.4)
        axis.text(blind + 0.01, 0.03, "blind attack", rotation=90, va="bottom", ha="left", fontsize=9, color="0.3")
    families = list(dict.fromkeys(p.family for p in points if p.family))
    for f in families:
        own = [(p.leakage.value, p.utility.value) for p in points if p.family == f]
        whole = [(x, y) for x, y in own if x is not None and y is not None]
        axis.plot(*zip(*whole, strict=True), color=pictures.COLOURS[families.index(f) % 7], linewidth=0.8)
    for i, p in enumerate(points):
        x, known = (p.leakage.value, True) if p.leakage.value is not None else (0.98, False)
        if (y := p.utility.value) is None:
            continue
        family = families.index(p.family) if p.family else i
        place = [q.family for q in points[:i]].count(p.family) if p.family else i + i // 7
        colour, mark = pictures.COLOURS[family % 7], pictures.MARKS[place % 7]
        axis.plot(x, y, mark, color=colour, markersize=9, markerfacecolor=colour if known else "white", label=p.label)
        if p.utility.low is not None:
            axis.plot([x, x], [p.utility.low, p.utility.high], color=colour, linewidth=2)
        if known and p.leakage.low is not None:
            axis.plot([p.leakage.low, p.leakage.high], [y, y], color=colour, linewidth=2)
    leak = points[0].leakage
    left, right, low, top = 0.0, 1.0, 0.0, 1.0
    if nothing < 0.5:  # recognising one among many: a share that may be small all the same
        shown = [(p.leakage.high or p.leakage.value or 0.0, p.utility.low or p.utility.value or 0.0) for p in points]
        right = min(1.0, 1.2 * max(x for x, _ in shown))
        left = 0.9 * min([nothing, *(p.leakage.low or p.leakage.value or 0.0 for p in points)])
        top = min(1.0, max(p.utility.high or p.utility.value or 0.0 for p in points) + 0.05)
        low = max(0.0, min([y for _, y in shown] + [b.value for b in lines if b.value is not None]) - 0.05)
    what = leak.metric.rpartition(".")[2] if nothing < 0.5 else leak.metric
    axis.set(
        xlim=(left, right), ylim=(low, top), xlabel=f"leakage: {what} per {leak.unit}", ylabel=points[0].utility.metric
    )
    figure.legend(loc="outside lower center", frameon=False)
    return pictures._svg(figure)
