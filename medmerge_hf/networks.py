"""The ordinary timm / transformers networks that a merge starts from and ends as."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from .errors import SettingsError


# What belongs to the labels of a source, not to the network.
LABEL_KEYS = ("architectures", "id2label", "label2id", "label_names", "num_classes", "num_labels", "problem_type")


def network_config(values: Mapping[str, Any], **labels: Any) -> Any:
    """A plain transformers config with the labels of the target.

    Args:
        values: a config as a dict, with its `model_type`.
        labels: `num_labels`, `id2label`, `label2id`, `problem_type` of the target task; `None` is left out.

    Returns:
        A `PreTrainedConfig` of that model type.
    """
    from transformers import CONFIG_MAPPING

    kind = values.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise SettingsError(
            f"transformers knows no model type {kind!r}: the anchor must be a timm or transformers network."
        )
    kept = {key: value for key, value in values.items() if key not in LABEL_KEYS}
    return CONFIG_MAPPING[kind].from_dict(kept, **{key: value for key, value in labels.items() if value is not None})


def build_network(config: Any) -> Any:
    """A plain image classifier of this config, with fresh weights.

    Raises:
        SettingsError: transformers has no image classifier for it.
    """
    from transformers import AutoModelForImageClassification

    try:
        return AutoModelForImageClassification.from_config(config)
    except ValueError as error:
        raise SettingsError(f"transformers has no image classifier for {config.model_type!r} ({error}).") from error


def architecture_name(network: Any) -> str:
    """How a user calls the architecture: timm's name, or the class of a transformers network."""
    return getattr(network.config, "architecture", None) or type(network).__name__


def backbone_prefix(network: Any) -> str:
    """What the names of the backbone's tensors begin with inside the network, with its dot."""
    return f"{network.base_model_prefix}."


def head_modules(network: Any) -> tuple[str, ...]:
    """Names, below the backbone, of the modules that make up a timm network's classification head.

    A transformers-native head stands beside the backbone, so nothing below it.
    """
    names = (getattr(network.config, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def backbone_module(network: Any) -> nn.Module:
    """timm's own network, or the base model of a transformers one."""
    return getattr(network, network.base_model_prefix)


def backbone_parameters(network: Any) -> dict[str, nn.Parameter]:
    """Name -> parameter of the backbone, the classification head left out."""
    head = tuple(f"{name}." for name in head_modules(network))
    return {name: p for name, p in backbone_module(network).named_parameters() if not name.startswith(head)}


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """The names that one of the patterns (`layer3.*`, `*.bias`) fits.

    Raises:
        SettingsError: a pattern that fits none.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise SettingsError(f"The pattern {pattern!r} fits no tensor; they are called {names[0]}, {names[1]}, ...")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def merged_parameters(network: Any, config: Any) -> dict[str, nn.Parameter]:
    """Name -> parameter of the backbone that a [`MedMergeConfig`] includes in the merge."""
    found = backbone_parameters(network)
    chosen = set(matching(found, config.include) if config.include else found)
    chosen -= set(matching(found, config.exclude))
    if not chosen:
        raise SettingsError(f"include={config.include} and exclude={config.exclude} leave nothing to merge.")
    return {name: parameter for name, parameter in found.items() if name in chosen}


def backbone_buffers(network: Any) -> dict[str, Tensor]:
    """Name -> buffer of the backbone that is part of its state dict."""
    backbone = backbone_module(network)
    saved = backbone.state_dict().keys()
    return {name: buffer for name, buffer in backbone.named_buffers() if name in saved}


def backbone_state(network: Any) -> dict[str, Tensor]:
    """Name -> floating point parameter or buffer of the backbone, the head left out, in order of definition."""
    head = tuple(f"{name}." for name in head_modules(network))
    tensors = backbone_module(network).state_dict()
    return {name: t for name, t in tensors.items() if t.is_floating_point() and not name.startswith(head)}


def load_backbone(network: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copy harmonised tensors into a network's backbone; its head stays as it is."""
    backbone_module(network).load_state_dict(tensors, strict=False)


def input_shape(network: Any) -> tuple[int, ...]:
    """Channels, height and width of the images that a network is made for."""
    cfg = getattr(network.config, "pretrained_cfg", None) or {}
    if "input_size" in cfg:
        return tuple(cfg["input_size"])
    size = getattr(network.config, "image_size", None) or 64
    size = size if isinstance(size, (tuple, list)) else (size, size)
    return (getattr(network.config, "num_channels", 3), *size)


def target_labels(num_labels: int | None, id2label: Mapping[int, str] | None) -> dict[str, Any]:
    """Label keywords of a config from what a user gives.

    Args:
        num_labels: number of classes.
        id2label: their names.

    Returns:
        `num_labels`, or `id2label` and `label2id`.

    Raises:
        SettingsError: none is given, or the two disagree.
    """
    if id2label is not None:
        names = {int(index): str(name) for index, name in id2label.items()}
        if num_labels is not None and num_labels != len(names):
            raise SettingsError(f"num_labels={num_labels} but id2label names {len(names)} classes.")
        labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    else:
        labels = {"num_labels": num_labels}
    count = len(id2label) if id2label is not None else num_labels
    if not count:
        raise SettingsError(
            f"The target task has {count or 'no'} labels: pass num_labels=... or id2label={{0: 'benign', ...}}."
        )
    return labels


@contextmanager
def observed_features(network: nn.Module) -> Iterator[list[Tensor]]:
    """Watch what reaches the linear layers of a network.

    Args:
        network: a classifier with a linear head.

    Yields:
        A list that holds, after a forward pass, the input of the linear layer that ran last: the features `[N, D]`.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> with observed_features(network) as seen:
        ...     _ = network(torch.zeros(1, 1, 2, 2))
        >>> seen[-1].shape
        torch.Size([1, 4])
    """
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: seen.__setitem__(slice(None), [inputs[0]]))
        for module in network.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
