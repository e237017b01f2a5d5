import pytest
import torch

from medmerge_hf.networks.timm_config import image_channels, timm_config


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("xception", "legacy_xception"),
        ("convnext_tiny_in22k", "convnext_tiny"),
        ("vit_small_patch16_224_in21k", "vit_small_patch16_224"),
        ("seresnet50", "seresnet50"),
        ("gluon_resnet50_v1b", "resnet50"),
    ],
)
def test_a_name_that_timm_had_before_is_the_network_that_it_is_now(name, now):
    config = timm_config(name)
    assert config["architecture"] == now
    assert config["pretrained_cfg"]["input_size"]


@pytest.mark.parametrize(
    ("name", "stem", "shape", "channels"),
    [
        ("test_resnet", "conv1.0", (16, 1, 3, 3), 1),
        ("tresnet_m", "body.conv1.conv", (64, 48, 3, 3), 3),
        ("tresnet_m", "body.conv1.conv", (64, 16, 3, 3), 1),
        ("gmlp_ti16_224", "stem.proj", (128, 4, 16, 16), 4),
    ],
)
def test_channels_of_images_are_told_from_the_stem_also_where_pixels_are_folded_before(name, stem, shape, channels):
    config = timm_config(name)
    assert image_channels(config, {f"module.{stem}.weight": torch.empty(shape, device="meta")}) == channels
    assert image_channels(config, {}) == 3
