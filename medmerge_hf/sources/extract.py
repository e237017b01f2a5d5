"""`python -m medmerge_hf.sources.extract FILE OUT.safetensors`: the tensors alone of a file that also holds code.

Pickles of whole objects, TorchScript and quantised weights (of ONNX too) are refused as sources. On the user's word
their tensors are taken out here: nothing of the file runs, scales are multiplied in, every other object is left out.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CorruptSourceError, MedMergeError
from .entries import state_dicts
from .inert_pickle import module_tensors, read_inert
from .place import Place


SCALES = ("_scale", "_scale_inv", ".scale", "._scale")


def extract(file: Path, out: Path) -> list[str]:
    """Write the tensors of a file as float32 safetensors.

    Args:
        file: a pickle, TorchScript, safetensors or ONNX.
        out: where to.

    Returns:
        A line on each thing that was done.

    Raises:
        CorruptSourceError: there are no tensors in it, or integers whose scales are not there.
    """
    from safetensors.torch import save_file

    tensors, notes = _tensors_of(file)
    tensors, scaled = dequantised(tensors, str(file))
    if not tensors:
        raise CorruptSourceError(f"{file} holds no tensors of a network.")
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, out)
    return [*notes, *scaled, f"{len(tensors)} tensors written to {out}"]


def _tensors_of(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    from .readers.onnx_file import is_onnx, rounded_tensors
    from .readers.safetensors_file import load_tensors

    if file.open("rb").read(9)[8:9] == b"{":
        return load_tensors(file), []
    if is_onnx(Place.of(file)):
        tensors, count = rounded_tensors(file)
        return tensors, [f"{count} scales multiplied in"]
    found, foreign = read_inert(file)
    notes = [f"left out: objects of {', '.join(foreign[:5])}"] if foreign else []
    if tensors := module_tensors(found):
        return tensors, notes
    networks = state_dicts(_opened(found))
    if len(networks) == 1:
        return dict(next(iter(networks.values()))), notes
    joined = {f"{'.'.join(path)}.{k}": t for path, network in networks.items() for k, t in network.items()}
    return joined, [*notes, f"networks in it: {', '.join('.'.join(path) for path in networks)}"]


def _opened(found: Any) -> Any:
    """The same with modules as the state dicts that they have."""
    if not isinstance(found, Mapping):
        return found
    return {key: module_tensors(value) or _opened(value) for key, value in found.items()}


def dequantised(tensors: Mapping[str, Tensor], name: str) -> tuple[dict[str, Tensor], list[str]]:
    """Floating point values of quantised tensors.

    Args:
        tensors: name -> tensor; a scale lies beside its tensor, as `weight_scale`, `weight.scale` or `SCB`.
        name: how errors call the file.

    Raises:
        CorruptSourceError: integers without a scale, or one that is not a number or one a row.

    Example:
        >>> dequantised({"w": torch.tensor([[2], [3]], dtype=torch.int8), "w_scale": torch.tensor([0.5, 2.0])}, "a")[0]
        {'w': tensor([[1.],
                [6.]])}
    """
    found, used = dict(tensors), set[str]()
    for key, tensor in tensors.items():
        if tensor.is_quantized:
            found[key] = tensor.dequantize()
        elif tensor.ndim > 1 and (tensor.dtype in (torch.int8, torch.uint8) or tensor.dtype.itemsize == 1):
            scale, factor = _scale_of(key, tensors)
            if scale is None and not tensor.is_floating_point():
                if tensor.dtype == torch.bool:
                    continue
                raise CorruptSourceError(
                    f"{name} stores {key} as {tensor.dtype} without a scale beside it. Take the floating point "
                    "checkpoint that it was made from."
                )
            found[key] = tensor.float() * (1.0 if scale is None else _rows(tensors[scale], tensor, scale) * factor)
            used |= {scale} if scale else set()
        elif tensor.is_floating_point():
            found[key] = tensor.float()
    notes = [f"{len(used)} scales multiplied in"] if used else []
    return {key: tensor for key, tensor in found.items() if key not in used}, notes


def _scale_of(key: str, tensors: Mapping[str, Tensor]) -> tuple[str | None, float]:
    stem = key.removesuffix("._data")
    for suffix in SCALES:
        if f"{stem}{suffix}" in tensors:
            return f"{stem}{suffix}", 1.0
    beside = f"{key.rpartition('.')[0]}.SCB".removeprefix(".")
    return (beside, 1 / 127) if beside in tensors else (None, 1.0)


def _rows(scale: Tensor, tensor: Tensor, name: str) -> Tensor:
    if scale.numel() not in (1, tensor.shape[0]):
        raise CorruptSourceError(f"{name} has shape {list(scale.shape)}: scales of blocks are not known here.")
    return scale.float().reshape(-1, *[1] * (tensor.ndim - 1))


def main(argv: Sequence[str]) -> None:
    """The command."""
    if len(argv) != 2:
        sys.exit("usage: python -m medmerge_hf.sources.extract FILE OUT.safetensors")
    try:
        for line in extract(Path(argv[0]), Path(argv[1])):
            print(line)
    except (MedMergeError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
