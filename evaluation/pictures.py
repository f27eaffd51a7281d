"""Pictures as inline SVG: deterministic, small, readable at phone width, never by colour alone."""

from __future__ import annotations

import base64
import html
import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.records import Events, Signal, Stream, Text
from ..core.results import Result

if TYPE_CHECKING:
    from ..core.intervals import Interval  # imports scipy.stats, for which adapt need not wait

# Okabe & Ito's palette, told apart with any colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
HOURS = 2 * 3600  # seconds, from which on time is told in hours
SIDE_BY_SIDE = 4  # streams beside one another at most
LINES_AT_MOST = 6  # channels of a stream as lines; more are rows of a heat map
PHONE = 3.25  # inches: what a 360 px screen leaves a figure; drawn at this width, 9 pt stay 9 pt there


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **kw: Any) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(
        {
            "svg.hashsalt": "mien", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif",
            "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9, "path.simplify_threshold": 0.5,
            "axes.labelsize": 9, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9,
            "text.parse_math": False,  # a class may be called "$x"
        }
    )  # fmt: skip
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **kw)


def _svg(figure: Any) -> str:
    """The figure as an <svg> element that grows with the page, and never shrinks below its own size (it scrolls)."""
    from matplotlib import pyplot as plt

    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    width = round(90 * figure.get_figwidth())  # of 96 px an inch: a screen's own scroll bar takes some
    plt.close(figure)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'xmlns:xlink="[^"]*"', 'xmlns:xlink="http://www.w3.org/1999/xlink"', text)
    text = re.sub(r'<g id="[\w.]+_\d+">', "<g>", text)  # the same in every figure, and a page may hold several
    text = re.sub(r'(?<= d=")[^"]+', lambda d: re.sub(r"\d+\.\d+", lambda v: f"{float(v[0]):.2f}", d[0]), text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 style="min-width:{width}px"', text, count=1)


def examples(windows: Sequence[Mapping[str, Stream]], titles: Sequence[str]) -> str:
    """Windows one below the other, streams side by side (of many streams the other way round), in physical units; one scale per
    stream."""
    streams = list(dict.fromkeys(n for w in windows for n in w))
    turned = len(streams) > SIDE_BY_SIDE
    rows, columns = (len(streams), len(windows)) if turned else (len(windows), len(streams))
    figure, axes = _figure(
        max(2, columns) * PHONE / 2, 1.1 * rows + 0.5, rows, columns, sharex="all" if turned else "col",
        sharey="row" if turned else "col",
    )  # fmt: skip
    for i, (window, title) in enumerate(zip(windows, titles, strict=True)):
        for j, name in enumerate(streams):
            row, column = (j, i) if turned else (i, j)
            axis, first = axes[row][column], column == 0 if turned else row == 0
            _draw(axis, window.get(name), _limits(windows, name))
            if j == 0:
                axis.set_title(title, loc="left", fontweight="bold")
            elif not turned and row == 0:
                axis.set_title(" ", loc="left")
            if row == rows - 1:
                _clock(axis, window.values())
            if first and (known := next((w[name] for w in windows if name in w), None)) is not None:
                axis.set_ylabel(_folded(_named(name, known), 16))
    _legend(figure, axes)
    return _svg(figure)


SOUND_HZ = 4000  # from here on a stream can be listened to


def sounds(windows: Sequence[Mapping[str, Stream]], titles: Sequence[str], stream: str) -> tuple[str, str]:
    """(spectrograms one below the other, players one per window) of a stream of sound. The sound is in the page: 16-bit
    wav, at the stream's own rate."""
    there = [(t, s) for t, w in zip(titles, windows, strict=True) if isinstance(s := w.get(stream), Signal)]
    figure, axes = _figure(PHONE, 1.4 * len(there) + 0.4, len(there), 1, sharex=True)
    players = []
    for row, (title, s) in enumerate(there):
        x, rate = s.values[:, 0].astype(np.float64), s.rate_hz
        axis = axes[row][0]
        n = 512 if rate >= 8000 else 256
        if len(x) > 2 * n and np.ptp(x) > 0:
            axis.specgram(
                x + 1e-9 * np.cos(np.arange(len(x))), NFFT=n, Fs=rate, noverlap=n // 4, cmap="magma", vmin=-140
            )
        axis.set_ylim(0, min(8000, rate / 2))
        axis.set_title(title, loc="left")
        axis.set_ylabel("Hz")
        if row == len(there) - 1:
            axis.set_xlabel("seconds")
        players.append(f"<p>{html.escape(title)}<br><audio controls preload='none' src='{_wav(x, rate)}'></audio></p>")
    return _svg(figure), "".join(players)


def _wav(x: np.ndarray, rate_hz: float) -> str:
    """A data URI of one channel, full scale 1."""
    from scipy.io import wavfile

    file = io.BytesIO()
    wavfile.write(file, round(rate_hz), np.rint(np.clip(x, -1, 1) * 32767).astype(np.int16))
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()


def real_beside_synthetic(
    real: Sequence[Mapping[str, Stream]], synthetic: Sequence[Mapping[str, Stream]], titles: Sequence[str], stream: str
) -> str:
    """Left real, right synthetic, one stream, one scale. For the private half only."""
    figure, axes = _figure(PHONE, 1.1 * len(titles) + 0.5, len(titles), 2, sharex=True, sharey=True)
    for row, title in enumerate(titles):
        for column, (kind, windows) in enumerate((("real", real), ("synthetic", synthetic))):
            _draw(axes[row][column], windows[row].get(stream), _limits([*real, *synthetic], stream))
            axes[row][column].set_title(f"{title}\n{kind}" if column == 0 else kind, loc="left")
            if row == len(titles) - 1:
                _clock(axes[row][column], [w[stream] for w in (*real, *synthetic) if stream in w])
        if stream in real[row]:
            axes[row][0].set_ylabel(_named(stream, real[row][stream]))
    _legend(figure, axes)
    return _svg(figure)


def _clock(axis: Any, streams: Iterable[Stream]) -> None:
    """The axis of time, in seconds, or in hours where some stream is hours long."""
    longest = max((s.seconds for s in streams), default=0.0)
    axis.set_xlabel("hours" if longest >= HOURS else "seconds")
    if longest >= HOURS:
        axis.set_xticks(np.linspace(0, longest, 4), [f"{v / 3600:.3g}" for v in np.linspace(0, longest, 4)])


def _named(name: str, stream: Stream) -> str:
    return f"{name} ({stream.unit})" if isinstance(stream, Signal) else name


def _limits(windows: Sequence[Mapping[str, Stream]], name: str) -> tuple[float, float]:
    """What a heat map's colours reach from and to, over all windows that have the stream."""
    values = [w[name].values for w in windows if isinstance(w.get(name), Signal)]
    known = np.concatenate([v[np.isfinite(v)] for v in values]) if values else np.empty(0)
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)


