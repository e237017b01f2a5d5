"""A plain timm-wrapper or transformers classifier from a config, with the target's labels."""

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
