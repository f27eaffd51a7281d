"""Reports: self-contained, escaped, honest about what is missing, and without anybody in them."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mien.core.errors import MienError
from mien.core.records import Cohort, Signal, StreamSpec, Text
from mien.core.results import Baseline, Report, Result, environment
from mien.core.runs import Run
from mien.core.verbs import PLAIN, protection, public
from mien.evaluation import frontier, pictures
from mien.evaluation.report import html, pages, samples, training
from mien.privacy.plan import PrivacySpec

from ..conftest import CARD, recordings

NASTY = "<script>alert('x')</script>\"&<img src=http://evil.example/x>"


def report(**kw) -> Report:
    results = (
        Result(
            metric="TSTR accuracy", value=0.7632, low=0.7, high=0.82, n_persons=5,
            baselines=(Baseline(name="majority", value=0.17),),
        ),
        Result(metric="loss.tpr_at_fpr_0.01", value=None, note="not resolvable: 5 non-member persons"),
    )  # fmt: skip
    base = {
        "verb": "evaluate", "run": "evaluate-toy-1", "study": "toy", "config": {"study": "toy"}, "data_fingerprint": "ab" * 32,
        "results": results, "guarantee": PLAIN, "environment": environment(0), "not_measured": ("outliers",),
        "caveats": ("5 persons",), "consent": {"withdrawn": 2},
    }  # fmt: skip
    return Report(**{**base, **kw})


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, v in attrs:
            if name in ("src", "href", "xlink:href", "action", "data") and v and not v.startswith(("#", "data:")):
                self.outside.append(v)


def svgs() -> list[str]:
    windows = [dict(r.streams) for r in recordings(2, seconds=4)]
    fpr, tpr = np.array([0, 0.2, 1.0]), np.array([0, 0.6, 1.0])
    results = report().results
    leak = Result(metric="reference.auc", value=0.9, low=0.7, high=0.97, unit="recording")
    point = frontier.Point(label="plain", utility=results[0], leakage=leak)
    unknown = frontier.Point(label="x", utility=results[0], leakage=Result(metric="a", value=None))
    return [
        pictures.examples(windows, ["a"] * len(windows)),
        pictures.real_beside_synthetic(windows, windows, ["a"] * len(windows), "acc"),
        pictures.roc_loglog({"loss": (fpr, tpr)}, 5),
        pictures.whiskers(results[0], "accuracy"),
        frontier.draw([point, unknown], list(results[0].baselines), 0.55),
    ]


def test_pages_are_self_contained_and_deterministic():
    made = svgs()
    assert made == svgs()
    page = html.release_html(report(), [html.Picture(title="t", svg=s, caption="c") for s in made])
    found = Page(page)
    assert found.outside == []
    assert "script" not in found.tags
    assert found.tags.count("svg") == len(made)
    assert "@import" not in page
    assert "url(http" not in page
    assert max(len(s) for s in made) < 300_000
    assert "width=device-width" in page


def test_everything_foreign_is_escaped():
    page = html.release_html(
        report(
            study=NASTY,
            config={"a": NASTY},
            not_measured=(NASTY,),
            results=(Result(metric=NASTY, value=0.5, note=NASTY),),
        ),
        [html.Picture(title=NASTY, svg="<svg></svg>", caption=NASTY)],
    )
    found = Page(page)
    assert "script" not in found.tags
    assert "img" not in found.tags
    assert found.outside == []


def test_what_is_missing_is_said():
    page = html.release_html(report())
    for text in ("No privacy guarantee", "not measured", "not resolvable", "outliers", "5 persons", "2 person(s): withdrawn",
                 ".170", ".763", ".700 to .820"):  # fmt: skip
        assert text in page
    assert "Private: contains" not in page
    assert "Private: contains" in html.private_html(report())


@pytest.mark.parametrize("text", ["see P017.", "'P017'", ">P017<", "(P017)"])
def test_leaks_are_found(text):
    with pytest.raises(MienError, match="a person's id") as e:
        html.assert_leak_free(f"<p>{text}</p>", {"person": ["P017"]})
    assert "P017" not in str(e.value)


@pytest.mark.parametrize("one", ["o'brien", "a&b", 'x"y', "Ward 3 bed 2"])
@pytest.mark.parametrize("how", ["html", "svg", "folded"])
def test_leaks_are_found_however_they_are_escaped_or_folded(one, how):
    import html as std

    shown = {"html": std.escape(one), "svg": std.escape(one, quote=False), "folded": one.replace(" ", "\n   ")}[how]
    with pytest.raises(MienError, match="a person's id"):
        html.assert_leak_free(f"<p>{shown}</p>", {"person": [one]})


def test_many_streams_stand_below_one_another_and_many_channels_are_a_heat_map(monkeypatch):
    (one,) = [dict(r.streams) for r in recordings(2, seconds=4)][:1]
    face = Signal(
        values=np.arange(120.0).reshape(10, 12), rate_hz=5, channels=tuple(f"AU{i}" for i in range(12)), unit="au"
    )
    width = {}
    for n in (2, 9):
        svg = pictures.examples([{f"s{i}": one["acc"] for i in range(n)}] * 2, ["a", "b"])
        width[n] = int(svg.split("min-width:")[1].split("px")[0])
    assert width[9] == width[2]  # or a phone would have to scroll through nine
    lines, heat = (
        pictures.examples([{"acc": one["acc"]}] * 2, ["a", "b"]),
        pictures.examples([{"f": face}] * 2, ["a", "b"]),
    )
    assert "<image" in heat
    assert "AU11" not in heat  # no legend of twelve lines
    assert "<image" not in lines
    assert "<image" in pictures.real_beside_synthetic([{}, {"f": face}], [{"f": face}, {}], ["a", "b"], "f")
    said = Text(
        text=("so the meeting was dreadful and so was the bus",), times_s=np.array([0.5]), ends_s=np.array([3.0]),
        speakers=("participant",), seconds=4.0,
    )  # fmt: skip
    assert "so the meeting" in pictures.examples([{"said": said}], ["a"])
    steps = Signal(values=np.array([[4000.0]]), rate_hz=1 / 86400, channels=("steps",), unit="1/day")
    day = pictures.examples([{"steps": steps}], ["a"])
    assert ">hours<" in day
    assert ">24<" in day
    monkeypatch.setattr(pictures, "MARKS", ("",) * 7)
    assert day.count("<use") == 1 + pictures.examples([{"steps": steps}], ["a"]).count(
        "<use"
    )  # one sample makes no line


def test_the_example_of_a_class_lacks_the_fewest_streams():
    windows = [{"a": 0}, {"a": 1, "b": 1}, {"a": 2, "b": 2}, {"a": 3, "b": 3, "c": 3}]
    assert pages._fullest(windows, np.array([True, True, True, False])) == windows[1]  # pyright: ignore[reportArgumentType]


def test_what_may_not_leave_can_be_looked_at_and_listened_to(home):
    """Some of every class, no longer than a window, in the private half alone."""
    voice = Signal(
        values=np.sin(np.arange(96000) / 9)[:, None] / 2, rate_hz=8000.0, channels=("voice",), unit="full scale"
    )
    card = replace(
        CARD, streams={**CARD.streams, "voice": StreamSpec(channels=("voice",), unit=voice.unit, rate_hz=8000.0)}
    )
    all_of = [
        replace(r, id=f"synthetic-{i:06d}", person=f"synthetic-{i:06d}", streams={**r.streams, "voice": voice},
                labels={"activity": "walk" if i == 9 else "rest"})
        for i, r in enumerate(recordings(5, each=2))
    ]  # fmt: skip
    with Run.start("generate", "toy", {}, {}) as run:
        Cohort.store(all_of, run.private / "cohort", card=card)
        cohort = Cohort.read(run.private / "cohort")
        samples.private(run, report(verb="generate", guarantee="unprotected: as recordings"), cohort, 4.0)
    text = (run.private / "report.html").read_text()
    found = Page(text)
    assert found.outside == []
    assert found.tags.count("audio") == samples.MOST
    assert len(text) < 1.4 * (samples.MOST * 4 * 8000 * 2 * 4 / 3) + 400_000  # four seconds of each, not twelve
    for said in (">walk 9<", ">rest 0<", ">rest 4<", "Private: made from real people's recordings", "unprotected: as"):
        assert said in text
    assert ">rest 5<" not in text
    assert list(run.release.iterdir()) == []


def test_class_names_are_drawn_as_they_are():
    windows = [dict(recordings(2, seconds=4)[0].streams)]
    for name in ("$\\frac{$", "a $5$ bill"):
        svg = pictures.examples(windows, [name])
        assert f">{name}</text>" in svg  # not in a comment beside a formula
    assert "script" not in Page(pictures.examples(windows, [NASTY])).tags


def test_pictures_stay_readable_on_a_phone():
    """No text below 9 pt, and no figure of up to two columns that has to shrink (or scroll) at 360 px."""
    import re

    for svg in svgs():
        assert min(float(x) for x in re.findall(r"font-size: ([\d.]+)px", svg)) >= 9  # in points: see viewBox
        assert float(re.findall(r'viewBox="0 0 ([\d.]+) ', svg)[0]) <= 72 * 3.26
        assert int(re.findall(r"min-width:(\d+)px", svg)[0]) <= 314
        assert len(svg) < 100_000


def test_tables_fit_a_phone(browser):
    """At 375 px no table has to be scrolled: an interval would be out of sight, with nothing that says so."""
    base = {"low": 0.664, "high": 0.998, "n_persons": 10, "higher_is_better": False}
    results = tuple(
        Result(metric=m, value=0.664, unit="recording", baselines=(Baseline(name="planted", value=0.96, low=0.2, high=0.999),), **base)
        for m in ("reference.auc", "dataset_inference.p", "linkability_attack.risk", "singling_out.risk_of_a_longer_name")
    )  # fmt: skip
    changes = (Result(metric="TSTR − TRTR accuracy", value=-0.627, low=-0.684, high=-0.563),)
    attack = report(verb="attack", results=results)
    versus = [
        (protection(PLAIN), report(results=changes), attack),
        ("ε = 7.99 per person", report(results=changes), attack),
    ]
    page = browser.new_page(viewport={"width": 375, "height": 800})
    for made in (attack, report()):
        page.set_content(html.release_html(made, versus=versus, sections=[("Attacks", attack)]))
        wide = page.evaluate("[...document.querySelectorAll('.wide')].map(d => [d.scrollWidth, d.clientWidth])")
        assert len(wide) == 3
        assert all(needed <= there for needed, there in wide), wide
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.close()


def test_more_points_than_colours():
    result = report().results[0]
    points = [frontier.Point(label=f"p{i}", utility=result, leakage=result) for i in range(9)]
    assert "p8" in frontier.draw(points, [], None)
    plain = frontier.draw(points[:3], [], None)
    family = frontier.draw([replace(p, family=f) for p, f in zip(points, ("a", "a", "b"), strict=False)], [], None)
    assert pictures.COLOURS[2].lower() in plain
    assert pictures.COLOURS[2].lower() not in family  # one colour for both strengths of one protection
    lost = frontier.Point(label="unmeasured", utility=report().results[1], leakage=result)
    assert "unmeasured" not in frontier.draw([points[0], lost], [], None)
    curve = (np.array([0, 1.0]), np.array([0, 1.0]))
    assert "c8" in pictures.roc_loglog({f"c{i}": curve for i in range(9)}, 5)


def test_bare_numbers_and_letters_name_nobody():
    html.assert_leak_free("<p>5 persons, x (g), 700 recordings</p>", {"person": ["5", "x", "700"]})
    with pytest.raises(MienError, match="a person's id"):
        html.assert_leak_free("<p>10017</p>", {"person": ["10017"]})


def test_longer_words_are_no_leak():
    html.assert_leak_free("<p>P0171 and xP017 and P017-a</p>", {"person": ["P017"], "recording": []})


@pytest.mark.parametrize(
    ("value", "text"), [(0.7632, ".763"), (1.0, "1.00"), (-0.05, "−.050"), (1.05, "1.05"), (None, "not measured")]
)
def test_numbers(value, text):
    assert html.number(value) == text


def test_reports_round_trip_and_hide_folders(tmp_path: Path):
    report().write(tmp_path / "r.json")
    assert Report.read(tmp_path / "r.json") == report()
    assert public({"a": ["/home/x/study", "b"], "n": 3}) == {"a": ["…/study", "b"], "n": 3}
    with pytest.raises(ValueError, match="finite"):
        Result(metric="m", value=float("nan"))


def test_a_path_from_here_is_hidden_like_one_from_the_root(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dr-mueller" / "study").mkdir(parents=True)
    said = {
        "align": {"preferences": "dr-mueller/pairs.jsonl"},
        "cohort": {"path": "dr-mueller/study", "base": "owner/model"},
    }
    assert public(said) == {"align": {"preferences": "a file"}, "cohort": {"path": "…/study", "base": "owner/model"}}
    assert public({"preferences": None}) == {"preferences": None}


def test_side_by_side_has_a_column_per_release():
    told = "(7.99, 1e-05)-differential privacy for each person (add or remove one person …)"
    assert protection(told) == "ε = 7.99 per person"
    assert protection(PLAIN) == "plain, ε = ∞"
    other = report().model_copy(update={"guarantee": told, "study": "twin"})
    versus = [(protection(r.guarantee), r, None) for r in (report(), other)]
    page = html.release_html(report(), versus=versus)
    table = page[page.index("Side by side") : page.index("Results")]
    assert table.count("<th scope='col'>") == 3
    assert "ε = 7.99 per person" in table
    assert "twin" in table
    assert "Side by side" not in html.release_html(report())


def test_sound_can_be_heard_and_its_letters_are_no_id():
    import base64
    import io

    from scipy.io import wavfile

    t = np.arange(16000) / 16000
    tone = Signal(
        values=0.5 * np.sin(2 * np.pi * 220 * t)[:, None], rate_hz=16000.0, channels=("sound",), unit="full scale"
    )
    svg, players = pictures.sounds([{"voice": tone}, {}], ["calm", "<b>"], "voice")
    assert "<svg" in svg
    raw = re.search(r"base64,([A-Za-z0-9+/=]+)", players)
    assert raw
    rate, heard = wavfile.read(io.BytesIO(base64.b64decode(raw[1])))
    assert rate == 16000
    assert abs(int(np.abs(heard).max()) - 16384) < 20
    spelled = players.replace(raw[1], f"{raw[1][:40]}+S01+{raw[1][40:]}")
    html.assert_leak_free(spelled, {"person": ["S01"]})
    with pytest.raises(MienError, match="person's id"):
        html.assert_leak_free(spelled + "<p>S01</p>", {"person": ["S01"]})
    assert len(pictures.examples([{"voice": tone}], ["calm"])) < 200_000  # an envelope, not every sample


def test_the_legend_names_every_channel_though_the_first_stream_has_one():
    def signal(*channels: str) -> Signal:
        return Signal(values=np.zeros((16, len(channels))), rate_hz=8.0, channels=channels, unit="g")

    drawn = pictures.examples([{"bvp": signal("bvp"), "acc": signal("x", "y", "z")}], ["calm"])
    assert re.findall(r"<text[^>]*>([^<]*)</text>", drawn)[-3:] == ["x", "y", "z"]
    alone = pictures.examples([{"bvp": signal("bvp")}], ["calm"])
    assert ">bvp</text>" not in alone


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "name", ["identity.adapted.recognised (forest)", "across tasks, stress → moving: adapted − frozen base macro-F1"]
)
def test_long_names_leave_a_picture_its_room(name):
    """Matplotlib warns, and draws axes of no width, where labels take the whole figure."""
    r = Result(
        metric=name,
        value=0.2,
        low=0.1,
        high=0.3,
        baselines=(Baseline(name="classical features (same probe)", value=0.1),),
    )
    text = pictures.whiskers(r, name)
    assert pictures._folded(name, 24).replace("\n", " ").replace(". ", ".") == name
    assert "<svg" in text


def test_many_measures_with_one_reason_are_folded_away():
    rates = [Result(metric=f"a{i}.tpr", value=None, note="not resolvable: 5 persons") for i in range(20)]
    few = [Result(metric=f"b{i}.tpr", value=None, note="not run: no shadow models") for i in range(3)]
    page = html.release_html(report(results=(*rates, *few)))
    assert "<summary><b>20 measures</b> – not resolvable: 5 persons</summary>a0.tpr, a1.tpr" in page
    assert "<b>b0.tpr, b1.tpr, b2.tpr</b> – not run: no shadow models" in page


# --- runs that train ------------------------------------------------------------------------------------------------------
def adapted(folder: Path, made: Cohort, log: list[dict], plan, windows: int = 40) -> tuple[str, str]:
    """The two pages of an adapt run, release/ first."""
    for half in ("release", "private"):
        (folder / half).mkdir(parents=True, exist_ok=True)
    run = SimpleNamespace(release=folder / "release", private=folder / "private", name="adapt-toy-1")
    recipe = SimpleNamespace(
        backbone=SimpleNamespace(name="tiny", options={}), represent=None, train=SimpleNamespace(max_steps=20, lr=1e-3, batch=8)
    )  # fmt: skip
    split = SimpleNamespace(train=("a", "b"), holdout=("c",))
    said = report(
        verb="adapt", results=(), guarantee=PLAIN if plan is None else plan.guarantee().sentence(), not_measured=()
    )
    training.adapted(run, said, log, recipe, made, split, plan, windows)
    return (folder / "release" / "report.html").read_text(), (folder / "private" / "report.html").read_text()


@pytest.mark.parametrize("private", [False, True])
def test_what_is_released_of_training_does_not_depend_on_losses_norms_or_draws(tmp_path, cohort, private):
    plan = PrivacySpec(epsilon=8, batch=4, n=20).plan(n=19, steps=20) if private else None
    rows = [
        {"step": s, "loss": 4.5 / s, "clipped": 0.25, "median_norm": 0.1 * s, "clip_norm": 1.0, "persons": 3.7}
        for s in (5, 10, 15, 20)
    ]
    other = [{**r, "loss": 2 * r["loss"], "clipped": 0.75, "median_norm": 2.0, "persons": 4.1} for r in rows]
    page, inside = adapted(tmp_path / "one", cohort, rows, plan)
    released, within = adapted(tmp_path / "two", cohort, other, plan, windows=41)
    assert page == released
    assert inside != within
    assert "Training loss" in inside
    assert "Private:" in inside
    assert page.count("<svg") == (1 if private else 0)
    assert ("whose gradient was clipped" in inside) == private
    if private:  # who trained is told by the public constant alone
        assert "20 persons, the public constant" in page
        assert "Persons in training" not in page
    for text in (page, inside):
        found = Page(text)
        assert found.outside == []
        assert "script" not in found.tags


def test_an_id_that_is_an_ordinary_word_costs_the_page_and_not_the_training(tmp_path, cohort, monkeypatch, capsys):
    monkeypatch.setattr(Cohort, "column", lambda self, name: ["Adapter"])
    with pytest.raises(FileNotFoundError):
        adapted(tmp_path, cohort, [], None)
    assert (tmp_path / "private" / "report.html").exists()
    assert "it was not written" in capsys.readouterr().err


def test_the_page_names_the_next_command(tmp_path, cohort):
    page, _ = adapted(tmp_path, cohort, [], None)
    assert "mien generate recipes/watch/generate.yaml study=toy adapter=adapt-toy" in page
    assert training._command("generate", "watch", adapter="adapt-watch") == "mien generate recipes/watch/generate.yaml"
    for began in ("watch", "simulated"):  # an aligned adapter goes on as the one that it began with
        told = training._command("generate", "mine", f"adapt-{began}", adapter="align-mine-1")
        assert told == f"mien generate recipes/{began}/generate.yaml study=mine adapter=align-mine-1"


def aligned(folder: Path, made: Cohort, began: str, digest: str, **asked) -> str:
    """The released page of an align run."""
    for half in ("release", "private"):
        (folder / half).mkdir(parents=True, exist_ok=True)
    run = SimpleNamespace(
        release=folder / "release", private=folder / "private", name="align-mine-0123456789", inputs={"adapter": digest}
    )
    said = report(
        verb="align", study="mine", config={"align": {"adapter": began, "method": "dpo", **asked}}, not_measured=()
    )
    training.aligned(run, said, None, made)
    return (folder / "release" / "report.html").read_text()


def test_an_aligned_page_follows_the_chain_to_its_adapter(home, cohort):
    with Run.start("adapt", "simulated", {}, {}) as first:
        pass
    with Run.start("align", "once", {"adapter": "adapt-simulated"}, {"adapter": first.digest}) as once:
        pass
    with Run.start("align", "twice", {"adapter": "align-once"}, {"adapter": once.digest}) as twice:
        pass
    gone = "0" * 64
    for began, digest in (
        ("adapt-simulated", first.digest), (first.name, first.digest), ("align-twice", twice.digest), (first.name, gone),
    ):  # fmt: skip
        page = aligned(home / "page", cohort, began, digest)
        assert "mien generate recipes/simulated/generate.yaml study=mine adapter=align-mine-0123456789" in page, began
        assert "mien attack recipes/simulated/attack.yaml" in page


def test_the_page_of_a_reward_alone_tells_of_no_new_adapter(home, cohort):
    page = aligned(home, cohort, "adapt-simulated", "0" * 64, method="reward")
    assert "<h1>Reward: the study" in page
    assert "A reward was learned" in page
    for said in ("Aligned adapter", "An adapter went on", "mien attack", "This adapter was trained", "What comes next"):
        assert said not in page


def test_steps_of_several_trainers_follow_one_another():
    log = [{"step": s, "loss": float(i)} for i, s in enumerate((5, 10, 5, 10, 4))]
    assert [at for at, _ in training._points(log, "loss")] == [5, 10, 15, 20, 24]
    gaps = [{"step": 1, "loss": None}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 1.0}]
    assert training._points(gaps, "loss") == [(3.0, 1.0)]


def test_epsilon_by_step_rises_to_the_plans():
    plan = PrivacySpec(epsilon=4, batch=4).plan(n=40, steps=50)
    steps, spent = zip(*plan.spent(), strict=True)
    assert (steps[0], steps[-1]) == (1, 50)
    assert list(spent) == sorted(spent)
    assert spent[-1] == plan.guarantee().epsilon
