"""The studio's page in a real browser: by keyboard, by pointer, on a phone, with a wrong link, without a server."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mien.alignment.store import Store
from mien.alignment.studio import mended, offline, shown
from mien.core.errors import MienError

from . import invented
from .studio_process import Running

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Ten pairs, and one of them again and one control, of short recordings."""
    raters = ("--raters", "ann", "bob", "cy", "dee", "eve", "fay")
    made = Running(tmp_path_factory.mktemp("plain"), ("--kind", "noise", "--pairs", "10", *raters)).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def wrist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(
        tmp_path_factory.mktemp("wrist"), ("--kind", "wrist", "--pairs", "6", "--raters", "ann", "bob", "cy", "dee")
    ).start()
    yield made
    made.stop()


def says(page: Any, name: str, pattern: str) -> None:
    """Wait until the element of this id says something that the pattern is found in. (Playwright's wait_for_function evaluates
    a string, which the page's own policy forbids.)"""
    from playwright.sync_api import expect

    expect(page.locator(f"#{name}")).to_have_text(re.compile(pattern), timeout=60_000)
    page.wait_for_selector("#rate:not([aria-busy=true])", state="attached")  # and what it says of is shown


class Window:
    """One browser window of its own, whose page may say nothing to the console."""

    def __init__(self, browser: Any, **context: Any):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
        self.context.set_default_timeout(60_000)
        self.page, self.trouble = self.context.new_page(), []
        self.page.on("console", lambda m: self.trouble.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.trouble.append(str(e)))

    def open(self, url: str) -> Window:
        self.page.goto(url)
        self.page.wait_for_selector("#rate:not([hidden])")
        return self

    def press(self, *keys: str) -> None:
        for key in keys:  # none is heard while an answer is on its way or a pair is still being fetched
            self.page.wait_for_selector("#rate:not([aria-busy=true])", state="attached")
            self.page.keyboard.press(key)

    def count(self, text: str) -> None:
        """Wait until the progress says so."""
        says(self.page, "count", f"^{re.escape(text)}$")

    def close(self) -> None:
        assert self.trouble == []
        self.context.close()


def said(studio: Running, rater: str) -> list[Any]:
    with Store.open(studio.folder / "feedback.sqlite") as store:
        return [answer for _, _, answer, _ in store.standing(rater)]


def test_ten_pairs_by_keyboard_reload_undo_and_download(browser, plain):
    w = Window(browser, accept_downloads=True).open(plain.page("ann"))
    w.count("0 of 12")
    for i in range(10):
        w.press("abtn"[i % 4], str(1 + i % 5))
        if i == 3:
            w.press("c")
            w.page.keyboard.type("A 1 u <b>x</b>")  # keys that mean something elsewhere
            w.press("Escape")
        w.press("Enter")
        w.count(f"{i + 1} of 12")
    w.page.reload()
    w.count("10 of 12")
    w.press("u")
    w.count("9 of 12")
    assert w.page.is_checked("input[name=choice][value=right]")  # what the tenth answer was
    assert w.page.is_checked("input[name=sure][value='5']")
    w.press("t", "Enter")
    w.count("10 of 12")
    with w.page.expect_download() as download:
        w.page.click("#mine")
    lines = [json.loads(x) for x in Path(download.value.path()).read_text().splitlines()]
    assert [x["choice"] for x in lines[:4]] == ["left", "right", "tie", "both_bad"]
    assert lines[3]["comment"] == "A 1 u <b>x</b>"
    assert lines[9]["choice"] == "tie"
    answers = said(plain, "ann")
    assert len(answers) == 10
    assert [a.confidence for a in answers[:5]] == [1, 2, 3, 4, 5]
    assert answers[0].choice == ("A" if answers[0].side == "a" else "B")
    for i in range(2):
        w.press("a", "Enter")
        w.count(f"{11 + i} of 12")
    w.page.wait_for_selector("#message:not([hidden])")
    assert "All done" in w.page.inner_text("#message")
    w.press("u")
    w.count("11 of 12")
    w.close()


def test_a_wrong_link_says_what_to_do(browser, plain):
    for tail in ("/#seat=wrong", "/", "/#"):
        w = Window(browser)
        w.page.goto(plain.url + tail)
        w.page.wait_for_selector("#message:not([hidden])")
        assert "opens no seat" in w.page.inner_text("#message h1")
        assert "new link" in w.page.inner_text("#message")
        assert not w.page.is_visible("#rate")
        assert not w.page.is_visible("#answer")
        w.context.close()


