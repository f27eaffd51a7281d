"""The LLaVA joined from registry packages: its ONNX file read by hand, the folder made once and checked."""

from __future__ import annotations

import contextlib
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mien.adapters import lora
from mien.backbones import _dinov2, _encoder, llava, tiny
from mien.core import assets
from mien.core.errors import MienError

from ..conftest import fetched


# --- an ONNX file made here ---------------------------------------------------------------------------------------
def varint(n: int) -> bytes:
    out = bytearray()
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes([*out, n])


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name: str, values: np.ndarray, packed: bool = True) -> bytes:
    sizes = (
        field(1, b"".join(map(varint, values.shape))) if packed else b"".join(field(1, int(n)) for n in values.shape)
    )
    body = sizes + field(2, 1) + field(8, name.encode()) + field(9, values.astype("<f4").tobytes())
    return field(5, body)


def node(kind: str, name: str, *inputs: str) -> bytes:
    body = b"".join(field(1, i.encode()) for i in inputs) + field(2, b"out") + field(3, name.encode())
    return field(1, body + field(4, kind.encode()))


def model(*parts: bytes) -> bytes:
    return field(1, 8) + field(2, b"a test") + field(7, b"".join(parts))


def test_reading_weights(tmp_path):
    rng = np.random.default_rng(0)
    bias, matrix = rng.normal(size=(300,)).astype("f4"), rng.normal(size=(4, 5)).astype("f4")
    first, rest = rng.normal(size=(1, 1, 4)).astype("f4"), rng.normal(size=(1, 3, 3, 4)).astype("f4")
    (tmp_path / "x.onnx").write_bytes(
        model(
            tensor("backbone.layer.0.fc.bias", bias), tensor("onnx::MatMul_7", matrix, packed=False),
            field(5, field(1, 1) + field(2, 7) + field(8, b"an integer") + field(9, bytes(8))),
            tensor("onnx::Concat_8", first), tensor("onnx::Reshape_9", rest),
            node("MatMul", "/backbone/layer.0/fc/MatMul", "x", "onnx::MatMul_7"),
            node("Reshape", "/backbone/embeddings/Reshape_1", "onnx::Reshape_9", "shape"),
            node("Concat", "/backbone/embeddings/Concat_6", "onnx::Concat_8", "y"),
        )
    )  # fmt: skip
    found = _dinov2.weights(tmp_path / "x.onnx")
    assert set(found) == {
        "backbone.layer.0.fc.bias",
        "backbone.layer.0.fc.weight",
        "backbone.embeddings.position_embeddings",
    }
    assert np.array_equal(found["backbone.layer.0.fc.bias"], bias)
    assert np.array_equal(found["backbone.layer.0.fc.weight"], matrix.T)
    places = found["backbone.embeddings.position_embeddings"]
    assert np.array_equal(places, np.concatenate([first, rest.reshape(1, 9, 4)], axis=1))


@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_damaged_file_is_said_to_be(tmp_path_factory, noise, cut):
    """Read, or refused: never another error, and never beyond the end."""
    whole = model(tensor("backbone.a.bias", np.zeros(40)), node("MatMul", "/backbone/a/MatMul", "onnx::MatMul_1"))
    file = tmp_path_factory.mktemp("onnx") / "x.onnx"
    file.write_bytes(whole[:cut] + noise)
    with contextlib.suppress(MienError):
        _dinov2.weights(file)


def test_it_says_what_to_fetch(home):
    with pytest.raises(MienError, match="run `mien assets fetch dinov2-s`"):
        llava.load(llava.Config(model="dinov2-smollm2"), 10)


