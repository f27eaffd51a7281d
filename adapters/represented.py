"""Representations from a recipe to a run and back: what `recipes/adapt.py` adapts, what it keeps, what later verbs open."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..backbones._binder import Binder
from ..core import console, plugins, runs
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.records import Cohort, CohortCard, Recording, Window
from ..core.runs import write_text
from ..core.units import alike
from ..data import features
from ..data.features import WindowTable
from ..data.load import open_cohort
from ..data.splits import Splits
from ..privacy.plan import Guarantee
from . import autoencoder, lora
from .autoencoder import Autoencoder
from .cached import cached
from .described import described
from .representation import Batch, Head, Represent, Representer, attach, heads_of, make_heads, negatives, refuse
from .windows import Windows, encode, towers_of

HEADS = "heads.safetensors"
FEATURES = "frozen"  # of a run's private half, while it trains


def save(made: Representer, folder: Path, *, seconds: float, chosen: Mapping[str, str]) -> None:
    """A plain PEFT adapter, with `heads.safetensors` (trained like it, and covered by the same guarantee) and
    `represent.json` beside it: what goes where."""
    from safetensors.torch import save_file

    lora.save(made.model, folder, made.binder)
    save_file({k: v.detach().cpu().contiguous() for k, v in made.heads.state_dict().items()}, folder / HEADS)
    write_text(
        folder / "represent.json",
        json.dumps(
            {
                "seconds": seconds, "streams": dict(chosen), "modalities": list(made.modalities), "dim": made.binder.dim,
                "options": made.options.model_dump(mode="json", exclude={"negatives"}),
                "heads": {t: h.model_dump(mode="json") for t, h in made.kinds.items()},
                "classes": {t: list(c) for t, c in made.classes.items()},
            },
            indent=1,
        ),
    )  # fmt: skip


def restore(binder: Binder, folder: Path) -> tuple[Representer, dict[str, Any]]:
    """A saved adapter on its base, in eval mode; and `represent.json`. MienError when files are missing or do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    raw = _told(folder)
    try:
        tensors = load_file(folder / HEADS) if raw["heads"] else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise MienError(f"{folder} holds no readable representation: {error}") from None
    model = lora.restore(binder, folder)
    kinds = {t: Head(**h) for t, h in raw["heads"].items()}
    classes = {t: tuple(c) for t, c in raw["classes"].items()}
    heads = make_heads(kinds, classes, len(raw["modalities"]) * binder.dim)
    try:
        heads.load_state_dict(tensors)
    except RuntimeError as error:
        raise MienError(
            f"{folder / HEADS} does not fit represent.json: {str(error).splitlines()[-1].strip()}"
        ) from None
    model.add_module("heads", heads.eval().requires_grad_(False))
    made = Representer(
        binder=binder, model=model, modalities=tuple(raw["modalities"]), heads=heads, options=Represent(**raw["options"]),
        kinds=kinds, classes=classes,
    )  # fmt: skip
    return made, raw


def _told(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "represent.json").read_text())
    except (OSError, ValueError) as error:
        raise MienError(f"{folder} holds no readable representation: {error}") from None


def vectors(made: Representer, windows: Windows, *, model: Any = None, size: int = 256) -> np.ndarray:
    """float32[n, width] of all windows. model: another than the adapted one (the frozen base)."""
    import torch

    model = made.model if model is None else model
    device = next(made.binder.model.parameters()).device
    was, parts = model.training, []
    model.eval()
    with torch.no_grad():
        for at in range(0, len(windows), size):
            batch = made.batch(windows, np.arange(at, min(at + size, len(windows))), device)
            parts.append(made.fused(made.embeddings(model, batch), batch.present[:, None])[:, 0].cpu().numpy())
    model.train(was)
    return np.concatenate(parts)


def frozen(made: Representer, windows: Windows) -> np.ndarray:
    """The same from the base without its adapter; of an autoencoder, from one that was never trained."""
    if isinstance(made, Autoencoder):
        return vectors(made.untrained(), windows)
    with made.model.disable_adapter():
        return vectors(made, windows)


