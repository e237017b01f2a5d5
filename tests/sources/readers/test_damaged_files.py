import os
import subprocess
import sys
from pathlib import Path

import pytest


TESTS = Path(__file__).parents[2]
NAMES = (
    *("a.safetensors", "a.pth", "legacy.pth", "a.pkl", "a.h5", "a.keras", "a.onnx", "a.pt2"),
    *("rounded.onnx", "script.pt", "model.json", "a.safetensors.index.json"),
)

# Read by a process each: their library may loop for ever.
HDF5 = ("a.h5", "a.keras")


def fuzz(count, seed, *names):
    """Name -> files read and refused, in a process of its own with 2 GB of memory beyond the libraries'."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    call = [sys.executable, str(TESTS / "fuzz_readers.py"), str(seed), str(count), *names]
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: (int(read), int(refused)) for name, read, refused, _ in rows}


def test_damaged_files_are_read_or_refused_and_nothing_else():
    found = fuzz(100, 0, *(name for name in NAMES if name not in HDF5)) | fuzz(10, 0, *HDF5)
    assert found.keys() == set(NAMES)
    for name, (read, refused) in found.items():
        assert read + refused == (10 if name in HDF5 else 100)
        assert refused > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_damaged_files_are_read_or_refused_and_nothing_else(name):
    count = 1_000 if name in HDF5 else 10_000
    assert sum(fuzz(count, 1, name)[name]) == count
