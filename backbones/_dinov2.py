"""`dinov2-smollm2`: a LLaVA-style model from what registry packages carry: DINOv2 ViT-S/14, SmolLM2-135M, a fresh projector.

Made once, at first use, in the cache. The weights of the tower lie in an ONNX file under the names that
`transformers.Dinov2Model` gives them, save that products' matrices have lost theirs; the products keep it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..core import assets, console
from ..core.errors import MienError
from ..core.paths import cache_home

NAME = "dinov2-smollm2"
PARTS = ("dinov2-s", "smollm2-135m")
VERSION = 1  # of what is made below
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as DINOv2 was trained


def built() -> Path:
    """The folder, made now if need be. MienError when a part was not fetched, or the folder is not what was made."""
    inputs = {name: assets.describe(name).member_sha256 for name in PARTS}
    done = cache_home() / "assets" / NAME
    record = done / "made.json"
    if record.exists():
        made = json.loads(record.read_text())
        if made["version"] == VERSION and made["inputs"] == inputs:
            if assets.sha256(done / "model.safetensors") != made["sha256"]["model.safetensors"]:
                raise MienError(
                    f"{done / 'model.safetensors'} is not what was made (its sha256 differs); remove {done}"
                )
            return done
    for name in PARTS:
        assets.verify(name)
    console.say(f"joining {' and '.join(PARTS)}, once (about a minute)")
    part = done.with_name(f".{NAME}.partial")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _join(part)
    files = sorted(f for f in part.iterdir() if f.is_file())
    digests = {f.name: assets.sha256(f) for f in files}
    record = {"version": VERSION, "inputs": inputs, "sha256": digests}
    (part / "made.json").write_text(json.dumps(record, indent=1))
    shutil.rmtree(done, ignore_errors=True)
    part.rename(done)
    return done


def _join(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from . import _encoder
    from .causal_lm import converted

    text = AutoModelForCausalLM.from_pretrained(
        converted(assets.path("smollm2-135m")), dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    model = _encoder.join(text, vision(assets.file("dinov2-s")), strategy="default")
    _encoder.save(model.half(), folder)
    how = {
        "image_processor_type": "BitImageProcessor", "do_convert_rgb": True, "do_resize": True, "resample": 3,
        "size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": _MEAN, "image_std": _STD,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(how, indent=1))


def vision(file: Path) -> Any:
    """`Dinov2Model` (float32) from the ONNX file. MienError when a tensor is missing or left over."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    tensors = {k.removeprefix("backbone."): v for k, v in weights(file).items() if k.startswith("backbone.")}
    width = tensors["embeddings.cls_token"].shape[-1]
    places = tensors["embeddings.position_embeddings"].shape[1] - 1
    depth = 1 + max(int(k.split(".")[2]) for k in tensors if k.startswith("encoder.layer."))
    patch = tensors["embeddings.patch_embeddings.projection.weight"].shape[-1]
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // 64, patch_size=patch,
        image_size=patch * round(places**0.5), use_mask_token=False,
    )  # fmt: skip
    # not load_state_dict: newer versions of transformers have other names, and translate these
    made: Any = Dinov2Model.from_pretrained(
        None, config=config, state_dict={k: torch.tensor(v) for k, v in tensors.items()}, output_loading_info=True
    )
    model, outcome = made
    odd = {
        k: sorted(v)[:3]
        for k, v in outcome.items()
        if v and k in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if odd:
        raise MienError(f"{file.name}: {odd}")
    return model.eval()


# --- the ONNX file: protocol buffers, of which four messages are read (onnx.proto: ModelProto, GraphProto, NodeProto,
# --- TensorProto). No code of any package runs, and no dependency is needed for one file.
def weights(file: Path) -> dict[str, np.ndarray]:
    """float32 tensors of the graph, by the name they had in torch: copies."""
    data = file.read_bytes()
    graph = next((v for n, v in _fields(data, 0, len(data)) if n == 7), None)
    if not isinstance(graph, tuple):
        raise MienError(f"{file} is not an ONNX model")
    tensors: dict[str, np.ndarray] = {}
    nodes: list[tuple[str, str, list[str]]] = []
    for number, span in _fields(data, *graph):
        if number == 5 and isinstance(span, tuple):
            name, value = _tensor(data, *span)
            if value is not None:
                tensors[name] = value
        elif number == 1 and isinstance(span, tuple):
            nodes.append(_node(data, *span))
    out = {k: v for k, v in tensors.items() if not k.startswith("onnx::")}
    for kind, name, inputs in nodes:
        unnamed = [i for i in inputs if i.startswith("onnx::") and i in tensors]
        path = PurePosixPath(name.strip("/"))
        if kind == "MatMul" and unnamed:
            out[".".join((*path.parts[:-1], "weight"))] = np.ascontiguousarray(tensors[unnamed[0]].T)
        elif name == "/backbone/embeddings/Concat_6":
            first = tensors[unnamed[0]]  # the class token's place; the others' are reshaped before they are resized
            rest = next(
                tensors[i] for k, n, ins in nodes if n == "/backbone/embeddings/Reshape_1" for i in ins if i in tensors
            )
            out["backbone.embeddings.position_embeddings"] = np.concatenate(
                [first.reshape(1, 1, -1), rest.reshape(1, -1, first.shape[-1])], axis=1
            )
    return out


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """(field number, value) of one message: an integer, or where its bytes lie."""
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise MienError("the file is damaged: no such kind of field in protocol buffers")
        if at + size > end:
            raise MienError("the file is damaged: a field is longer than what holds it")
        yield key >> 3, (at, at + size)
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64 and at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise MienError("the file is damaged: a number does not end")


def _text(data: bytes, span: Any) -> str:
    return data[span[0] : span[1]].decode(errors="replace")


def _tensor(data: bytes, at: int, end: int) -> tuple[str, np.ndarray | None]:
    """A tensor's name and values; None for other than raw float32."""
    shape: list[int] = []
    name, kind, raw = "", 0, None
    for number, value in _fields(data, at, end):
        if number == 1 and isinstance(value, int):
            shape.append(value)
        elif number == 1 and isinstance(value, tuple):  # packed
            place, last = value
            while place < last:
                size, place = _varint(data, place)
                shape.append(size)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = _text(data, value)
        elif number == 9:
            raw = value
    if kind != 1 or not isinstance(raw, tuple):
        return name, None
    values = np.frombuffer(data[raw[0] : raw[1]], dtype="<f4")
    if values.size != int(np.prod(shape)):
        raise MienError(f"the file is damaged: {name} has {values.size} numbers for the shape {shape}")
    return name, values.reshape(shape)


def _node(data: bytes, at: int, end: int) -> tuple[str, str, list[str]]:
    """An operation's kind, name and inputs."""
    kind, name, inputs = "", "", []
    for number, value in _fields(data, at, end):
        if number == 1:
            inputs.append(_text(data, value))
        elif number == 3:
            name = _text(data, value)
        elif number == 4:
            kind = _text(data, value)
    return kind, name, inputs
