"""An adapted model as later verbs open it: base, adapter, grammar and layout from a finished adapt run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..adapters import autoencoder, embedded, lora
from ..adapters.autoencoder import Autoencoder
from ..adapters.embedded import Embedded
from ..backbones import llava, tiny
from ..backbones.causal_lm import CausalBackbone, pooled
from ..core import config, console, plugins, runs
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.records import Cohort, CohortCard, Recording, Window
from ..data.load import open_cohort, require_consent
from ..data.splits import Splits
from .grammar import constrain
from .layout import Layout
from .tokens import Documents, Written
from .vocabulary import FIRST_CODEC, LABEL_0


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """folder: the adapt run; config: its recipe, resolved; model: `PeftModel` in eval mode, masked by the grammar; eyes: the binder
    whose embeddings it is shown, if any."""

    folder: Path
    config: dict[str, Any]
    backbone: CausalBackbone
    model: Any
    layout: Layout
    eyes: Embedded | None = None

    @property
    def fingerprint(self) -> str:
        return runs.fingerprint(self.folder)


class Writing:
    """A base that learns to write recordings as tokens, and the documents it learns from: what `recipes/adapt.py` adapts.

    recipe: an `Adapt` (generation/tokens.Written, with `backbone`, `lora`, `seed`); card: of the cohort.
    """

    documents: Documents

    def __init__(self, recipe: Any, card: CohortCard):
        self.recipe, self.layout = recipe, recipe.layout(card)
        self.restrictions: tuple[str, ...] = ()
        self.made_from: Mapping[str, str] = {}
        self.earlier = None
        self.eyes = eyes = embedded.of(recipe.backbone, card, self.layout.streams, self.layout.seconds)
        if eyes is not None:
            self.restrictions, self.made_from = eyes.restrictions, eyes.inputs
            if (privacy := getattr(recipe, "privacy", None)) is not None:
                self.earlier = eyes.before(recipe.cohort, privacy.unit)
        self.base = open_base(recipe.backbone, self.layout, recipe.condition.soft > 0, eyes)

    def encode(
        self, cohort: Cohort, keep: Callable[[Window], bool], change: Callable[[Recording], Recording], quiet: bool
    ) -> None:
        """Read the windows for which `keep` holds. MienError when there are none, or none of some class."""
        r = self.recipe
        self.documents = Documents.encode(
            cohort, self.layout, stride_s=r.stride_s, keep=keep, quiet=quiet, change=change, condition=r.condition,
            valid=r.valid, seed=r.seed, pack=self.base.pack,
        )  # fmt: skip
        self.documents.require_every_class()
        if r.condition.soft and not self.documents.softened:
            raise MienError(
                f"condition.soft shows another window of the same recording, and no recording has two of {r.seconds:g} s to choose from:"
                " nothing would be shown, and the projector not trained. Take longer recordings, or shorter `seconds` or `stride_s`"
            )
        self.base.require_room(int(self.documents.lengths.max()) + self.base.soft * (r.condition.soft > 0))

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def persons(self) -> Sequence[str]:
        return self.documents.persons

    @property
    def person(self) -> np.ndarray:
        return self.documents.person

    @property
    def recording(self) -> np.ndarray:
        return self.documents.recording

    @property
    def width(self) -> int:
        return self.base.model.get_input_embeddings().weight.shape[1]

    def attach(self, card: CohortCard, private: Any, folder: Path, device: Any) -> Any:
        """The `PeftModel` to train. private: the plan, or None."""
        if getattr(private, "groups", None) is not None:
            raise MienError("privacy.groups is for represent.bind: group; a model that writes has no contrast to share")
        return lora.attach(self.base, self.recipe.lora, rows_to_train(self.layout, self.base), self.recipe.seed)

    def losses(self, model: Any, batch: Any) -> Any:
        return self.base.losses(model, batch)

    def losses_and_states(self, model: Any, batch: Any) -> tuple[Any, Any]:
        loss, hidden = self.base.losses_and_states(model, batch)
        return loss, pooled(hidden, batch.mask)

    def batch(self, rows: np.ndarray, device: Any) -> Any:
        documents = [self.documents[i] for i in rows]
        return self.base.batch(
            documents, prompt=self.layout.prompt_length, persons=self.documents.person[rows], device=device,
            **self.documents.beside(rows),
        )  # fmt: skip

    def probes(self, device: Any) -> list[Any]:
        beside = self.documents.beside(self.documents.spread(3))
        return self.base.probes(self.documents.some(3), prompt=self.layout.prompt_length, device=device, **beside)

    def caveats(self, split: Splits) -> tuple[str, ...]:
        """What the report has to say of who is held out."""
        private = getattr(self.recipe, "privacy", None) is not None
        return () if self.eyes is None else self.eyes.caveats(self.recipe.cohort, None if private else split.holdout)

    def save(self, model: Any, folder: Path, guarantee: str, restrictions: Sequence[str]) -> None:
        lora.save(model, folder, self.base)
        how = f"base.resize_token_embeddings({len(self.base.model.get_input_embeddings().weight)})"
        if self.eyes is not None:
            how += f"\n# its soft tokens are a binder's embeddings ({self.eyes.binder.identity}); without them it writes from labels alone"
        elif told := self.recipe.backbone.options.get("shown"):
            own = f"the base's own {told['tower']} tower's of {told['stream']}"
            how += f"\n# its soft tokens are {own}; without them it writes from labels alone"
        lora.write_notes(folder, self.base, how, guarantee, restrictions)
        self.layout.write(folder / "layout.json")


def writable(recipe: Written, backbone: Plugin | None, card: CohortCard) -> None:
    """Fails now, not after a base was pretrained: MienError for a layout that cannot be, or that this base would not know."""
    layout, first = recipe.layout(card), tiny.missing(backbone)
    if first is None:
        return
    raw = {k: v for k, v in config.read(first).items() if k in Written.model_fields}
    base = config.parse(Written, raw, first)
    known = base.layout(open_cohort(base.cohort, "training")[0].card).vocabulary
    if known.digest != layout.vocabulary.digest:
        raise MienError(_others(layout, f"the base of {first} would be", known.codecs))


def _others(layout: Layout, base: str, codecs: Sequence[str] = ()) -> str:
    theirs = f" ({', '.join(codecs)})" if codecs else ""
    return (
        f"{base} pretrained on other behaviour tokens{theirs} than this recipe's: {', '.join(layout.vocabulary.codecs)}. Give the"
        " base a recipe with the same codecs in the same order (backbone.recipe=…), choose other `codecs:` or `streams:` here, or"
        " take a base that was pretrained on none, such as backbone='{name: causal_lm, model: smollm2-135m}'"
    )


def joined(section: Plugin, layout: Layout, card: CohortCard, shown: bool = False) -> Plugin:
    """A recipe's backbone section with the model that is made here for `signals:` or `binder:`, and with what the model's own tower is
    shown; others come back as they are. shown: recordings will be given as soft tokens."""
    if not shown and section.name == "llava" and section.options.get("shown") is not None:
        raise MienError(
            "backbone.shown: no recording is given as soft tokens; ask for `condition: {soft: …}`, or leave it out"
        )
    made = llava.with_senses(section, card.streams, layout.seconds) if shown else section
    made = llava.with_tower(made, layout.streams, layout.seconds)
    return embedded.with_binder(made, card, layout.streams, layout.seconds)


def open_base(
    section: Plugin, layout: Layout, shown: bool = False, eyes: Embedded | None = None
) -> CausalBackbone:  # fmt: skip
    """A frozen base with the layout's grammar in its forward. shown: recordings will be given as soft tokens; eyes: the binder that
    makes them.

    MienError when it was pretrained on other tokens, takes no soft tokens, was made for another binder, or would have parts adapted
    that see none.
    """
    module, config = plugins.resolve("backbones", section, f"backbone {section.name}")
    console.waiting(f"loading the base {section.name}")
    backbone = module.load(config, layout.vocabulary.size)
    known = getattr(backbone.model.config.get_text_config(), "behaviour_vocabulary", None)
    if backbone.speaks_behaviour and known is not None and known != layout.vocabulary.digest:
        raise MienError(_others(layout, f"the base of backbone {section.name} was"))
    if shown and not backbone.soft:
        raise MienError(
            f"condition.soft: the backbone {section.name} ({backbone.identity}) takes no recording as soft tokens; that"
            " needs a LLaVA whose tower was made for signals, `backbone: {name: llava, model: …, signals: {}}`, a binder's"
            " embeddings, `binder: {run: …}`, or a model whose own tower takes pictures or sounds, `shown: {stream: …}`"
        )
    if eyes is not None:
        made_for = getattr(getattr(backbone.model.config, "vision_config", None), "binder", None)
        if made_for != eyes.fingerprint:
            named = eyes.binder.identity if eyes.run is None else eyes.run.name
            raise MienError(
                f"backbone.binder: {named} is no longer what this model's soft tokens were made with: restore it, or adapt again"
            )
        backbone.pack = eyes.pack
    if backbone.beside and not shown:
        raise MienError(
            f"{' and '.join(backbone.beside)} would be adapted, and no recording is given as soft tokens: nothing there"
            " would ever be trained. Switch adapt_projector and adapt_vision off, or ask for `condition: {soft: …}`"
        )
    constrain(backbone.model, layout.grammar, backbone.offset, (*layout.never, *backbone.never))
    return backbone


def allowed(folder: Path, purpose: str) -> None:
    """MienError unless everybody an adapt run learned from allows this use today, those that its binder learned from too."""
    asked = runs.asked(folder)["config"]
    require_consent(Plugin(**asked["cohort"]), Splits.read(folder / "private" / "splits.json").train, purpose)
    run = ((asked.get("backbone") or {}).get("binder") or {}).get("run")
    if run is not None:
        allowed(runs.find(run, "adapt"), purpose)


def origins(folder: Path) -> tuple[list[str], list[str]]:
    """Names and fingerprints of the cohorts that an adapt run learned from, and those of its binder's run."""
    asked = runs.asked(folder)
    names, prints = [str(asked["config"]["cohort"]["name"])], [str(asked["inputs"]["cohort"])]
    run = ((asked["config"].get("backbone") or {}).get("binder") or {}).get("run")
    if run is not None:
        more = origins(runs.find(run, "adapt"))
        names, prints = [*names, *more[0]], [*prints, *more[1]]
    return list(dict.fromkeys(names)), list(dict.fromkeys(prints))


