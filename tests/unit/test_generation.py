"""Codec, layout, grammar, masked models, sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.backbones import tiny
from mien.core import plugins
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import CohortCard, Recording, Signal, StreamSpec
from mien.generation import sample
from mien.generation.codecs import transform
from mien.generation.grammar import DEAD, MASKED, START, constrain
from mien.generation.layout import Layout
from mien.generation.tokens import Documents
from mien.generation.vocabulary import EOS, PAD, STREAM_0, VOCABULARY

from ..conftest import CARD, recordings

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
@pytest.mark.parametrize("name", plugins.names("generation/codecs"))
def test_every_codec_conforms(name):
    module = plugins.load("generation/codecs", name)
    spec = CARD.streams["acc"]
    codec = module.Codec(module.Config(), "acc", spec, 2.0)
    x = np.random.default_rng(0).normal(size=(5, 40, 3)).astype(np.float32)
    ids = codec.encode(x)
    assert ids.shape == (5, len(codec.slots))
    assert ids.min() >= 0
    assert ids.max() < sum(module.TOKENS.values())
    for j, group in enumerate(codec.slots):
        first = codec.offset(group)
        assert ((ids[:, j] >= first) & (ids[:, j] < first + module.TOKENS[group])).all()
    out = codec.decode(ids)
    assert out.shape == x.shape
    assert np.isfinite(out).all()
    # One recording's tokens cannot depend on another's: coding alone or in company is the same.
    for i in range(5):
        assert np.array_equal(codec.encode(x[i : i + 1])[0], ids[i])
    assert isinstance(module.VERSION, int)


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
    codec = transform.Codec(transform.Config(), "s", spec, 2.0)
    x = low + width * rng.random((3, 50, 2))
    x = {"constant": x[:, :1].repeat(50, 1), "clipped": np.clip(x, low, low + width / 2), "huge": x * 1e6,
         "tiny": low + 1e-9 * x, "step": np.where(np.arange(50)[None, :, None] < 25, low, low + width) + 0 * x}.get(kind, x)  # fmt: skip
    ids = codec.encode(x)
    back = codec.decode(ids)
    assert np.isfinite(back).all()
    assert back.min() >= low - 1e-3 * width
    assert back.max() <= low + width + 1e-3 * width
    # Any sequence of the right groups decodes: the decoder is total on its grammar.
    slots = [rng.integers(codec.offset(g), codec.offset(g) + transform.TOKENS[g], size=4) for g in codec.slots]
    assert np.isfinite(codec.decode(np.stack(slots, axis=1))).all()


def test_transform_keeps_slow_movement_and_level():
    spec = StreamSpec(channels=("x",), unit="g", rate_hz=50.0, range=(-8.0, 8.0))
    codec = transform.Codec(transform.Config(), "s", spec, 4.0)
    t = np.arange(200) / 50
    x = (0.3 + 0.7 * np.sin(2 * np.pi * 0.5 * t) + 0.2 * np.sin(2 * np.pi * 1.7 * t))[None, :, None]
    error = codec.decode(codec.encode(x)) - x
    assert 10 * np.log10(((x - x.mean()) ** 2).mean() / ((error - error.mean()) ** 2).mean()) > 12
    for level in (-7.5, -1, -0.1, 0, 0.1, 1, 7.5):
        flat = np.full((1, 200, 1), level)
        assert abs(codec.decode(codec.encode(flat)).mean() - level) < 0.02 + 0.05 * abs(level)


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
        transform.Codec(transform.Config(), "s", spec, seconds)


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
    if len(ids) < 4 or ids[0] != 1 or not 3 <= ids[1] < 3 + len(lay.classes) or ids[-1] != EOS:
        return False
    at, last = 2, -1
    while at < len(ids) - 1:
        stream = ids[at] - STREAM_0
        if not last < stream < len(lay.streams):
            return False
        coder = list(lay.coders.values())[stream]
        base = VOCABULARY.starts[lay.codec]
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
        ({"codec": Plugin(name="mp3")}, "no place in the vocabulary"),
        ({"codec": Plugin(name="transform", hertz=3)}, "unknown key 'hertz'; did you mean 'hz'"),
    ],
)
def test_layout_refuses(kw, says):
    with pytest.raises(MienError, match=says):
        Layout.of(CARD, **{"seconds": 2.0, "task": "activity", "codec": Plugin(name="transform"), **kw})


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
        allowed = lay.grammar.next[states[0, t]] != DEAD
        p = torch.softmax(logits[0, t].double(), -1).detach().numpy()
        assert p[~allowed].sum() < 1e-12
        assert p[ids[0, t + 1]] > 0
    plain = tiny.fresh(SHAPE, VOCABULARY.size, 0)
    raw = plain(input_ids=ids).logits
    kept = logits > MASKED / 2
    assert torch.equal(logits[kept], raw[kept])  # what is allowed is untouched
    # `labels=` gives the loss of the masked distribution, not of the raw one
    assert model(input_ids=ids, labels=ids).loss < plain(input_ids=ids, labels=ids).loss


def test_cache_and_full_forward_agree(masked):
    lay, model = masked
    ids = torch.tensor(np.stack(lay.encode([window(np.random.default_rng(1))], ["rest"]))).long()
    full = model(input_ids=ids).logits
    from transformers import DynamicCache

    cache, state, parts = DynamicCache(), torch.tensor([START]), []
    for t in range(ids.shape[1]):
        out = model(input_ids=ids[:, t : t + 1], past_key_values=cache, grammar_state=state, use_cache=True)
        state = out.grammar_state
        parts.append(out.logits)
    assert torch.allclose(torch.cat(parts, 1), full, atol=1e-4)
    with pytest.raises(MienError, match="grammar_state"):
        model(input_ids=ids[:, :1], past_key_values=cache)


def test_random_weights_sample_only_valid_documents(masked):
    lay, model = masked
    rows = sample.documents(model, lay, 0, ["rest", "walk"] * 20, temperature=1.0, seed=3)
    assert all(lay.grammar.accepts(r[r != PAD]) for r in rows)
    again = sample.documents(model, lay, 0, ["rest", "walk"] * 20, temperature=1.0, seed=3)
    assert np.array_equal(rows, again)
    melted = sample.documents(model, lay, 0, ["rest"] * 8, temperature=1e9, seed=3)
    assert all(lay.grammar.accepts(r[r != PAD]) for r in melted)
    made = list(sample.recordings(rows, lay))
    assert [r.labels["activity"] for r in made[:2]] == ["rest", "walk"]
    assert len({r.person for r in made}) == len(made)
    # transformers' own generate obeys too, with left padding as trainers use it
    prompts = torch.tensor([[PAD, *lay.prompt("rest")], [PAD, *lay.prompt("walk")]])
    out = model.generate(prompts, attention_mask=(prompts != PAD).long(), max_new_tokens=lay.length, do_sample=True)
    assert all(lay.grammar.accepts(o.numpy()[o.numpy() != PAD]) for o in out)


def test_offset_leaves_text_tokens_out():
    lay = layout()
    model = constrain(tiny.fresh(SHAPE, VOCABULARY.size + 50, 0), lay.grammar, 50)
    rows = sample.documents(model, lay, 50, ["rest"] * 4, temperature=1.0, seed=0)
    assert all(lay.grammar.accepts(r[r != PAD]) for r in rows)


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


def test_unusable_windows_are_counted(home):
    made = recordings(2)
    s = made[0].streams["acc"]
    valid = np.ones(len(s.values), bool)
    valid[30] = False
    gap = Signal(values=s.values, rate_hz=s.rate_hz, channels=s.channels, unit=s.unit, valid=valid)
    made[0] = Recording(id="gap", person="p00", streams={"acc": gap}, labels={"activity": "rest"})
    made[1] = Recording(id="nolabel", person="p00", streams=made[1].streams)
    from mien.core.records import Cohort

    docs = Documents.encode(Cohort.build(made, card=CARD), layout(), stride_s=2.0, quiet=True)
    assert docs.skipped == {"a gap in acc": 1, "recording without the label 'activity'": 1}
    with pytest.raises(MienError, match="no window of 60 s"):
        Documents.encode(Cohort.build(made, card=CARD), layout(60.0), stride_s=2.0, quiet=True)
    empty = CohortCard(**{**vars(CARD), "name": "e"})
    assert empty.name == "e"
