"""Every checkpoint as a source beside each other one of its architecture, and ten broken files: benchmarks/SOURCES.md.

    MEDMERGE_DATA=... python benchmarks/sources.py [OUT.md]

What a checkpoint computes in its own network (torchvision's or timm's, in its variant) is compared with what the
anchor's network computes with its converted weights, on real images, each in its own normalisation.
"""

import itertools
import json
import os
import pickle
import platform
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medmerge_hf.conversion.convert import convert_onto
from medmerge_hf.conversion.name_maps import TORCHVISION
from medmerge_hf.conversion.verification import apply_variant
from medmerge_hf.errors import MedMergeError
from medmerge_hf.evaluation.tables import markdown_table
from medmerge_hf.inspection import inspect_sources
from medmerge_hf.modeling_medmerge import MedMergeModel
from medmerge_hf.networks.backbone import load_backbone
from medmerge_hf.networks.features import feature_difference
from medmerge_hf.networks.input_convention import InputConvention
from medmerge_hf.networks.preprocessing import input_of
from medmerge_hf.sources.load import load_source
from medmerge_hf.sources.reference import SourceReference


SIZE = 224

ARCHITECTURES = {"resnet18": "resnet18", "mobilenetv2": "mobilenetv2_100", "efficientnet_b0": "efficientnet_b0"}

TENSORFLOW = {"bn_eps": 1e-3, "padding": "tf_same", "accept": True}

# What the checkpoints' own descriptions say; the others are ImageNet-normalised and of torchvision's variant.
STATED: dict[str, dict[str, Any]] = {
    "mobilenetv2/imagenet_tf": {"input": "unit", "variant": TENSORFLOW},
    "mobilenetv2/face_eye_tf": {"input": "symmetric", "variant": TENSORFLOW},
}


def reference(file: Path) -> SourceReference:
    """All that is known of one of the checkpoints."""
    stated = STATED.get(f"{file.parent.name}/{file.stem}", {"input": "imagenet"})
    return SourceReference(str(file), architecture=ARCHITECTURES[file.parent.name], **stated)


def original_network(source: SourceReference, exact: bool) -> nn.Module:
    """The network that a checkpoint was made for; without what cannot be folded where `exact`."""
    assert source.architecture is not None
    tensors = load_file(source.id)
    if "conv_stem.weight" in tensors:
        network = timm.create_model(source.architecture)
    else:
        network = torchvision.models.get_model(TORCHVISION.get(source.architecture, source.architecture))
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    fitting = {name: tensor for name, tensor in tensors.items() if shapes.get(name) == tensor.shape}
    network.load_state_dict(fitting, strict=False)
    network = apply_variant(network, source.variant, unfoldable=not exact) if source.variant else network
    return network.double().eval()


def normalised(pixels: Tensor, convention: InputConvention) -> Tensor:
    """RGB pixels between 0 and 1 as a network of this convention takes them."""
    mean, std = (
        torch.tensor(values).double()[:, None, None] for values in (convention.pixel_mean, convention.pixel_std)
    )
    images = (pixels - mean) / std
    return images.flip(1) if convention.channel_order == "bgr" else images