def shows(recipe: dict[str, Any]) -> bool:
    """Whether an adapt recipe shows recordings as soft tokens."""
    return recipe.get("condition", {}).get("soft", 0) > 0


def rows_to_train(layout: Layout, backbone: CausalBackbone) -> list[int]:
    """The base's own ids of the token rows an adapter trains: what opens a document and its parts, or, where the base
    knows no behaviour token, every one that this layout can use."""
    speaks = layout.grammar.speaks.tolist()
    return [backbone.offset + r for r in speaks if not backbone.speaks_behaviour or LABEL_0 <= r < FIRST_CODEC]


def layout_of(folder: Path) -> Layout:
    """The layout of an adapt or align run; a local folder, whose place the release does not say, is where its recipe says. MienError
    for a run of another verb, or one that made nothing that writes recordings as tokens."""
    asked = runs.asked(folder)
    recipe = asked["config"]
    if asked["verb"] not in ("adapt", "align"):
        raise MienError(f"{folder.name} is a run of {asked['verb']}, not of adapt or align")
    if recipe.get("represent") or recipe.get("autoencoder"):
        raise MienError(f"{folder.name} represents recordings and has no model that writes them as tokens")
    return Layout.read(folder / "release" / "adapter" / "layout.json", [*recipe["codecs"], recipe["codec"]])


