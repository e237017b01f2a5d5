"""ONNX: the initialisers of a graph, which is not run, under the names that its network had before it was exported."""

import ast
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ...errors import CorruptSourceError, SourceError
from ..entries import choose_entry
from ..place import Place
from ..reference import LoadedSource, SourceReference
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

SCOPES = "pkg.torch.onnx.name_scopes"


def _is_onnx(place: Place) -> bool:
    """The protobuf begins with its version, a small number, and goes on with who made it, or the graph."""
    start = place.start
    return len(start) > 8 and start[0] == 8 and 0 < start[1] < 32 and start[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


@reader("ONNX", _is_onnx, (".onnx",))
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
        tensors = dict(_tensors(model.graph, file, weights))
    except Exception as error:  # of protobuf, onnx or numpy, on damaged content
        raise CorruptSourceError(
            f"Source {str(file)!r} is an ONNX file that cannot be read ({type(error).__name__}: {error}). Export it "
            "again, or take the checkpoint that it was exported from."
        ) from error
    kinds = {node.op_type for node in model.graph.node}
    if any("Quant" in kind or kind.endswith("Integer") for kind in kinds):
        raise CorruptSourceError(
            f"Source {str(file)!r} is an ONNX file of quantised weights. Take the floating point model that it was "
            "made from."
        )
    tensors, notes = choose_entry(tensors, reference.entry, str(file))
    folded = "Conv" in kinds and "BatchNormalization" not in kinds
    notes += ["ONNX without BatchNorm: where its network had some, the export folded them"] if folded else []
    return LoadedSource(reference, tensors, notes=[f"read as ONNX of {model.producer_name or 'unknown'}", *notes])


def _tensors(graph: Any, file: Path, weights: bool) -> Iterator[tuple[str, Tensor]]:
    known = {initializer.name: initializer for initializer in graph.initializer}
    size = file.stat().st_size + sum(path.stat().st_size for path in _external_files(known.values(), file))
    if sum(_bytes(initializer) for initializer in known.values()) > size + 1_000_000:
        raise ValueError("it describes more weights than it has bytes")
    names, turned = _names(graph, known)
    for key, initializer in known.items():
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
        for place, (leaf, key) in enumerate(zip(LAYERS.get(node.op_type, ()), given[1:], strict=False)):
            if key not in known:
                continue
            layer = _layer(node)
            # A convolution with a folded BatchNorm is said to be that BatchNorm.
            if layer and f"{layer}.{leaf}" not in known and (_lost(key) or "Norm" in node.op_type):
                names.setdefault(key, [] if _lost(key) else [key]).append(f"{layer}.{leaf}")
            plain = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            if place == 0 and (node.op_type == "MatMul" or (node.op_type == "Gemm" and not plain)):
                turned.add(key)
    return names, turned


def _lost(key: str) -> bool:
    return key.startswith("onnx::") or "." not in key


def _layer(node: Any) -> str:
    """Of torch's exporters: the scopes that the new one notes, the node's path of the old one."""
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
