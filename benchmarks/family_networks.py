"""Random networks of every family: tiny ones of transformers, the smallest of each family of timm."""

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from medmerge_hf.networks.backbone import second_names


_VIT = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    **{"image_size": 32, "patch_size": 8},
}
_TEXT = {**_VIT, "vocab_size": 50, "max_position_embeddings": 20, "bos_token_id": 0, "eos_token_id": 1}
_TOWERS = {"vision_config": _VIT, "text_config": _TEXT}
_STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
_CONV = {**_STAGES, "embedding_size": 8}
_DINO = {**_VIT, "mlp_ratio": 2}
_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32, "patch_size": 2}
_PERCEIVER = {
    **{"num_latents": 4, "d_latents": 16, "num_blocks": 1, "num_self_attends_per_block": 1, "image_size": 32},
    **{"num_self_attention_heads": 2, "num_cross_attention_heads": 1, "attention_probs_dropout_prob": 0.0},
}

# Settings that make a network tiny; of model types that are not here the defaults are small enough.
TINY: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("beit", "data2vec-vision", "deit", "ijepa", "vit", "vit_msn"), _VIT),
    **dict.fromkeys(("clip", "metaclip_2", "siglip", "siglip2"), _TOWERS),
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), _DINO),
    **dict.fromkeys(("convnext", "convnextv2", "regnet", "resnet"), _CONV),
    **dict.fromkeys(("swin", "swinv2", "donut-swin"), _SWIN),
    "beit": {**_VIT, "use_relative_position_bias": True},
    "bit": {**_STAGES, "embedding_size": 8, "num_groups": 4},
    "cvt": {"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    "efficientnet": {
        **{"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
        "dropout_rate": 0.1,
    },
    "focalnet": {"embed_dim": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32, "focal_levels": [1, 1]}
    | {"focal_windows": [3, 3], "patch_size": 2},
    "hgnet_v2": {
        **{"stem_channels": [3, 8, 8], "stage_in_channels": [8, 16, 16, 16], "stage_mid_channels": [8, 8, 8, 8]},
        **{"stage_out_channels": [16, 16, 16, 32], "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [1] * 4},
        **{"hidden_sizes": [16, 16, 16, 32], "depths": [1, 1, 1, 1], "embedding_size": 8},
    },
    "hiera": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "image_size": [64, 64]},
    "imagegpt": {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 17, "n_positions": 64},
    "levit": {
        **{"hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1], "key_dim": [8, 8, 8]},
        "image_size": 64,
    },
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": 64},
    "mobilenet_v2": {"depth_multiplier": 0.35, "image_size": 64},
    "mobilevit": {
        **{"hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32], "image_size": 64},
        "num_attention_heads": 2,
    },
    "mobilevitv2": {"width_multiplier": 0.25, "image_size": 64, "n_attn_blocks": [1, 1, 1]},
    "perceiver": _PERCEIVER,
    "poolformer": _STAGES,
    "pvt": {**_STAGES, "num_attention_heads": [1, 1, 2, 2], "image_size": 64},
    "pvt_v2": {**_STAGES, "num_attention_heads": [1, 1, 2, 2], "image_size": 64},
    "segformer": {**_STAGES, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16},
    "shieldgemma2": {
        "vision_config": {**_VIT, "model_type": "siglip_vision_model"},
        "text_config": {**_TEXT, "model_type": "gemma3_text", "num_key_value_heads": 1, "head_dim": 16},
        "mm_tokens_per_image": 4,
    },
    "swiftformer": {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [8, 8, 16, 16]},
    "textnet": {"image_size": [64, 64], "hidden_sizes": [64, 64, 128, 256, 512]},
}

# Of the classification head: a merge of them has as many, so that logits can be compared.
LABELS = 3

# Pixels that a timm network of any size is run at, where it can be.
SMALL = 96

# Arguments that a network in memory may have been built with, which no state dict tells.
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {"act_layer": "tanh"},
    {"norm_layer": "groupnorm"},
    {"global_pool": "max"},
    {"output_stride": 8},
)


# Networks of timm beyond so many parameters are built of fewer blocks or channels, where an argument says how many.
LARGE = 12e6

SHALLOW: tuple[dict[str, Any], ...] = (
    {"depth": 2},
    {"depths": (1, 1, 1, 1)},
    {"layers": (1, 1, 1, 1)},
    {"depths": (1, 1, 1)},
    {"layers": (1, 1, 1)},
    {"num_features": 1056, "stem_size": 32},
    {"num_features": 256},
)


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of networks, and how their library makes, writes and reads them.

    Args:
        library: `timm` or `transformers`.
        name: module of timm, or class of transformers.
        network: timm's name of the network, or the model type.
        labels: of the networks that it makes.
        arguments: for `timm.create_model`, beside its name.
        large: whether the network is large without them.
    """

    library: str
    name: str
    network: str
    labels: int = LABELS
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    large: bool = False

    def __str__(self) -> str:
        noted = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.network} ({noted})" if noted else self.network

    def make(self, seed: int, **arguments: Any) -> nn.Module:
        """A random network, its BatchNorm statistics too."""
        torch.manual_seed(seed)
        if self.library == "timm":
            made = timm.create_model(self.network, num_classes=self.labels, **self.arguments, **arguments)
            made.pretrained_cfg["input_size"] = (3, *_size(made))
            return randomise(made, seed)
        config = CONFIG_MAPPING[self.network](**TINY.get(self.network, {}), num_labels=self.labels)
        return randomise(_class(self.name, config)(config), seed)

    def save(self, seed: int, folder: Path) -> None:
        """Write a random network as its users have it."""
        try:
            self.write(self.make(seed), folder)
        except ImportError:  # a library is not there: what was saved where it was
            config = CONFIG_MAPPING[self.network](**TINY.get(self.network, {}), num_labels=self.labels)
            config.save_pretrained(folder)
            save_file({"classifier.bias": torch.zeros(self.labels)}, folder / "model.safetensors")

    def write(self, network: Any, folder: Path) -> None:
        """Write a network."""
        if self.library == "timm":
            noted = {"model_args": dict(self.arguments)} if self.arguments else {}
            shared = bool(second_names(network))  # timm itself writes such networks as pickles alone
            timm.models.save_for_hf(network, folder, model_config=noted, safe_serialization=not shared)
        else:
            network.save_pretrained(folder)

    def load(self, folder: Path) -> Any:
        """Read what was written, by its library alone; of two classes of a config by the one that trains."""
        if self.library == "timm":
            return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        named = json.loads((folder / "config.json").read_text())["architectures"][0]
        return getattr(transformers, named.removesuffix("WithTeacher")).from_pretrained(folder).eval()


def family_of(library: str, name: str) -> Family:
    """A family by its library and name."""
    if library != "timm":
        return Family(library, name, classifiers()[name])
    network = smallest(name)
    with torch.device("meta"):
        large = _parameters(network) > LARGE
    return Family(library, name, network, arguments=_shallow(network) if large else {}, large=large)


def _shallow(network: str) -> dict[str, Any]:
    images = torch.zeros(1, *timm.get_pretrained_cfg(network).input_size, device="meta")
    with torch.device("meta"):
        whole = _parameters(network)
        for arguments in SHALLOW:
            with contextlib.suppress(Exception):  # a network that has no such argument, or another number of stages
                if _parameters(network, **arguments) < whole:
                    timm.create_model(network, **arguments).eval()(images)
                    return arguments
    return {}


def _parameters(network: str, **arguments: Any) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sum(p.numel() for p in timm.create_model(network, **arguments).parameters())


def other_arguments(family: Family) -> Iterator[tuple[str, list[nn.Module]]]:
    """Name of an argument, and two networks of timm built with it otherwise than their library does by default.

    Args:
        family: of timm.
    """
    usual = family.make(0)
    for arguments in ARGUMENTS:
        try:
            networks: list[Any] = [family.make(seed, **arguments) for seed in range(2)]
            with torch.no_grad():
                networks[0](torch.zeros(1, *networks[0].pretrained_cfg["input_size"]))
        except Exception:  # a network that has no such argument, or not this value
            continue
        if repr(networks[0]) != repr(usual):
            yield next(iter(arguments)), networks


def _size(network: Any) -> tuple[int, int]:
    """Small, where a network of timm takes it."""
    own = network.pretrained_cfg["input_size"]
    if network.pretrained_cfg.get("fixed_input_size"):
        return own[1:]
    for size in (SMALL, 2 * SMALL):
        try:
            with torch.no_grad():
                network.eval()(torch.zeros(1, own[0], size, size))
        except Exception:  # whatever a network raises on a small image
            continue
        return size, size
    return own[1:]


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Weights as of a trained network: nothing of one value or near zero, statistics of BatchNorm and scales too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if tensor.squeeze().ndim > 1:
                tensor.normal_(0, (tensor.shape[0] / tensor.numel()) ** 0.5, generator=generator)
            else:
                _uniform(tensor, name.endswith("bias"), generator)
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                _uniform(buffer, name.endswith("mean"), generator)
    return network.eval()


def _uniform(tensor: torch.Tensor, around_zero: bool, generator: torch.Generator) -> None:
    tensor.uniform_(*((-0.1, 0.1) if around_zero else (0.5, 1.0)), generator=generator)


def classifiers() -> dict[str, str]:
    """Class -> model type, of every image classifier that transformers lists for its own networks."""
    names = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    pairs = [(kind, (found,) if isinstance(found, str) else found) for kind, found in names.items()]
    return {name: kind for kind, found in pairs for name in found if kind != "timm_wrapper"}


def _class(name: str, config: Any) -> Any:
    found = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    return next(one for one in (found if isinstance(found, tuple) else (found,)) if one.__name__ == name)


def smallest(module: str) -> str:
    """The network of fewest parameters in a module of timm."""
    with torch.device("meta"):
        sizes = {name: _parameters(name) for name in timm.list_models(module=module)}
    return min(sizes, key=lambda name: (sizes[name], name))
