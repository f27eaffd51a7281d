"""Recordings as a binder's embeddings: what a model that writes is shown as soft tokens, one for each tower.

`backbone: {name: llava, model: …, binder: {run: adapt-…}}` names a finished representation run, or `{base: {name: behaviour, …}}`
its frozen base alone. The binder is frozen and asked once per window; a stream that a window lacks is zeros, as in a
representation. Only the projector behind it learns.

**What an adversary would say.** Let somebody know all recordings but one person's, the recipe and the code.

1. A window's soft tokens are computed from that window alone, by a binder that is fixed before the generator's first step. So a
   person enters the generator's training through their own rows only, and clipping bounds all of it – *if the binder is a constant*.
2. A binder that learned from that person is none: every other person's soft tokens are a function of it, and with them every
   other person's clipped gradient. No noise on the generator's steps covers that. A private generator is therefore refused beside
   a representation that was trained on people without privacy; also on other people, for that they are others cannot be checked
   (ids are of one source). Simulated persons of another seed are nobody.
3. A representation that was trained privately was released to the generator: the two runs compose, adaptively, and both runs'
   steps are what the claim is computed from (`PrivacyPlan.after`). The ledger has charged the first to its own persons already.
4. Soft tokens that are clipped, noised and charged (adapters/shown.py) hide the recordings that are *shown*. Whoever is shown may
   still stand in the binder's weights: where it learned from them without privacy the protection is refused; where it learned from
   others of the same source, or privately, that is said beside the claim; of another source nobody knows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..backbones import llava, tiny
from ..backbones._binder import Binder, collate
from ..core import config, console, plugins, runs
from ..core.config import Plugin
from ..core.errors import MienError
from ..core.records import Cohort, CohortCard, StreamSpec
from ..core.results import Report
from ..core.units import conversion
from ..data.load import ledger_source, require_consent, simulated
from ..data.splits import Splits
from ..privacy.plan import Guarantee
from .represented import open_binder, restore
from .windows import prepared

WAY_OUT = (
    "take the binder's base (backbone.binder={base: …}; nothing of the study may be in its weights), or a representation that was"
    " trained with a `privacy:` section"
)


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """An opened binder. model: its own, or the same in a `PeftModel`; takes: tower -> its streams, in the order of the soft tokens;
    turns: stream -> what makes of it what the tower takes, and said: that in words; run: the representation run's folder, None of a
    base alone; fingerprint: of all that the embeddings follow from, under the key of these run folders."""

    binder: Binder
    model: Any
    takes: Mapping[str, tuple[str, ...]]
    turns: Mapping[str, Callable[[Any], Any]]
    said: tuple[str, ...]
    run: Path | None
    fingerprint: str

    def pack(self, given: Sequence[Mapping[str, Any] | None]) -> np.ndarray:
        """{stream: Stream}, or None -> float32[B, towers, dim]: each tower's embedding times √dim (so that its numbers are of size 1),
        0 where its stream is missing or empty. MienError where a tower cannot take a stream. One row at a time: no other row's
        length, and no rounding, can come in."""
        import torch

        out = np.zeros((len(given), len(self.takes), self.binder.dim), dtype=np.float32)
        device = next(self.binder.model.parameters()).device
        if device.type == "cpu" and torch.cuda.is_available():
            device = torch.device("cuda")
            self.model.to(device)
        with torch.no_grad():
            for row, streams in zip(out, given, strict=True):
                parts = {s: self.turns[s](v) for s, v in (streams or {}).items() if s in self.turns}
                for place, (tower, names) in zip(row, self.takes.items(), strict=True):
                    arrays = prepared(self.binder.towers[tower], parts, names)
                    if arrays is not None:
                        found = self.binder.embed(self.model, tower, collate([arrays], device))
                        place[:] = found[0].float().cpu().numpy() * self.binder.dim**0.5
        return out

    @cached_property
    def asked(self) -> dict[str, Any]:
        """The representation run's recipe."""
        assert self.run is not None
        return runs.asked(self.run)["config"]

    @property
    def inputs(self) -> dict[str, str]:
        """The run that a run which is shown these embeddings is made from."""
        return {} if self.run is None else {"binder": runs.fingerprint(self.run)}

    @property
    def restrictions(self) -> tuple[str, ...]:
        """Of the binder's weights, and of the recordings it learned from."""
        learned = () if self.run is None else Report.read(self.run / "release" / "report.json").restrictions
        return tuple(dict.fromkeys((*self.binder.restrictions, *learned)))

    @property
    def guarantee(self) -> Guarantee | None:
        """Of a representation that was trained privately."""
        file = None if self.run is None else self.run / "release" / "adapter" / "guarantee.json"
        return Guarantee.read(file) if file is not None and file.exists() else None

    @property
    def learned(self) -> tuple[str, ...]:
        """The persons whose recordings the representation learned from."""
        return () if self.run is None else Splits.read(self.run / "private" / "splits.json").train

    def require_consent(self, purpose: str) -> None:
        """MienError unless everybody that the representation learned from allows this use of it."""
        if self.run is not None:
            require_consent(Plugin(**self.asked["cohort"]), self.learned, purpose)

    def caveats(self, section: Plugin, held_out: Collection[str] | None) -> tuple[str, ...]:
        """What to say where it learned from persons of the cohort `section` who are `held_out` of what is shown it. None: of a private
        run, whose release may not tell who is where: what the recipes let happen is said, whether or not it did."""
        if self.run is None or not same_people(Plugin(**self.asked["cohort"]), section):
            return ()
        if held_out is not None and not set(held_out) & set(self.learned):
            return ()
        may = "learned" if held_out is not None else "may have learned"
        return (
            f"The binder it was shown recordings through ({self.run.name}) {may} from some of the persons who are held out here: they"
            " are no strangers to it, and what is measured on them flatters it. `split.same_as` holds out the same persons in both.",
        )

    def before(self, section: Plugin, unit: str) -> Guarantee | None:
        """What a private run on the cohort `section` has to count beside its own steps. MienError where nothing could be claimed
        for it: argument 2 above."""
        if self.run is None:
            return None
        if self.guarantee is not None:
            if (self.guarantee.unit, unit) != ("person", "person"):
                raise MienError(
                    f"backbone.binder: {self.run.name} was trained privately for each {self.guarantee.unit}, and this run is to be for"
                    f" each {unit}: what both are together is computed for persons alone. Use `privacy.unit: person` in both, or"
                    f" {WAY_OUT}"
                )
            return self.guarantee
        theirs = Plugin(**self.asked["cohort"])
        if simulated(theirs) and not same_people(theirs, section):
            return None
        raise MienError(
            f"backbone.binder: {self.run.name} was trained without privacy, on recordings of "
            + ("the persons this run is to protect" if same_people(theirs, section) else "people")
            + ". Everybody's soft tokens follow from its weights, so that no ε would hold for those it learned from, however much noise"
            f" this run adds: {WAY_OUT}"
        )

    def beside(self, section: Plugin, shown: Collection[str], counted: bool) -> str:
        """What is to be said after the claim for persons of the cohort `section` who are `shown` under protection, "" where
        nothing is. counted: the generator's own claim counts this binder's training already. MienError where one of them taught it
        without privacy: argument 4."""
        if self.run is None or counted:
            return ""
        if self.guarantee is not None:
            if self.guarantee.unit != "person":
                raise MienError(
                    f"given.protect: {self.run.name} was trained privately for each {self.guarantee.unit}, and what is shown is protected"
                    " for each person: what both are together is computed for persons alone. Use `privacy.unit: person` there, or"
                    f" {WAY_OUT}"
                )
            return f". The binder they are shown through: {self.guarantee.sentence()}. For a person in both, the two add up"
        theirs = Plugin(**self.asked["cohort"])
        same = same_people(theirs, section)
        if simulated(theirs) and not same:
            return ""
        if not same:
            raise MienError(
                f"given.protect: {self.run.name} was trained without privacy on a cohort of another source, and nobody can check that its"
                f" persons are others than those to be shown: name the `source` of their ids alike in both cohorts, or {WAY_OUT}"
            )
        both = set(shown) & set(self.learned)
        if both:
            raise MienError(
                f"given.protect: {self.run.name} was trained without privacy on {len(both)} of the {len(set(shown))} persons who are to"
                " be shown: noise on their soft tokens does not hide them from its weights. Adapt with"
                f" `split: {{same_as: {self.run.name}}}`, which holds out the same persons in both, or {WAY_OUT}"
            )
        return (
            ". The binder they are shown through was trained without privacy on other persons: nothing bounds what is revealed about"
            " those"
        )


