"""A model's own towers: their soft tokens are those it would make itself, each row has its own, and nobody else's gradient knows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image

from mien.adapters import lora
from mien.adapters.lora import Lora
from mien.backbones import _senses, llava
from mien.core.config import Plugin, parse
from mien.core.errors import MienError
from mien.core.records import RGB, Signal, StreamSpec, Video
from mien.data.datasets import simulated_film, simulated_life
from mien.generation import adapted, sample, tokens
from mien.generation.grammar import constrain
from mien.generation.layout import Layout
from mien.generation.vocabulary import PAD
from mien.privacy import guards
from mien.privacy.flat import Flat
from mien.privacy.gradients import PersonGradients

from ..conftest import CARD
from . import soft
from .soft import MAKE

SIDE, RATE, SECONDS = 84, 16000, 1.0
SHAPES = {  # soft tokens, and numbers in each
    ("llava_onevision", "image"): (5, 32),
    ("qwen2_vl", "image"): (9, 32),
    ("qwen2_5_vl", "image"): (9, 32),
    ("qwen3_vl", "image"): (9, 96),
    ("qwen2_5_omni_thinker", "image"): (9, 32),
    ("qwen2_5_omni_thinker", "audio"): (25, 32),
}
CASES = list(SHAPES)
HEARD = {"feature_size": 16, "sampling_rate": RATE, "hop_length": 160, "n_fft": 400}
PREPARED = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7], "patch_size": 14, **HEARD}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Random models of a few thousand parameters, which say how their recordings are prepared."""
    made = {}

    def folder(kind):
        if kind not in made:
            torch.manual_seed(0)
            made[kind] = tmp_path_factory.mktemp(kind)
            model = MAKE[kind]()
            with torch.no_grad():  # as they are drawn, what a tower says is next to nothing beside a token
                for p in model.parameters():
                    if p.ndim > 1:
                        p.mul_(4)
            model.save_pretrained(made[kind])
            (made[kind] / "preprocessor_config.json").write_text(json.dumps(PREPARED))
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def layout():
    return Layout.of(CARD, seconds=2.0, task="activity", codec=Plugin(name="transform"))


@pytest.fixture(scope="module")
def documents(layout):
    docs = layout.encode(soft.windows(2), ["rest", "rest", "walk", "walk"] * 3)
    short = layout.encode([{"eda": w["eda"]} for w in soft.windows(2)[:2]], ["rest", "walk"])
    return [*docs[:3], *short]


def asked(kind, tower):
    section = {"tower": tower}
    if tower == "audio":
        section["seconds"] = SECONDS
    elif kind != "llava_onevision":
        section["side"] = SIDE
    return section


def opened(folders, kind, tower, layout=None):
    size = 20 if layout is None else layout.vocabulary.size
    made = llava.load(llava.Config(model=str(folders(kind)), shown=asked(kind, tower)), size)
    if layout is not None:
        constrain(made.model, layout.grammar, made.offset, made.never)
    return made


def attached(made, layout):
    model = lora.attach(made, lora.Lora(rank=2), adapted.rows_to_train(layout, made), 0)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "lora_B" in n:
                p.normal_(0, 0.1)
    return model


def sound(seed=0, seconds=SECONDS, rate=RATE, channels=1, scale=0.3, valid=None):
    values = scale * np.random.default_rng(seed).normal(size=(round(seconds * rate), channels))
    return Signal(values=values, rate_hz=rate, channels=tuple("ab"[:channels]), unit="full scale", valid=valid)


def seen(tower, seed=0, side=SIDE):
    if tower == "audio":
        return sound(seed)
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3)).astype(np.uint8)