class Representing:
    """A binder that learns to represent recordings, and the windows it learns from: what `recipes/adapt.py` adapts, as
    `generation/adapted.Writing` is where no `represent:` is asked for."""

    windows: Windows
    made: Representer
    features: Path | None = None
    made_from: Mapping[
        str, str
    ] = {}  # runs that it reads, and a private one's guarantee: a model that writes may have them
    earlier: Guarantee | None = None

    def __init__(self, recipe: Any, card: CohortCard):
        self.recipe = recipe
        if recipe.represent.cache and recipe.lora.layers is None:
            raise MienError(
                "represent.cache keeps what enters the last blocks, and all are adapted here: say how many under lora.layers"
            )
        self.base = open_binder(recipe.backbone)
        self.chosen = towers_of(card, self.base, recipe.represent.streams, recipe.streams)
        self.kinds, self.classes = heads_of(recipe.represent, recipe.task, card)
        self.restrictions = self.base.restrictions

    def encode(
        self, cohort: Cohort, keep: Callable[[Window], bool], change: Callable[[Recording], Recording], quiet: bool
    ) -> None:
        """Read the windows for which `keep` holds. MienError when there are none, a stream is in none of them, or (without privacy)
        a class of a head has none."""
        r = self.recipe
        self.windows = encode(
            cohort, self.base, self.chosen, self.classes, seconds=r.seconds, stride_s=r.stride_s, valid=r.valid, keep=keep,
            change=change, quiet=quiet,
        )  # fmt: skip
        gone = [m for i, m in enumerate(self.windows.modalities) if not self.windows.present[:, i].any()]
        if gone:  # under privacy too: what trains no tensor of its tower could not begin
            streams = ", ".join(repr(s) for s, m in self.chosen.items() if m == gone[0])
            raise MienError(f"stream {streams} is in no window of the training persons; leave it out of `streams`")
        if getattr(r, "privacy", None) is not None:
            return  # whether somebody has a class is an answer about recordings, and no step pays for it
        for task, classes in self.classes.items():
            there = set(self.windows.labels[task][~np.isnan(self.windows.labels[task])].astype(int))
            if lost := [c for i, c in enumerate(classes) if i not in there]:
                raise MienError(f"the training split has no window of {task} = {lost[0]}; draw another split")

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def persons(self) -> Sequence[str]:
        return self.windows.persons

    @property
    def person(self) -> np.ndarray:
        return self.windows.person

    @property
    def recording(self) -> np.ndarray:
        return self.windows.recording

    @property
    def width(self) -> int:
        return self.made.width

    def attach(self, card: CohortCard, private: Any, folder: Path, device: Any) -> Any:
        """The `PeftModel` to train, heads and all. private: the plan, or None; folder: the run's private half, where cached
        features lie until `save`; device: to make them on."""
        options, binder = self.recipe.represent, self.base
        refuse(options, self.kinds, private is not None, getattr(private, "groups", None))
        bank = negatives(binder, options, self.chosen, seconds=self.recipe.seconds)
        if options.cache:
            binder.model.to(device)
            self.features = folder / FEATURES
            for modality in self.windows.modalities:
                binder, self.windows = cached(binder, self.windows, modality, self.recipe.lora.layers, self.features)
        self.made = attach(binder, options, self.recipe.lora, self.recipe.task, card, self.chosen, self.recipe.seed)
        self.made.bank = bank
        return self.made.model

    def losses(self, model: Any, batch: Any) -> Any:
        return self.made.losses(model, batch)

    def losses_and_states(self, model: Any, batch: Any) -> tuple[Any, Any]:
        return self.made.losses_and_states(model, batch)

    def batch(self, rows: np.ndarray, device: Any) -> Batch:
        return self.made.batch(self.windows, rows, device)

    def probes(self, device: Any) -> list[Batch]:
        return self.made.probes(self.windows, device)

    def caveats(self, split: Splits) -> tuple[str, ...]:
        return ()

    def save(self, model: Any, folder: Path, guarantee: str, restrictions: Sequence[str]) -> None:
        """The adapter into `folder`, of the release; cached features go, for they are recordings of people."""
        save(self.made, folder, seconds=self.recipe.seconds, chosen=self.chosen)
        if self.features is not None:
            shutil.rmtree(self.features, ignore_errors=True)
        how = f"# base: the towers, as `mien.backbones` opens them (licence of the weights: {self.base.licence})"
        lora.write_notes(folder, self.base, how, guarantee, restrictions)


class Autoencoding(Representing):
    """An autoencoder and the windows it learns from, where a recipe asks for an `autoencoder:`."""

    def __init__(self, recipe: Any, card: CohortCard):
        self.recipe = recipe
        self.described = described(card, recipe.seconds, recipe.streams)
        self.base = autoencoder.reader(self.described)
        self.chosen = {m: m for m in self.described}
        self.kinds, self.classes = heads_of(Represent(heads=recipe.autoencoder.heads), recipe.task, card)
        self.restrictions = ()

    def attach(self, card: CohortCard, private: Any, folder: Path | None = None, device: Any = None) -> Any:
        """The network to train, heads and all. private: must be None."""
        if private is not None:
            raise MienError(autoencoder.REFUSED)
        r = self.recipe
        made = autoencoder.build(r.autoencoder, r.task, card, self.described, self.kinds, self.classes, r.seed)
        autoencoder.standardise(made, self.windows)
        self.made = made
        return made.model

    def save(self, model: Any, folder: Path, guarantee: str, restrictions: Sequence[str]) -> None:
        assert isinstance(self.made, Autoencoder)
        autoencoder.save(self.made, folder, restrictions)


