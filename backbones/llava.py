"""LLaVA-style models: a language model with soft tokens in its prompt, made by a tower from images, sounds or signals, or by a
binder.

Any class of transformers that answers to `AutoModelForImageTextToText` (LLaVA-1.5, LLaVA-OneVision, Qwen2-VL, Qwen2.5-VL,
Qwen3-VL, …), and the thinkers of Qwen-Omni. Such a model carries behaviour documents like any causal LM; LoRA then stays
in its language model. With `batch(..., given=…)` each row opens with the soft tokens of a recording: of the model's own tower for
images or sounds (`_senses.py` says which have one that is used, and how), of one for signals, or a binder's.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from ..core.config import Plugin, Section, parse
from ..core.errors import MienError
from ..core.paths import cache_home, runs_home
from ..core.records import StreamSpec
from . import _senses, causal_lm, tiny
from ._senses import Sense, Shown
from .causal_lm import Batch, CausalBackbone

ASSETS = ("dinov2-smollm2",)
JOINED = "towers"  # of the cache: language models with what makes soft tokens
_THINKERS = {
    "qwen2_5_omni": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen2_5_omni_thinker": "Qwen2_5OmniThinkerForConditionalGeneration",
}
_PROJECTORS = ("multi_modal_projector", "merger", "deepstack_merger_list")
_UNUSED = ("head", "pooler")  # of a tower: what only its own pretraining reads
_NO_WORDS = re.compile(r"(image|video|vision|audio).*_token_(id|index)$")


class Signals(Section):
    """A fresh tower for a cohort's signals: rate_hz they are resampled to, width and layers of its transformer, seed of its
    first weights."""

    rate_hz: int = Field(default=32, ge=1)
    width: int = Field(default=64, ge=8, multiple_of=8)
    layers: int = Field(default=2, ge=1)
    seed: int = 0


class Bound(Section):
    """A binder's embeddings as soft tokens, one a tower. run: a finished representation run, by its name or folder; base: a
    binder's backbone section instead, without anybody's adapter; streams: which tower is shown which stream (default: as the run
    has it, or of the same names); seed: of the projector's first weights."""

    run: str | None = None
    base: Plugin | None = None
    streams: dict[str, str] = {}
    seed: int = 0

    @model_validator(mode="after")
    def _one(self) -> Bound:
        if (self.run is None) == (self.base is None):
            raise ValueError("name a representation `run`, or a binder's `base`, and not both")
        return self


class Config(causal_lm.Config):
    """As for `causal_lm`, and: adapt_projector, adapt_vision: LoRA in the projector, and in the tower (LLaVA-1.5's for images, or
    one for signals), as well; both need recordings that are given as soft tokens; shown: what of a recording the model's own tower
    is shown; signals: `model` is a causal LM, or the recipe that pretrains a tiny one, to be joined with a tower for signals
    (`with_tower`), and both are adapted unless the recipe says otherwise; binder: it is joined with a projector for a binder's
    embeddings, and that is adapted."""

    adapt_projector: bool = False
    adapt_vision: bool = False
    shown: Shown | None = None
    signals: Signals | None = None
    binder: Bound | None = None

    @model_validator(mode="after")
    def _one_tower(self) -> Config:
        if self.binder and self.signals:
            raise ValueError("soft tokens come from a tower for `signals` or from a `binder`, not from both")
        if self.binder and self.adapt_vision:
            raise ValueError("adapt_vision: a binder is frozen here; adapt it before, with a `represent:` recipe")
        if self.shown and (self.binder or self.signals):
            raise ValueError(
                "shown: is for the model's own towers; with `signals` or a `binder`, soft tokens come from there"
            )
        return self


