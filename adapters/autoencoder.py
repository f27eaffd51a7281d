"""The first-generation baseline: a multimodal variational autoencoder, trained against an adversary, that also generates.

One small encoder per stream gives a Gaussian expert. A window's posterior is the product of the experts of the streams that
are there with a standard normal prior expert, which has a closed form for any subset (Wu and Goodman, arXiv 1802.05335,
section 2.2): a missing stream is a missing factor, not zeros. The representation is the posterior's mean.

A window's loss is the mean over subsets of its streams (all, each left out, each alone) of the negative evidence lower bound
(Kingma and Welling, arXiv 1312.6114, equation 3) of *all* its streams, for a posterior from any subset bounds the evidence,
and of the heads' loss at the same draw from that posterior (at its mean, a few hundred windows are learnt by heart). The
prior is N(m_y, 1) with a learnt mean for each class, N(0, 1) where the label is not known, so that a class can be asked for.
Against identity and other attributes act the gradient-reversal adversaries of `protections: [{name: adversary}]`, on the
mean.

**No privacy is claimed.** No ε covers an autoencoder (a `privacy:` section is refused): its scales are the training persons'
own, and an adversary that was misled proves nothing. attacks/represented.py trains attackers from scratch on what comes out.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from ..backbones._binder import Binder, Tower
from ..core.config import Section, parse
from ..core.errors import MienError
from ..core.records import RESTRICTIONS, Cohort, CohortCard, Recording, Stream, StreamSpec
from ..core.runs import write_text
from .described import Described, described
from .representation import Batch, Head, Represent, Representer, head_loss, make_heads
from .training import hash_seed
from .windows import Windows

WEIGHTS, SHAPE = "autoencoder.safetensors", "autoencoder.json"
_PRECISION = 4.0  # an expert's log precision stays within plus and minus this: none rules alone
_FAR = 6.0  # standard deviations that a number may be away: a broken sensor moves one window's loss, not the model
_SPREAD = (-3.0, 1.0)  # of the log deviation a decoder may give a number


class Config(Section):
    """latent: width of the representation; hidden: of each encoder and decoder; evidence: weight of the evidence bound, in
    nats per number, beside the heads' losses; beta: of its Kullback-Leibler term (1: the bound itself; Higgins et al., ICLR
    2017, for others); heads: labels to learn (default: the recipe's `task`, a classification; {} for none)."""

    latent: int = Field(default=16, ge=1)
    hidden: int = Field(default=96, ge=1)
    evidence: float = Field(default=20.0, ge=0)
    beta: float = Field(default=1.0, ge=0)
    heads: dict[str, Head] | None = None


@dataclass(kw_only=True)
class Autoencoder(Representer):
    """A representer that is trained whole. described: stream -> its numbers; task: whose classes the prior knows; card: of
    the cohort it is for, with these streams alone."""

    config: Config
    described: Mapping[str, Described]
    task: str
    card: CohortCard
    beside: str = "untrained"

    @property
    def width(self) -> int:
        return self.config.latent

    @property
    def slices(self) -> dict[str, slice]:
        """All streams share all columns."""
        return {"all": slice(0, self.width)}

    def embeddings(self, model: Any, batch: Batch) -> dict[str, Any]:
        """modality -> its expert, (mean, precision): float32[B, 2, latent]. Inputs are numbers (`x`), or `scaled` ones."""
        return {
            m: model.read(i, x["values"][:, 0]) if "values" in x else model.expert(i, x["x"])
            for i, m in enumerate(self.modalities) if (x := batch.inputs.get(m)) is not None
        }  # fmt: skip

    def scaled(self, batch: Batch) -> Batch:
        """The same windows with the numbers that enter the encoders, `values`: float32[B, 1, width], in the training persons'
        standard deviations, 0 where not known: what integrated gradients take, which no NaN passes."""
        scaled = {
            m: {"values": self.model.scaled(i, batch.inputs[m]["x"])[0][:, None]}
            for i, m in enumerate(self.modalities) if m in batch.inputs
        }  # fmt: skip
        return replace(batch, inputs=scaled)

    def fused(self, found: Mapping[str, Any], present: Any) -> Any:
        """float32[B, S, latent]: the posterior's mean of every subset (present: float[B, S or 1, M])."""
        return self.posterior(found, present)[0]

    def posterior(self, found: Mapping[str, Any], present: Any) -> tuple[Any, Any]:
        """Mean and precision, float32[B, S, latent] each."""
        import torch

        some = next(iter(found.values()))
        experts = torch.stack([found.get(m, torch.zeros_like(some)) for m in self.modalities], 1)  # [B, M, 2, latent]
        return product(experts[:, None, :, 0], experts[:, None, :, 1], present[..., None])

    def losses_and_states(self, model: Any, batch: Batch) -> tuple[Any, Any]:
        """float32[B], each window's own, and the representation, float32[B, latent]. In eval mode the bound's expectation
        is taken at the posterior's mean instead of at a draw, so that a window always has the same loss."""
        import torch

        seen = batch.present[:, None] * torch.as_tensor(self.subsets, device=batch.present.device)  # [B, S, M]
        there = (seen.sum(-1) > 0).float()
        mean, precision = self.posterior(self.embeddings(model, batch), seen)
        each, noise = torch.zeros_like(there), torch.randn_like(mean) if model.training else torch.zeros_like(mean)
        z = mean + noise / precision.sqrt()
        if self.config.evidence:
            likelihood, count = self.likelihood(model, batch, z)
            kl = divergence(mean, precision, self.centre(model, batch)[:, None])
            each = each + self.config.evidence * (self.config.beta * kl - likelihood) / count.clamp(min=1)[:, None]
        for task, head in self.kinds.items():
            target = batch.labels[task][:, None].expand(there.shape)
            each = each + head.weight * head_loss(head, self.heads[task](z).float(), target, there)
        return (each * there).sum(1) / there.sum(1).clamp(min=1), mean[:, 0]

    def likelihood(self, model: Any, batch: Batch, z: Any) -> tuple[Any, Any]:
        """log p(all the window's known numbers | z) in nats, float32[B, S], and how many they are, float32[B]. z: float32[B,
        S, latent]."""
        total, count = z.new_zeros(z.shape[:2]), z.new_zeros(len(z))
        for i, m in enumerate(self.modalities):
            if m in batch.inputs:
                x, known = model.scaled(i, batch.inputs[m]["x"])
                known = known * batch.present[:, i, None]
                total = total + (normal(x[:, None], *model.decode(i, z)) * known[:, None]).sum(-1)
                count = count + known.sum(-1)
        return total, count

    def centre(self, model: Any, batch: Batch) -> Any:
        """float32[B, latent]: the prior's mean of each window's class, 0 where it is not known."""
        import torch

        code = batch.labels.get(self.task)
        code = torch.full_like(batch.present[:, 0], float("nan")) if code is None else code
        known = torch.nan_to_num(code, nan=-1.0).long()[:, None] == torch.arange(len(model.prior), device=code.device)
        return known.float() @ model.prior

    def heads_alone(self) -> Autoencoder:
        return replace(self, config=self.config.model_copy(update={"evidence": 0.0}))

    def untrained(self, seed: int = 0) -> Autoencoder:
        """A random network of this shape on the same scaled numbers."""
        made = build(self.config, self.task, self.card, self.described, self.kinds, self.classes, seed)
        made.model.load_state_dict(
            {**made.model.state_dict(), **{k: v for k, v in self.model.state_dict().items() if k.startswith("scale")}}
        )
        made.model.eval().to(next(self.model.parameters()).device)
        return made

    @property
    def seconds(self) -> float:
        """Of a window."""
        return next(iter(self.described.values())).seconds

    @property
    def written(self) -> dict[str, StreamSpec]:
        """The streams that can be generated."""
        return {m: d.spec for m, d in self.described.items() if d.back}

    def round_trip(self, streams: Mapping[str, Stream], label: str) -> dict[str, Stream]:
        """One window as numbers and back, without the model: what the numbers alone lose."""
        out: dict[str, Stream] = {}
        for m, s in streams.items():
            if m in self.written:
                numbers = self.described[m].numbers(s)
                out[m] = self.described[m].signal(numbers, np.random.default_rng(zlib.crc32(numbers.tobytes())))
        return out

    def represent(self, windows: Windows) -> np.ndarray:
        """float32[n, latent]: the posteriors' means."""
        from .represented import vectors

        return vectors(self, windows)

    def generate(self, n: int, label: str | None = None, seed: int = 0) -> Cohort:
        """n recordings of one window each, by people who do not exist, with this cohort's signals in physical units (events
        and text cannot be turned back and are left out). label: a class of the task (None: of none, from N(0, 1)). MienError
        for a label the prior does not know, no signal, and n < 1."""
        card = replace(
            self.card, name=f"synthetic-{self.card.name}", synthetic=True, attributes=(), guarantee=UNPROTECTED,
            consent="synthetic recordings; the persons behind the autoencoder are covered by their cohort's consent",
            licence=f"derived from {self.card.name}: see that cohort's licence",
            streams=self.written,
        )  # fmt: skip
        return Cohort.build(self.recordings(n, label, seed), card=card)

    def recordings(self, n: int, label: str | None = None, seed: int = 0) -> Iterator[Recording]:
        """`generate`'s, one after the other."""
        import torch

        if n < 1:
            raise MienError(f"n is {n}; generate one recording at least")
        if not self.written:
            raise MienError("none of the autoencoder's streams is a signal, and it writes nothing else")
        known = self.classes.get(self.task, ())
        if label is not None and label not in known:
            raise MienError(
                f"label {label!r} is not a class of {self.task!r} that the autoencoder knows ({', '.join(known) or 'none'})"
            )
        device = next(self.model.parameters()).device
        place = 0 if label is None else known.index(label) + 1
        draw = torch.Generator().manual_seed(hash_seed(seed, 0xAE, place))
        z = torch.randn((n, self.width), generator=draw).to(device)
        with torch.no_grad():
            z = z if label is None else z + self.model.prior[known.index(label)]
            numbers = {}
            for i, (m, d) in enumerate(self.described.items()):
                if d.back:
                    mean, log = self.model.decode(i, z)
                    x = mean + log.exp() * torch.randn(mean.shape, generator=draw).to(device)
                    numbers[m] = self.model.unscaled(i, x.clamp(-_FAR, _FAR)).double().cpu().numpy()
        for k in range(n):
            rng = np.random.default_rng([seed, 0xAE, place, k])
            name = f"synthetic-{label or 'any'}-{seed}-{k:05d}"
            yield Recording(
                id=name, person=name, streams={m: self.described[m].signal(x[k], rng) for m, x in numbers.items()},
                labels={} if label is None else {self.task: label},
            )  # fmt: skip


REFUSED = (
    "an autoencoder takes no `privacy:` section: its numbers are scaled by the training persons' own mean and deviation and"
    " its adversary is no mechanism, so no ε would follow; leave it out, or adapt with `represent:`"
)
UNPROTECTED = "none (adversarial autoencoder): nothing bounds what it and its output reveal about a person"


def product(mean: Any, precision: Any, present: Any) -> tuple[Any, Any]:
    """The product of Gaussian experts with a standard normal one: mean and precision, float[..., latent].

    mean, precision: float[..., M, latent]; present: 0/1, float[..., M, 1]. Precisions add up, and means weigh by them.
    """
    weight = precision * present
    total = 1 + weight.sum(-2)
    return (weight * mean).sum(-2) / total, total


def divergence(mean: Any, precision: Any, centre: Any) -> Any:
    """KL(N(mean, 1 / precision) || N(centre, 1)) in nats, summed over the last axis."""
    return 0.5 * (1 / precision + (mean - centre).square() - 1 + precision.log()).sum(-1)


def normal(x: Any, mean: Any, log_sd: Any) -> Any:
    """log N(x; mean, sd²) in nats, each number by itself."""
    return -0.5 * ((x - mean) / log_sd.exp()).square() - log_sd - 0.5 * float(np.log(2 * np.pi))


def build(
    config: Config, task: str, card: CohortCard, streams: Mapping[str, Described], kinds: Mapping[str, Head],
    classes: Mapping[str, tuple[str, ...]], seed: int,
) -> Autoencoder:  # fmt: skip
    """Fresh weights from the seed; numbers are not scaled yet (`standardise`)."""
    import torch

    torch.manual_seed(seed)
    model = _network([s.width for s in streams.values()], config, len(classes.get(task, ())))
    heads = make_heads(kinds, classes, config.latent)
    model.add_module("heads", heads)
    return Autoencoder(
        binder=reader(streams, model), model=model, modalities=tuple(streams), heads=heads,
        options=Represent(heads=dict(kinds), bind="none"), kinds=dict(kinds), classes=dict(classes), config=config,
        described=streams, task=task, card=replace(card, source="", streams={m: s.spec for m, s in streams.items()}),
    )  # fmt: skip


def _network(widths: Sequence[int], config: Config, classes: int) -> Any:
    import torch
    from torch import nn

    def layers(a: int, b: int) -> Any:
        return nn.Sequential(nn.Linear(a, config.hidden), nn.SiLU(), nn.Linear(config.hidden, b))

    class Network(nn.Module):
        """prior: float32[classes, latent]; scale_centre_i, scale_unit_i, log_sd_i: float32[widths[i]]."""

        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleList(layers(w, 2 * config.latent) for w in widths)
            self.decoders = nn.ModuleList(layers(config.latent, w) for w in widths)
            if classes:
                self.register_parameter("prior", nn.Parameter(torch.zeros(classes, config.latent)))
            else:
                self.register_buffer("prior", torch.zeros(0, config.latent))
            for i, w in enumerate(widths):
                self.register_parameter(f"log_sd_{i}", nn.Parameter(torch.full((w,), -0.5)))
                self.register_buffer(f"scale_centre_{i}", torch.zeros(w))
                self.register_buffer(f"scale_unit_{i}", torch.ones(w))

        def scaled(self, i: int, x: Any) -> tuple[Any, Any]:
            """Numbers in standard deviations, 0 where not known; and 0/1, which are known."""
            known = ~torch.isnan(x)
            z = (torch.nan_to_num(x) - self.get_buffer(f"scale_centre_{i}")) / self.get_buffer(f"scale_unit_{i}")
            return torch.where(known, z.clamp(-_FAR, _FAR), torch.zeros_like(z)), known.float()

        def unscaled(self, i: int, z: Any) -> Any:
            return z * self.get_buffer(f"scale_unit_{i}") + self.get_buffer(f"scale_centre_{i}")

        def expert(self, i: int, x: Any) -> Any:
            return self.read(i, self.scaled(i, x)[0])

        def read(self, i: int, z: Any) -> Any:
            """`expert` of scaled numbers."""
            mean, log = self.encoders[i](z).float().chunk(2, -1)
            return torch.stack([mean, (_PRECISION * torch.tanh(log / _PRECISION)).exp()], 1)

        def decode(self, i: int, z: Any) -> tuple[Any, Any]:
            """Mean, float32[..., widths[i]], and log deviation, float32[widths[i]], of the scaled numbers."""
            return self.decoders[i](z).float(), getattr(self, f"log_sd_{i}").clamp(*_SPREAD)

    return Network()


def reader(streams: Mapping[str, Described], model: Any = None) -> Binder:
    """What `windows.encode` takes for a backbone: each stream's numbers, and no frozen tower behind them."""

    def tower(i: int, s: Described) -> Tower:
        return Tower(
            kind=s.spec.kind, module=f"encoders.{i}", layers=(), prepare=lambda stream: {"x": s.numbers(stream)},
            embed=lambda model, inputs: model.expert(i, inputs["x"])[:, 0],
        )  # fmt: skip

    return Binder(
        model=model, towers={n: tower(i, s) for i, (n, s) in enumerate(streams.items())}, dim=0, identity="",
        revision=None, fingerprint="none", lora_targets=(), licence="none: fresh weights from the seed",
    )  # fmt: skip


def standardise(made: Autoencoder, windows: Windows) -> None:
    """Scale each number by its mean and deviation over `windows`, from now on. MienError when a stream is in none of them."""
    import torch

    for i, m in enumerate(made.modalities):
        X = np.array([a[m]["x"] for a in windows.arrays if m in a], np.float64).reshape(-1, made.described[m].width)
        if not len(X):
            raise MienError(f"stream {m!r} is in no window of the training persons; leave it out of `streams`")
        known = ~np.isnan(X)
        count = known.sum(0).clip(1)
        mean = np.where(known, X, 0).sum(0) / count
        sd = np.sqrt(np.where(known, (X - mean) ** 2, 0).sum(0) / count)
        # a number that never changes tells nothing, and its rounding must not be blown up into one that does
        sd = np.where(sd > 1e-6 * (np.abs(mean) + 1), sd, np.maximum(np.abs(mean), 1))
        made.model.get_buffer(f"scale_centre_{i}").copy_(torch.as_tensor(mean))
        made.model.get_buffer(f"scale_unit_{i}").copy_(torch.as_tensor(sd))


def save(made: Autoencoder, folder: Path, restrictions: Sequence[str] = ()) -> None:
    """`autoencoder.safetensors` (without adversaries), `autoencoder.json` (what it takes), and a README that says what is
    not promised."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v for k, v in made.model.state_dict().items() if not k.startswith("adversaries.")}
    save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / WEIGHTS)
    raw = {
        "config": made.config.model_dump(mode="json"), "seconds": made.seconds, "task": made.task, "card": made.card.to_json(),
        "heads": {t: h.model_dump(mode="json") for t, h in made.kinds.items()},
        "classes": {t: list(c) for t, c in made.classes.items()},
    }  # fmt: skip
    write_text(folder / SHAPE, json.dumps(raw, indent=1))
    bound = "".join(f"- **{r}**: {RESTRICTIONS[r]}\n" for r in restrictions)
    write_text(
        folder / "README.md",
        f"# A multimodal autoencoder\n\nGuarantee: {UNPROTECTED}. An adversary, if there was one, was misled in training;"
        f" another may not be.\n{bound and chr(10) + bound}\nIt is opened by `mien.adapters.autoencoder.restore`.\n",
    )


def restore(folder: Path) -> tuple[Autoencoder, dict[str, Any]]:
    """A saved autoencoder in eval mode, and what it takes (`seconds`, `streams`). MienError when files are missing or do
    not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        raw = json.loads((folder / SHAPE).read_text())
        card = CohortCard.from_json(raw["card"])
        made = build(
            parse(Config, raw["config"], "config"), raw["task"], card, described(card, raw["seconds"]),
            {t: Head(**h) for t, h in raw["heads"].items()}, {t: tuple(c) for t, c in raw["classes"].items()}, 0,
        )  # fmt: skip
        made.model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, MienError) as error:
        raise MienError(
            f"{folder} holds no readable autoencoder: {str(error).splitlines()[-1].strip()}; adapt again"
        ) from None
    made.model.eval().requires_grad_(False)
    return made, {**raw, "streams": {m: m for m in made.modalities}}