def open_binder(section: Plugin) -> Binder:
    """MienError for a backbone that writes instead."""
    module, config = plugins.resolve("backbones", section, f"backbone {section.name}")
    if getattr(module, "KIND", "") != "binder":
        raise MienError(
            f"backbone {section.name!r} has no towers to represent recordings with; represent: takes a binder (behaviour,"
            " clap, dinov2_minilm, ge2e, imagebind, open_clip, patchtst)"
        )
    console.waiting(f"loading the base {section.name}")
    return module.load(config)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A finished representation run with the windows of *all* its cohort's persons, for later verbs.

    Z: float32[n, width], the adapted representation; frozen: the same without what it learnt (`made.beside`); table: window
    statistics of the same n windows; y: int64[n] classes of `task`, in `classes`, or float64[n] numbers
    (classes: ()); train: bool[n], of persons the adapter
    learned from; loss: float64[n], of the heads; slices: modality -> its columns; session: str[n]; windows: what the towers
    were given; streams: stream -> its modality; alone, without: modality -> float32[n, width], from that modality alone and
    from all others, where modalities share their columns (else None).
    """

    made: Representer
    config: dict[str, Any]
    cohort: Cohort
    left_out: dict[str, int]
    split: Splits
    task: str
    classes: tuple[str, ...]
    Z: np.ndarray
    frozen: np.ndarray
    table: WindowTable
    y: np.ndarray
    train: np.ndarray
    loss: np.ndarray
    session: np.ndarray
    windows: Windows
    streams: Mapping[str, str]
    alone: dict[str, np.ndarray] | None = None
    without: dict[str, np.ndarray] | None = None

    @property
    def slices(self) -> dict[str, slice]:
        return self.made.slices

    @property
    def views(self) -> dict[str, np.ndarray]:
        """name -> float[n, d]: what attackers compare, the last one unprotected."""
        return {"adapted": self.Z, self.made.beside: self.frozen, "window statistics": self.table.X}

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """modality -> float32[n, d], what is known from it alone."""
        return self.alone or {m: self.Z[:, s] for m, s in self.slices.items()}


def opened(folder: Path, purpose: str) -> Opened:
    """MienError when the run is of a model that writes, its base has changed, or its task is of one class."""
    import torch

    asked = runs.asked(folder)
    config = asked["config"]
    if asked["verb"] != "adapt" or not (config.get("represent") or config.get("autoencoder")):
        raise MienError(
            f"{folder.name} is no representation run: its recipe has no `represent:` or `autoencoder:` section"
        )
    adapter = folder / "release" / "adapter"
    cohort, left_out = open_cohort(Plugin(**config["cohort"]), purpose)
    split = Splits.read(folder / "private" / "splits.json")
    task = config["task"]
    classes = tuple(map(str, cohort.card.tasks.get(task, ())))
    if len(classes) == 1:
        raise MienError(f"task: {task!r} has one class in cohort {cohort.card.name!r}; there is nothing to probe for")
    if config.get("autoencoder"):
        made, raw = autoencoder.restore(adapter)
        binder, known = made.binder, made.classes
    else:
        binder, raw = open_binder(Plugin(**config["backbone"])), _told(adapter)
        known = {t: tuple(c) for t, c in raw["classes"].items()}
        if binder.fingerprint != asked["inputs"]["base"]:
            raise MienError(f"the base of {folder.name} has changed since: adapt again, or restore the old base")
    cut = {"seconds": raw["seconds"], "stride_s": config["stride_s"], "valid": config["valid"]}
    windows, table = _beside(
        cohort, binder, raw["streams"], {**known, task: classes}, task, lambda w: split.side(w) is not None, **cut
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with ExitStack() as kept:
        quick, features = binder, windows
        if (config.get("represent") or {}).get("cache"):
            place = kept.enter_context(TemporaryDirectory(dir=folder / "private", prefix=f".{FEATURES}-"))
            binder.model.to(device)
            for modality in windows.modalities:
                quick, features = cached(quick, features, modality, config["lora"]["layers"], Path(place))
        if not config.get("autoencoder"):
            made, _ = restore(binder, adapter)
        made.model.to(device)
        late = made if quick is binder else replace(made, binder=quick)
        Z, bare, loss = vectors(late, features), frozen(late, features), _losses(late, features)
    return Opened(
        made=made, config=config, cohort=cohort, left_out=left_out, split=split, task=task, classes=classes, Z=Z, frozen=bare,
        table=table, y=windows.labels[task].astype(np.int64 if classes else float), train=np.isin(table.person, split.train), loss=loss,
        session=windows.session, windows=windows, streams=raw["streams"], **_in_parts(made, windows),
    )  # fmt: skip


def _beside(
    cohort: Cohort, binder: Binder, chosen: Mapping[str, str], known: Mapping[str, tuple[str, ...]], task: str,
    keep: Callable[[Window], bool] = lambda w: True, *, seconds: float, stride_s: float, valid: float,
) -> tuple[Windows, WindowTable]:  # fmt: skip
    """What the towers take and classical statistics of the same windows, in one order: of those that have both."""
    windows = encode(cohort, binder, chosen, known, seconds=seconds, stride_s=stride_s, valid=valid, keep=keep)
    table = features.tabulate(cohort, seconds=seconds, stride_s=stride_s, task=task, streams=tuple(chosen), valid=valid)
    names = np.array(windows.recordings, object)[windows.recording]
    place = {
        (r, round(float(s), 6)): i for i, (r, s) in enumerate(zip(table.recording, table.meta[:, -1], strict=True))
    }
    at = [place.get((r, round(float(s), 6))) for r, s in zip(names, windows.start_s, strict=True)]
    rows = np.array([i for i, j in enumerate(at) if j is not None], dtype=int)
    return windows.rows(rows), table.rows(np.array([at[i] for i in rows], dtype=int))


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Another cohort's windows through a run's adapter, as in `Opened`. task: that cohort's name of the label."""

    cohort: Cohort
    left_out: dict[str, int]
    task: str
    Z: np.ndarray
    frozen: np.ndarray
    table: WindowTable
    windows: Windows


