"""Preferences as pairs of token documents, and how likely a model finds them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..backbones.causal_lm import OWN, Batch, CausalBackbone
from ..core.errors import MienError
from ..generation.layout import Layout

_TOKEN = re.compile(r"<[^<>\s]+>|\S+")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Document chosen[i] was preferred to rejected[i]: int32[T] local ids each, valid, of one prompt, and whole (but those of
    `crossed.py`, which end where their difference does). pair: its
    id; rater: who said so; person: the recorded person of whom the answer tells, "" for none; private: bool[n], such
    answers are for private trainers only; weight: float64[n], how much an answer counts.
    """

    chosen: Sequence[np.ndarray]
    rejected: Sequence[np.ndarray]
    pair: np.ndarray
    rater: np.ndarray
    person: np.ndarray
    private: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    def rows(self, keep: np.ndarray) -> Pairs:
        """Some of them; keep: bool[n] or int[k]."""
        at = np.flatnonzero(keep) if keep.dtype == bool else keep
        out: dict[str, Any] = {n: [getattr(self, n)[i] for i in at] for n in ("chosen", "rejected")}
        return Pairs(**out, **{n: getattr(self, n)[at] for n in ("pair", "rater", "person", "private", "weight")})

    @staticmethod
    def join(parts: Sequence[Pairs]) -> Pairs:
        """All of them, in order."""
        out: dict[str, Any] = {}
        for f in fields(Pairs):
            values = [getattr(p, f.name) for p in parts]
            out[f.name] = [d for v in values for d in v] if f.name in ("chosen", "rejected") else np.concatenate(values)
        return Pairs(**out)

    @staticmethod
    def of(rows: Sequence[Mapping[str, Any]], layout: Layout) -> Pairs:
        """TRL's columns `prompt`, `chosen`, `rejected` (token strings, or local ids), and beside them, where there,
        `pair_id`, `rater`, `person`, `private`, `weight`.

        MienError for a row that is no pair of documents of this layout (made with other codecs, say), for a pair
        against itself, and where nothing is left.
        """
        known = {n: i for i, n in enumerate(layout.vocabulary.names)}
        chosen, rejected = [], []
        for i, row in enumerate(rows):
            try:
                both = [_ids(row["prompt"], known) + _ids(row[side], known) for side in ("chosen", "rejected")]
            except KeyError as error:
                raise MienError(
                    f"preference {row.get('pair_id', i)}: {error} is no column, or no behaviour token of this layout; it"
                    " was made for another vocabulary"
                ) from None
            for side, ids in zip(("chosen", "rejected"), both, strict=True):
                if not layout.grammar.accepts(ids):
                    raise MienError(
                        f"preference {row.get('pair_id', i)}: `{side}` is no whole document of this layout"
                        f" ({layout.task}, {layout.seconds:g} s, {', '.join(p.name for p in layout.parts)}); it was made"
                        " for another adapter"
                    )
            if both[0] == both[1]:
                raise MienError(f"preference {row.get('pair_id', i)} prefers a recording to itself")
            chosen.append(np.array(both[0], dtype=np.int32))
            rejected.append(np.array(both[1], dtype=np.int32))
        if not chosen:
            raise MienError("no preference is left to learn from (ties, and pairs that are both bad, say nothing here)")
        return Pairs(
            chosen=chosen, rejected=rejected,
            pair=np.array([str(r.get("pair_id", i)) for i, r in enumerate(rows)], dtype=object),
            rater=np.array([str(r.get("rater") or r.get("rater_id") or "") for r in rows], dtype=object),
            person=np.array([str(r.get("person") or "") for r in rows], dtype=object),
            private=np.array([bool(r.get("private", False)) for r in rows]),
            weight=np.array([float(r.get("weight", 1.0)) for r in rows]),
        )  # fmt: skip

    def columns(self, layout: Layout) -> list[dict[str, Any]]:
        """The same as rows in TRL's format, with token strings: what `of` reads."""
        names, cut = layout.vocabulary.names, layout.prompt_length

        def said(ids: np.ndarray) -> str:
            return " ".join(names[t] if t < OWN else f"own:{t - OWN}" for t in ids.tolist())

        return [
            {
                "prompt": said(c[:cut]), "chosen": said(c[cut:]), "rejected": said(r[cut:]), "pair_id": str(p),
                "rater": str(w), "person": str(who), "private": bool(hidden), "weight": float(weight),
            }
            for c, r, p, w, who, hidden, weight in zip(
                self.chosen, self.rejected, self.pair, self.rater, self.person, self.private, self.weight, strict=True
            )
        ]  # fmt: skip


def _ids(said: Any, known: Mapping[str, int]) -> list[int]:
    if not isinstance(said, str):
        return [int(t) for t in said]
    return [OWN + int(t[4:]) if t.startswith("own:") and t[4:].isdecimal() else known[t] for t in _TOKEN.findall(said)]


@dataclass(kw_only=True)
class PairBatch(Batch):
    """The chosen documents of n pairs, then the rejected: rows i and n + i are pair i, and `unit` says so. reference:
    float32[n], log p(chosen) - log p(rejected) under the reference."""

    reference: Any


def batch(
    backbone: CausalBackbone, pairs: Pairs, rows: Sequence[int], reference: np.ndarray, prompt: int, device: Any
) -> PairBatch:
    """reference: float64[len(pairs)]; the rows' own are taken."""
    import torch

    docs = [*(pairs.chosen[i] for i in rows), *(pairs.rejected[i] for i in rows)]
    made = backbone.batch(docs, prompt=prompt, persons=np.zeros(len(docs), np.int64), device=device)
    if made.given is not None:
        raise MienError("pairs of recordings that are given soft tokens cannot be compared yet")
    return PairBatch(
        ids=made.ids, mask=made.mask, prompt=prompt, person=made.person,
        unit=torch.arange(len(rows), device=device).repeat(2),
        reference=torch.as_tensor(reference[list(rows)], dtype=torch.float32, device=device),
    )  # fmt: skip


def log_p(
    backbone: CausalBackbone, model: Any, docs: Sequence[np.ndarray], prompt: int, size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Each document's log-likelihood in nats after its prompt, over valid tokens: float64[n]; and how many tokens that
    are: int64[n]."""
    import torch

    device = model.get_input_embeddings().weight.device
    total, count = np.zeros(len(docs)), np.zeros(len(docs), dtype=np.int64)
    model.eval()
    with torch.no_grad():
        for at in range(0, len(docs), size):
            part = docs[at : at + size]
            made = backbone.batch(part, prompt=prompt, persons=np.zeros(len(part), np.int64), device=device)
            nll, counted = backbone.token_losses(model, made)
            total[at : at + size] = -nll.sum(1).double().cpu().numpy()
            count[at : at + size] = counted.sum(1).cpu().numpy()
    return total, count
