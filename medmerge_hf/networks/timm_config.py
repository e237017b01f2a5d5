"""The `timm_wrapper` config of a timm network, as a dict: architecture, preprocessing, arguments."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingsError
from .input_convention import InputConvention


# Of timm's pretrained_cfg, what describes the network and its input.
NETWORK_KEYS = (
    *("input_size", "fixed_input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "pool_size"),
    *("first_conv", "classifier"),
)


def timm_config(
    architecture: str, cfg: dict[str, Any] | None = None, args: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The `timm_wrapper` config of a timm network.

    Args:
        architecture: timm name, e.g. `resnet18`.
        cfg: its pretrained_cfg (preprocessing, name of the head); by default timm's own for this architecture.
        args: keywords for `timm.create_model`.

    Returns:
        A dict for `TimmWrapperConfig.from_dict`, without number or names of labels.

    Raises:
        SettingsError: timm does not know the architecture.
    """
    import timm

    if not timm.is_model(architecture):
        raise SettingsError(
            f"timm {timm.__version__} knows no architecture {architecture!r}.{similar_names(architecture)}"
        )
    architecture, usual = _current(architecture)
    cfg = cfg or usual
    # num_classes belongs to the labels (with it in model_args transformers passes it twice and fails), tag and licence
    # to the weights. timm 1.0.31 fails on a model_args that is null.
    args = {key: value for key, value in (args or {}).items() if key != "num_classes"}
    cfg = {key: cfg[key] for key in NETWORK_KEYS if cfg.get(key) is not None}
    return {"model_type": "timm_wrapper", "architecture": architecture, "pretrained_cfg": cfg, "model_args": args}


def _current(architecture: str) -> tuple[str, dict[str, Any]]:
    """What timm calls an architecture now (`xception` is `legacy_xception`), and its pretrained_cfg."""
    import timm

    found = timm.models.get_pretrained_cfg(architecture)
    if found is not None:
        return architecture, found.to_dict()
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # that the name is deprecated
        cfg = timm.create_model(architecture).pretrained_cfg
    return cfg["architecture"], cfg


def with_channels(config: dict[str, Any], channels: int) -> dict[str, Any]:
    """A `timm_wrapper` config for images of another number of channels, mean and std averaged."""
    cfg = dict(config["pretrained_cfg"])
    cfg["input_size"] = [channels, *cfg["input_size"][1:]]
    if len(cfg["mean"]) != channels:
        cfg |= {key: [sum(cfg[key]) / len(cfg[key])] * channels for key in ("mean", "std")}
    arguments = {**config["model_args"], **({"in_chans": channels} if channels != 3 else {})}
    return {**config, "pretrained_cfg": cfg, "model_args": arguments}


def file_config(architecture: str | None, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """timm's default config of an architecture, with the number of channels that the stem has.

    Without the hidden layers of a VGG's classifier (`include_top=False`) these belong to the head, which is new.
    """
    if architecture is None:
        return None
    config = timm_config(architecture)
    if lacks_classifier(_shapes(config), tensors):
        own = config["pretrained_cfg"]["classifier"]
        config["pretrained_cfg"] = {**config["pretrained_cfg"], "classifier": [CLASSIFIER, own]}
    channels = image_channels(config, tensors)
    return config if channels == 3 else with_channels(config, channels)


# What timm calls the hidden layers of a VGG's classifier.
CLASSIFIER = "pre_logits"


def lacks_classifier(network: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Whether a network has a VGG's hidden layers, of which nothing in a checkpoint has the size.

    Args:
        network: name -> tensor.
        tensors: the checkpoint, by whatever names.
    """
    first = next((t for name, t in network.items() if name.endswith(f"{CLASSIFIER}.fc1.weight")), None)
    return first is not None and all(tensor.numel() != first.numel() for tensor in tensors.values())


def _shapes(config: Mapping[str, Any]) -> dict[str, Tensor]:
    import timm

    if "vgg" not in config["architecture"]:
        return {}
    with torch.device("meta"):
        return timm.create_model(config["architecture"]).state_dict()


def image_channels(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """Channels of the images that a checkpoint of a timm network takes, told from its stem.

    Args:
        config: a `timm_wrapper` config.
        tensors: by names that end in timm's.

    Returns:
        Their number; 3 where timm names no stem, or one that is no convolution.
    """
    named = config["pretrained_cfg"].get("first_conv") or ()
    for stem in [named] if isinstance(named, str) else named:
        found = next((t for name, t in tensors.items() if f".{name}".endswith(f".{stem}.weight")), None)
        if found is None or found.ndim != 4 or found.shape[1] == 3:
            continue
        usual = _usual_shape(config, stem)
        if found.shape[:1] + found.shape[2:] == usual[:1] + usual[2:]:  # else an inner layer of that name
            return found.shape[1] * 3 // usual[1]
    return 3


def _usual_shape(config: Mapping[str, Any], stem: str) -> torch.Size:
    """Of a stem for images of three channels: it has more where the image is folded into channels before."""
    import timm

    with torch.device("meta"):
        network = timm.create_model(config["architecture"])
    return network.get_parameter(f"{stem}.weight").shape


def timm_input(config: Mapping[str, Any]) -> InputConvention | None:
    """What images a `timm_wrapper` config expects."""
    cfg = config["pretrained_cfg"]
    return InputConvention(mean=cfg["mean"], std=cfg["std"]) if len(cfg.get("mean") or ()) in (1, 3) else None


def similar_names(name: str) -> str:
    """A hint for a name that timm does not know; empty where nothing is near."""
    import timm

    names = timm.list_models(f"{name.split('.')[0]}*", pretrained=True)[:3]
    return f" Did you mean {', '.join(names)}?" if names else ""


def resize_timm_config(config: dict[str, Any], image_size: int) -> dict[str, Any]:
    """A `timm_wrapper` config (as a dict) whose preprocessing ends at `image_size` pixels.

    A Transformer made for one size is built for the other; its position embeddings are resampled when it is loaded.

    Raises:
        SettingsError: the network only takes its own size.
    """
    config = copy.deepcopy(config)
    cfg = config["pretrained_cfg"]
    own = cfg.get("input_size", (3, 224, 224))
    if cfg.get("fixed_input_size") and own[1] != image_size:
        if not takes_image_size(config["architecture"], image_size):
            raise SettingsError(f"{config['architecture']} takes images of {own[1]} px only, not {image_size}.")
        config["model_args"] = {**(config.get("model_args") or {}), "img_size": image_size}
    cfg["input_size"] = [own[0], image_size, image_size]
    for key in ("test_input_size", "test_crop_pct"):  # those belong to the old size
        cfg.pop(key, None)
    return config


def takes_image_size(architecture: str, image_size: int) -> bool:
    """Whether timm builds a network of fixed input size for another size."""
    import timm
    import torch

    try:
        with torch.device("meta"):
            timm.create_model(architecture, img_size=image_size)
    except Exception:  # not a network of timm, no such argument, or a size that its patches and windows do not divide
        return False
    return True