def _draw(axis: Any, signal: Stream | None, limits: tuple[float, float]) -> None:
    if signal is None:
        axis.text(0.5, 0.5, "absent", transform=axis.transAxes, ha="center", va="center")
        return
    if isinstance(signal, Events | Text):
        rows = signal.kinds if isinstance(signal, Events) else tuple(sorted(set(signal.speakers)))
        codes = signal.codes if isinstance(signal, Events) else [rows.index(s) for s in signal.speakers]
        last = signal.times_s + signal.durations_s if isinstance(signal, Events) else signal.ends_s
        for code, first, end in zip(codes, signal.times_s, last, strict=True):
            axis.plot([first, end], [code, code], color=COLOURS[code % 7], linewidth=3)
            axis.plot([first], [code], MARKS[code % 7], color=COLOURS[code % 7], markersize=3)
        axis.set_yticks(range(len(rows)), rows, fontsize="x-small")
        axis.set_ylim(-0.7, len(rows) - 0.3)
        if isinstance(signal, Text):  # how it begins, above the times
            axis.set_ylim(-0.7, 2.5 * len(rows) - 0.3)
            words = textwrap.wrap(" ".join(signal.text), 24, max_lines=3, placeholder=" …")
            axis.text(0.02, 0.98, "\n".join(words), transform=axis.transAxes, ha="left", va="top")
        axis.set_xlim(0, signal.seconds)
        return
    t = np.arange(len(signal.values)) / signal.rate_hz
    if signal.rate_hz >= SOUND_HZ:  # half a million points would make the page heavy and show the same
        step = max(1, len(t) // 400)
        blocks = signal.values[: len(t) // step * step, 0].reshape(-1, step)
        axis.fill_between(t[: blocks.size : step], blocks.min(1), blocks.max(1), color=COLOURS[0], linewidth=0)
        axis.locator_params(nbins=3)
        return
    if len(signal.channels) > LINES_AT_MOST:
        n = len(signal.channels)
        axis.imshow(
            signal.values.T, aspect="auto", extent=(0, signal.seconds, n - 0.5, -0.5), vmin=limits[0], vmax=limits[1],
            cmap="viridis", interpolation="nearest",
        )  # fmt: skip
        named = range(0, n, -(-n // 3))  # no more than have room
        axis.set_yticks(named, [signal.channels[c] for c in named])
        return
    for c, name in enumerate(signal.channels):
        mark = MARKS[c % 7] if len(t) == 1 else ""  # one sample makes no line
        axis.plot(
            t, signal.values[:, c], marker=mark, color=COLOURS[c % 7], linestyle=LINES[c % 4], linewidth=1.2, label=name
        )  # fmt: skip
    axis.locator_params(nbins=3)


def _legend(figure: Any, axes: Any) -> None:
    """The channels of every panel that has more than one, each name once."""
    named: dict[str, Any] = {}
    for axis in axes.flat:
        handles, labels = axis.get_legend_handles_labels()
        if len(labels) > 1:
            named |= dict(zip(labels, handles, strict=True))
    if named:
        room = figure.get_figwidth() / (0.5 + 0.08 * max(map(len, named)))  # inches of a line and its name
        ncols = max(1, min(len(named), 8, int(room)))
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=ncols, frameon=False)


def roc_loglog(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], n_nonmembers: int) -> str:
    """ROC on two logarithmic axes; where fewer than one held-out person would be wrong is shaded."""
    figure, axes = _figure(PHONE, 3.4)
    axis, low = axes[0][0], 1e-3
    grid = np.geomspace(low, 1, 200)
    axis.plot(grid, grid, color="0.5", linewidth=1, linestyle=":", label="chance")
    for i, (name, (fpr, tpr)) in enumerate(curves.items()):
        axis.step(
            np.maximum(fpr, low),
            np.maximum(tpr, low),
            where="post",
            color=COLOURS[i % 7],
            linestyle=LINES[i % 4],
            label=name,
        )
    if n_nonmembers:
        axis.axvspan(low, 1 / n_nonmembers, color="0.9", zorder=0)
        axis.text(low * 1.2, 1.25 * low, f"not resolvable\nwith {n_nonmembers} persons", color="0.35", fontsize=9)
    axis.set(
        xscale="log",
        yscale="log",
        xlim=(low, 1),
        ylim=(low, 1.1),
        xlabel="false positive rate",
        ylabel="true positive rate",
    )
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter("{x:g}")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _svg(figure)


def whiskers(result: Result, xlabel: str) -> str:
    """A result and its baselines, one dot with its interval each, from above."""
    rows = [
        (result.metric.removesuffix(f" {xlabel}"), result),
        *((b.name, b) for b in result.baselines if b.value is not None),
    ]
    names = [_folded(name, 24) for name, _ in rows]  # a name as long as the picture would leave it no room
    figure, axes = _figure(PHONE, 0.16 * sum(1 + n.count("\n") for n in names) + 0.14 * len(rows) + 0.6)
    axis = axes[0][0]
    for i, (_, r) in enumerate(rows):
        colour = COLOURS[0] if i == 0 else "0.35"
        low, high = (r.value if v is None else v for v in (r.low, r.high))
        axis.plot([low, high], [i, i], color=colour, linewidth=2)
        axis.plot(r.value, i, marker=MARKS[0 if i == 0 else 1], color=colour, markersize=7)
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set(xlim=(0, 1), xlabel=_folded(xlabel, 30))
    axis.grid(axis="x", color="0.9")
    return _svg(figure)


def _folded(text: str, width: int) -> str:
    """Lines of about this many characters, broken at spaces and after the dots of a name."""
    lines = textwrap.wrap(re.sub(r"\.(?=[a-z])", ".\x1f ", text), width, break_on_hyphens=False)
    return re.sub("\x1f ?", "", "\n".join(lines))


def use_and_leakage(use: Mapping[str, Interval], leakage: Mapping[str, Interval]) -> str:
    """What each modality is worth to the task and to re-identification: two bars each, with their intervals over persons."""
    figure, axes = _figure(PHONE, 0.5 * len(use) + 1.1)
    axis, height = axes[0][0], 0.36
    for side, (name, found, hatch) in enumerate((("the task", use, ""), ("re-identification", leakage, "///"))):
        for i, m in enumerate(use):
            y, one = i + (side - 0.5) * height, found[m]
            axis.barh(
                y,
                one.value,
                height,
                color=COLOURS[side],
                hatch=hatch,
                edgecolor="white",
                label=name if i == 0 else None,
            )
            if one.low is not None:
                axis.plot([one.low, one.high], [y, y], color="black", linewidth=1)
    axis.axvline(0, color="0.4", linewidth=0.8)
    axis.set_yticks(range(len(use)), list(use))
    axis.invert_yaxis()
    axis.set(xlabel="Shapley value of the modality")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _svg(figure)


def moments(maps: Mapping[str, np.ndarray], channels: Sequence[str], seconds: float, title: str) -> str:
    """Channel by moment, one map per side (use, leakage) in its own scale, float64[T, C]: darker is more. For the private half
    only."""
    figure, axes = _figure(PHONE, (0.25 * len(channels) + 0.7) * len(maps) + 0.3, len(maps), 1, sharex=True)
    for row, (side, values) in enumerate(maps.items()):
        axis = axes[row][0]
        axis.imshow(
            values.T, aspect="auto", cmap="Greys", vmin=0, vmax=float(values.max()) or 1.0,
            extent=(0.0, seconds, len(channels) - 0.5, -0.5), interpolation="nearest",
        )  # fmt: skip
        axis.set_yticks(range(len(channels)), list(channels))
        axis.set_title(f"{title}: {side}", loc="left")
    axes[-1][0].set_xlabel("seconds")
    return _svg(figure)


def by_person(score: np.ndarray, member: np.ndarray) -> str:
    """Scores of persons in increasing order; members filled, held-out persons hollow."""
    figure, axes = _figure(PHONE, 2.6)
    axis, order = axes[0][0], np.argsort(score, kind="stable")
    place = np.empty(len(order))
    place[order] = np.arange(len(order))
    size = 5 if len(order) <= 60 else 3
    for chosen, name, fill, colour in ((member, "member", True, 1), (~member, "held out", False, 0)):
        axis.plot(
            place[chosen], score[chosen], MARKS[colour], color=COLOURS[colour], markersize=size, label=name,
            markerfacecolor=COLOURS[colour] if fill else "white",
        )  # fmt: skip
    axis.set(xlabel="persons, by score", ylabel="score (higher = member)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _svg(figure)


def by_step(
    lines: Mapping[str, Sequence[tuple[float, float]]], ylabel: str, *, smooth: bool = False, log: bool = False,
    limits: tuple[float | None, float | None] = (None, None),
) -> str:  # fmt: skip
    """(step, value) of one or more quantities; several get a legend. smooth: many points are pale, with a running mean over a
    tenth of them; log: a logarithmic axis of what is above 0, where it spans enough for two marks;
    limits: of the y axis, None: what the values ask for."""
    figure, axes = _figure(PHONE, 2.3 + 0.2 * (len(lines) > 1))
    axis, told = axes[0][0], len(lines) > 1
    above = [v for points in lines.values() for _, v in points if v > 0]
    log = log and max(above, default=1.0) > 4 * min(above, default=1.0)
    for i, (name, points) in enumerate(lines.items()):
        x, y = np.array([p for p in points if not log or p[1] > 0], dtype=np.float64).reshape(-1, 2).T
        width, colour = max(1, len(y) // 10), COLOURS[i % 7]
        if smooth and width > 1:
            axis.plot(x, y, color=colour, linewidth=0.8, alpha=0.35)
            y = np.array([y[max(0, k - width) : k + width + 1].mean() for k in range(len(y))])
        mark = MARKS[i % 7] if len(y) <= 15 else ""
        axis.plot(
            x, y, marker=mark, color=colour, linestyle=LINES[i % 4], linewidth=1.8, markersize=4, label=name, clip_on=False
        )  # fmt: skip
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else "")
    axis.set(xlabel="step", ylabel=_folded(ylabel, 30), ylim=limits)
    axis.set_xlim(left=0)
    axis.grid(axis="y", color="0.9")
    if told:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _svg(figure)


def forest(results: Sequence[Result]) -> str:
    """AUCs one below the other with their intervals, from nothing (0.5) to everything (1); attackers who hold other
    recordings of a person are hollow, in the same row."""
    rows = list(dict.fromkeys(r.metric.removesuffix(".auc").removesuffix(" (other recordings)") for r in results))
    figure, axes = _figure(PHONE, 0.24 * len(rows) + 1.2)
    axis = axes[0][0]
    axis.axvline(0.5, color="0.6", linewidth=1)
    for other, mark, name in ((False, 0, "the same recordings"), (True, 1, "other recordings")):
        chosen = [r for r in results if ("(other recordings)" in r.metric) is other and r.value is not None]
        for i, r in enumerate(chosen):
            y = rows.index(r.metric.removesuffix(".auc").removesuffix(" (other recordings)")) + 0.25 * other
            if r.low is not None:
                axis.plot([r.low, r.high], [y, y], color=COLOURS[mark], linewidth=1.5)
            axis.plot(
                r.value, y, MARKS[mark], color=COLOURS[mark], markersize=5, label=name if i == 0 else None,
                markerfacecolor="white" if other else COLOURS[mark],
            )  # fmt: skip
    axis.set_yticks(range(len(rows)), rows)
    axis.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.02), xlabel="AUC per person (0.5: nothing found)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return _svg(figure)
