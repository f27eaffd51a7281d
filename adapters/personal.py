"""User-specific models: a small LoRA of one person's own on top of the shared adapter, from their first labelled windows.

The shared adapter stays as it is, active and frozen beside the new one; the heads are copied and go on learning. A personal
adapter is that person's data: it is kept in a local folder (mode 0700) under a keyed hash of the person's id, never in a run's
release half, deleted by `forget`, and marked so that whatever shares adapters refuses it. No guarantee covers it: the shared
adapter's ε says nothing of what a person's own adapter tells of that person.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import hmac
import json
import secrets
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ..core import console, runs
from ..core.config import Plugin, Section
from ..core.errors import MienError
from ..core.paths import runs_home
from ..core.runs import whole_folder, write_text
from ..data.load import open_cohort
from .representation import Representer
from .represented import vectors
from .windows import Windows

NAME, MARK = "personal", "personal.json"


class Personalise(Section):
    """per_class: labelled windows of each class, the first in time; rank, steps, lr: of the personal LoRA and heads."""

    per_class: int = Field(default=5, ge=1)
    rank: int = Field(default=2, ge=1)
    steps: int = Field(default=60, ge=1)
    lr: float = Field(default=5e-3, gt=0)


def first(windows: Windows, person: str, task: str, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows to learn from, rows to be judged by) of one person, in time: the first `per_class` windows of every class, and
    everything that begins after the last of them. MienError when a class has too few, or nothing is left to judge by."""
    if person not in windows.persons:
        raise MienError("this person has no window here; name a person of the cohort")
    mine = np.flatnonzero(windows.person == windows.persons.index(person))
    mine = mine[np.argsort(windows.start_s[mine], kind="stable")]
    y = windows.labels[task][mine]
    taken: list[int] = []
    for c in np.unique(y[~np.isnan(y)]):
        of = mine[y == c]
        if len(of) < per_class:
            raise MienError(f"a class has {len(of)} windows, and {per_class} are to be learned from; lower per_class")
        taken += of[:per_class].tolist()
    if not taken:
        raise MienError(f"no window of this person has a label of {task!r}")
    end = max(windows.start_s[taken])
    rest = mine[(windows.start_s[mine] > end) & ~np.isnan(y)]
    if not len(rest):
        raise MienError("no labelled window comes after those to learn from; lower per_class")
    return np.array(sorted(taken)), rest


def fit(
    made: Representer, windows: Windows, rows: Sequence[int] | np.ndarray, options: Personalise, seed: int = 0
) -> Representer:
    """The shared model with one person's adapter and heads, trained on `rows` of their windows. The shared weights are read
    and not written; `drop` takes the personal adapter off again."""
    import torch
    from peft import LoraConfig

    if NAME in made.model.peft_config:
        raise MienError("a personal adapter is on this model already; take it off with `drop` first")
    if len(set(np.asarray(windows.person)[np.asarray(rows)])) != 1:
        raise MienError("a personal adapter learns from the windows of one person")
    shared = made.model.peft_config["default"]
    torch.manual_seed(seed)
    own = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules=shared.target_modules)
    made.model.add_adapter(NAME, own)
    _both(made.model)
    heads = copy.deepcopy(made.heads).requires_grad_(True)
    mine = replace(made, heads=heads)
    parameters = [p for n, p in made.model.named_parameters() if f".{NAME}." in n]
    for p in parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW([*parameters, *heads.parameters()], lr=options.lr, weight_decay=0.01)
    batch = mine.batch(windows, rows, next(made.binder.model.parameters()).device)
    for _ in range(options.steps):
        optimizer.zero_grad()
        mine.losses(made.model, batch).mean().backward()
        optimizer.step()
    for p in parameters:
        p.requires_grad_(False)
    heads.requires_grad_(False)
    return mine


def predicted(
    made: Representer,
    windows: Windows,
    shots: np.ndarray,
    tail: np.ndarray,
    task: str,
    options: Personalise,
    seed: int = 0,
    keep: tuple[str, Collection[str]] | None = None,
) -> np.ndarray:
    """float64[tail, classes]: a person's windows at `tail` by an adapter of their own that learnt those at `shots`. It is taken
    off again. keep: (fingerprint of the shared adapter's run, persons): theirs stay in the store, in place of what was there."""
    alone = made.heads_alone()
    try:
        mine = fit(alone, windows, shots, options, seed)
        person = windows.persons[int(windows.person[shots[0]])]
        if keep is not None and person in keep[1]:
            save(mine, person, keep[0])
        return probabilities(mine, windows, tail, task)
    finally:
        drop(made)


def predicting(config: Any, source: Path) -> Callable[..., np.ndarray]:
    """`predicted`, for `evaluation/personalised.of`; with `keep` it keeps the adapters of persons who consent to training. source:
    the adapt run's folder."""
    if config is None or not config.keep:
        return predicted
    cohort, left_out = open_cohort(Plugin(**runs.asked(source)["config"]["cohort"]), "training")
    if left_out:
        console.say("  personal adapters of persons who do not allow training are not kept")
    return partial(predicted, keep=(runs.fingerprint(source), frozenset(cohort.persons)))


