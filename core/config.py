"""Typed recipes: YAML in, one checked pydantic object out.

A recipe may `extends:` one other file (one hop): one beside it, or one that ships with Mien. Dotted overrides
(`train.max_steps=20`) come last. There is no interpolation. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import itertools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from .errors import MienError

M = TypeVar("M", bound=BaseModel)
RECIPES = Path(__file__).resolve().parent.parent / "recipes"
File = Annotated[str, AfterValidator(lambda name: str(Path(name).expanduser()))]  # no shell sees `~` behind a key


def _placed(name: str) -> str:
    folder = Path(name).expanduser().parent
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; make it first")
    return str(Path(name).expanduser())


NewFile = Annotated[str, AfterValidator(_placed)]  # a file to write, so that nobody waits for what has no place


class Section(BaseModel):
    """A part of a recipe: frozen, and no key is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Plugin(BaseModel):
    """A part of a recipe that names a plug-in file; its other keys belong to that file's own `Config`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def load_yaml(path: Path) -> Any:
    """`yaml.safe_load` of a file, with errors that name the file and line."""
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MienError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise MienError(f"{path} is a folder; name the YAML file in it") from None
    except UnicodeDecodeError:
        raise MienError(f"{path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise MienError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None


def find_recipe(path: str | Path) -> Path:
    """A recipe's file: as given, or inside the recipes that ship with Mien (`recipes/watch/adapt.yaml`)."""
    path = Path(path)
    if path.exists():
        return path
    inside = _shipped(path)
    if inside is not None:
        return inside
    raise MienError(f"no such recipe: {path}{_nearest(path)}")


def _shipped(path: Path) -> Path | None:
    """The recipe that ships with Mien under this relative path, with or without `recipes/` before it."""
    inside = RECIPES.joinpath(*path.parts[1:]) if path.parts[:1] == ("recipes",) else RECIPES / path
    return inside if not path.is_absolute() and inside.is_file() else None


def _nearest(path: Path) -> str:
    shipped = [str(p.relative_to(RECIPES)) for p in sorted(RECIPES.glob("*/*.yaml"))]
    near = difflib.get_close_matches(str(path).removeprefix("recipes/"), shipped, n=1)
    return f"; did you mean recipes/{near[0]}?" if near else ""


def commands(verb: str) -> list[tuple[str, Path]]:
    """(command, file) of every shipped recipe of a verb, as its head says it; what runs without other data comes first."""
    first = {"watch": 0, "simulated": 1, "folder": 2}
    out = []
    for file in sorted(RECIPES.glob("*/*.yaml"), key=lambda f: (first.get(f.parent.name, 3), f.stem != verb, f)):
        found = re.search(rf"^#\s+(mien {verb} recipes/\S+\.yaml)", file.read_text(), re.M)
        if found:
            out.append((found[1], file))
    return out


