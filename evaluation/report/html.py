"""One-file HTML reports: no script, no network, readable on a phone, in the dark and on paper.

`release_html` is made of a Report and pictures only, so nothing about a single person can reach it by accident;
`assert_leak_free` looks all the same.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import yaml

from ...core import console
from ...core.errors import MienError
from ...core.records import RESTRICTIONS
from ...core.results import Baseline, Report, Result


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure: title, an <svg> made by `evaluation/pictures.py`, what one sees in it, and players of what one hears."""

    title: str
    svg: str
    caption: str
    players: str = ""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the page of a run that trains says beside its pictures. used: what it learned from, and how, name -> words;
    following: (what for, command) of what comes next; note: what stands in the place of pictures that are not shown."""

    used: Mapping[str, str]
    following: Sequence[tuple[str, str]] = ()
    note: str = ""


MOST_NAMES = 4  # that share a reason for not having been measured, before they are folded away
TITLES = {
    "adapt": "Adapter",
    "pretrain": "Base",
    "align": "Aligned adapter",
    "generate": "Synthetic recordings",
    "evaluate": "Synthetic cohort",
    "attack": "Attacks",
    "baseline": "Baselines",
}
_STYLE = """
:root{--ink:#1b1f24;--soft:#59636e;--line:#d5dae0;--paper:#fff;--band:#f4f6f8;--mark:#0b5cad;--warn:#8a4b00;
--warnband:#fff4e0;--stop:#a40e26;--stopband:#ffecef}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a6afb8;--line:#3a4149;--paper:#15181c;--band:#1e2328;
--mark:#7ab8f5;--warn:#ffcf8a;--warnband:#3a2c12;--stop:#ff9aa8;--stopband:#3d171d}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:58rem;margin:0 auto;padding:1rem 1rem 4rem}h1{font-size:1.6rem;line-height:1.25;margin:.4em 0}
h2{font-size:1.2rem;margin:2.2em 0 .5em;border-bottom:1px solid var(--line);padding-bottom:.2em}
p{margin:.6em 0;max-width:44rem}.soft{color:var(--soft)}.banner{padding:.8rem 1rem;border-radius:.5rem;margin:1rem 0;
border-left:.4rem solid var(--warn);background:var(--warnband)}.banner b{color:var(--warn)}
.banner.stop{border-color:var(--stop);background:var(--stopband)}.banner.stop b{color:var(--stop)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.4rem .5rem;vertical-align:top}td{white-space:nowrap}
thead th{font-size:.85rem;color:var(--soft);font-weight:600;border-bottom:1px solid var(--line)}
tr.main th,tr.main td{border-top:1px solid var(--line);font-weight:600;background:var(--band)}
tr.beside th,tr.beside td{font-weight:400;color:var(--soft);padding:.1rem .5rem}tr.beside th{padding-left:1.6rem}
small{color:var(--soft);display:block;font-weight:400}figure{margin:1.2rem 0;padding:.8rem;background:#fff;color:#1b1f24;
border:1px solid var(--line);border-radius:.5rem}
figure>div{overflow-x:auto}figure svg{width:100%;height:auto;display:block;max-width:34rem;margin:0 auto}
figcaption{color:#59636e;font-size:.9rem;margin-top:.5rem}li{margin:.35em 0}pre{overflow-x:auto;background:var(--band);
padding:.8rem;border-radius:.5rem;font-size:.85rem}
.command{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3em 0}dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}summary{cursor:pointer}
@media(max-width:40rem){body{font-size:15px}th,td{padding:.4rem .3rem}thead th{font-size:.75rem}
tr.beside th{padding-left:.8rem}tbody th{overflow-wrap:anywhere;min-width:7rem}.versus td{white-space:normal}
.versus span{display:block}dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}figure{padding:.4rem}}
@media print{figure{break-inside:avoid}details:not(.names){display:none}}
"""


# (its protection in a few words, its evaluation, its attack if there was one)
Versus = tuple[str, Report, Report | None]


def release_html(
    report: Report,
    pictures: Sequence[Picture] = (),
    sections: Sequence[tuple[str, Report]] = (),
    versus: Sequence[Versus] = (),
    training: Training | None = None,
) -> str:
    """The report that may leave the house. sections: further reports (the attack's, say) shown under a heading;
    versus: releases to set side by side, this one first; training: of a run that trains."""
    return _page(report, pictures, sections, versus, training, private=False)


def private_html(
    report: Report,
    pictures: Sequence[Picture] = (),
    sections: Sequence[tuple[str, Report]] = (),
    versus: Sequence[Versus] = (),
    training: Training | None = None,
) -> str:
    """The same with pictures of real recordings, or of what was computed from them; for the run's private half."""
    return _page(report, pictures, sections, versus, training, private=True)


def assert_leak_free(page: str, forbidden: Mapping[str, Iterable[str]]) -> None:
    """MienError if an id occurs as a word of the page. forbidden: kind -> ids. The message names the kind, not the id.

    Ids of one or two characters and plain numbers below 10,000 are not looked for: they stand on every page as counts,
    axes and figures, and name nobody there.
    """
    # Sounds are synthetic, and their letters are no words: one would spell a short id by chance.
    page = re.sub(r"data:audio/wav;base64,[A-Za-z0-9+/=]+", "", page)
    # As a reader sees it, whatever was escaped (SVG and HTML do it differently) or broken over lines (YAML).
    text = " ".join(f"{page} {html.unescape(page)}".split())
    for kind, ids in forbidden.items():
        for one in {" ".join(i.split()) for i in ids}:
            if len(one) < 3 or (one.isdigit() and len(one) < 5):
                continue
            if one in text and re.search(rf"(?<![\w-]){re.escape(one)}(?![\w-])", text):
                raise MienError(
                    f"the report would show a {kind}'s id, or a word that equals one; it was not written. Give ids that are"
                    " no ordinary words (P-017), or report this"
                )


def number(value: float | None) -> str:
    """.763, 1.00, –0.05, or "not measured"."""
    if value is None:
        return "not measured"
    text = f"{value:.3f}" if abs(value) < 0.9995 else f"{value:.2f}"
    return text.replace("-", "−").replace("0.", ".", 1) if abs(value) < 0.9995 else text.replace("-", "−")


def value(r: Result) -> str:
    """A result's number, or in a word why there is none."""
    for word in ("withheld", "not resolvable"):
        if r.value is None and word in r.note:
            return word
    return number(r.value)


def interval(r: Result | Baseline) -> str:
    return "" if r.low is None or r.high is None else f"{number(r.low)} to {number(r.high)}"


def beside(r: Result) -> str:
    """The baselines of a result, in words."""
    return ", ".join(f"{b.name} {number(b.value)}" + (f" ({interval(b)})" if interval(b) else "") for b in r.baselines)


def _page(
    report: Report,
    pictures: Sequence[Picture],
    sections: Sequence[tuple[str, Report]],
    versus: Sequence[Versus],
    training: Training | None,
    private: bool,
) -> str:
    e = html.escape
    every = [report, *(r for _, r in sections)]
    parts = [
        f"<h1>{e(_title(report))}: the study “{e(report.study)}”</h1>",
        f"<p>{e(report.summary)}</p>",
    ]
    if private:
        holds = "contains recordings of real people"
        if training is not None:
            holds = "computed from what real people recorded or said"
        elif report.verb == "generate":
            holds = "made from real people's recordings, and to be treated as those"
        parts.append(
            f"<div class='banner stop'><b>Private: {holds}.</b> Do not share, print or upload this page.</div>"
        )
    if "∞" in report.guarantee:
        leaks = (
            "was measured below, by attacks of limited strength"
            if training is None
            else "is for <code>mien attack</code> to find out"
        )
        said = f"This adapter was trained without differential privacy. What it leaks {leaks}; nothing bounds it."
        if _reward(report):
            said = "The adapter whose samples were judged was trained without differential privacy: nothing bounds what they leak."
        parts.append(f"<div class='banner'><b>No privacy guarantee (ε = ∞).</b> {said}</div>")
    else:
        parts.append(f"<p>Guarantee: {e(report.guarantee)}</p>")
    bound = [x for x in RESTRICTIONS if any(x in r.restrictions for r in every)]
    if bound:
        told = "; ".join(f"{x}: {RESTRICTIONS[x]}" for x in bound)
        parts.append(
            "<div class='banner'><b>Bound by the licence of the recordings.</b> It holds for the adapter and what is"
            f" sampled from it, too: {e(told)}.</div>"
        )
    for caveat in dict.fromkeys(c for r in every for c in r.caveats if "random windows" in c):
        parts.append(f"<div class='banner stop'><b>Warning.</b> {e(caveat)}</div>")
    if versus:
        parts += ["<h2>Side by side</h2>", _side(versus)]
    first = 2 if training is None else len(pictures)
    if training is not None:
        note = [f"<p class='soft'>{e(training.note)}</p>"] if training.note else []
        parts += ["<h2>Training</h2>", *_figures(pictures), *note] if pictures or note else []
        parts += ["<h2>Results</h2>", _table(report.results)] if report.results else []
        parts += ["<h2>What was used</h2>", _facts(training.used)]
        if training.following:
            steps = (f"<li>{e(why)}<pre class='command'>{e(command)}</pre></li>" for why, command in training.following)
            parts += ["<h2>What comes next</h2><ol>", *steps, "</ol>"]
    else:
        parts += ["<h2>Results</h2>", *_figures(pictures[:2]), _table(report.results)]
    for title, other in sections:
        parts += [f"<h2>{e(title)}</h2>", _table(other.results)]
    if pictures[first:]:
        parts += ["<h2>Recordings</h2>", *_figures(pictures[first:])]
    for title, lines in (
        ("What was not measured", [x for r in every for x in r.not_measured]),
        (
            "What this number of persons can support" if training is None else "What to bear in mind",
            [x for r in every for x in r.caveats if "random windows" not in x],
        ),
    ):
        if lines:
            parts += [f"<h2>{title}</h2><ul>", *(f"<li>{e(x)}</li>" for x in dict.fromkeys(lines)), "</ul>"]
    left_out = "; ".join(f"{n} person(s): {why}" for why, n in report.consent.items()) or "nobody"
    facts = {
        "Run": report.run,
        "Data fingerprint": report.data_fingerprint[:16],
        **{f"Made from ({k})": v[:16] for k, v in report.inputs.items()},
        "Left out for lack of consent": left_out,
        **{str(k): str(v) for k, v in report.environment.items()},
    }
    parts += ["<h2>Where this comes from</h2>", _facts(facts)]
    recipe = yaml.safe_dump(report.config, sort_keys=False, allow_unicode=True)
    parts.append(f"<details><summary>The recipe, resolved</summary><pre>{e(recipe)}</pre></details>")
    title = f"{report.study}: {report.verb}" + (" (private)" if private else "")
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{e(title)}</title><style>{_STYLE}</style></head><body><main>"
        + "\n".join(parts)
        + "</main></body></html>\n"
    )


