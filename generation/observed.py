"""What there is to see of an adapted model, for attacks: the numbers behind attacks/signals.py, as plain arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..core import console
from ..core.errors import MienError
from ..data.splits import Splits
from . import shadows as shadow_models
from .adapted import Adapted
from .likelihood import measure
from .tokens import Documents


def observe(
    adapted: Adapted,
    documents: Documents,
    split: Splits,
    *,
    batch: int,
    slope: bool,
    tokens: Callable[..., None] | None,
    shadows: shadow_models.Shadows,
    seed: int,
    folder: Path,
    enough: Callable[[dict[str, Any]], bool] = lambda seen: False,
) -> dict[str, Any]:
    """Per document, by field of Signals: recording, person, label, member; fresh where recordings were kept out of
    training; the numbers of `measure`; shadow_in, shadow_loss and shadow_segments where shadow models were asked for.

    enough: asked after each stack of shadows, with all of this so far. Shadows whose recipe cannot be repeated are left
    out, and it is said why: what needs them is then not run.
    """
    recording = np.array(documents.recordings, dtype=object)[documents.recording]
    person = np.array(documents.persons, dtype=object)[documents.person]
    fresh = np.isin(recording.astype(str), split.fresh) if split.fresh else np.zeros(len(person), bool)
    out: dict[str, Any] = {
        "recording": recording, "person": person, "member": np.isin(person.astype(str), split.train),
        "label": np.array(adapted.layout.classes, dtype=object)[documents.label],
    }  # fmt: skip
    if fresh.any():
        out["fresh"] = fresh
    out |= measure(adapted, documents, batch, tokens, slope)
    if shadows.count:
        cost = shadow_models.estimate(adapted.folder, shadows)
        console.say(f"  {shadows.count} shadow models" + (f", about {console.duration(cost)}" if cost else ""))
        try:
            seen = dict(out)
            out |= shadow_models.train(
                adapted, documents, len(split.train), fresh, shadows, seed, folder, lambda so_far: enough(seen | so_far)
            )
        except MienError as error:
            console.say(f"  no shadow models: {error}")
    return out