# --- the oracle -----------------------------------------------------------------------------------------------------
def theirs(model, kind, tower, given, words):
    """What the class itself does with one recording and words behind it: the first embeddings of its language model at its
    placeholders, and logits [words, vocabulary]. How it is prepared is the processors' own."""
    n, first = SHAPES[kind, tower][0], 0
    ids, extra, place = words, {}, model.config.image_token_id
    if tower == "audio":
        ears = t.WhisperFeatureExtractor(**HEARD, chunk_length=4)
        found = ears(given.values[:, 0], sampling_rate=RATE, return_attention_mask=True, return_tensors="pt")
        extra = {"input_features": found.input_features, "feature_attention_mask": found.attention_mask}
        place = model.config.audio_token_id
    elif kind == "llava_onevision":  # two pictures: each is taken whole, and the first stands first
        how = t.LlavaOnevisionImageProcessor(
            size={"height": 28, "width": 28}, **{k: PREPARED[k] for k in ("image_mean", "image_std")}
        )
        pixels = how([[given, given]], return_tensors="pt").pixel_values[:, :1]
        sizes = torch.tensor([[28, 28]] * 2)
        extra = {"pixel_values": pixels, "image_sizes": sizes, "batch_num_images": torch.tensor([2])}
        ids = [place] * n + words  # the second, which nothing before it sees
        words = [place] * n + words
    else:
        how = t.Qwen2VLImageProcessor(**{k: PREPARED[k] for k in ("image_mean", "image_std", "patch_size")})
        found = how(Image.fromarray(given), return_tensors="pt")
        assert found.image_grid_thw.tolist() == [[1, 6, 6]]
        extra = {"pixel_values": found.pixel_values, "image_grid_thw": found.image_grid_thw}
        if "omni" in kind:  # tells a picture by what stands before it
            ids, first = words, 1
    row = [297] * first + [place] * n + ids
    whole = torch.tensor([row])
    if "grid" in "".join(extra) and "omni" not in kind:
        extra["mm_token_type_ids"] = (whole == place).int()
    kept = {}

    def look(module, args, kwargs):
        kept["embeds"] = kwargs["inputs_embeds"]

    hook = model.model.language_model.register_forward_pre_hook(look, with_kwargs=True)
    with torch.no_grad():
        logits = model(input_ids=whole, attention_mask=torch.ones_like(whole), **extra).logits[0]
    hook.remove()
    return kept["embeds"][0, first : first + n], logits[first + n :]


@pytest.mark.parametrize(("kind", "tower"), CASES)
def test_soft_tokens_are_those_of_the_models_own_forward(folders, kind, tower):
    made = opened(folders, kind, tower)
    assert made.finished
    tokens_, width = SHAPES[kind, tower]
    given = seen(tower, side=28 if kind == "llava_onevision" else SIDE)
    packed = made.packed([given])
    assert packed.shape == (1, made.soft, width) == (1, tokens_, width)
    plain = type(MAKE[kind]()).from_pretrained(folders(kind)).eval()
    words = [5, 6, 7, 8]
    embeds, logits = theirs(plain, kind, tower, given, words)
    assert embeds.abs().max() > 1e-2
    assert torch.allclose(torch.as_tensor(packed[0, :, :32]), embeds, atol=1e-5)
    if kind == "llava_onevision" or (kind, tower) == ("qwen2_5_omni_thinker", "image"):
        return  # another prompt there
    batch = made.batch([np.array(words)], prompt=1, persons=[0], given=[given])
    ids = torch.cat([batch.ids[:, : made.soft], torch.tensor([words])], 1)  # its own words
    with torch.no_grad():
        ours = made.model(**{**made.inputs(batch), "input_ids": ids}).logits[0, made.soft :, :300]
        bare = made.model(input_ids=torch.tensor([words])).logits[0, :, :300]
    assert torch.allclose(ours, logits, atol=1e-4)
    assert not torch.allclose(ours, bare, atol=1e-2)


def test_omni_counts_the_places_of_a_picture_as_it_does_itself(folders):
    made = opened(folders, "qwen2_5_omni_thinker", "image")
    row = torch.tensor([[297, *[299] * 9, 5, 6, 7]])
    grid = torch.tensor([[1, 6, 6]])
    wanted, _ = made.model.model.get_rope_index(row, image_grid_thw=grid, attention_mask=torch.ones_like(row))
    kept = {}
    words = made.model.model.language_model
    words.register_forward_pre_hook(lambda module, args, kwargs: kept.update(kwargs), with_kwargs=True)
    batch = made.batch([np.arange(3)], prompt=1, persons=[0], given=[seen("image")])
    with torch.no_grad():
        made.model(**made.inputs(batch))
    assert torch.equal(kept["position_ids"][:, 0], wanted[:, 0, 1:] - 1)


