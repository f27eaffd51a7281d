"""The grammar of a layout as a state machine, and models whose logits obey it.

The mask sits inside the model's `forward`, before any loss is taken: sampling, likelihoods, training and attacks
then all share one distribution, normalised over valid tokens only.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from copy import copy as duplicate
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..core.errors import MienError
from .machine import ANY_OWN, OWN, Machine
from .narrow import head_of, nll, without
from .vocabulary import BOS, EOS, FIRST_CODEC, LABEL_0, MADE, PAD, RELATION_0, RELATIONS, STREAM_0, UNLABELLED

CACHES = ("cache", "past_key_values")  # what transformers calls a key/value cache: since 5.24, and before
MASKED = -1e4  # finite, so that entropies of masked logits stay finite; exp(-1e4) is 0 in any float
DEAD = 0  # the state nothing leaves: an invalid prefix
START = 1
_NODE, _REGISTER = 16, 12  # bits of a state: node, register 0, register 1, and the rest is the sum
_AT, _SUM = (_NODE, _NODE + _REGISTER), _NODE + 2 * _REGISTER  # where the registers and the sum begin
_ONE, _REGISTERS = (1 << _NODE) - 1, (1 << _REGISTER) - 1
_NONE = np.iinfo(np.int64).max
MOST = (1 << 63 - _SUM) - 1  # the largest sum


@dataclass(frozen=True, eq=False, kw_only=True)
class Grammar:
    """A state is one int64: the node in its low 16 bits, then two registers of 12 bits, then the sum (see `Machine`).

    next: int32[nodes, V + 1], the node after a local token, DEAD where it is not allowed; column V stands for any own
    token of the base model. lowest, keep, at, by0, by1: int64[nodes], how a node's choice is kept or added; amounts: what
    is added; limit, other: gates; final: the node after eos.
    Padding is allowed before <bos> (left padding) and after <eos> (right padding).
    """

    next: np.ndarray
    final: int
    lowest: np.ndarray
    keep: np.ndarray
    at: np.ndarray
    by0: np.ndarray
    by1: np.ndarray
    amounts: np.ndarray
    limit: np.ndarray
    other: np.ndarray

    @staticmethod
    def of(
        *, classes: int, blocks: Sequence[tuple[Machine, int]], size: int,
        contexts: Sequence[tuple[int, int]] = (), conditioned: bool = False,
    ) -> Grammar:  # fmt: skip
        """classes: how many labels; blocks: per part its machine and the first local id of its codec; size: V; contexts:
        [first, last) ids of each context field; conditioned: a given recording may stand before the made one."""
        copies = 2 if conditioned else 1
        begin = 3 + len(
            contexts
        )  # where the first block, or a relation, is said; `again`: the same after what is given
        given, again = begin + 1, begin + 2
        final = begin + 3 + copies * sum(m.nodes + 1 for m, _ in blocks)
        if final >= 1 << _NODE:
            raise MienError(f"the layout's grammar would have {final} nodes; take shorter windows or fewer streams")
        count = final + 1
        table = np.zeros((count, size + 1), dtype=np.int32)
        lowest, keep, by0, by1, other = (np.zeros(count, dtype=np.int64) for _ in range(5))
        at, limit = np.full(count, -1, dtype=np.int64), np.full(count, _NONE, dtype=np.int64)
        amounts: list[np.ndarray] = []
        label = 2
        table[START, PAD], table[START, BOS] = START, label
        table[label, LABEL_0 : LABEL_0 + classes] = table[label, UNLABELLED] = label + 1
        for i, (first, last) in enumerate(contexts):
            table[label + 1 + i, first:last] = label + 2 + i
        if conditioned:
            table[begin, RELATION_0 : RELATION_0 + len(RELATIONS)] = given
        node = begin + 3
        for copy in range(copies):
            after = [given] if copy else [begin, again]
            for i, (machine, base) in enumerate(blocks):
                start, done = node, node + machine.nodes
                node = done + 1
                for a in after:
                    table[a, STREAM_0 + i] = start
                for n, first, last, to in machine.arcs:
                    columns = slice(size, size + 1) if first == ANY_OWN else slice(base + first, base + last)
                    table[start + n, columns] = start + to
                for n in {n for n, *_ in machine.arcs}:
                    mine = [base + first for m, first, _, _ in machine.arcs if m == n and first != ANY_OWN]
                    lowest[start + n] = min(mine, default=size)
                for n, register in machine.keep.items():
                    keep[start + n] = 1 + register
                for n, amount in machine.add.items():
                    amount = np.asarray(amount, dtype=np.int64)
                    at[start + n] = sum(map(len, amounts))
                    by0[start + n] = amount[0].size if amount.ndim >= 2 else 0
                    by1[start + n] = amount.shape[2] if amount.ndim == 3 else 0
                    amounts.append(amount.ravel())
                for n, (bound, to) in machine.gates.items():
                    limit[start + n], other[start + n] = bound, start + to
                if copy:
                    table[done, MADE] = again
                else:
                    table[done, EOS] = final
                after.append(done)
        table[final, PAD] = final
        flat = np.concatenate(amounts) if amounts else np.zeros(1, np.int64)
        return Grammar(
            next=table, final=final, lowest=lowest, keep=keep, at=at, by0=by0, by1=by1, amounts=flat, limit=limit,
            other=other,
        )  # fmt: skip

    def columns(self, ids: np.ndarray) -> np.ndarray:
        """Local ids -> columns: an id of the vocabulary is its own, V stands for any own token of the base, and V + 1,
        which leads nowhere, for what is neither."""
        ids, none = np.asarray(ids, dtype=np.int64), self.next.shape[1]
        known = np.minimum(ids.view(np.uint64), none).view(np.int64)  # what is negative is a very large number here
        if not self.own:  # then column V leads nowhere either
            return known
        return np.where(ids >= OWN, none - 1, np.where(known == none - 1, none, known))

    def step(self, state: np.ndarray, column: np.ndarray) -> np.ndarray:
        """int64[n] states and columns -> the states after. It is asked for once a token, and cost is its number of calls."""
        fast = self._fast
        node = state & _ONE
        after = fast.moves.take(node * fast.width + column)
        if not self.remembers:
            return after
        place, by0, by1, keep = fast.nodes.take(node, axis=1)
        one, two = state >> _NODE & _REGISTERS, state >> _NODE + _REGISTER & _REGISTERS
        said = np.where(column == fast.width - 2, self.lowest[node], column) if self.own else column
        after += state & keep
        after += fast.amounts.take(place + one * by0 + two * by1 + said, mode="clip")  # a dead token's may be anywhere
        to = after & _ONE
        over = after >= fast.limits.take(to)  # at a gate, or dead
        if np.logical_or.reduce(over):
            after += over * fast.others.take(to)
            after[to == DEAD] = DEAD
        return after

    @cached_property
    def _fast(self) -> _Fast:
        """The same tables as `step` reads them: few, flat, in the places where a state holds things."""
        count, size = self.next.shape[0], self.next.shape[1] - 1
        moves = np.zeros((count, size + 2), dtype=np.int64)
        moves[:, :-1] = self.next
        kept = self.keep > 0
        shift = np.array(_AT)[self.keep[kept] - 1][:, None]
        chosen = np.arange(size + 1) - self.lowest[kept, None]
        chosen[:, size] = 0  # an own token counts as the lowest
        moves[kept, :-1] += np.where(self.next[kept] != DEAD, chosen << shift, 0)
        keeps = np.full(count, ~np.int64(_ONE))
        keeps[kept] &= ~(np.int64(_REGISTERS) << shift[:, 0])
        keeps[(self.next[:, :FIRST_CODEC] != DEAD).any(1)] = 0  # outside blocks nothing is remembered
        # a node that adds nothing reads one of the noughts in front, whatever is said there
        place = np.where(self.at >= 0, self.at + size + 2 - self.lowest, 0)
        gated = self.limit != _NONE
        limits = np.where(gated, np.where(gated, self.limit, 0) << _SUM, _NONE)
        limits[DEAD] = 0  # whatever the sum, it is looked after
        return _Fast(
            width=size + 2, moves=moves.ravel(), nodes=np.stack([place, self.by0, self.by1, keeps]),
            amounts=np.append(np.zeros(size + 2, np.int64), self.amounts << _SUM),
            limits=limits, others=np.where(gated, self.other - np.arange(count), 0),
        )  # fmt: skip

    @cached_property
    def remembers(self) -> bool:
        """Whether any state is more than its node."""
        return bool(self.keep.any() or (self.at >= 0).any())

    def states(self, ids: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """int[n, T] local ids -> int64[n, T]: the state after each token. Ids outside the vocabulary are DEAD."""
        columns = self.columns(ids)
        state = np.full(len(columns), START, dtype=np.int64) if start is None else start
        if columns.shape[1] == 1:  # sampling, token by token
            return self.step(state, columns[:, 0])[:, None]
        out = np.empty(columns.shape, dtype=np.int64)
        for t in range(columns.shape[1]):
            out[:, t] = state = self.step(state, columns[:, t])
        return out

    def accepts(self, ids: Any) -> bool:
        """Is this one whole document?"""
        ids = np.asarray(ids)
        return ids.ndim == 1 and len(ids) > 0 and node_of(self.states(ids[None])[0, -1]) == self.final

    def allowed(self, state: int | np.integer) -> np.ndarray:
        """bool[V + 1]: which tokens may follow; the last stands for own tokens of the base model."""
        return self.next[node_of(state)] != DEAD

    @property
    def speaks(self) -> np.ndarray:
        """int[k]: the behaviour tokens that can occur at all."""
        return np.flatnonzero((self.next[:, :-1] != DEAD).any(0))

    @cached_property
    def own(self) -> bool:
        """Whether the base model's own tokens can occur."""
        return bool((self.next[:, -1] != DEAD).any())


