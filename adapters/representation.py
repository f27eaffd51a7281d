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

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ..backbones._binder import Absent, Arrays, Binder, Tower, collate
from ..core import console, plugins, runs
from ..core.config import Plugin, Section
from ..core.errors import MienError
from ..core.records import Cohort, CohortCard, Recording, Window, cut, recording_windows
from ..core.runs import write_text
from ..data import features
from ..data.features import WindowTable
from ..data.load import open_cohort
from ..data.splits import Splits
from . import lora

HEADS = "heads.safetensors"


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
    negatives from (default: those that the base brings)."""

    streams: dict[str, str] = {}
    heads: dict[str, Head] | None = None
    bind: Literal["none", "public", "batch", "group"] = "public"
    siglip: bool = False
    bind_weight: float = Field(default=0.2, ge=0)
    negatives: Plugin | None = None


# --- windows ------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Windows:
    """Windows of a cohort as their towers take them.

    arrays[i]: modality -> named arrays, of what is present; person, recording: int64[n] into `persons`, `recordings`;
    session: str[n]; start_s: float64[n]; labels: task -> float64[n], the class's place or the number, NaN where there is
    none; skipped: why windows were left out, with counts.
    """

    modalities: tuple[str, ...]
    arrays: list[dict[str, Arrays]] = field(default_factory=list)
    persons: list[str] = field(default_factory=list)
    recordings: list[str] = field(default_factory=list)
    person: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    recording: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    session: np.ndarray = field(default_factory=lambda: np.zeros(0, object))
    start_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.arrays)

    def rows(self, keep: np.ndarray) -> Windows:
        """Those at the indices `keep`."""
        return Windows(
            modalities=self.modalities, arrays=[self.arrays[i] for i in keep], persons=self.persons,
            recordings=self.recordings, person=self.person[keep], recording=self.recording[keep],
            session=self.session[keep], start_s=self.start_s[keep], labels={t: v[keep] for t, v in self.labels.items()},
            skipped=self.skipped,
        )  # fmt: skip

    @cached_property
    def present(self) -> np.ndarray:
        """bool[n, modalities]"""
        return np.array([[m in row for m in self.modalities] for row in self.arrays]).reshape(len(self), -1)

    @cached_property
    def blanks(self) -> dict[str, Arrays]:
        """What a tower is shown where its stream is missing; its embedding is multiplied by 0. Nobody's recording: zeros,
        and ones where the numbers are ids or marks, for attention needs something to attend to."""
        out: dict[str, Arrays] = {}
        for m in self.modalities:
            row = next((a[m] for a in self.arrays if m in a), None)
            if row is not None:
                out[m] = {k: np.full_like(v, v.dtype.kind in "iub") for k, v in row.items()}
        return out


def encode(
    cohort: Cohort, binder: Binder, chosen: Mapping[str, str], tasks: Mapping[str, tuple[str, ...]], *, seconds: float,
    stride_s: float, valid: float = 1.0, keep: Callable[[Window], bool] = lambda w: True,
    change: Callable[[Recording], Recording] = lambda r: r, quiet: bool = False,
) -> Windows:  # fmt: skip
    """Every usable window for which `keep` holds. chosen: stream -> modality; tasks: label -> its classes, () of a number;
    a window needs one stream at least, and one label where any is asked for. MienError when nothing is left, for a label
    outside its declared classes, and where a tower cannot take a stream: naming the stream, never the person."""
    made = Windows(modalities=tuple(dict.fromkeys(chosen.values())))
    takes = {m: [s for s, n in chosen.items() if n == m] for m in made.modalities}
    codes: dict[str, list[float]] = {t: [] for t in tasks}
    persons: dict[str, int] = {}
    person, recording, session, start = [], [], [], []
    bar = None if quiet else console.Bar("reading windows", len(cohort))
    for original in cohort:
        r = change(original)
        said = {t: _code(r.labels.get(t), t, classes) for t, classes in tasks.items()}
        before = len(made)
        if tasks and all(np.isnan(v) for v in said.values()):
            made.skipped["recording without a label"] += 1
        else:
            for w in recording_windows(r, seconds, stride_s):
                if not keep(w):
                    continue
                parts, why = cut(r, w, valid)
                made_of = {m: _prepared(binder.towers[m], parts, ss) for m, ss in takes.items()}
                arrays = {m: a for m, a in made_of.items() if a is not None}
                if not arrays:
                    made.skipped[why or "none of the chosen streams"] += 1
                    continue
                made.arrays.append(arrays)
                person.append(persons.setdefault(r.person, len(persons)))
                recording.append(len(made.recordings))
                session.append(r.session)
                start.append(r.start_s + w.start_s)
                for t in tasks:
                    codes[t].append(said[t])
        if len(made) > before:
            made.recordings.append(r.id)
        if bar:
            bar.step()
    if bar:
        bar.close()
    if not made.arrays:
        raise MienError(
            f"no window of {seconds:g} s with a stream among {', '.join(chosen)}"
            + (f" and a label of {', '.join(tasks)}" if tasks else "")
            + f" was left (skipped: {dict(made.skipped) or 'none'})"
        )
    made.persons = list(persons)
    made.person, made.recording = np.array(person, np.int64), np.array(recording, np.int64)
    made.session, made.start_s = np.array(session, object), np.array(start)
    made.labels = {t: np.array(v) for t, v in codes.items()}
    return made


def _prepared(tower: Tower, parts: Mapping[str, Any], streams: Sequence[str]) -> Arrays | None:
    """What a tower takes of a window's stream, or of its several (`Tower.joins`); None where one is missing or empty."""
    if not set(streams) <= parts.keys():
        return None
    try:
        return tower.prepare(parts[streams[0]] if len(streams) == 1 else {s: parts[s] for s in streams})
    except Absent:
        return None


