"""A plug-in is one file whose name is its name; a dotted name loads a third party's module."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from . import config
from .errors import MienError

ROOT = Path(__file__).resolve().parent.parent


def names(kind: str) -> list[str]:
    """The plug-ins of a folder such as "data/datasets" or "attacks/membership"."""
    return sorted(f.stem for f in (ROOT / kind).glob("*.py") if not f.stem.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """The module `name` of a folder, or a third party's module when the name has a dot."""
    if "." in name:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise MienError(f"the third-party plug-in {name!r} cannot be imported: {error}") from None
    if name not in names(kind):
        near = difflib.get_close_matches(name, names(kind), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names(kind))}"
        raise MienError(f"no {kind.split('/')[-1]} called {name!r}; {hint}")
    return importlib.import_module(f"mien.{kind.replace('/', '.')}.{name}")


def resolve(kind: str, section: config.Plugin, where: str = "") -> tuple[ModuleType, Any]:
    """The module a recipe section names, and its `Config` filled from the section's other keys."""
    module = load(kind, section.name)
    return module, config.parse(module.Config, section.options, where or f"{kind} {section.name}")
