import copy
import json

import pytest
from tiny import native_vit

from medmerge_hf import MedMergeConfig, MedMergeModel
from medmerge_hf.errors import SettingsError


@pytest.fixture(params=["fresh", "empty", "timm", "vit"])
def config(request):
    if request.param == "timm":
        return request.getfixturevalue("model").config
    if request.param == "vit":
        return MedMergeModel.from_sources([native_vit(seed) for seed in range(2)], num_labels=3).config
    if request.param == "empty":
        return MedMergeConfig()
    record = {"data": {"mean": (0.5, 0.5), "counts": {0: 3}}}
    return MedMergeConfig(network={"model_type": "vit", "image_size": (8, 8)}, init=(0.2, 0.3), record=record)


def test_a_config_is_equal_to_what_is_read_back_of_it(config, tmp_path):
    config.to_json_file(tmp_path / "whole.json", use_diff=False)
    config.save_pretrained(tmp_path / "below" / "folder")
    found = {
        "dict": MedMergeConfig.from_dict(config.to_dict()),
        "difference": MedMergeConfig.from_dict(config.to_diff_dict()),
        "text": MedMergeConfig.from_dict(json.loads(config.to_json_string())),
        "file": MedMergeConfig.from_json_file(tmp_path / "whole.json"),
        "folder": MedMergeConfig.from_pretrained(tmp_path / "below", subfolder="folder"),
        "copy": copy.deepcopy(config),
    }
    for way, again in found.items():
        assert again == config, way
        assert again.to_dict() == config.to_dict(), way


def test_configs_that_differ_are_not_equal(config):
    for change in ({"granularity": "layer"}, {"num_labels": 9}, {"record": {"recipe": "other"}}):
        other = copy.deepcopy(config)
        for name, value in change.items():
            setattr(other, name, value)
        assert other != config
    assert config != config.to_dict()


def test_what_is_set_later_is_kept_as_json_has_it():
    config = MedMergeConfig()
    config.record = {"splits": {1: ("a", "b")}}
    config.network = {"pretrained_cfg": {"mean": (0.5,)}}
    assert config.record == {"splits": {"1": ["a", "b"]}}
    assert config.network == {"pretrained_cfg": {"mean": [0.5]}}


def test_sources_are_dicts():
    with pytest.raises(SettingsError, match="sources of a config are dicts"):
        MedMergeConfig(sources=["resnet18.a1_in1k"])


@pytest.mark.parametrize(
    "common",
    [
        {"output_hidden_states": True},
        {"return_dict": False},
        {"problem_type": "regression"},
        {"id2label": {0: "x", 1: "y", 2: "z"}},
        {"dtype": "float16"},
        {"chunk_size_feed_forward": 5},
        {"architectures": ["MedMergeModel"]},
    ],
)
def test_what_every_config_has_survives(common, tmp_path):
    config = MedMergeConfig(**common)
    config.save_pretrained(tmp_path)
    again = MedMergeConfig.from_pretrained(tmp_path)
    for name in common:
        assert getattr(again, name) == getattr(config, name)


def test_labels_follow_their_number():
    config = MedMergeConfig(num_labels=5)
    assert (len(config.id2label), len(config.label2id)) == (5, 5)
    config.num_labels = 3
    assert (len(config.id2label), config.label2id["LABEL_2"]) == (3, 2)


def test_keywords_of_a_call_override_a_file_and_unknown_ones_are_handed_back(tmp_path):
    MedMergeConfig(num_labels=3).save_pretrained(tmp_path)
    config, rest = MedMergeConfig.from_pretrained(
        tmp_path, output_hidden_states=True, unknown=1, return_unused_kwargs=True
    )
    assert (config.output_hidden_states, config.num_labels, rest) == (True, 3, {"unknown": 1})
