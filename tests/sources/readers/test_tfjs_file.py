import json

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi

from medmerge_hf.errors import CorruptSourceError, SourceNotFoundError
from medmerge_hf.sources.describe import describe
from medmerge_hf.sources.load import load_source


KERNEL = np.arange(3 * 3 * 2 * 4, dtype="<f4").reshape(3, 3, 2, 4)


def write(folder, weights=None, numbers=None, paths=("a.bin", "b.bin"), **more):
    """A layers model in two files of numbers."""
    weights = weights or [{"name": "block/conv/kernel", "shape": [3, 3, 2, 4], "dtype": "float32"}]
    stated = {"format": "layers-model", "modelTopology": {}, **more}
    stated["weightsManifest"] = [{"paths": list(paths), "weights": weights}]
    numbers = KERNEL.tobytes() if numbers is None else numbers
    (folder / "model.json").write_text(json.dumps(stated))
    (folder / "a.bin").write_bytes(numbers[:100])
    (folder / "b.bin").write_bytes(numbers[100:])
    return str(folder / "model.json")


def test_kernels_lie_as_torch_has_them_in_a_file_or_its_folder(tmp_path):
    file = write(tmp_path)
    for source in (file, str(tmp_path)):
        found = load_source(source)
        assert torch.equal(found.tensors["conv.weight"], torch.from_numpy(KERNEL).permute(3, 2, 0, 1))
    told = describe(file)
    assert told.source.tensors["conv.weight"].is_meta
    assert told.bytes == sum(part.stat().st_size for part in tmp_path.iterdir())


def test_rounded_numbers_are_those_that_they_stand_for_with_a_note(tmp_path):
    rounded = {"dtype": "uint8", "scale": 0.5, "min": -1.0, "original_dtype": "float32"}
    entry = {"name": "bn/gamma", "shape": [4], "dtype": "float32", "quantization": rounded}
    found = load_source(write(tmp_path, [entry], bytes([0, 1, 2, 255])))
    assert found.tensors["bn.weight"].tolist() == [-1.0, -0.5, 0.0, 126.5]
    assert "1 tensors rounded to 8 or 16 bits, scales multiplied in" in found.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "graph-model"}, r"graph model of TensorFlow\.js.*Keras file"),
        ({"paths": ("../secret", "b.bin")}, "not beside it"),
        ({"paths": ("a.bin", "c.bin")}, r"'c\.bin' is not there"),
        ({"numbers": KERNEL.tobytes()[:-4]}, "ends at byte 288 of 284"),
        ({"numbers": KERNEL.tobytes() + b"    "}, "speaks of 288 bytes of weights, its files hold 292"),
        ({"weights": [{"name": "a/kernel", "shape": [-1], "dtype": "float32"}]}, "shape"),
    ],
)
def test_what_does_not_add_up_is_refused(change, message, tmp_path):
    with pytest.raises(CorruptSourceError, match=message):
        load_source(write(tmp_path, **change))


def test_a_saved_model_is_called_what_it_is(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises(SourceNotFoundError, match=r"SavedModel of TensorFlow.*model\.save"):
        load_source(str(tmp_path))


def test_a_model_on_the_hub_comes_with_the_files_that_it_names(hub, tmp_path):
    write(tmp_path)
    HfApi().create_repo("tester/js")
    HfApi().upload_folder(repo_id="tester/js", folder_path=tmp_path, path_in_repo="web")
    found = load_source({"id": "tester/js", "file": "web/model.json"})
    assert torch.equal(found.tensors["conv.weight"], torch.from_numpy(KERNEL).permute(3, 2, 0, 1))