def test_places():
    ids = torch.zeros(3, 7, dtype=torch.long)
    mask = torch.tensor([[1] * 7, [0] * 4 + [1] * 3, [1] * 4 + [0, 1, 1]])
    found, sooner = llava.places(ids, mask, None, 2)
    assert sooner.tolist() == [[-2], [0], [-2]]
    assert found[:, 0].tolist() == [[0, 0, 0, 0, 2, 3, 4], [0, 0, 1, 1, 2, 3, 4], [0, 1, 0, 1, 2, 3, 4]]
    assert found[:, 1, 4:].tolist() == [[0, 1, 2]] * 3  # shown nothing: as without soft tokens
    assert found[:, 2, 5:].tolist() == [[2, 3]] * 3  # padding between, as where prompts differ in length


# --- whose a row is -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "tower"), CASES)
def test_a_unit_sees_its_own_recording_and_no_other(folders, kind, tower, layout, documents):
    made = opened(folders, kind, tower, layout)
    model, all_ = attached(made, layout).eval(), [seen(tower, i, 60) for i in range(5)]
    mine = made.packed(all_[:1])
    for others in (all_[1:3], [all_[4]], [None, all_[2]]):
        assert np.array_equal(made.packed([all_[0], *others])[0], mine[0])  # to the bit
        assert np.array_equal(made.packed([*others, all_[0]])[-1], mine[0])
    assert not made.packed([None]).any()

    def losses(docs, given):
        batch = made.batch(docs, prompt=layout.prompt_length, persons=[0] * len(docs), given=given)
        with torch.no_grad():
            return made.losses(model, batch).numpy()

    alone = losses([documents[3]], [all_[0]])[0]
    for docs, given in (
        (documents[:3], all_[1:4]),
        (documents[2::-1], all_[3:0:-1]),
        (documents[:3], [None, all_[2], None]),
    ):
        found = losses([documents[3], *docs], [all_[0], *given])
        assert np.isfinite(found).all()
        assert np.allclose(found[0], alone, atol=2e-5)
    assert abs(losses([documents[3]], [all_[4]])[0] - alone) > 1e-4  # what is shown matters
    text = made.batch([documents[3]], prompt=layout.prompt_length, persons=[0])
    with torch.no_grad():  # nothing shown, beside others that are: as without soft tokens
        wanted = made.losses(model, text)[0]
    assert np.allclose(losses([documents[3], documents[0]], [None, all_[0]])[0], wanted, atol=2e-5)
    assert np.allclose(losses([documents[3]], [None])[0], wanted, atol=2e-5)


@pytest.mark.parametrize(("kind", "tower", "checkpointing"), [
    ("llava_onevision", "image", False), ("qwen2_5_vl", "image", True), ("qwen3_vl", "image", False), ("qwen3_vl", "image", True),
    ("qwen2_5_omni_thinker", "audio", True),
])  # fmt: skip
def test_gradients_are_exact_and_a_persons_own(folders, kind, tower, checkpointing, layout, documents):
    """The start-up checks of a private run; and one person's gradient, whoever else is in the batch."""
    made = opened(folders, kind, tower, layout)
    model, all_ = attached(made, layout), [seen(tower, i) for i in range(6)]
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    flat = Flat(model)
    assert all("language_model" in s.name for s in flat.slots)
    gradients = PersonGradients(flat)
    given = made.packed(all_)  # as an adapt run keeps them
    probes = made.probes(documents[:4], prompt=layout.prompt_length, given=list(given[:4]))
    guards.check(model, made.losses, probes, flat, gradients)
    found = []
    for others in (given[1:3], given[4:6], [None, None]):
        docs = [documents[1], documents[0], documents[2]]
        batch = made.batch(docs, prompt=layout.prompt_length, persons=[0, 1, 2], given=[given[0], *others])
        gradients.clear()
        with gradients.collect(batch.unit, 3) as buffer:
            made.losses(model, batch).sum().backward()
        found.append(buffer[0].clone())
    assert found[0].abs().max() > 1e-3
    assert all(torch.allclose(found[0], f, atol=1e-5) for f in found[1:])


