import json

import pytest
import timm
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from tiny import network
from transformers import AutoConfig, AutoModelForImageClassification

from medmerge_hf import MedMergeConfig, MedMergeModel
from medmerge_hf.errors import StateError


SETTINGS = {"granularity": "layer", "exclude": ["layer4.*"], "id2label": {2: "c", 0: "ill", 1: "well"}}


@pytest.fixture
def files(tmp_path):
    for seed in range(2):
        save_file(network(seed).state_dict(), tmp_path / f"{seed}.safetensors")
    return [str(tmp_path / f"{seed}.safetensors") for seed in range(2)]


@pytest.fixture
def merge(files):
    return MedMergeModel.from_sources(files, architecture="test_resnet", image_size=32, init=0.3, **SETTINGS)


def assert_same_merge(config, model):
    assert isinstance(config, MedMergeConfig)
    apart = ("record", "architectures", "dtype", "transformers_version", "_name_or_path")
    dicts = [json.loads(c.to_json_string()) for c in (config, model.config)]
    ours, theirs = ({k: v for k, v in found.items() if k not in apart} for found in dicts)
    assert ours == theirs
    assert len(config.sources) == 2


def test_the_config_of_an_export_is_that_of_its_merge(merge, tmp_path):
    merge.save_pretrained(tmp_path / "out")
    assert_same_merge(MedMergeConfig.from_pretrained(tmp_path / "out"), merge)
    assert AutoConfig.from_pretrained(tmp_path / "out").model_type == "timm_wrapper"
    timm.models.save_for_hf(network(0), tmp_path / "plain", safe_serialization=True)
    with pytest.raises(StateError, match=r"timm_wrapper without medmerge/config\.json: nothing was merged"):
        MedMergeConfig.from_pretrained(tmp_path / "plain")


def test_the_config_of_an_export_on_the_hub_by_revision_and_subfolder(hub, merge, tmp_path):
    merge.push_to_hub("tester/merged", private=False)
    first = HfApi().model_info("tester/merged").sha
    other = MedMergeModel.from_sources([network(0), network(1)], num_labels=2)
    other.push_to_hub("tester/merged")
    merge.save_pretrained(tmp_path / "out")
    HfApi().upload_folder(repo_id="tester/merged", folder_path=tmp_path / "out", path_in_repo="runs/a")
    assert MedMergeConfig.from_pretrained("tester/merged").granularity == "filter"
    for place in ({"revision": first}, {"subfolder": "runs/a"}):
        config = MedMergeConfig.from_pretrained("tester/merged", **place)
        assert (config.granularity, config.exclude, config.id2label) == ("layer", ["layer4.*"], merge.config.id2label)
        assert not MedMergeModel.from_pretrained("tester/merged", **place).merging


def test_a_hub_out_of_reach_is_not_taken_for_an_ordinary_model(hub, merge, tmp_path):
    merge.push_to_hub("tester/merged")
    hub.fault = lambda index, method, path: "cut" if "medmerge" in path else None
    with pytest.raises(OSError, match="tester/merged"):
        MedMergeConfig.from_pretrained("tester/merged", cache_dir=tmp_path)


def test_auto_classes_know_a_checkpoint_of_either_stage(merge, images, tmp_path):
    merge.save_pretrained(tmp_path / "merge", collapse=False)
    expected = merge(images).logits
    merge.collapse()
    merge.save_pretrained(tmp_path / "finetune", collapse=False)
    for name, merging in (("merge", True), ("finetune", False)):
        assert_same_merge(AutoConfig.from_pretrained(tmp_path / name), merge)
        found = AutoModelForImageClassification.from_pretrained(tmp_path / name)
        assert (type(found), found.merging) == (MedMergeModel, merging)
        assert torch.allclose(found(images).logits, expected, atol=1e-6)
        with pytest.raises(ValueError, match="knows no mergin"):
            AutoModelForImageClassification.from_pretrained(tmp_path / name, mergin=True)


def as_0_1_0(config):
    """The config of a merge as version 0.1.0 wrote it."""
    sources = [{**source, "dialect": source["variant"]} for source in config["sources"]]
    for source in sources:
        source.pop("variant")
        source.pop("entry", None)
    old = {"sources": sources, "align": {"method": "weights", "jointly": False} if config.get("align") else {}}
    return {**config, **old, "kernel_dropout": 0.0}


def rewrite(file):
    file.write_text(json.dumps(as_0_1_0(json.loads(file.read_text()))))


def test_exports_and_checkpoints_of_0_1_0_load(files, images, tmp_path):
    given = [files[0], {"id": files[1], "variant": {"bn_eps": 1e-3}}]
    model = MedMergeModel.from_sources(given, architecture="test_resnet", image_size=32, align="weights", **SETTINGS)
    torch.nn.init.normal_(model.merge.source_bias, 0.3, 0.1)
    expected = model(images).logits
    model.save_pretrained(tmp_path / "out")
    rewrite(tmp_path / "out" / "medmerge" / "config.json")
    model.save_pretrained(tmp_path / "checkpoint", collapse=False)
    rewrite(tmp_path / "checkpoint" / "config.json")
    config = MedMergeConfig.from_pretrained(tmp_path / "out")
    assert config.sources[1]["variant"]["bn_eps"] == 1e-3
    assert not any("dialect" in source for source in config.sources)
    ways = {"collapsed": ("out", {}), "merging": ("out", {"merging": True}), "checkpoint": ("checkpoint", {})}
    for name, (folder, options) in ways.items():
        again = MedMergeModel.from_pretrained(tmp_path / folder, **options)
        assert torch.allclose(again(images).logits, expected, atol=1e-6), name
    again.save_pretrained(tmp_path / "again")
    assert "align='weights'" in (tmp_path / "again" / "README.md").read_text()


def test_a_fine_tuning_checkpoint_of_0_1_0_was_an_export_and_still_resumes_one(merge, images, tmp_path):
    merge.collapse()
    merge.save_pretrained(tmp_path / "checkpoint-2")
    expected = merge(images).logits
    with torch.no_grad():
        merge.network.timm_model.conv1[0].weight.add_(1)
    merge.load_state_dict(load_file(tmp_path / "checkpoint-2" / "model.safetensors"), strict=False)
    assert torch.allclose(merge(images).logits, expected, atol=1e-6)


def test_names_of_classes_are_in_the_order_of_their_indices():
    names = {str(index): f"class {index}" for index in range(12)}
    config = MedMergeConfig(id2label=dict(sorted(names.items())))
    assert list(config.id2label.items()) == [(index, f"class {index}") for index in range(12)]
