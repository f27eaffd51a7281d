"""Likelihoods without logits: at each place of a document, only the tokens that the grammar allows there are scored.

Of a vocabulary of thousands some hundreds may follow, often one; the masked logits of all the others, their softmax and
its gradient are most of what a small model's training would cost. The likelihoods are those of masked logits, to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PLAIN = ("llama", "mistral", "qwen2", "qwen3", "smollm3")  # whose logits are the output layer's, scaled by nothing


@dataclass(frozen=True, kw_only=True)
class Head:
    """module: what the model calls for its logits; weight: [V, d], of the layer in it; index: int64[r], sorted, the ids whose
    logits others give (token rows that an adapter trains); others: [..., d] -> [..., r], those, or None."""

    module: Any
    weight: Any
    index: np.ndarray
    others: Callable[[Any], Any] | None


def head_of(model: Any) -> Head | None:
    """The output layer, where its weight may be read by rows: of a family whose logits are that layer's alone, plain or with
    token rows of PEFT's, and neither hooked nor sharded. None where every logit must be made by the model itself."""
    import torch

    if model.config.model_type not in PLAIN:
        return None
    module = layer = model.get_output_embeddings()
    none = np.empty(0, np.int64)
    if type(module).__name__ == "TrainableTokensWrapper":
        tokens = module.token_adapter
        layer, forward = tokens.base_layer, tokens.__dict__.get("forward")
        if _hooked(module) or _hooked(tokens, patched=forward is not None and hasattr(forward, "others")):
            return None
        if forward is not None:  # per-person gradients, or adapters that are stacked
            order = np.argsort(forward.index)
            index, others = np.asarray(forward.index)[order], _sorted(forward.others, order)
        elif tokens.disable_adapters or not tokens.active_adapters or tokens.merged:
            index, others = none, None
        elif len(tokens.active_adapters) > 1:
            return None
        else:
            (name,) = tokens.active_adapters
            order = np.argsort(tokens.token_indices[name])
            delta = tokens.trainable_tokens_delta[name]
            index = np.asarray(tokens.token_indices[name])[order]
            others = _sorted(lambda x: torch.nn.functional.linear(x, delta.to(x.dtype)), order)
    else:
        index, others = none, None
    if type(layer) is not torch.nn.Linear or layer.bias is not None or _hooked(layer):
        return None
    if type(layer.weight) not in (torch.nn.Parameter, torch.Tensor) or hasattr(layer.weight, "ds_id"):
        return None
    return Head(module=module, weight=layer.weight, index=index, others=others)


def _hooked(module: Any, patched: bool = False) -> bool:
    return bool(("forward" in module.__dict__ and not patched) or module._forward_hooks or module._forward_pre_hooks)


def _sorted(others: Callable[[Any], Any], order: np.ndarray) -> Callable[[Any], Any]:
    return others if (np.diff(order) == 1).all() else lambda x: others(x)[..., order.tolist()]


@contextlib.contextmanager
def without(head: Head) -> Iterator[None]:
    """The model's `logits` are what its output layer would have been given."""
    head.module.__dict__["forward"] = _same
    try:
        yield
    finally:
        del head.module.__dict__["forward"]


def _same(hidden: Any) -> Any:
    return hidden


def nll(
    head: Head, hidden: Any, wanted: Any, ids: np.ndarray, kinds: np.ndarray, columns: Sequence[np.ndarray], masked: float
) -> Any:  # fmt: skip
    """Negative log-likelihood in nats of the n tokens that follow the `wanted` places, float32[n].

    hidden: [B, T, d], what the output layer is given; wanted: bool[B, T]; ids: int64[n], the tokens; kinds: int64[n], which of
    `columns` may be said there (each sorted ids); masked: the logit of what may not.
    """
    import torch

    device = hidden.device
    if not len(ids):
        return hidden.float().sum(-1)[wanted]  # none, and a gradient of nought
    order = np.argsort(kinds, kind="stable")
    taken = torch.from_numpy(order).to(device)
    present, first = np.unique(kinds[order], return_index=True)
    allowed = [columns[k] for k in present]
    states = hidden[wanted][taken]
    others = None if head.others is None else head.others(hidden)[wanted][taken]
    rows = head.weight[torch.from_numpy(np.concatenate(allowed)).to(device)]  # once, so that its gradient is made once
    out, row = [], 0
    for here, begin, end in zip(allowed, first, [*first[1:], len(order)], strict=True):
        if not len(here):  # after a token that was not allowed: as masked logits have it, all tokens are alike
            out.append(torch.full((int(end - begin),), float(np.log(len(head.weight))), device=device))
            continue
        logits = torch.nn.functional.linear(states[begin:end], rows[row : row + len(here)])
        _, at, which = np.intersect1d(here, head.index, assume_unique=True, return_indices=True)
        if others is not None and len(at):
            theirs = others[begin:end][:, which.tolist()].to(logits.dtype)
            logits = logits.index_copy(1, torch.from_numpy(at).to(device), theirs)
        said = ids[order[begin:end]]
        at = np.minimum(np.searchsorted(here, said), len(here) - 1)
        logits = logits.float()
        picked = logits.gather(1, torch.from_numpy(at[:, None]).to(device))[:, 0]
        if (never := here[at] != said).any():
            picked = picked.masked_fill(torch.from_numpy(never).to(device), masked)
        out.append(torch.logsumexp(logits, 1) - picked)
        row += len(here)
    return torch.cat(out)[torch.from_numpy(np.argsort(order, kind="stable")).to(device)]