# --- sampling -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "tower"), CASES)
def test_documents_sampled_under_soft_tokens(folders, kind, tower, layout, documents):
    """Valid, the same bits again, and with the cache the likeliest token is that of one pass without it, also where prompts of other
    lengths are padded in front."""
    made = opened(folders, kind, tower, layout)
    model, given = attached(made, layout), [seen(tower, i) for i in range(3)]
    shown = made.soften(model, given)
    assert shown.dtype == torch.float32
    prompts = [layout.prompt("rest"), documents[1][:9].tolist(), layout.prompt("walk")]

    def drawn(temperature, which, guidance=0.0):
        rows = sample.documents(
            model, layout, made.own_ids, [prompts[i] for i in which], temperature=temperature, seed=3, guidance=guidance,
            shown=shown[list(which)],
        )  # fmt: skip
        assert all(layout.grammar.accepts(d[d != PAD]) for d in rows)
        return rows

    assert np.array_equal(drawn(1.0, (0, 2)), drawn(1.0, (0, 2)))
    drawn(1.0, (0, 1), guidance=1.0)
    for which in ((0, 2), (0, 1)):
        surest = [d[d != PAD] for d in drawn(1e-9, which)]
        batch = made.batch(surest, prompt=layout.prompt_length, persons=[0] * 2, given=[given[i] for i in which])
        with torch.no_grad():
            likeliest = model(**made.inputs(batch)).logits.argmax(-1).numpy()
        for i, row, d in zip(which, likeliest, surest, strict=True):
            start = len(prompts[i])
            after = row[made.soft + start - 1 : made.soft + len(d) - 1] - made.offset
            assert (after == d[start:])[1:].all()  # the first may not be a relation when sampling


# --- recordings -----------------------------------------------------------------------------------------------------
def test_a_film_is_its_middle_picture_and_a_missing_stream_is_nothing(folders):
    made = llava.load(llava.Config(model=str(folders("qwen2_vl")), shown={"stream": "film", "side": SIDE}), 20)
    frames = np.stack([seen("image", i) for i in range(5)])
    film = Video(frames=frames, rate_hz=1.0)
    packed = made.packed([{"film": film}, frames[2], film, {"voice": sound()}, Image.fromarray(frames[2])])
    assert all(np.array_equal(packed[i], packed[1]) for i in (0, 2, 4))
    assert packed[0].any()
    assert not packed[3].any()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("size", [(0, 0), (0, 4), (4, 0)])
def test_a_picture_of_no_pixels_is_refused(size, whole):
    with pytest.raises(MienError, match="an image has height and width"):
        _senses.Images(size=28, resize=28, whole=whole, mean=(0.5,) * 3, std=(0.5,) * 3).pack([Image.new("RGB", size)])


def test_llava_onevision_is_shown_a_picture_whole(folders):
    made = opened(folders, "llava_onevision", "image")
    tall = np.linspace(0, 255, 90).astype(np.uint8)[:, None, None].repeat(30, 1).repeat(3, 2)
    how = {k: PREPARED[k] for k in ("image_mean", "image_std")}
    theirs_ = t.LlavaOnevisionImageProcessor(size={"height": 28, "width": 28}, **how)(
        [[tall, tall]], return_tensors="pt"
    )
    images = _senses.Images(size=28, resize=28, whole=True, mean=tuple(how["image_mean"]), std=tuple(how["image_std"]))
    assert np.allclose(images.pack([tall])[0], theirs_.pixel_values[0, 0], atol=0.03)  # of two libraries' bicubic
    wide = tall.transpose(1, 0, 2)
    assert np.allclose(images.pack([wide])[0], images.pack([tall])[0].transpose(0, 2, 1), atol=0.01)
    square = np.full((90, 90, 3), [127, 102, 76], np.uint8)
    square[:, 30:60] = tall
    assert np.allclose(made.packed([tall]), made.packed([square]), atol=1e-5)