def same_people(one: Plugin, other: Plugin) -> bool:
    """Whether two cohorts may hold the same persons, by the source of their ids; of simulated ones by their seed, for a seed's
    persons are much the same under every other setting."""
    made = [plugins.resolve("data/datasets", s, f"cohort {s.name}") for s in (one, other)]
    if simulated(one) or simulated(other):
        seeds = {getattr(c, "seed", None) for _, c in made}
        return simulated(one) and simulated(other) and len(seeds) == 1
    if one == other:
        return True
    return len({ledger_source(s, cohort_of(s)) for s in (one, other)}) == 1


def with_binder(section: Plugin, card: CohortCard, written: Collection[str], seconds: float) -> Plugin:
    """A recipe's backbone section, for `binder:` with the run or the weights it stands for by name, and the folder of the joined
    model, made now if need be; others come back as they are. The rest, and MienError, as `of`."""
    asked = _asked(section)
    if asked is None:
        return section
    if asked.run is not None:
        folder = runs.find(asked.run, "adapt")
        inside = folder.parent == runs.runs_home().resolve()
        exact = {"run": folder.name if inside else str(folder)}
    else:
        assert asked.base is not None
        exact = {"base": tiny.with_weights(asked.base).model_dump()}
    raw = {**asked.model_dump(exclude={"run", "base"}), **exact}
    named = Plugin(**{**section.options, "name": "llava", "binder": raw})
    made = of(named, card, written, seconds)
    assert made is not None
    made.require_consent("training")
    console.lines(f"  {s}" for s in made.said)
    return llava.with_embeddings(named, tokens=len(made.takes), width=made.binder.dim, binder=made.fingerprint)