def read(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A recipe as plain data: the file, under what it extends, under the overrides."""
    file = find_recipe(path)
    raw = _mapping(file)
    parent = raw.pop("extends", None)
    if parent is not None:
        base_file = _base(file, str(parent))
        base = _mapping(base_file)
        if "extends" in base:
            root = _base(base_file, str(base["extends"])).resolve()
            root = Path("recipes") / root.relative_to(RECIPES) if root.is_relative_to(RECIPES) else root
            raise MienError(
                f"{file} extends {base_file}, which extends another file; only one hop is allowed: write `extends: {root}`"
                f" instead, and copy what else stands in {base_file.name}"
            )
        raw = merge(base, raw)
    return override(raw, overrides)


def override(raw: dict[str, Any], items: Sequence[str]) -> dict[str, Any]:
    """`key=value` items over a recipe, in order. Naming another plug-in drops the old one's keys first, wherever it stands."""
    changes: list[tuple[list[str], str, Any]] = []
    for item in items:
        key, mark, text = item.partition("=")
        if not mark or not key.strip():
            raise MienError(f"an override is written key=value (dots go into sections), got {item!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise MienError(f"override {item!r}: the value is not valid YAML") from None
        *sections, last = key.strip().split(".")
        changes.append((sections, last, value))
    for sections, last, value in changes:
        node = _section(raw, sections)
        if last == "name" and sections and node.get("name", value) != value:
            node.clear()
            node["name"] = value
    for sections, last, value in changes:
        _section(raw, sections)[last] = value
    return raw


def _section(raw: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The section at a path, made where there is none, and a copy of what the recipe had."""
    for section in path:
        inner = raw.get(section)
        raw[section] = dict(inner) if isinstance(inner, Mapping) else {}
        raw = raw[section]
    return raw


def _base(file: Path, parent: str) -> Path:
    """What `file` extends: beside it, or a recipe that ships with Mien. Never of the current folder, so it means one thing."""
    beside = file.parent / parent
    if beside.exists():
        return beside
    inside = _shipped(Path(parent))
    if inside is None:
        raise MienError(
            f"{file} extends {parent}: no such file in {file.parent} and no shipped recipe of that name{_nearest(Path(parent))}"
        )
    return inside


def parse(model: type[M], raw: Mapping[str, Any], where: str) -> M:
    """Plain data -> `model`; a wrong key or type becomes one line that says where and what to write instead."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise MienError(f"{where}: {explain(model, error)}") from None


def load(path: str | Path, model: type[M], overrides: Sequence[str] = ()) -> M:
    """`read` and `parse` in one."""
    return parse(model, read(path, overrides), str(path))


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` over `base`, section by section. A plug-in section of another name replaces the old one whole."""
    out = dict(base)
    for key, value in top.items():
        old = out.get(key)
        renamed = (
            isinstance(old, Mapping)
            and isinstance(value, Mapping)
            and "name" in old
            and value.get("name", old["name"]) != old["name"]
        )
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not renamed:
            out[key] = merge(old, value)
        else:
            out[key] = value
    return out


def explain(model: type[BaseModel], error: ValidationError, *, file: bool = False) -> str:
    """The first error of a pydantic report, in one line a person can act on; an unknown key before the one it was meant for.

    file: an example is written as in a YAML file and not as on the command line.
    """
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path = [str(p) for p in first["loc"]]
    key = ".".join(path)
    more = "" if len(error.errors()) == 1 else f" (and {len(error.errors()) - 1} more)"
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(sorted(known))}"
        return f"unknown key {key!r}; {hint}{more}"
    if first["type"] == "missing":
        return f"the key {key!r} is missing{more}"
    given = first.get("input")
    if first["type"] in ("tuple_type", "list_type"):
        example = f"[{given if isinstance(given, str | int | float) else '…'}]"
        message = "a list is needed here, such as " + (example if file else f"{key}='{example}'")
    elif first["type"] in ("model_type", "dict_type"):
        message = "a section of keys is needed here" + _section_such_as(model, path, given)
    else:
        message = first["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:] if key else message
    return f"{key}: {message}, got {'null' if given is None else repr(given)}{more}" if key else message


def _section_such_as(model: type[BaseModel], path: Sequence[str], given: Any) -> str:
    known = _keys_at(model, path)
    if known == ["name"]:
        return f", such as {{name: {given if isinstance(given, str) else '…'}}}"
    rest = "; leave the key out for the defaults" if given is None else ""
    return (f" ({', '.join(known)})" if known else "") + rest


def _keys_at(model: Any, path: Sequence[str]) -> list[str]:
    for part in path:
        for candidate in models(model):
            if part in candidate.model_fields:
                model = candidate.model_fields[part].annotation
                break
    return [k for m in models(model) for k in keys(m)]


def keys(model: type[BaseModel]) -> list[str]:
    """What a recipe may say to `model`."""
    return [f.alias or k for k, f in model.model_fields.items()]


def described(model: type[BaseModel]) -> dict[str, str]:
    """key -> what the docstrings of `model` and of the classes it is made of say of it. They are written as `key: words; key,
    key: words`, and are read so."""
    out: dict[str, str] = {}
    name = "|".join(sorted(map(re.escape, keys(model)), key=len, reverse=True))
    head = re.compile(rf"(?:^|(?<=[;.,:] )|(?<=; or )|(?<= that one ))((?:{name})(?:, (?:{name}))*): ")
    for kind in model.__mro__:
        doc = " ".join((kind.__dict__.get("__doc__") or "").split())
        found = list(head.finditer(doc))
        for here, following in itertools.zip_longest(found, found[1:]):
            words = doc[here.end() : following.start() if following else len(doc)]
            words = re.sub(r"[;.] (the rest\b|or$|of that one$|For one call:).*", "", words.strip()).rstrip(";., ")
            for key in here[1].split(", "):
                out.setdefault(key, words)
    return out


def models(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a key of this type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list, tuple, dict):
        return [m for a in typing.get_args(annotation) for m in models(a)]
    return []


def _mapping(file: Path) -> dict[str, Any]:
    raw = load_yaml(file)
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise MienError(f"{file}: a recipe is a mapping of keys, this holds a {type(raw).__name__}")
    return raw
