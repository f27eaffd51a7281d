"""Representations of people's recordings: LoRA on a binder's frozen towers, bound together, with task heads on top.

A window's representation is its towers' embeddings side by side; a missing stream is zeros there, and what is present is
scaled up for it, so that a linear head sees any subset of streams. Heads are trained on every stream alone, on all but
one, and on all: no dropout is drawn, for a private loss may not depend on random numbers dealt out by place.

Binding pulls a window's own streams together and apart from *negatives*. InfoNCE takes them from the batch: a window's
loss then holds other persons' windows, clipping its gradient leaves what they put into it, and nobody's influence on a step
is bounded by the clip norm: it is refused under privacy. Against public, frozen negatives the loss is the window's own
(`bind: public`; softmax, van den Oord et al. arXiv 1807.03748, or `siglip`, a sigmoid per pair, Zhai et al. arXiv
2303.15343), and so is it within a group of persons that is clipped as one (`bind: group`, privacy.groups).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..backbones._binder import Binder, collate
from ..core import plugins
from ..core.config import Plugin, Section
from ..core.errors import MienError
from ..core.records import CohortCard
from . import lora
from .windows import Windows, encode


class Head(Section):
    """One task on top. classification: cross-entropy; ordinal: one logistic threshold after the other on one score
    (Cao et al., CORAL, arXiv 1901.07884); continuous: a number of the public `range`, by squared error, or by the batch's
    concordance (`ccc`, plain runs only: it is a statistic of all rows). weight: beside the other losses."""

    kind: Literal["classification", "ordinal", "continuous"] = "classification"
    range: tuple[float, float] | None = None
    loss: Literal["squared", "ccc"] = "squared"
    weight: float = Field(default=1.0, ge=0)


class Represent(Section):
    """streams: which tower takes which stream (default: those of the same name); heads: the labels to learn (default: the
    recipe's `task`, a classification; {} for none); bind: the negatives that a window's streams are told apart from; siglip:
    by a sigmoid per pair, not a softmax; bind_weight: beside the heads' losses; negatives: a simulated cohort to take public
    negatives from (default: those that the base brings); cache: compute what enters the last `lora.layers` blocks once per
    window, not in every step (`adapters/cached.py`): the same numbers, and the same guarantee, sooner."""

    streams: dict[str, str] = {}
    heads: dict[str, Head] | None = None
    bind: Literal["none", "public", "batch", "group"] = "public"
    siglip: bool = False
    bind_weight: float = Field(default=0.2, ge=0)
    negatives: Plugin | None = None
    cache: bool = False


@dataclass(kw_only=True)
class Batch:
    """inputs: modality -> named tensors, all with B rows; present: float32[B, M]; labels: task -> float32[B]; unit,
    person: int64[B]; group: int64[B], whom a row's contrast may see, set by the private step (None: the row itself)."""

    inputs: dict[str, dict[str, Any]]
    present: Any
    labels: dict[str, Any]
    unit: Any
    person: Any
    group: Any = None


@dataclass(kw_only=True)
class Representer:
    """A binder with its adapter and heads. model: `PeftModel` (or the bare base); modalities: in the order of their places
    in a representation; heads: `ModuleDict`, task -> linear layer; kinds, classes: of the tasks; bank: modality ->
    float32[K, dim], public negatives; beside: what it is without what it learnt, in words."""

    binder: Binder
    model: Any
    modalities: tuple[str, ...]
    heads: Any
    options: Represent
    kinds: dict[str, Head]
    classes: dict[str, tuple[str, ...]]
    bank: dict[str, Any] = field(default_factory=dict)
    beside: str = "frozen base"

    @property
    def width(self) -> int:
        return len(self.modalities) * self.binder.dim

    @property
    def slices(self) -> dict[str, slice]:
        """modality -> its columns of a representation."""
        d = self.binder.dim
        return {m: slice(i * d, (i + 1) * d) for i, m in enumerate(self.modalities)}

    def heads_alone(self) -> Representer:
        """The same with the heads' losses and no other."""
        return replace(self, options=Represent(heads={}, bind="none"))

    @cached_property
    def subsets(self) -> np.ndarray:
        """float32[S, M]: all streams, each left out, each alone; every subset once."""
        m = len(self.modalities)
        rows = np.concatenate([np.ones((1, m)), 1 - np.eye(m), np.eye(m)])
        _, first = np.unique(rows, axis=0, return_index=True)
        rows = rows[np.sort(first)]
        return rows[rows.any(1)].astype(np.float32)

    def batch(self, windows: Windows, rows: Sequence[int] | np.ndarray, device: Any = "cpu") -> Batch:
        import torch

        rows = np.asarray(rows)
        inputs = {
            m: collate([windows.arrays[i].get(m, blank) for i in rows], device) for m, blank in windows.blanks.items()
        }
        as_float = lambda a: torch.as_tensor(np.asarray(a, np.float32), device=device)  # noqa: E731
        return Batch(
            inputs=inputs,
            present=as_float(windows.present[rows]),
            labels={t: as_float(v[rows]) for t, v in windows.labels.items()},
            unit=torch.arange(len(rows), device=device),
            person=torch.as_tensor(windows.person[rows], device=device),
        )

    def probes(self, windows: Windows, device: Any = "cpu") -> list[Batch]:
        """Batches for the checks before private training: unit 0 is the same window in all of them."""
        n = len(windows)
        full = int(windows.present.sum(1).argmax())
        rest = [i for i in np.linspace(0, n - 1, min(n, 6)).round().astype(int).tolist() if i != full]
        sets = [[full], [full, *rest], [full, *rest[::-1], *rest], [full, *rest[:1]]]
        return [self.batch(windows, s, device) for s in sets]

    def embeddings(self, model: Any, batch: Batch) -> dict[str, Any]:
        """modality -> float32[B, dim], of unit length where it is present and 0 elsewhere."""
        return {
            m: self.binder.embed(model, m, batch.inputs[m]).float() * batch.present[:, i, None]
            for i, m in enumerate(self.modalities) if m in batch.inputs
        }  # fmt: skip

    def fused(self, found: Mapping[str, Any], present: Any) -> Any:
        """float32[B, S, width] of every subset, or [B, 1, width] where `present` is the whole (float[B, S or 1, M])."""
        import torch

        some = next(iter(found.values()))
        side = torch.stack([found.get(m, torch.zeros_like(some)) for m in self.modalities], 1)  # [B, M, dim]
        scale = present * (len(self.modalities) / present.sum(-1, keepdim=True).clamp(min=1)) ** 0.5
        return (side[:, None] * scale[..., None]).flatten(2)

    def losses_and_states(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """float32[B], each window's own (but for `bind: batch`), and its representation, float32[B, width]."""
        import torch

        found = self.embeddings(model, batch)
        subsets = torch.as_tensor(self.subsets, device=batch.present.device)
        seen = batch.present[:, None] * subsets  # [B, S, M]
        there = (seen.sum(-1) > 0).float()
        fused = self.fused(found, seen)
        total = torch.zeros(len(batch.unit), device=fused.device)
        for task, head in self.kinds.items():
            target = batch.labels[task][:, None].expand(there.shape)
            each = head_loss(head, self.heads[task](fused).float(), target, there)
            total = total + head.weight * (each * there).sum(1) / there.sum(1).clamp(min=1)
        if self.options.bind != "none" and len(self.modalities) > 1:
            total = total + self.options.bind_weight * self._bound(found, batch)
        return total, fused[:, 0]

    def losses(self, model: Any, batch: Batch) -> Any:
        return self.losses_and_states(model, batch)[0]

    def _bound(self, found: Mapping[str, Any], batch: Batch) -> Any:
        """float32[B]: the mean over a window's pairs of streams, in both directions; 0 with one stream."""
        import torch

        names = [m for m in self.modalities if m in found]
        total = torch.zeros(len(batch.unit), device=batch.present.device)
        count = torch.zeros_like(total)
        group = torch.zeros_like(batch.unit)
        if self.options.bind == "group":
            group = batch.unit if batch.group is None else batch.group
        for a in names:
            for b in names:
                if a == b:
                    continue
                i, j = self.modalities.index(a), self.modalities.index(b)
                both = batch.present[:, i] * batch.present[:, j]
                own = (found[a] * found[b]).sum(-1)
                if self.options.bind == "public":
                    others = found[a] @ self.bank[b].to(own.device).T
                    apart = torch.ones_like(others)
                else:
                    others = found[a] @ found[b].T
                    apart = (group[:, None] == group[None]).float() * batch.present[None, :, j]
                    apart = apart * (1 - torch.eye(len(own), device=own.device))
                total = total + both * contrast(own, others, apart, self.binder.logit_scale, self.options.siglip)
                count = count + both
        return total / count.clamp(min=1)


def contrast(own: Any, others: Any, apart: Any, scale: float, siglip: bool) -> Any:
    """float[B] in nats. own: float[B], similarity to one's own; others: float[B, K], to negatives; apart: 0/1, which of
    them count. With none left, 0 (softmax) or the positive pair's part alone (sigmoid, whose bias starts at -10 in the
    paper for batches of thousands; here it makes K negatives weigh as much as the one pair)."""
    import torch
    from torch.nn import functional as F

    if siglip:
        negatives = (F.softplus(scale * others) * apart).sum(1) / apart.sum(1).clamp(min=1)
        return F.softplus(-scale * own) + negatives
    masked = (scale * others).masked_fill(apart == 0, float("-inf"))
    return torch.logsumexp(torch.cat([scale * own[:, None], masked], 1), 1) - scale * own


def head_loss(head: Head, out: Any, target: Any, there: Any) -> Any:
    """float[B, S] in nats or squared half-ranges: the loss of every subset; 0 where the label is missing.

    out: float[B, S, K]: logits; of an ordinal head K - 1 thresholds' logits, of a continuous one a number of [-1, 1];
    target: float[B, S], NaN where unknown; there: 0/1 float[B, S], read by `ccc` only.
    """
    import torch
    from torch.nn import functional as F

    known = ~torch.isnan(target)
    value = torch.where(known, target, torch.zeros_like(target))
    if head.kind == "classification":
        each = F.cross_entropy(out.flatten(0, 1), value.flatten().long(), reduction="none").view(value.shape)
    elif head.kind == "ordinal":
        above = (value[..., None] > torch.arange(out.shape[-1], device=out.device)).float()
        each = F.binary_cross_entropy_with_logits(out, above, reduction="none").sum(-1)
    else:
        assert head.range is not None
        low, high = head.range
        scaled = (value.clamp(low, high) - low) / (high - low) * 2 - 1
        each = (out[..., 0] - scaled).square()
        if head.loss == "ccc":  # 1 - concordance of each subset's column, given to every row
            weight = known.float() * there
            each = (1 - _concordance(out[..., 0], scaled, weight))[None].expand(value.shape)
    return each * known


def _concordance(a: Any, b: Any, weight: Any) -> Any:
    """Lin's concordance correlation (Biometrics 45, 1989, 255-268) of columns: float[B, S] -> float[S]."""
    n = weight.sum(0).clamp(min=1)
    ma, mb = (a * weight).sum(0) / n, (b * weight).sum(0) / n
    da, db = (a - ma) * weight, (b - mb) * weight
    return 2 * (da * db).sum(0) / (da.square().sum(0) + db.square().sum(0) + n * (ma - mb).square() + 1e-8)


def outputs(head: Head, classes: Sequence[str]) -> int:
    return {"classification": len(classes), "ordinal": len(classes) - 1, "continuous": 1}[head.kind]


def heads_of(options: Represent, task: str, card: CohortCard) -> tuple[dict[str, Head], dict[str, tuple[str, ...]]]:
    """The heads by task, and each task's classes. MienError for a label the cohort does not declare, classes too few, or a
    number without a public range."""
    heads = {task: Head()} if options.heads is None else dict(options.heads)
    classes: dict[str, tuple[str, ...]] = {}
    for name, head in heads.items():
        declared = tuple(map(str, card.tasks.get(name, ())))
        if head.kind == "continuous":
            if head.range is None or head.range[0] >= head.range[1]:
                raise MienError(f"represent.heads.{name}: a continuous head needs its public `range` [low, high]")
            classes[name] = ()
        elif len(declared) < 2:
            raise MienError(
                f"represent.heads.{name}: cohort {card.name!r} declares {len(declared)} classes for it; the labels are"
                f" {', '.join(card.tasks) or 'none'}"
            )
        else:
            classes[name] = declared
    return heads, classes


def attach(
    binder: Binder,
    options: Represent,
    adapter: lora.Lora,
    task: str,
    card: CohortCard,
    chosen: Mapping[str, str],
    seed: int,
) -> Representer:
    """Fresh LoRA on the towers in use, and fresh heads, both from the seed. MienError naming the key that does not fit."""
    import torch
    from peft import LoraConfig, get_peft_model

    modalities = tuple(dict.fromkeys(chosen.values()))
    targets = _targets(binder, modalities, adapter)
    torch.manual_seed(seed)
    model = get_peft_model(
        binder.model,
        LoraConfig(
            r=adapter.rank, lora_alpha=adapter.alpha, lora_dropout=adapter.dropout, target_modules=targets  # type: ignore[arg-type]
        ),
    )  # fmt: skip
    if adapter.freeze_a:
        for name, p in model.named_parameters():
            if ".lora_A." in name:
                p.requires_grad_(False)
    kinds, classes = heads_of(options, task, card)
    made = Representer(
        binder=binder, model=model, modalities=modalities, heads=make_heads(kinds, classes, len(modalities) * binder.dim),
        options=options, kinds=kinds, classes=classes,
    )  # fmt: skip
    model.add_module("heads", made.heads)
    return made


def make_heads(kinds: Mapping[str, Head], classes: Mapping[str, tuple[str, ...]], width: int) -> Any:
    import torch

    return torch.nn.ModuleDict({t: torch.nn.Linear(width, outputs(h, classes[t])) for t, h in kinds.items()})


def _targets(binder: Binder, modalities: Sequence[str], adapter: lora.Lora) -> list[str]:
    """Full names of the linear layers to adapt, in the towers in use alone."""
    import torch

    wanted = set(binder.lora_targets)
    if adapter.targets == "attention":
        attention = {"q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "in_proj", "query", "key", "value"}
        wanted = {w for w in wanted if w.rsplit(".", 1)[-1] in attention}
    elif adapter.targets != "all":
        if unknown := sorted(t for t in adapter.targets if not any(f".{w}".endswith(f".{t}") for w in wanted)):
            raise MienError(f"lora.targets: {unknown} not among the binder's linear layers {sorted(wanted)}")
        wanted = {w for w in wanted if any(f".{w}".endswith(f".{t}") for t in adapter.targets)}
    found = []
    for modality in modalities:
        tower = binder.towers[modality]
        if adapter.layers is not None and adapter.layers > len(tower.layers):
            raise MienError(f"lora.layers: {adapter.layers}, and the tower {modality!r} has {len(tower.layers)}")
        late = tower.layers if adapter.layers is None else tower.layers[len(tower.layers) - adapter.layers :]
        for name, module in binder.model.named_modules():
            inside = name.startswith(f"{tower.module}.") and (
                adapter.layers is None or any(name.startswith(f"{layer}.") for layer in late)
            )
            if inside and isinstance(module, torch.nn.Linear) and any(f".{name}".endswith(f".{w}") for w in wanted):
                found.append(name)
    if not found:
        raise MienError(f"no linear layer named {', '.join(sorted(wanted))} in the towers {', '.join(modalities)}")
    return sorted(set(found))


def refuse(options: Represent, kinds: Mapping[str, Head], private: bool, groups: int | None = None) -> None:
    """MienError for a loss that does not decompose over persons, in a private run."""
    if not private:
        if options.bind == "group":
            raise MienError("represent.bind: group is for private runs (privacy.groups); a plain one has bind: batch")
        return
    if options.bind == "batch":
        raise MienError(
            "represent.bind: batch: with negatives from the batch each window's loss holds other persons' windows. Clipping"
            " per person would bound a person's own rows and not what they add to everybody else's gradient, so no ε would"
            " follow. Use bind: public (public, frozen negatives), or bind: group with privacy.groups"
        )
    if (options.bind == "group") != bool(groups):
        raise MienError(
            "represent.bind: group and privacy.groups belong together: a group of persons is then clipped as one"
        )
    for name, head in kinds.items():
        if head.kind == "continuous" and head.loss == "ccc":
            raise MienError(
                f"represent.heads.{name}: the concordance is a statistic of the whole batch, so that one person would move"
                " everybody's loss; use loss: squared in a private run"
            )


def negatives(binder: Binder, options: Represent, chosen: Mapping[str, str], *, seconds: float) -> dict[str, Any]:
    """modality -> float32[K, dim]: public windows through the *frozen* base: constants, whoever is in the cohort.

    MienError when none are there, or the cohort named for them holds recordings.
    """
    from safetensors.torch import load_file

    if options.bind != "public" or len(set(chosen.values())) < 2:
        return {}
    if options.negatives is None:
        if binder.negatives is None or not binder.negatives.exists():
            raise MienError(
                "represent.bind: public needs negatives: name a simulated cohort under represent.negatives, or use bind: none"
            )
        bank = load_file(binder.negatives)
        if lost := sorted(set(chosen.values()) - set(bank)):
            raise MienError(f"{binder.negatives.name} holds no negatives of {', '.join(lost)}; pretrain the base again")
        return bank
    module, config = plugins.resolve("data/datasets", options.negatives, f"cohort {options.negatives.name}")
    if not getattr(module, "SIMULATED", False):
        raise MienError(
            f"represent.negatives: {options.negatives.name!r} holds recordings of people, whom no step would protect; name"
            " a simulated data set"
        )
    windows = encode(module.load(config), binder, chosen, {}, seconds=seconds, stride_s=seconds, quiet=True)
    return bank_of(binder, binder.model, windows)


def bank_of(binder: Binder, model: Any, windows: Windows, most: int = 256) -> dict[str, Any]:
    """modality -> float32[K, dim] of at most `most` windows, spread over all."""
    import torch

    rows = np.unique(np.linspace(0, len(windows) - 1, min(most, len(windows))).round().astype(int))
    bare = Representer(
        binder=binder, model=model, modalities=windows.modalities, heads=None, options=Represent(heads={}, bind="none"),
        kinds={}, classes={},
    )  # fmt: skip
    with torch.no_grad():
        found = bare.embeddings(model, bare.batch(windows, rows))
    return {m: v[v.abs().sum(1) > 0].clone() for m, v in found.items()}
