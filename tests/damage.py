"""Small files of every format, and what may happen to them on the way: bytes changed, cut, doubled, swapped."""

import io
import json
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn


TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16), "n": torch.tensor(3)}


class Small(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def _hdf5(file: Path) -> None:
    import h5py

    with h5py.File(file, "w") as made:
        made.attrs["model_config"] = '{"class_name": "BatchNormalization", "config": {"epsilon": 0.001}}'
        group = made.create_group("model_weights/conv1_conv/conv1_conv")
        group.create_dataset("kernel:0", data=np.ones((3, 3, 3, 4), np.float32))
        made.create_dataset("layers/batch_normalization/vars/0", data=np.ones(4, np.float32), compression="gzip")


def _keras(file: Path) -> None:
    _hdf5(file.with_suffix(".inner"))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.write(file.with_suffix(".inner"), "model.weights.h5")


def _onnx(file: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "conv.weight")
    node = helper.make_node("Conv", ["x", "conv.weight"], ["y"], name="/conv/Conv")
    onnx.save(helper.make_model(helper.make_graph([node], "g", [], [], [weight]), producer_name="pytorch"), file)


def _pt2(file: Path) -> None:
    torch.export.save(torch.export.export(Small().eval(), (torch.zeros(1, 3, 8, 8),)), file)


def _rounded(file: Path) -> None:
    import onnx
    from onnx import helper, numpy_helper

    arrays = {"w_quantized": np.ones((4, 3, 3, 3), np.int8), "w_scale": np.float32(0.5), "w_zero_point": np.int8(0)}
    known = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    nodes = [helper.make_node("DequantizeLinear", list(arrays), ["w"]), helper.make_node("Conv", ["x", "w"], ["y"])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], known), producer_name="pytorch"), file)


def _tfjs(file: Path) -> None:
    weights = [
        {"name": "conv/kernel", "shape": [3, 3, 3, 4], "dtype": "float32"},
        {
            "name": "bn/gamma",
            "shape": [4],
            "dtype": "float32",
            "quantization": {"dtype": "uint8", "scale": 1, "min": 0},
        },
    ]
    numbers = np.ones(108, "<f4").tobytes() + bytes(4)
    (file.parent / "part.bin").write_bytes(numbers)
    manifest = [{"paths": ["part.bin"], "weights": weights}]
    file.write_text(json.dumps({"format": "layers-model", "modelTopology": {}, "weightsManifest": manifest}))


def _script(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Small().eval()).save(str(file))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.safetensors": lambda file: save_file(TENSORS, file),
    "a.pth": lambda file: torch.save({"state_dict": TENSORS, "epoch": 3}, file),
    "legacy.pth": lambda file: torch.save(TENSORS, file, _use_new_zipfile_serialization=False),
    "a.pkl": lambda file: file.write_bytes(pickle.dumps({"model": {"w": np.ones((8, 8), np.float32)}})),
    "a.h5": _hdf5,
    "a.keras": _keras,
    "a.onnx": _onnx,
    "a.pt2": _pt2,
    "rounded.onnx": _rounded,
    "script.pt": _script,
    "model.json": _tfjs,
    "a.safetensors.index.json": lambda file: file.write_text('{"weight_map": {"a": "a.safetensors", "b": "b.bin"}}'),
}


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """One to four accidents. Half of the time inside a zip's member, or one value of a JSON, all around it whole."""
    inside = chance.random() < 0.5
    if inside and whole.startswith(b"PK"):
        return _damaged_inside(whole, chance)
    if inside and whole.startswith(b"{"):
        return _damaged_json(whole, chance)
    if inside and whole[8:9] == b"{":  # safetensors
        end = 8 + int.from_bytes(whole[:8], "little")
        header = _damaged_json(whole[8:end], chance)
        return len(header).to_bytes(8, "little") + header + whole[end:]
    return _accidents(whole, chance)


STRANGE = (None, -1, 0, 3, 2**40, 10**400, 1.5, "", "x", "../x", "float32", "F16", [], [-1], [0, 4], {}, True)


def _damaged_json(whole: bytes, chance: random.Random) -> bytes:
    """One value changed, taken away, or under another name."""
    found = json.loads(whole)
    part = found
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        key = chance.choice(keys)
        inner = part[key]
        if not isinstance(inner, (dict, list)) or not inner or chance.random() < 0.2:
            break
        part = inner
    match chance.randrange(4):
        case 0:
            del part[key]
        case 1 if isinstance(part, dict):
            part[chance.choice(("", "x", "b", "conv/kernel"))] = part.pop(key)
        case _:
            part[key] = chance.choice(STRANGE)
    return json.dumps(found).encode()


def _damaged_inside(whole: bytes, chance: random.Random) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(made, "w") as new:
        hit = chance.choice([member for member in old.infolist() if member.file_size])
        for member in old.infolist():
            content = old.read(member)
            new.writestr(member.filename, _accidents(content, chance) if member is hit else content)
    return made.getvalue()


def _accidents(whole: bytes, chance: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        place, length = chance.randrange(len(content) or 1), chance.randint(1, 16)
        match chance.randrange(5):
            case 0:
                content[place : place + length] = chance.randbytes(length)
            case 1:
                del content[place:]
            case 2:
                content[place:place] = content[:length]
            case 3:
                content[place : place + length] = bytes([chance.choice((0, 0x7F, 0xFF))]) * length
            case 4:
                del content[place : place + length]
    return bytes(content)
