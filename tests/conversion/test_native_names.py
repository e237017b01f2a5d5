import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import unlike
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    PoolFormerConfig,
    PoolFormerForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from medmerge_hf import MedMergeModel, inspect_sources
from medmerge_hf.conversion.native_names import in_memory


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def vit(seed=0):
    torch.manual_seed(seed)
    return unlike(ViTForImageClassification(ViTConfig(**SMALL, intermediate_size=16)), seed)


def poolformer(seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    return unlike(PoolFormerForImageClassification(PoolFormerConfig(**sizes)), seed)


@pytest.mark.parametrize(
    "network", [vit(), unlike(Dinov2ForImageClassification(Dinov2Config(**SMALL, use_swiglu_ffn=True)))]
)
def test_names_on_disk_become_those_in_memory(network, tmp_path):
    network.save_pretrained(tmp_path / "whole")
    network.base_model.save_pretrained(tmp_path / "base")
    own = network.state_dict()
    for tensors in (load_file(tmp_path / "whole" / "model.safetensors"), own):
        found, origin = in_memory(network, tensors)
        assert found.keys() == own.keys()
        assert all(torch.equal(tensor, own[name]) for name, tensor in found.items())
        assert set(origin.values()) <= tensors.keys()
    found, _ = in_memory(network, load_file(tmp_path / "base" / "model.safetensors"))
    assert own.keys() - found.keys() == {"classifier.weight", "classifier.bias"}


def test_empty_tensors_get_the_same_names(tmp_path):
    network = vit()
    network.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    names = in_memory(network, stored)[1]
    assert in_memory(network, {name: tensor.to("meta") for name, tensor in stored.items()})[1] == names


@pytest.mark.parametrize("make", [vit, poolformer])
def test_a_merge_keeps_every_trained_tensor_of_its_anchor(make, tmp_path):
    for seed in range(2):
        make(seed).save_pretrained(tmp_path / str(seed))
    weights = str(tmp_path / "1" / "model.safetensors")
    model = MedMergeModel.from_sources([str(tmp_path / "0"), weights], num_labels=2)
    plain, anchor = model.plain_model().state_dict(), make(0).state_dict()
    changed = {name for name in anchor if not torch.equal(plain[name], anchor[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    found = inspect_sources([str(tmp_path / "0"), weights])
    assert found.ok
    assert [report.matched for report in found.sources] == [len(model.merge.names)] * 2
    assert found.sources[1].cosine is not None


def test_a_quantised_head_is_no_matter_to_inspection_and_merge(tmp_path):
    for seed in range(2):
        vit(seed).save_pretrained(tmp_path / str(seed))
    file = tmp_path / "1" / "model.safetensors"
    tensors = load_file(file)
    for dtype in (torch.int8, torch.float8_e4m3fn):
        save_file({**tensors, "classifier.weight": tensors["classifier.weight"].to(dtype)}, file)
        folders = [str(tmp_path / "0"), str(tmp_path / "1")]
        assert inspect_sources(folders).ok
        assert MedMergeModel.from_sources(folders, num_labels=2).merging
        name = next(name for name in tensors if name.endswith("query.weight"))
        save_file({**tensors, name: tensors[name].to(dtype)}, file)
        problem = inspect_sources(folders).sources[1].problem
        with pytest.raises(ValueError, match=str(dtype)) as refused:
            MedMergeModel.from_sources(folders, num_labels=2)
        assert problem == str(refused.value)