def _code(value: Any, task: str, classes: Sequence[str]) -> float:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return float("nan")
    if not classes:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise MienError(f"label {task!r} is {value!r}; a continuous head takes numbers")
        return float(value)
    if str(value) not in classes:
        raise MienError(f"label {task!r} is {value!r}, which is not among its declared classes {', '.join(classes)}")
    return float(list(classes).index(str(value)))


def towers_of(card: CohortCard, binder: Binder, asked: Mapping[str, str], only: Sequence[str] = ()) -> dict[str, str]:
    """stream -> modality. MienError for a stream the cohort lacks, a modality the backbone does not know, two streams for
    one tower, or where no stream has a tower of its name."""
    known = f"the backbone's towers are {', '.join(sorted(binder.towers))}"
    chosen = dict(asked) or {n: n for n in sorted(card.streams) if n in binder.towers and (not only or n in only)}
    if not chosen:
        raise MienError(
            f"no stream of cohort {card.name!r} ({', '.join(sorted(card.streams))}) has a tower of its name; {known}. Say"
            " which takes which under represent.streams (stream: tower)"
        )
    for stream, modality in chosen.items():
        if stream not in card.streams:
            raise MienError(
                f"represent.streams: cohort {card.name!r} has no stream {stream!r}; it has {', '.join(card.streams)}"
            )
        if modality not in binder.towers:
            raise MienError(f"represent.streams: no tower {modality!r}; {known}")
    if twice := [m for m, n in Counter(chosen.values()).items() if n > 1 and not binder.towers[m].joins]:
        raise MienError(f"represent.streams: two streams for the tower {twice[0]!r}; leave one out")
    return chosen


# --- the model ----------------------------------------------------------------------------------------------------


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
    float32[K, dim], public negatives."""

    binder: Binder
    model: Any
    modalities: tuple[str, ...]
    heads: Any
    options: Represent
    kinds: dict[str, Head]
    classes: dict[str, tuple[str, ...]]
    bank: dict[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return len(self.modalities) * self.binder.dim

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
        binder=binder, model=model, modalities=modalities, heads=_heads(kinds, classes, len(modalities) * binder.dim),
        options=options, kinds=kinds, classes=classes,
    )  # fmt: skip
    model.add_module("heads", made.heads)
    return made


def _heads(kinds: Mapping[str, Head], classes: Mapping[str, tuple[str, ...]], width: int) -> Any:
    import torch

    return torch.nn.ModuleDict({t: torch.nn.Linear(width, outputs(h, classes[t])) for t, h in kinds.items()})


def _targets(binder: Binder, modalities: Sequence[str], adapter: lora.Lora) -> list[str]:
    """Full names of the linear layers to adapt, in the towers in use alone."""
    import torch

    wanted = set(binder.lora_targets)
    if adapter.targets == "attention":
        wanted &= {"q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "in_proj", "query", "key", "value"}
    elif adapter.targets != "all":
        if unknown := sorted(set(adapter.targets) - wanted):
            raise MienError(f"lora.targets: {unknown} not among the binder's linear layers {sorted(wanted)}")
        wanted = set(adapter.targets)
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
            if inside and isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] in wanted:
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


# --- what is kept -------------------------------------------------------------------------------------------------


def save(made: Representer, folder: Path, *, seconds: float, chosen: Mapping[str, str]) -> None:
    """A plain PEFT adapter, with `heads.safetensors` (trained like it, and covered by the same guarantee) and
    `represent.json` beside it: what goes where."""
    from safetensors.torch import save_file

    lora.save(made.model, folder, made.binder)
    save_file({k: v.detach().cpu().contiguous() for k, v in made.heads.state_dict().items()}, folder / HEADS)
    write_text(
        folder / "represent.json",
        json.dumps(
            {
                "seconds": seconds, "streams": dict(chosen), "modalities": list(made.modalities), "dim": made.binder.dim,
                "options": made.options.model_dump(mode="json", exclude={"negatives"}),
                "heads": {t: h.model_dump(mode="json") for t, h in made.kinds.items()},
                "classes": {t: list(c) for t, c in made.classes.items()},
            },
            indent=1,
        ),
    )  # fmt: skip


def restore(binder: Binder, folder: Path) -> tuple[Representer, dict[str, Any]]:
    """A saved adapter on its base, in eval mode; and `represent.json`. MienError when files are missing or do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        raw = json.loads((folder / "represent.json").read_text())
        tensors = load_file(folder / HEADS) if raw["heads"] else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise MienError(f"{folder} holds no readable representation: {error}") from None
    model = lora.restore(binder, folder)
    kinds = {t: Head(**h) for t, h in raw["heads"].items()}
    classes = {t: tuple(c) for t, c in raw["classes"].items()}
    heads = _heads(kinds, classes, len(raw["modalities"]) * binder.dim)
    try:
        heads.load_state_dict(tensors)
    except RuntimeError as error:
        raise MienError(
            f"{folder / HEADS} does not fit represent.json: {str(error).splitlines()[-1].strip()}"
        ) from None
    model.add_module("heads", heads.eval().requires_grad_(False))
    made = Representer(
        binder=binder, model=model, modalities=tuple(raw["modalities"]), heads=heads, options=Represent(**raw["options"]),
        kinds=kinds, classes=classes,
    )  # fmt: skip
    return made, raw