def test_llava_15_is_shown_films_too(folders):
    made = llava.load(llava.Config(model=str(folders("llava")), shown={"stream": "film"}), 20)
    frames = np.stack([seen("image", i) for i in range(3)])
    packed = made.packed([{"film": Video(frames=frames, rate_hz=1.0)}, frames[1], {}])
    assert not made.finished
    assert np.array_equal(packed[0], packed[1])
    assert not packed[2].any()


@pytest.mark.parametrize("rate", [4000.0, 8000.0, 22050.0, 44100.0, 48000.0])
def test_another_rate_is_the_same_sound(folders, rate):
    """A tone, from its rate to the tower's: sample by sample, but for the filter's edges."""
    how = _senses.Sounds.read(str(folders("qwen2_5_omni_thinker")), None, 16, 0.5)

    def tone(hz):
        return np.sin(2 * np.pi * 200 * np.arange(round(hz * 0.7)) / hz)

    wave = how.wave(Signal(values=tone(rate)[:, None], rate_hz=rate, channels=("a",), unit="full scale"))
    assert wave.shape == (8000,)
    assert np.allclose(wave[800:7200], tone(RATE)[800:7200], atol=0.02)


def test_short_stereo_and_broken_sounds(folders):
    how = _senses.Sounds.read(str(folders("qwen2_5_omni_thinker")), None, 16, SECONDS)
    short = sound(seconds=0.25)
    assert np.array_equal(how.wave(short)[:4000], short.values[:, 0])  # then silence
    assert not how.wave(short)[4000:].any()
    assert how.mel(short).shape == (16, 100)
    both = sound(channels=2)
    assert np.allclose(how.wave(both), both.values.mean(1), atol=1e-6)
    there = np.arange(RATE) % 100 < 90
    broken = sound()
    broken.values[~there] = np.nan  # a gap is silence
    broken = replace(broken, valid=there)
    assert np.isfinite(how.mel(broken)).all()
    assert np.array_equal(how.wave(broken), np.where(there, broken.values[:, 0], 0))
    made = opened(folders, "qwen2_5_omni_thinker", "audio")
    empty = sound(seconds=0.0)
    nothing = replace(sound(), valid=np.zeros(RATE, bool))
    assert not made.packed([empty, nothing, None]).any()
    assert made.packed([replace(sound(), values=np.zeros((RATE, 1)))]).any()  # silence is no missing sound


@pytest.mark.parametrize(("kind", "tower", "given", "why"), [
    ("qwen2_vl", "image", np.zeros((8, 8, 3)), "an image is uint8"),
    ("qwen2_vl", "image", np.zeros((0, 8, 3), np.uint8), "an image is uint8"),
    ("qwen2_vl", "image", np.zeros((8, 8), np.uint8), "an image is uint8"),
    ("qwen2_vl", "image", sound(), "not Signal"),
    ("qwen2_vl", "image", {"film": None}, "backbone.shown.stream: say which of film"),
    ("qwen2_vl", "image", np.zeros((8, 8, 3), np.float32), r"float32\[9, 32\] and finite"),
    ("llava_onevision", "image", np.full((5, 32), np.nan, np.float32), "and finite"),
    ("qwen2_5_omni_thinker", "audio", np.zeros(16000), "a sound is a Signal"),
    ("qwen2_5_omni_thinker", "audio", Video(frames=np.zeros((1, 8, 8, 3), np.uint8), rate_hz=1.0), "not Video"),
    ("qwen2_5_omni_thinker", "audio", sound(rate=5e7, seconds=1e-6), "too far from the 16000 Hz"),
    ("qwen2_5_omni_thinker", "audio",
     Signal(values=np.zeros((9, 3)), rate_hz=RATE, channels=("x", "y", "z"), unit="g"), "3 channels"),
])  # fmt: skip
def test_what_is_no_recording_for_a_tower(folders, kind, tower, given, why):
    with pytest.raises(MienError, match=why):
        opened(folders, kind, tower).packed([given])


def test_a_sound_that_is_not_a_number_is_no_signal():
    with pytest.raises(MienError, match="NaN"):
        replace(sound(), values=np.full((4, 1), np.nan))


