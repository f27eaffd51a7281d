"""Protections beside differential privacy, as an adapt recipe names them. They never change the guarantee."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..core import plugins
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.records import Cohort, CohortCard, Recording
from ..core.runs import write_text
from ..privacy.mechanisms import adversary, perturb


class Subject(Protocol):
    """What is adapted, as `recipes/adapt.py` sees it: a model that writes recordings as tokens (generation/adapted.py), or
    one that represents them (adapters/represented.py), with the windows it learns from.

    persons: ids; person: int64[n] into them; width: of the states that `losses_and_states` gives beside the losses,
    float[B, width].
    """

    @property
    def persons(self) -> Sequence[str]: ...
    @property
    def person(self) -> np.ndarray: ...
    @property
    def width(self) -> int: ...
    def losses(self, model: Any, batch: Any) -> Any: ...
    def losses_and_states(self, model: Any, batch: Any) -> tuple[Any, Any]: ...


_IN_TRAINING = ("adversary", "perturb")


@dataclass(frozen=True)
class Protections:
    """adversary, perturb: their Config, or None."""

    adversary: adversary.Config | None = None
    perturb: perturb.Config | None = None

    @staticmethod
    def of(sections: Sequence[Plugin]) -> Protections:
        """MienError for one that does not act in training, or is named twice."""
        found: dict[str, Any] = {}
        for section in sections:
            if section.name not in _IN_TRAINING or section.name in found:
                raise MienError(
                    f"protections: {section.name!r} is named twice or does not act while an adapter is trained; there are"
                    f" {', '.join(_IN_TRAINING)} (leace works on finished representations)"
                )
            found[section.name] = plugins.resolve("privacy/mechanisms", section, f"protection {section.name}")[1]
        return Protections(**found)

    def caveats(self) -> tuple[str, ...]:
        """What each of them does not promise."""
        used = [("adversary", self.adversary, adversary), ("perturb", self.perturb, perturb)]
        return tuple(f"Protection {name}: {module.GUARANTEE}." for name, config, module in used if config is not None)

    def change(self, card: CohortCard, private: Path) -> Callable[[Recording], Recording]:
        """What recordings go through before they are encoded. The noise's seed is drawn once and stays in `private`."""
        config = self.perturb
        if config is None:
            return lambda r: r
        file = private / "perturb-seed"
        if not file.exists():
            write_text(file, str(secrets.randbits(126)))
        seed = int(file.read_text())

        def noisy(r: Recording) -> Recording:
            words = [int.from_bytes(r.id.encode()[i : i + 4], "big") for i in range(0, len(r.id.encode()), 4)]
            return perturb.apply(r, config, card, np.random.default_rng([seed, *words]))

        return noisy

    def losses(
        self, model: Any, subject: Subject, cohort: Cohort, seed: int, private: bool
    ) -> Callable[[Any, Any], Any]:
        """The subject's per-unit loss, with the adversaries' added when there are any.

        Each adversary becomes a part of `model`: its tensors are trained, clipped and noised with the adapter's, and
        left out when the adapter is saved. MienError when a private run would take an attribute's classes from the
        recordings.
        """
        import torch

        config = self.adversary
        if config is None:
            return subject.losses
        torch.manual_seed(seed)
        heads, codes = torch.nn.ModuleDict(), {}
        for name in config.attributes:
            if private and (name == "identity" or name not in {*config.classes, *config.ranges, *config.edges}):
                way = "leave it out" if name == "identity" else "declare its `classes`, `ranges` or `edges`"
                raise MienError(
                    f"protection adversary: the classes of {name!r} would follow from who is in the cohort, and with them"
                    f" everybody's gradient; in a private run {way}"
                )
            values, classes = adversary.targets(_values(cohort, subject.persons, name), config, name)
            heads[name] = adversary.head(subject.width, len(classes), config)
            codes[name] = torch.as_tensor(values)
        model.add_module("adversaries", heads)

        def losses(model: Any, batch: Any) -> Any:
            loss, pooled = subject.losses_and_states(model, batch)
            for name, head in heads.items():
                loss = loss + adversary.loss(head, pooled, codes[name].to(batch.person.device)[batch.person])
            return loss

        return losses


def _values(cohort: Cohort, persons: Sequence[str], attribute: str) -> list[Any]:
    """The attribute of each person, None where it is missing. MienError when it changes within a person."""
    if attribute == "identity":
        return list(persons)
    if attribute not in cohort.card.attributes:
        raise MienError(
            f"protection adversary: cohort {cohort.card.name!r} has no attribute {attribute!r}; it has identity"
            f" and {', '.join(cohort.card.attributes)}"
        )
    seen: dict[str, Any] = {}
    for person, attributes in zip(cohort.column("person"), cohort.column("attributes"), strict=True):
        value = attributes.get(attribute)
        if seen.setdefault(person, value) != value:
            raise MienError(f"protection adversary: {attribute!r} changes within a person; it must be constant")
    return [seen.get(p) for p in persons]
