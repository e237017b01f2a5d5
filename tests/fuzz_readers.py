"""`python fuzz_readers.py SEED NAME=COUNT ...`: that many damaged files of each format.

A line each: its name, how many were read, how many refused, the peak of memory in MB.

A process of its own: a library that crashes or fills the memory takes nothing else with it.
"""

import collections
import logging
import random
import resource
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from damage import WRITERS, damaged

from medmerge_hf.errors import MedMergeError
from medmerge_hf.sources.extract import extract
from medmerge_hf.sources.load import read
from medmerge_hf.sources.readers import hdf5_probe
from medmerge_hf.sources.reference import SourceReference


EXTRACTED = ("rounded.onnx", "script.pt")  # sources that are refused, with a command that takes their tensors out

ROOM = 2_000_000_000  # bytes beyond what the libraries take


def main(name: str, seed: int, count: int) -> None:
    """Damage and read."""
    chance, outcomes = random.Random(seed), collections.Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        WRITERS[name](file)
        whole = file.read_bytes()
        if not name.endswith("index.json"):
            assert look(file, True)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))
        for _ in range(count):
            file.write_bytes(damaged(whole, chance))
            try:
                look(file, chance.random() < 0.7)
                outcomes["read"] += 1
            except MedMergeError:
                outcomes["refused"] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(name, outcomes["read"], outcomes["refused"], peak, flush=True)


def look(file: Path, weights: bool) -> Any:
    """Read a file, or what the command takes out that the refusal of such a file names."""
    if file.name in EXTRACTED:
        return extract(file, file.with_suffix(".out"))
    return read(file, SourceReference(str(file)), weights).tensors


if __name__ == "__main__":
    hdf5_probe.SECONDS = 4  # these files are small; on some HDF5 does not come to an end
    warnings.simplefilter("ignore")
    logging.disable()
    for wanted in sys.argv[2:]:
        kind, _, number = wanted.partition("=")
        main(kind, int(sys.argv[1]), int(number))