def probabilities(made: Representer, windows: Windows, rows: np.ndarray, task: str) -> np.ndarray:
    """float64[rows, classes]: what the run's own head says. MienError where it has none of classes for the task, or is no LoRA."""
    import torch

    if not hasattr(made.model, "peft_config"):
        raise MienError("personal: an autoencoder is trained whole and has no LoRA to put a person's own on; name a"
                        " `represent:` run")  # fmt: skip
    if task not in made.kinds or made.kinds[task].kind != "classification":
        raise MienError(f"personal: the run has no head for the classes of {task!r}, which a person's own would move")
    Z = torch.as_tensor(vectors(made, windows.rows(rows)))
    with torch.no_grad():
        head = made.heads[task]
        return torch.softmax(head(Z.to(head.weight.device)).double(), 1).cpu().numpy()


def drop(made: Representer) -> None:
    """The shared model alone again."""
    if NAME in made.model.peft_config:
        made.model.delete_adapter(NAME)
        made.model.base_model.set_adapter("default")
        made.model.requires_grad_(False)


def save(mine: Representer, person: str, adapter: str) -> Path:
    """Keep a personal adapter in the local store. adapter: fingerprint of the shared adapter's run."""
    from safetensors.torch import save_file

    place = _place(person, adapter)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.parent.chmod(0o700)
    tensors = {n: p for n, p in mine.model.state_dict().items() if f".{NAME}." in n}
    tensors |= {f"heads.{n}": p for n, p in mine.heads.state_dict().items()}
    rank = mine.model.peft_config[NAME].r
    with whole_folder(place) as part:
        part.chmod(0o700)
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part / "personal.safetensors")
        write_text(part / MARK, json.dumps({"adapter": adapter, "rank": rank}))
    return place


def load(made: Representer, person: str, adapter: str) -> Representer:
    """A kept personal adapter on its shared model. MienError when there is none, or it is of another shared adapter."""
    from peft import LoraConfig
    from safetensors.torch import load_file

    place = _place(person, adapter)
    try:
        raw, tensors = json.loads((place / MARK).read_text()), load_file(place / "personal.safetensors")
    except (OSError, ValueError):
        raise MienError("no personal adapter of this person is kept for this shared adapter; fit one first") from None
    shared = made.model.peft_config["default"]
    own = LoraConfig(r=raw["rank"], lora_alpha=2 * raw["rank"], target_modules=shared.target_modules)
    drop(made)
    made.model.add_adapter(NAME, own)
    _both(made.model)
    heads = copy.deepcopy(made.heads)
    heads.load_state_dict({k.removeprefix("heads."): v for k, v in tensors.items() if k.startswith("heads.")})
    lost = made.model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("heads.")}, strict=False)
    if lost.unexpected_keys or any(f".{NAME}." in k for k in lost.missing_keys):
        drop(made)
        raise MienError("the personal adapter is of another shared adapter's layers; fit it again")
    return replace(made, heads=heads)


def forget(person: str) -> int:
    """Delete everything personal of somebody: adapters of every shared one, and whole runs of what one's own adapter made; how many
    that were. What a killed `save` left half-written goes too."""
    if not store().is_dir():
        return 0
    name, gone = pseudonym(person), 0
    for folder in store().glob(f"*/*{name}*"):
        shutil.rmtree(folder)
        gone += folder.name == name
    for mark in runs_home().glob(f"*/private/{MARK}"):  # recordings that one's own adapter made (generation/own.py)
        if json.loads(mark.read_text()).get("who") == name:
            shutil.rmtree(mark.parent.parent)
            gone += 1
    return gone


def forget_command(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mien data forget",
        description="Delete what is one person's alone: the adapters that `personal: {keep: true}` of `mien evaluate` keeps beside the"
        " runs, and the runs of `mien generate personal.person=…`. What shared adapters learnt from them is another matter: `mien data"
        " touches`.",
    )
    parser.add_argument("person", help="the pseudonymous id, as the cohort writes it")
    gone = forget(parser.parse_args(argv).person)
    console.say(f"{console.count(gone, 'personal adapter')} deleted, with the recordings they made, from {runs_home()}")
    return 0


def refuse_to_share(folder: Path) -> None:
    """MienError where a folder to be shared holds a personal adapter."""
    if found := next(iter(Path(folder).rglob(MARK)), None):
        raise MienError(
            f"{found.parent.name} is a personal adapter: it is one person's data, covered by no guarantee, and is never"
            " shared. Share the adapter it was made from"
        )


def store() -> Path:
    """Where personal adapters lie: beside the runs, and in none of them."""
    return runs_home() / ".personal"


def _both(model: Any) -> None:
    """Shared and personal adapter active together, nothing trainable yet."""
    model.base_model.set_adapter(["default", NAME])
    model.requires_grad_(False)


def _place(person: str, adapter: str) -> Path:
    return store() / adapter[:16] / pseudonym(person)


def pseudonym(person: str) -> str:
    """A person's folder: their id under a key of this store, so that its names tell nobody who is there."""
    home = store()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = home / ".key"
    with suppress(FileExistsError), open(file, "xb") as f:
        file.chmod(0o600)
        f.write(secrets.token_bytes(32))
    return hmac.new(file.read_bytes(), person.encode(), hashlib.sha256).hexdigest()[:24]