def real_images(data: Path, count: int = 4) -> Tensor:
    """Blood cells: none of the checkpoints was trained on them."""
    files = sorted((data / "targets" / "blood_cells" / "test").rglob("*.jpg"))[:: 100 // count][:count]
    to_tensor = torchvision.transforms.functional.pil_to_tensor
    images = [to_tensor(Image.open(file).convert("RGB").resize((SIZE, SIZE))) for file in files]
    return torch.stack(images).double() / 255


def compare(anchor: SourceReference, source: SourceReference, pixels: Tensor) -> dict[str, Any]:
    """One source beside one anchor."""
    timings = {}
    for name, call in (
        ("inspect", lambda: inspect_sources([anchor, source])),
        ("load", lambda: MedMergeModel.from_sources([anchor, source], num_labels=2)),
    ):
        start = time.perf_counter()
        found: Any = call()
        timings[name] = time.perf_counter() - start
    notes = list(found.config.sources[1]["notes"])
    assert source.input is not None
    stated, given = source.input, input_of(found)
    exact = difference(found.network, source, stated, pixels, exact=True)
    return {"notes": notes, **timings, "exact": exact, "all": difference(found.network, source, given, pixels)}


def difference(
    network: Any, source: SourceReference, given: InputConvention, pixels: Tensor, exact: bool = False
) -> float:
    """How far the features of a source in the anchor's network, given these images, are from those in its own."""
    assert source.input is not None
    load_backbone(network, convert_onto(network, load_source(source), given, anchor=True).tensors)
    theirs, ours = normalised(pixels, source.input), normalised(pixels, given)
    found = feature_difference(original_network(source, exact), network.double(), theirs, ours)
    network.float()
    return found


def short(reference: SourceReference) -> str:
    """Architecture and name of a checkpoint."""
    return f"{Path(reference.id).parent.name}/{Path(reference.id).stem}"


def pairs_table(data: Path) -> str:
    """The table over all pairs."""
    pixels, rows = real_images(data), []
    folders = [data / "checkpoints" / name for name in ARCHITECTURES]
    references = [[reference(file) for file in sorted(folder.glob("*.safetensors"))] for folder in folders]
    inspect_sources(references[0])  # libraries are imported now, not within the first timing
    for anchor, source in itertools.chain(*(itertools.permutations(group, 2) for group in references)):
        found = compare(anchor, source, pixels)
        matched = next(note for note in found["notes"] if note.endswith("matched"))
        dropped = [note for note in found["notes"] if note.startswith("dropped")]
        rest = [note for note in found["notes"] if note not in (matched, *dropped)]
        rows.append(
            [
                short(anchor),
                short(source).split("/")[1],
                matched.removesuffix(" tensors matched"),
                "; ".join(rest) or "nothing",
                ", ".join(note.removeprefix("dropped ").partition(" (")[0] for note in dropped) or "nothing",
                f"{found['exact']:.1g}",
                f"{found['all']:.2g}",
                f"{found['inspect'] * 1000:.0f} / {found['load'] * 1000:.0f}",
            ]
        )
        print(rows[-1], flush=True)
    header = ["anchor", "source", "matched", "noted", "dropped", "difference: names, eps", "difference: all"]
    return markdown_table([*header, "inspect / load, ms"], rows)


class Custom:
    """What pickles of whole training scripts hold."""


def _header(header: Any, content: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def _entry(begin: int, end: int, shape: Sequence[int] = (1,)) -> dict[str, Any]:
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


def _bomb(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 200_000_000)


def _nan(file: Path) -> None:
    tensors = timm.create_model("test_resnet").state_dict()
    tensors["conv1.0.weight"][0] = torch.nan
    save_file(tensors, file)


def _cut(file: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), file)
    file.write_bytes(file.read_bytes()[:-1000])


def _other(file: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), file)


BROKEN: dict[str, Callable[[Path], Any]] = {
    "a Git LFS pointer.safetensors": lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
    "an error page.safetensors": lambda f: f.write_text("404: not found"),
    "cut off.safetensors": _cut,
    "an absurd header length.safetensors": lambda f: f.write_bytes(struct.pack("<Q", 2**60) + b"{}"),
    "overlapping offsets.safetensors": lambda f: f.write_bytes(
        _header({"a": _entry(0, 8, [2]), "b": _entry(4, 12, [2])}, b"\0" * 12)
    ),
    "a name twice.safetensors": lambda f: f.write_bytes(_header(b'{"a": {}, "a": {}}')),
    "absurd sizes.safetensors": lambda f: f.write_bytes(_header({"a": _entry(0, 4, [2**60])}, b"\0" * 4)),
    "an index that leads away.safetensors.index.json": lambda f: f.write_text('{"weight_map": {"a": "../../b"}}'),
    "a zip bomb.pth": _bomb,
    "code.pth": lambda f: f.write_bytes(pickle.dumps(Custom(), protocol=2)),
    "NaN.safetensors": _nan,
    "another network.safetensors": _other,
}


def broken_table() -> str:
    """Broken files and what is said of them."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, write in BROKEN.items():
            file = Path(folder) / name
            write(file)
            try:
                MedMergeModel.from_sources([timm.create_model("test_resnet"), str(file)], num_labels=2)
                raise AssertionError(f"{name} was taken")
            except MedMergeError as error:
                message = str(error).replace(folder, "...").replace("|", "/").replace("\n", " ")
                rows.append([name.partition(".")[0], type(error).__name__, message])
    return markdown_table(["file", "error", "message"], rows)


def main() -> None:
    """Write the tables."""
    if "MEDMERGE_DATA" not in os.environ:
        sys.exit("Set MEDMERGE_DATA to a folder with checkpoints/ and targets/.")
    torch.set_num_threads(2)
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks/SOURCES.md")
    machine = f"{os.cpu_count()} CPU cores, torch {torch.__version__}, timm {timm.__version__}, {platform.machine()}"
    text = [
        "# Sources: what is done to real checkpoints",
        f"Printed by `benchmarks/sources.py` ({machine}). Differences are of features, relative to the largest "
        "one, between a checkpoint in its own network and in the anchor's with its converted weights, on four real "
        "images: `names, eps` in the source's own input and without what cannot be folded (TensorFlow's padding); "
        "`all` with everything, the source's network as it was trained and images normalised for each.",
        pairs_table(Path(os.environ["MEDMERGE_DATA"])),
        "## Broken files",
        broken_table(),
    ]
    out.write_text("\n\n".join(text) + "\n")
    print(f"Written to {out}")


if __name__ == "__main__":
    main()
