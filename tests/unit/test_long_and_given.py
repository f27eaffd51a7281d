"""Recordings longer than a window, and recordings made from ones that are given."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from mien.backbones import tiny
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import Cohort, CohortCard, Events, Recording, Signal, StreamSpec, Text
from mien.data import physiology
from mien.data.datasets import simulated
from mien.data.splits import Splits
from mien.generation import given, sample, stitch
from mien.generation.grammar import constrain
from mien.generation.layout import Layout
from mien.generation.vocabulary import MADE, PAD, RELATION_0

CARD = CohortCard(
    name="all", licence="invented", consent="invented", tasks={"stress": ("calm", "stress")},
    streams={n: simulated.STREAMS[n] for n in ("bvp", "resp", "eda")}
    | {
        "calls": StreamSpec(channels=("in", "out"), kind="events"),
        "diary": StreamSpec(channels=("participant",), kind="text"),
    },
)  # fmt: skip
CODECS = [
    Plugin(name="beats", streams=["bvp", "resp"]), Plugin(name="eda", streams=["eda"]),
    Plugin(name="events", streams=["calls"], most=4), Plugin(name="text", streams=["diary"], most=8, utterances=2),
]  # fmt: skip
SHAPE = tiny.Shape(hidden=32, layers=1, heads=2, feed_forward=48)


def layout(conditioned=True) -> Layout:
    return Layout.of(
        CARD, seconds=20, task="stress", codec=Plugin(name="transform"), codecs=CODECS, conditioned=conditioned
    )


@dataclass
class Backbone:
    own_ids: object


@dataclass
class Adapted:
    model: object
    layout: Layout
    backbone: Backbone


@pytest.fixture(scope="module")
def adapted():
    lay = layout()
    model = constrain(tiny.fresh(SHAPE, lay.vocabulary.size, 0), lay.grammar, 0)
    return Adapted(model, lay, Backbone(lambda ids: ids))


def people(persons=4) -> list[Recording]:
    config = simulated.Config(persons=persons, sessions=2, seconds=60, seed=3)
    out = []
    for p in range(persons):
        for s in simulated.sessions(config, p):
            r = simulated.record(s, config)
            calls = Events(times_s=[5.0, 30.0], durations_s=[3.0, 0.0], codes=[0, 1], kinds=("in", "out"), seconds=60.0)
            diary = Text(times_s=[1.0], ends_s=[2.0], text=("hm",), speakers=("participant",), seconds=60.0)
            streams = {n: r.streams[n] for n in ("bvp", "resp", "eda")} | {"calls": calls, "diary": diary}
            out.append(replace(r, streams=streams, attributes={}))
    return out


# --- long recordings --------------------------------------------------------------------------------------
def test_long_recordings_have_exactly_the_length_that_was_asked_for(adapted, tmp_path):
    sampling = sample.Sampling(per_label=2, seconds=50)
    assert sample.windows_of(adapted.layout, sampling) == 3
    prompts = [adapted.layout.prompt(v) for v in sampling.labels(adapted.layout.classes)]
    rows = sample.part(adapted, sampling, prompts, 0, tmp_path / "part.npz")
    assert all(adapted.layout.grammar.accepts(d[d != PAD]) for row in rows for d in row)
    made = list(sample.recordings(rows, adapted.layout, 50.0))
    assert [r.labels["stress"] for r in made] == ["calm", "stress"] * 2
    for r in made:
        for name, s in r.streams.items():
            assert s.seconds == pytest.approx(50.0)
            if isinstance(s, Signal):
                assert len(s.values) == round(50 * CARD.streams[name].rate_hz)
    # a part that was kept is read, not sampled again
    adapted_without = Adapted(None, adapted.layout, adapted.backbone)
    again = sample.part(adapted_without, sampling, prompts, 0, tmp_path / "part.npz")  # type: ignore[arg-type]
    assert all(np.array_equal(a, b) for x, y in zip(rows, again, strict=True) for a, b in zip(x, y, strict=True))


def real_documents(n: int) -> tuple[Layout, list[np.ndarray], Recording]:
    lay = layout()
    r = people(2)[0]
    parts = [{k: s for k, v in r.streams.items() if (s := v.cut(20 * i, 20 * i + 20))} for i in range(n)]
    return lay, [d for d in lay.encode(parts, ["calm"] * n) if d is not None], r


def test_a_real_recording_cut_coded_and_joined_has_no_seams():
    lay, documents, r = real_documents(3)
    joined = stitch.join(lay, documents)
    assert set(joined) == set(CARD.streams)
    bvp, truth = joined["bvp"].values[:, 0], r.streams["bvp"].values[:, 0]
    assert len(bvp) == len(truth)
    # the heart goes on over a seam: no interval there is unlike the others
    rr = physiology.intervals(physiology.beats(bvp, 64))
    assert np.isfinite(rr).all()
    assert physiology.heart(physiology.beats(bvp, 64))["hr"] == pytest.approx(
        physiology.heart(physiology.beats(truth, 64))["hr"], abs=1.0
    )
    for name in ("bvp", "eda"):
        x = joined[name].values[:, 0]
        step = np.abs(np.diff(x))
        rate = round(CARD.streams[name].rate_hz)
        seams = [step[20 * rate * k - 1] for k in (1, 2)]
        assert max(seams) <= np.quantile(step, 0.999) + 1e-3, name
    assert isinstance(joined["calls"], Events)
    assert joined["calls"].times_s.tolist() == [5.0, 30.0]
    assert isinstance(joined["diary"], Text)
    assert joined["diary"].seconds == 60


def test_fading_meets_in_the_middle_and_leaves_the_rest_alone():
    one, two = np.zeros((100, 1)), np.full((100, 1), 2.0)
    a, b = stitch.faded([one, two], rate_hz=4.0)
    assert abs(float(b[0, 0] - a[-1, 0])) < 0.15
    assert np.array_equal(a[:80], one[:80])
    assert np.array_equal(b[20:], two[20:])
    assert (np.diff(np.concatenate([a, b])[:, 0]) > -1e-6).all()  # no overshoot
    short = stitch.faded([np.zeros((1, 1)), np.ones((1, 1))], rate_hz=1.0)
    assert all(np.isfinite(x).all() for x in short)


def test_a_stream_that_one_window_lacks_has_a_gap_there_and_a_log_is_absent():
    lay, documents, _ = real_documents(2)
    without = lay.encode([{"eda": people(2)[0].streams["eda"].cut(0, 20)}], ["calm"])[0]
    assert without is not None
    joined = stitch.join(lay, [documents[0], without])
    assert set(joined) == {"bvp", "resp", "eda"}
    assert joined["eda"].complete
    bvp = joined["bvp"]
    assert isinstance(bvp, Signal)
    assert bvp.valid is not None
    assert bvp.valid.tolist() == [True] * 1280 + [False] * 1280
    calls, diary = (lay.encode([{n: people(2)[0].streams[n].cut(0, 20)}], ["calm"])[0] for n in ("calls", "diary"))
    assert calls is not None
    assert diary is not None
    with pytest.raises(MienError, match="no stream in common"):
        stitch.join(lay, [calls, diary])


def test_respiration_has_a_gap_where_a_window_is_of_the_heart_alone():
    lay, documents, r = real_documents(2)
    alone = {n: s for n, v in r.streams.items() if n != "resp" and (s := v.cut(20, 40))}
    (second,) = lay.encode([alone], ["calm"])
    assert second is not None
    joined = stitch.join(lay, [documents[0], second])
    resp, n = joined["resp"], round(20 * CARD.streams["resp"].rate_hz)
    assert isinstance(resp, Signal)
    assert resp.valid is not None
    assert resp.valid.tolist() == [True] * n + [False] * n
    (first,) = (stitch.join(lay, documents[:1])["resp"],)
    assert isinstance(first, Signal)
    assert np.abs(resp.values[: n - 100] - first.values[: n - 100]).max() < 1e-3
    assert joined["bvp"].complete


def of(card: CohortCard, seconds: float, **parts) -> Layout:
    codecs = [Plugin(name=codec, streams=[stream]) for stream, codec in parts.items()]
    return Layout.of(card, seconds=seconds, task="stress", codec=Plugin(name="transform"), codecs=codecs)


def test_no_stream_is_clipped_to_the_range_of_another():
    spec = lambda g: StreamSpec(channels=("x", "y", "z"), unit="g", rate_hz=32.0, range=(-g, g))  # noqa: E731
    card = replace(CARD, streams={"wrist": spec(2.0), "chest": spec(8.0)})
    lay = of(card, 8, wrist="motion", chest="motion")
    wave = np.sin(2 * np.pi * np.arange(256) / 32)[:, None] * np.ones(3)
    signal = lambda g: Signal(values=g * wave, rate_hz=32.0, channels=("x", "y", "z"), unit="g")  # noqa: E731
    (document,) = lay.encode([{"wrist": signal(1.0), "chest": signal(6.0)}], ["calm"])
    alone, joined = lay.decode(document)[1]["chest"], stitch.join(lay, [document] * 2)["chest"]
    assert isinstance(alone, Signal)
    assert isinstance(joined, Signal)
    assert joined.values.max() == pytest.approx(alone.values.max(), abs=0.05)


def test_fading_leaves_no_values_that_the_codec_cannot_say():
    spec = StreamSpec(channels=("AU12_r", "AU45_c"), rate_hz=20.0)
    lay = of(replace(CARD, streams={"face": spec}), 10, face="face")

    def smile(last: float) -> dict[str, Signal]:
        v = np.zeros((200, 2))
        v[-10:] = last, last / 5
        return {"face": Signal(values=v, rate_hz=20.0, channels=spec.channels, unit="")}

    joined = stitch.join(lay, [d for d in lay.encode([smile(4.5), smile(0.0)], ["calm"] * 2) if d is not None])["face"]
    assert isinstance(joined, Signal)
    assert joined.values.min() >= 0
    assert (joined.values.max(0) <= (5, 1)).all()


def test_two_windows_strangers_do_not_become_one_person():
    lay = of(replace(CARD, streams={"calls": CARD.streams["calls"]}), 600, calls="events")
    log = Events(
        times_s=[1.0, 2.0, 3.0],
        durations_s=[3.0, 4.0, 0.0],
        codes=[0, 1, 0],
        party=[7, 9, -1],
        kinds=("in", "out"),
        seconds=600,
    )
    alone = lay.decode(lay.encode([{"calls": log}], ["calm"])[0])[1]["calls"].party.tolist()
    joined = stitch.join(lay, lay.encode([{"calls": log}] * 3, ["calm"] * 3))["calls"]
    assert alone == [0, 1, -1]
    assert joined.party.tolist() == [0, 1, -1, 2, 3, -1, 4, 5, -1]


# --- what is asked for ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        ({"counts": {"bored": 3}}, "no class 'bored'"),
        ({"counts": {"calm": 0, "stress": 0}}, "not all 0"),
        ({"counts": {"calm": -1}}, "0 or more"),
    ],
)
def test_impossible_counts_are_refused(sampling, says):
    with pytest.raises(MienError, match=says):
        sample.Sampling(**sampling).labels(layout().classes)


def test_counts_and_lengths_on_request():
    labels = sample.Sampling(per_label=3, counts={"stress": 1}).labels(layout().classes)
    assert labels == ["calm", "stress", "calm", "calm"]
    assert sample.windows_of(layout(), sample.Sampling(seconds=50)) == 3


# --- what is given ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def cohort():
    made = people()
    return Cohort.build(made, card=CARD), made


def split(cohort: Cohort) -> Splits:
    persons = cohort.persons
    return Splits(kind="person", train=tuple(persons[:2]), validation=(), holdout=tuple(persons[2:]), seed=0)


def test_given_windows_are_of_the_side_that_was_asked_for_and_take_turns(cohort):
    data, _ = cohort
    lay = layout()
    asked = given.From(relation="translate", streams=("bvp",), windows=4)
    found = given.sources(data, split(data), lay, asked, stride_s=20.0, valid=1.0)
    assert [s.person for s in found] == [*data.persons[2:], *data.persons[2:]]
    assert all(set(s.given.streams) == {"bvp", "resp"} for s in found)  # what one codec says together is given together
    ids = lay.opening(found[0].label, found[0].contexts, found[0].given)
    assert ids[lay.prompt_length] == RELATION_0
    assert ids[-1] == MADE
    train = given.sources(data, split(data), lay, given.From(relation="vary", side="train"), stride_s=20.0, valid=1.0)
    assert {s.person for s in train} == set(data.persons[:2])


@pytest.mark.parametrize(
    ("asked", "conditioned", "says"),
    [
        ({"relation": "vary"}, False, "was not trained on given"),
        ({"relation": "translate"}, True, "name them for"),
        ({"relation": "vary", "streams": ("bvp",)}, True, "name them for"),
        ({"relation": "translate", "streams": ("resp",)}, True, "opens no part"),
        ({"relation": "translate", "streams": ("bvp", "eda", "calls", "diary")}, True, "nothing to translate"),
    ],
)
def test_what_cannot_be_given_is_refused(cohort, asked, conditioned, says):
    data, _ = cohort
    with pytest.raises(MienError, match=says):
        given.sources(data, split(data), layout(conditioned), given.From(**asked), stride_s=20.0, valid=1.0)


def test_something_is_made_from_what_was_given_and_it_says_unprotected(cohort, adapted):
    data, _ = cohort
    asked = given.From(relation="translate", streams=("bvp",), windows=3)
    found = given.sources(data, split(data), adapted.layout, asked, stride_s=20.0, valid=1.0)
    prompts = [adapted.layout.opening(s.label, s.contexts, s.given) for s in found]
    rows = sample.chains(adapted.model, adapted.layout, lambda i: i, prompts, 1, sample.Sampling(), 0)
    assert all(adapted.layout.grammar.accepts(d[d != PAD]) for d in rows[0])
    assert "unprotected" in given.UNPROTECTED
