"""The grammar of a layout as a state machine, and models whose logits obey it.

The mask sits inside the model's `forward`, before any loss is taken: sampling, likelihoods, training and attacks
then all share one distribution, normalised over valid tokens only.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import MienError
from .vocabulary import BOS, EOS, PAD, STREAM_0

MASKED = -1e4  # finite, so that entropies of masked logits stay finite; exp(-1e4) is 0 in any float
DEAD = 0  # the state nothing leaves: an invalid prefix
START = 1


@dataclass(frozen=True, eq=False)
class Grammar:
    """next: int32[states, V]: the state after a token (DEAD: not allowed); V local ids; final: the state after eos.

    Padding is allowed before <bos> (left padding) and after <eos> (right padding).
    """

    next: np.ndarray
    final: int

    @staticmethod
    def of(*, labels: tuple[int, int], blocks: Sequence[Sequence[tuple[int, int]]], size: int) -> Grammar:
        """labels: [first, last) ids; blocks: per stream the [first, last) ids of each slot; size: V."""
        label, begin = 2, 3
        starts, at = [], begin + 1
        for slots in blocks:  # one state per slot, and one for "this stream is complete"
            starts.append(at)
            at += len(slots) + 1
        final = at
        table = np.zeros((final + 1, size), dtype=np.int32)
        table[START, PAD], table[START, BOS] = START, label
        table[label, slice(*labels)] = begin
        after = [begin]
        for i, slots in enumerate(blocks):
            for state in after:
                table[state, STREAM_0 + i] = starts[i]
            for j, (first, last) in enumerate(slots):
                table[starts[i] + j, first:last] = starts[i] + j + 1
            done = starts[i] + len(slots)
            table[done, EOS] = final
            after.append(done)
        table[final, PAD] = final
        return Grammar(table, final)

    def states(self, ids: np.ndarray) -> np.ndarray:
        """int[n, T] local ids -> int32[n, T]: the state after each token. Ids outside the vocabulary are DEAD."""
        ids = np.asarray(ids)
        state = np.full(len(ids), START, dtype=np.int32)
        out = np.empty(ids.shape, dtype=np.int32)
        known = (ids >= 0) & (ids < self.next.shape[1])
        safe = np.where(known, ids, 0)
        for t in range(ids.shape[1]):
            state = np.where(known[:, t], self.next[state, safe[:, t]], DEAD)
            out[:, t] = state
        return out

    def accepts(self, ids: Any) -> bool:
        """Is this one whole document?"""
        ids = np.asarray(ids)
        return ids.ndim == 1 and len(ids) > 0 and int(self.states(ids[None])[0, -1]) == self.final

    def allowed(self, state: int) -> np.ndarray:
        """bool[V]: which tokens may follow."""
        return self.next[state] != DEAD


def constrain(model: Any, grammar: Grammar, offset: int) -> Any:
    """Give a Hugging Face causal LM a `forward` that masks its logits by the grammar. Returns the same model.

    offset: id of the first behaviour token in the model's vocabulary. Inside `forward` the state of each position
    follows from `input_ids`; with a key/value cache only the newest ids are there, so `grammar_state` (the state
    before them, int64[B]) must be given; `generate()` does that by itself. Calling again replaces the grammar.
    """
    import torch

    kind = type(model)
    if not getattr(kind, "_mien_constrained", False):
        kind = _constrained(kind)
        model.__class__ = kind
    device = model.get_input_embeddings().weight.device
    model._grammar_next = torch.as_tensor(grammar.next, dtype=torch.long, device=device)
    model._grammar_offset = int(offset)
    return model


def _constrained(kind: type) -> type:
    import torch

    def scan(self: Any, input_ids: Any, state: Any) -> Any:
        table = self._grammar_next = self._grammar_next.to(input_ids.device)
        local = input_ids - self._grammar_offset
        known = (local >= 0) & (local < table.shape[1])
        local = local.clamp(0, table.shape[1] - 1)
        states = []
        for t in range(input_ids.shape[1]):
            state = torch.where(known[:, t], table[state, local[:, t]], DEAD)
            states.append(state)
        return torch.stack(states, dim=1)

    def forward(self: Any, input_ids: Any = None, labels: Any = None, grammar_state: Any = None, **kwargs: Any) -> Any:
        if input_ids is None:
            raise MienError(
                "a grammar-constrained model needs `input_ids`; embeddings alone do not show the grammar's state"
            )
        keep = kwargs.get("logits_to_keep", 0)
        out = super(made, self).forward(input_ids=input_ids, **kwargs)
        if grammar_state is None:
            cache = kwargs.get("past_key_values")
            if cache is not None and cache.get_seq_length() > input_ids.shape[1]:
                raise MienError("with a key/value cache, pass `grammar_state`: the state before these input ids")
            grammar_state = torch.full_like(input_ids[:, 0], START)
        states = scan(self, input_ids, grammar_state)
        if isinstance(keep, int) and keep:
            states = states[:, -keep:]
        first, last = self._grammar_offset, self._grammar_offset + self._grammar_next.shape[1]
        allowed = self._grammar_next[states] != DEAD
        logits = torch.full_like(out.logits, MASKED)
        logits[..., first:last] = torch.where(allowed, out.logits[..., first:last], MASKED)
        out.logits = logits
        out.grammar_state = states[:, -1]
        if labels is not None:
            out.loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
            )
        return out

    def prepare_inputs_for_generation(self: Any, input_ids: Any, **kwargs: Any) -> Any:
        inputs = super(made, self).prepare_inputs_for_generation(input_ids, **kwargs)
        fed = inputs["input_ids"].shape[1]
        before = input_ids[:, : input_ids.shape[1] - fed]
        start = torch.full_like(input_ids[:, 0], START)
        inputs["grammar_state"] = scan(self, before, start)[:, -1] if before.shape[1] else start
        return inputs

    # transformers and TRL read signatures to decide what to pass on
    own = inspect.signature(kind.forward)
    state = inspect.Parameter("grammar_state", inspect.Parameter.KEYWORD_ONLY, default=None)
    known = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rest = [p for p in own.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    forward.__signature__ = own.replace(parameters=[*known, state, *rest])  # type: ignore[attr-defined]

    # The class keeps its name, so a saved config still names the public architecture.
    made = type(kind.__name__, (kind,), {
        "forward": forward,
        "prepare_inputs_for_generation": prepare_inputs_for_generation,
        "_mien_constrained": True,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
    })  # fmt: skip
    return made