def test_two_raters_see_nothing_of_one_another(browser, plain):
    one, two = Window(browser).open(plain.page("bob")), Window(browser).open(plain.page("cy"))
    for i in range(3):
        one.press("a", "Enter")
        one.count(f"{i + 1} of 12")
    two.press("b", "Enter")
    two.count("1 of 12")
    two.page.reload()
    two.count("1 of 12")
    assert "bob" not in two.page.content()
    assert (len(said(plain, "bob")), len(said(plain, "cy"))) == (3, 1)
    one.close()
    two.close()


def test_a_draft_survives_a_reload_and_an_answer_the_studios_death(browser, plain):
    w = Window(browser).open(plain.page("dee"))
    w.press("b", "5", "c")
    w.page.keyboard.type("half a thought")
    w.page.reload()
    w.page.wait_for_selector("#rate:not([hidden])")
    assert w.page.is_checked("input[name=choice][value=right]")
    assert w.page.input_value("#comment") == "half a thought"
    plain.stop(signal.SIGKILL)
    w.press("Enter")
    w.page.wait_for_selector("#banner:not([hidden])")
    assert "kept here" in w.page.inner_text("#banner")
    plain.start()
    w.count("1 of 12")
    assert not w.page.is_visible("#banner")
    (answer,) = said(plain, "dee")
    assert answer.comment == "half a thought"
    w.context.close()  # a refused connection is told to the console, which is fine here


def test_everything_is_reached_by_keyboard_and_has_a_name(browser, wrist):
    w = Window(browser).open(wrist.page("ann"))
    w.press("a")  # without a choice there is nothing to go on with
    seen = set()
    for _ in range(80):
        w.press("Tab")
        about = w.page.evaluate(
            """() => { const e = document.activeElement; const l = e.labels && e.labels[0];
            const name = e.getAttribute('aria-label') || (l && l.textContent) || e.textContent || e.title;
            const set = e.closest('fieldset'); const shown = e.matches('input[type=radio]') ? e.nextElementSibling : e;
            return [e.tagName, e.name || e.id, name.trim(), getComputedStyle(shown).outlineStyle,
                    set ? set.querySelector('legend').textContent : '']; }"""
        )
        tag, key, name, outline, _ = about
        if tag == "BODY":  # the round begins again with what stands before the first pair
            continue
        assert name, about
        assert outline != "none", about
        seen.add(key or name)
    for key in (
        "choice",
        "sure",
        "mode",
        "play",
        "in",
        "out",
        "fit",
        "comment",
        "note-left",
        "next",
        "mine",
        "help-open",
    ):
        assert key in seen, key
    assert sum(1 for x in seen if x.startswith("Pulse wave of")) == 2
    names = w.page.evaluate("[...document.querySelectorAll('#lanes canvas')].map(c => c.getAttribute('aria-label'))")
    assert any("heartbeats detected" in n for n in names)
    rows = w.page.evaluate("document.querySelectorAll('#vitals .vital:not(.head)').length")
    assert rows == len(shown.RANGES)
    w.close()


def pixel(page: Any, name: str, side: int, t: float, height: float) -> tuple[float, float]:
    """Where second t of a stream's lane is on the screen."""
    box = page.evaluate(
        """([name, side]) => { const named = (c) => c.getAttribute('aria-label').startsWith(name);
        const c = [...document.querySelectorAll('#lanes canvas')].filter(named)[side];
        c.scrollIntoView({block: 'center'}); const b = c.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }""",
        [name, side],
    )
    return box[0] + 46 + t / 60 * (box[2] - 52), box[1] + height * box[3]


