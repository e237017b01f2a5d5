"""What Keras' files have in common: layers' arrays as torch has them, and what is known of the network around them."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ..reference import LoadedSource, NetworkVariant, SourceReference
from .keras_networks import family_of, fold_biases, known_names


# What Keras calls an array of a layer -> torch's word.
LEAVES = {
    **{"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"},
    **{"kernel": "weight", "depthwise_kernel": "depthwise.weight", "pointwise_kernel": "pointwise.weight"},
}


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a layer.

    Args:
        layer: its name.
        leaf: what it is of the layer, as Keras calls it.
        outer: names of the networks around the layer, joined by dots.
    """

    layer: str
    leaf: str
    outer: str = ""

    @classmethod
    def of_path(cls, path: str) -> "Array":
        """`outer/layer/kernel:0`, as Keras before 3 and TensorFlow.js write it."""
        parts = path.split("/")
        layer = parts[-2] if len(parts) > 1 else ""
        return cls(layer, parts[-1].partition(":")[0], ".".join(part for part in parts[:-2] if part != layer))

    def as_torch(self, tensor: Tensor) -> Tensor:
        """A kernel with its axes in torch's order."""
        if tensor.ndim == 4:
            height, width, channels, factor = tensor.shape
            if self.leaf == "depthwise_kernel" or (self.leaf == "kernel" and _is_depthwise(self.layer)):
                return tensor.permute(2, 3, 0, 1).reshape(channels * factor, 1, height, width)
            return tensor.permute(3, 2, 0, 1)
        return tensor.t() if tensor.ndim == 2 and self.leaf == "kernel" else tensor


def torch_names(arrays: Iterable[Array]) -> dict[Array, str]:
    """Name of each array; the networks around a layer are part of it only where layers share their names.

    Example:
        >>> list(torch_names([Array("conv1", "kernel", "base"), Array("conv1", "bias", "base")]).values())
        ['conv1.weight', 'conv1.bias']
    """
    arrays = list(arrays)
    several = len(arrays) > len({(array.layer, array.leaf) for array in arrays})
    names = {}
    for array in arrays:
        layer = f"{array.outer}.{array.layer}" if several and array.outer else array.layer
        names[array] = _plain(f"{layer}.{LEAVES.get(array.leaf, array.leaf)}")
    return names


def _is_depthwise(layer: str) -> bool:
    return "depthwise" in layer or "dwconv" in layer


def _plain(name: str) -> str:
    """A depthwise layer has one kernel, whatever Keras calls it; a separable one has two."""
    layer = name.removesuffix(".depthwise.weight")
    return f"{layer}.weight" if layer != name and _is_depthwise(layer) else name


UNKNOWN = (
    f"It is read as Keras layers (kernels as torch has them) of a network that is not one of {known_names()}. If it "
    "is the anchor's under other names, translate these: key_map={'regular expression': 'replacement'}."
)


def keras_source(
    reference: SourceReference, tensors: dict[str, Tensor], notes: list[str], config: Any
) -> LoadedSource:
    """A source of Keras' layers, with what is known of the network that they belong to.

    Args:
        reference: what the user said.
        tensors: by [`torch_names`].
        notes: of the reader.
        config: Keras' description of the network, where the file has one.
    """
    family = family_of(tensors)
    if family is None:
        notes = [*notes, "read as Keras layers of a network unknown here"]
        return LoadedSource(reference, tensors, notes=notes, hint=UNKNOWN)
    images = family.convention(tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("normalization")}
    tensors, folded = fold_biases(family.prepare(tensors))
    variant = dataclasses.replace(family.variant, bn_eps=_eps(config) or family.variant.bn_eps)
    reference = dataclasses.replace(
        reference,
        architecture=reference.architecture or family.architecture,
        variant=(reference.variant or NetworkVariant()).or_else(variant),
    )
    notes = [*notes, f"read as Keras' {family.name}", *folded]
    if reference.input is None:
        notes.append(f"input taken for what Keras' {family.name} is given ({family.input}); input= says otherwise")
    return LoadedSource(reference, tensors, input=images, notes=notes)


def _eps(config: Any) -> float | None:
    """The one epsilon of all BatchNorms, where the network is described."""
    found = set[float]()
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if part.get("class_name") == "BatchNormalization":
                eps = (part.get("config") or {}).get("epsilon", 1e-3)
                found |= {float(eps)} if isinstance(eps, (int, float)) and eps > 0 else set()
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
    return found.pop() if len(found) == 1 else None
