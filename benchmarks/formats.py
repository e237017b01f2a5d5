"""Files of every format, made by the real libraries, read and compared; damaged files: benchmarks/FORMATS.md.

    python benchmarks/formats.py [WORDS ...]  # makes and reads the cases of these words, all by default
    python benchmarks/formats.py --fuzz COUNT  # that many damaged files in all, spread over the readers
    python benchmarks/formats.py --print       # the table from formats.json

What was measured is kept in formats.json, so that libraries that do not live in one environment fill it in turns.
"""

import dataclasses
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from formats_exported import EXPORTED, Recorded
from formats_made import PYTORCH, Case
from torch import nn

from medmerge_hf.conversion.convert import convert_onto
from medmerge_hf.conversion.verification import apply_variant
from medmerge_hf.errors import MedMergeError
from medmerge_hf.evaluation.tables import markdown_table
from medmerge_hf.networks.backbone import load_backbone
from medmerge_hf.networks.build import build_network, network_config
from medmerge_hf.networks.features import feature_difference
from medmerge_hf.networks.timm_config import timm_config
from medmerge_hf.sources.extract import extract
from medmerge_hf.sources.load import load_source
from medmerge_hf.sources.place import Place
from medmerge_hf.sources.readers.registry import find_format


HERE = Path(__file__).parent

KEPT = HERE / "formats.json"

COUNTS = ("read", "refused", "peak_mb")

CASES = [*PYTORCH, *EXPORTED]

# How many of a hundred damaged files each reader gets; HDF5 is read by a process a file.
SHARES = {
    **{"a.safetensors": 12.0, "a.pth": 12.0, "legacy.pth": 12.8, "a.pkl": 12.0, "model.json": 10.0, "a.onnx": 10.0},
    **{"rounded.onnx": 9.0, "script.pt": 9.0, "a.safetensors.index.json": 6.6, "a.pt2": 6.0},
    **{"a.keras": 0.3, "a.h5": 0.3},
}


def absent(case: Case) -> list[str]:
    """The libraries of a case that are not installed."""
    return [name for name in case.libraries if importlib.util.find_spec(name) is None]


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """Make a file, read it, and compare what it computes in timm's network with what its library computes.

    Args:
        case: whose libraries are there.
        folder: an empty one.

    Returns:
        The reader, the difference of features relative to the largest, and what was noted.
    """
    source, original = case.make(folder)
    reader = find_format(Place.of(Path(source["id"]))).name
    refusal = ""
    if case.extracted:
        source, refusal = followed(case, source)
    loaded = load_source(source, architecture=case.architecture)
    network = build_network(network_config(loaded.network_config or {}, num_labels=2)).eval()
    found = convert_onto(network, loaded, anchor=True)
    load_backbone(network, found.tensors)
    ours = as_the_source(network.timm_model, loaded.reference.variant)
    if not loaded_fully(ours, found.tensors):
        ours = ours.features  # a VGG without its classifier's hidden layers
    images = torch.rand(1, 3, case.size, case.size, generator=torch.Generator().manual_seed(0))
    if isinstance(original, Recorded):
        images = original.images.permute(0, 3, 1, 2)
    assert original is not None
    apart = feature_difference(original.eval(), ours, images)
    return {"reader": reader, "difference": apart, "notes": found.notes, "refusal": refusal}


def loaded_fully(network: nn.Module, tensors: Any) -> bool:
    """Whether a checkpoint has all of a network below its head."""
    return not hasattr(network, "pre_logits") or any(name.startswith("pre_logits.") for name in tensors)


def as_the_source(network: nn.Module, variant: Any) -> Any:
    """timm's network with the source's padding and stride, which its weights were made for."""
    unfolded = dataclasses.replace(variant, bn_eps=None) if variant else None
    return apply_variant(network, unfolded) if unfolded else network


