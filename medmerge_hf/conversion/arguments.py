"""Which arguments two networks of one architecture were built with differently, told from their modules."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


# What says nothing of the function in eval mode, or follows from the number of classes and channels.
SILENT = {
    *("training", "p", "drop_prob", "drop_rate", "drop", "inplace", "fused_attn", "grad_checkpointing", "num_classes"),
    *("num_labels", "in_channels", "out_features", "momentum", "scale_by_keep", "flatten"),
}

# Part of a module's or attribute's name -> what timm and transformers call the argument behind it.
ARGUMENTS = {
    "norm": "norm_layer",
    "pool": "global_pool",
    "stride": "output_stride",
    "dilation": "output_stride",
    "act": "act_layer",
    "elu": "act_layer",
    "silu": "act_layer",
    "swish": "act_layer",
    "sigmoid": "act_layer",
    "identity": "act_layer",
    "eps": "norm_layer",
    "num_groups": "norm_layer",
}


def differing_arguments(original: nn.Module, network: nn.Module, shown: int = 4) -> list[str]:
    """In what the modules of two networks differ beside their weights, one example a kind.

    Args:
        original: one network.
        network: another, whose modules have the same names.
        shown: at most this many.

    Returns:
        A phrase each: the module, the two values, and the argument that decides them where it is known.

    Example:
        >>> differing_arguments(nn.Sequential(nn.GELU()), nn.Sequential(nn.ReLU()))
        ['0 is a GELU, rebuilt a ReLU (act_layer)']
    """
    theirs, ours = dict(original.named_modules()), dict(network.named_modules())
    found: dict[Any, str] = {}
    for name in dict.fromkeys([*theirs, *ours]):
        one, other = theirs.get(name), ours.get(name)
        if one is None or other is None:
            what = f"{name} is {'not there' if one is None else 'there'}, rebuilt it is {'not' if one else ''}"
            found.setdefault(type(one or other), what.strip())
        elif type(one) is not type(other) and not _alike(one, other):
            kinds = type(one).__name__, type(other).__name__
            found.setdefault(kinds, f"{name} is a {kinds[0]}, rebuilt a {kinds[1]}{_argument(*kinds)}")
        else:
            _compare_attributes(name or type(one).__name__, one, other, found)
    return list(found.values())[:shown]


def _compare_attributes(name: str, one: nn.Module, other: nn.Module, found: dict[Any, str]) -> None:
    values = vars(other)
    for key, value in vars(one).items():
        simple = isinstance(value, (bool, int, float, str, tuple)) and not key.startswith("_")
        if simple and key not in SILENT and value != values.get(key):
            phrase = f"{key} of {name} is {value!r}, rebuilt {values.get(key)!r}{_argument(key)}"
            found.setdefault((type(one), key), phrase)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """The same layer, or both BatchNorm."""
    return isinstance(one, _BatchNorm) and isinstance(other, _BatchNorm)


def _argument(*words: str) -> str:
    text = " ".join(words).lower()
    found = dict.fromkeys(argument for part, argument in ARGUMENTS.items() if part in text)
    return f" ({next(iter(found))})" if found else ""