def written(folder: Path) -> Layout | Autoencoder:
    """How an adapt run's model writes windows: its `seconds`, `task` and `round_trip`."""
    if runs.asked(folder)["config"].get("autoencoder"):
        return autoencoder.restore(folder / "release" / "adapter")[0]
    return layout_of(folder)


def open_adapted(folder: Path) -> Adapted:
    """On the GPU where there is one. MienError when the run is not an adapt run, or its base is no longer the one it
    was trained on."""
    import torch

    asked, layout = runs.asked(folder), layout_of(folder)
    section, eyes = Plugin(**asked["config"]["backbone"]), None
    llava.require_kept(section, folder.name)
    if section.options.get("binder") is not None:
        card = embedded.cohort_of(Plugin(**asked["config"]["cohort"])).card
        eyes = embedded.of(section, card, layout.streams, layout.seconds)
    backbone = open_base(section, layout, shows(asked["config"]), eyes)
    if backbone.fingerprint != asked["inputs"]["base"]:
        raise MienError(
            f"the base of {folder.name} has changed since (weights {backbone.fingerprint[:12]}, then"
            f" {asked['inputs']['base'][:12]}): adapt again, or restore the old base"
        )
    model = lora.restore(backbone, folder / "release" / "adapter")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Adapted(folder=folder, config=asked["config"], backbone=backbone, model=model, layout=layout, eyes=eyes)
