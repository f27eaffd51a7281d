"""The loop: bits from a seed, exact resume, losses that belong to one unit, plain PEFT files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.adapters import lora, training, world
from mien.backbones import tiny
from mien.backbones.causal_lm import CausalBackbone, linear_names, weights_digest
from mien.core.config import Plugin
from mien.core.errors import MienError
from mien.generation.grammar import constrain
from mien.generation.layout import Layout
from mien.generation.tokens import Documents
from mien.generation.vocabulary import LABEL_0, Vocabulary

from ..conftest import CARD

VOCABULARY = Vocabulary(("transform",))

SHAPE = tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48)


def base(layout: Layout) -> CausalBackbone:
    model = constrain(tiny.fresh(SHAPE, VOCABULARY.size, 0), layout.grammar, 0)
    model.requires_grad_(False)
    return CausalBackbone(
        model=model, identity="mien/test", revision=None, fingerprint=weights_digest(model), offset=0,
        lora_targets=linear_names(model), speaks_behaviour=True,
    )  # fmt: skip


@pytest.fixture
def setting(cohort):
    layout = Layout.of(CARD, seconds=2.0, task="activity", codec=Plugin(name="transform"))
    return layout, Documents.encode(cohort, layout, stride_s=1.0, quiet=True)


def run(setting, folder: Path, *, steps=12, dropout=0.1, stop_at: int | None = None, seed=0):
    layout, docs = setting
    backbone = base(layout)
    model = lora.attach(backbone, lora.Lora(rank=4, alpha=8, dropout=dropout), [LABEL_0, LABEL_0 + 1], seed)
    accelerator = world.accelerator(threads=1)
    calls = 0

    def batch_of(rows):
        nonlocal calls
        calls += 1
        if stop_at is not None and calls > stop_at:
            raise KeyboardInterrupt
        return backbone.batch([docs[i] for i in rows], prompt=2, persons=docs.person[rows])

    folder.mkdir(parents=True, exist_ok=True)
    config = training.Train(max_steps=steps, batch=4, lr=1e-2, checkpoint_every=4, log_every=2)
    log = training.fit(
        model, backbone.losses, batch_of, len(docs), config, seed=seed, folder=folder, accelerator=accelerator
    )
    return backbone, model, log


def tensors(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def test_same_seed_same_bits_and_exact_resume(setting, tmp_path):
    _, whole, log = run(setting, tmp_path / "a")
    _, twin, _ = run(setting, tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        run(setting, tmp_path / "c", stop_at=7)  # dies between the checkpoints at 4 and 8
    _, resumed, resumed_log = run(setting, tmp_path / "c")
    _, other, _ = run(setting, tmp_path / "d", seed=1)
    a, b, c, d = map(tensors, (whole, twin, resumed, other))
    for name in a:
        assert torch.equal(a[name], b[name])
        assert torch.equal(a[name], c[name])
    assert any(not torch.equal(a[n], d[n]) for n in a)
    assert [r["loss"] for r in resumed_log] == [r["loss"] for r in log]
    assert log[-1]["loss"] < log[0]["loss"]


def test_every_row_is_drawn_once_an_epoch():
    seen = np.concatenate([training.draw(s, seed=3, batch=4, n=10) for s in range(5)])
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    big = training.draw(0, seed=3, batch=25, n=10)
    assert np.bincount(big).min() >= 2


def test_my_loss_does_not_move_when_others_change(setting):
    layout, docs = setting
    backbone = base(layout)
    mine = docs[0]
    others = [docs[1], docs[5], docs[7][: len(docs[7]) // 2]]  # other content, other length
    losses = [
        float(backbone.losses(backbone.model, backbone.batch([mine, *o], prompt=2, persons=[0] * (1 + len(o))))[0])
        for o in ([], others, others[::-1], others[:1])
    ]
    assert max(losses) - min(losses) < 1e-5


def test_only_adapter_and_rows_train(setting, tmp_path):
    backbone, model, _ = run(setting, tmp_path, dropout=0.0)
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all("lora_" in n or "trainable_tokens" in n for n in names)
    with torch.no_grad(), model.disable_adapter():
        ids = torch.tensor(setting[1][0]).long()[None]
        fresh = constrain(tiny.fresh(SHAPE, VOCABULARY.size, 0), setting[0].grammar, 0)
        assert torch.equal(model(input_ids=ids).logits, fresh(input_ids=ids).logits)


def test_saved_adapter_is_plain_peft(setting, tmp_path):
    backbone, model, _ = run(setting, tmp_path / "run")
    lora.save(model, tmp_path / "adapter", backbone)
    assert sorted(os.listdir(tmp_path / "adapter")) == ["adapter_config.json", "adapter_model.safetensors"]
    raw = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert raw["base_model_name_or_path"] == "mien/test"  # no local path
    ids = torch.tensor(setting[1][0]).long()[None]
    model.eval()
    wanted = model(input_ids=ids).logits
    restored = lora.restore(base(setting[0]), tmp_path / "adapter")
    assert torch.equal(restored(input_ids=ids).logits, wanted)
    # and with PEFT alone, as anybody would
    from peft import PeftModel

    naked = tiny.fresh(SHAPE, VOCABULARY.size, 0)
    plain = PeftModel.from_pretrained(naked, tmp_path / "adapter").eval()
    allowed = wanted > -1e3
    assert torch.allclose(plain(input_ids=ids).logits[allowed], wanted[allowed], atol=1e-6)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "adapter_model.safetensors").unlink(), "no readable adapter"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 40), "no readable adapter"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "no readable adapter"),
        (
            lambda f: (f / "adapter_config.json").write_text(
                (f / "adapter_config.json").read_text().replace("mien/test", "someone/else")
            ),
            "made for 'someone/else'",
        ),
    ],
)
def test_spoilt_adapters(setting, tmp_path, spoil, says):
    backbone, model, _ = run(setting, tmp_path / "run", steps=2)
    lora.save(model, tmp_path / "adapter", backbone)
    spoil(tmp_path / "adapter")
    with pytest.raises(MienError, match=says):
        lora.restore(base(setting[0]), tmp_path / "adapter")


def test_refusals(setting, tmp_path, monkeypatch):
    with pytest.raises(MienError, match=r"lora.targets.*nonesuch"):
        lora.attach(base(setting[0]), lora.Lora(targets=("nonesuch",)), [], 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MienError, match="launched as 2 processes"):
        world.accelerator()
    with pytest.raises(MienError, match="more than 4,000,000"):
        tiny.fresh(tiny.Shape(hidden=512, feed_forward=2048, layers=8), VOCABULARY.size, 0)


def test_checkpoint_of_another_model(setting, tmp_path):
    run(setting, tmp_path, steps=4)
    layout, docs = setting
    backbone = base(layout)
    model = lora.attach(backbone, lora.Lora(rank=4, targets="attention"), [], 0)
    with pytest.raises(MienError, match="another model"):
        training.fit(
            model, backbone.losses, lambda r: None, 3, training.Train(max_steps=8), seed=0, folder=tmp_path,
            accelerator=world.accelerator(1),
        )  # fmt: skip