def test_the_folder_is_made_once_and_checked(home, monkeypatch):
    (home / "cache" / "assets").mkdir(parents=True)
    monkeypatch.setattr(assets, "verify", lambda name: "")
    made = []

    def join(folder):
        made.append(folder)
        text = tiny.fresh(tiny.Shape(hidden=32, layers=2, heads=2, feed_forward=48), 60, 0)
        from transformers import Dinov2Config

        vision = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=28)
        _encoder.save(_encoder.join(text, vision, strategy="default"), folder)
        (folder / "preprocessor_config.json").write_text(
            json.dumps(
                {"crop_size": 28, "size": {"shortest_edge": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
            )
        )

    monkeypatch.setattr(_dinov2, "_join", join)
    base = llava.load(llava.Config(model="dinov2-smollm2", adapt_projector=True), 10)
    again = llava.load(llava.Config(model="dinov2-smollm2"), 10)
    assert len(made) == 1
    assert base.fingerprint == again.fingerprint
    assert (base.identity, base.offset, base.soft) == ("mien-assets/dinov2-smollm2", 61, 4)
    shown = np.random.default_rng(0).integers(0, 255, (2, 40, 50, 3)).astype(np.uint8)
    document = np.array([1, 3, 4, 5, 2])
    model = lora.attach(base, lora.Lora(rank=2), range(base.offset, base.offset + 10), 0).eval()
    losses = [
        base.losses(model, base.batch([document] * len(g), prompt=2, persons=[0] * len(g), given=g)).detach().numpy()
        for g in ([shown[0]], [shown[0], shown[1]], [shown[0], None])
    ]
    assert np.allclose([x[0] for x in losses], losses[0], atol=2e-5)
    assert abs(losses[1][0] - losses[1][1]) > 1e-6
    folder = home / "cache" / "assets" / "dinov2-smollm2"
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes() + b" ")
    with pytest.raises(MienError, match="its sha256 differs"):
        llava.load(llava.Config(model="dinov2-smollm2"), 10)
    monkeypatch.setattr(_dinov2, "VERSION", 99)  # a newer Mien makes it anew
    llava.load(llava.Config(model="dinov2-smollm2"), 10)
    assert len(made) == 2


# --- the real one ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not fetched(*_dinov2.PARTS), reason="needs `mien assets fetch dinov2-s smollm2-135m`")
def test_the_real_weights(tmp_path):
    """The tower knows a picture again when it is moved, the language model still speaks, and the bytes come out the same."""
    rng = np.random.default_rng(0)
    base = llava.load(llava.Config(model="dinov2-smollm2"), 100)
    assert (base.soft, base.offset, base.never) == (256, 49153, (49152,))
    y, x = np.mgrid[:240, :240]

    def stripes(angle, shift):
        wave = np.sin((np.cos(angle) * x + np.sin(angle) * y + shift) / 6)
        return np.repeat(((wave + 1) * 120)[..., None], 3, axis=2).astype(np.uint8)

    def discs(shift):
        out = np.full((240, 240, 3), 30, dtype=np.uint8)
        for cx, cy in ((60, 70), (150, 120), (90, 190)):
            out[(x - cx - shift) ** 2 + (y - cy) ** 2 < 900] = (220, 80, 40)
        return out

    shown = [stripes(0.3, 0), stripes(0.3, 9), discs(0), discs(7)]
    assert base.pack is not None
    with torch.no_grad():
        seen = base.model.model.vision_tower(torch.as_tensor(base.pack(shown))).pooler_output
        same = torch.nn.functional.cosine_similarity(seen[0::2], seen[1::2])
        other = torch.nn.functional.cosine_similarity(seen[0::2], seen[[2, 0]])
        assert float(same.min()) > float(other.max()) + 0.2
        soft = torch.stack(
            list(base.model.model.get_image_features(torch.as_tensor(base.pack(shown[:1]))).pooler_output)
        )
        scale = float(base.model.get_input_embeddings().weight[:49152].pow(2).mean().sqrt())
        assert 0.1 < float(soft.pow(2).mean().sqrt()) / scale < 10
        # "The capital of France is" in SmolLM2's tokens; the likeliest next one is " Paris"
        words = torch.tensor([[504, 3575, 282, 4649, 314]])
        assert int(base.model(input_ids=words).logits[0, -1, :49152].argmax()) == 7042
    document = np.concatenate([[1, 3], rng.integers(4, 99, 20), [2]])
    losses = base.losses(base.model, base.batch([document] * 2, prompt=2, persons=[0, 1], given=[shown[0], shown[2]]))
    assert torch.isfinite(losses).all()
    before = assets.sha256(_dinov2.built() / "model.safetensors")
    _dinov2._join(tmp_path)
    assert assets.sha256(tmp_path / "model.safetensors") == before
    shutil.rmtree(tmp_path)
