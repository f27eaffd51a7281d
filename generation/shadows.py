"""Shadow models of an adapt run: its recipe, trained again on other draws of the same persons."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ..adapters import budget, lora, stacked
from ..adapters.lora import Lora
from ..adapters.training import Train
from ..core import console
from ..core.config import Plugin, Section
from ..core.errors import MienError
from .adapted import Adapted, open_base, rows_to_train, shows
from .likelihood import SEGMENTS, losses_of
from .tokens import Documents

_PREFIX_BYTES = 2 << 30


class Shadows(Section):
    """count: shadow models (0: none are trained); at_once: how many are trained in one stack; width: stop after a stack
    when the 95 % interval of the person-level AUC is narrower than this (None: train them all)."""

    count: int = Field(default=0, ge=0)
    at_once: int = Field(default=8, ge=1)
    width: float | None = Field(default=None, gt=0)


def train(
    adapted: Adapted,
    documents: Documents,
    members: int,
    fresh: np.ndarray,
    config: Shadows,
    seed: int,
    folder: Path,
    enough: Callable[[dict[str, np.ndarray]], bool] = lambda so_far: False,
) -> dict[str, np.ndarray]:
    """shadow_in bool[K, n], shadow_loss float64[K, n], shadow_segments float64[K, n, SEGMENTS] over the documents.

    members: persons each shadow is trained on, as many as the target had; fresh: bool[n], documents no model may train
    on; folder: keeps each finished stack, so that a killed attack goes on. The shadows are made under the target's
    recipe, clipping and noise included, and never leave this process. enough: asked after each stack,
    with what there is. MienError where its recipe cannot be repeated.
    """
    asked = adapted.config
    if asked.get("protections"):
        raise MienError(
            "the target was trained with protections beside its guarantee, which stacked shadows do not repeat; shadows of"
            " another recipe would make it look safer than it is"
        )
    if shows(asked):
        raise MienError(
            "the target was shown recordings as soft tokens (condition.soft), which stacked shadows do not repeat; shadows of"
            " another recipe would make it look safer than it is"
        )
    people = len(documents.persons)
    inside = stacked.inclusion(people, config.count, members / people, seed)
    found: dict[str, np.ndarray] = {}
    for first in range(0, config.count, config.at_once):
        chosen = inside[first : first + config.at_once]
        file = folder / f"shadows-{first}-{seed}.npz"
        if not file.exists():
            made = _one_stack(adapted, documents, chosen, fresh, seed, first, config.count)
            part = file.with_name(f".{file.name}.partial")
            with open(part, "wb") as out_file:
                np.savez(out_file, loss=made["loss"], segments=made["segments"])
            part.replace(file)
        with np.load(file, allow_pickle=False) as kept:
            new = {
                "shadow_in": chosen[:, documents.person], "shadow_loss": kept["loss"],
                "shadow_segments": kept["segments"],
            }  # fmt: skip
        found = {k: np.concatenate([found[k], v]) if found else v for k, v in new.items()}
        if first + config.at_once < config.count and enough(found):
            console.say(f"  {len(found['shadow_in'])} shadow models are enough: the interval is narrower than asked")
            break
    return found


def estimate(run: Path, config: Shadows) -> float | None:
    """Seconds that training the shadows may take, from the target's own log; None where that is not known."""
    try:
        last = json.loads((run / "private" / "log.jsonl").read_text().splitlines()[-1])
        return float(last["seconds"]) * config.count * 0.7
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _one_stack(
    adapted: Adapted, documents: Documents, inside: np.ndarray, fresh: np.ndarray, seed: int, first: int, count: int
) -> dict[str, np.ndarray]:
    asked, layout = adapted.config, adapted.layout
    options, settings = Train(**asked["train"]), Lora(**asked["lora"])
    backbone = open_base(Plugin(**asked["backbone"]), layout)
    device = adapted.model.device
    model = lora.attach(backbone, settings, rows_to_train(layout, backbone), seed).to(device)

    def batch_of(rows: np.ndarray) -> Any:
        return backbone.batch(
            [documents[i] for i in rows.tolist()], prompt=layout.prompt_length, persons=documents.person[rows],
            device=device,
        )  # fmt: skip

    rows = [np.flatnonzero(chosen[documents.person] & ~fresh) for chosen in inside]
    seeds = [seed * 100_003 + first + k + 1 for k in range(len(inside))]
    private = budget.repeated(asked.get("privacy"), documents.person, documents.recording, rows, options.max_steps)
    with _shortened(model, settings, batch_of, documents) as of:
        stack = stacked.Stack(model, len(inside))
        stack.restart(seeds)
        stacked.fit(
            stack, backbone.losses, of, rows, options, seeds=seeds, private=private,
            label=f"shadow models {first + 1} to {first + len(inside)} of {count}",
        )  # fmt: skip
        loss, parts = np.zeros((len(inside), len(documents))), np.zeros((len(inside), len(documents), SEGMENTS))
        with console.progress("their losses", len(inside)) as bar:
            for k in range(len(inside)):
                stack.select(k)
                loss[k], parts[k] = losses_of(lambda made: backbone.token_losses(model, made), of, len(documents), 64)
                bar.step()
        stack.release()
    return {"loss": loss, "segments": parts}


@contextlib.contextmanager
def _shortened(
    model: Any, settings: Lora, batch_of: Callable[[np.ndarray], Any], documents: Documents
) -> Iterator[Callable[[np.ndarray], Any]]:
    """Where the lower layers are frozen and there is room, what they give is computed once."""
    shape = model.config.get_text_config()
    depth, width = int(shape.num_hidden_layers), int(shape.hidden_size)
    room = int(documents.lengths.sum()) * width * 4 <= _PREFIX_BYTES
    if settings.layers is None or settings.rows or settings.layers >= depth or not room:
        yield batch_of
        return
    with stacked.Prefix(model, depth - settings.layers, batch_of, len(documents)) as prefix:
        yield prefix.batch_of
