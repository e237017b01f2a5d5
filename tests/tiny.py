"""Tiny networks that tests share."""

import timm
import torch
from transformers import ViTConfig, ViTForImageClassification


def network(seed: int, name: str = "test_resnet", **kwargs):
    """A tiny network whose weights, BatchNorm statistics included, follow from the seed."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **kwargs)
    for key, tensor in model.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1)
        elif key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return model.eval()


def unlike(network, seed=0):
    """A network whose weights are far from how they begin: BatchNorm statistics, biases, scales."""
    torch.manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias", "bias_table", "cls_token", "position_embeddings")):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("gamma", "layer_scale_parameter")):
            tensor.uniform_(0.5, 1.0)
        elif tensor.ndim == 2 and tensor.is_floating_point():
            tensor.normal_(0, 0.2)
    return network.eval()


def native_vit(seed: int, **config):
    """A tiny ViT of transformers for images of 32 x 32, whose weights follow from the seed."""
    torch.manual_seed(seed)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTForImageClassification(ViTConfig(**size, image_size=32, patch_size=8, **config)).eval()
