"""Any Hugging Face causal language model: hub id, local folder, or weights that a registry package carries."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core import console
from ..core.config import Section
from ..core.errors import MienError

ASSETS = ("smollm2-135m",)
OWN = 1 << 20  # local ids from here on are the model's own tokens (generation/machine.py says the same)


class Config(Section):
    """model: hub id, local folder, or an asset of `mien assets list`; revision: the hub commit to pin; quantise: hold
    the frozen base in 8 or 4 bits (bitsandbytes; NF4), dtype is then what it computes in."""

    model: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantise: Literal["8bit", "4bit"] | None = None


@dataclass(kw_only=True)
class Batch:
    """Token rows for one step.

    ids, mask: int64[B, T] (right-padded); prompt: tokens at the start of each row that are given, not predicted;
    unit: int64[B] which unit (here: window) a row belongs to; person: int64[B]; given: what a backbone that sees more
    than tokens is shown beside each row (backbones/llava.py).
    """

    ids: Any
    mask: Any
    prompt: int
    unit: Any
    person: Any
    given: Any = None


@dataclass(kw_only=True)
class CausalBackbone:
    """A causal LM with room for behaviour tokens.

    offset: id of the first behaviour token; identity: what a published adapter names as its base (a hub id or
    asset name, never a local path); fingerprint: of the frozen weights; lora_targets: literal module names;
    speaks_behaviour: whether the base was pretrained on behaviour tokens (if not, an adapter trains all their rows);
    excluded: a regular expression of the modules that LoRA leaves alone though their names are targets (PEFT's
    `exclude_modules`); beside: modules outside the decoder that LoRA adapts; never: own tokens that are no words; soft,
    pack: how recordings are shown as soft tokens (backbones/llava.py; 0 and None: not at all).
    """

    model: Any
    identity: str
    revision: str | None
    fingerprint: str
    offset: int
    lora_targets: Sequence[str]
    speaks_behaviour: bool
    excluded: str | None = None
    beside: Sequence[str] = ()
    never: Sequence[int] = ()
    soft: int = 0
    pack: Callable[[Sequence[Any]], np.ndarray] | None = None

    def batch(
        self, documents: Sequence[np.ndarray], *, prompt: int, persons: Sequence[int] | np.ndarray, device: Any = "cpu"
    ) -> Batch:
        """Local-id documents -> a right-padded Batch in the model's own ids (local id 0 is padding)."""
        import torch

        width = max(len(d) for d in documents)
        self.require_room(width)
        ids = np.zeros((len(documents), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, d in enumerate(documents):
            ids[i, : len(d)], mask[i, : len(d)] = d, 1
        return Batch(
            ids=torch.as_tensor(self.own_ids(ids), device=device),
            mask=torch.as_tensor(mask, device=device),
            prompt=prompt,
            unit=torch.arange(len(documents), device=device),
            person=torch.as_tensor(np.asarray(persons), device=device),
        )

    def require_room(self, longest: int) -> None:
        """MienError for documents of more tokens than the model has positions."""
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and longest > room:
            raise MienError(
                f"a document has {longest} tokens and the base ({self.identity or 'tiny'}) {room} positions: take shorter `seconds`,"
                " fewer streams or a coarser codec, or a base with more (of a tiny one: shape.context)"
            )

    def own_ids(self, local: np.ndarray) -> np.ndarray:
        """Local ids -> the model's: behaviour tokens follow its own, which text uses as they are."""
        return np.where(local >= OWN, local - OWN, local + self.offset)

    def probes(self, documents: Sequence[np.ndarray], *, prompt: int, device: Any = "cpu") -> list[Batch]:
        """Batches for the checks before private training: unit 0 is always the shortest document; it stands alone in
        the first, beside others of other content, order and length (shorter, much longer) in the rest."""
        mine, *others = sorted(documents, key=len)
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 2 * len(mine)
        long = [np.concatenate([d, d])[:room] for d in (others or [mine])]
        short = [d[: max(prompt + 2, len(d) // 2)] for d in others] or [mine[: max(prompt + 2, len(mine) // 2)]]
        sets = [[mine], [mine, *others], [mine, *short], [mine, *long], [mine, *others[::-1], *short]]
        return [self.batch(s, prompt=prompt, persons=[0] * len(s), device=device) for s in sets]

    def token_losses(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """Negative log-likelihood in nats of every predicted token: float32[B, T-1], and its 0/1 mask."""
        counted = self._counted(batch)
        if constrained(model):
            return model(**self.inputs(batch), scored=counted).nll, counted
        return self._token_losses(model(**self.inputs(batch)).logits, batch)

    def losses_and_states(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """`losses`, and the last hidden states they were read from: float[B, T, hidden]."""
        out = model(**self.inputs(batch), output_hidden_states=True)
        nll, counted = self._token_losses(out.logits, batch)
        return nll.sum(1) / counted.sum(1).clamp(min=1), out.hidden_states[-1]

    def soften(self, model: Any, given: Sequence[Any]) -> Any:
        """The soft tokens that stand for recordings: float32[B, soft, hidden]. MienError where the model takes none."""
        raise MienError(
            f"{self.identity} ({self.model.config.model_type}) takes no recording as soft tokens; a LLaVA does"
        )

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """What the model's forward takes of a batch."""
        return {"input_ids": batch.ids, "attention_mask": batch.mask}

    @staticmethod
    def _counted(batch: Batch) -> Any:
        counted = batch.mask[:, 1:].clone()
        counted[:, : batch.prompt - 1] = 0
        return counted

    def _token_losses(self, logits: Any, batch: Batch) -> tuple[Any, Any]:
        import torch

        nll = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2).float(), batch.ids[:, 1:], reduction="none"
        )
        counted = self._counted(batch)
        return nll * counted, counted

    def losses(self, model: Any, batch: Batch) -> Any:
        """float32[units]: each unit's own mean over its own tokens; no other row can move it.

        (A mean over all tokens of the batch, as Hugging Face's `labels=` gives, would let the others' lengths in.)
        """
        nll, counted = self.token_losses(model, batch)
        return nll.sum(1) / counted.sum(1).clamp(min=1)


def constrained(model: Any) -> bool:
    """Whether a model, or what PEFT, DDP or DeepSpeed has wrapped around it, obeys a grammar (generation/grammar.py)."""
    while hasattr(model, "module"):
        model = model.module
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(type(model), "_mien_constrained", False)


def pooled(hidden: Any, mask: Any) -> Any:
    """The mean of the unmasked positions of each row, in float32: hidden[B, T, d], mask 0/1 [B, T] -> [B, d].

    A row without any position gives zeros.
    """
    mask = mask.float().unsqueeze(-1)
    return (hidden.float() * mask).sum(1) / mask.sum(1).clamp(min=1)


def load(config: Config, behaviour_tokens: int) -> CausalBackbone:
    """Load the model, append `behaviour_tokens` rows to its vocabulary, freeze everything.

    Raises MienError naming what is missing and how to get it.
    """
    from transformers import AutoModelForCausalLM

    place, identity = source(config)
    model = opened(AutoModelForCausalLM, place, config, "causal LM")
    digest = weights_digest(model)
    offset = append_rows(model, behaviour_tokens)
    return CausalBackbone(
        model=model,
        identity=identity,
        revision=config.revision,
        fingerprint=digest,
        offset=offset,
        lora_targets=linear_names(model),
        speaks_behaviour=False,
    )


def opened(kind: Any, place: str, config: Config, what: str, how: Mapping[str, Any] | None = None) -> Any:
    """`kind.from_pretrained` with our safeguards, quantised if asked. how: goes to it. MienError saying what to give
    instead."""
    import torch

    extra: dict[str, Any] = dict(how or {})
    if config.quantise:
        try:
            import bitsandbytes  # noqa: F401
        except ImportError:
            raise MienError("backbone.quantise needs bitsandbytes: pip install 'mien[quantise]'") from None
        from transformers import BitsAndBytesConfig

        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=config.quantise == "8bit", load_in_4bit=config.quantise == "4bit", bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=getattr(torch, config.dtype),
            # above 0, which columns are outliers is decided over the whole batch: one person's rows would change
            # the others' losses, and the clip would no longer bound what a person does
            llm_int8_threshold=0.0,
        )  # fmt: skip
        local = int(os.environ.get("LOCAL_RANK", "0"))
        extra["device_map"] = {"": local if torch.cuda.is_available() else "cpu"}
    try:
        return kind.from_pretrained(
            place,
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            **extra,
        )
    except (OSError, ValueError) as error:
        raise MienError(
            f"cannot load the {what} {config.model!r}: {str(error).splitlines()[0]} – give a hub id you can reach,"
            " a local folder with config.json and model.safetensors, or fetch an asset with `mien assets fetch`"
        ) from None


def fitted(kind: Any, config: Config, what: str, declared: Any, unused: Sequence[str] = ()) -> Any:
    """As `opened`, of a model every tensor of which must be there in the shape its `declared` configuration says, and no other.
    unused: how names of tensors begin that may be there and are left. MienError naming all that do not fit."""
    how = {"output_loading_info": True, "ignore_mismatched_sizes": True, "config": declared}
    model, found = opened(kind, source(config)[0], config, what, how)
    shapes = [f"{n} ({list(theirs)} for {list(ours)})" for n, theirs, ours in found["mismatched_keys"]]
    unknown = [n for n in found["unexpected_keys"] if not n.startswith(tuple(unused))]
    parts = (("missing", found["missing_keys"]), ("unknown", unknown), ("of another shape", shapes))
    if wrong := [f"{word}: {', '.join(sorted(names))}" for word, names in parts if names]:
        raise MienError(f"the weights of {config.model!r} do not fit its config.json: {'; '.join(wrong)}")
    return model


def append_rows(model: Any, behaviour_tokens: int) -> int:
    """Room for the behaviour tokens after the model's own, everything frozen; the id of the first of them."""
    import torch

    offset = model.get_input_embeddings().weight.shape[0]
    torch.manual_seed(0)  # the new rows' starting values are part of the recipe
    model.resize_token_embeddings(offset + behaviour_tokens, mean_resizing=False)
    model.requires_grad_(False)
    return offset


def source(config: Config) -> tuple[str, str]:
    """Where to load from, and the public name of it."""
    if config.model in ASSETS:
        from ..core import assets

        folder = assets.path(config.model)
        return str(converted(folder)), f"mien-assets/{config.model}"
    path = Path(config.model).expanduser()
    if path.is_dir():
        return str(path), f"local/{path.name}"
    return config.model, config.model


def converted(folder: Path) -> Path:
    """The Hugging Face folder made once from an asset's quantised GGUF file (float16, about twice 135 MB on disk)."""
    import shutil

    import torch

    done = folder / "hf"
    if (done / "config.json").exists():
        return done
    source = next(folder.rglob("*.gguf"), None)
    if source is None:
        raise MienError(f"no .gguf file in {folder}; run `mien assets fetch` again")
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise MienError("reading this asset needs the `gguf` extra: pip install 'mien[gguf]'") from None
    from transformers import AutoModelForCausalLM

    console.say(f"converting {source.name} to safetensors, once (about a minute)")
    part = folder / ".hf.partial"
    shutil.rmtree(part, ignore_errors=True)
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float16)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the weights are dequantised; only the note that they were not is left
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(part, safe_serialization=True)
    part.rename(done)
    return done


def linear_names(model: Any) -> list[str]:
    """Literal names of the transformer's linear layers (no output head), for LoRA."""
    import torch

    head = model.get_output_embeddings()
    names = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    return sorted(names)


def weights_digest(model: Any) -> str:
    """sha256 over parameter names and values, in order."""
    import torch

    digest = hashlib.sha256()
    for name, p in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(p.detach().to(torch.float32).contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
