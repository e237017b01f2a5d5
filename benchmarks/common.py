"""What the benchmarks on real targets share: sources, settings, intervals over seeds."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


CHECKPOINTS, TARGETS = "${MEDMERGE_DATA}/checkpoints/", "${MEDMERGE_DATA}/targets/"

TENSORFLOW = {"bn_eps": 1e-3, "padding": "tf_same", "accept": True}

SOURCES: list[Any] = [
    {"id": CHECKPOINTS + "mobilenetv2/imagenet_torchvision.safetensors", "input": "imagenet"},
    {"id": CHECKPOINTS + "mobilenetv2/fundus_odir.safetensors", "input": "imagenet"},
    {"id": CHECKPOINTS + "mobilenetv2/imagenet_tf.safetensors", "input": "unit", "variant": TENSORFLOW},
    {"id": CHECKPOINTS + "mobilenetv2/face_eye_tf.safetensors", "input": "symmetric", "variant": TENSORFLOW},
]

DEFAULTS: dict[str, Any] = {
    "architecture": "mobilenetv2_100",
    "data": TARGETS + "fundus_dr",
    "image_size": 64,
    "channels_last": True,
}

STAGES = {
    "merge": {"num_train_epochs": 5, "learning_rate": 1e-3, "kernel_learning_rate": 1e-2},
    "finetune": {"num_train_epochs": 5, "learning_rate": 1e-4, "warmup_steps": 0.1},
}


def interval(values: Sequence[float]) -> str:
    """Mean over seeds and its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(np.array(values), (2000, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{np.mean(values):.3f} ({low:.3f} - {high:.3f})"


def append_rows(file: Path, rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> None:
    """Add finished runs to a csv at once, with a header where it begins."""
    file.parent.mkdir(parents=True, exist_ok=True)
    begins = not file.is_file()
    with file.open("a", newline="") as out:
        writer = csv.DictWriter(out, fields, lineterminator="\n")
        if begins:
            writer.writeheader()
        writer.writerows(rows)
