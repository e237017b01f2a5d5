import pytest
import timm
import torch
from tiny import network, unlike
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from medmerge_hf import MedMergeModel, inspect_sources
from medmerge_hf.errors import ArchitectureMismatchError


SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
}


def merge(*sources, **settings):
    return MedMergeModel.from_sources(list(sources), num_labels=2, **settings)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"act_layer": "gelu"}, "act_layer"),
        ({"output_stride": 16}, "output_stride"),
        ({"global_pool": "max"}, "global_pool"),
        ({"norm_layer": "groupnorm1"}, "bn1.*norm_layer"),
        ({"layers": (1, 1, 2, 1)}, r"layer3\.1"),
    ],
)
def test_a_module_built_with_its_own_arguments_is_refused_and_they_are_named(arguments, named):
    for sources in ([network(0, **arguments), network(1)], [network(0), network(1, **arguments)]):
        with pytest.raises(ArchitectureMismatchError, match=rf"timm's test_resnet.*{named}.*save_for_hf"):
            merge(*sources)
        assert any("test_resnet" in (report.problem or "") for report in inspect_sources(sources).sources)


def test_the_way_out_for_a_module_with_its_own_arguments_works(tmp_path):
    arguments, folders = {"act_layer": "gelu", "output_stride": 16}, []
    for seed in range(2):
        folder = tmp_path / str(seed)
        timm.models.save_for_hf(
            network(seed, **arguments), folder, model_config={"model_args": arguments}, safe_serialization=True
        )
        folders.append(str(folder))
    model, anchor, images = merge(*folders), network(0, **arguments), torch.rand(1, 3, 64, 64)
    features = model.plain_model().timm_model.eval().forward_features(images)
    assert torch.allclose(features, anchor.forward_features(images), atol=1e-5)
    merge(folders[0], network(1, **arguments))  # a module like the anchor is taken, though it does not say how it is


def test_a_vision_transformer_in_memory_keeps_its_own_image_size():
    model = merge(network(0, "test_vit", img_size=64), network(1, "test_vit", img_size=64))
    assert model.network.config.pretrained_cfg["input_size"] == [3, 64, 64]
    assert "resampled" not in " ".join(model.config.sources[0]["notes"])
    with pytest.raises(ArchitectureMismatchError, match="act_layer"):
        merge(network(0, "test_vit", img_size=64, act_layer="relu"), network(1, "test_vit"), image_size=32)


def test_what_was_changed_after_building_is_noticed():
    changed = network(0)
    changed.layer1[0].act1 = nn.Sigmoid()
    with pytest.raises(ArchitectureMismatchError, match=r"layer1\.0\.act1 is a Sigmoid"):
        merge(changed, network(1))


def test_another_head_and_no_pooling_are_no_other_network():
    headed, bare = network(0), network(1, num_classes=0, global_pool="")
    headed.fc = nn.Sequential(nn.Linear(headed.num_features, 8), nn.ReLU(), nn.Linear(8, 3))
    assert merge(headed, bare, network(2, num_classes=0)).merging


def native(seed, kind=ViTForImageClassification, **settings):
    return unlike(kind(ViTConfig(**SMALL, **settings)), seed)


def test_a_transformers_module_is_what_its_config_says_or_refused():
    assert merge(native(0), native(1), native(2, ViTModel)).merging
    changed = native(1)
    changed.vit.layers[0].mlp.activation_fn = nn.ReLU()
    with pytest.raises(ArchitectureMismatchError, match="ViTForImageClassification of its config"):
        merge(native(0), changed)


def test_a_transformers_config_with_another_activation_is_another_network(tmp_path):
    for seed, act in enumerate(("gelu", "relu")):
        native(seed, hidden_act=act).save_pretrained(tmp_path / str(seed))
    with pytest.raises(ArchitectureMismatchError, match="another network"):
        merge(str(tmp_path / "0"), str(tmp_path / "1"))


def test_a_module_that_ran_before_is_merged_as_it_is_now():
    anchor, other = (network(seed, "levit_128s") for seed in range(2))
    for module in (anchor, other):
        module(torch.rand(1, 3, 224, 224))  # timm keeps position biases, with a history
        with torch.no_grad():
            module.stages[0].blocks[0].attn.attention_biases.mul_(2)
    model = merge(anchor, other)
    kept = model.plain_model().timm_model.stages[0].blocks[0].attn.attention_biases
    assert torch.equal(kept, anchor.stages[0].blocks[0].attn.attention_biases)
