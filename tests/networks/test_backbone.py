import pytest
import timm
import torch
from tiny import network
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CvtConfig,
    CvtForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    LevitConfig,
    LevitForImageClassification,
    PoolFormerConfig,
    PoolFormerForImageClassification,
)

from medmerge_hf.errors import SettingsError
from medmerge_hf.networks.backbone import backbone_parameters, backbone_state, head_modules, second_names
from medmerge_hf.networks.build import build_network, network_config
from medmerge_hf.networks.caches import clear_caches
from medmerge_hf.networks.timm_config import timm_config


@pytest.mark.parametrize(
    ("kind", "config", "head", "kept"),
    [
        (CLIPForImageClassification, CLIPConfig, "classifier", "vision_model.post_layernorm.weight"),
        (CvtForImageClassification, CvtConfig, "classifier", "layernorm.weight"),
        (DeiTForImageClassification, DeiTConfig, "classifier", "deit.layernorm.weight"),
        (LevitForImageClassification, LevitConfig, "classifier.linear", "classifier.batch_norm.weight"),
        (PoolFormerForImageClassification, PoolFormerConfig, "classifier", "norm.weight"),
    ],
)
def test_the_head_is_what_the_number_of_classes_shapes(kind, config, head, kept):
    with torch.device("meta"):
        found = kind(config())
    assert head_modules(found) == (head,)
    names = backbone_parameters(found).keys()
    assert kept in names
    assert names | {f"{head}.weight", f"{head}.bias"} == dict(found.named_parameters()).keys()


def test_a_tensor_with_two_names_is_one_of_the_backbone():
    block = nn.Linear(2, 2)
    twice = nn.Sequential(block, nn.ReLU(), block)
    assert second_names(twice) == {"2.weight": "0.weight", "2.bias": "0.bias"}
    wrapped = build_network(network_config(timm_config("test_resnet"), num_labels=2))
    wrapped.timm_model.again = wrapped.timm_model.layer1
    assert not any(name.startswith("again") for name in backbone_state(wrapped))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("imagegpt", "takes input_ids, not images alone"),
        ("siglip2", "takes spatial_shapes, images of any shape"),
        ("bert", "no image classifier for 'bert'"),
    ],
)
def test_what_cannot_classify_plain_images_is_refused_with_the_reason(kind, why):
    with pytest.raises(SettingsError, match=why):
        build_network(network_config({"model_type": kind}))


def test_a_config_that_contradicts_itself_is_refused():
    with pytest.raises(SettingsError, match=r"(?s)config of this pp_lcnet network is refused.*must have 5 stages"):
        network_config({"model_type": "pp_lcnet", "block_configs": [[[3, 16, 32, 1, False]]]})


def test_position_biases_that_timm_keeps_are_forgotten():
    levit, images = timm.create_model("levit_128s").eval(), torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        before = levit(images)
        for name, parameter in levit.named_parameters():
            if "attention_biases" in name:
                parameter.normal_(0, 5)
        assert torch.equal(levit(images), before)
        clear_caches(levit)
        assert not torch.allclose(levit(images), before)


def test_nothing_else_is_forgotten():
    resnet = network(0)
    state = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    clear_caches(resnet)
    assert all(torch.equal(tensor, state[name]) for name, tensor in resnet.state_dict().items())
