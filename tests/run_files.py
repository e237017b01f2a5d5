"""A config of a run that a test writes, and the figures that the run leaves."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def write(folder: Path, options: Mapping[str, Any]) -> tuple[str, Path]:
    """A config, and the folder that its run is written to."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**options, "output_dir": str(folder / "out")}))
    return str(folder / "config.yaml"), folder / "out"


def results(folder: Path) -> dict[str, float]:
    """The figures of a run, without those of its time."""
    found = json.loads((folder / "all_results.json").read_text())
    return {key: value for key, value in found.items() if "runtime" not in key and "time" not in key}
