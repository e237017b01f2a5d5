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

# Every file is read by a process of its own, since their library may loop for ever: few of them.
HDF5 = ("a.h5", "a.keras")


def fuzz(seed, counts):
    """Name -> files read and refused, in a process of its own with 2 GB of memory beyond the libraries'."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    wanted = [f"{name}={count}" for name, count in counts.items()]
    call = [sys.executable, str(TESTS / "fuzz_readers.py"), str(seed), *wanted]
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: (int(read), int(refused)) for name, read, refused, _ in rows}


def test_damaged_files_are_read_or_refused_and_nothing_else():
    counts = {name: 10 if name in HDF5 else 100 for name in NAMES}
    found = fuzz(0, counts)
    assert {name: read + refused for name, (read, refused) in found.items()} == counts
    assert min(refused for _, refused in found.values()) > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_damaged_files_are_read_or_refused_and_nothing_else(name):
    count = 1_000 if name in HDF5 else 10_000
    assert sum(fuzz(1, {name: count})[name]) == count
