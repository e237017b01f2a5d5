"""One network under the names of two libraries: torchvision's checkpoints for timm's networks.

Names tell nothing here, the order of definition does: both libraries define the same layers in the same order. Tensors
are paired shape by shape in that order, and the pairing is proven: both networks must compute the same features.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ArchitectureMismatchError
from .harmonization import find_prefix


# timm -> torchvision, where the two do not share their names (resnet and densenet do).
TORCHVISION = {
    "mobilenetv2_100": "mobilenet_v2",
    "mobilenetv3_large_100": "mobilenet_v3_large",
    "mobilenetv3_small_100": "mobilenet_v3_small",
    **{f"efficientnet_b{size}": f"efficientnet_b{size}" for size in range(5)},
    **{f"convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
    **{f"vit_{name}_patch{patch}_224": f"vit_{name[0]}_{patch}" for name in ("base", "large") for patch in (16, 32)},
    **{f"swin_{name}_patch4_window7_224": f"swin_{name[0]}" for name in ("tiny", "small", "base")},
    **{f"vgg{depth}{norm}": f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")},
}
TOLERANCE = 1e-5


def translate(
    tensors: Mapping[str, Tensor], architecture: str, source: str = "source", **model_args: Any
) -> tuple[dict[str, Tensor], str] | None:
    """Bring a checkpoint under torchvision's names under timm's.

    Args:
        tensors: the checkpoint; a prefix is allowed.
        architecture: timm name of the network.
        source: how errors call the checkpoint.
        model_args: keywords for `timm.create_model`.

    Returns:
        The backbone under timm's names, and a note on what was done; `None` where these are not torchvision's names
        for this architecture.

    Raises:
        ArchitectureMismatchError: the names are torchvision's, but the two networks compute other features.

    Example:
        >>> import torchvision
        >>> original = torchvision.models.mobilenet_v2(weights=None)
        >>> found, note = translate(original.state_dict(), "mobilenetv2_100")
        >>> found["conv_stem.weight"].shape
        torch.Size([32, 3, 3, 3])
    """
    name = TORCHVISION.get(architecture)
    if name is None:
        return None
    original = _torchvision_network(name)
    last = _last_linear(original)
    theirs = {key: shape for key, shape in _floating(original).items() if not key.startswith(f"{last}.")}
    prefix = find_prefix(tensors, theirs)
    if not {f"{prefix}{key}" for key in theirs} <= tensors.keys():
        return None
    import timm

    network = timm.create_model(architecture, num_classes=0, **model_args)
    shapes = _floating(network)
    pairs = align_by_order(shapes, theirs)
    if pairs is None:
        return None
    found = {ours: tensors[prefix + key].reshape(shapes[ours]) for ours, key in pairs.items()}
    own = {key: tensors[prefix + key] for key in theirs}
    folded = fold_eps(original, network, pairs, found)
    difference = feature_difference(original, own, network, found)
    if not difference < TOLERANCE:
        raise ArchitectureMismatchError(
            f"Source {source!r} has torchvision's names for {name}, but timm's {architecture} computes other features "
            f"with its tensors (relative difference {difference:.2g}): the same shapes, another network."
        )
    return found, f"torchvision's names for {name} translated{folded} (features equal to {difference:.1g})"


def fold_eps(original: nn.Module, network: nn.Module, pairs: Mapping[str, str], found: dict[str, Tensor]) -> str:
    """Where the networks have another BatchNorm eps, change the variances so that the eval mode stays the same.

    Args:
        original: the checkpoint's own network.
        network: the one that takes it.
        pairs: name of a tensor in `network` -> in `original`.
        found: tensors of `network`; variances in it are replaced.

    Returns:
        A note, empty where nothing had to be done.
    """
    note = ""
    for ours, theirs in pairs.items():
        if not ours.endswith("running_var"):
            continue
        old: Any = original.get_submodule(theirs.rpartition(".")[0]).eps
        new: Any = network.get_submodule(ours.rpartition(".")[0]).eps
        if old != new:
            found[ours] = found[ours] + (old - new)
            note = f", BatchNorm eps {old:g} folded into the variances (here it is {new:g})"
    return note


def align_by_order(
    ours: Mapping[str, tuple[int, ...]], theirs: Mapping[str, tuple[int, ...]]
) -> dict[str, str] | None:
    """Pair tensors of the same shape in their order of definition.

    Args:
        ours: name -> shape, in order. Axes of length 1 do not count; a linear layer may stand for a convolution.
        theirs: likewise.

    Returns:
        Our name -> theirs; `None` where that is not one-to-one.

    Example:
        >>> align_by_order({"a": (2, 3), "b": (2,)}, {"x": (2, 1), "y": (2, 3, 1, 1)})
        {'a': 'y', 'b': 'x'}
    """
    waiting = defaultdict(list)
    for name, shape in theirs.items():
        waiting[_signature(shape)].append(name)
    pairs = {}
    for name, shape in ours.items():
        if not waiting[_signature(shape)]:
            return None
        pairs[name] = waiting[_signature(shape)].pop(0)
    return None if any(waiting.values()) else pairs


def _signature(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Output channels and the rest: VGG's first linear layer is a 7 x 7 convolution in timm."""
    real = [size for size in shape if size != 1]
    return (real[0], math.prod(real[1:])) if len(real) > 3 and real[-1] > 3 else tuple(real)


def _floating(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(t.shape) for key, t in network.state_dict().items() if t.is_floating_point()}


def _torchvision_network(name: str) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name, weights=None)


def _last_linear(network: nn.Module) -> str:
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]


@torch.no_grad()
def feature_difference(
    original: nn.Module, own: Mapping[str, Tensor], network: nn.Module, found: Mapping[str, Tensor]
) -> float:
    """How far a network is from the original one, on noise and in eval mode.

    Args:
        original: a classifier; its last linear layer is taken off.
        own: its tensors.
        network: the other one, without a head.
        found: its tensors.

    Returns:
        Largest difference of a feature, relative to the largest feature.
    """
    last = _last_linear(original)
    original.get_submodule(last.rpartition(".")[0]).register_module(last.rpartition(".")[2], nn.Identity())
    original.load_state_dict(dict(own), strict=False)
    network.load_state_dict(dict(found), strict=False)
    size = getattr(network, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    images = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    expected, features = original.eval()(images), network.eval()(images)
    return float((features - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
