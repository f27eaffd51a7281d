"""What raters are shown: everything to scale, nothing that tells them what they must not know."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.alignment.preferences import ASPECTS
from mien.alignment.store import Pair
from mien.alignment.studio import mended, plan, shown
from mien.core.errors import MienError
from mien.core.records import Events, Recording, Signal, Text, Video
from mien.data import physiology
from mien.data.datasets import simulated, simulated_life

ROLES = {"pulse": "bvp", "eda": "eda", "breath": "resp", "temp": "temp", "acc": "acc"}


@pytest.fixture(scope="module")
def life() -> Recording:
    """A minute in every modality."""
    config = simulated_life.Config(persons=2, sessions=2, seconds=40)
    return simulated_life.record(simulated_life.lives(config, 0)[0], config)


def test_what_is_sent_is_the_recording_and_no_more(life):
    sent = json.loads(shown.encode(shown.show(life, ROLES)))
    text = json.dumps(sent)
    assert life.id not in text
    assert life.person not in text
    assert not {"label", "labels", "attributes", "id", "person", "session"} & set(sent)
    streams = {s["name"]: s for s in sent["streams"]}
    assert list(streams) == list(life.streams)
    for name in ("bvp", "acc", "face"):
        s = life.streams[name]
        assert isinstance(s, Signal)
        values = np.frombuffer(base64.b64decode(streams[name]["values"]), "<f4").reshape(s.values.shape)
        np.testing.assert_array_equal(values, s.values)
        assert (streams[name]["rate"], streams[name]["unit"]) == (s.rate_hz, s.unit)
    bvp = life.streams["bvp"]
    assert isinstance(bvp, Signal)
    beats = physiology.beats(bvp.values[:, 0], bvp.rate_hz)
    np.testing.assert_allclose(streams["bvp"]["marks"]["times"], beats, atol=1e-4)
    assert sent["vitals"]["heart rate"] == pytest.approx(physiology.heart(beats)["hr"], abs=1e-3)
    assert set(sent["vitals"]) == set(shown.RANGES)
    sound = streams["voice"]
    assert sound["kind"] == "sound"
    assert base64.b64decode(sound["wav"])[:4] == b"RIFF"
    picture = np.frombuffer(base64.b64decode(sound["spectrogram"]), np.uint8).reshape(sound["bands"], -1)
    assert picture.max() == 255
    assert abs(picture.shape[1] * sound["hop"] - life.streams["voice"].seconds) < 0.1
    assert len(text) < 6e6


def test_a_long_line_keeps_its_extremes():
    x = np.random.default_rng(0).normal(size=(300_000, 1)).astype(np.float32)
    x[123_456] = 50
    s = Signal(values=x, rate_hz=100.0, channels=("x",), unit="g")
    sent = shown.show(Recording(id="r", person="p", streams={"x": s}), {})["streams"][0]
    values = np.frombuffer(base64.b64decode(sent["values"]), "<f4")
    assert len(values) <= 20_000
    assert values.max() == 50
    assert values[round(1234.56 * sent["rate"]) - 2 : round(1234.56 * sent["rate"]) + 2].max() == 50
    assert len(values) / sent["rate"] == pytest.approx(3000, rel=0.001)


def test_gaps_and_absurd_streams_are_shown_as_they_are():
    valid = np.ones(240, dtype=bool)
    valid[50:60] = False
    streams = {
        "eda": Signal(values=np.ones((240, 1)), rate_hz=4.0, channels=("eda",), unit="uS", valid=valid),
        "bvp": Signal(values=np.zeros((10, 1)), rate_hz=64.0, channels=("bvp",), unit="au"),
        "voice": Signal(values=np.zeros((100, 1)), rate_hz=8000.0, channels=("v",), unit="full scale"),
        "calls": Events(times_s=np.array([]), durations_s=np.array([]), codes=np.array([]), kinds=("in",), seconds=60),
        "said": Text(
            times_s=np.array([1.0]), ends_s=np.array([2.0]), text=("</script><b>",), speakers=("x",), seconds=60
        ),
        "camera": Video(frames=np.zeros((300, 40, 60, 3), np.uint8), rate_hz=30.0),
    }
    sent = shown.encode(shown.show(Recording(id="r", person="p", streams=streams), ROLES))
    assert b"<" not in sent
    back = {s["name"]: s for s in json.loads(sent)["streams"]}
    values = np.frombuffer(base64.b64decode(back["eda"]["values"]), "<f4")
    np.testing.assert_array_equal(np.isnan(values), ~valid)
    assert "marks" not in back["eda"]
    assert back["bvp"]["marks"]["times"] == []
    assert back["said"]["text"] == ["</script><b>"]
    assert len(back["camera"]["pictures"]) <= 120
    assert json.loads(sent)["vitals"] == {}


def test_every_range_has_a_source_and_fits_its_scale():
    for name, r in shown.RANGES.items():
        assert r.least <= r.low < r.high <= r.most, name
        assert len(r.source) > 10


def test_the_docs_name_every_key_and_aspect_of_the_page():
    root = Path(plan.__file__).parents[2]
    page, script = ((root / "alignment" / "studio" / f"page.{kind}").read_text() for kind in ("html", "js"))
    docs = (root / "docs" / "feedback.md").read_text().replace("\n", " ")
    keys = re.findall(r"<kbd>(.*?)</kbd>", page.split('<dl class="keys">')[1].split("</dl>")[0])
    assert len(keys) > 15
    assert [k for k in keys if f"`{k.replace('−', '-')}`" not in docs] == []
    aspects = re.findall(r'"(.*?)"', script.split("const ASPECTS = {")[1].split("}")[0])
    assert len(aspects) == len(ASPECTS)
    said = {
        "Could be": "could it be",
        "Fits": "does it fit",
        "Body signals are": "are the body signals",
        "Streams": "do the streams",
    }
    for aspect in aspects:
        first, question = next((a, q) for a, q in said.items() if aspect.startswith(a))
        assert aspect.replace(first, question) in docs


# --- corrections -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def wrist() -> Recording:
    config = simulated.Config(persons=2, sessions=2, seconds=60)
    return simulated.record(simulated.sessions(config, 0)[0], config)


@settings(max_examples=15, deadline=None)
@given(which=st.integers(1, 30), share=st.floats(-0.25, 0.25))
def test_a_beat_goes_where_it_was_dragged_and_the_rest_stays(wrist, which, share):
    beats = shown.marks(wrist, ROLES)["bvp"].times
    gap = beats[which + 1] - beats[which] if share > 0 else beats[which] - beats[which - 1]
    to = beats[which] + share * gap
    made = mended.corrected(wrist, "bvp", "beat", [[which, to, 0]], ROLES, "corrected-1")
    after = shown.marks(made, ROLES)["bvp"].times
    assert len(after) == len(beats)
    wanted = beats.copy()
    wanted[which] = to
    np.testing.assert_allclose(after, wanted, atol=0.03)
    old, new = wrist.streams["bvp"], made.streams["bvp"]
    assert isinstance(old, Signal)
    assert isinstance(new, Signal)
    t = np.arange(len(old.values)) / old.rate_hz
    far = (t < beats[which - 1]) | (t > beats[which + 1])
    np.testing.assert_allclose(new.values[far], old.values[far], atol=1e-5)
    assert (made.id, made.person) == ("corrected-1", "corrected-1")
    assert all(made.streams[n] is s for n, s in wrist.streams.items() if n != "bvp")


def test_a_response_moves_and_grows():
    t = np.arange(60 * 4) / 4

    def response(at: float) -> np.ndarray:
        return np.where(t < at, np.exp(-(((t - at) / 0.8) ** 2)), np.exp(-(t - at) / 4))

    eda = 5 + 0.3 * response(20) + 0.3 * response(40)
    r = Recording(
        id="r", person="p", streams={"eda": Signal(values=eda[:, None], rate_hz=4.0, channels=("eda",), unit="uS")}
    )
    before = shown.marks(r, ROLES)["eda"]
    assert len(before.times) == 2
    made = mended.corrected(r, "eda", "scr", [[0, before.times[0] + 3, 0.4]], ROLES, "c")
    after = shown.marks(made, ROLES)["eda"]
    np.testing.assert_allclose(after.times, before.times + np.array([3.0, 0.0]), atol=0.5)
    assert after.heights[0] == pytest.approx(before.heights[0] + 0.4, abs=0.08)
    assert after.heights[1] == pytest.approx(before.heights[1], abs=0.02)
    gone = mended.corrected(r, "eda", "scr", [[0, before.times[0], -9.0]], ROLES, "c")
    np.testing.assert_allclose(shown.marks(gone, ROLES)["eda"].times, before.times[1:], atol=0.1)
    same = mended.corrected(r, "eda", "scr", [], ROLES, "c").streams["eda"]
    assert isinstance(same, Signal)
    np.testing.assert_allclose(same.values[:, 0], eda, atol=1e-5)


@pytest.mark.parametrize(
    ("stream", "kind", "moves", "told"),
    [
        ("bvp", "scr", [], "nothing of kind"), ("temp", "beat", [], "nothing of kind"), ("none", "beat", [], "nothing of"),
        ("bvp", "beat", [[9999, 1.0, 0]], "no beat number"), ("bvp", "beat", [[5, 0.0, 0]], "pass its neighbour"),
        ("bvp", "beat", [[0, -1.0, 0]], "leave the recording"), ("bvp", "beat", [[0, 1e6, 0]], "neighbour|leave"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(stream, kind, moves, told, wrist):
    with pytest.raises(MienError, match=told):
        mended.corrected(wrist, stream, kind, moves, ROLES, "c")


def test_the_nearest_place_that_the_page_allows_is_allowed(wrist):
    """The page knows times, and says them, to a tenth of a millisecond."""
    told = [round(t, 4) for t in shown.marks(wrist, ROLES)["bvp"].times.tolist()]
    for i, after in enumerate(told[1:]):
        mended.corrected(wrist, "bvp", "beat", [[i, round(after - mended.NEAREST_S["beat"], 4), 0]], ROLES, "c")
    with pytest.raises(MienError, match="pass its neighbour"):
        mended.corrected(wrist, "bvp", "beat", [[5, told[6] - mended.NEAREST_S["beat"] + 0.001, 0]], ROLES, "c")


def test_a_broken_recording_is_plainly_broken(life):
    made = mended.broken(life, np.random.default_rng(0), "broken:x")
    for name, s in life.streams.items():
        other = made.streams[name]
        assert s.seconds == other.seconds
        if isinstance(s, Signal) and isinstance(other, Signal):
            np.testing.assert_array_equal(np.sort(s.values, 0), np.sort(other.values, 0))
            assert not np.array_equal(s.values, other.values)
    rmssd = [shown.show(r, ROLES)["vitals"].get("RMSSD", np.inf) for r in (life, made)]
    assert rmssd[1] > 1.5 * rmssd[0]


# --- pairs, order, sides -----------------------------------------------------------------------------------
DECKS = {"calm": [f"s{i}" for i in range(12)], "stress": [f"t{i}" for i in range(9)]}


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 66 + 36), seed=st.integers(0, 99))
def test_pairs_are_of_one_label_and_never_the_same(n, seed):
    pairs = plan.choose(DECKS, n, seed)
    assert len({frozenset((p.a, p.b)) for p in pairs}) == n == len({p.id for p in pairs})
    assert all(p.a in DECKS[p.label] and p.b in DECKS[p.label] for p in pairs)
    assert pairs == plan.choose(DECKS, n, seed)
    if n <= 40:
        count = Counter(p.label for p in pairs)
        assert abs(count["calm"] - count["stress"]) <= 1


def test_too_many_pairs_are_refused():
    with pytest.raises(MienError, match="the cohort gives 102"):
        plan.choose(DECKS, 103, 0)


def test_checks_are_added_and_look_like_the_others():
    pairs = plan.choose(DECKS, 60, 0)
    every = plan.with_checks(pairs, plan.Checks(repeats=0.1, controls=0.05), 0)
    assert every[:60] == pairs
    again = [p for p in every if p.kind == "repeat"]
    control = [p for p in every if p.kind == "control"]
    assert (len(again), len(control)) == (6, 3)
    assert {p.again for p in again} <= {p.id for p in pairs}
    assert all(p.b == plan.BROKEN + p.a for p in control)
    assert len({len(p.id) for p in every}) == 1
    assert not any(word in p.id for p in every for word in ("real", "broken", "again"))
    real = plan.with_checks(pairs, plan.Checks(control="real"), 0, {"calm": ["w1", "w2", "w3"]})[-3:]
    assert all(p.private and p.a.startswith("real:") for p in real)
    six = {"calm": ["w1", "w2", "w3", "w4"]}
    every = plan.with_checks(pairs, plan.Checks(control="real"), 0, six) + plan.with_checks(
        pairs, plan.Checks(control="real"), 0, six, 3
    )
    assert len({frozenset((p.a, p.b)) for p in every if p.private}) == 6
    with pytest.raises(MienError, match="the cohort gives 0"):
        plan.with_checks(pairs, plan.Checks(control="real"), 0, {})


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 50), rater=st.sampled_from(["ann", "bob", "cy"]))
def test_a_pair_comes_again_later_with_its_sides_swapped(seed, rater):
    pairs = plan.with_checks(plan.choose(DECKS, 40, seed), plan.Checks(repeats=0.2), seed)
    shown_to = plan.order(pairs, rater, b"key")
    assert sorted(p.id for p, _ in shown_to) == sorted(p.id for p in pairs)
    place = {p.id: i for i, (p, _) in enumerate(shown_to)}
    sides = {p.id: side for p, side in shown_to}
    for p in pairs:
        if p.again:
            assert place[p.id] >= place[p.again] + 10
            assert sides[p.id] != sides[p.again]
    assert shown_to == plan.order(pairs, rater, b"key")
    more = [*pairs, Pair(id="new", a="x", b="y")]
    assert all(plan.side(p, rater, b"key") == sides[p.id] for p in more[:-1])


def test_sides_are_even_and_raters_differ():
    pairs = [Pair(id=f"p{i}", a=f"a{i}", b=f"b{i}") for i in range(2000)]
    left = {r: [plan.side(p, r, b"key") == "a" for p in pairs] for r in ("ann", "bob")}
    assert abs(np.mean(left["ann"]) - 0.5) < 0.05
    assert 0.45 < np.mean(np.equal(left["ann"], left["bob"])) < 0.55
    assert [p.id for p, _ in plan.order(pairs, "ann", b"key")] != [p.id for p, _ in plan.order(pairs, "bob", b"key")]


def test_one_pair_and_none():
    assert plan.order([], "ann", b"k") == []
    one = plan.with_checks(plan.choose({"": ["x", "y"]}, 1, 0), plan.Checks(), 0)
    assert [p.kind for p in one] == ["pair", "repeat", "control"]
    assert [p.kind for p, _ in plan.order(one, "ann", b"k") if p.kind != "control"] == ["pair", "repeat"]