def represented(made: Representer, windows: Windows, *, model: Any = None, size: int = 256) -> np.ndarray:
    """float32[n, width] of all windows. model: another than the adapted one (the frozen base)."""
    import torch

    model = made.model if model is None else model
    device = next(made.binder.model.parameters()).device
    was, parts = model.training, []
    model.eval()
    with torch.no_grad():
        for at in range(0, len(windows), size):
            batch = made.batch(windows, np.arange(at, min(at + size, len(windows))), device)
            parts.append(made.fused(made.embeddings(model, batch), batch.present[:, None])[:, 0].cpu().numpy())
    model.train(was)
    return np.concatenate(parts)


def frozen(made: Representer, windows: Windows) -> np.ndarray:
    """The same from the base without its adapter."""
    with made.model.disable_adapter():
        return represented(made, windows)


class Representing:
    """A binder that learns to represent recordings, and the windows it learns from: what `recipes/adapt.py` adapts, as
    `generation/adapted.Writing` is where no `represent:` is asked for."""

    windows: Windows
    made: Representer

    def __init__(self, recipe: Any, card: CohortCard):
        self.recipe = recipe
        self.base = open_binder(recipe.backbone)
        self.chosen = towers_of(card, self.base, recipe.represent.streams, recipe.streams)
        self.kinds, self.classes = heads_of(recipe.represent, recipe.task, card)
        self.restrictions = self.base.restrictions

    def encode(
        self, cohort: Cohort, keep: Callable[[Window], bool], change: Callable[[Recording], Recording], quiet: bool
    ) -> None:
        """Read the windows for which `keep` holds. MienError when there are none, or a class of a head has none."""
        r = self.recipe
        self.windows = encode(
            cohort, self.base, self.chosen, self.classes, seconds=r.seconds, stride_s=r.stride_s, valid=r.valid, keep=keep,
            change=change, quiet=quiet,
        )  # fmt: skip
        for task, classes in self.classes.items():
            there = set(self.windows.labels[task][~np.isnan(self.windows.labels[task])].astype(int))
            if lost := [c for i, c in enumerate(classes) if i not in there]:
                raise MienError(f"the training split has no window of {task} = {lost[0]}; draw another split")

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def persons(self) -> Sequence[str]:
        return self.windows.persons

    @property
    def person(self) -> np.ndarray:
        return self.windows.person

    @property
    def recording(self) -> np.ndarray:
        return self.windows.recording

    @property
    def width(self) -> int:
        return self.made.width

    def attach(self, card: CohortCard, private: Any) -> Any:
        """The `PeftModel` to train, heads and all. private: the plan, or None."""
        options = self.recipe.represent
        refuse(options, self.kinds, private is not None, getattr(private, "groups", None))
        self.made = attach(self.base, options, self.recipe.lora, self.recipe.task, card, self.chosen, self.recipe.seed)
        self.made.bank = negatives(self.base, options, self.chosen, seconds=self.recipe.seconds)
        return self.made.model

    def losses(self, model: Any, batch: Any) -> Any:
        return self.made.losses(model, batch)

    def losses_and_states(self, model: Any, batch: Any) -> tuple[Any, Any]:
        return self.made.losses_and_states(model, batch)

    def batch(self, rows: np.ndarray, device: Any) -> Batch:
        return self.made.batch(self.windows, rows, device)

    def probes(self, device: Any) -> list[Batch]:
        return self.made.probes(self.windows, device)

    def save(self, model: Any, folder: Path, guarantee: str, restrictions: Sequence[str]) -> None:
        save(self.made, folder, seconds=self.recipe.seconds, chosen=self.chosen)
        how = f"# base: the towers, as `mien.backbones` opens them (licence of the weights: {self.base.licence})"
        lora.write_notes(folder, self.base, how, guarantee, restrictions)


