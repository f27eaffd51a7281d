"""Likelihoods without logits: against the masked logits of the same model, value and gradient, and where they are not taken."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from mien.adapters import lora, stacked
from mien.backbones import tiny
from mien.backbones.causal_lm import CausalBackbone, linear_names, weights_digest
from mien.core.config import Plugin
from mien.generation import grammar as grammar_module
from mien.generation import narrow
from mien.generation.adapted import rows_to_train
from mien.generation.grammar import Grammar, constrain
from mien.generation.layout import Layout
from mien.generation.machine import ANY_OWN, OWN, Machine
from mien.generation.tokens import Documents
from mien.generation.vocabulary import BOS, EOS, FIRST_CODEC, LABEL_0, STREAM_0
from mien.privacy.flat import Flat
from mien.privacy.gradients import PersonGradients

from ..conftest import CARD

SHAPE = tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48)
WORDS = Machine(
    nodes=2, length=6, add={0: np.ones(1)}, gates={0: (3, 1)}, arcs=[(0, ANY_OWN, 0, 0), (0, 0, 1, 2), (1, 0, 1, 2)]
)


@pytest.fixture
def setting(cohort):
    layout = Layout.of(CARD, seconds=2.0, task="activity", codec=Plugin(name="transform"))
    return layout, Documents.encode(cohort, layout, stride_s=1.0, quiet=True)


def spoken(model, layout):
    model = constrain(model, layout.grammar, 0)
    return CausalBackbone(
        model=model, identity="mien/test", revision=None, fingerprint=weights_digest(model), offset=0,
        lora_targets=linear_names(model), speaks_behaviour=True,
    )  # fmt: skip


def batch(backbone, documents, n=5):
    docs = [documents[i] for i in range(n - 1)] + [documents[n][: len(documents[n]) // 2]]  # one is shorter
    return backbone.batch(docs, prompt=2, persons=[0] * n)


def family(name: str, vocabulary: int):
    """A random tiny model of a public family."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = dict(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=1024, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes))


def by_logits(backbone, model, made):
    return backbone._token_losses(model(**backbone.inputs(made)).logits, made)


@pytest.mark.parametrize("name", narrow.PLAIN)
def test_the_families_whose_head_is_read_by_rows_give_what_their_masked_logits_give(setting, name, monkeypatch):
    layout, documents = setting
    model = family(name, layout.vocabulary.size)
    backbone = spoken(model, layout)
    made = batch(backbone, documents)
    wanted, counted = by_logits(backbone, model, made)
    wanted.sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    widest = []
    real = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w, *a: widest.append(w.shape[0]) or real(x, w, *a))
    found, there = backbone.token_losses(model, made)
    assert max(widest) < layout.vocabulary.size  # most logits were never made
    found.sum().backward()
    assert torch.equal(there, counted)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert float(found.detach().sum()) > 100
    for n, p in model.named_parameters():
        assert torch.allclose(p.grad, gradients[n], rtol=1e-3, atol=1e-4), n


@pytest.mark.parametrize("left", [False, True])
def test_padding_on_either_side_changes_nothing(setting, left):
    layout, documents = setting
    backbone = spoken(family("llama", layout.vocabulary.size), layout)
    document = documents[0]
    alone = backbone.batch([document], prompt=2, persons=[0])
    made = backbone.batch([document, np.r_[document, document]], prompt=2, persons=[0, 0])
    wanted, _ = backbone.token_losses(backbone.model, alone)
    if left:
        pad = len(document)
        made.ids[0], made.mask[0] = made.ids[0].roll(pad), made.mask[0].roll(pad)
        position = (made.mask.cumsum(1) - 1).clamp(min=0)
        counted = backbone._counted(made)
        counted[0, : pad + 1] = 0
        found = backbone.model(
            input_ids=made.ids, attention_mask=made.mask, position_ids=position, scored=counted
        ).nll[0, pad:]  # fmt: skip
    else:
        found = backbone.token_losses(backbone.model, made)[0][0]
    assert torch.allclose(found[: wanted.shape[1]], wanted[0], rtol=1e-4, atol=1e-4)


def test_a_token_the_grammar_forbids_is_as_unlikely_as_before(setting):
    layout, documents = setting
    backbone = spoken(family("llama", layout.vocabulary.size), layout)
    broken = documents[0].copy()
    broken[7] = BOS
    made = backbone.batch([broken], prompt=2, persons=[0])
    wanted, _ = by_logits(backbone, backbone.model, made)
    found, _ = backbone.token_losses(backbone.model, made)
    assert float(found[0, 6].detach()) > 9_000
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_words_of_the_base_are_allowed_where_the_grammar_says_so_and_never_where_it_does_not():
    grammar = Grammar.of(classes=1, blocks=[(WORDS, FIRST_CODEC)], size=FIRST_CODEC + 1)
    model = constrain(tiny.fresh(SHAPE, 50 + FIRST_CODEC + 1, 0), grammar, 50, never=(7,))
    local = np.array([BOS, LABEL_0, STREAM_0, OWN + 3, OWN + 9, FIRST_CODEC, EOS])
    backbone = CausalBackbone(
        model=model, identity="", revision=None, fingerprint="", offset=50, lora_targets=[], speaks_behaviour=True
    )
    made = backbone.batch([local], prompt=2, persons=[0])
    wanted, _ = by_logits(backbone, model, made)
    found, _ = backbone.token_losses(model, made)
    assert torch.allclose(found, wanted, atol=1e-4)
    kinds, sets = model._grammar.choices
    assert kinds.shape == (len(grammar.next),)
    (words,) = [s for s in sets if len(s) > 40]
    assert words.tolist() == [i for i in range(50) if i != 7] + [50 + FIRST_CODEC]


