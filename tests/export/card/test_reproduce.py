"""The card says what was merged, and its snippet makes the same merge."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny import network
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from medmerge_hf import MedMergeModel


CALLS = {
    "nothing": {"id2label": {0: "a", 1: "b's"}},
    "parts": {"num_labels": 2, "include": ["layer*"], "exclude": ["layer4.*"], "freeze": ["layer1.*"]},
    "constraint": {"num_labels": 2, "constraint": "convex", "init": [0.1, 0.2, 0.3], "granularity": "layer"},
    "kind": {"id2label": {1: "é", 0: 'a "b"'}, "problem_type": "multi_label_classification"},
    "memory": {"num_labels": 2, "source_dtype": "bfloat16", "align": "weights"},
    "images": {"num_labels": 2, "align": "activations"},
}


@pytest.fixture
def sources(hub, tmp_path, monkeypatch):
    """A file, a file of which more has to be said, a folder, a repository; in the working folder."""
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        save_file(network(seed).state_dict(), tmp_path / f"{seed}.safetensors")
    timm.models.save_for_hf(network(2), tmp_path / "folder", safe_serialization=True)
    timm.models.push_to_hf_hub(network(3), "tester/source", safe_serialization=True)
    more = {"id": "1.safetensors", "input": {"mean": [0.3], "std": [0.2]}, "key_map": {"^conv1": "conv1"}}
    return ["0.safetensors", more | {"variant": {"bn_eps": 0.001}}, "folder", "tester/source"]


def snippet_of(card):
    return re.search(r"## Reproduce it.*?```python\n(.*?)```", card, flags=re.S)[1]


@pytest.mark.parametrize("call", CALLS)
def test_the_snippet_of_the_card_makes_the_same_merge(sources, images, tmp_path, call):
    given = {"architecture": "test_resnet", "image_size": 32, **CALLS[call]}
    if given.get("align") == "activations":
        given["align_images"] = [images]
    model = MedMergeModel.from_sources(sources, **given)
    model.save_pretrained(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    timm.models.push_to_hf_hub(network(9), "tester/source", safe_serialization=True)  # the revision is pinned
    found = {"images": [images]}
    exec(snippet_of(text), found)
    again, apart = found["model"], ("record", "architectures", "dtype")
    ours, theirs = ({k: v for k, v in m.config.to_dict().items() if k not in apart} for m in (model, again))
    assert theirs == ours
    expected, tensors = model.state_dict(), again.state_dict()
    assert not [name for name in expected if ".fc." not in name and not torch.equal(expected[name], tensors[name])]


def test_the_snippet_of_native_networks_keeps_the_size_of_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    for seed in range(2):
        torch.manual_seed(seed)
        ViTForImageClassification(ViTConfig(**size, image_size=32, patch_size=8)).save_pretrained(str(seed))
        ViTImageProcessor(size={"height": 96, "width": 96}).save_pretrained(str(seed))
    model = MedMergeModel.from_sources(["0", "1"], num_labels=2, image_size=32)
    model.save_pretrained("out")
    found = {}
    exec(snippet_of((tmp_path / "out" / "README.md").read_text()), found)
    assert found["model"].image_processor.to_dict() == model.image_processor.to_dict()


def merge_of(model, folder):
    model.save_pretrained(folder)
    return " ".join(
        re.search(r"## The merge\n(.*?)\n(\||!)", (folder / "README.md").read_text(), flags=re.S)[1].split()
    )


def test_the_card_says_what_was_merged(sources, tmp_path):
    make = {"architecture": "test_resnet", "num_labels": 2, "image_size": 32}
    text = merge_of(MedMergeModel.from_sources(sources[::2], **make), tmp_path / "all")
    assert "(0 is 0.safetensors, 1 is folder)" in text
    assert "All 45 parameter tensors of the backbone are merged. The classification head is new." in text
    assert "Other settings" not in text
    some = {"exclude": ["layer4.*"], "freeze": ["conv1.*"], "init": 0.3}
    model = MedMergeModel.from_sources(sources, **make, **some)
    text = merge_of(model, tmp_path / "some")
    assert "starting at 0.3 (0 is 0.safetensors, 1 is another source alone)" in text
    assert "Of the backbone's 45 parameter tensors 36 are merged, the others are those of 0.safetensors; " in text
    assert "settings that are not at their default: `exclude=['layer4.*']`, `freeze=['conv1.*']`." in text
    assert "BatchNorm statistics are as the merge stage left them." in text
    text = merge_of(model.collapse([torch.rand(8, 3, 32, 32)]), tmp_path / "collapsed")
    assert "BatchNorm statistics were estimated on the target images." in text


def test_a_network_without_batch_norm_has_no_word_on_its_statistics(tmp_path):
    pair = [network(seed, "test_vit", img_size=160) for seed in range(2)]
    text = merge_of(MedMergeModel.from_sources(pair, num_labels=2), tmp_path / "out")
    assert "BatchNorm" not in text
    assert "'memory:" in snippet_of((tmp_path / "out" / "README.md").read_text())
