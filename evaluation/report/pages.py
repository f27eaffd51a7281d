"""The pages a run leaves: which pictures, in which order, in which half."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...core import runs
from ...core.records import Cohort, Stream
from ...core.results import Report
from ...core.scores import Scores
from ...core.verbs import protection
from .. import frontier, pictures
from ..explain import LEAST, Findings
from ..protocols import Inputs
from . import html, samples


def attack(run: runs.Run, report: Report, found: Audited, n_out: int, cohort: Cohort) -> None:
    """`release/report.html` of an attack run, and the persons by exposure in `private/`. n_out: held-out persons."""
    shown = []
    areas = [r for r in report.results if r.metric.endswith(".auc") and r.unit == "person" and r.value is not None]
    if areas:
        shown.append(
            html.Picture(
                title="What each attack found",
                svg=pictures.forest(areas),
                caption="AUC over persons with its 95 % interval. Attacks that were not run or are withheld are in the table.",
            )
        )
    if found.curves:
        shown.append(
            html.Picture(
                title="Membership: ROC over recordings",
                svg=pictures.roc_loglog(dict(list(found.curves.items())[:7]), n_out),
                caption="True against false positive rate, both on logarithmic axes. Left of one divided by the number of"
                " held-out persons nothing can be resolved.",
            )
        )
    page = html.release_html(report, shown)
    if found.scores:
        rows = ["attack,person,member,score,coverage,accuracy"]
        for name, s in found.scores.items():
            for i in np.argsort(-s.score, kind="stable"):
                told = ",".join(f"{v:.3f}" for v in found.served.get(str(s.ids[i]), ())) or ","
                rows.append(f'"{name}",{s.ids[i]},{"yes" if s.member[i] else "no"},{s.score[i]:.6g},{told}')
        runs.write_text(run.private / "persons.csv", "\n".join(rows) + "\n")
        shown += [
            html.Picture(
                title=f"Persons by exposure: {name}",
                svg=pictures.by_person(s.score, s.member),
                caption="One mark per person, from the least to the most exposed; who is who, and how well the release"
                " covers and serves each, stands in persons.csv beside.",
            )
            for name, s in list(found.scores.items())[:4]
        ]
        runs.write_text(run.private / "report.html", html.private_html(report, shown))
    _release(run, page, cohort)


class Audited(Protocol):
    """What an attack run found (attacks/audit.py)."""

    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    scores: dict[str, Scores]
    served: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Evaluated:
    """What an evaluate run found, and the attack it read (None without one)."""

    report: Report
    attack: Report | None

    @staticmethod
    def read(folder: Path) -> Evaluated:
        """MienError when the attack run it was made with is gone."""
        digest = runs.asked(folder)["inputs"].get("attack")
        attack = Report.read(runs.by_hash(digest) / "release" / "report.json") if digest else None
        return Evaluated(Report.read(folder / "release" / "report.json"), attack)

    def point(self, leakage: str) -> frontier.Point | None:
        """Utility and leakage of the release, for the picture; None where one of them was not asked for."""
        leak = (
            next((r for r in self.attack.results if r.metric == leakage and r.unit == "recording"), None)
            if self.attack
            else None
        )
        tstr = next((r for r in self.report.results if r.metric == "TSTR accuracy"), None)
        if leak is None or tstr is None:
            return None
        return frontier.Point(label=protection(self.report.guarantee), utility=tstr, leakage=leak)


def evaluation(
    run: runs.Run,
    report: Report,
    data: Inputs,
    attack: Report | None,
    leakage: str,
    cohort: Cohort,
    beside: Sequence[Evaluated] = (),
) -> None:
    """Both halves' `report.html` of an evaluate run. leakage: the attack's metric on the picture's x axis; beside:
    other releases to show in the same picture and table."""
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
    every = [Evaluated(report, attack), *beside]
    points = [p for p in (e.point(leakage) for e in every) if p is not None]
    if points:
        shown.append(
            html.Picture(
                title="Privacy and utility",
                svg=_frontier(points),
                caption="Up is useful, right is leaking: 0.5 is an attacker who learns nothing. One release is one point.",
            )
        )
    labels = data.tables.synthetic.label
    names = [c for c in data.tables.classes if c in set(labels)]
    synthetic = [_fullest(data.windows.synthetic, labels == c) for c in names]
    caption = (
        "The first synthetic window of each class that lacks the fewest streams, in physical units. Without a guarantee"
    )
    caption += " a sample may still resemble a training recording."
    shown += samples.shown(synthetic, names, data.windows.card, caption)
    sections = [("Attacks", attack)] if attack else []
    versus = [(protection(e.report.guarantee), e.report, e.attack) for e in every] if beside else []
    page = html.release_html(report, shown, sections, versus)
    real = [_fullest(data.windows.train, data.tables.train.label == c) for c in names]
    for stream in data.windows.card.streams:
        shown.append(
            html.Picture(
                title=f"Real beside synthetic: {stream}",
                svg=pictures.real_beside_synthetic(real, synthetic, names, stream),
                caption="One training window and one synthetic window of each class, on one scale.",
            )
        )
    runs.write_text(run.private / "report.html", html.private_html(report, shown, sections, versus))
    _release(run, page, cohort)


def _fullest(windows: Sequence[Mapping[str, Stream]], which: np.ndarray) -> dict[str, Stream]:
    """The first of `which` that has the most streams."""
    return dict(max((windows[i] for i in np.flatnonzero(which).tolist()), key=len))


def represented(
    run: runs.Run, report: Report, cohort: Cohort, beside: Sequence[Report] = (), found: Findings | None = None,
    others: Sequence[Cohort] = (),
) -> None:  # fmt: skip
    """`release/report.html` of an evaluate run of a representation: what it is worth against whom it gives away. beside:
    other representations' reports; found: what carried either; others: cohorts that it was tried on."""
    points = []
    for r in (report, *beside):
        named = {x.metric: x for x in r.results}
        useful, known = named.get("adapted macro-F1"), named.get("identity.adapted.recognised (forest)")
        if useful is None or known is None:
            continue
        points.append(frontier.Point(label=_protected(r), utility=useful, leakage=known))
        if r is report:
            for name, bar in (
                ("frozen base", "frozen base"),
                ("untrained", "untrained"),
                ("window statistics", "classical (forest)"),
            ):
                at = next((b for b in useful.baselines if b.name == bar), None)
                leak = named.get(f"identity.{name}.recognised (forest)")
                if at is not None and leak is not None:
                    worth = useful.model_copy(update={"value": at.value, "low": at.low, "high": at.high})
                    points.append(frontier.Point(label=name, utility=worth, leakage=leak))
    shown = []
    if points:
        chance = next((b.value for b in points[0].leakage.baselines if b.name == "chance"), None)
        lines = [b for b in points[0].utility.baselines if b.name == "majority"]
        shown.append(
            html.Picture(
                title="What it is worth, and whom it gives away",
                svg=frontier.draw(points, lines, None, nothing=chance or 0.0),
                caption="Up is useful, right is recognisable: the line is guessing. Persons nobody trained on, enrolled by"
                " other recordings; bars are 95 % intervals over persons.",
            )
        )
    for name in ("adapted macro-F1", "identity.adapted.recognised (forest)"):
        if r := next((x for x in report.results if x.metric == name), None):
            shown.append(
                html.Picture(title=r.metric, svg=pictures.whiskers(r, r.metric), caption="95 % intervals over persons.")
            )
    if found is not None and len(found.persons) >= LEAST:
        for task, sides in found.shapley.items():
            use, leakage = (s.intervals() for s in sides)
            shown.append(
                html.Picture(
                    title=f"What carried {task}, and what carried recognition", svg=pictures.use_and_leakage(use, leakage),
                    caption=f"Shapley values of the streams; 95 % intervals over persons. {found.advice[task].sentence}",
                )
            )  # fmt: skip
    for r in report.results:
        if r.value is not None and (
            named := re.match(r"((?:across \w+|k-shot), .*|adapted(?: to .*)?): (macro-F1|CCC)$", r.metric)
        ):
            say = "On persons that neither the adapter nor the probe has seen; 95 % intervals over persons."
            shown.append(html.Picture(title=r.metric, svg=pictures.whiskers(r, named[2]), caption=say))
    _release(run, html.release_html(report, shown), cohort, *others)


