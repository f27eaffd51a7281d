"""The checks that run on the user's own model before the first private gradient: each failure they exist for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from mien.backbones.causal_lm import Batch, CausalBackbone
from mien.core.errors import MienError
from mien.privacy import guards
from mien.privacy.flat import Flat
from mien.privacy.gradients import PersonGradients

VOCABULARY = 32


def backbone(**config):
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, **config,
        )
    )  # fmt: skip
    base.requires_grad_(False)
    return CausalBackbone(
        model=base, identity="", revision=None, fingerprint="", offset=0, lora_targets=(), speaks_behaviour=True
    )


def adapted(made, **lora):
    options = {"r": 3, "target_modules": "all-linear", "trainable_token_indices": [3, 4], **lora}
    return get_peft_model(made.model, LoraConfig(task_type="CAUSAL_LM", **options))


def probes(made):
    rng = np.random.default_rng(0)
    return made.probes([rng.integers(1, VOCABULARY, n) for n in (9, 12, 7)], prompt=2)


def run(made, model, losses=None, before=lambda model: None):
    flat = Flat(model)
    gradients = PersonGradients(flat)
    before(model)
    kept = flat.vector.clone()
    try:
        guards.check(model, losses or made.losses, probes(made), flat, gradients)
    finally:
        assert torch.equal(flat.vector, kept)  # the probe leaves nothing behind
        assert gradients.buffer is None


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_a_sound_model_passes(checkpointing):
    made = backbone()
    model = adapted(made)
    if checkpointing is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    run(made, model)


def token_mean(model, batch: Batch):
    """Hugging Face's own reduction: one mean over all tokens of the batch, given to everybody."""
    logits = model(input_ids=batch.ids, attention_mask=batch.mask).logits
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch.ids[:, 1:], reduction="none")
    return (nll * batch.mask[:, 1:]).sum(1) / batch.mask[:, 1:].sum() * len(batch.ids)


def padded_width(model, batch: Batch):
    """A mean over the padded row: right for the longest recording of a batch only."""
    logits = model(input_ids=batch.ids, attention_mask=batch.mask).logits
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch.ids[:, 1:], reduction="none")
    return (nll * batch.mask[:, 1:]).mean(1)


def batch_mean(model, batch: Batch):
    return model(input_ids=batch.ids, attention_mask=batch.mask, labels=batch.ids).loss


class Mixing(torch.nn.Module):
    """A layer that centres its input over the batch."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x - x.mean(0, keepdim=True))


def mixed(made):
    layer = made.model.model.layers[1].mlp
    layer.gate_proj = Mixing(layer.gate_proj)


def normed(made):
    class Normed(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.norm = inner, torch.nn.BatchNorm1d(16).requires_grad_(False)

        def forward(self, x):
            return self.inner(self.norm(x.transpose(1, 2)).transpose(1, 2))

    made.model.model.layers[0].self_attn.q_proj = Normed(made.model.model.layers[0].self_attn.q_proj)


def unused(made):
    """A layer nobody calls, as the last layers of a vision tower often are."""
    made.model.model.layers[0].self_attn.extra = torch.nn.Linear(16, 16).requires_grad_(False)


class Functional(torch.nn.Module):
    """Uses its layer's weight without calling the layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + torch.nn.functional.linear(x, self.inner.lora_A["default"].weight).sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("spoil", "losses", "says"),
    [
        (None, token_mean, r"loss of a recording moved .* not as a mean over the tokens of the batch"),
        (None, padded_width, r"loss of a recording moved .* padded width"),
        (None, batch_mean, r"returned shape \(\) for .* recordings"),
        (mixed, None, r"when (only the )?other recordings"),
        (normed, None, r"q_proj.*\(BatchNorm1d\) computes statistics over the batch .*group or layer norm"),
        (unused, None, r"self_attn.extra.lora_A.* received no per-person gradient.*lora.targets"),
    ],
)
def test_what_makes_a_claim_false_is_named(spoil, losses, says):
    made = backbone()
    if spoil:
        spoil(made)
    with pytest.raises(MienError, match=says):
        run(made, adapted(made), losses)


def test_a_weight_used_outside_its_layer():
    made = backbone()
    model = adapted(made)
    attention = model.base_model.model.model.layers[0].self_attn
    attention.o_proj = Functional(attention.o_proj)
    with pytest.raises(MienError, match=r"o_proj.*lora_A.* differs from the ordinary one"):
        run(made, model)


def test_dropout_is_refused_and_the_bases_own_switched_off():
    """Masks are dealt out by place in the batch: one person more moves everybody's (measured: 1.7 clip norms at 0.1)."""
    made = backbone(attention_dropout=0.3)
    with pytest.raises(MienError, match="not the same twice"):
        run(made, adapted(made))
    model = adapted(made)
    guards.still(model)
    run(made, model)
    model = adapted(backbone(), lora_dropout=0.2)
    guards.still(model)
    with pytest.raises(MienError, match=r"not the same twice \(.*lora_dropout.*Set lora.dropout to 0"):
        run(backbone(), model)


def test_batch_norm_in_eval_mode_is_no_statistic_of_the_batch():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.InstanceNorm1d(4, track_running_stats=True))
    with pytest.raises(MienError, match=r"0 \(BatchNorm1d\)"):
        guards.batch_statistics(model)
    model[0].eval()
    with pytest.raises(MienError, match=r"1 \(InstanceNorm1d\)"):
        guards.batch_statistics(model)
    guards.batch_statistics(model.eval())


def test_reentrant_checkpointing_without_differentiable_inputs():
    """The whole block would drop out of the backward pass in silence."""
    made = backbone()
    model = adapted(made, trainable_token_indices=None)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.disable_input_require_grads() if hasattr(model, "_require_grads_hook") else None
    with pytest.raises((MienError, RuntimeError)):
        run(made, model)
