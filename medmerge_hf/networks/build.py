"""A plain timm-wrapper or transformers classifier from a config, with the target's labels."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..errors import SettingsError


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
        names = class_names(id2label)
        if num_labels is not None and num_labels != len(names):
            raise SettingsError(f"num_labels={num_labels} but id2label names {len(names)} classes.")
        return {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    if not num_labels:
        raise SettingsError(
            f"The target task has {num_labels or 'no'} labels: pass num_labels=... or id2label={{0: 'benign', ...}}."
        )
    return {"num_labels": num_labels}


def class_names(id2label: Mapping[int, str]) -> dict[int, str]:
    """Class index -> name in the order of the indices, in which files list the names.

    Args:
        id2label: in any order; the indices may be text, as JSON has them.

    Raises:
        SettingsError: it is no mapping, the indices are not 0 to K - 1, or a name stands twice.

    Example:
        >>> class_names({1: "malignant", 0: "benign"})
        {0: 'benign', 1: 'malignant'}
    """
    if not isinstance(id2label, Mapping):
        raise SettingsError(f"id2label={id2label!r} is no mapping of indices to names: {{0: 'benign', ...}}.")
    given = {str(index).strip(): str(name) for index, name in id2label.items()}
    if not given or given.keys() != {str(index) for index in range(len(id2label))}:
        raise SettingsError(f"id2label has the indices {list(id2label)[:5]}: K classes are numbered 0 to K - 1.")
    names = {index: given[str(index)] for index in range(len(given))}
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise SettingsError(f"id2label gives the name {twice[0]!r} to more than one class: each needs its own.")
    return names
