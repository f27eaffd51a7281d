"""Recordings as soft tokens: packed one by one, seen by one unit each, trained with exact per-person gradients."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers as t
from hypothesis import given as drawn
from hypothesis import strategies as st
from PIL import Image

from mien.adapters import lora
from mien.backbones import _encoder, _senses, causal_lm, llava, tiny
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.core.records import Signal, StreamSpec
from mien.generation import sample
from mien.generation.adapted import open_base
from mien.generation.grammar import constrain
from mien.generation.layout import Layout
from mien.generation.tokens import Condition, Documents
from mien.generation.vocabulary import PAD
from mien.privacy import guards
from mien.privacy.flat import Flat
from mien.privacy.gradients import PersonGradients

from ..conftest import CARD, recordings
from . import soft

SECONDS = 3


@pytest.fixture(scope="module")
def layout():
    return Layout.of(CARD, seconds=float(SECONDS), task="activity", codec=Plugin(name="transform"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model of a few thousand parameters with a tower for the invented cohort's signals."""
    text, made = soft.words(tmp_path_factory.mktemp("text")), tmp_path_factory.mktemp("signals")
    return llava.with_signals(
        causal_lm.Config(model=str(text)), CARD.streams, made, seconds=SECONDS, rate_hz=16, width=32
    )


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """A language model with a tower for images of 28 pixels, whose last layer is not read."""
    made, shape = (
        tmp_path_factory.mktemp("images"),
        {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3},
    )
    t.LlavaForConditionalGeneration(
        t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**shape, intermediate_size=48, image_size=28, patch_size=14),
            text_config=t.LlamaConfig(**shape, intermediate_size=48, vocab_size=61, max_position_embeddings=512),
            image_token_index=60,
        )
    ).save_pretrained(made)
    how = {"crop_size": 28, "size": {"shortest_edge": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (made / "preprocessor_config.json").write_text(json.dumps(how))
    return made


def opened(folder, layout, **options):
    made = llava.load(llava.Config(model=str(folder), **options), layout.vocabulary.size)
    constrain(made.model, layout.grammar, made.offset, made.never)
    return made


def attached(made, layout):
    rows = [made.offset + r for r in layout.grammar.speaks.tolist()]
    model = lora.attach(made, lora.Lora(rank=2), rows, 0)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "lora_B" in n:
                p.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def documents(layout):
    docs = layout.encode(soft.windows(SECONDS), ["rest", "rest", "walk", "walk"] * 3)
    short = layout.encode([{"eda": w["eda"]} for w in soft.windows(SECONDS)[:2]], ["rest", "walk"])
    return [*docs[:3], *short]


# --- packing ----------------------------------------------------------------------------------------------------
def signal(values, rate, valid=None):
    return Signal(values=values, rate_hz=rate, channels=tuple("abc"[: values.shape[1]]), unit="g", valid=valid)


@drawn(st.integers(0, 2**31), st.sampled_from([2.0, 4.0, 10.0, 16.0, 25.6, 64.0]), st.integers(1, 40))
def test_resampling_against_a_loop(seed, rate, n):
    rng = np.random.default_rng(seed)
    one = signal(rng.normal(size=(n, 2)), rate, rng.random(n) > 0.3)
    got, there = _encoder.resampled(one, 16, 40)
    for k in range(40):
        inside = [i for i in range(n) if k <= i * 16 / rate + 1e-9 < k + 1]
        if rate >= 16:
            good = [i for i in inside if one.valid[i]]
            expected = one.values[good].astype(float).mean(0) if good else None
        else:
            before, part = divmod(k * rate / 16 + 1e-9, 1)
            before = int(before)
            after = min(before + 1, n - 1)
            held = before < n and one.valid[before] and one.valid[after]
            expected = one.values[before] * (1 - part) + one.values[after] * part if held else None
        assert there[k] == (expected is not None)
        assert np.allclose(got[k], 0 if expected is None else expected, atol=1e-5)


def test_packing():
    config = _encoder.tower(CARD.streams, seconds=2, rate_hz=10)
    assert config.channels == 3 + 1 + 1 + 1
    flat = {"acc": signal(np.full((40, 3), 2.0), 20.0), "eda": signal(np.full((4, 1), 40.0), 4.0)}
    packed = config.pack([flat, {"acc": flat["acc"]}, None])
    assert packed.shape == (3, 6, 20)
    assert np.allclose(packed[0, :3], 0.5)  # 2 g of -4 to 4
    assert (packed[0, 3] == 1).all()
    assert np.allclose(packed[0, 4, :10], 1)  # 40 uS of 0 to 40, for the one second that was measured
    assert (packed[0, 5, :10] == 1).all()
    assert (packed[0, 4:, 10:] == 0).all()
    assert (packed[1, :4] == packed[0, :4]).all()
    assert (packed[1, 4:] == 0).all()
    assert (packed[2] == 0).all()


@pytest.mark.parametrize(
    ("streams", "why"),
    [
        ({"acc": signal(np.zeros((100, 3)), 20.0)}, "cut windows"),
        ({"acc": signal(np.zeros((40, 2)), 20.0)}, "3 channels"),
        ({"eda": "a sound"}, "1 channels"),
    ],
)
def test_what_cannot_be_packed(streams, why):
    with pytest.raises(MienError, match=why):
        _encoder.tower(CARD.streams, seconds=2).pack([streams])


def test_a_tower_needs_public_ranges():
    with pytest.raises(MienError, match="ranges on the card; none for acc"):
        _encoder.tower({"acc": StreamSpec(channels=("x",), unit="g", rate_hz=20.0)}, seconds=2)


def test_images_as_the_tower_was_shown_them():
    how = _senses.Images(size=4, resize=8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 1.0))
    white = np.full((30, 50, 3), 255, dtype=np.uint8)
    packed = how.pack([white, None, Image.fromarray(white).convert("L")])
    assert packed.shape == (3, 3, 4, 4)
    assert np.allclose(packed[0].transpose(1, 2, 0), [1.0, 1.5, 1.0])
    assert (packed[1] == 0).all()
    assert (packed[2] == packed[0]).all()
    left = np.zeros((8, 16, 3), dtype=np.uint8)
    left[:, :8] = 255
    middle = how.pack([left])[0, 2]
    assert middle[0, 0] > 0.9
    assert middle[0, -1] < 0.1
    with pytest.raises(MienError, match="uint8"):
        how.pack([np.zeros((8, 8, 3))])
    with pytest.raises(MienError, match="preprocessor_config.json"):
        _senses.Images(size=4, resize=4).pack([white])


# --- the model ---------------------------------------------------------------------------------------------------
def test_save_and_reload_give_identical_logits(folder, tmp_path):
    model = t.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    values = torch.as_tensor(model.config.vision_config.pack(soft.windows(SECONDS)[:2]))
    placeholder = model.config.image_token_id
    ids = torch.as_tensor([[placeholder] * SECONDS + [5, 6, 7]] * 2)
    with torch.no_grad():
        before = model(input_ids=ids, pixel_values=values).logits
        _encoder.save(model, tmp_path / "again")
        again = t.LlavaForConditionalGeneration.from_pretrained(tmp_path / "again").eval()
        assert torch.equal(again(input_ids=ids, pixel_values=values).logits, before)
        assert not torch.allclose(before[0], before[1])
    made = model.generate(input_ids=ids, pixel_values=values, max_new_tokens=4, do_sample=False)
    assert made.shape == (2, SECONDS + 3 + 4)


def test_seconds_without_a_measurement_are_not_attended_to(folder):
    tower = t.LlavaForConditionalGeneration.from_pretrained(folder).eval().model.vision_tower
    full = {n: s for n, s in soft.windows(SECONDS)[0].items()}
    gap = {n: Signal(**{**s.__dict__, "valid": np.arange(len(s.values)) >= s.rate_hz}) for n, s in full.items()}
    values = torch.as_tensor(tower.config.pack([gap, full]))
    assert (values[0, :, :16] == 0).all()
    other = values.clone()
    other[0, [0, 1, 2, 4], :16] = 5.0  # what stands in the gap, with the masks as they were
    with torch.no_grad():
        states = [tower(v).last_hidden_state for v in (values, other)]
    assert torch.allclose(states[0][0, 1:], states[1][0, 1:], atol=1e-6)
    assert not torch.allclose(states[0][0, 1:], states[0][1, 1:], atol=1e-3)


def test_a_unit_sees_its_own_recording_and_no_other(folder, layout, documents):
    made = opened(folder, layout)
    model, seen = attached(made, layout).eval(), soft.windows(SECONDS)
    assert made.soft == SECONDS

    def losses(docs, given):
        batch = made.batch(docs, prompt=layout.prompt_length, persons=[0] * len(docs), given=given)
        with torch.no_grad():
            return made.losses(model, batch).numpy()

    mine = losses([documents[3]], [seen[0]])[0]
    # other recordings, other lengths (mine is padded on the right), none at all (padded on the left)
    for docs, given in (
        (documents[:3], seen[1:4]), (documents[2::-1], seen[3:0:-1]), (documents[:3], [None, seen[2], None]),
        ([documents[4]], [None]),
    ):  # fmt: skip
        found = losses([documents[3], *docs], [seen[0], *given])
        assert np.allclose(found[0], mine, atol=2e-5)
        assert np.isfinite(found).all()
    assert abs(losses([documents[3]], [seen[5]])[0] - mine) > 1e-4  # what is shown matters
    plain = made.batch([documents[3]], prompt=layout.prompt_length, persons=[0])
    with torch.no_grad():  # nothing shown, in a batch that shows others: as without soft tokens
        assert np.allclose(
            losses([documents[3], documents[0]], [None, seen[0]])[0], made.losses(model, plain)[0], atol=2e-5
        )


def test_sampling_under_soft_tokens_stays_in_the_grammar(folder, layout, documents):
    made = opened(folder, layout)
    model = attached(made, layout).eval()
    prompts = [np.array(layout.prompt(v)) for v in ("rest", "walk")]
    batch = made.batch(prompts, prompt=layout.prompt_length, persons=[0, 0], given=soft.windows(SECONDS)[:2])
    torch.manual_seed(0)
    ids = model.generate(**made.inputs(batch), max_new_tokens=layout.body + 1, do_sample=True, eos_token_id=made.offset + 2,
                         pad_token_id=made.offset)  # fmt: skip
    for row in ids.numpy()[:, SECONDS:] - made.offset:
        assert layout.grammar.accepts(row[row != PAD])


def test_soft_tokens_made_first_are_those_of_the_recording(folder, layout, documents):
    made, seen = opened(folder, layout), soft.windows(SECONDS)
    model = attached(made, layout).eval()
    batch = made.batch(documents[:2], prompt=layout.prompt_length, persons=[0, 0], given=seen[:2])
    shown = made.soften(model, [seen[0], made.packed(seen[1:2])[0]])  # packed before, or now
    assert shown.shape == (2, SECONDS, 32)
    through = {k: v for k, v in made.inputs(batch).items() if k not in ("pixel_values", "soft")}
    with torch.no_grad():
        wanted = model(**made.inputs(batch)).logits
        assert torch.allclose(model(**through, shown=shown).logits, wanted, atol=1e-5)
        assert not torch.allclose(model(**through, shown=shown.flip(0)).logits, wanted, atol=1e-3)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_documents_sampled_under_soft_tokens(folder, layout, guidance):
    made, prompts = opened(folder, layout), [layout.prompt(v) for v in ("rest", "walk", "rest")]
    model = attached(made, layout)
    shown = made.soften(model, soft.windows(SECONDS)[:3])

    def drawn(temperature):
        rows = sample.documents(
            model, layout, made.own_ids, prompts, temperature=temperature, seed=3, guidance=guidance, shown=shown
        )
        assert all(layout.grammar.accepts(d[d != PAD]) for d in rows)
        return rows

    assert np.array_equal(drawn(1.0), drawn(1.0))
    surest = [d[d != PAD] for d in drawn(1e-9)]
    if not guidance:  # the likeliest token by the tower's own way through the model, without a cache
        batch = made.batch(surest, prompt=layout.prompt_length, persons=[0] * 3, given=soft.windows(SECONDS)[:3])
        with torch.no_grad():
            likeliest = model(**made.inputs(batch)).logits.argmax(-1).numpy()
        for row, d in zip(likeliest, surest, strict=True):
            after = row[SECONDS + layout.prompt_length - 1 : SECONDS + len(d) - 1] - made.offset
            assert (after == d[layout.prompt_length :])[1:].all()  # the first may not be a relation when sampling
    with pytest.raises(MienError, match="takes no recording as soft tokens"):
        causal_lm.CausalBackbone.soften(made, model, [None])


def test_what_each_document_is_shown(layout):
    config = _encoder.tower(CARD.streams, seconds=SECONDS, rate_hz=10)
    data = recordings(3)
    encode = {"stride_s": 4.0, "quiet": True, "pack": config.pack}
    some = Documents.encode(data, layout, condition=Condition(soft=0.5), **encode)
    given_ = some.beside(range(len(some)))["given"]
    assert 0 < sum(g is None for g in given_) < len(given_)
    for i, g in enumerate(given_):
        r = next(r for r in data if r.id == some.recordings[some.recording[i]])
        cuts = {t: config.pack([{n: s.cut(t, t + SECONDS) for n, s in r.streams.items()}])[0] for t in (0.0, 4.0, 8.0)}
        same = [t for t, c in cuts.items() if g is not None and np.array_equal(c, g)]
        assert g is None or (len(same) == 1 and same[0] != some.start_s[i])  # another window of the same recording
    alone = Documents.encode(data[-1:], layout, condition=Condition(soft=0.5), **encode)
    for a, b in zip(alone.beside(range(len(alone)))["given"], given_[-len(alone) :], strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)  # whoever else is in the cohort
    assert Documents.encode(data, layout, **encode).beside([0]) == {}


def test_a_tower_from_the_recipe(folder, layout, home, tmp_path):
    tiny.fresh(tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48), 60, 0).save_pretrained(tmp_path / "lm")
    section = Plugin(name="llava", model=str(tmp_path / "lm"), signals={"rate_hz": 16, "width": 32}, adapt_vision=False)
    made = llava.with_tower(section, layout.streams, 2.5)
    assert llava.with_tower(section, layout.streams, 2.5) == made
    assert llava.with_tower(section, layout.streams, 4.0) != made
    assert llava.with_tower(made, layout.streams, 2.5) is made
    assert llava.with_senses(made, layout.streams, 2.5) is made  # its tower was made here
    usual = Plugin(
        name="llava", model=str(tmp_path / "lm"), signals={}
    )  # as it stands in the docs: nothing but defaults
    assert llava.with_tower(usual, layout.streams, 2.5) != usual
    base = open_base(made, layout, shown=True)
    assert base.soft == 3
    assert base.beside == ["model.multi_modal_projector"]  # the tower was switched off by the recipe
    with pytest.raises(MienError, match="needs a LLaVA whose tower"):
        open_base(Plugin(name="causal_lm", model=str(tmp_path / "lm")), layout, shown=True)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["signals", "images"])