def of(section: Plugin | None, card: CohortCard, written: Collection[str], seconds: float) -> Embedded | None:
    """The binder that a backbone section names, opened for a cohort's windows; None where it names none. card: the cohort's; written:
    the streams that the model writes, which a base alone is shown where the recipe does not say (a run is shown its own: a stream need
    not be written to be shown). MienError for a run that is no representation's or is gone, one whose base has changed, and
    windows or streams that its towers were not made for."""
    asked = _asked(section)
    if asked is None:
        return None
    if asked.base is not None:
        binder = open_binder(asked.base)
        own = {n: n for n in sorted(written) if n in binder.towers}
        chosen = _chosen(asked.streams, own, list(binder.towers), card)
        return _opened(binder, binder.model, chosen, card.streams, {}, None, {})
    assert asked.run is not None
    folder = runs.find(asked.run, "adapt")
    told = runs.asked(folder)
    if told["verb"] != "adapt" or not told["config"].get("represent"):
        raise MienError(
            f"backbone.binder: {folder.name} has no towers to embed recordings with; name a run whose recipe has a `represent:` section"
        )
    binder = open_binder(Plugin(**told["config"]["backbone"]))
    if binder.fingerprint != told["inputs"]["base"]:
        raise MienError(f"the base of {folder.name} has changed since: adapt again, or restore the old base")
    adapter = folder / "release" / "adapter"
    made, raw = restore(binder, adapter)
    if abs(float(raw["seconds"]) - seconds) > 1e-9:
        raise MienError(
            f"backbone.binder: {folder.name} represents windows of {raw['seconds']:g} s, and `seconds` is {seconds:g} here; make them"
            " the same"
        )
    chosen = _chosen(asked.streams, raw["streams"], list(made.modalities), card)
    known = cohort_of(Plugin(**told["config"]["cohort"])).card.streams
    theirs: dict[str, list[str]] = {}
    for stream, tower in raw["streams"].items():
        theirs.setdefault(tower, []).append(stream)
    specs = {}
    for tower in dict.fromkeys(chosen.values()):
        mine = [s for s, t in chosen.items() if t == tower]
        if len(theirs[tower]) != len(mine) or (len(mine) > 1 and set(mine) != set(theirs[tower])):
            raise MienError(
                f"backbone.binder.streams: the tower {tower!r} of {folder.name} takes {', '.join(theirs[tower])}"
            )
        specs |= {s: known[s if len(mine) > 1 else theirs[tower][0]] for s in mine}
    files = [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]
    what = {"adapter": [hashlib.sha256(f.read_bytes()).hexdigest() for f in files], "represent": raw}
    return _opened(binder, made.model, chosen, card.streams, specs, folder, what)