@dataclass(kw_only=True)
class LlavaBackbone(CausalBackbone):
    """As `CausalBackbone`; every unit may be shown one recording.

    soft: tokens that stand for one recording (0: this class takes none here); pack: recordings (None: nothing is shown) ->
    float32[B, …], what the tower takes; each row is packed alone; finished: what `pack` makes is soft tokens already, of a tower
    that is frozen.
    """

    finished: bool = False

    def batch(
        self, documents: Sequence[np.ndarray], *, prompt: int, persons: Sequence[int] | np.ndarray, device: Any = "cpu",
        given: Sequence[Any] | None = None,
    ) -> Batch:  # fmt: skip
        """given: per document a recording, which its row opens with, or None. A recording is {stream: Stream}, or as the tower takes
        it (an image: uint8[H, W, 3], a PIL image or a Video; a sound: a Signal), or what `pack` made of one (float32). To the
        grammar, soft tokens are padding in front."""
        import torch

        made = super().batch(documents, prompt=prompt, persons=persons, device=device)
        if given is None:
            return made
        values = torch.as_tensor(self.packed(given), device=device)
        if len(given) != len(documents):
            raise MienError(f"{len(documents)} documents, and {len(given)} given recordings (None where there is none)")
        room = made.ids.new_full((len(documents), self.soft), self.offset)
        shown = torch.as_tensor([g is not None for g in given], device=device).to(made.mask.dtype)
        return replace(
            made, ids=torch.cat([room, made.ids], 1), prompt=prompt + self.soft, given=values,
            mask=torch.cat([shown[:, None].expand(-1, self.soft), made.mask], 1),
        )  # fmt: skip

    def packed(self, given: Sequence[Any]) -> np.ndarray:
        """float32[B, …], what the tower takes: recordings packed, and those that were packed before as they are.

        MienError where this model takes none."""
        if self.soft and self.pack is None:
            raise MienError(
                f"{self.identity} is shown a binder's embeddings, and its backbone section names no `binder`"
            )
        if self.pack is None:
            raise MienError(
                f"{self.identity} ({self.model.config.model_type}) takes no recording as soft tokens here; these do:"
                f" {', '.join(_senses.TOWERS)}, and where there are two towers `shown: {{tower: …}}` says which"
            )
        before = [isinstance(g, np.ndarray) and g.dtype == np.float32 for g in given]
        out = self.pack([None if b else g for g, b in zip(given, before, strict=True)])
        for row, g, b in zip(out, given, before, strict=True):
            if b:
                if g.shape != row.shape or not np.isfinite(g).all():
                    raise MienError(
                        f"what was packed before is float32{list(row.shape)} and finite, not float32{list(g.shape)}"
                    )
                row[...] = g
        return out

    def soften(self, model: Any, given: Sequence[Any]) -> Any:
        """The soft tokens that stand for recordings: float32[B, soft, hidden], as `forward(shown=…)` takes them (of Qwen3-VL, each
        with its deepstack features behind it); model: this backbone's, adapted or not."""
        import torch

        if self.finished:
            return torch.as_tensor(self.packed(given))
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        layer, strategy = whole.config.vision_feature_layer, whole.config.vision_feature_select_strategy
        device = whole.get_input_embeddings().weight.device
        with torch.inference_mode():
            found = whole.get_image_features(
                pixel_values=torch.as_tensor(self.packed(given), device=device), vision_feature_layer=layer,
                vision_feature_select_strategy=strategy, return_dict=True,
            ).pooler_output  # fmt: skip
        return torch.stack(list(found)).float()

    def inputs(self, batch: Batch) -> dict[str, Any]:
        import torch

        out = super().inputs(batch)
        if batch.given is None:
            return out
        if self.finished:
            return {**out, "shown": batch.given}
        place = torch.arange(batch.ids.shape[1], device=batch.ids.device) < self.soft
        return {**out, "pixel_values": batch.given, "soft": place.expand_as(batch.ids)}

    def probes(
        self, documents: Sequence[np.ndarray], *, prompt: int, device: Any = "cpu", given: Sequence[Any] | None = None
    ) -> list[Batch]:
        """As before; with given recordings, the others of each batch change theirs too, and one is shown none."""
        if given is None:
            return super().probes(documents, prompt=prompt, device=device)
        mine, *others = sorted(range(len(documents)), key=lambda i: len(documents[i]))
        short = [documents[i][: max(prompt + 2, len(documents[i]) // 2)] for i in others or [mine]]
        full = [documents[i] for i in others]
        sets: list[tuple[list[np.ndarray], list[Any]]] = [
            ([], []), (full, [given[i] for i in others]), (full[::-1], [given[i] for i in others]),
            ([*short, *full], [None] * len(short) + [given[mine]] * len(full)),
        ]  # fmt: skip
        return [
            self.batch(
                [documents[mine], *d], prompt=prompt, persons=[0] * (1 + len(d)), device=device, given=[given[mine], *g]
            )
            for d, g in sets
        ]


def load(config: Config, behaviour_tokens: int) -> LlavaBackbone:
    """Load the model, append `behaviour_tokens` rows to its vocabulary, freeze everything, find what LoRA may touch.

    Raises MienError naming what is missing, and for a model that is not LLaVA-like.
    """
    place, identity = source(config)
    model = causal_lm.opened(_class(place, config), place, config, "LLaVA-style model")
    return backbone(model, config, behaviour_tokens, identity, place)


def backbone(model: Any, config: Config, behaviour_tokens: int, identity: str, place: str) -> LlavaBackbone:
    """The seam around an opened model; place: the folder or hub id that says how its images are prepared."""
    digest = causal_lm.weights_digest(model)
    placeholder = int(getattr(model.config, "image_token_id", None) or 0)
    if placeholder >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(placeholder + 1, mean_resizing=False)
    speaks = getattr(model.config.get_text_config(), "behaviour_vocabulary", None) is not None
    if speaks and placeholder != behaviour_tokens:  # it stands right after them (`_encoder.join`)
        raise MienError(
            f"the tiny base in {identity} knows {placeholder} behaviour tokens, and this recipe has {behaviour_tokens}: take"
            " the same `codecs:`, or pretrain it again"
        )
    offset = 0 if speaks else causal_lm.append_rows(model, behaviour_tokens)
    model.requires_grad_(False)
    kind, asked = model.config.model_type, [k for k in ("adapt_projector", "adapt_vision") if getattr(config, k)]
    if asked and kind in _senses.FROZEN:
        raise MienError(
            f"backbone.{asked[0]}: the towers of {kind} stay frozen, with their projectors: they take all recordings of a batch as one"
            " sequence, or one picture as several, so that no person's gradient could be told from another's. Leave it out: LoRA is in"
            " the language model"
        )
    kept, left = parts(model, projector=config.adapt_projector, vision=config.adapt_vision)
    names, left = targets(model, left)
    sense = senses(model, place, config)
    model.__class__ = _carrying(type(model), sense.square)
    return LlavaBackbone(
        model=model, identity=identity, revision=config.revision, fingerprint=digest, offset=offset,
        lora_targets=names, speaks_behaviour=speaks, beside=kept, excluded=pattern(left),
        never=no_words(model.config, offset), soft=sense.soft, pack=sense.pack, finished=sense.finished,
    )  # fmt: skip


def with_signals(
    text: causal_lm.Config, streams: Mapping[str, StreamSpec], folder: Path, *, seconds: int, rate_hz: int = 32,
    width: int = 64, layers: int = 2, seed: int = 0,
) -> Path:  # fmt: skip
    """Write a LLaVA-style folder: a causal LM with a fresh tower for a cohort's signals, one soft token per second of at
    most `seconds`. Load it as `model:`, with adapt_projector and adapt_vision, for both begin random.

    MienError when a signal's range is not on the card, for it must not come from the recordings.
    """
    from . import _encoder

    tower = _encoder.tower(streams, seconds=seconds, rate_hz=rate_hz, width=width, layers=layers)
    return _write(text, tower, folder, seed)


def _write(text: causal_lm.Config, tower: Any, folder: Path, seed: int) -> Path:
    from transformers import AutoModelForCausalLM

    from . import _encoder

    place, _ = causal_lm.source(text)
    model = causal_lm.opened(AutoModelForCausalLM, place, text, "causal LM")
    return _encoder.save(_encoder.join(model, tower, strategy="full", seed=seed), folder)


def with_tower(section: Plugin, streams: Mapping[str, StreamSpec], seconds: float) -> Plugin:
    """A recipe's backbone section, for `signals:` with the folder of the joined model, made now if need be; others come
    back as they are. streams, seconds: what the tower is for, public: they follow from the card and the recipe."""
    if section.name != "llava" or section.options.get("signals") is None:
        return section
    config, name = _text(section)
    assert config.signals is not None
    shape, long = config.signals.model_dump(), math.ceil(seconds)
    told = {n: (len(s.channels), s.range) for n, s in sorted(streams.items()) if s.kind == "signal"}
    folder = _kept(config, name, [shape, long, told], lambda f: with_signals(config, streams, f, seconds=long, **shape))
    kept = {k: v for k, v in section.options.items() if k not in ("signals", "revision")}
    return Plugin(**{"adapt_projector": True, "adapt_vision": True, **kept, "name": "llava", "model": str(folder)})


def with_embeddings(section: Plugin, *, tokens: int, width: int, binder: str) -> Plugin:
    """The same for `binder:`, whose embeddings are so many soft tokens of so many numbers; binder: its fingerprint."""
    from . import _handed

    config, name = _text(section)
    assert config.binder is not None
    tower, seed = _handed.HandedConfig(tokens=tokens, hidden_size=width, binder=binder), config.binder.seed
    folder = _kept(config, name, [tokens, width, binder, seed], lambda f: _write(config, tower, f, seed))
    kept = {k: v for k, v in section.options.items() if k != "revision"}
    return Plugin(**{"adapt_projector": True, **kept, "name": "llava", "model": str(folder)})


def with_senses(section: Plugin, streams: Mapping[str, StreamSpec], seconds: float) -> Plugin:
    """A recipe's backbone section that shows recordings to the model's own tower, with `shown:` in full; others come back as they
    are. streams: the cohort's, written or not; seconds: of a window. MienError where no stream fits, or several do."""
    if section.name != "llava" or {"signals", "binder"} & set(section.options):
        return section
    config = parse(Config, section.options, "backbone llava")
    declared = _declared(source(config)[0], config)
    kind = declared.model_type
    kind = f"{kind}_thinker" if kind == "qwen2_5_omni" else kind
    joined_here = getattr(getattr(declared, "vision_config", None), "model_type", "") in (
        "behaviour_encoder",
        "handed_embeddings",
    )
    if kind not in _senses.TOWERS or joined_here:
        return section
    full = _senses.chosen(config.shown or Shown(), kind, streams, seconds)
    return Plugin(**{**section.options, "name": "llava", "shown": full.model_dump(exclude_none=True)})


def _text(section: Plugin) -> tuple[Config, str]:
    """The section's `Config`, whose `model` is then the language model to join, and what to call it: a recipe that pretrains a tiny
    base stands for the run that did, now if need be."""
    config = parse(Config, section.options, "backbone llava")
    if not config.model.endswith((".yaml", ".yml")):
        return config, Path(config.model).name
    run = str(tiny.with_weights(Plugin(name="tiny", recipe=config.model)).options["weights"])  # type: ignore[call-arg]
    return config.model_copy(update={"model": str(runs_home() / run / "release" / "base")}), "tiny"


def _kept(config: Config, name: str, what: list[Any], write: Callable[[Path], Path]) -> Path:
    """The folder of a joined model in the cache, written now where there is none. what: it was made for."""
    place = Path(
        config.model
    )  # what a folder of that name holds may change; a hub's revision and a pinned asset do not
    held = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(place.glob("*.safetensors"))}
    held |= {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in [place / "config.json"] if f.is_file()}
    key = json.dumps([config.model, config.revision, config.dtype, held, *what], sort_keys=True)
    folder = cache_home() / JOINED / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not (folder / "config.json").exists():
        part = folder.with_name(f".{folder.name}.{os.getpid()}")
        write(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    return folder


def require_kept(section: Plugin, run: str) -> None:
    """MienError where the model that was joined here for a run is no longer in the cache."""
    place = Path(str(section.options.get("model", "")))
    if section.name == "llava" and place.is_absolute() and place.parent.name == JOINED and not place.exists():
        raise MienError(
            f"the model that {run} was adapted from, {place.name}, was joined here and is no longer in the cache: run its adapt command"
            " again with the same Mien and MIEN_CACHE, which makes it anew and reuses the run (with another, it would be a new run, and"
            " be charged anew)"
        )


def source(config: Config) -> tuple[str, str]:
    """Where to load from, and the public name of it."""
    if config.model in ASSETS:
        from . import _dinov2

        return str(_dinov2.built()), f"mien-assets/{config.model}"
    return causal_lm.source(config)


def _class(place: str, config: Config) -> Any:
    """The class that this configuration is made for."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

    kind = _declared(place, config).model_type
    if kind in _THINKERS:
        return getattr(transformers, _THINKERS[kind])
    if kind not in CLASSES:
        raise MienError(
            f"{config.model!r} is a {kind}, which is no LLaVA-style model; a language model alone is `name: causal_lm`"
        )
    return transformers.AutoModelForImageTextToText


def _declared(place: str, config: Config) -> Any:
    """The model's own configuration."""
    import transformers

    from . import _encoder, _handed

    _encoder.register()
    _handed.register()
    try:
        return transformers.AutoConfig.from_pretrained(place, revision=config.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise MienError(
            f"cannot load the LLaVA-style model {config.model!r}: {str(error).splitlines()[0]} – give a hub id you can"
            " reach, a local folder with config.json and model.safetensors, or an asset"
        ) from None


# --- what LoRA may touch --------------------------------------------------------------------------------------------
def parts(model: Any, *, projector: bool, vision: bool) -> tuple[list[str], list[str]]:
    """Paths of the modules outside the language model that are to be adapted, and of those that are not."""
    import torch

    decoder, head = model.get_decoder(), model.get_output_embeddings()
    kept: list[str] = []
    left: list[str] = []

    def walk(path: str, module: Any) -> None:
        for name, child in module.named_children():
            here = f"{path}.{name}" if path else name
            inside = list(child.modules())
            if child is decoder or child is head or not any(isinstance(m, torch.nn.Linear) for m in inside):
                continue
            within = any(n.rsplit(".", 1)[-1] in _PROJECTORS for n, _ in child.named_modules() if n)
            if name in _PROJECTORS:
                (kept if projector else left).append(here)
            elif any(m is decoder for m in inside) or within:
                walk(here, child)
            elif not vision:
                left.append(here)
            else:
                kept.append(here)
                left.extend(f"{here}.{n}" for n in _unread(model.config, child))

    walk("", model)
    return kept, left


def _unread(config: Any, tower: Any) -> list[str]:
    """Paths inside a tower that its features are not read from: a pooling head, and layers above the one that is read."""
    import torch

    out = [n for n, _ in tower.named_modules() if n.rsplit(".", 1)[-1] in _UNUSED]
    read = getattr(config, "vision_feature_layer", None)
    depth = getattr(getattr(tower, "config", None), "num_hidden_layers", None)
    if isinstance(read, int) and isinstance(depth, int):
        first = read if read >= 0 else depth + 1 + read
        lists = [n for n, m in tower.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
        out += [f"{n}.{i}" for n in lists for i in range(first, depth)]
    return out


def pattern(left: Sequence[str]) -> str | None:
    """A regular expression of these modules and all inside them, as PEFT's `exclude_modules` matches it: whole names."""
    return rf"(?:{'|'.join(map(re.escape, left))})(?:\..*)?" if left else None


def targets(model: Any, left: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the linear layers outside `left` (no output head), for LoRA, and `left` with what else has such a name (a
    convolution, say). A bare number would name a whole layer of a list too: such a layer goes by its path."""
    import torch

    head, excluded = model.get_output_embeddings(), re.compile(pattern(left) or r"(?!)")
    last = {n: n.rsplit(".", 1)[-1] for n, m in model.named_modules() if m is not head and not excluded.fullmatch(n)}
    linear = {n for n in last if isinstance(model.get_submodule(n), torch.nn.Linear)}
    names = {n if last[n].isdigit() else last[n] for n in linear}
    return sorted(names), [*left, *(n for n in last if n not in linear and last[n] in names)]


def no_words(config: Any, offset: int) -> tuple[int, ...]:
    """Ids that stand for images, sounds and the like: text never says them."""
    found = {v for k, v in config.to_dict().items() if _NO_WORDS.match(k) and isinstance(v, int)}
    return tuple(sorted(v for v in found if 0 <= v < offset))


# --- soft tokens ------------------------------------------------------------------------------------------------------
def senses(model: Any, place: str, config: Config) -> Sense:
    """How a model is shown recordings; nothing of a class whose towers are not used here. For a binder's embeddings there is no
    `pack`: whoever opens the binder brings it (adapters/embedded.py)."""
    kind = model.config.model_type
    tower: Any = getattr(model.config, "vision_config", None)
    if kind == "llava" and tower.model_type == "behaviour_encoder":
        made = Sense(soft=tower.seconds, pack=tower.pack)
    elif kind == "llava" and tower.model_type == "handed_embeddings":
        made = Sense(soft=tower.tokens)
    elif kind in _senses.TOWERS:
        return _senses.own(model, place, config.revision, config.shown)
    else:
        made = Sense()
    if config.shown is not None:
        raise MienError(
            f"backbone.shown: {config.model!r} ({kind}) has no tower of its own that is used; these have: {', '.join(_senses.TOWERS)}"
        )
    return made


def _carrying(kind: type, square: int = 0) -> type:
    """The class with a `forward` that takes a mask `soft`: bool[B, T], where soft tokens stand. Whatever ids stand there
    become the model's placeholder, so that outside (to the grammar) they can be padding, which leaves its state as it is.
    Or it takes the soft tokens themselves, `shown`: float[B, S, hidden] in the first S places, or float[B, S, (1 + L) hidden] with
    what is added to them behind the first L layers (Qwen3-VL's deepstack features). square: rows and columns that S soft tokens
    stand in, where the model counts places so (M-RoPE).
    """
    import inspect

    import torch

    def forward(self: Any, input_ids: Any = None, soft: Any = None, shown: Any = None, **kwargs: Any) -> Any:
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        first = cache is None or cache.get_seq_length() == 0
        if first:
            if soft is not None:
                input_ids = torch.where(soft, self.config.image_token_id, input_ids)
            if getattr(self.model, "rope_deltas", None) is not None:
                self.model.rope_deltas = None  # Qwen keeps them between calls: the last batch's would move this one's
        elif square and self.model.rope_deltas is not None and getattr(kwargs.get("position_ids"), "ndim", 0) == 2:
            kwargs["position_ids"] = kwargs["position_ids"] + self.model.rope_deltas  # whoever samples counts in a line
        if first and shown is not None:
            if square:
                mask, given = kwargs.get("attention_mask"), kwargs.get("position_ids")
                kwargs["position_ids"], self.model.rope_deltas = places(input_ids, mask, given, square)
            hidden = self.get_input_embeddings().weight.shape[1]
            if shown.shape[2] == hidden:
                embedded = self.get_input_embeddings()(input_ids)
                kwargs["inputs_embeds"] = torch.cat([shown.to(embedded.dtype), embedded[:, shown.shape[1] :]], 1)
                input_ids = None
            else:
                input_ids = input_ids.clone()
                input_ids[:, : shown.shape[1]] = self.config.image_token_id
                kwargs["mm_encoder_outputs"] = {"image": _features(shown, hidden)}
        return super(made, self).forward(input_ids=input_ids, **kwargs)

    own = inspect.signature(kind.forward)
    extra = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in ("soft", "shown")]
    known = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rest = [p for p in own.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    forward.__signature__ = own.replace(parameters=[*known, *extra, *rest])  # type: ignore[attr-defined]
    made = type(
        kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    )
    return made


def places(ids: Any, mask: Any, given: Any, square: int) -> tuple[Any, Any]:
    """Where Qwen counts the tokens of rows that open with a picture of square x square soft tokens: int64[3, B, T] (time, row,
    column), and int64[B, 1], by how much every later token comes sooner than in a line. mask: 0/1 [B, T] or None; given: int64[B, T],
    as counted in a line, or None. A row whose soft tokens are masked is counted from its first token."""
    import torch

    n = square * square
    if given is None:
        there = torch.ones_like(ids) if mask is None else mask.long()
        given = (there.cumsum(1) - 1).clamp(min=0)
    seen = torch.ones_like(ids[:, :1]) if mask is None else mask[:, :1].long()
    sooner = seen * (square - n)
    line = (given + sooner).expand(3, -1, -1).clone()
    at = torch.arange(n, device=ids.device)
    line[:, :, :n] = torch.stack([at * 0, at // square, at % square])[:, None] * seen
    return line, sooner


def _features(shown: Any, hidden: int) -> Any:
    """What Qwen3-VL's tower gives of one picture a row: float[B, S, (1 + L) hidden]."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    first, *deeper = shown.split(hidden, 2)
    found: Any = {"pooler_output": tuple(first), "deepstack_features": [tuple(level) for level in deeper]}
    return BaseModelOutputWithDeepstackFeatures(**found)