def elsewhere(o: Opened, section: Plugin, task: str, where: str = "cohort") -> Elsewhere:
    """MienError, naming `where`, for a cohort that shares a person with those the run was adapted to (who they are is not
    said), that lacks the label, or whose streams are others: units that convert are converted, and channels put in order."""
    cohort, left_out = open_cohort(section, "evaluation")
    named = f"{where} ({section.name})"
    if both := {*o.split.train, *o.split.validation} & set(cohort.persons):
        raise MienError(
            f"{named}: {len(both)} of its {len(set(cohort.persons))} persons are among those the run was adapted to; a"
            " split may not share a person: name a cohort of others (simulated persons: another seed)"
        )
    if task not in cohort.card.tasks:
        raise MienError(f"{named} has no label {task!r}; it has {', '.join(cohort.card.tasks) or 'none'}")
    there, said = alike(cohort, o.cohort.card, tuple(o.streams), named)
    console.lines(said)
    for stream in o.streams:
        theirs, ours = there.card.streams[stream], o.cohort.card.streams[stream]
        if isinstance(o.made, Autoencoder) and theirs.rate_hz != ours.rate_hz:
            raise MienError(
                f"{named}: stream {stream!r} has {theirs.rate_hz:g} Hz, and {ours.rate_hz:g} Hz in the run's cohort; an"
                " autoencoder's numbers are of one rate (a `represent:` run's towers take any)"
            )
    windows, table = _beside(
        there, o.made.binder, o.streams, {}, task, seconds=float(o.config["seconds"]), stride_s=o.config["stride_s"],
        valid=o.config["valid"],
    )  # fmt: skip
    return Elsewhere(
        cohort=cohort, left_out=left_out, task=task, Z=vectors(o.made, windows), frozen=frozen(o.made, windows),
        table=table, windows=windows,
    )  # fmt: skip


def _in_parts(made: Representer, windows: Windows) -> dict[str, dict[str, np.ndarray]]:
    names = made.modalities
    if not isinstance(made, Autoencoder) or len(names) < 2:
        return {}
    return {
        "alone": {m: vectors(made, windows.of([m])) for m in names},
        "without": {m: vectors(made, windows.of([n for n in names if n != m])) for m in names},
    }


def _losses(made: Representer, windows: Windows, size: int = 256) -> np.ndarray:
    """float64[n]: the heads' losses alone, of each window."""
    import torch

    plain = made.heads_alone()
    device, parts = next(made.binder.model.parameters()).device, []
    made.heads.to(device)
    with torch.no_grad():
        for at in range(0, len(windows), size):
            batch = plain.batch(windows, np.arange(at, min(at + size, len(windows))), device)
            parts.append(plain.losses(made.model, batch).double().cpu().numpy())
    return np.concatenate(parts)