@pytest.mark.parametrize(("kind", "shown", "why"), [
    ("qwen2_vl", {"tower": "audio"}, "qwen2_vl has no tower for audio; it has one for image"),
    ("qwen2_vl", {"side": 60}, "60 pixels, and qwen2_vl sees squares of 28: take 56"),
    ("qwen2_vl", {"seconds": 1.0}, "backbone.shown.seconds is of a sound"),
    ("llava_onevision", {"side": 28}, "backbone.shown.side"),
    ("qwen2_5_omni_thinker", {"tower": "audio", "seconds": 1.0, "side": 28}, "backbone.shown.side"),
    ("qwen2_5_omni_thinker", {"tower": "audio"}, "backbone.shown.seconds"),
    ("qwen2_5_omni_thinker", {"tower": "audio", "seconds": 0.01}, "too short for the tower"),
])  # fmt: skip
def test_what_a_tower_cannot_be_shown(folders, kind, shown, why):
    with pytest.raises(MienError, match=why):
        llava.load(llava.Config(model=str(folders(kind)), shown=shown), 20)


@pytest.mark.parametrize(("told", "why"), [
    (None, "has no preprocessor_config.json of a WhisperFeatureExtractor with feature_size"),
    ({**HEARD, "hop_length": None}, "WhisperFeatureExtractor with hop_length"),
    ({**HEARD, "feature_extractor_type": "Other"}, "nobody knows how its tower was given sounds"),
    ({**HEARD, "feature_size": 80}, "80 mel bands"),
])  # fmt: skip
def test_a_folder_that_does_not_say_how_sounds_are_prepared(folders, tmp_path, told, why):
    if told is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(MienError, match=why):
        _senses.Sounds.read(str(tmp_path), None, 16, 1.0)
    with pytest.raises(MienError, match="image_mean"):
        _senses.Images.read(str(tmp_path), None, 28).pack([seen("image")])


def test_two_towers_and_none_named(folders):
    """Text alone is carried as before; a recording is refused."""
    made = llava.load(llava.Config(model=str(folders("qwen2_5_omni_thinker"))), 20)
    assert (made.soft, made.pack) == (0, None)
    with pytest.raises(MienError, match=r"`shown: \{tower: …\}` says which"):
        made.packed([sound()])


# --- from a recipe --------------------------------------------------------------------------------------------------
STREAMS = {
    "voice": StreamSpec(channels=("voice",), unit="full scale", rate_hz=16000.0, range=(-1.0, 1.0)),
    "eda": StreamSpec(channels=("eda",), unit="uS", rate_hz=4.0, range=(0.0, 40.0)),
    "words": StreamSpec(channels=("participant",), kind="text"),
}
FILM = {**STREAMS, "film": StreamSpec(channels=RGB, rate_hz=1.0, kind="video")}


@pytest.mark.parametrize(("kind", "streams", "shown", "full"), [
    ("qwen2_5_omni_thinker", STREAMS, None, {"stream": "voice", "tower": "audio", "seconds": 4.0}),
    ("qwen2_5_omni_thinker", STREAMS, {"seconds": 2.0}, {"stream": "voice", "tower": "audio", "seconds": 2.0}),
    ("qwen2_5_omni_thinker", FILM, {"stream": "film", "side": 84}, {"stream": "film", "tower": "image", "side": 84}),
    ("qwen2_5_omni_thinker", FILM, {"tower": "audio"}, {"stream": "voice", "tower": "audio", "seconds": 4.0}),
    ("qwen3_vl", FILM, None, {"stream": "film", "tower": "image"}),
    ("llava", FILM, None, {"stream": "film", "tower": "image"}),
])  # fmt: skip
def test_the_recipes_stream(folders, kind, streams, shown, full):
    section = Plugin(name="llava", model=str(folders(kind)), **({} if shown is None else {"shown": shown}))
    made = llava.with_senses(section, streams, 4.0)
    assert made.options["shown"] == full
    assert llava.with_senses(made, streams, 4.0) == made  # a later verb finds it as it is
    assert parse(llava.Config, made.options, "backbone").shown == _senses.Shown(**full)