def softcapped(model):
    model.config.model_type = "gemma2"  # whose logits are squashed after the output layer


def wrapped(model):
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=2, target_modules=["lm_head"]), model)


def hooked(model):
    model.lm_head.register_forward_hook(lambda m, a, out: out)


def patched(model):
    forward = model.lm_head.forward
    model.lm_head.forward = lambda x: forward(x)


def sharded(model):
    model.lm_head.weight.ds_id = 3


@pytest.mark.parametrize("kind", [softcapped, wrapped, hooked, patched, sharded])
def test_where_the_head_is_not_plain_every_logit_is_made(setting, kind):
    layout, documents = setting
    model = family("llama", layout.vocabulary.size)
    backbone = spoken(model, layout)
    made = batch(backbone, documents)
    wanted, _ = backbone.token_losses(model, made)
    assert narrow.head_of(model) is not None
    kind(model)
    assert narrow.head_of(model) is None
    found, _ = backbone.token_losses(model, made)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_model_without_a_grammar_is_asked_for_its_logits(setting):
    layout, documents = setting
    plain = family("llama", layout.vocabulary.size)
    backbone = spoken(copy.deepcopy(plain), layout)
    made = batch(backbone, documents)
    found, _ = backbone.token_losses(plain, made)
    assert float(found.detach().sum()) > float(backbone.token_losses(backbone.model, made)[0].detach().sum())


def test_the_head_is_given_back_when_a_forward_fails(setting):
    layout, documents = setting
    backbone = spoken(family("llama", layout.vocabulary.size), layout)
    made = batch(backbone, documents)
    with pytest.raises(TypeError):
        backbone.model(**backbone.inputs(made), scored=backbone._counted(made), nonsense=object(), attention_mask=3)
    assert "forward" not in backbone.model.lm_head.__dict__


# --- an output layer of whose rows an adapter trains some ---------------------------------------------------------------
@pytest.fixture
def adapted(setting):
    layout, documents = setting
    backbone = spoken(tiny.fresh(SHAPE, layout.vocabulary.size, 0), layout)
    model = lora.attach(backbone, lora.Lora(rank=2, alpha=4, dropout=0.0), rows_to_train(layout, backbone), 0)
    for k, p in enumerate(p for p in model.parameters() if p.requires_grad):
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(k))
    return backbone, model, batch(backbone, documents)


def asked(model):
    """The output layer's rule, and that it is not the plain one."""
    head = narrow.head_of(model.get_base_model())
    assert head is not None
    return head


def both(monkeypatch, run):
    """What `run` gives, by rows of the output layer and by all logits."""
    narrowly = run()
    monkeypatch.setattr(grammar_module, "head_of", lambda model: None)
    return narrowly, run()


def test_token_rows_of_an_adapter_are_its_own(adapted, monkeypatch):
    backbone, model, made = adapted
    assert len(asked(model).index) > 3

    def run():
        model.zero_grad()
        nll, _ = backbone.token_losses(model, made)
        nll.sum().backward()
        return nll.detach(), [p.grad.clone() for p in model.parameters() if p.requires_grad]

    (one, grads), (other, wanted) = both(monkeypatch, run)
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(grads, wanted, strict=True))


def test_switched_off_they_are_the_bases(adapted, monkeypatch):
    backbone, model, made = adapted

    def run():
        with torch.no_grad(), model.disable_adapter():
            return backbone.token_losses(model, made)[0]

    on = backbone.token_losses(model, made)[0].detach()
    one, other = both(monkeypatch, run)
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(one, on, atol=1e-2)


def test_every_persons_gradient_is_what_all_logits_give(adapted, monkeypatch):
    backbone, model, made = adapted
    flat = Flat(model)
    gradients = PersonGradients(flat)
    slots = torch.tensor([0, 1, 0, 2, 1])
    assert asked(model).others is not None

    def run():
        gradients.clear()
        with gradients.collect(slots, 3) as buffer:
            backbone.losses(model, made).sum().backward()
        return buffer.clone()

    one, other = both(monkeypatch, run)
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)
    assert float(one.norm(dim=1).min()) > 0.1


def test_stacked_adapters_are_what_all_logits_give(adapted, monkeypatch):
    backbone, model, made = adapted
    stack = stacked.Stack(model, 2)
    stack.restart([1, 2])
    twice = backbone.batch(
        [d[m.bool()].numpy() for d, m in zip(made.ids, made.mask, strict=True)] * 2, prompt=2, persons=[0] * 10
    )

    def run():
        stack.grad.zero_()
        with stack:
            nll, _ = backbone.token_losses(stack.model, twice)
            nll.sum().backward()
        return nll.detach(), stack.grad.clone()

    (one, grads), (other, wanted) = both(monkeypatch, run)
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert torch.allclose(grads, wanted, rtol=1e-3, atol=1e-4)
    assert float(grads.norm()) > 0.1


@pytest.mark.parametrize(("prompt", "lengths"), [(2, (9, 5)), (40, (9, 5)), (2, (1, 1))])
def test_where_nothing_is_scored_there_is_nothing_and_a_gradient(setting, prompt, lengths):
    layout, documents = setting
    backbone = spoken(tiny.fresh(SHAPE, layout.vocabulary.size, 0), layout)
    made = backbone.batch([documents[0][:n] for n in lengths], prompt=prompt, persons=[0, 0])
    wanted, _ = by_logits(backbone, backbone.model, made)
    found, _ = backbone.token_losses(backbone.model, made)
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, atol=1e-4)
    found.sum().backward()
