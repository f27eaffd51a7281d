"""LLaVA-style backbones: LoRA stays where it belongs, soft tokens belong to one unit each, text-only documents just work."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import transformers as t

from mien.adapters import lora
from mien.backbones import llava
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.generation import sample
from mien.generation.adapted import open_base, rows_to_train
from mien.generation.layout import Layout
from mien.generation.vocabulary import PAD

from ..conftest import CARD, recordings
from .soft import MAKE, TEXT, TOWER

TOWERS = re.compile(r"vision_tower|visual(?!\.(merger|deepstack))|audio_tower")
PROJECTORS = re.compile(r"multi_modal_projector|visual\.(merger|deepstack_merger_list)")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Random models of a few thousand parameters, one folder per architecture, made when asked for."""
    made = {}

    def folder(kind):
        if kind not in made:
            torch.manual_seed(0)
            made[kind] = tmp_path_factory.mktemp(kind)
            MAKE[kind]().save_pretrained(made[kind])
        return made[kind]

    return folder


@pytest.fixture(scope="module")
def layout():
    return Layout.of(CARD, seconds=2.0, task="activity", codec=Plugin(name="transform"))


@pytest.fixture(scope="module")
def documents(layout):
    cuts = [{n: s.cut(at, at + 2.0) for n, s in r.streams.items()} for r in recordings(2) for at in (0.0, 4.0)]
    labels = [r.labels["activity"] for r in recordings(2) for _ in (0, 4)]
    docs = layout.encode(cuts, labels)
    assert all(d is not None for d in docs)
    short = layout.encode([{"eda": cuts[0]["eda"]}], ["rest"])[0]
    assert len(short) < len(docs[0])
    return [short, *docs]