def drag(page: Any, start: tuple[float, float], *on: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    for point in on:
        page.mouse.move(*point, steps=6)
    page.mouse.up()


def past_controls(w: Any, studio: Running) -> int:
    """Answer what comes first until an ordinary pair is there; how many that were. The order is drawn anew for each study."""
    with Store.open(studio.folder / "feedback.sqlite") as store:
        kinds = {p.id: p.kind for p in store.pairs()}
    for n in range(len(kinds)):
        first = w.page.evaluate(
            "async () => (await (await fetch('api/seat', {headers: {'X-Seat': location.hash.slice(6)}})).json()).upcoming[0].pair"
        )
        if kinds[first] == "pair":
            return n
        w.press("t", "Enter")
        says(w.page, "count", f"^{n + 1} of")
        w.page.wait_for_selector("#rate:not([hidden]):not([aria-busy=true])")
    raise AssertionError("no ordinary pair")


def test_marking_and_correcting_by_pointer_and_by_key(browser, wrist):
    w = Window(browser).open(wrist.page("bob"))
    page = w.page
    done = past_controls(w, wrist)
    w.press("m")
    drag(page, pixel(page, "Breathing", 0, 20, 0.5), pixel(page, "Breathing", 0, 30, 0.6))
    assert "Breathing: wrong from" in page.inner_text("#told-left")
    w.press("m")
    sent = page.evaluate(
        """async () => { const s = await (await fetch('api/seat', {headers: {'X-Seat': location.hash.slice(6)}})).json();
        const r = await (await fetch(`api/recording/${s.upcoming[0].pair}/right`, {headers: {'X-Seat': location.hash.slice(6)}})).json();
        return r.streams.find(x => x.name === 'bvp').marks.times; }"""
    )
    beat = next(i for i, t in enumerate(sent) if t > 25)
    x, y = pixel(page, "Pulse wave", 1, sent[beat], 0.04)
    drag(page, (x, y), (x + 5, y), (x + 2, y))  # further than a click's tremble, and back: its neighbour is near
    page.evaluate(
        "[...document.querySelectorAll('#lanes canvas')].filter(c => c.getAttribute('aria-label').startsWith('Pulse wave'))[1].focus()"
    )
    w.press("ArrowRight", "ArrowRight")
    assert "1 moved" in page.inner_text("#told-right")
    page.check("#advice input[name=rating-left][value='2']", force=True)
    page.fill("#note-right", "slower <i>breath</i>")
    page.check("input[name=aspect-physiology][value=left]", force=True)
    page.click("#count")
    w.press("a", "Enter")
    says(w.page, "count", f"^{done + 1} of")
    with Store.open(wrist.folder / "feedback.sqlite") as store:
        advice = {d.advice.kind: d.advice for d in store.advice("bob")}
        pair = next(p for p in store.pairs() if p.id == advice["region"].pair)
        corrections = [p for p in store.preferences() if p.kind == "correction"]
    assert set(advice) == {"region", "correction", "rating", "instruction"}
    assert advice["region"].body["stream"] == "resp"
    assert advice["region"].body["start"] == pytest.approx(20, abs=0.3)
    assert advice["region"].body["end"] == pytest.approx(30, abs=0.3)
    assert advice["instruction"].body == {"text": "slower <i>breath</i>"}
    ((number, to, _),) = advice["correction"].body["moves"]
    assert number == beat
    assert to > sent[beat] + 0.03
    assert advice["region"].recording != advice["correction"].recording
    assert {advice["region"].recording, advice["correction"].recording} == {pair.a, pair.b}
    assert (corrections[0].b, corrections[0].choice) == (advice["correction"].recording, "A")
    study, _ = invented.study(wrist.folder, "wrist", 6, ["bob"])
    body = advice["correction"].body
    made = mended.corrected(
        study.recording(corrections[0].b), body["stream"], body["mark"], body["moves"], study.roles, "c"
    )
    assert shown.marks(made, study.roles)["bvp"].times[beat] == pytest.approx(to, abs=0.05)
    w.press("u")
    says(w.page, "count", f"^{done} of")
    assert page.is_checked("input[name=aspect-physiology][value=left]")
    assert "said before" in page.inner_text("#told-left")
    w.close()


def test_what_the_studio_refuses_it_says_until_it_is_mended(browser, plain):
    w, later = Window(browser), []
    seen: list[str] = []
    w.page.route("**/api/recording/*/*", lambda r: later.append(r) if len(seen) > 2 else r.continue_())
    w.page.on("request", lambda r: seen.append(r.url) if "/api/recording/" in r.url else None)
    w.open(plain.page("fay"))
    w.page.route("**/api/answer", lambda r: r.fulfill(status=409, json={"error": "not like this"}), times=1)
    w.press("a", "Enter")
    w.page.wait_for_selector("#banner:not([hidden])")
    for _ in range(500):  # the next pair, fetched ahead of time
        w.page.wait_for_timeout(0 if len(later) == 2 else 20)
    assert len(later) == 2
    for route in later:
        with w.page.expect_response("**/api/recording/*/*"):
            route.continue_()
    w.page.wait_for_timeout(100)
    assert "not like this" in w.page.inner_text("#banner")
    w.press("Enter")  # the answer was kept
    w.count("1 of 12")
    assert w.page.is_hidden("#banner")
    assert [x for x in w.trouble if "409" not in x] == []
    w.context.close()


def test_who_is_recognised_is_hidden_after_asking(browser, plain):
    w = Window(browser).open(plain.page("eve"))
    w.page.click(".say.a .recognise")
    w.page.click("#recognise button[value=no]")
    w.count("0 of 12")
    w.page.click(".say.a .recognise")
    w.page.click("#recognise button[value=yes]")
    says(w.page, "count", "^(?!0 of 12$)")
    with Store.open(plain.folder / "feedback.sqlite") as store:
        assert len(store.blocked()) == 1
    w.close()


def test_whom_a_rater_recognises_is_never_lost(browser, plain):
    """Neither while an answer is in flight, nor where nothing gets through and the page is closed before it does."""
    w = Window(browser).open(plain.page("eve"))

    def recognise() -> set[str]:
        w.page.click(".say.a .recognise")
        w.page.click("#recognise button[value=yes]")
        w.page.wait_for_timeout(1000)
        with Store.open(plain.folder / "feedback.sqlite") as store:
            return set(store.blocked())

    with Store.open(plain.folder / "feedback.sqlite") as store:
        before, answers = set(store.blocked()), len(store.standing("eve"))
    w.page.route("**/api/answer", lambda r: r.abort())
    w.press("a", "Enter")
    w.page.wait_for_selector("#banner:not([hidden])")
    first = recognise()
    assert len(first - before) == 1
    w.page.unroute("**/api/answer")
    says(w.page, "count", f"^{answers + 1} of")
    assert len(said(plain, "eve")) == answers + 1
    w.page.route("**/api/advice", lambda r: r.abort())
    assert recognise() == first
    assert "kept here" in w.page.inner_text("#banner")
    w.page.unroute("**/api/advice")
    w.page.goto("about:blank")
    w.open(plain.page("eve"))
    says(w.page, "count", f"^{answers + 1} of")
    with Store.open(plain.folder / "feedback.sqlite") as store:
        assert len(store.blocked() - first) == 1
    assert w.page.evaluate("Object.keys(localStorage)") == []
    w.context.close()  # what did not get through is told to the console


def test_hundredths_of_a_degree_do_not_fill_a_lane(browser, wrist):
    """Where B has no temperature, A's stands on a scale of a degree at the least."""
    w = Window(browser)

    def without(route: Any) -> None:
        sent = (answer := route.fetch()).json()
        sent["streams"] = [s for s in sent["streams"] if s["name"] != "temp"]
        route.fulfill(response=answer, json=sent)

    w.page.route("**/api/recording/*/right", without)
    w.open(wrist.page("cy"))
    label, share = w.page.evaluate(
        """() => { const named = c => c.getAttribute('aria-label').startsWith('Skin temperature of A');
        const c = [...document.querySelectorAll('#lanes canvas')].find(named), rows = [];
        const {data} = c.getContext('2d').getImageData(0, 0, c.width, c.height);
        for (let y = 0; y < c.height; y++) for (let x = c.width >> 2; x < c.width; x++) { const i = 4 * (y * c.width + x);
          if (Math.abs(data[i] - data[i + 2]) > 90) { rows.push(y); break; } }
        return [c.getAttribute('aria-label'), (rows.at(-1) - rows[0]) / c.height]; }"""
    )
    low, high = (float(x) for x in re.findall(r"\d+\.\d+", label))
    assert high - low < 0.5
    assert 0 < share < (high - low) + 0.15
    w.page.unroute_all(behavior="ignoreErrors")  # the next pair is fetched ahead of time, and may be half-way
    w.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_is_wide_enough_and_colours_can_be_told(browser, wrist, scheme):
    w = Window(browser, viewport={"width": 390, "height": 780}, has_touch=True, color_scheme=scheme).open(
        wrist.page("cy")
    )
    page = w.page
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    small = page.evaluate(
        """[...document.querySelectorAll('#answer label, #answer button, #play')].filter(e => { const b = e.getBoundingClientRect();
        return b.height < 36 || b.width < 34; }).map(e => e.textContent)"""
    )
    assert small == []
    ratio = page.evaluate(
        """() => { const v = (k) => getComputedStyle(document.documentElement).getPropertyValue(k).trim();
        const light = (hex) => { const n = hex.length === 4 ? [...hex.slice(1)].map(x => x + x) : hex.slice(1).match(/../g);
          const c = n.map(x => parseInt(x, 16) / 255).map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
          return .2126 * c[0] + .7152 * c[1] + .0722 * c[2]; };
        const of = (p, q) => { const [a, b] = [light(v(p)), light(v(q))].sort((x, y) => y - x); return (a + .05) / (b + .05); };
        return Math.min(...['--ink', '--soft', '--a', '--b', '--wrong', '--c3'].map(k => of(k, '--card'))); }"""
    )
    assert ratio >= 4.5  # WCAG 2.1, level AA
    page.tap("input[name=choice][value=tie]")
    page.tap("#next")
    says(page, "count", "^1 of")
    page.click("#undo")
    says(page, "count", "^0 of")
    w.close()


def test_a_finger_drags_a_response_up_and_what_is_broken_off_is_undone(browser, wrist):
    w = Window(browser, viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True).open(wrist.page("dee"))
    page = w.page
    w.press("m", "m")
    side, times = page.evaluate(
        """async () => { const how = {headers: {'X-Seat': location.hash.slice(6)}};
        const {pair} = (await (await fetch('api/seat', how)).json()).upcoming[0];
        for (const side of ['left', 'right']) {
          const r = await (await fetch(`api/recording/${pair}/${side}`, how)).json(), s = r.streams.find(x => x.name === 'eda');
          if (s.marks.times.length) return [side, s.marks.times]; } }"""
    )
    finger = w.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        at = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        finger.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": at})
        page.wait_for_timeout(30)

    def lift(end: str, by: int = 5) -> float:
        """A finger on the response goes up; by how much the page scrolled."""
        x, y = pixel(page, "Skin conductance", ("left", "right").index(side), times[len(times) // 2], 0.5)
        before = page.evaluate("scrollY")
        touch("Start", (x, y))
        for i in range(1, 10):
            touch("Move", (x, y - i * by))
        touch(end)
        page.wait_for_timeout(300)
        return page.evaluate("scrollY") - before

    assert lift("Cancel") == 0
    assert page.inner_text(f"#told-{side}") == ""
    assert lift("End") == 0
    assert "1 moved" in page.inner_text(f"#told-{side}")
    moves = "Object.values(JSON.parse(Object.values(sessionStorage)[0]).moves).flatMap(m => Object.values(m))"
    first = page.evaluate(moves)
    assert next(iter(first[0].values()))[1] > 0
    lift("Cancel", 2)
    assert page.evaluate(moves) == first
    w.close()


def test_the_head_of_a_page_in_a_file_fits_a_phone(browser, tmp_path):
    study, _ = invented.study(tmp_path, "noise", 10, ["ann"])
    (file,) = offline.write_pages(study, ["ann"], tmp_path / "page.html")
    w = Window(browser, viewport={"width": 360, "height": 780}, offline=True).open(file.as_uri())
    boxes = w.page.evaluate(
        """() => [...document.querySelectorAll('header .brand, #count, header .tools button')].map(e => e.getBoundingClientRect())
        .filter(r => r.width).map(r => [r.left, r.right, r.height])"""
    )
    assert len(boxes) >= 5
    assert all(a[1] <= b[0] for a, b in pairwise(sorted(boxes)))
    assert max(b[1] for b in boxes) <= 360
    assert max(b[2] for b in boxes) < 50  # one line each
    w.close()


def test_a_page_in_a_file_hides_all_of_whom_is_recognised(browser, tmp_path):
    """A recording in pieces and the one that it was made of are the same person."""
    raters = [f"rater-{i}" for i in range(12)]
    study, _ = invented.study(tmp_path, "noise", 10, raters)
    done, hidden, side, file = 0, 0, "", tmp_path
    for file in offline.write_pages(study, raters, tmp_path / "page.html"):  # the order is drawn anew for each of them
        data = json.loads(file.read_text().split('id="data">')[1].split("</script>")[0])
        pairs, of = data["pairs"], data["of"]
        done = next(i for i, p in enumerate(pairs) if of[p["left"]] == of[p["right"]])
        shown_in = Counter(p[side] for p in pairs for side in ("left", "right"))
        side = min(("left", "right"), key=lambda s: shown_in[pairs[done][s]])  # the one in pieces: it is nowhere else
        hidden = sum(of[pairs[done][side]] in (of[p["left"]], of[p["right"]]) for p in pairs[done:])
        if hidden > 1 and done < 6:
            break
    assert hidden > 1
    w = Window(browser, offline=True).open(file.as_uri())
    for i in range(done):
        w.press("a", "Enter")
        w.count(f"{i + 1} of 12")
    w.page.click(f".say.{'a' if side == 'left' else 'b'} .recognise")
    w.page.click("#recognise button[value=yes]")
    w.count(f"{done} of {12 - hidden}")
    w.close()


def test_a_page_in_a_file_keeps_saves_and_loads(browser, tmp_path):
    study, _ = invented.study(tmp_path, "noise", 10, ["ann"])
    (file,) = offline.write_pages(study, ["ann"], tmp_path / "page.html")
    w = Window(browser, accept_downloads=True, offline=True).open(file.as_uri())
    for i in range(3):
        w.press("a", "Enter")
        w.count(f"{i + 1} of 12")
    w.press("u")
    w.count("2 of 12")
    w.press("n", "c")
    w.page.keyboard.type("</script><script>alert(1)</script>")
    w.press("Escape", "Enter")
    w.count("3 of 12")
    w.page.reload()
    w.count("3 of 12")
    with w.page.expect_download() as download:
        w.page.click("#file")
    saved = tmp_path / "answers.jsonl"
    download.value.save_as(saved)
    w.close()
    other = Window(browser).open(file.as_uri())
    other.count("0 of 12")
    other.page.set_input_files("#picker", saved)
    other.count("3 of 12")
    older = [{k: v for k, v in json.loads(x).items() if k != "seal"} for x in saved.read_text().splitlines()]
    (tmp_path / "older.jsonl").write_text("\n".join(map(json.dumps, older)))
    with pytest.raises(MienError, match="load this file in it"):
        offline.take(study, tmp_path / "older.jsonl")
    third = Window(browser, accept_downloads=True).open(file.as_uri())
    third.page.set_input_files("#picker", tmp_path / "older.jsonl")
    third.count("3 of 12")
    with third.page.expect_download() as download:
        third.page.click("#file")
    assert Path(download.value.path()).read_text().count('"seal"') == len(older)
    third.close()
    (tmp_path / "foreign.jsonl").write_text(saved.read_text().replace('"ann"', '"bob"'))
    other.page.set_input_files("#picker", tmp_path / "foreign.jsonl")
    says(other.page, "status", "another rater")
    other.close()
    assert offline.take(study, saved) == {"answer": 4, "undo": 1}
    answers = [a for _, _, a, _ in study.store.standing("ann")]
    assert [a.choice for a in answers][2] == "both_bad"
    assert answers[2].comment == "</script><script>alert(1)</script>"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lab", "days"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_modality_is_drawn_and_played(browser, tmp_path, kind, width):
    studio = Running(tmp_path, ("--kind", kind, "--pairs", "4")).start()
    w = Window(browser, viewport={"width": width, "height": 800}).open(studio.page("ann"))
    page = w.page
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.wait_for_timeout(500)
    empty = page.evaluate(
        """[...document.querySelectorAll('#lanes canvas, .actor:not([hidden]) canvas')].filter(c => {
        const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        for (let i = 3; i < d.length; i += 4) if (d[i]) return false; return true; }).length"""
    )
    assert empty == 0
    before = page.inner_text("#clock")
    page.click("#play")
    page.wait_for_timeout(1500)
    assert page.inner_text("#clock") != before
    page.click("#play")
    w.press("b", "Enter")
    says(page, "count", "^1 of")
    w.close()
    studio.stop()
