"""Runs that are kept by their settings: predictions, figures and, for soups, weights. None is trained twice."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from ..errors import SettingsError
from ..evaluation.metrics import all_scores


PREDICTIONS, RECORD = "predictions.npz", "run.json"


@dataclasses.dataclass
class Outcome:
    """What a method leaves behind.

    Attributes:
        probabilities: split -> `[N, K]`.
        labels: split -> `[N]`.
        states: name -> state dict, of what other methods start from.
        notes: anything else worth a line: the kernel weights' shares, what was chosen on validation; `steps`, the
            gradient steps of all networks behind it; once it was kept, the `seconds` that it took by itself.
    """

    probabilities: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    states: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def scores(self, split: str, ordered: bool = False) -> dict[str, float]:
        """All figures of a split."""
        return all_scores(self.probabilities[split], self.labels[split], ordered)

    def in_order(self, names: Sequence[str]) -> "Outcome":
        """The same with the classes in another order."""
        classes = list(self.notes["classes"])
        if sorted(classes) != sorted(names):
            raise SettingsError(f"ordered names the grades {list(names)}, the target has {classes}.")
        order = [classes.index(name) for name in names]
        rank = np.argsort(order)
        return dataclasses.replace(
            self,
            probabilities={split: values[:, order] for split, values in self.probabilities.items()},
            labels={split: rank[values] for split, values in self.labels.items()},
            notes={**self.notes, "classes": list(names)},
        )


class RunStore:
    """A folder of finished runs.

    Args:
        folder: made where it is not there yet.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def place(self, key: Mapping[str, Any]) -> Path:
        """The folder of the run with these settings."""
        text = json.dumps(key, sort_keys=True, default=str)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether it is finished."""
        return (self.place(key) / RECORD).is_file()

    def seconds(self, key: Mapping[str, Any]) -> float:
        """What a finished run took."""
        return json.loads((self.place(key) / RECORD).read_text())["seconds"]

    def save(self, key: Mapping[str, Any], outcome: Outcome, seconds: float) -> None:
        """Keep a finished run, whole or not at all."""
        place = self.place(key)
        staged = place.with_name(f"{place.name}.{os.getpid()}")
        staged.mkdir(parents=True)
        arrays = {f"{s}_probabilities": p for s, p in outcome.probabilities.items()}
        np.savez(staged / PREDICTIONS, **arrays, **{f"{s}_labels": v for s, v in outcome.labels.items()})  # type: ignore[arg-type]
        for name, state in outcome.states.items():
            save_file({k: t.detach().cpu().contiguous() for k, t in state.items()}, staged / f"{name}.safetensors")
        record = {"key": key, "seconds": seconds, "notes": outcome.notes}
        (staged / RECORD).write_text(json.dumps(record, indent=1, default=str))
        shutil.rmtree(place, ignore_errors=True)
        staged.replace(place)

    def load(self, key: Mapping[str, Any], states: bool = False) -> Outcome:
        """A finished run.

        Args:
            key: its settings.
            states: read the weights too.
        """
        place = self.place(key)
        with np.load(place / PREDICTIONS) as arrays:
            parts = {kind: _of(arrays, kind) for kind in ("probabilities", "labels")}
        files = sorted(place.glob("*.safetensors")) if states else []
        record = json.loads((place / RECORD).read_text())
        notes = {**record["notes"], "seconds": record["seconds"]}
        return Outcome(**parts, states={file.stem: load_file(file) for file in files}, notes=notes)


def _of(arrays: Any, kind: str) -> dict[str, np.ndarray]:
    return {name.removesuffix(f"_{kind}"): arrays[name] for name in arrays.files if name.endswith(f"_{kind}")}