def _protected(report: Report) -> str:
    hidden = [c.split(":")[0].removeprefix("Protection ") for c in report.caveats if c.startswith("Protection ")]
    return " + ".join([protection(report.guarantee), *hidden])


def baselines(run: runs.Run, report: Report, cohort: Cohort, main: str) -> None:
    """`release/report.html` of a baseline run: its first two metrics as pictures, everything in the table. main: the
    learner that the results are named for."""
    shown = [
        html.Picture(
            title=f"{r.metric} beside what is simpler, and what is private",
            svg=pictures.whiskers(r, r.metric.removeprefix(f"{main} ")),
            caption="Tested on persons nobody trained on; bars are 95 % intervals over persons.",
        )
        for r in report.results[:2]
    ]
    _release(run, html.release_html(report, shown), cohort)


def _frontier(points: Sequence[frontier.Point]) -> str:
    first = points[0]
    blind = next((b.value for b in first.leakage.baselines if b.name == "blind"), None)
    return frontier.draw(points, [b for b in first.utility.baselines if b.name in ("TRTR", "majority")], blind)


def _release(run: runs.Run, page: str, *cohorts: Cohort) -> None:
    for cohort in cohorts:
        html.assert_leak_free(page, {"person": cohort.column("person"), "recording": cohort.column("id")})
    runs.write_text(run.release / "report.html", page)
