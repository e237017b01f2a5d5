import os
import subprocess
import sys
from pathlib import Path

import pytest


HERE = Path(__file__).parent
NAMES = (
    *("a.safetensors", "a.pth", "legacy.pth", "a.pkl", "a.h5", "a.keras", "a.onnx", "a.pt2"),
    "a.safetensors.index.json",
)


def fuzz(count, seed, *names):
    """Name -> files read and refused, in a process of its own with 2 GB of memory beyond the libraries'."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[2])])}
    call = [sys.executable, str(HERE / "fuzz.py"), str(seed), str(count), *names]
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
    rows = [line.split() for line in done.stdout.splitlines()]
    return {name: (int(read), int(refused)) for name, read, refused in rows}


def test_damaged_files_are_read_or_refused_and_nothing_else():
    found = fuzz(200, 0, *NAMES)
    assert found.keys() == set(NAMES)
    assert all(read + refused == 200 and refused > 20 for read, refused in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_damaged_files_are_read_or_refused_and_nothing_else(name):
    assert sum(fuzz(10_000, 1, name)[name]) == 10_000