def node_of(state: Any) -> Any:
    """The node of a state, or of an array or tensor of states."""
    return state & _ONE


@dataclass(frozen=True, eq=False, kw_only=True)
class _Fast:
    """width: columns of a node, of which the last is dead; moves: int64[nodes * width], node and kept register after a
    token; nodes: int64[4, nodes], where a node's amounts lie, by how much each register moves that, and which bits of the
    state stay; amounts, limits: in the sum's place; others: to be added
    to a node whose limit is reached."""

    width: int
    moves: np.ndarray
    nodes: np.ndarray
    amounts: np.ndarray
    limits: np.ndarray
    others: np.ndarray


class Bound:
    """A grammar bound to one model's vocabulary: offset, the id of its first behaviour token; own: how many of the ids
    before it are tokens that text may use, less those in `never`."""

    def __init__(self, grammar: Grammar, offset: int, device: Any, never: Sequence[int] = ()):
        import torch

        self.grammar, self.offset, self.size = grammar, offset, grammar.next.shape[1] - 1
        # what may not be said at a node, and whether the base's own tokens may not
        self.not_said = torch.as_tensor(grammar.next[:, :-1] == DEAD, device=device)
        self.not_own = torch.as_tensor(grammar.next[:, -1:] == DEAD, device=device)
        self.words = torch.ones(offset, dtype=torch.bool, device=device) if grammar.own else None
        if self.words is not None and len(never):
            self.words[list(never)] = False

    def ungiven(self) -> Bound:
        """The same, but no document may open with a recording that is given."""
        made = duplicate(self)
        made.__dict__.pop("choices", None)
        made.not_said = self.not_said.clone()
        made.not_said[:, RELATION_0 : RELATION_0 + len(RELATIONS)] = True
        return made

    @cached_property
    def choices(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """(int64[nodes], one of the sets per node; the sets of the model's ids that may follow, each int64 and sorted)."""
        words = np.empty(0, np.int64) if self.words is None else np.flatnonzero(self.words.cpu().numpy())
        found: dict[bytes, int] = {}
        kinds, sets = np.zeros(len(self.grammar.next), np.int64), []
        dead = np.concatenate([self.not_said.cpu().numpy(), self.not_own.cpu().numpy()], axis=1)
        for node, row in enumerate(~dead):
            kinds[node] = found.setdefault(np.packbits(row).tobytes(), len(sets))
            if kinds[node] == len(sets):
                said = np.flatnonzero(row[:-1]) + self.offset
                sets.append(np.concatenate([words, said]) if row[-1] else said)
        return kinds, sets

    def scan(self, input_ids: Any, state: Any) -> Any:
        """The state after each token, int64[B, T], on the ids' device. On the CPU in numpy: the loop over time takes
        a dozen tiny operations a step, which a GPU's or torch's launch cost would make the slowest part of all."""
        import torch

        ids, before = (x.numpy() if x.is_cpu else x.cpu().numpy() for x in (input_ids, state))
        local = np.where(ids >= self.offset, ids - self.offset, OWN) if self.offset else ids
        found = torch.from_numpy(self.grammar.states(local, before))
        return found if input_ids.is_cpu else found.to(input_ids.device)

    def mask(self, logits: Any, states: Any) -> Any:
        """logits [B, T, all] with MASKED wherever the grammar forbids."""
        import torch

        if self.not_said.device != logits.device:
            self.not_said, self.not_own = self.not_said.to(logits.device), self.not_own.to(logits.device)
            self.words = None if self.words is None else self.words.to(logits.device)
        node = torch.from_numpy(node_of(states.numpy())) if states.is_cpu else node_of(states)
        not_said = torch.embedding(self.not_said, node)
        if self.offset == 0 and logits.shape[-1] == self.size:  # behaviour tokens are all there is
            return logits.masked_fill(not_said, MASKED)
        first, last = self.offset, self.offset + self.size
        out = torch.full_like(logits, MASKED)
        out[..., first:last] = logits[..., first:last].masked_fill(not_said, MASKED)
        if self.words is not None:
            forbidden = torch.embedding(self.not_own, node) | ~self.words
            out[..., :first] = logits[..., :first].masked_fill(forbidden, MASKED)
        return out


def constrain(model: Any, grammar: Grammar, offset: int, never: Sequence[int] = ()) -> Any:
    """Give a Hugging Face model with a language head a `forward` that masks its logits by the grammar. Returns the model.

    offset: id of the first behaviour token in the model's vocabulary; never: own ids that text may not use. Inside
    `forward` the state of each position follows from `input_ids` (`scored=`: likelihoods alone, see `_scored`). With a
    key/value cache only the newest ids are there, so `grammar_state` (the state before them, int64[B]) must be given;
    `generate()` does that by itself. Calling again
    replaces the grammar. MienError for a fused loss that never makes logits.
    """
    kind = type(model)
    if not getattr(kind, "_mien_constrained", False):
        refuse_fused(model)
        kind = _constrained(kind)
        model.__class__ = kind
    model._grammar = Bound(grammar, int(offset), model.get_input_embeddings().weight.device, never)
    return model


@contextlib.contextmanager
def ungiven(model: Any) -> Iterator[None]:
    """Meanwhile no document opens with a recording that is given, as where it is sampled from its prompt alone: whoever knows such
    documents may give itself none, and likelihoods are normalised over what is left."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    bound = base._grammar
    base._grammar = bound.ungiven()
    try:
        yield
    finally:
        base._grammar = bound


def cache_name(model: Any) -> str:
    """What `model.forward` calls its key/value cache: `cache`, or `past_key_values` in a transformers before 5.24. Through a
    PEFT wrapper, whose own signature does not say."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(model.forward).parameters
    return next((name for name in CACHES if name in known), CACHES[-1])


def refuse_fused(model: Any) -> None:
    """MienError when the model's forward was replaced by one that takes its loss without logits (Liger kernels and the
    like patch the instance): the grammar's mask would be passed by, and training would see another distribution."""
    forward = model.__dict__.get("forward")
    patched = (
        getattr(inspect.unwrap(forward), "__module__", "") if forward is not None else type(model).forward.__module__
    )
    if any(word in (patched or "") for word in ("liger", "cut_cross_entropy", "fused_linear")):
        raise MienError(
            f"the model's forward comes from {patched}, which takes the loss without logits: the grammar could not mask them."
            " Switch it off (use_liger_kernel=False)"
        )


def _constrained(kind: type) -> type:
    import torch

    def forward(
        self: Any, input_ids: Any = None, labels: Any = None, grammar_state: Any = None, scored: Any = None, **kwargs: Any
    ) -> Any:  # fmt: skip
        if input_ids is None:
            raise MienError(
                "a grammar-constrained model needs `input_ids`; embeddings alone do not show the grammar's state"
            )
        if scored is not None:
            return _scored(self, super(made, self).forward, input_ids, scored, kwargs)
        keep = kwargs.get("logits_to_keep", 0)
        out = super(made, self).forward(input_ids=input_ids, **kwargs)
        if out.logits is None:
            raise MienError("the model returned no logits to mask: a fused loss is on; switch it off")
        if grammar_state is None:
            cache = next((c for c in map(kwargs.get, CACHES) if c is not None), None)
            if cache is not None and cache.get_seq_length() > input_ids.shape[1]:
                raise MienError("with a key/value cache, pass `grammar_state`: the state before these input ids")
            grammar_state = torch.full_like(input_ids[:, 0], START)
        states = self._grammar.scan(input_ids, grammar_state)
        if isinstance(keep, int) and keep:
            states = states[:, -keep:]
        logits = out.logits = self._grammar.mask(out.logits, states)
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
        inputs["grammar_state"] = self._grammar.scan(before, start)[:, -1] if before.shape[1] else start
        return inputs

    # transformers and TRL read signatures to decide what to pass on
    own = inspect.signature(kind.forward)
    state = inspect.Parameter("grammar_state", inspect.Parameter.KEYWORD_ONLY, default=None)
    score = inspect.Parameter("scored", inspect.Parameter.KEYWORD_ONLY, default=None)
    known = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rest = [p for p in own.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    forward.__signature__ = own.replace(parameters=[*known, state, score, *rest])  # type: ignore[attr-defined]

    # The class keeps its name, so a saved config still names the public architecture.
    made = type(kind.__name__, (kind,), {
        "forward": forward,
        "prepare_inputs_for_generation": prepare_inputs_for_generation,
        "_mien_constrained": True,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
    })  # fmt: skip
    return made


def _scored(model: Any, forward: Any, input_ids: Any, scored: Any, kwargs: dict[str, Any]) -> Any:
    """The model's output with `nll`, float32[B, T - 1], in nats: of every token after the first that `scored` (0/1, the same
    shape) marks, and 0 elsewhere. `logits` is None: where the output layer allows it, most of them are never made. (`nll` is no field
    of the output's: what takes it apart and puts it together again, as torch's own data parallelism may, loses it; nothing here wraps
    a model so.)"""
    import torch

    bound, head = model._grammar, head_of(model)
    states = bound.scan(input_ids, torch.full_like(input_ids[:, 0], START))
    if head is None:
        out = forward(input_ids=input_ids, **kwargs)
        logits = bound.mask(out.logits, states)[:, :-1].transpose(1, 2).float()
        found = torch.nn.functional.cross_entropy(logits, input_ids[:, 1:], reduction="none") * scored
    else:
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and bool((mask[:, 1:] <= mask[:, :-1]).all()):
            # nothing sees what comes after it, and attention without a mask computes only half
            kwargs["attention_mask"] = None
        with without(head):
            out = forward(input_ids=input_ids, **kwargs)
        wanted = scored.bool()
        kinds, columns = bound.choices
        node = node_of(states[:, :-1][wanted]).cpu().numpy()
        ids = input_ids[:, 1:][wanted].cpu().numpy()
        each = nll(head, out.logits[:, :-1], wanted, ids, kinds[node], columns, MASKED)
        found = torch.zeros(scored.shape, dtype=torch.float32, device=scored.device).masked_scatter(wanted, each)
    out.logits, out.nll = None, found
    return out
