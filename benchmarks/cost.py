"""What merging costs, beside plain fine-tuning and two other ways to write it.

    python benchmarks/cost.py [--output benchmarks] [--rounds 5] [--batch 8] [--architectures resnet50 ...]

Steps of all ways are interleaved in one process and compared with plain fine-tuning of the same round, so a machine
that slows down slows all of them. Weights are random and images noise: neither changes the time. Writes RESULTS.md
and a picture.
"""

import argparse
import functools
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
from measure import machine, quartiles, resident, timed
from resampling import bootstrap_row
from safetensors.torch import load_file, save_file
from transformers.utils import logging as hf_logging
from ways import CLASSES, OURS, PLAIN, WAYS, Step, networks

from medmerge_hf.evaluation.tables import markdown_table
from medmerge_hf.export.verification import verify_export
from medmerge_hf.modeling_medmerge import MedMergeModel
from medmerge_hf.training.kept_memory import kept_memory


def step_times(
    architecture: str, counts: Sequence[int], batch: int, rounds: int, ways: Sequence[str]
) -> dict[str, Any]:
    """(way, number of sources) -> seconds of each round, all interleaved."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = {f"{PLAIN} 1": Step(PLAIN, architecture, 1, batch, device)}
    steps |= {f"{way} {count}": Step(way, architecture, count, batch, device) for count in counts for way in ways}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(step())
    return times


def headline_times(architecture: str, batch: int, rounds: int, kept: bool) -> dict[str, Any]:
    """[`step_times`] of two sources in a process of its own.

    Args:
        architecture: timm name.
        batch: images a step.
        rounds: steps of each way.
        kept: whether freed memory is kept, as `MedMergeTrainer` does on a CPU.
    """
    command = [sys.executable, __file__, "--headline", architecture, str(batch), str(rounds), str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory(way: str, architecture: str, count: int, batch: int, kept: bool) -> float:
    """MB that two steps need beyond what the process had before, measured in a process of its own."""
    command = [sys.executable, __file__, "--memory", way, architecture, str(count), str(batch), str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_memory(way: str, architecture: str, count: str, batch: str, kept: str) -> None:
    """The child's part of [`peak_memory`]."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of the imports
    with kept_memory() if kept == "True" else nullcontext():
        step = Step(way, architecture, int(count), int(batch), device)
        gc.collect()
        step(), step()
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident("VmHWM") - before
    print(peak)


def collapse_and_save(model: MedMergeModel, folder: Path) -> None:
    """What ends a merge."""
    model.collapse().save_pretrained(folder)