def _facts(facts: Mapping[str, str]) -> str:
    e = html.escape
    return "<dl>" + "".join(f"<dt>{e(k)}</dt><dd>{e(v)}</dd>" for k, v in facts.items()) + "</dl>"


def _figures(pictures: Sequence[Picture]) -> list[str]:
    e = html.escape
    return [
        f"<figure role='group' aria-label='{e(p.title, quote=True)}'><b>{e(p.title)}</b>"
        f"<div role='img' aria-label='{e(p.caption, quote=True)}'>{p.svg}</div>{p.players}<figcaption>{e(p.caption)}</figcaption></figure>"
        for p in pictures
    ]


def _table(results: Sequence[Result]) -> str:
    """Measured results, each followed by what it must be read beside; then what could not be measured, by reason."""
    measured, absent = [r for r in results if r.value is not None], [r for r in results if r.value is None]
    if not results:
        return "<p class='soft'>Nothing was measured here; the reasons are below.</p>"
    e, rows = html.escape, []
    for r in measured:
        over = console.count(r.n_persons, "person") if r.n_persons else ""
        note = "; ".join(x for x in (over, r.note) if x)
        rows.append(
            f"<tr class='main'><th scope='row'>{e(_name(r))}<small>{e(note)}</small></th>"
            f"<td>{e(value(r))}</td><td>{e(interval(r))}</td></tr>"
        )
        rows += [
            f"<tr class='beside'><th scope='row'>{e(b.name)}</th><td>{e(number(b.value))}</td><td>{e(interval(b))}</td></tr>"
            for b in r.baselines
        ]
    table = (
        "<div class='wide'><table><thead><tr><th scope='col'>measure, and what to read it beside</th>"
        "<th scope='col'>value</th><th scope='col'>95 % interval</th></tr></thead><tbody>"
        + "".join(rows)
        + "</tbody></table></div>"
    )
    reasons: dict[str, list[str]] = {}
    for r in absent:
        reasons.setdefault(r.note or value(r), []).append(_name(r))
    listed = "".join(f"<li>{_folded(names, why)}</li>" for why, names in reasons.items())
    return (table if measured else "") + (f"<ul class='soft'>{listed}</ul>" if listed else "")


