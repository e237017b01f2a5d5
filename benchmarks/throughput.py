"""Images per second: this package's data sets beside timm's loader and the `datasets` way of transformers' examples.

    python benchmarks/throughput.py [--pixels 160] [--size 112] [--rounds 3] [--output benchmarks]

One folder of JPEG, the same crops, flips and colours, the same network (timm's test_resnet, a training step a batch of
32), one thread, interleaved round by round; `first` is the first epoch, reading and checking included, `later` the
median of the others. Writes THROUGHPUT.md.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import timm
import torch
from measure import machine, timed
from PIL import Image
from torch.utils.data import DataLoader

from medmerge_hf import ImageDataset, MedMergeModel, load_target, resolve_preprocessing
from medmerge_hf.evaluation.tables import markdown_table


BATCH, EPOCHS, IMAGES, CLASSES = 32, 3, 384, 4
CROP, JITTER = (0.5, 1.0), 0.2


def write_images(folder: Path, pixels: int) -> None:
    """JPEG of noise with some structure, so that they have the size of photographs."""
    random = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", CLASSES)):
        for index in range(count):
            place = folder / split / f"class{index % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(random.integers(0, 256, (pixels // 8, pixels // 8, 3), np.uint8))
            small.resize((pixels, pixels), Image.Resampling.BICUBIC).save(place / f"{index}.jpg", quality=90)


def ours(folder: Path, size: int, workers: int) -> Iterable[Any]:
    """`load_target` and `ImageDataset`, as `medmerge train` uses them."""
    model = MedMergeModel.from_sources(
        [timm.create_model("test_resnet") for _ in range(2)], num_labels=CLASSES, image_size=size
    )
    transform = resolve_preprocessing(model).train_transform(CROP, JITTER)
    rows = load_target(folder)["train"]
    loader = DataLoader(ImageDataset(rows, transform), BATCH, shuffle=True, num_workers=workers)
    return _Pairs(loader, "pixel_values", "labels")


def by_timm(folder: Path, size: int, workers: int) -> Iterable[Any]:
    """`timm.data.create_loader`, as timm's training script uses it."""
    data = timm.data.create_dataset("", str(folder), split="train")
    return timm.data.create_loader(
        data,
        (3, size, size),
        BATCH,
        is_training=True,
        use_prefetcher=False,
        scale=CROP,
        color_jitter=JITTER,
        interpolation="bicubic",
        num_workers=workers,
        persistent_workers=False,
        pin_memory=False,
    )


def by_datasets(folder: Path, size: int, workers: int) -> Iterable[Any]:
    """An imagefolder with a transform, as transformers' example of image classification has it."""
    transform = timm.data.create_transform(
        (3, size, size), is_training=True, scale=CROP, color_jitter=JITTER, interpolation="bicubic"
    )
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(folder / ".cache"))["train"]

    def apply(batch: dict[str, Any]) -> dict[str, Any]:
        images = [transform(image.convert("RGB")) for image in batch["image"]]
        return {"pixel_values": images, "labels": batch["label"]}

    rows.set_transform(apply)
    return _Pairs(DataLoader(rows, BATCH, shuffle=True, num_workers=workers), "pixel_values", "labels")


class _Pairs:
    """Batches of a loader of dictionaries as pairs."""

    def __init__(self, loader: Any, *names: str) -> None:
        self.loader, self.names = loader, names

    def __iter__(self) -> Any:
        return (tuple(batch[name] for name in self.names) for batch in self.loader)


WAYS: dict[str, Callable[[Path, int, int], Iterable[Any]]] = {
    "medmerge_hf": ours,
    "timm's loader": by_timm,
    "transformers' example": by_datasets,
}


def epoch(loader: Iterable[Any], network: Any, optimizer: Any) -> None:
    """A training step a batch; without a network the images alone."""
    for images, labels in loader:
        if network is not None:
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def seconds(folder: Path, size: int, workers: int, trains: bool, rounds: int) -> dict[str, tuple[list, list]]:
    """Way -> seconds of the first epoch of each round, and of a later one."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            network = timm.create_model("test_resnet", num_classes=CLASSES) if trains else None
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3) if network is not None else None
            made: list[Any] = []

            def first(way: Any = way, made: Any = made, network: Any = network, optimizer: Any = optimizer) -> None:
                made.append(way(folder, size, workers))
                epoch(made[0], network, optimizer)

            found[name][0].append(timed(first))
            later = [timed(lambda: epoch(made[0], network, optimizer)) for _ in range(EPOCHS)]  # noqa: B023
            found[name][1].append(statistics.median(later))
    return found


def rows_of(found: dict[str, tuple[list, list]], what: str) -> list[list[str]]:
    """A row a way: images per second, and how many times as many as this package's peers."""
    base = statistics.median(found["medmerge_hf"][1])
    rows = []
    for name, (first, later) in found.items():
        rates = [f"{IMAGES / statistics.median(values):.0f}" for values in (first, later)]
        rows.append([what, name, *rates, f"{base / statistics.median(later):.2f}"])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=160)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks"))
    options = parser.parse_args(argv)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), options.pixels)
        for trains in (False, True):
            for workers in (0, 2):
                what = f"{'trained on' if trains else 'images alone'}, {workers} workers"
                found = seconds(Path(name), options.size, workers, trains, options.rounds)
                rows += rows_of(found, what)
    header = ["", "way", "first epoch, images / s", "later epochs, images / s", "later / medmerge_hf"]
    text = f"""# Images per second

{machine()}

Printed by `python benchmarks/throughput.py`: {IMAGES} JPEG of {options.pixels} px, trained on at {options.size} px by
test_resnet, batches of {BATCH}, median of {options.rounds} interleaved rounds of 1 + {EPOCHS} epochs. In the first
epoch this package reads and checks the data set, which the others do not do.

{markdown_table(header, rows)}
"""
    (options.output / "THROUGHPUT.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
