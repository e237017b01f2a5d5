import argparse
import pickle
import re
import shlex
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import network
from torch import nn

from medmerge_hf import MedMergeModel, inspect_sources
from medmerge_hf.errors import MedMergeError
from medmerge_hf.sources.extract import dequantised, extract, main


class Wrapped(nn.Module):
    """A class that no other process can import."""

    def __init__(self):
        super().__init__()
        self.model = network(1)

    def forward(self, x):
        return self.model(x)


def write_script(file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network(1), torch.zeros(1, 3, 64, 64)).save(file)


def write_float8(file):
    weights = network(1).state_dict()
    save_file({k: t.to(torch.float8_e4m3fn) if t.ndim > 1 else t for k, t in weights.items()}, file)


def write_int8(file):
    found = {}
    for name, tensor in network(1).state_dict().items():
        found[name] = tensor
        if tensor.ndim == 4:
            scale = tensor.abs().amax((1, 2, 3)) / 127
            found |= {name: (tensor / scale[:, None, None, None]).round().to(torch.int8), f"{name}_scale": scale}
    save_file(found, file)


def write_rounded_onnx(file):
    quantization = pytest.importorskip("onnxruntime.quantization")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network(1), (torch.zeros(1, 3, 64, 64),), str(file) + ".whole", dynamo=False, verbose=False)
    quantization.quantize_dynamic(str(file) + ".whole", file)


FILES = {
    "namespace.pth": (
        lambda f: torch.save({"model": network(1).state_dict(), "args": argparse.Namespace(lr=1)}, f),
        "argparse.Namespace",
    ),
    "legacy.pth": (
        lambda f: torch.save(
            {"model": network(1).state_dict(), "args": argparse.Namespace(lr=1)},
            f,
            _use_new_zipfile_serialization=False,
        ),
        "argparse.Namespace",
    ),
    "protocol.pth": (lambda f: torch.save(network(1).state_dict(), f, pickle_protocol=4), "pickle"),
    "module.pt": (lambda f: torch.save(Wrapped(), f), "Wrapped"),
    "inside.pt": (lambda f: torch.save({"epoch": 1, "model": Wrapped()}, f), "Wrapped"),
    "plain.pkl": (
        lambda f: f.write_bytes(pickle.dumps({"net": network(1).state_dict(), "args": argparse.Namespace()})),
        "is a pickle",
    ),
    "two words.pt": (write_script, "TorchScript"),
    "float8.safetensors": (write_float8, "float8"),
    "int8.safetensors": (write_int8, "int8.*quantised"),
}


@pytest.mark.parametrize("name", [*FILES, pytest.param("rounded.onnx", marks=pytest.mark.slow)])
def test_the_command_of_a_refusal_ends_in_a_merge_when_it_is_followed(name, tmp_path):
    write, what = FILES.get(name) or (write_rounded_onnx, "ONNX file of quantised weights")
    write(tmp_path / name)
    with pytest.raises(MedMergeError, match=what) as refused:
        MedMergeModel.from_sources([network(0), str(tmp_path / name)], num_labels=2)
    assert inspect_sources([network(0), str(tmp_path / name)]).sources[1].problem == str(refused.value)
    command, out = re.search(r"`(python .*?)`; then name '(.*?)'", str(refused.value)).groups()
    if name == "two words.pt":  # as a user does
        subprocess.run([sys.executable, *shlex.split(command)[1:]], check=True, capture_output=True)
    else:
        assert command.startswith("python -m medmerge_hf.sources.extract ")
        main(shlex.split(command)[3:])
    model = MedMergeModel.from_sources([network(0), out], num_labels=2, init=1.0)
    found, wanted = model.plain_model().timm_model.state_dict(), network(1).state_dict()
    if name == "rounded.onnx":
        folded = "15 BatchNorms that were folded into convolutions taken out again"
        assert folded in model.config.sources[1]["notes"]
        return
    rough = {"float8.safetensors": 0.1, "int8.safetensors": 0.01}.get(name, 1e-6)
    assert all(
        torch.allclose(found[k], t, rtol=rough, atol=rough) for k, t in wanted.items() if "weight" in k and t.ndim > 2
    )


def test_the_command_for_arrays_of_numpy_ends_in_a_merge(tmp_path):
    np.savez(tmp_path / "a.npz", **{name: tensor.numpy() for name, tensor in network(1).state_dict().items()})
    with pytest.raises(MedMergeError, match="NumPy archive") as refused:
        MedMergeModel.from_sources([network(0), str(tmp_path / "a.npz")], num_labels=2)
    command, out = re.search(r"`(python .*?)`; then name '(.*?)'", str(refused.value)).groups()
    exec(shlex.split(command)[2], {})
    model = MedMergeModel.from_sources([network(0), out], num_labels=2, init=1.0)
    weight = model.plain_model().timm_model.conv1[0].weight
    assert torch.allclose(weight, network(1).conv1[0].weight, atol=1e-6)


def test_two_networks_of_a_file_stay_apart_and_are_told(tmp_path):
    file = tmp_path / "a.pth"
    torch.save({"model": network(1).state_dict(), "ema": network(2).state_dict(), "args": argparse.Namespace()}, file)
    notes = extract(file, tmp_path / "out.safetensors")
    assert "networks in it: model, ema" in notes
    assert "left out: objects of argparse.Namespace" in notes
    source = {"id": str(tmp_path / "out.safetensors"), "entry": "ema"}
    model = MedMergeModel.from_sources([network(0), source], num_labels=2, init=1.0)
    assert torch.allclose(model.plain_model().timm_model.conv1[0].weight, network(2).conv1[0].weight, atol=1e-6)


def test_scales_are_multiplied_in_or_missed():
    bits = {"a.weight": torch.tensor([[127], [-127]], dtype=torch.int8), "a.SCB": torch.tensor([2.0, 4.0])}
    assert torch.allclose(dequantised(bits, "a")[0]["a.weight"], torch.tensor([[2.0], [-4.0]]))
    packed = torch.quantize_per_tensor(torch.ones(2, 2), 0.5, 0, torch.qint8)
    assert torch.equal(dequantised({"w": packed}, "a")[0]["w"], torch.ones(2, 2))
    with pytest.raises(MedMergeError, match="without a scale"):
        dequantised({"w": torch.ones(2, 2, dtype=torch.int8)}, "a")
    with pytest.raises(MedMergeError, match="scales of blocks"):
        dequantised({"w": torch.ones(4, 4, dtype=torch.int8), "w_scale": torch.ones(2, 3)}, "a")


def test_nothing_of_the_file_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"model": {"w": torch.ones(2, 2)}, "args": Evil(), "n": np.float64(1)}, tmp_path / "a.pth")
    extract(tmp_path / "a.pth", tmp_path / "out.safetensors")
    assert list(load_file(tmp_path / "out.safetensors")) == ["w"]
    assert not (tmp_path / "ran").exists()
