"""Codec, layout, grammar, masked models, sampling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.backbones import tiny
from mien.core import plugins
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import CohortCard, Events, Recording, Signal, StreamSpec, Text
from mien.generation import sample
from mien.generation.codecs import transform
from mien.generation.grammar import CACHES, DEAD, MASKED, START, Grammar, cache_name, constrain
from mien.generation.layout import Layout
from mien.generation.machine import OWN
from mien.generation.tokens import Documents
from mien.generation.vocabulary import BOS, EOS, FIRST_CODEC, LABEL_0, PAD, STREAM_0, UNLABELLED, Vocabulary

from ..conftest import CARD, recordings

VOCABULARY = Vocabulary(("transform",))

SHAPE = tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48)


def layout(seconds: float = 2.0, **codec) -> Layout:
    return Layout.of(CARD, seconds=seconds, task="activity", codec=Plugin(name="transform", **codec))


def window(rng: np.random.Generator, names=("acc", "eda"), seconds: float = 2.0) -> dict[str, Signal]:
    out = {}
    for n in names:
        spec = CARD.streams[n]
        low, high = spec.range or (0, 1)
        v = rng.uniform(low, high) + rng.normal(size=(round(seconds * spec.rate_hz), len(spec.channels)))
        out[n] = Signal(values=v, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit)
    return out


# --- codec ----------------------------------------------------------------------------------------------
# What each kind of codec is tried on; a codec that wants other streams names them here.
TRIED = {
    "signal": {"acc": CARD.streams["acc"]},
    "events": {"calls": StreamSpec(channels=("in", "out", "missed"), kind="events")},
    "text": {"diary": StreamSpec(channels=("participant", "interviewer"), kind="text")},
    "beats": {
        "bvp": StreamSpec(channels=("bvp",), unit="au", rate_hz=64.0, range=(-3.0, 3.0)),
        "resp": StreamSpec(channels=("resp",), unit="au", rate_hz=25.0, range=(-3.0, 3.0)),
    },
    "eda": {"eda": CARD.streams["eda"]},
    "face": {"face": StreamSpec(channels=("AU12_r", "pose_Rx", "gaze_angle_x"), unit="", rate_hz=30.0, range=(-2.0, 5.0))},
    "audio_features": {"voice": StreamSpec(channels=("sound",), unit="full scale", rate_hz=16000.0, range=(-1.0, 1.0))},
}  # fmt: skip


def tried(name: str, seconds: float) -> tuple[dict[str, StreamSpec], list[dict[str, Any]]]:
    """The streams a codec is tried on, and eight invented windows of them."""
    specs = TRIED.get(name) or TRIED[plugins.load("generation/codecs", name).KIND]
    return specs, [
        {n: invented(spec, seconds, np.random.default_rng([i, k])) for k, (n, spec) in enumerate(specs.items())}
        for i in range(8)
    ]


def invented(spec: StreamSpec, seconds: float, rng: np.random.Generator) -> Any:
    if spec.kind == "signal":
        t = np.arange(round(seconds * spec.rate_hz)) / spec.rate_hz
        low, high = spec.range or (0, 1)
        hz = rng.uniform(1.0, 1.5) if spec.rate_hz < 1000 else 150.0
        v = (low + high) / 2 + (high - low) / 8 * np.sin(2 * np.pi * hz * t)[:, None]
        v = v + 0.01 * rng.normal(size=(len(t), len(spec.channels)))
        return Signal(values=v, rate_hz=spec.rate_hz, channels=spec.channels, unit=spec.unit)
    times = np.sort(rng.integers(0, int(seconds), size=3)).astype(float)
    if spec.kind == "events":
        return Events(
            times_s=times, durations_s=[0.0, 61.0, 5.0], codes=[0, 2, 1], party=[-1, 3, 3], kinds=spec.channels,
            seconds=seconds,
        )  # fmt: skip
    return Text(
        times_s=times, ends_s=times + 0.5, text=("so, how?", "müde 😀", "ok"), speakers=spec.channels[:1] * 3,
        seconds=seconds,
    )  # fmt: skip


@pytest.mark.parametrize("name", [n for n in plugins.names("generation/codecs") if n != "audio_codec"])
def test_every_codec_conforms(name):
    module = plugins.load("generation/codecs", name)
    seconds = 8.0
    specs, windows = tried(name, seconds)
    codec = module.Codec(module.Config(), specs, seconds)
    tokens = sum(module.TOKENS.values())
    grammar = Grammar.of(classes=1, blocks=[(codec.machine, FIRST_CODEC)], size=FIRST_CODEC + tokens)
    made = codec.encode(windows)
    assert len(made) == len(windows)
    for w, block in zip(windows, made, strict=True):
        assert not isinstance(block, str), block
        assert len(block) <= codec.machine.length
        local = np.where(block >= OWN, block, block + FIRST_CODEC)
        assert grammar.accepts([BOS, LABEL_0, STREAM_0, *local, EOS])
        back = codec.decode(block)
        assert set(back) == set(w)
        for n, s in back.items():
            assert type(s) is type(w[n])
            assert s.seconds == pytest.approx(w[n].seconds)
            if isinstance(s, Signal):
                assert s.values.shape == w[n].values.shape
                assert (s.rate_hz, s.unit, s.channels) == (w[n].rate_hz, w[n].unit, w[n].channels)
    # One recording's tokens cannot depend on another's: coded alone or in company they are the same.
    for w, block in zip(windows, made, strict=True):
        assert np.array_equal(codec.encode([w])[0], block)
    assert isinstance(module.VERSION, int)
    for seed in range(20):  # whatever the grammar accepts can be read
        decoded = codec.decode(walk(grammar, np.random.default_rng(seed)))
        for n, s in decoded.items():
            if isinstance(s, Signal):
                low, high = specs[n].range or (-np.inf, np.inf)
                good = s.values if s.valid is None else s.values[s.valid]
                assert good.size == 0 or (low - 1e-4 <= good.min() and good.max() <= high + 1e-4)


def walk(grammar: Grammar, rng: np.random.Generator) -> np.ndarray:
    """The codec's own ids of one block, drawn uniformly among what the grammar allows."""
    state, out = grammar.states(np.array([[BOS, LABEL_0, STREAM_0]]))[:, -1], []
    while True:
        allowed = np.flatnonzero(grammar.allowed(state[0]))
        if EOS in allowed:
            return np.array(out, dtype=np.int32)
        token = int(rng.choice(allowed))
        state = grammar.step(state, np.array([token]))
        own = token == grammar.next.shape[1] - 1
        out.append(OWN + int(rng.integers(200)) if own else token - FIRST_CODEC)