def files_rows(count: int, rounds: int) -> list[list[str]]:
    """Loading, collapsing, saving and checkpoints of ResNet-50, beside the bare reading and writing of the bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [str(folder / f"{index}.safetensors") for index in range(count)]
        for file, network in zip(files, networks("resnet50", count), strict=True):
            save_file(network.state_dict(), file)
        found: dict[str, list[float]] = {"load": [], "peer load": [], "save": [], "verify": [], "bytes": []}

        def read() -> list[Any]:
            made = [timm.create_model("resnet50", num_classes=CLASSES) for _ in files]
            for network, file in zip(made, files, strict=True):
                network.load_state_dict(load_file(file))
            return made

        def read_and_write() -> None:
            tensors = [{name: t.clone() for name, t in load_file(file).items()} for file in files]  # mapped so far
            save_file(tensors[0], folder / "copy.safetensors")

        def load() -> MedMergeModel:
            return MedMergeModel.from_sources(files, architecture="resnet50", num_labels=CLASSES)

        collapse_and_save(load(), folder / "out")  # what libraries import on first use does not count
        for _ in range(rounds):
            found["peer load"].append(timed(read))
            found["load"].append(timed(load))
            found["bytes"].append(timed(read_and_write))
            model = load()
            found["save"].append(timed(functools.partial(collapse_and_save, model, folder / "out")))
            found["verify"].append(timed(functools.partial(verify_export, model.network, folder / "out")))
        load().save_pretrained(folder / "small", collapse=False)
        small = (folder / "small" / "model.safetensors").stat().st_size
        whole = sum(os.path.getsize(file) for file in files)
    ratio = [ours / peer for ours, peer in zip(found["load"], found["peer load"], strict=True)]
    verifying = [ours / peer for ours, peer in zip(found["verify"], found["bytes"], strict=True)]
    saving = [ours / peer for ours, peer in zip(found["save"], found["bytes"], strict=True)]
    return [
        [
            f"ResNet-50: from_sources, S = {count} / timm networks made and loaded from the same files",
            quartiles(ratio),
        ],
        [
            f"ResNet-50: collapse + save_pretrained, S = {count} / reading and writing the same bytes",
            quartiles(saving),
        ],
        ["  of it: reading the export back and comparing weights and logits", quartiles(verifying)],
        [f"ResNet-50: checkpoint of the merge stage, S = {count} / naive state dict", f"{small / whole:.4f}"],
    ]


def checkpoint_row(architecture: str, step: float, rounds: int) -> list[str]:
    """What a checkpoint of the merge stage takes, in training steps.

    Args:
        architecture: timm name.
        step: seconds of one.
        rounds: how often it is saved.
    """
    model = MedMergeModel.from_sources(networks(architecture, 2), num_labels=CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        save = functools.partial(model.save_pretrained, folder, collapse=False)
        save()
        found = [timed(save) / step for _ in range(rounds)]
    return [f"{architecture}: checkpoint of the merge stage, S = 2 / a step of it", quartiles(found)]


def import_time(rounds: int) -> str:
    """Seconds that `import medmerge_hf` adds to starting Python."""

    def start(code: str) -> float:
        return timed(lambda: subprocess.run([sys.executable, "-c", code], check=True))

    return quartiles([start("import medmerge_hf") - start("pass") for _ in range(rounds)], " s")


def step_rows(architecture: str, batch: int, times: dict[str, Any], kept: bool | None = None) -> list[list[str]]:
    """A row a way and number of sources; `kept` is said of the headline alone."""
    plain = times[f"{PLAIN} 1"]
    rows = []
    for name, values in times.items():
        way, count = name.rsplit(" ", 1)
        ratios = [value / base for value, base in zip(values, plain, strict=True)]
        memory = peak_memory(way, architecture, int(count), batch, bool(kept))
        title = architecture + (", memory kept" if kept else "")
        rows.append([title, way, count, str(batch), quartiles(values), quartiles(ratios), f"{memory:.0f}"])
    return rows


def slope(rows: Sequence[Sequence[str]], times: dict[str, Any], architecture: str, counts: Sequence[int]) -> str:
    """What one source more costs, by a straight line through the numbers of sources."""
    plain = times[f"{PLAIN} 1"]
    middle = [
        statistics.median(a / b for a, b in zip(times[f"{OURS} {count}"], plain, strict=True)) for count in counts
    ]
    memory = [float(row[6]) for row in rows if row[0] == architecture and row[1] == OURS and int(row[2]) in counts]
    weights = sum(p.numel() * p.element_size() for p in networks(architecture, 1)[0].parameters()) / 2**20
    share, size = (statistics.linear_regression(counts, values[-len(counts) :]).slope for values in (middle, memory))
    return f"{architecture}: {share:.3f} of a plain step and {size / weights:.2f} x the size of the weights"


def plot(times: dict[str, dict[str, Any]], file: Path) -> None:
    """Step time of every way relative to plain fine-tuning, a panel an architecture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(times), 3.2), layout="constrained")
    panels = figure.subplots(1, len(times), sharey=True, squeeze=False)[0]
    for axes, (architecture, found) in zip(panels, times.items(), strict=True):
        for index, way in enumerate(WAYS):
            counts = [int(name.rsplit(" ", 1)[1]) for name in found if name.startswith(way)]
            pairs = [
                [value / base for value, base in zip(found[f"{way} {n}"], found[f"{PLAIN} 1"], strict=True)]
                for n in counts
            ]
            middle = [statistics.median(values) for values in pairs]
            axes.plot(counts, middle, "o-", color=f"C{index}", label=way)
            axes.vlines(counts, [min(v) for v in pairs], [max(v) for v in pairs], color=f"C{index}", lw=1)
        axes.axhline(1, color="0.4", lw=0.8, ls="--")
        axes.set_title(architecture, fontsize=9)
        axes.set_xlabel("sources")
        axes.set_xticks(counts)
    panels[0].set_ylabel("step time / plain fine-tuning")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128 if torch.cuda.is_available() else 8)
    parser.add_argument("--headline-batch", type=int, default=128 if torch.cuda.is_available() else 32)
    parser.add_argument("--sources", type=int, nargs="+", default=[2, 3, 5, 8])
    parser.add_argument("--architectures", nargs="+", default=["resnet50", "densenet121", "vit_small_patch16_224"])
    parser.add_argument("--memory", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--headline", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    hf_logging.set_verbosity_error()
    if options.memory:
        print_memory(*options.memory)
        return
    if options.headline:
        architecture, batch, rounds, kept = options.headline
        with kept_memory() if kept == "True" else nullcontext():
            print(json.dumps(step_times(architecture, [2], int(batch), int(rounds), [OURS])))
        return
    times, rows = {}, []
    for kept in (False, True):
        found = headline_times(options.architectures[0], options.headline_batch, options.rounds, kept)
        rows += step_rows(options.architectures[0], options.headline_batch, found, kept)
        times[f"headline{kept}"] = found
    for architecture in options.architectures:
        times[architecture] = step_times(architecture, options.sources, options.batch, options.rounds, WAYS)
        gc.collect()
        rows += step_rows(architecture, options.batch, times[architecture])
    header = ["network", "way", "sources", "batch", "seconds a step", "/ plain fine-tuning", "peak memory, MB"]
    slopes = "\n".join(f"- {slope(rows, times[name], name, options.sources)}" for name in options.architectures)
    other = [row for count in options.sources[:3] for row in files_rows(count, options.rounds)]
    first = options.architectures[0]
    other.append(checkpoint_row(first, statistics.median(times[first][f"{OURS} 2"]), options.rounds))
    other += [bootstrap_row(options.rounds), ["import medmerge_hf", import_time(options.rounds)]]
    options.output.mkdir(parents=True, exist_ok=True)
    plot({name: times[name] for name in options.architectures}, options.output / "step_time.png")
    kind = "bf16 autocast" if torch.cuda.is_available() else "float32"
    text = f"""# What merging costs

{machine()}

Printed by `python benchmarks/cost.py` ({options.rounds} rounds, median and quartiles, 224 px, {kind}, AdamW).
Steps are interleaved in one process; ratios are to plain fine-tuning of all weights in the same round. Peak memory is
what two steps add to a process of their own that has already imported everything. "Memory kept": what a step frees
stays with the process, as `MedMergeTrainer` sees to on a CPU; without, glibc hands it back and maps it anew.

{markdown_table(header, rows)}

One source more costs (a straight line through {", ".join(map(str, options.sources))} sources):

{slopes}

![step time](step_time.png)

{markdown_table(["", "median (quartiles)"], other)}
"""
    (options.output / "RESULTS.md").write_text(text)
    (options.output / "times.json").write_text(json.dumps(times, indent=1))
    print(text)


if __name__ == "__main__":
    main()
