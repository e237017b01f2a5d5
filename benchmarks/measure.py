"""Clock, memory, and the words that say what was measured and on what."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from medmerge_hf.export.card.record import versions


def quartiles(values: Sequence[float], unit: str = "") -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3f}{unit} ({low:.3f} - {high:.3f})"


def timed(action: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def resident(figure: str) -> float:
    """MB, of this process (Linux). `ru_maxrss` would be the parent's, if that is larger."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(figure)) / 1024


def machine() -> str:
    """What computed."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    cpu = f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.processor()}"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    libraries = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"{cpu}{gpu}, {torch.get_num_threads()} threads. {libraries}."


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []
