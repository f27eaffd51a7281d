"""Causal LMs from a local folder: behaviour rows appended, everything frozen, the public name without the path."""

from __future__ import annotations

import pytest
import torch

from mien.adapters import lora
from mien.backbones import causal_lm, tiny
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.generation import sample
from mien.generation.grammar import constrain
from mien.generation.layout import Layout
from mien.generation.vocabulary import PAD, Vocabulary

from ..conftest import CARD

VOCABULARY = Vocabulary(("transform",))


@pytest.fixture
def folder(tmp_path):
    """A text model of its own vocabulary, as somebody would have it on disk."""
    tiny.fresh(tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48), 300, 0).save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


def test_a_local_folder(folder):
    one, two = (causal_lm.load(causal_lm.Config(model=str(folder)), VOCABULARY.size) for _ in range(2))
    assert one.offset == 300
    assert one.identity == "local/lm"
    assert one.fingerprint == two.fingerprint
    assert not any(p.requires_grad for p in one.model.parameters())
    assert one.model.get_output_embeddings().weight.shape[0] == 300 + VOCABULARY.size
    assert torch.equal(one.model.get_input_embeddings().weight, two.model.get_input_embeddings().weight)
    layout = Layout.of(CARD, seconds=2.0, task="activity", codec=Plugin(name="transform"))
    constrain(one.model, layout.grammar, one.offset)
    rows = range(one.offset, one.offset + VOCABULARY.size)
    model = lora.attach(one, lora.Lora(rank=2), list(rows), 0)
    made = sample.documents(
        model,
        layout,
        (lambda ids: ids + one.offset),
        [layout.prompt(v) for v in ["rest", "walk"]],
        temperature=1.0,
        seed=0,
    )
    assert all(layout.grammar.accepts(r[r != PAD]) for r in made)


@pytest.mark.parametrize("spoil", ["config.json", "model.safetensors"])
def test_a_broken_folder_is_named(folder, spoil):
    (folder / spoil).unlink()
    with pytest.raises(MienError, match="cannot load the causal LM"):
        causal_lm.load(causal_lm.Config(model=str(folder)), 10)


def test_tiny_without_weights_says_how_to_make_them(home):
    with pytest.raises(MienError, match="mien pretrain recipes/watch/pretrain.yaml"):
        tiny.load(tiny.Config(), 10)
    with pytest.raises(MienError, match="mien pretrain"):
        tiny.load(tiny.Config(weights="pretrain-none-123"), 10)


@pytest.mark.parametrize("quantise", ["8bit", "4bit"])
def test_a_quantised_base_keeps_rows_apart(tmp_path, quantise):
    """With its usual outlier threshold an 8-bit base rounds my row by what the others hold (measured: 0.003)."""
    pytest.importorskip("bitsandbytes")
    folder = tmp_path / "lm"
    tiny.fresh(tiny.Shape(hidden=64, layers=2, heads=2, feed_forward=128), 300, 0).save_pretrained(folder)
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][5] = 0.0
    tensors["model.embed_tokens.weight"][5, 7] = 5.0  # one token with an outlier feature
    tensors["model.layers.0.input_layernorm.weight"][7] = 8.0
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    made = causal_lm.load(causal_lm.Config(model=str(folder), quantise=quantise), VOCABULARY.size)
    mine, others = torch.arange(10, 18)[None], torch.full((3, 8), 5)
    with torch.no_grad():
        alone = made.model(input_ids=mine).logits
        together = made.model(input_ids=torch.cat([mine, others])).logits[:1]
    assert alone.shape[-1] == 300 + VOCABULARY.size
    assert torch.allclose(alone, together, atol=1e-5)
