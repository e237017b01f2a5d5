"""ONNX: the initialisers of a graph, which is not run, under the names that its network had before it was exported."""

import ast
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ...errors import CorruptSourceError, SourceError
from ..entries import choose_entry
from ..place import Place, advice
from ..reference import LoadedSource, NetworkVariant, SourceReference
from .onnx_network import runnable
from .onnx_rounded import without_rounding
from .registry import reader


# The numbers that ONNX gives to dtypes.
DTYPES = {
    **{1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64},
    **{9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16},
}

# What the inputs of a layer are, after what it is given.
LAYERS = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul", "LayerNormalization", "InstanceNormalization"), ("weight", "bias")),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
}

# How torch's exporters call what is no tensor of the network: axes, bounds, shapes.
CONSTANTS = re.compile(r"val_\d+|\w+_cast|onnx::\w+|_\w+_\d+")

HINT = (
    "An export to ONNX may fold tensors into others. Export it so that it keeps them all, torch.onnx.export(network, "
    "images, file, dynamo=False, do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE), or name the "
    "checkpoint that it was exported from."
)

SCOPES = "pkg.torch.onnx.name_scopes"


def is_onnx(place: Place) -> bool:
    """The protobuf begins with its version, a small number, and goes on with who made it, or the graph."""
    start = place.start
    return len(start) > 8 and start[0] == 8 and 0 < start[1] < 32 and start[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


@reader("ONNX", is_onnx, (".onnx",))
def read_onnx(place: Place, reference: SourceReference, weights: bool = True) -> LoadedSource:
    """Read the initialisers; linear layers lie as torch has them."""
    file = place.path
    try:
        import onnx
    except ImportError as error:
        raise SourceError(
            f"Source {str(file)!r} is an ONNX file: reading it needs onnx. `pip install 'medmerge_hf[onnx]'`."
        ) from error
    try:
        model = onnx.load(str(file), load_external_data=False)
        kinds = {str(node.op_type) for node in model.graph.node}
        rounded = any("Quant" in kind or kind.endswith("Integer") for kind in kinds)
        found = {} if rounded else dict(_tensors(model.graph, file, weights))
        network = runnable(file, model) if weights else None
        reference = _with_eps(reference, model.graph)
    except Exception as error:  # of protobuf, onnx or numpy, on damaged content
        raise CorruptSourceError(
            f"Source {str(file)!r} is an ONNX file that cannot be read ({type(error).__name__}: {error}). Export it "
            "again, or take the checkpoint that it was exported from."
        ) from error
    if rounded:
        raise CorruptSourceError(
            f"Source {str(file)!r} is an ONNX file of quantised weights: rounded to a few bits, they cannot be "
            f"blended as they are. Better take the floating point model that it was made from. {advice(file)}"
        )
    tensors, notes = choose_entry(found, reference.entry, str(file))
    notes = [f"read as ONNX of {model.producer_name or 'unknown'}", *notes]
    if network is None and weights:
        notes.append("not run: onnxruntime is not installed, or it takes no images")
    return LoadedSource(reference, tensors, notes=notes, run=network, hint=HINT)


def rounded_tensors(file: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of a quantised ONNX file as the numbers that they stand for, and how many were integers.

    Raises:
        CorruptSourceError: it cannot be read.
    """
    import onnx

    try:
        described = onnx.load(str(file), load_external_data=False)
        _external_files(described.graph.initializer, file)
        model, count = without_rounding(onnx.load(str(file)))
        found = dict(_tensors(model.graph, file, weights=True, checked=False))
    except Exception as error:  # of protobuf, onnx or numpy, on damaged content
        raise CorruptSourceError(f"Source {str(file)!r} is an ONNX file that cannot be read ({error}).") from error
    return {name: tensor for name, tensor in found.items() if tensor.is_floating_point() and tensor.ndim}, count


def _with_eps(reference: SourceReference, graph: Any) -> SourceReference:
    """The reference, with the eps that all BatchNorms of the graph have."""
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    stated = [{a.name: a.f for a in node.attribute}.get("epsilon", 1e-5) for node in norms]
    found = {float(f"{eps:.6g}") for eps in stated if eps > 0}
    if len(found) != 1:
        return reference
    variant = (reference.variant or NetworkVariant()).or_else(NetworkVariant(bn_eps=found.pop()))
    return dataclasses.replace(reference, variant=variant)


def _tensors(graph: Any, file: Path, weights: bool, checked: bool = True) -> Iterator[tuple[str, Tensor]]:
    known = {initializer.name: initializer for initializer in graph.initializer}
    if not all(isinstance(name, str) for name in known):
        raise ValueError("a name in it is no text")
    size = file.stat().st_size + sum(path.stat().st_size for path in _external_files(known.values(), file))
    if checked and sum(_bytes(initializer) for initializer in known.values()) > size + 1_000_000:
        raise ValueError("it describes more weights than it has bytes")
    names, turned = _names(graph, known)
    layers = [node for node in graph.node if node.op_type in LAYERS]
    in_order = dict.fromkeys(key for node in layers for key in node.input if key in known)
    for key in [*in_order, *(key for key in known if key not in in_order and not CONSTANTS.fullmatch(key))]:
        initializer = known[key]
        if initializer.data_type in DTYPES:
            tensor = _tensor(initializer, file, weights)
            for name in names.get(key, [key]):
                yield name, tensor.t() if key in turned and tensor.ndim == 2 else tensor


def _bytes(initializer: Any) -> int:
    if any(dim < 0 for dim in initializer.dims):
        raise ValueError(f"{initializer.name} has the shape {list(initializer.dims)}")
    return math.prod(initializer.dims) * DTYPES.get(initializer.data_type, torch.uint8).itemsize


def _external_files(initializers: Any, file: Path) -> set[Path]:
    found = set()
    for initializer in initializers:
        for entry in initializer.external_data:
            if entry.key == "location":
                if PurePosixPath(entry.value).name != entry.value or "\\" in entry.value:
                    raise ValueError(f"{initializer.name} lies in {entry.value!r}, which is not beside the file")
                found.add(file.parent / entry.value)
    return found


def _tensor(initializer: Any, file: Path, weights: bool) -> Tensor:
    from onnx import numpy_helper

    dtype, shape = DTYPES[initializer.data_type], list(initializer.dims)
    if not weights:
        return torch.empty(shape, dtype=dtype, device="meta")
    array = numpy_helper.to_array(initializer, base_dir=str(file.parent))
    if dtype == torch.bfloat16:  # no dtype of NumPy's own
        array = array.astype("float32")
    return torch.tensor(array).reshape(shape).to(dtype)


def _names(graph: Any, known: dict[str, Any]) -> tuple[dict[str, list[str]], set[str]]:
    """The names of the layers that use an initialiser (equal ones are kept once); and the linear ones to transpose."""
    names: dict[str, list[str]] = {}
    turned = set[str]()
    for node in graph.node:
        given = list(node.input)
        if node.op_type == "Identity" and given and given[0] in known:  # two tensors of one value are kept once
            names.setdefault(given[0], [given[0]]).append(node.output[0])
        if node.op_type == "Concat" and (token := _class_token(given, known)):
            names[token] = ["cls_token"]
        for place, (leaf, key) in enumerate(zip(LAYERS.get(node.op_type, ()), given[1:], strict=False)):
            if key not in known:
                continue
            layer = _layer(node, given[1])
            if layer and f"{layer}.{leaf}" not in known and (_lost(key, given[1]) or "Norm" in node.op_type):
                names.setdefault(key, [] if _lost(key, given[1]) else [key]).append(f"{layer}.{leaf}")
            plain = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            if place == 0 and (node.op_type == "MatMul" or (node.op_type == "Gemm" and not plain)):
                turned.add(key)
    return names, turned


def _class_token(given: list[str], known: dict[str, Any]) -> str | None:
    """What is put before the patches of a Transformer, where its name was lost."""
    found = [key for key in given[:1] if key in known and "." not in key and "cls_token" not in known]
    return found[0] if found and list(known[found[0]].dims)[:2] == [1, 1] and len(known[found[0]].dims) == 3 else None


def _lost(key: str, weight: str) -> bool:
    """Whether a name is the exporter's: a number, or that of a folded BatchNorm's bias, made of the weight's."""
    return key.startswith("onnx::") or "." not in key or key == f"{weight}_bias"


def _layer(node: Any, weight: str) -> str:
    """Of torch's exporters: the scopes that the new one notes, the node's path of the old one.

    A convolution with a folded BatchNorm is said to be that BatchNorm; its weight knows better.
    """
    if node.op_type == "Conv" and not _lost(weight, "") and weight.endswith(".weight"):
        return weight.removesuffix(".weight")
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = ast.literal_eval(entry.value)
            return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
    parts: list[str] = []
    for part in node.name.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)