def _opened(
    binder: Binder, model: Any, chosen: Mapping[str, str], streams: Mapping[str, StreamSpec], specs: Mapping[str, StreamSpec],
    run: Path | None, what: Mapping[str, Any],
) -> Embedded:  # fmt: skip
    """specs: stream -> as the representation run's cohort has it; what: of the run, for the fingerprint."""
    takes = {t: tuple(s for s, of in chosen.items() if of == t) for t in dict.fromkeys(chosen.values())}
    if twice := [t for t, s in takes.items() if len(s) > 1 and not binder.towers[t].joins]:
        raise MienError(f"backbone.binder.streams: two streams for the tower {twice[0]!r}; leave one out")
    turns, said = {}, []
    for stream, tower in chosen.items():
        spec = specs.get(stream, streams[stream])
        same: tuple[Callable[[Any], Any], str] = (lambda s: s, "")
        first, done = (
            same
            if spec == streams[stream]
            else conversion(streams[stream], spec, f"backbone.binder: stream {stream!r}")
        )
        fit, fitted = binder.towers[tower].fit, ""
        second: Callable[[Any], Any] = lambda s: s  # noqa: E731
        if fit is not None:
            second, fitted = fit(spec)
        turns[stream] = lambda s, one=first, two=second: two(one(s))
        said += [words for words in (done, fitted and f"{stream}: {fitted}") if words]
    shapes = {s: (list(specs[s].channels), specs[s].unit, specs[s].range) for s in sorted(specs)}
    told = {"base": binder.fingerprint, "takes": [[t, *s] for t, s in takes.items()], "streams": shapes, **what}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return Embedded(
        binder=binder, model=model, takes=takes, turns=turns, said=tuple(said), run=run, fingerprint=runs.keyed(digest)
    )


def _asked(section: Plugin | None) -> llava.Bound | None:
    if section is None or section.name != "llava" or section.options.get("binder") is None:
        return None
    return config.parse(llava.Config, section.options, "backbone llava").binder


def _chosen(
    asked: Mapping[str, str], own: Mapping[str, str], towers: Sequence[str], card: CohortCard
) -> dict[str, str]:
    """stream -> tower. asked: as the recipe says; own: where it says nothing. MienError naming what does not fit."""
    chosen, known = dict(asked or own), f"the towers are {', '.join(sorted(towers))}"
    if not chosen:
        raise MienError(
            f"backbone.binder: none of the streams that this recipe writes has a tower of its name; {known}. Say which of the cohort's"
            f" ({', '.join(sorted(card.streams))}) is shown to which under backbone.binder.streams (stream: tower)"
        )
    for stream, tower in chosen.items():
        if stream not in card.streams:
            raise MienError(
                f"backbone.binder: it is shown the stream {stream!r}, and cohort {card.name!r} has {', '.join(sorted(card.streams))}; say"
                " which of these are shown to which tower under backbone.binder.streams (stream: tower)"
            )
        if tower not in towers:
            raise MienError(f"backbone.binder.streams: no tower {tower!r}; {known}")
    return chosen


def cohort_of(section: Plugin) -> Cohort:
    """The cohort of a recipe's section: for its card, not for anybody's recordings."""
    module, options = plugins.resolve("data/datasets", section, f"cohort {section.name}")
    return module.load(options)