def open_binder(section: Plugin) -> Binder:
    """MienError for a backbone that writes instead."""
    module, config = plugins.resolve("backbones", section, f"backbone {section.name}")
    if getattr(module, "KIND", "") != "binder":
        raise MienError(
            f"backbone {section.name!r} has no towers to represent recordings with; represent: takes a binder (behaviour,"
            " imagebind, open_clip, clap, dinov2_minilm)"
        )
    return module.load(config)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A finished representation run with the windows of *all* its cohort's persons, for later verbs.

    Z: float32[n, width], the adapted representation; frozen: the base's without the adapter; table: window statistics of the
    same n windows; y: int64[n] classes of `task`, in `classes`; train: bool[n], of persons the adapter learned from; loss:
    float64[n], of the heads; slices: modality -> its columns; session: str[n].
    """

    made: Representer
    config: dict[str, Any]
    cohort: Cohort
    left_out: dict[str, int]
    split: Splits
    task: str
    classes: tuple[str, ...]
    Z: np.ndarray
    frozen: np.ndarray
    table: WindowTable
    y: np.ndarray
    train: np.ndarray
    loss: np.ndarray
    session: np.ndarray

    @property
    def slices(self) -> dict[str, slice]:
        d = self.made.binder.dim
        return {m: slice(i * d, (i + 1) * d) for i, m in enumerate(self.made.modalities)}


def opened(folder: Path, purpose: str) -> Opened:
    """MienError when the run is of a model that writes, its base has changed, or its task is no classification."""
    import torch

    asked = runs.asked(folder)
    config = asked["config"]
    if asked["verb"] != "adapt" or not config.get("represent"):
        raise MienError(f"{folder.name} is no representation run: its recipe has no `represent:` section")
    binder = open_binder(Plugin(**config["backbone"]))
    if binder.fingerprint != asked["inputs"]["base"]:
        raise MienError(f"the base of {folder.name} has changed since: adapt again, or restore the old base")
    made, raw = restore(binder, folder / "release" / "adapter")
    cohort, left_out = open_cohort(Plugin(**config["cohort"]), purpose)
    split = Splits.read(folder / "private" / "splits.json")
    task = config["task"]
    classes = tuple(map(str, cohort.card.tasks.get(task, ())))
    if len(classes) < 2:
        raise MienError(f"task: {task!r} has no classes in cohort {cohort.card.name!r}; there is nothing to probe for")
    known = {**made.classes, task: classes}
    windows = encode(
        cohort, binder, raw["streams"], known, seconds=raw["seconds"], stride_s=config["stride_s"], valid=config["valid"],
        keep=lambda w: split.side(w) is not None,
    )  # fmt: skip
    table = features.tabulate(
        cohort, seconds=raw["seconds"], stride_s=config["stride_s"], task=task, streams=tuple(raw["streams"]),
        valid=config["valid"],
    )  # fmt: skip
    names = np.array(windows.recordings, object)[windows.recording]
    place = {
        (r, round(float(s), 6)): i for i, (r, s) in enumerate(zip(table.recording, table.meta[:, -1], strict=True))
    }
    at = [place.get((r, round(float(s), 6))) for r, s in zip(names, windows.start_s, strict=True)]
    keep = np.array([i for i, j in enumerate(at) if j is not None], dtype=int)
    windows = windows.rows(keep)
    table = table.rows(np.array([at[i] for i in keep], dtype=int))
    made.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Opened(
        made=made, config=config, cohort=cohort, left_out=left_out, split=split, task=task, classes=classes,
        Z=represented(made, windows), frozen=frozen(made, windows), table=table,
        y=windows.labels[task].astype(np.int64), session=windows.session, loss=_losses(made, windows),
        train=np.isin(table.person, split.train),
    )  # fmt: skip


def _losses(made: Representer, windows: Windows, size: int = 256) -> np.ndarray:
    """float64[n]: the heads' losses alone, of each window."""
    import torch

    plain = replace(made, options=Represent(heads={}, bind="none"))
    device, parts = next(made.binder.model.parameters()).device, []
    made.heads.to(device)
    with torch.no_grad():
        for at in range(0, len(windows), size):
            batch = plain.batch(windows, np.arange(at, min(at + size, len(windows))), device)
            parts.append(plain.losses(made.model, batch).double().cpu().numpy())
    return np.concatenate(parts)