@given(
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(["noise", "constant", "clipped", "huge", "tiny", "step"]),
    low=st.floats(-1e4, 1e4),
    width=st.floats(1e-2, 1e5),
)
@settings(max_examples=60, deadline=None)
def test_transform_is_total_and_stays_in_range(seed, kind, low, width):
    rng = np.random.default_rng(seed)
    spec = StreamSpec(channels=("a", "b"), unit="?", rate_hz=25.0, range=(low, low + width))
    codec = transform.Codec(transform.Config(), {"s": spec}, 2.0)
    x = low + width * rng.random((3, 50, 2))
    x = {"constant": x[:, :1].repeat(50, 1), "clipped": np.clip(x, low, low + width / 2), "huge": x * 1e6,
         "tiny": low + 1e-9 * x, "step": np.where(np.arange(50)[None, :, None] < 25, low, low + width) + 0 * x}.get(kind, x)  # fmt: skip
    ids = codec.code(x)
    back = codec.values(ids)
    assert np.isfinite(back).all()
    assert back.min() >= low - 1e-3 * width
    assert back.max() <= low + width + 1e-3 * width
    # Any sequence of the right groups decodes: the decoder is total on its grammar.
    slots = [rng.integers(codec.offset(g), codec.offset(g) + transform.TOKENS[g], size=4) for g in codec.slots]
    assert np.isfinite(codec.values(np.stack(slots, axis=1))).all()


def test_transform_keeps_slow_movement_and_level():
    spec = StreamSpec(channels=("x",), unit="g", rate_hz=50.0, range=(-8.0, 8.0))
    codec = transform.Codec(transform.Config(), {"s": spec}, 4.0)
    t = np.arange(200) / 50
    x = (0.3 + 0.7 * np.sin(2 * np.pi * 0.5 * t) + 0.2 * np.sin(2 * np.pi * 1.7 * t))[None, :, None]
    error = codec.values(codec.code(x)) - x
    assert 10 * np.log10(((x - x.mean()) ** 2).mean() / ((error - error.mean()) ** 2).mean()) > 12
    for level in (-7.5, -1, -0.1, 0, 0.1, 1, 7.5):
        flat = np.full((1, 200, 1), level)
        assert abs(codec.values(codec.code(flat)).mean() - level) < 0.02 + 0.05 * abs(level)


