import pickle
import zipfile

import numpy as np
import pytest
import torch
from tiny import network

from medmerge_hf.errors import CorruptSourceError, MedMergeError, UnsafePickleError
from medmerge_hf.sources.load import read
from medmerge_hf.sources.reference import SourceReference


TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16), "n": torch.tensor(3)}


def tensors_of(file, weights=True):
    return read(file, SourceReference(str(file)), weights).tensors


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    file = tmp_path / "bomb.pth"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 200_000_000)
    assert file.stat().st_size < 1_000_000
    with pytest.raises(CorruptSourceError, match="zip bomb"):
        tensors_of(file)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_names_in_a_pickle_are_read_without_its_weights(tmp_path, legacy):
    torch.save({"state_dict": TENSORS}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    found = tensors_of(tmp_path / "a.pth", weights=False)
    assert {k: tuple(t.shape) for k, t in found.items()} == {k: tuple(t.shape) for k, t in TENSORS.items()}
    assert all(tensor.is_meta for tensor in found.values())


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10_000_000)}, tmp_path / "a.pth")
    with pytest.raises(CorruptSourceError, match="describes 40000000 bytes"):
        tensors_of(tmp_path / "a.pth")


def test_numbers_of_numpy_beside_the_weights_are_no_code(tmp_path):
    torch.save(
        {"state_dict": network(1).state_dict(), "best": np.float64(0.9), "step": np.int64(3)}, tmp_path / "a.pth"
    )
    assert torch.equal(tensors_of(tmp_path / "a.pth")["conv1.0.weight"], network(1).conv1[0].weight)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx", ""])
def test_the_format_is_told_by_the_content_and_not_by_the_suffix(protocol, suffix, tmp_path):
    file = tmp_path / f"a{suffix}"
    torch.save(TENSORS, file)
    assert tensors_of(file).keys() == TENSORS.keys()
    file.write_bytes(pickle.dumps({"model": {"w": np.ones((2, 2))}}, protocol=protocol))
    assert tensors_of(file)["w"].shape == (2, 2)


def test_nothing_of_a_pickle_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    for name, write in (("a.pth", torch.save), ("b.pkl", lambda value, file: file.write_bytes(pickle.dumps(value)))):
        write({"model": TENSORS, "args": Evil()}, tmp_path / name)
        with pytest.raises(UnsafePickleError, match=r"open"):
            tensors_of(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_checkpoints_are_refused_as_such(legacy, tmp_path):
    torch.save(TENSORS, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    whole = (tmp_path / "a.pth").read_bytes()
    for cut in range(10, len(whole), 41):
        (tmp_path / "cut.pth").write_bytes(whole[:cut])
        with pytest.raises(MedMergeError, match="cut"):
            tensors_of(tmp_path / "cut.pth")
