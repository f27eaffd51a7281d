"""The private loop in one process: what a step is, broken rows, empty batches, clipping that adapts, protections."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.adapters import lora, training, world
from mien.adapters.optimizer import FLOOR, Adam
from mien.adapters.private import Begun
from mien.adapters.protections import Protections
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.generation.adapted import Writing
from mien.generation.layout import Layout
from mien.generation.tokens import Documents
from mien.generation.vocabulary import LABEL_0
from mien.privacy import noise
from mien.privacy.plan import PrivacySpec
from mien.privacy.sampling import Units

from ..conftest import CARD
from .test_training import base


@pytest.fixture
def setting(cohort):
    layout = Layout.of(CARD, seconds=2.0, task="activity", codec=Plugin(name="transform"))
    return layout, Documents.encode(cohort, layout, stride_s=1.0, quiet=True), cohort


def fit(setting, folder: Path, *, steps=4, losses=None, protections=(), lora_options=None, train=None, **spec):
    layout, docs, cohort = setting
    backbone = base(layout)
    options = lora.Lora(rank=2, alpha=4, **(lora_options or {}))
    model = lora.attach(backbone, options, [LABEL_0, LABEL_0 + 1], 0)
    folder.mkdir(parents=True, exist_ok=True)
    subject = Writing.__new__(Writing)  # without a recipe: base and documents are made here
    subject.base, subject.documents, subject.layout = backbone, docs, layout
    made = Protections.of([Plugin(**p) for p in protections]).losses(model, subject, cohort, 0, True)
    spec = {"noise_multiplier": 1.0, "delta": 1e-5, "batch": 2, "rows": 4, **spec}
    log = training.fit(
        model, losses(made) if losses else made,
        lambda rows: backbone.batch([docs[i] for i in rows], prompt=2, persons=docs.person[rows]), len(docs),
        training.Train(max_steps=steps, micro_batch=3, checkpoint_every=2, log_every=steps, lr=1e-2, **(train or {})),
        seed=0, folder=folder, accelerator=world.accelerator(threads=1),
        private=training.Private(
            plan=PrivacySpec(**spec).plan(n=len(docs.persons), steps=steps), units=Units.of(docs.person),
            probes=lambda: backbone.probes(docs.some(3), prompt=2),
        ),
    )  # fmt: skip
    return backbone, model, log


class Recorder:
    """Every gradient the optimiser is given."""

    def __init__(self, monkeypatch):
        self.gradients: list[torch.Tensor] = []
        self.variances: list[float] = []
        step = Adam.step

        def record(this, vector, gradient, lr, variance=0.0):
            self.gradients.append(gradient.clone())
            self.variances.append(variance)
            step(this, vector, gradient, lr, variance)

        monkeypatch.setattr(Adam, "step", record)


@pytest.fixture
def quiet_noise(monkeypatch):
    """No noise, so that what is left can be looked at."""
    monkeypatch.setattr(
        noise.Secret, "normal", lambda self, n, device="cpu": torch.zeros(n, dtype=torch.float64, device=device)
    )


@pytest.fixture
def recorder(monkeypatch):
    return Recorder(monkeypatch)


def everybody(monkeypatch):
    monkeypatch.setattr(noise.Secret, "below", lambda self, n, p: np.ones(n, dtype=bool))


def test_a_step_is_the_mean_of_clipped_person_gradients(setting, tmp_path, monkeypatch, quiet_noise, recorder):
    """One step with everybody drawn, against one person at a time through ordinary autograd."""
    everybody(monkeypatch)
    layout, docs, _ = setting
    clip = 0.02
    fit(setting, tmp_path / "run", steps=1, rows=1000, batch=3, clip_norm=clip)
    backbone = base(layout)
    model = lora.attach(backbone, lora.Lora(rank=2, alpha=4), [LABEL_0, LABEL_0 + 1], 0)
    trained = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in trained), dtype=torch.float64)
    for person in range(len(docs.persons)):
        rows = np.flatnonzero(docs.person == person)
        losses = [backbone.losses(model, backbone.batch([docs[i]], prompt=2, persons=[0])).sum() for i in rows]
        gradients = torch.autograd.grad(sum(losses) / len(rows), trained)
        flat = torch.cat([g.flatten() for g in gradients]).double()
        total += flat * min(1.0, clip / float(flat.norm()))
    assert torch.allclose(recorder.gradients[0].double(), total / 3, atol=1e-7)


def test_an_empty_batch_still_adds_noise_and_counts(setting, tmp_path, monkeypatch, recorder):
    monkeypatch.setattr(noise.Secret, "below", lambda self, n, p: np.zeros(n, dtype=bool))
    _, _, log = fit(setting, tmp_path / "run", clip_norm=0.5)
    assert log[-1]["persons"] == 0
    assert Begun(tmp_path / "run" / "steps-begun").read() == 4
    for gradient in recorder.gradients:
        assert float(gradient.std()) == pytest.approx(
            0.5 / 2, rel=0.1
        )  # noise multiplier x clip over the expected batch
    assert recorder.variances == [pytest.approx(0.25**2)] * 4


@pytest.mark.parametrize(("broken", "how"), [(math.nan, "gradient"), (math.nan, "loss"), (math.inf, "loss")])
def test_a_broken_row_costs_its_person_only(setting, tmp_path, monkeypatch, quiet_noise, recorder, broken, how):
    everybody(monkeypatch)
    _, docs, _ = setting

    def spoil(losses):
        def call(model, batch):
            value = losses(model, batch).clone()
            if call.on:  # the start-up checks saw a sound model
                bad = batch.person == 1
                value[bad] = value[bad] * broken if how == "gradient" else value[bad] + broken
            return value

        call.on = False
        take = training.PrivateSteps.take
        monkeypatch.setattr(training.PrivateSteps, "take", lambda s, a, b: (setattr(call, "on", True), take(s, a, b)))
        return call

    fit(setting, tmp_path / "bad", steps=1, rows=1000, losses=spoil)
    head = json.loads((tmp_path / "bad" / "checkpoint" / "state.json").read_text())
    assert head["not_finite"] == 1
    with_bad = recorder.gradients.pop()
    assert torch.isfinite(with_bad).all()

    # the same step as if that person had not been there at all
    def without(units, rate, rows, secret):
        return [r for i, r in enumerate(units.rows) if i != 1]

    monkeypatch.setattr("mien.adapters.private.sampling.draw", without)
    fit(setting, tmp_path / "without", steps=1, rows=1000)
    assert torch.allclose(with_bad, recorder.gradients.pop(), atol=1e-9)


def test_adaptive_clipping_finds_the_quantile(setting, tmp_path, monkeypatch, quiet_noise):
    everybody(monkeypatch)
    _, docs, _ = setting
    n = len(docs.persons)
    options = {"clipping": "adaptive", "clip_norm": 10.0, "batch": n, "quantile_noise": 0.5, "noise_multiplier": 0.5}
    _, _, log = fit(setting, tmp_path / "run", steps=30, rows=8, train={"weight_decay": 0.0}, **options)
    assert 0.2 < log[-1]["clip_norm"] / log[-1]["median_norm"] < 5


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic", "adaptive"])
def test_every_clipping_trains_and_resumes(setting, tmp_path, clipping):
    options = {"clipping": clipping, "quantile_noise": 1.0, "noise_multiplier": 0.6}
    fit(setting, tmp_path / "run", **options)
    head = json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())
    assert head["step"] == head["updates"] == 4
    fit(setting, tmp_path / "run", **options)  # nothing is left to do
    assert Begun(tmp_path / "run" / "steps-begun").read() == 4


def test_lost_steps_are_charged_and_not_taken_again(setting, tmp_path, recorder):
    class Killed(Exception):
        pass

    def dying(losses):
        def call(model, batch):
            if Begun(tmp_path / "run" / "steps-begun").read() >= 8:  # begun: 8; kept: 6
                raise Killed
            return losses(model, batch)

        return call

    with pytest.raises(Killed):
        fit(setting, tmp_path / "run", steps=12, losses=dying, batch=3)
    recorder.gradients.clear()
    fit(setting, tmp_path / "run", steps=12, batch=3)
    head = json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())
    assert len(recorder.gradients) == 12 - 8
    assert head["updates"] == 12 - (8 - 6)


def test_a_plain_checkpoint_is_not_continued_privately(setting, tmp_path):
    layout, docs, _ = setting
    backbone = base(layout)
    model = lora.attach(backbone, lora.Lora(rank=2, alpha=4), [LABEL_0, LABEL_0 + 1], 0)
    (tmp_path / "run").mkdir()
    training.fit(
        model, backbone.losses, lambda r: backbone.batch([docs[i] for i in r], prompt=2, persons=docs.person[r]),
        len(docs), training.Train(max_steps=2, batch=2), seed=0, folder=tmp_path / "run", accelerator=world.accelerator(1),
    )  # fmt: skip
    with pytest.raises(MienError, match="another privacy plan"):
        fit(setting, tmp_path / "run")


def test_frozen_a_factors(setting, tmp_path):
    backbone, model, _ = fit(setting, tmp_path / "run", lora_options={"freeze_a": True})
    fresh = lora.attach(base(setting[0]), lora.Lora(rank=2, alpha=4), [LABEL_0, LABEL_0 + 1], 0)
    start, moved = dict(fresh.named_parameters()), dict(model.named_parameters())
    assert all(torch.equal(moved[n], start[n]) for n in start if ".lora_A." in n)
    assert any(not torch.equal(moved[n], start[n]) for n in start if ".lora_B." in n)
    lora.save(model, tmp_path / "adapter", backbone)
    lora.restore(base(setting[0]), tmp_path / "adapter")


def test_an_adversary_is_clipped_and_noised_with_the_adapter(setting, tmp_path, recorder):
    adversary = {"name": "adversary", "attributes": ["sex"], "hidden": 4, "classes": {"sex": ["f", "m"]}}
    backbone, model, _ = fit(setting, tmp_path / "run", protections=[adversary])
    heads = {n: p.numel() for n, p in model.named_parameters() if n.startswith("adversaries.")}
    assert len(heads) == 4
    plain = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and n not in heads)
    assert len(recorder.gradients[0]) == plain + sum(heads.values())
    lora.save(model, tmp_path / "adapter", backbone)
    from safetensors.torch import load_file

    assert not [n for n in load_file(tmp_path / "adapter" / "adapter_model.safetensors") if "adversar" in n]


@pytest.mark.parametrize(
    ("protections", "says"),
    [
        ([{"name": "leace", "attributes": ["sex"]}], "does not act while an adapter is trained"),
        ([{"name": "perturb", "scale": 0.1}] * 2, "named twice"),
        ([{"name": "adversary", "attributes": ["shoe"], "classes": {"shoe": ["a", "b"]}}], "has no attribute 'shoe'"),
        ([{"name": "adversary", "attributes": ["sex"]}], "declare its `classes`"),
        ([{"name": "adversary", "attributes": ["identity"]}], "leave it out"),
        ([{"name": "adversary", "attributes": []}], "attributes"),
        ([{"name": "perturb", "scale": -1}], "scale"),
    ],
)
def test_protections_that_cannot_be(setting, tmp_path, protections, says):
    with pytest.raises(MienError, match=says):
        fit(setting, tmp_path / "run", protections=protections)


def test_perturbed_recordings_are_the_same_after_a_kill(setting, tmp_path):
    _, _, cohort = setting
    made = Protections.of([Plugin(name="perturb", scale=0.05)])
    first, again = (made.change(cohort.card, tmp_path) for _ in range(2))
    recordings = list(cohort)[:2]
    a, b = (np.asarray(f(recordings[0]).streams["acc"].values) for f in (first, again))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, recordings[0].streams["acc"].values)
    other = np.asarray(first(recordings[1]).streams["acc"].values) - recordings[1].streams["acc"].values
    assert abs(np.corrcoef((a - recordings[0].streams["acc"].values).ravel(), other.ravel())[0, 1]) < 0.3


# -- the optimiser -------------------------------------------------------------------------------------------------------


def test_adam_is_torchs_adamw():
    torch.manual_seed(0)
    start, gradients = torch.randn(50), [torch.randn(50) for _ in range(7)]
    theirs = torch.nn.Parameter(start.clone())
    other = torch.optim.AdamW([theirs], lr=0.03, weight_decay=0.1)
    mine = start.clone()
    adam = Adam(mine, weight_decay=0.1)
    for g in gradients:
        theirs.grad = g.clone()
        other.step()
        adam.step(mine, g, 0.03)
    assert torch.allclose(mine, theirs.detach(), atol=1e-6)


def test_the_correction_takes_the_noise_out_of_the_second_moment():
    """A coordinate with a steady signal under much noise: plain Adam scales by the noise, the correction by the signal."""
    torch.manual_seed(0)
    signal, sd = 0.1, 1.0
    vector = torch.zeros(4000)
    adam = Adam(vector, betas=(0.9, 0.999))
    for _ in range(3000):
        adam.step(vector.zero_(), signal + sd * torch.randn(4000), 1.0, variance=sd**2)
    step = -vector.mean()
    spread = max(signal**2, FLOOR * sd**2)
    assert float(step) == pytest.approx(signal / math.sqrt(spread), rel=0.25)
    assert float(step) > 2 * signal / math.sqrt(signal**2 + sd**2)


# -- around the loop -----------------------------------------------------------------------------------------------------


def test_trackers_of_a_private_run_learn_nothing_about_recordings(setting, tmp_path, monkeypatch):
    from accelerate import Accelerator

    sent = []
    monkeypatch.setattr(Accelerator, "init_trackers", lambda self, name, config=None: sent.append(config))
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step=None: sent.append(values))
    monkeypatch.setattr(Accelerator, "trackers", [], raising=False)
    fit(setting, tmp_path / "run", train={"trackers": ("tensorboard",)})
    assert sent[0]["max_steps"] == 4
    assert [set(s) for s in sent[1:]] == [{"lr"}]


@pytest.fixture
def bfloat16(monkeypatch):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    yield
    AcceleratorState._reset_state(True)


def test_bfloat16_activations(bfloat16, setting, tmp_path, recorder):
    """The start-up checks allow bfloat16's rounding, and what is summed and noised is not rounded to it."""
    _, _, log = fit(setting, tmp_path / "run", train={"checkpointing": "non_reentrant"})
    assert math.isfinite(log[-1]["loss"])
    gradient = recorder.gradients[0]
    assert gradient.dtype == torch.float32
    assert (gradient != gradient.to(torch.bfloat16).float()).float().mean() > 0.9


def test_half_precision_is_refused(monkeypatch):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    monkeypatch.setattr("accelerate.Accelerator.mixed_precision", "fp16")
    with pytest.raises(MienError, match="use bf16"):
        world.accelerator(1)
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "2"}, "launched as 2 processes"),
        ({"ACCELERATE_USE_FSDP": "true"}, "drop it silently"),
    ],
)
def test_a_world_that_is_not_what_was_promised(monkeypatch, environment, says):
    if torch.cuda.is_available():
        pytest.skip("on a GPU accelerate does what the launch file says")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MienError, match=says):
        world.accelerator(1)
