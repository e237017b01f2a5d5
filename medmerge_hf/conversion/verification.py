"""Whether a source, under the anchor's names and in the anchor's network, still is the network that it was.

Both are run on the same images in float64 and must give the same features. Same names and shapes with another padding,
stride or pooling would be the worst silent error there is.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..networks.caches import clear_caches
from ..sources.reference import NetworkVariant


TOLERANCE = 1e-5


def with_tensors(
    network: nn.Module, tensors: Mapping[str, Tensor], below: str = "", stems: Iterable[str] = ()
) -> nn.Module:
    """A float64 copy of a network that holds a checkpoint.

    Args:
        network: it stays as it is.
        tensors: name, below the module `below`, -> tensor; others keep the network's values.
        below: name of a module.
        stems: names, below the module `below`, of convolutions that take the tensors' number of channels.

    Returns:
        The copy, in eval mode.
    """
    clear_caches(network)
    made = copy.deepcopy(network).double().eval()
    inner = made.get_submodule(below)
    for stem in stems:
        _take_channels(inner.get_submodule(stem), tensors[f"{stem}.weight"])
    inner.load_state_dict({name: tensor.double() for name, tensor in tensors.items()}, strict=False)
    return made


def _take_channels(stem: Any, weight: Tensor) -> None:
    if stem.weight.shape[1] != weight.shape[1]:
        stem.in_channels = weight.shape[1]
        stem.weight = nn.Parameter(torch.zeros_like(weight, dtype=torch.float64))


def noise(*shape: int) -> Tensor:
    """One image as normalised images are: between -2 and 2."""
    return torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4 - 2


def apply_variant(network: nn.Module, variant: NetworkVariant, unfoldable: bool = True) -> nn.Module:
    """Change a network into one of another variant, in place.

    Args:
        network: timm's or torchvision's.
        variant: what to change.
        unfoldable: also padding and stride; the BatchNorm eps alone without.

    Returns:
        The network.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm) and variant.bn_eps is not None:
            module.eps = variant.bn_eps
    if unfoldable and variant.stride == "conv1":
        for module in network.modules():
            first, second = getattr(module, "conv1", None), getattr(module, "conv2", None)
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d) and hasattr(module, "conv3"):
                first.stride, second.stride = second.stride, first.stride
    if unfoldable and variant.padding == "tf_same":
        _pad_like_tensorflow(network)
    if unfoldable and variant.pooling == "tf_same":
        _pool_like_tensorflow(network)
    return network


def differences(network: nn.Module, variant: NetworkVariant) -> tuple[str, ...]:
    """In what a source of a variant differs from a network for good; nothing where the network is of that variant."""
    from timm.layers import Conv2dSame

    padded = any(isinstance(module, Conv2dSame) for module in network.modules())
    return tuple(what for what in variant.unfoldable if not (padded and what == "padding tf_same"))


def _pool_like_tensorflow(network: nn.Module) -> None:
    from timm.layers.pool2d_same import MaxPool2dSame

    for parent in list(network.modules()):
        for name, pool in list(parent.named_children()):
            if type(pool) is nn.MaxPool2d:
                setattr(parent, name, MaxPool2dSame(pool.kernel_size, pool.stride))


def _pad_like_tensorflow(network: nn.Module) -> None:
    from timm.layers import Conv2dSame

    for parent in list(network.modules()):
        for name, conv in list(parent.named_children()):
            if type(conv) is nn.Conv2d and max(conv.stride) > 1 and max(conv.kernel_size) > 1:
                same = copy.deepcopy(conv)
                same.__class__ = Conv2dSame  # the same layer, padded by timm's rule
                setattr(parent, name, same)


def align_layer_norms(original: nn.Module, network: nn.Module) -> nn.Module | None:
    """Give the LayerNorms of a network another one's eps, in place, so that the rest can be compared exactly.

    Args:
        original: the network to change.
        network: whose eps to take.

    Returns:
        The network, or `None` where nothing had to be changed.
    """
    eps = {module.eps for module in network.modules() if isinstance(module, nn.LayerNorm)}
    changed = False
    for module in original.modules():
        if isinstance(module, nn.LayerNorm) and len(eps) == 1 and module.eps not in eps:
            module.eps, changed = next(iter(eps)), True
    return original if changed else None


def structure_differences(original: nn.Module, network: nn.Module, pairs: Mapping[str, str]) -> list[str]:
    """In what the convolutions of two networks differ beside their weights.

    Args:
        original: one network.
        network: the other.
        pairs: name of a weight in `network` -> in `original`.

    Returns:
        A phrase each, the first few.
    """
    found = []
    for ours, theirs in pairs.items():
        here, there = ours.removesuffix(".weight"), theirs.removesuffix(".weight")
        try:
            one, other = network.get_submodule(here), original.get_submodule(there)
        except AttributeError:
            continue
        if isinstance(other, nn.Linear):  # a matrix for timm's convolution over all that is left, as in VGG
            continue
        for key in ("stride", "padding", "dilation", "groups"):
            a, b = getattr(other, key, None), getattr(one, key, None)
            if a != b:
                found.append(f"{key} of {here} is {a}, the anchor's {b}")
        if isinstance(one, nn.Conv2d) and type(one) is not type(other):
            found.append(f"{here} is a {type(other).__name__}, the anchor's a {type(one).__name__}")
    return found[:3]
