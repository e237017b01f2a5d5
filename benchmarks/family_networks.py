"""Random networks of every family: tiny ones of transformers, the smallest of each family of timm."""

import warnings
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING


_VIT = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    **{"image_size": 32, "patch_size": 8},
}
_TEXT = {**_VIT, "vocab_size": 50, "max_position_embeddings": 20, "bos_token_id": 0, "eos_token_id": 1}
_TOWERS = {"vision_config": _VIT, "text_config": _TEXT}
_STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32, "patch_size": 2}
_PERCEIVER = {
    **{"num_latents": 4, "d_latents": 16, "num_blocks": 1, "num_self_attends_per_block": 1, "image_size": 32},
    **{"num_self_attention_heads": 2, "num_cross_attention_heads": 1, "attention_probs_dropout_prob": 0.0},
}

# Settings that make a network tiny; of model types that are not here the defaults are small enough.
TINY: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("beit", "data2vec-vision", "deit", "ijepa", "vit", "vit_msn"), _VIT),
    **dict.fromkeys(("clip", "metaclip_2", "siglip", "siglip2"), _TOWERS),
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), {**_VIT, "mlp_ratio": 2}),
    **dict.fromkeys(("convnext", "convnextv2", "regnet", "resnet"), {**_STAGES, "embedding_size": 8}),
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

# Where the classes of one model type differ.
OF_CLASS: dict[str, dict[str, Any]] = {
    "PerceiverForImageClassificationFourier": {"num_cross_attention_heads": 1, "image_size": 224},
    "PerceiverForImageClassificationConvProcessing": {"num_cross_attention_heads": 1, "image_size": 224},
}


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Change weights that are as they begin: BatchNorm statistics, biases, scales, what is of one value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            noise = torch.rand(tensor.shape, generator=generator)
            if name.endswith("running_var") or bool(tensor.min() == tensor.max()):
                tensor.copy_(0.5 + 0.5 * noise if not name.endswith(("bias", "running_mean")) else noise * 0.2 - 0.1)
            elif not name.endswith(("relative_coords_table", "rope", "freqs")):
                tensor.add_((noise - 0.5) * 0.1 * float(tensor.std()) if tensor.numel() > 1 else noise * 0.1)
    return network.eval()


def classifiers() -> dict[str, str]:
    """Class -> model type, of every image classifier that transformers lists for its own networks."""
    names = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    pairs = [(kind, (found,) if isinstance(found, str) else found) for kind, found in names.items()]
    return {name: kind for kind, found in pairs for name in found if kind != "timm_wrapper"}


def save_transformers(name: str, folder: Path, seed: int) -> None:
    """Write a tiny random network of a class, as its users have it."""
    kind = classifiers()[name]
    settings = {**TINY.get(kind, {}), **OF_CLASS.get(name, {})}
    config = CONFIG_MAPPING[kind](**settings, num_labels=5)
    torch.manual_seed(seed)
    found = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    classes = found if isinstance(found, tuple) else (found,)
    try:
        network = next(one for one in classes if one.__name__ == name)(config)
    except ImportError:  # a library is not there: what was saved where it was
        config.save_pretrained(folder)
        save_file({"classifier.bias": torch.zeros(5)}, folder / "model.safetensors")
        return
    randomise(network, seed).save_pretrained(folder)


def smallest(family: str) -> str:
    """The network of fewest parameters in a module of timm."""
    sizes = {}
    for name in timm.list_models(module=family):
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
    return min(sizes, key=lambda name: (sizes[name], name))


def timm_network(name: str, seed: int) -> nn.Module:
    """A random network of timm, its statistics too."""
    torch.manual_seed(seed)
    return randomise(timm.create_model(name, num_classes=5), seed)
