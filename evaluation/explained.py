"""What carried the task and what carried re-identification in a representation run, of the persons nobody trained on.

Modalities are explained by Shapley values: the probe, and the attacker, learn anew from each subset of them. Channels and moments
(of an autoencoder: the numbers it reads of each stream) are explained by integrated gradients of the run's own head and of
recognition by its own embedding. Each such map is checked against networks of permuted weights (Adebayo et al. 2018): one that
survives them shows the input, not the model. Beside it, what each remedy would cost and take. See `explain.py` for what such
answers are worth.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from ..core.config import Section
from ..core.errors import MienError
from ..core.results import Result
from . import explain
from .explain import Each, Explained, Findings
from .represented import TASK, by_stream
from .transfer import Probe

LEAST_PERSONS = 8  # four to learn on, four to recognise, and the other way round


class Explain(Section):
    """folds: of persons, for probes; coarser, noisier: remedies' steps and noise, in standard deviations of what they change;
    windows: of each person whose channels and moments are explained; steps: of the integral; random: networks of permuted
    weights that a map is checked against."""

    folds: int = Field(default=5, ge=2)
    coarser: tuple[float, ...] = (2.0,)
    noisier: tuple[float, ...] = (2.0,)
    windows: int = Field(default=4, ge=1)
    steps: int = Field(default=64, ge=8)
    random: int = Field(default=2, ge=1)


def of(o: Any, leak: Each, config: Explain | None, seed: int = 0) -> Findings | None:
    """o: an opened run (`adapters/represented.Opened`); leak: representations -> person: how well they are recognised, by an
    attacker who learnt on others of them (`attacks/represented.each_recognised`). MienError with fewer than LEAST_PERSONS held-out
    persons of two recordings. None where nothing is asked for (config None)."""
    if config is None:
        return None
    if not o.classes:
        raise MienError(
            f"explain: {o.task!r} is a number, and what carries it is told of classes alone; leave `explain` away"
        )
    test = np.flatnonzero(~o.train)
    twice = [p for p in np.unique(o.table.person[test]) if len(set(o.table.recording[o.table.person == p])) > 1]
    test = test[np.isin(o.table.person[test], twice)]
    if len(twice) < LEAST_PERSONS:
        raise MienError(
            f"explain: {len(twice)} held-out person(s) with two recordings; an attacker who learns on half of them and recognises"
            f" the others needs {LEAST_PERSONS}. Hold more persons out, or leave `explain` away"
        )
    data = by_stream(o.parts, o.table, o.y, o.classes).rows(test)
    k = min(config.folds, len(twice))
    use, nothing = explain.predicting(TASK, Probe(), k=k, seed=seed), explain.unseen(data, TASK, k=k, seed=seed)
    chance = dict.fromkeys(nothing, 2 / len(nothing))
    sides = tuple(
        explain.shapley(list(data.X), explain.subsets(data, each, none), seed=seed)
        for each, none in ((use, nothing), (leak, chance))
    )
    advice = explain.advise(data, explain.remedies(data, config.coarser, config.noisier), use, leak)
    shown, checks = moments(o, test, config, seed)
    return Findings(
        persons=list(nothing), shapley={o.task: (sides[0], sides[1])}, explained=shown, checks=checks,
        advice={o.task: advice},
    )  # fmt: skip


def moments(o: Any, test: np.ndarray, config: Explain, seed: int = 0) -> tuple[list[Explained], list[Result]]:
    """Integrated gradients of windows at `test`, and their checks; ([], []) of a run without a head that tells the task's
    classes apart. Half of each person's recordings enrol them, windows of the other half are explained."""
    import torch

    if o.task not in o.made.kinds or o.made.kinds[o.task].kind != "classification":
        return [], []
    rng, enrolled, asked = np.random.default_rng([seed, 0xE9]), [], []
    persons = np.unique(o.table.person[test])
    for p in persons:
        mine = test[o.table.person[test] == p]
        names = rng.permutation(np.unique(o.table.recording[mine]))
        first = np.isin(o.table.recording[mine], names[: len(names) // 2])
        enrolled.append(mine[first])
        asked.append(rng.permutation(mine[~first])[: config.windows])
    rows = np.concatenate(asked)
    owner = torch.as_tensor(np.searchsorted(persons, o.table.person[rows]))
    target = torch.as_tensor(o.y[rows])
    device = next(o.made.model.parameters()).device
    batch = o.made.batch(o.windows, rows, device)
    if hasattr(o.made, "scaled"):  # an autoencoder: of its numbers, which have no moments
        batch = o.made.scaled(batch)
    # what is explained of a tower's inputs are its numbers over time; marks of what was measured go along
    number = {
        m: next(n for n in ("values", "events") if n in x)
        for m, x in batch.inputs.items()
        if set(x) & {"values", "events"}
    }
    if set(number) != set(batch.inputs):
        return [], []
    inputs = {m: batch.inputs[m][n] for m, n in number.items()}
    marks = [(m, n, t) for m, x in batch.inputs.items() for n, t in x.items() if n != number[m]]
    extra = (batch.present, *(t for *_, t in marks))
    middle = {m: _mean(o, m, n, device) for m, n in number.items()}
    made = o.made
    gallery = [torch.as_tensor(o.Z[e].mean(0), device=device) for e in enrolled]

    def maps(model: Any, heads: Any, known: Any) -> Explained:
        embed, answer = _functions(made, batch, model, heads[o.task], number, marks)
        for steps in (config.steps, 4 * config.steps, 16 * config.steps):
            with contextlib.suppress(explain.TooCoarse):
                return explain.side_by_side(
                    o.task, answer, embed, known, inputs, target, owner, channels=_channels(o, inputs),
                    person=o.table.person[rows].astype(str), recording=o.table.recording[rows].astype(str),
                    enrolled_recordings=set(o.table.recording[np.concatenate(enrolled)].tolist()),
                    seconds=float(o.config["seconds"]), baseline=middle, extra=extra, steps=steps,
                )  # fmt: skip
        raise explain.TooCoarse(
            f"explain: {16 * config.steps} steps do not integrate this model's gradients; give more steps"
        )

    known = torch.stack(gallery)
    found = maps(made.model, made.heads, known)
    others = []
    for i in range(config.random):
        others.append(
            maps(
                explain.randomised(made.model, seed + i), explain.randomised(made.heads, seed + i),
                explain.permuted(known, seed + i),
            )
        )  # fmt: skip
    return [found], [explain.sanity(found, others, side) for side in ("use", "leakage")]


def _functions(made: Any, like: Any, model: Any, head: Any, number: Any, marks: Any) -> tuple[Any, Any]:
    """embed and answer: (*inputs, present, *marks) -> float[n, width] and float[n, classes]."""

    n_of = len(number)

    def embed(*given: Any) -> Any:
        values, present, rest = given[:n_of], given[n_of], given[n_of + 1 :]
        of = {m: {number[m]: v} for m, v in zip(number, values, strict=True)}
        for (m, n, _), t in zip(marks, rest, strict=True):
            of[m][n] = t
        found = made.embeddings(model, replace(like, inputs=of, present=present))
        return made.fused(found, present[:, None])[:, 0]

    return embed, lambda *given: head(embed(*given)).float()


def _mean(o: Any, modality: str, name: str, device: Any) -> Any:
    """float32[1, T, C]: what "nothing" looks like, each channel's mean over the training persons' windows."""
    import torch

    if hasattr(o.made, "scaled"):  # by just these means
        return torch.zeros((1, 1, o.made.described[modality].width), device=device)
    seen = [o.windows.arrays[i][modality][name] for i in np.flatnonzero(o.train) if modality in o.windows.arrays[i]]
    if not seen:
        return torch.zeros_like(torch.as_tensor(o.windows.blanks[modality][name], dtype=torch.float32, device=device))[
            None
        ]
    mean = np.mean([x.mean(0) for x in seen], 0)
    return torch.as_tensor(np.broadcast_to(mean, seen[0].shape)[None].astype(np.float32), device=device)


def _channels(o: Any, inputs: Any) -> dict[str, tuple[str, ...]]:
    """The card's names where a tower takes its stream's channels; else their numbers. Of an autoencoder what each number is."""
    if hasattr(o.made, "scaled"):
        return {m: o.made.described[m].names for m in inputs}
    streams = {m: s for s, m in o.streams.items()}
    out = {}
    for m, x in inputs.items():
        named = o.cohort.card.streams[streams[m]].channels if streams.get(m) in o.cohort.card.streams else ()
        out[m] = tuple(named) if len(named) == x.shape[2] else tuple(str(i) for i in range(x.shape[2]))
    return out
