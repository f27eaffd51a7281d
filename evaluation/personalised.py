"""Is a model of one's own worth it, in a representation run? Persons nobody trained on, their first labelled windows in time.

`personal.compare` on the run's vectors, with two methods more: the run's own head as it is, and with a small LoRA of the person's own
below it (`adapters/personal.py`), which is fitted, asked, and thrown away. All are judged on the same later windows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field

from ..core import console
from ..core.config import Section
from ..core.errors import MienError
from ..core.results import Result
from . import personal, transfer
from .personal import OWN, SHARED, Person, Tail
from .transfer import Probe, Represented


class Personal(Section):
    """k: labelled windows per class of each person, the first in time; tail: strict (after everything learnt from) or class (per
    class, where conditions come in blocks); apart: judged on other recordings than those learnt from; untimed: nobody wrote down
    when recordings were made, so they are taken one after the other by their ids; rank, steps, lr: of a person's own LoRA;
    persons: at most so many held-out ones, drawn; keep: each person's own LoRA (of the last k) stays in a local store beside the
    runs, of those who consent to training, until `mien data forget`."""

    k: tuple[int, ...] = (1, 5)
    tail: Tail = "strict"
    apart: bool = False
    untimed: bool = False
    rank: int = Field(default=2, ge=1)
    steps: int = Field(default=60, ge=1)
    lr: float = Field(default=5e-3, gt=0)
    persons: int | None = Field(default=None, ge=3)
    keep: bool = False


def of(
    o: Any, own: Callable[..., np.ndarray], shared: Callable[..., np.ndarray], config: Personal | None, seed: int = 0
) -> list[Result]:
    """`compared`, as lines of a report: every method against generic, and the personal LoRA against the shared head."""
    if config is None:
        return []
    found = compared(o, own, shared, config, seed)
    out = found.results()
    for k in config.k:
        name = f"{OWN}, k = {k} − {SHARED}:"
        out += transfer.gain(name, found.found[OWN, k], found.found[SHARED, 0], found.metric).results()
    return [r.model_copy(update={"metric": f"personal: {r.metric}"}) for r in out]


def compared(
    o: Any, own: Callable[..., np.ndarray], shared: Callable[..., np.ndarray], config: Personal, seed: int = 0
) -> personal.Compared:
    """o: an opened run (`adapters/represented.Opened`); own(made, windows, shots, tail, task, config, seed) and shared(made,
    windows, rows, task) -> float64[rows, classes] (`adapters/personal.predicted`, `probabilities`). Every method of
    `personal.METHODS`, the shared head and the personal LoRA. MienError as of `compare`, and where the run has no LoRA or no
    head."""
    test = np.flatnonzero(~o.train)
    shared(o.made, o.windows, test[:1], o.task)  # refuses before anything is computed
    people = np.unique(o.table.person[test])
    if config.persons is not None:
        people = np.random.default_rng([seed, 0x0E]).permutation(people)[: config.persons]
    test = test[np.isin(o.table.person[test], people)]
    if len(people) < 3:
        raise MienError(f"personal: {len(people)} held-out person(s); hold three or more out")
    data = Represented(
        X={"all": np.asarray(o.Z[test], np.float64)}, person=o.table.person[test], recording=o.table.recording[test],
        time_s=_clock(o, test, config), seconds=float(o.config["seconds"]), classes={o.task: tuple(o.classes)},
        labels={o.task: np.array([o.classes[c] for c in o.y[test]], dtype=object)},
    )  # fmt: skip
    place = {key: i for i, key in zip(test.tolist(), _keys(data), strict=True)}
    with console.progress("personal adapters", len(people) * len(config.k)) as bar:

        def lora(p: Person) -> np.ndarray:
            rows = (np.array([place[key] for key in _keys(d)]) for d in (p.shots, p.tail))
            bar.step()
            return own(o.made, o.windows, *rows, o.task, config, seed)

        def head(p: Person) -> np.ndarray:
            return shared(o.made, o.windows, np.array([place[key] for key in _keys(p.tail)]), o.task)

        return personal.compare(
            data, o.task, Probe(), config.k, tail=config.tail, apart=config.apart,
            methods={**personal.METHODS, SHARED: head, OWN: lora},
        )  # fmt: skip


def _clock(o: Any, rows: np.ndarray, config: Personal) -> np.ndarray:
    """float64[rows]: when each window began."""
    start = np.asarray(o.windows.start_s[rows], np.float64)
    if not config.untimed:
        return start
    return transfer.one_after_the_other(start, o.table.recording[rows], float(o.config["seconds"]))


def _keys(data: Represented) -> list[tuple[str, float]]:
    return list(zip(data.recording.astype(str).tolist(), data.time_s.tolist(), strict=True))