@pytest.mark.parametrize(
    ("spec", "seconds", "says"),
    [
        (StreamSpec(channels=("a",), unit="furlong", rate_hz=10), 2.0, "no range"),
        (StreamSpec(channels=("a",), unit="g", rate_hz=10, range=(1, 1)), 2.0, "low < high"),
        (StreamSpec(channels=("a",), unit="g", rate_hz=1), 2.0, "at least 4"),
    ],
)
def test_transform_refuses(spec, seconds, says):
    with pytest.raises(MienError, match=says):
        transform.Codec(transform.Config(), {"s": spec}, seconds)


# --- layout and grammar ---------------------------------------------------------------------------------
@given(seed=st.integers(0, 2**16), names=st.sampled_from([("acc", "eda"), ("acc",), ("eda",)]))
@settings(max_examples=25, deadline=None)
def test_every_encoding_is_accepted_and_comes_back(seed, names):
    rng, lay = np.random.default_rng(seed), layout()
    w = window(rng, names)
    ids = lay.encode([w], ["walk"])[0]
    assert lay.grammar.accepts(ids)
    assert lay.grammar.accepts([PAD, PAD, *ids, PAD])  # padding on either side
    label, streams = lay.decode(ids)
    assert label == "walk"
    assert tuple(streams) == names  # a missing stream is absent, never zeros
    for n in names:
        assert streams[n].values.shape == w[n].values.shape
        assert (streams[n].unit, streams[n].rate_hz) == (CARD.streams[n].unit, CARD.streams[n].rate_hz)


def slow_accepts(ids, lay: Layout) -> bool:
    """The grammar as prose: bos, label, streams in order with the right groups, eos."""
    ids = list(ids)
    if (
        len(ids) < 4
        or ids[0] != 1
        or not (3 <= ids[1] < 3 + len(lay.classes) or ids[1] == UNLABELLED)
        or ids[-1] != EOS
    ):
        return False
    at, last = 2, -1
    while at < len(ids) - 1:
        stream = ids[at] - STREAM_0
        if not last < stream < len(lay.streams):
            return False
        coder = lay.coders[stream]
        base = VOCABULARY.starts[lay.parts[stream].codec]
        for j, group in enumerate(coder.slots):
            first = base + coder.offset(group)
            if at + 1 + j >= len(ids) - 1 or not first <= ids[at + 1 + j] < first + transform.TOKENS[group]:
                return False
        at, last = at + 1 + len(coder.slots), stream
    return last >= 0