@pytest.mark.parametrize("options", [{"adapt_projector": True}, {"adapt_projector": True, "adapt_vision": True}])
def test_every_part_has_exact_gradients_per_person(folder, seeing, layout, documents, options, kind, checkpointing):
    """The start-up checks of a private run, on soft tokens: gradients as autograd's, no row sees another."""
    made = opened(folder if kind == "signals" else seeing, layout, **options)
    rng = np.random.default_rng(0)
    shown = soft.windows(SECONDS) if kind == "signals" else list(rng.integers(0, 255, (4, 40, 50, 3)).astype(np.uint8))
    model = attached(made, layout)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    flat = Flat(model)
    gradients = PersonGradients(flat)
    wanted = {"projector"} | ({"vision_tower"} if "adapt_vision" in options else set())
    assert all(any(w in s.name for s in flat.slots) for w in wanted)
    probes = made.probes(documents[:4], prompt=layout.prompt_length, given=shown[:4])
    guards.check(model, made.losses, probes, flat, gradients)
    with gradients.collect(probes[1].unit, len(probes[1].unit)) as buffer:
        made.losses(model, probes[1]).sum().backward()
    for slot in flat.slots:
        if "projector" in slot.name:
            assert float(buffer[:, slot.start : slot.stop].abs().sum(1).min()) > 0


def test_refusals(folder, layout, documents, tmp_path):
    adapting = opened(folder, layout, adapt_vision=True)
    with pytest.raises(MienError, match="no recording is given"):
        open_base(Plugin(name="llava", model=str(folder), adapt_vision=True), layout)
    with pytest.raises(MienError, match=r"lora\.layers counts"):
        lora.attach(adapting, lora.Lora(layers=1), [], 0)
    with pytest.raises(MienError, match="2 documents, and 1 given"):
        adapting.batch(documents[:2], prompt=2, persons=[0, 0], given=soft.windows(SECONDS)[:1])
    tiny.fresh(tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48), 60, 0).save_pretrained(tmp_path / "lm")
    with pytest.raises(MienError, match="is a llama, which is no LLaVA-style model"):
        llava.load(llava.Config(model=str(tmp_path / "lm")), 10)
    with pytest.raises(MienError, match="cannot load the LLaVA-style model"):
        llava.load(llava.Config(model=str(tmp_path / "nothing")), 10)
