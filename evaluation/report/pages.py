"""The pages a run leaves: which pictures, in which order, in which half."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...core import runs
from ...core.records import Cohort
from ...core.results import Report, Result
from .. import frontier, pictures
from ..protocols import Inputs
from . import html


def attack(
    run: runs.Run, report: Report, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], n_out: int, cohort: Cohort
) -> None:
    """`release/report.html` of an attack run. n_out: held-out persons."""
    shown = []
    if curves:
        shown.append(
            html.Picture(
                title="Membership: ROC over recordings",
                svg=pictures.roc_loglog(curves, n_out),
                caption="True against false positive rate, both on logarithmic axes. Left of one divided by the number of"
                " held-out persons nothing can be resolved.",
            )
        )
    _release(run, html.release_html(report, shown), cohort)


def evaluation(
    run: runs.Run, report: Report, data: Inputs, attack: Report | None, leakage: str, cohort: Cohort
) -> None:
    """Both halves' `report.html` of an evaluate run. leakage: the attack's metric on the picture's x axis."""
    tstr = next((r for r in report.results if r.metric == "TSTR accuracy"), None)
    shown = []
    if tstr:
        shown.append(
            html.Picture(
                title="Utility: accuracy on real recordings of held-out persons",
                svg=pictures.whiskers(tstr, "accuracy"),
                caption="TSTR learned from synthetic recordings only, TRTR from real ones; bars are 95 % intervals over persons.",
            )
        )
    leak = next((r for r in attack.results if r.metric == leakage and r.unit == "recording"), None) if attack else None
    if tstr and leak:
        shown.append(
            html.Picture(
                title="Privacy and utility",
                svg=_frontier(tstr, leak),
                caption="Up is useful, right is leaking: 0.5 is an attacker who learns nothing. One release is one point.",
            )
        )
    labels = data.tables.synthetic.label
    names = [c for c in data.tables.classes if c in set(labels)]
    synthetic = [dict(data.windows.synthetic[int(np.flatnonzero(labels == c)[0])]) for c in names]
    shown.append(
        html.Picture(
            title="Synthetic recordings",
            svg=pictures.examples(synthetic, names),
            caption="The first synthetic window of each class, in physical units. Without a guarantee a sample may still"
            " resemble a training recording.",
        )
    )
    sections = [("Attacks", attack)] if attack else []
    page = html.release_html(report, shown, sections)
    real = [dict(data.windows.train[int(np.flatnonzero(data.tables.train.label == c)[0])]) for c in names]
    for stream in data.windows.card.streams:
        shown.append(
            html.Picture(
                title=f"Real beside synthetic: {stream}",
                svg=pictures.real_beside_synthetic(real, synthetic, names, stream),
                caption="One training window and one synthetic window of each class, on one scale.",
            )
        )
    runs.write_text(run.private / "report.html", html.private_html(report, shown, sections))
    _release(run, page, cohort)


def _frontier(tstr: Result, leak: Result) -> str:
    point = frontier.Point(label="this release (plain)", utility=tstr, leakage=leak)
    blind = next((b.value for b in leak.baselines if b.name == "blind"), None)
    return frontier.draw([point], [b for b in tstr.baselines if b.name in ("TRTR", "majority")], blind)


def _release(run: runs.Run, page: str, cohort: Cohort) -> None:
    html.assert_leak_free(page, {"person": cohort.column("person"), "recording": cohort.column("id")})
    runs.write_text(run.release / "report.html", page)