def trained(model):
    return {n.removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", list(MAKE))
def test_lora_stays_in_the_language_model_unless_asked(folders, kind, tmp_path):
    """Towers and projectors have layers of the same names; nothing of them may be hit, and nothing but linear layers."""
    place = str(folders(kind))
    found = {}
    for projector, vision in ((False, False), (True, False), (False, True)):
        config = llava.Config(model=place, adapt_projector=projector, adapt_vision=vision)
        if kind != "llava" and (projector or vision):
            named = "adapt_projector" if projector else "adapt_vision"
            with pytest.raises(MienError, match=rf"backbone\.{named}: the towers of {kind} stay frozen"):
                llava.load(config, 20)
            continue
        base = llava.load(config, 20)
        model = lora.attach(base, lora.Lora(rank=2), range(base.offset, base.offset + 20), 0)
        names = trained(model)
        found[projector, vision] = (
            {n for n in names if TOWERS.search(n)}, {n for n in names if PROJECTORS.search(n)},
            {n for n in names if "language_model" in n},
        )  # fmt: skip
        assert sum(map(len, found[projector, vision])) == len(names)
        assert "lm_head" not in "".join(names)
        assert not any("patch_embed" in n for n in names)  # a convolution called like a projection
        assert bool(base.beside) == (projector or vision)
    towers, projectors, language = found[False, False]
    # 2 layers x 7 linear layers x 2 factors, and the behaviour rows
    assert (len(towers), len(projectors), len(language)) == (0, 0, 2 * 7 * 2 + 1)
    if kind == "llava":
        assert not found[True, False][0]
        assert found[True, False][1]
        assert found[False, True][0]
        assert not found[False, True][1]
        assert found[True, False][2] == found[False, True][2] == language


def test_what_a_tower_is_not_read_from_is_not_adapted(tmp_path):
    """Of SigLIP: its pooled picture is not what LLaVA reads, nor the layer above the one it does."""
    t.LlavaForConditionalGeneration(
        t.LlavaConfig(
            vision_config=t.SiglipVisionConfig(**TOWER), text_config=t.LlamaConfig(**TEXT), image_token_index=299,
            vision_feature_select_strategy="full",
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    base = llava.load(llava.Config(model=str(tmp_path), adapt_vision=True), 20)
    names = {n for n in trained(lora.attach(base, lora.Lora(rank=2), [base.offset], 0)) if TOWERS.search(n)}
    assert names
    assert not any(".head." in n or "layers.2." in n for n in names)


@pytest.mark.parametrize("kind", list(MAKE))
def test_text_documents_on_every_architecture(folders, kind, layout, documents, tmp_path):
    """Losses of one unit do not depend on the others, with right padding; sampling with the cache stays in the grammar
    and finds the tokens it drew as likely as one pass over the whole does; the adapter survives saving."""
    section = Plugin(name="llava", model=str(folders(kind)))
    base = open_base(section, layout)
    assert base.speaks_behaviour is False
    assert base.offset == 300
    assert 299 in base.never
    model = lora.attach(base, lora.Lora(rank=2), rows_to_train(layout, base), 0).eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "lora_B" in n:
                p.normal_(0, 0.2)
        probes = [base.losses(model, b)[0].item() for b in base.probes(documents[:4], prompt=layout.prompt_length)]
        assert np.allclose(probes, probes[0], atol=2e-5)
        prompts = [layout.prompt(v) for v in ["rest", "walk", "walk"]]
        ragged = [prompts[0], documents[1][:9].tolist()]
        made = sample.documents(model, layout, base.own_ids, ragged, temperature=1e-7, seed=0)
        alone = sample.documents(model, layout, base.own_ids, ragged[:1], temperature=1e-7, seed=0)
        assert (made[0][made[0] != PAD] == alone[0][alone[0] != PAD]).all()
        made = sample.documents(model, layout, base.own_ids, prompts, temperature=1.0, seed=0)
        rows = [r[r != PAD] for r in made]
        assert all(layout.grammar.accepts(r) for r in rows)
        batch = base.batch(rows, prompt=layout.prompt_length, persons=[0, 0, 0])
        nll, counted = base.token_losses(model, batch)
        again = sample.documents(model, layout, base.own_ids, prompts, temperature=1e-7, seed=0)
        best = [r[r != PAD] for r in again]  # as good as greedy: one pass over it must agree at every token
        batch = base.batch(best, prompt=layout.prompt_length, persons=[0, 0, 0])
        logits = model(**base.inputs(batch)).logits[:, :-1]
        keep = base.token_losses(model, batch)[1].bool()
        assert (logits.argmax(-1) == batch.ids[:, 1:])[keep].float().mean() > 0.98
        assert torch.isfinite(nll).all()
        before = base.losses(model, batch)
    lora.save(model, tmp_path / "adapter", base)
    other = open_base(section, layout)
    back = lora.restore(other, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.allclose(other.losses(back, batch), before, atol=1e-6)
    plain = getattr(t, type(base.model).__name__).from_pretrained(folders(kind))
    plain.resize_token_embeddings(base.offset + layout.vocabulary.size, mean_resizing=False)
    from peft import PeftModel

    alone = PeftModel.from_pretrained(plain, tmp_path / "adapter")  # without Mien
    assert trained(alone.train()) <= trained(back)
    assert {n for n, _ in alone.named_parameters() if "lora_" in n} == {
        n for n, _ in back.named_parameters() if "lora_" in n
    }


@pytest.mark.parametrize("quantise", ["8bit", "4bit"])
def test_a_quantised_base_keeps_rows_apart(tmp_path, layout, documents, quantise):
    pytest.importorskip("bitsandbytes")
    wide = {"hidden_size": 64, "intermediate_size": 128}  # bitsandbytes has no kernel for narrower layers on a CPU
    t.LlavaForConditionalGeneration(
        t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**{**TOWER, **wide}), text_config=t.LlamaConfig(**{**TEXT, **wide}),
            image_token_index=299,
        )
    ).save_pretrained(tmp_path / "base")  # fmt: skip
    base = open_base(Plugin(name="llava", model=str(tmp_path / "base"), quantise=quantise), layout)  # type: ignore[call-arg]
    model = lora.attach(base, lora.Lora(rank=2), rows_to_train(layout, base), 0).eval()
    with torch.no_grad():
        probes = [base.losses(model, b)[0].item() for b in base.probes(documents[:4], prompt=layout.prompt_length)]
    assert np.allclose(probes, probes[0], atol=1e-4)


def test_the_last_layers_alone(folders):
    """`lora.layers` counts the language model's layers, though towers have layers of the same numbers."""
    base = llava.load(llava.Config(model=str(folders("llava"))), 20)
    names = trained(lora.attach(base, lora.Lora(rank=2, layers=1), range(base.offset, base.offset + 20), 0))
    assert {n for n in names if "lora_" in n} == {n for n in names if "language_model.layers.1." in n}
    assert len(names) == 7 * 2 + 1


def test_the_verbs_refuse_to_adapt_what_nothing_looks_through(folders, layout):
    with pytest.raises(MienError, match="no recording is given as soft tokens"):
        open_base(Plugin(name="llava", model=str(folders("llava")), adapt_vision=True), layout)  # type: ignore[call-arg]


def test_the_thinker_of_a_whole_omni_model(folders, tmp_path):
    """Hubs hold thinker, talker and all in one folder; the thinker alone is opened, and is the same."""
    from safetensors.torch import load_file, save_file

    alone = folders("qwen2_5_omni_thinker")
    thinker = t.AutoConfig.from_pretrained(alone)
    t.Qwen2_5OmniConfig(thinker_config=thinker.to_dict()).save_pretrained(tmp_path)
    tensors = {f"thinker.{k}": v for k, v in load_file(alone / "model.safetensors").items()}
    save_file({**tensors, "talker.other": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    whole, own = (llava.load(llava.Config(model=str(f)), 10) for f in (tmp_path, alone))
    assert whole.fingerprint == own.fingerprint
