"""An adapted model as later verbs open it: base, adapter, grammar and layout from a finished adapt run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters import lora
from ..backbones.causal_lm import CausalBackbone
from ..core import plugins, runs
from ..core.config import Plugin
from ..core.errors import MienError
from .grammar import constrain
from .layout import Layout
from .vocabulary import LABEL_0, STREAM_0, VOCABULARY


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """folder: the adapt run; config: its recipe, resolved; model: `PeftModel` in eval mode, masked by the grammar."""

    folder: Path
    config: dict[str, Any]
    backbone: CausalBackbone
    model: Any
    layout: Layout

    @property
    def fingerprint(self) -> str:
        return runs.fingerprint(self.folder)


def open_base(section: Plugin, layout: Layout) -> CausalBackbone:
    """A frozen base with the layout's grammar in its forward."""
    module, config = plugins.resolve("backbones", section, f"backbone {section.name}")
    backbone = module.load(config, VOCABULARY.size)
    constrain(backbone.model, layout.grammar, backbone.offset)
    return backbone


def rows_to_train(layout: Layout, backbone: CausalBackbone) -> list[int]:
    """The base's own ids of the token rows an adapter trains: labels and streams, or all where it knows none."""
    rows = [*range(LABEL_0, LABEL_0 + len(layout.classes)), *range(STREAM_0, STREAM_0 + len(layout.streams))]
    return [backbone.offset + r for r in (rows if backbone.speaks_behaviour else range(VOCABULARY.size))]


def open_adapted(folder: Path) -> Adapted:
    """On the GPU where there is one. MienError when the run is not an adapt run, or its base is no longer the one it
    was trained on."""
    import torch

    asked = runs.asked(folder)
    if asked["verb"] != "adapt":
        raise MienError(f"{folder.name} is a run of {asked['verb']}, not of adapt")
    layout = Layout.read(folder / "release" / "adapter" / "layout.json")
    backbone = open_base(Plugin(**asked["config"]["backbone"]), layout)
    if backbone.fingerprint != asked["inputs"]["base"]:
        raise MienError(
            f"the base of {folder.name} has changed since (weights {backbone.fingerprint[:12]}, then"
            f" {asked['inputs']['base'][:12]}): adapt again, or restore the old base"
        )
    model = lora.restore(backbone, folder / "release" / "adapter")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return Adapted(folder=folder, config=asked["config"], backbone=backbone, model=model, layout=layout)