def _folded(names: Sequence[str], why: str) -> str:
    """Names and what they share; many names behind their number."""
    told, why = html.escape(", ".join(names)), html.escape(why)
    if len(names) <= MOST_NAMES:
        return f"<b>{told}</b> – {why}"
    return f"<details class='names'><summary><b>{len(names)} measures</b> – {why}</summary>{told}</details>"


def _side(versus: Sequence[Versus]) -> str:
    """One row per measure, one column per release; of the attacks AUCs, risks and bounds (the rest is on their own page).
    A measure that one release lacks stays empty there."""
    e = html.escape
    columns = []
    for _, report, attack in versus:
        found = [r for r in (attack.results if attack else ()) if re.search(r"\.auc|\.risk|epsilon", r.metric)]
        columns.append({_name(r): r for r in (*report.results, *found)})
    names = dict.fromkeys(n for column in columns for n, r in column.items() if r.value is not None)
    head = "".join(f"<th scope='col'>{e(label)}<small>{e(report.study)}</small></th>" for label, report, _ in versus)
    rows = []
    for name in names:
        cells = []
        for column in columns:
            r = column.get(name)
            text = "" if r is None else e(value(r)) + (f" <span>({e(interval(r))})</span>" if interval(r) else "")
            cells.append(f"<td>{text}</td>")
        rows.append(f"<tr><th scope='row'>{e(name)}</th>{''.join(cells)}</tr>")
    return (
        f"<div class='wide versus'><table><thead><tr><th scope='col'>measure (95 % interval)</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _name(r: Result) -> str:
    return f"{r.metric}, per {r.unit}" if not r.higher_is_better and r.unit != "window" else r.metric


def _reward(report: Report) -> bool:
    """Whether an alignment made a reward alone, and no adapter."""
    return report.verb == "align" and report.config.get("align", {}).get("method") == "reward"


def _title(report: Report) -> str:
    if _reward(report):
        return "Reward"
    return "Representation" if report.config.get("represented") else TITLES.get(report.verb, report.verb)
