"""Where the time of a run goes: the main job and one group of a comparison, from the start of Python to the end.

    python benchmarks/breakdown.py [--beside CHECKOUT ...] [--output benchmarks]

Images are noise in the numbers and sizes of a small target (353 / 88 / 150 JPEG of 160 px, 4 classes), sources are
ResNet-18 and MobileNetV2 with random weights: neither changes the time. Each run is a process of its own, with one
thread. Another checkout is measured in turns with this one. Writes BREAKDOWN.md.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


SPLITS, CLASSES, PIXELS = {"train": 353, "val": 88, "test": 150}, 4, 160

STEPS, IMAGES, LOOKS, COLLAPSE = "steps", "images", "evaluation", "collapse"
GOAL = (STEPS, IMAGES, LOOKS, COLLAPSE)
OTHER = ("statistics", "checkpoints and export", "sources", "checking the data", "other")

# Where a part is entered. What is measured inside of it is not its own; where an older checkout lacks one, it is left.
PLACES = [
    (STEPS, "transformers.trainer", "Trainer.training_step"),
    (STEPS, "accelerate.optimizer", "AcceleratedOptimizer.step"),
    (STEPS, "accelerate", "Accelerator.clip_grad_norm_"),
    (IMAGES, "torch.utils.data.dataloader", "_BaseDataLoaderIter.__next__"),
    (LOOKS, "transformers.trainer", "Trainer.evaluation_loop"),
    (COLLAPSE, "medmerge_hf.modeling_medmerge", "MedMergeModel.collapse"),
    (COLLAPSE, "medmerge_hf.networks.batch_norm", "recalibrate_batch_norm"),  # of averages, as of a collapse
    ("statistics", "medmerge_hf.training.trainer", "MedMergeTrainer.record_results"),
    ("statistics", "medmerge_hf.trainer", "MedMergeTrainer.record_results"),
    ("checkpoints and export", "transformers.trainer", "Trainer._save_checkpoint"),
    ("checkpoints and export", "transformers.trainer", "Trainer._load_best_model"),
    ("checkpoints and export", "medmerge_hf.modeling_medmerge", "MedMergeModel.save_pretrained"),
    ("sources", "medmerge_hf.modeling_medmerge", "MedMergeModel.from_sources"),
    ("checking the data", "medmerge_hf.data", "load_target"),
]

TRAIN = {
    "architecture": "resnet18",
    "image_size": 112,
    "channels_last": True,
    "merge": {"num_train_epochs": 5, "kernel_learning_rate": 1e-2},
    "finetune": {"num_train_epochs": 6, "learning_rate": 1e-4},
}
STAGE = {"num_train_epochs": 4, "eval_strategy": "steps", "eval_steps": 0.25, "save_strategy": "best"}
COMPARE = {
    "architecture": "mobilenetv2_100",
    "image_size": 64,
    "channels_last": True,
    "merge": {**STAGE, "kernel_learning_rate": 1e-2, "save_only_model": True},
    "finetune": {**STAGE, "save_only_model": True},
    "seeds": [0],
    "compare": {"methods": ["uniform average", "MedMerge (paper)", "best without kernel weights"]},
}
RUNS = {"train": TRAIN, "compare": COMPARE}
# The module of a job, in this layout and in the one of scripts.
MODULES = {"train": ("medmerge_hf.runs.train", "train"), "compare": ("medmerge_hf.comparison.compare", "compare")}


class Stopwatch:
    """Seconds of named parts, each without the parts that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._parts, self._since = ["other"], time.perf_counter()

    def _turn(self) -> None:
        now = time.perf_counter()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now

    def watch(self, part: str, module: str, name: str) -> None:
        """Count a function as a part from now on, wherever it was imported to."""
        try:
            owner = functools.reduce(getattr, name.split(".")[:-1], importlib.import_module(module))
            function = getattr(owner, leaf := name.rsplit(".", 1)[-1])
        except (ImportError, AttributeError):
            return

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._parts.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._turn()
                self._parts.pop()

        bound = getattr(function, "__self__", None) is not None
        setattr(owner, leaf, watched)
        for other in [] if bound else list(sys.modules.values()):
            if getattr(other, "__dict__", {}).get(leaf) is function:
                setattr(other, leaf, watched)

    def result(self) -> dict[str, float]:
        """Part -> seconds."""
        self._turn()
        return dict(self.seconds)


