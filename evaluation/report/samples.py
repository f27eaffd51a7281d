"""Synthetic recordings on a page: drawn, and audible where they are sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ...core import runs
from ...core.records import Cohort, CohortCard, Stream
from ...core.results import Report
from .. import pictures
from . import html

MOST = 6  # recordings of a private cohort that are shown


def shown(
    windows: Sequence[Mapping[str, Stream]], titles: Sequence[str], card: CohortCard, caption: str
) -> list[html.Picture]:
    """Windows of synthetic recordings drawn, and each of their sounds; nothing of windows without any stream."""
    if not any(windows):
        return []
    out = [html.Picture(title="Synthetic recordings", svg=pictures.examples(windows, titles), caption=caption)]
    for stream in (n for n, spec in card.streams.items() if spec.rate_hz >= pictures.SOUND_HZ):
        if any(stream in w for w in windows):
            svg, players = pictures.sounds(windows, titles, stream)
            what = "Spectrograms of the same windows, and their sound."
            out.append(html.Picture(title=f"Synthetic sound: {stream}", svg=svg, caption=what, players=players))
    return out


def private(run: runs.Run, report: Report, cohort: Cohort, seconds: float) -> None:
    """`private/report.html` of a generate run whose cohort may not leave: the first `seconds` of some recordings, of all classes
    alike."""
    labels = [", ".join(map(str, told.values())) for told in cohort.column("labels")]
    before: Counter[str] = Counter()
    ranks = []
    for i, label in enumerate(labels):
        ranks.append((before[label], i))
        before[label] += 1
    chosen = sorted(i for _, i in sorted(ranks)[:MOST])
    windows = []
    for r in (cohort[i] for i in chosen):
        parts = {n: s.cut(0.0, min(seconds, s.seconds)) for n, s in r.streams.items()}
        windows.append({n: s for n, s in parts.items() if s is not None})
    caption = (
        f"The first {seconds:g} s of {len(chosen)} of the {len(cohort)} recordings, in physical units. A number is that in the name"
        " of the recording: synthetic-000012 is 12."
    )
    titles = [f"{labels[i]} {i}".strip() for i in chosen]
    summary = (
        f"What was made, to look at and to listen to. All of it lies beside this page, in {run.private / 'cohort'}."
    )
    report = report.model_copy(update={"summary": summary})
    page = html.private_html(report, shown(windows, titles, cohort.card, caption))
    runs.write_text(run.private / "report.html", page)