def followed(case: Case, source: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The refusal of a source, and what its command makes, run as it stands."""
    network = build_network(network_config(timm_config(case.architecture), num_labels=2))
    refused: MedMergeError | None = None
    try:
        convert_onto(network, load_source(source, architecture=case.architecture), anchor=True)
    except MedMergeError as error:
        refused = error
    match = re.search(r"`python -m medmerge_hf\.sources\.extract (.*?)`; then name '(.*?)'", str(refused))
    if match is None:
        raise AssertionError(f"{case.what}: no refusal with a command, but {refused}")
    file, out = shlex.split(match[1])
    extract(Path(file), Path(out))
    return {**source, "id": match[2]}, type(refused).__name__


def fuzzed(count: int) -> dict[str, Any]:
    """Damaged files: how many of each were read and refused, and the peak of memory."""
    tests = HERE.parent / "tests"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(HERE.parent)]), "OMP_NUM_THREADS": "1"}
    found: dict[str, Any] = {}
    for name, share in SHARES.items():
        call = [sys.executable, str(tests / "fuzz_readers.py"), "20", f"{name}={round(count * share / 100)}"]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
        found |= parsed(done.stdout)
        print(done.stdout.strip(), flush=True)
    return found


def parsed(lines: str) -> dict[str, Any]:
    """What the fuzzing script prints, a line a format."""
    rows = [line.split() for line in lines.splitlines()]
    return {name: {"read": int(read), "refused": int(no), "peak_mb": int(peak)} for name, read, no, peak in rows}


def stated(library: str) -> str:
    """A library with its version."""
    names = {"geffnet": "geffnet", "tf_keras": "tf_keras", "mmcv": "mmcv-lite", "mmengine": "mmengine-lite"}
    try:
        return f"{library} {version(names.get(library, library))}"
    except PackageNotFoundError:
        return library


def row(case: Case, found: dict[str, Any] | None) -> dict[str, str]:
    """A line of the table."""
    if found is None:
        return {"file": case.what, "made by": ", ".join(case.libraries), "result": "not installed"}
    way = f"refused ({found['refusal']}), its command followed; " if found["refusal"] else ""
    ok = found["difference"] < case.tolerance
    return {
        "file": case.what,
        "made by": found["made_by"],
        "reader": found["reader"],
        "checked": f"{way}features against the library's own, {case.architecture}, {case.size} px",
        "noted": "; ".join(note for note in found["notes"] if not re.match(r"\d+ tensors|dropped|input", note)),
        "result": f"{'ok' if ok else 'WRONG'}, {found['difference']:.1g}",
    }


def report(kept: dict[str, Any]) -> str:
    """The page."""
    rows = [row(case, kept["cases"].get(case.what)) for case in CASES]
    columns = ("file", "made by", "reader", "checked", "noted", "result")
    table = markdown_table(columns, [[line.get(name, "") for name in columns] for line in rows])
    fuzz = [[name, *(str(counts[key]) for key in COUNTS)] for name, counts in kept["fuzz"].items()]
    total = sum(counts["read"] + counts["refused"] for counts in kept["fuzz"].values())
    return "\n".join(
        [
            "# Formats: files as their owners have them\n",
            "Printed by `benchmarks/formats.py`. Each file is made by the real library, with random weights, and read "
            "without it. `result`: the largest difference between a feature that the library computes of an image and "
            "the one that timm's network computes with what was read, relative to the largest feature. A stride or "
            "padding that is not timm's is given to timm's network for that; a merge refuses such a source unless it "
            "is accepted. `(layout)`: names as that package has them, written by hand.\n",
            table,
            "\n## Damaged files\n",
            f"{total} files, each a small one of its format with one to four accidents (bytes changed, cut, doubled; "
            "half of the time inside a member of a zip or a value of a JSON), read with at most 2 GB beyond what the "
            "libraries take. Anything but tensors or a `MedMergeError` ends the script. `peak_mb` is the "
            "process with its libraries. `script.pt` and `rounded.onnx`: what the command of their refusal does.\n",
            markdown_table(["file", *COUNTS], fuzz),
        ]
    )


def main(arguments: list[str]) -> None:
    """The command."""
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.is_file() else {"cases": {}, "fuzz": {}}
    if arguments[:1] == ["--fuzz"]:
        kept["fuzz"] = fuzzed(int(arguments[1]))
    elif arguments != ["--print"]:
        for case in CASES:
            if absent(case) or (arguments and not any(word in case.what for word in arguments)):
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = measured(case, Path(folder))
            kept["cases"][case.what] = {**found, "made_by": ", ".join(map(stated, case.libraries))}
            print(case.what, found["difference"], flush=True)
            KEPT.write_text(json.dumps(kept, indent=1))
    KEPT.write_text(json.dumps(kept, indent=1))
    (HERE / "FORMATS.md").write_text(report(kept) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