@pytest.mark.parametrize(("kind", "streams", "shown", "why"), [
    ("qwen2_5_omni_thinker", FILM, None, "are such: name one"),
    ("qwen2_vl", STREAMS, None, r"backbone.shown.stream: the towers of qwen2_vl take a film \(kind video\), and of .*none is"),
    ("qwen2_vl", FILM, {"stream": "voice"}, "'voice' is nothing for a tower of qwen2_vl"),
    ("qwen2_5_omni_thinker", FILM, {"stream": "eda"}, "'eda' is nothing for a tower"),
    ("qwen2_5_omni_thinker", FILM, {"stream": "voice", "tower": "image"}, "'voice' is nothing for a tower"),
    ("qwen2_5_omni_thinker", FILM, {"stream": "sound"}, "no stream 'sound'; the cohort has eda, film, voice, words"),
    ("qwen2_5_omni_thinker", FILM, {"stream": "voice", "seconds": 5}, "5 s of sound, and a window has 4"),
])  # fmt: skip
def test_streams_that_the_recipe_cannot_show(folders, kind, streams, shown, why):
    section = Plugin(name="llava", model=str(folders(kind)), **({} if shown is None else {"shown": shown}))
    with pytest.raises(MienError, match=why):
        llava.with_senses(section, streams, 4.0)


def test_shown_is_for_the_models_own_towers(folders, layout):
    with pytest.raises(MienError, match="shown: is for the model's own towers"):
        parse(llava.Config, {"model": "x", "signals": {}, "shown": {}}, "backbone")
    section = Plugin(name="llava", model=str(folders("qwen2_vl")), shown={"side": 84})
    with pytest.raises(MienError, match="backbone.shown: no recording is given as soft tokens"):
        adapted.joined(section, layout, CARD)
    other = Plugin(name="llava", model=str(folders("qwen2_vl")), adapt_projector=True)
    with pytest.raises(MienError, match=r"backbone.adapt_projector: the towers of qwen2_vl stay frozen"):
        adapted.open_base(other, layout, shown=True)


class Recipe(tokens.Written):
    backbone: Plugin
    lora: Lora = Lora(rank=2)


@pytest.mark.parametrize(("kind", "cohort", "stream"), [
    ("qwen2_5_omni_thinker", simulated_life, "voice"), ("qwen3_vl", simulated_film, "film"), ("llava", simulated_film, "film"),
])  # fmt: skip
def test_what_a_recipe_shows(folders, home, kind, cohort, stream):
    """Another window of the same recording, through the model's own tower, before the documents of a stream that is written."""
    options = {"persons": 2, "sessions": 2, "seconds": 10, "streams": ["temp", stream], "missing": 0.0}
    name = cohort.__name__.rsplit(".", 1)[1]
    base = {"name": "llava", "model": str(folders(kind))}
    recipe = Recipe(
        study="toy", cohort=Plugin(name=name, **options), task="stress", seconds=2, stride_s=2, streams=("temp",),
        codec=Plugin(name="bins", hz=0.5), condition=tokens.Condition(soft=0.6), backbone=Plugin(**base),
    )  # fmt: skip
    data = cohort.load(cohort.Config(**options))
    section = adapted.joined(recipe.backbone, recipe.layout(data.card), data.card, True)
    writing = adapted.Writing(recipe.model_copy(update={"backbone": section}), data.card)
    writing.encode(data, lambda w: True, lambda r: r, True)
    given = writing.documents.beside(range(len(writing)))["given"]
    assert 0 < sum(g is None for g in given) < len(given) == 20
    for i, g in enumerate(given):
        r = next(r for r in data if r.id == writing.documents.recordings[writing.recording[i]])
        cuts = {
            at: writing.base.packed([{stream: r.streams[stream].cut(at, at + 2)}])[0]
            for at in (0.0, 2.0, 4.0, 6.0, 8.0)
        }
        same = [at for at, c in cuts.items() if g is not None and np.array_equal(c, g)]
        assert g is None or (len(same) == 1 and same[0] != writing.documents.start_s[i])
    model = writing.attach(data.card, None, home, "cpu")
    loss = writing.losses(model, writing.batch(np.arange(len(writing)), "cpu"))
    assert torch.isfinite(loss).all()
    loss.sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if p.requires_grad)