@given(seed=st.integers(0, 2**16), edits=st.integers(0, 2), cut=st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_grammar_equals_its_prose(seed, edits, cut):
    rng, lay = np.random.default_rng(seed), layout()
    ids = lay.encode([window(rng, (("acc", "eda"), ("eda",))[seed % 2])], ["rest"])[0].copy()
    for _ in range(edits):
        ids[rng.integers(len(ids))] = rng.integers(1, VOCABULARY.size)
    ids = ids[: len(ids) - cut]
    assert lay.grammar.accepts(ids) == slow_accepts(ids, lay)


def test_unknown_ids_are_dead():
    lay = layout()
    assert not lay.grammar.accepts([10**6])
    assert not lay.grammar.accepts([])
    assert lay.grammar.states(np.array([[-5]]))[0, 0] == DEAD


def test_layout_round_trip(tmp_path):
    lay = layout(bandwidth={"eda": 1.0})
    lay.write(tmp_path / "layout.json")
    with pytest.raises(MienError, match="writes no tokens"):
        Layout.read(tmp_path / "elsewhere" / "layout.json")
    again = Layout.read(tmp_path / "layout.json")
    assert again.to_json() == lay.to_json()
    assert np.array_equal(again.grammar.next, lay.grammar.next)
    (tmp_path / "layout.json").write_text(
        (tmp_path / "layout.json").read_text().replace('"version": 1', '"version": 9')
    )
    with pytest.raises(MienError, match="another"):
        Layout.read(tmp_path / "layout.json")


@pytest.mark.parametrize(
    ("kw", "says"),
    [
        ({"task": "mood"}, "no task 'mood'"),
        ({"streams": ("ecg",)}, "no stream 'ecg'"),
        ({"codec": Plugin(name="mp3")}, "no codecs called"),
        ({"codec": Plugin(name="transform", hertz=3)}, "unknown key 'hertz'; did you mean 'hz'"),
    ],
)
def test_layout_refuses(kw, says):
    with pytest.raises(MienError, match=says):
        Layout.of(CARD, **{"seconds": 2.0, "task": "activity", "codec": Plugin(name="transform"), **kw})


def test_sound_is_not_written_as_its_lowest_few_hertz():
    sound = StreamSpec(channels=("voice",), unit="full scale", rate_hz=16000.0, range=(-1.0, 1.0))
    card = replace(CARD, streams={**CARD.streams, "voice": sound})

    def codec(**options):
        made = Layout.of(card, seconds=2.0, task="activity", codec=Plugin(name="transform", **options))
        return {p.streams[0]: p.codec for p in made.parts}["voice"]

    assert codec() == "audio_features"
    assert codec(hz=2000) == codec(bandwidth={"voice": 2000}) == "transform"  # asked for


# --- masked models --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def masked():
    lay = layout()
    return lay, constrain(tiny.fresh(SHAPE, VOCABULARY.size, 0), lay.grammar, 0)


def test_likelihoods_are_normalised_over_valid_tokens(masked):
    lay, model = masked
    ids = torch.tensor(np.stack(lay.encode([window(np.random.default_rng(0))], ["rest"]))).long()
    logits = model(input_ids=ids).logits
    states = lay.grammar.states(ids.numpy())
    for t in range(ids.shape[1] - 1):
        allowed = lay.grammar.allowed(states[0, t])[:-1]
        p = torch.softmax(logits[0, t].double(), -1).detach().numpy()
        assert p[~allowed].sum() < 1e-12
        assert p[ids[0, t + 1]] > 0
    plain = tiny.fresh(SHAPE, VOCABULARY.size, 0)
    raw = plain(input_ids=ids).logits
    kept = logits > MASKED / 2
    assert torch.equal(logits[kept], raw[kept])  # what is allowed is untouched
    # `labels=` gives the loss of the masked distribution, not of the raw one
    assert model(input_ids=ids, labels=ids).loss < plain(input_ids=ids, labels=ids).loss


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the deprecated name is part of what is asked
def test_cache_and_full_forward_agree(masked):
    lay, model = masked
    ids = torch.tensor(np.stack(lay.encode([window(np.random.default_rng(1))], ["rest"]))).long()
    full = model(input_ids=ids).logits
    from transformers import DynamicCache

    cache, state, parts = DynamicCache(), torch.tensor([START]), []
    for t in range(ids.shape[1]):
        out = model(input_ids=ids[:, t : t + 1], **{cache_name(model): cache}, grammar_state=state, use_cache=True)
        state = out.grammar_state
        parts.append(out.logits)
    assert torch.allclose(torch.cat(parts, 1), full, atol=1e-4)
    names = ["past_key_values"] if cache_name(model) == "past_key_values" else CACHES  # of old, the new name is unknown
    for name in names:
        with pytest.raises(MienError, match="grammar_state"):
            model(input_ids=ids[:, :1], **{name: cache})


class Old(torch.nn.Module):
    def forward(self, input_ids=None, past_key_values=None, **kwargs): ...


class New(torch.nn.Module):
    def forward(self, input_ids=None, cache=None, **kwargs): ...


class Wrapped(torch.nn.Module):
    def __init__(self, base):
        super().__init__()
        self.get_base_model = lambda: base

    def forward(self, *args, **kwargs): ...


def test_a_cache_goes_by_the_name_that_the_models_forward_gives_it():
    assert [cache_name(m) for m in (Old(), New(), Wrapped(Old()), Wrapped(New()))] == [*CACHES[::-1], *CACHES[::-1]]


@pytest.mark.filterwarnings("error::FutureWarning")
def test_sampling_uses_nothing_deprecated(masked):
    lay, model = masked
    sample.documents(model, lay, (lambda ids: ids + 0), [lay.prompt("rest")], temperature=1.0, seed=0)


def test_random_weights_sample_only_valid_documents(masked):
    lay, model = masked
    rows = sample.documents(
        model, lay, (lambda ids: ids + 0), [lay.prompt(v) for v in ["rest", "walk"] * 20], temperature=1.0, seed=3
    )
    assert all(lay.grammar.accepts(r[r != PAD]) for r in rows)
    again = sample.documents(
        model, lay, (lambda ids: ids + 0), [lay.prompt(v) for v in ["rest", "walk"] * 20], temperature=1.0, seed=3
    )
    assert np.array_equal(rows, again)
    melted = sample.documents(
        model, lay, (lambda ids: ids + 0), [lay.prompt(v) for v in ["rest"] * 8], temperature=1e9, seed=3
    )
    assert all(lay.grammar.accepts(r[r != PAD]) for r in melted)
    made = list(sample.recordings([[r] for r in rows], lay))
    assert [r.labels["activity"] for r in made[:2]] == ["rest", "walk"]
    assert len({r.person for r in made}) == len(made)
    # transformers' own generate obeys too, with left padding as trainers use it
    prompts = torch.tensor([[PAD, *lay.prompt("rest")], [PAD, *lay.prompt("walk")]])
    out = model.generate(prompts, attention_mask=(prompts != PAD).long(), max_new_tokens=lay.length, do_sample=True)
    assert all(lay.grammar.accepts(o.numpy()[o.numpy() != PAD]) for o in out)


def test_offset_leaves_text_tokens_out():
    lay = layout()
    model = constrain(tiny.fresh(SHAPE, VOCABULARY.size + 50, 0), lay.grammar, 50)
    rows = sample.documents(
        model, lay, (lambda ids: ids + 50), [lay.prompt(v) for v in ["rest"] * 4], temperature=1.0, seed=0
    )
    assert all(lay.grammar.accepts(r[r != PAD]) for r in rows)


def test_an_interrupted_encoding_says_where_it_stopped(cohort, capsys):
    seen = []

    def stop(r):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(r)
        return r

    with pytest.raises(KeyboardInterrupt):
        Documents.encode(cohort, layout(), stride_s=2.0, change=stop)
    assert f"encoding recordings: stopped at 2/{len(cohort)}" in capsys.readouterr().out


# --- documents ------------------------------------------------------------------------------------------
def test_documents_of_a_cohort(home, cohort):
    lay = layout()
    docs = Documents.encode(cohort, lay, stride_s=1.0, quiet=True)
    windows = list(cohort.windows(2.0, 1.0))
    assert len(docs) == len(windows)
    by_key = {w.key for w in windows}
    assert {docs.key(i) for i in range(len(docs))} == by_key
    assert all(lay.grammar.accepts(docs[i]) for i in range(len(docs)))
    assert docs.persons == sorted(docs.persons)
    assert not [p for p in (home / "cache").rglob("*") if p.is_file()], (
        "tokens of private recordings must not stay on disk"
    )


def test_unusable_windows_are_counted_and_told(home, capsys):
    made = recordings(2)
    s = made[0].streams["acc"]
    valid = np.ones(len(s.values), bool)
    valid[30] = False
    gap = Signal(values=s.values, rate_hz=s.rate_hz, channels=s.channels, unit=s.unit, valid=valid)
    made[0] = Recording(id="gap", person="p00", streams={"acc": gap}, labels={"activity": "rest"})
    made[1] = Recording(id="nolabel", person="p00", streams=made[1].streams)
    from mien.core.records import Cohort

    docs = Documents.encode(Cohort.build(made, card=CARD), layout(), stride_s=2.0)
    assert docs.skipped == {"a gap in acc": 1, "recording without the label 'activity'": 1}
    assert "left out 1 time: a gap in acc" in capsys.readouterr().out
    with pytest.raises(MienError, match="no window of 60 s"):
        Documents.encode(Cohort.build(made, card=CARD), layout(60.0), stride_s=2.0, quiet=True)
    empty = CohortCard(**{**vars(CARD), "name": "e"})
    assert empty.name == "e"


def test_a_cache_with_room_holds_what_transformers_holds():
    from transformers import DynamicCache

    from mien.generation.room import roomy

    generator = torch.Generator().manual_seed(0)
    plain, made = DynamicCache(), roomy()
    for t in (3, *[1] * 130, 70):  # past its room twice
        for layer in (0, 1):
            k, v = (torch.randn(2, 3, t, 4, generator=generator) for _ in "kv")
            for a, b in zip(plain.update(k, v, layer), made.update(k, v, layer), strict=True):
                assert torch.equal(a, b)
        assert made.get_seq_length() == plain.get_seq_length()
    held = made.layers[0].held[0]
    made.update(k[:, :, :1], v[:, :, :1], 0)
    assert made.layers[0].held[0] is held  # nothing was copied
