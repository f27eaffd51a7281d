"""Sampling documents and turning them into synthetic recordings in physical units at the original rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ..adapters.autoencoder import Autoencoder
from ..core.config import Section
from ..core.errors import MienError
from ..core.records import Cohort, Recording
from .grammar import MASKED, START, cache_name
from .layout import Layout
from .machine import OWN
from .stitch import join
from .vocabulary import BOS, EOS, MADE, PAD, RELATION_0, RELATIONS, UNLABELLED


class Sampling(Section):
    """per_label: synthetic recordings per class (a public number, never a count of real ones); counts: other numbers for
    single classes; temperature; batch: sequences sampled at once; guidance: classifier-free guidance (arXiv 2207.12598,
    equation 6), 0 is none, and more needs an adapter that was trained with `condition.unlabelled`; seconds: the length of
    each recording, from windows that extend one another (default: one window; more needs `condition.extend`); contexts:
    what else to condition on, the same for all."""

    per_label: int = Field(default=60, ge=1)
    counts: dict[str, int] = {}
    temperature: float = Field(default=1.0, gt=0)
    batch: int = Field(default=60, ge=1)
    guidance: float = Field(default=0.0, ge=0)
    seconds: float | None = Field(default=None, gt=0)
    contexts: dict[str, str | float] = {}

    def labels(self, classes: Sequence[str]) -> list[str]:
        """The label of each recording to make, classes taking turns. MienError for a class that is not there."""
        strange = set(self.counts) - set(classes)
        if strange:
            raise MienError(f"sampling.counts: no class {min(strange)!r}; there are {', '.join(classes)}")
        left = {c: self.counts.get(c, self.per_label) for c in classes}
        if min(left.values()) < 0 or not sum(left.values()):
            raise MienError("sampling.counts: numbers of recordings are 0 or more, and not all 0")
        out = []
        while any(left.values()):
            for c in classes:
                if left[c]:
                    out.append(c)
                    left[c] -= 1
        return out


def documents(
    model: Any,
    layout: Layout,
    ids_of: Callable[[np.ndarray], np.ndarray],
    prompts: Sequence[Sequence[int]],
    *,
    temperature: float,
    seed: int,
    guidance: float = 0.0,
    shown: Any = None,
) -> np.ndarray:
    """Sample one document per prompt (local ids): int32[n, T] local ids, padded after <eos>, prompts included.

    ids_of: local ids -> the model's own. The grammar inside the model leaves only valid tokens, so every row is a whole
    document. guidance w: log p is (1 + w) log p(token | label) - w log p(token | no label), over the valid tokens. Prompts
    may differ in length: the shorter are padded in front. shown: float[n, S, hidden], soft tokens before each prompt
    (backbones/llava.py). Same seed, same bits.
    """
    import torch

    from .room import roomy

    bound = (model.get_base_model() if hasattr(model, "get_base_model") else model)._grammar
    device, offset, size = model.get_input_embeddings().weight.device, bound.offset, bound.size
    generator = torch.Generator().manual_seed(seed)
    n, width = len(prompts), max(map(len, prompts))
    head = np.full((n, width), PAD, dtype=np.int64)
    for i, p in enumerate(prompts):
        head[i, width - len(p) :] = p
    rows = head if not guidance else np.concatenate([head, _unlabelled(head)])
    first = np.array([width - len(p) for p in prompts] * (2 if guidance else 1))
    out = np.full((n, width + layout.body + 1), PAD, dtype=np.int32)
    out[:, :width] = head
    cache = {cache_name(model): roomy()}
    there = np.arange(width) >= first[:, None]
    before: dict[str, Any] = {}  # what only the first call takes
    if shown is not None:
        room = np.full((len(rows), shown.shape[1]), PAD, dtype=np.int64)
        rows, there = np.concatenate([room, rows], 1), np.concatenate([room == PAD, there], 1)
        before["shown"] = shown.to(device).repeat(2 if guidance else 1, 1, 1)
    fed = torch.as_tensor(ids_of(rows), device=device)
    mask = torch.as_tensor(there, dtype=torch.long, device=device)
    ragged = bool(first.any())
    place = torch.as_tensor(np.maximum(np.cumsum(there, 1) - 1, 0), device=device)
    state = torch.full((len(rows),), START, dtype=torch.long, device=device)
    words = bound.words is not None
    done = np.zeros(n, dtype=bool)
    model.eval()
    with torch.inference_mode():
        for t in range(width, out.shape[1]):
            extra = {"attention_mask": mask, "position_ids": place} if ragged else {}
            made = model(
                input_ids=fed, use_cache=True, grammar_state=state, logits_to_keep=1, **cache, **extra, **before,
            )  # fmt: skip
            before = {}
            state = made.grammar_state
            # the model's own distribution, in float64 on the CPU: the draw is then the same on every device
            logits = made.logits[:, -1] if words else made.logits[:, -1, offset : offset + size]
            logits = logits.double().cpu()
            if t == width:  # a recording is given by the prompt or not at all
                start = RELATION_0 + (offset if words else 0)
                logits[:, start : start + len(RELATIONS)] = MASKED
            # at a high temperature even the grammar's mask would melt: forbidden stays forbidden
            logits = logits.masked_fill(logits <= MASKED / 2, -torch.inf)
            if guidance:
                given, free = torch.log_softmax(logits, -1).chunk(2)
                logits = torch.where(given == -torch.inf, given, (1 + guidance) * given - guidance * free)
            p = torch.softmax(logits / temperature, dim=-1)
            drawn = torch.multinomial(p, 1, generator=generator)[:, 0].numpy()
            token = drawn if not words else np.where(drawn >= offset, drawn - offset, drawn + OWN)
            out[:, t] = token
            done |= token == EOS
            if done.all():
                break
            both = np.concatenate([token, token]) if guidance else token
            fed = torch.as_tensor(ids_of(both[:, None].astype(np.int64)), device=device)
            if ragged:
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
                place = place[:, -1:] + 1
    return out[:, : t + 1]


def _unlabelled(head: np.ndarray) -> np.ndarray:
    """The prompts without their labels: the token after <bos>."""
    out = head.copy()
    at = np.argmax(out == BOS, axis=1) + 1
    out[np.arange(len(out)), at] = UNLABELLED
    return out


def windows_of(layout: Layout, sampling: Sampling) -> int:
    """How many windows a recording is made of."""
    return 1 if sampling.seconds is None else max(1, int(np.ceil(sampling.seconds / layout.seconds - 1e-9)))


def chains(
    model: Any,
    layout: Layout,
    ids_of: Callable[[np.ndarray], np.ndarray],
    prompts: Sequence[Sequence[int]],
    count: int,
    sampling: Sampling,
    seed: int,
    shown: Any = None,
) -> list[np.ndarray]:
    """`count` arrays of documents, int32[n, T] each: the first follow the prompts, and each extends the one before it."""
    out: list[np.ndarray] = []
    heads = [list(p[: layout.prompt_length]) for p in prompts]
    for k in range(count):
        if k:
            prompts = [
                [*h, layout.relation("extend"), *layout.made(d).tolist(), MADE]
                for h, d in zip(heads, out[-1], strict=True)
            ]
        out.append(
            documents(
                model,
                layout,
                ids_of,
                prompts,
                temperature=sampling.temperature,
                seed=seed + k,
                guidance=sampling.guidance,
                shown=shown,
            )
        )
    return out


def name(i: int) -> str:
    """What the i-th synthetic recording is called. Each is its own synthetic person: the generator claims no identity."""
    return f"synthetic-{i:06d}"


def recordings(
    rows: Iterable[Sequence[np.ndarray]], layout: Layout, seconds: float | None = None
) -> Iterator[Recording]:
    """Documents of consecutive windows, row by row -> one Recording each, cut to `seconds`."""
    for i, row in enumerate(rows):
        label, streams = layout.decode(row[0])
        if len(row) > 1:
            streams = join(layout, row)
        if seconds is not None:
            streams = {n: s for n, v in streams.items() if (s := v.cut(0, seconds)) is not None}
        yield Recording(id=name(i), person=name(i), streams=streams, labels={layout.task: label} if label else {})


def drawn(made: Autoencoder, sampling: Sampling, seed: int, *, given: bool = False) -> list[Recording]:
    """The same of an autoencoder, class by class. MienError for what it cannot do: anything but so many of each class."""
    other = sorted(sampling.model_fields_set - {"per_label", "counts", "batch"}) + ["given"] * given
    if other:
        raise MienError(f"an autoencoder draws one window of a class and no more: leave out {', '.join(other)}")
    classes = made.classes.get(made.task, ())
    if not classes:
        raise MienError(f"the autoencoder was trained without the classes of {made.task!r}; adapt with a head for them")
    wanted = sampling.labels(classes)
    out = [r for c in classes if c in wanted for r in made.recordings(wanted.count(c), c, seed)]
    return [replace(r, id=name(i), person=name(i)) for i, r in enumerate(out)]


def part(
    adapted: Any, sampling: Sampling, prompts: Sequence[Sequence[int]], seed: int, file: Path, shown: Any = None
) -> list[list[np.ndarray]]:
    """Per prompt the documents of its windows, sampled now or by the run that was stopped: `file` keeps a part as soon as it
    is made, so a killed run goes on from there."""
    count = windows_of(adapted.layout, sampling)
    if file.exists():
        with np.load(file, allow_pickle=False) as kept:
            made = [kept[f"window_{k}"] for k in range(count)]
    else:
        made = chains(adapted.model, adapted.layout, adapted.backbone.own_ids, prompts, count, sampling, seed, shown)
        staged = file.with_name(f".{file.name}.partial")
        with open(staged, "wb") as f:
            np.savez(f, allow_pickle=False, **{f"window_{k}": m for k, m in enumerate(made)})
        staged.rename(file)
    return [[m[i] for m in made] for i in range(len(prompts))]


def cohort_of(run: Path) -> Cohort:
    """The synthetic cohort of a generate run. MienError where it stays in the private half."""
    if not (run / "release" / "cohort").exists() and (run / "private" / "cohort").exists():
        raise MienError(
            f"{run.name}: its cohort was made from recordings that were given unprotected, or by one person's own adapter, and is"
            f" private on purpose: nothing evaluates, attacks or shows it as a release. It lies in {run / 'private' / 'cohort'};"
            " generate without `given` and `personal`, or with given.protect"
        )
    return Cohort.read(run / "release" / "cohort")


def kept(folder: Path) -> dict[str, np.ndarray]:
    """Recording's name -> its document, int32[T], as it was sampled: what the parts in a generate run's private half hold of
    recordings of one window (written anew from the recording, it would be another document: noise is drawn when decoding)."""
    out: dict[str, np.ndarray] = {}
    at = 0
    for file in sorted(folder.glob("part-*.npz")):
        with np.load(file, allow_pickle=False) as made:
            first = made["window_0"]
            if len(made.files) == 1:
                out |= {name(at + i): d[d != PAD].astype(np.int32) for i, d in enumerate(first)}
        at += len(first)
    return out