def child(job: str, config: str) -> None:
    """Run a job in this process and print where its time went."""
    import psutil
    import torch

    torch.set_num_threads(1)
    # An editable installation would answer for modules that a checkout lacks.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
    found = next(name for name in MODULES[job] if _there(name))
    main = importlib.import_module(found).main
    imports = time.time() - psutil.Process().create_time()
    watch = Stopwatch()
    for place in PLACES:
        watch.watch(*place)
    sys.argv = [job, config]
    main()
    print("\n" + json.dumps({"imports": imports, **watch.result()}))


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def prepare(folder: Path) -> None:
    """Images, sources and a config of each job."""
    import numpy as np
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    noise = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for index in range(count):
            place = folder / "data" / split / f"grade{index % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.integers(0, 256, (PIXELS, PIXELS, 3), np.uint8)).save(place / f"{index}.jpg")
    for job, options in RUNS.items():
        files = [str(folder / f"{job}{seed}.safetensors") for seed in (0, 1)]
        for seed, file in enumerate(files):
            torch.manual_seed(seed)
            save_file(timm.create_model(str(options["architecture"])).state_dict(), file)
        whole = {**options, "data": str(folder / "data"), "sources": files, "output_dir": "out"}
        (folder / f"{job}.yaml").write_text(yaml.safe_dump(whole))


def measure(job: str, checkout: Path, folder: Path) -> dict[str, float]:
    """Part -> seconds of one job with the package of one checkout."""
    paths = [str(checkout / part) for part in (".", "recipes", "benchmarks")]
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--child", job, str(folder / f"{job}.yaml")]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{job} with {checkout} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row(job: str, name: str, parts: dict[str, float], base: float) -> list[str]:
    """Shares of what follows the imports, and how long that takes beside the first checkout."""
    whole = sum(value for part, value in parts.items() if part != "imports")
    shares = [f"{100 * parts.get(part, 0) / whole:.1f}" for part in (*GOAL, *OTHER)]
    goal = sum(parts.get(part, 0) for part in GOAL)
    return [job, name, f"{whole / base:.2f}", f"{100 * goal / whole:.1f}", *shares, f"{parts['imports'] / whole:.2f}"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line. The child imports nothing of the package here, which may be that of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks"))
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="other checkouts")
    parser.add_argument("--jobs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        child(*options.child)
        return
    from measure import machine

    from medmerge_hf.evaluation.tables import markdown_table

    here, rows = Path(__file__).resolve().parents[1], []
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        for job in options.jobs:
            found = {checkout: measure(job, checkout, Path(name)) for checkout in (here, *options.beside)}
            base = sum(value for part, value in found[here].items() if part != "imports")
            rows += [
                row(job, "this" if checkout == here else checkout.name, parts, base)
                for checkout, parts in found.items()
            ]
    header = ["job", "checkout", "time / this", "training and evaluation, %", *(f"{p}, %" for p in (*GOAL, *OTHER))]
    numbers = ", ".join(f"{count} {split}" for split, count in SPLITS.items())
    text = f"""# Where the time goes

{machine()}

Printed by `python benchmarks/breakdown.py`: {numbers} images of {PIXELS} px, {CLASSES} classes.
`train` is ResNet-18 at 112 px, 5 + 6 epochs, an evaluation and a checkpoint an epoch. `compare` is MobileNetV2 at
64 px, 4 + 4 epochs, one seed, each source alone in every way and three methods of all sources. One run each, one
thread, a process each. Shares are of what follows the imports; the last column is the imports beside it.

{markdown_table([*header, "imports / rest"], rows)}
"""
    (options.output / "BREAKDOWN.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
