"""What there is to see of an adapted model, for attacks: the numbers behind attacks/signals.py, as plain arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core import console
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.records import Cohort
from ..data.features import WindowTable, tabulate
from ..data.splits import Splits
from . import shadows as shadow_models
from .adapted import Adapted, shows
from .likelihood import measure
from .tokens import Documents


@dataclass(frozen=True, kw_only=True)
class Sight:
    """An adapted model and the cohort's windows in its layout, as an attacker has them."""

    adapted: Adapted
    documents: Documents
    cohort: Cohort

    @staticmethod
    def of(adapted: Adapted, cohort: Cohort) -> Sight:
        documents = Documents.encode(cohort, adapted.layout, **{k: adapted.config[k] for k in ("stride_s", "valid")})
        return Sight(adapted=adapted, documents=documents, cohort=cohort)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.adapted.layout.parts)

    @property
    def unseen(self) -> tuple[str, ...]:
        """What these attacks do not look at."""
        if not shows(self.adapted.config):
            return ()
        shown = "How it writes when it is shown recordings (condition.soft): it was attacked on documents without any."
        eyes, split = self.adapted.eyes, Splits.read(self.adapted.folder / "private" / "splits.json")
        private = bool(self.adapted.config.get("privacy"))
        section = Plugin(**self.adapted.config["cohort"])
        return (shown, *(() if eyes is None else eyes.caveats(section, None if private else split.holdout)))

    @property
    def table(self) -> WindowTable:
        """Statistics of all streams of the windows that could be coded, in the documents' order."""
        return self._tabulate(self.cohort).rows(self.documents.usable)

    def both(self, cohort: Cohort) -> tuple[WindowTable, list[np.ndarray]]:
        """A cohort's windows as the attacker on a release has them: statistics of the modelled streams, and tokens."""
        made = self.documents.like(cohort)
        return self._tabulate(cohort, "streams").rows(made.usable), list(made)

    def _tabulate(self, cohort: Cohort, *more: str) -> WindowTable:
        return tabulate(cohort, **{k: self.adapted.config[k] for k in ("seconds", "stride_s", "task", "valid", *more)})


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
