import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import native_vit
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

from medmerge_hf import MedMergeModel
from medmerge_hf.errors import StateError


NAMES = {0: "a", 1: "b", 2: "c"}


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("belonging")
    for seed in range(2):
        native_vit(seed).save_pretrained(folder / str(seed))
    files = [str(folder / str(seed)) for seed in range(2)]
    MedMergeModel.from_sources(files, id2label=NAMES, init=0.3).save_pretrained(folder / "out")
    return folder / "out"


@pytest.fixture
def copy(export, tmp_path):
    return shutil.copytree(export, tmp_path / "copy")


def assert_noticed(folder, words):
    for options in ({}, {"merging": True}):
        with pytest.raises(StateError, match=f"was changed after its export.*{words}"):
            MedMergeModel.from_pretrained(folder, **options)


def test_an_export_as_it_was_written_loads_in_both_states(copy):
    for merging in (False, True):
        assert MedMergeModel.from_pretrained(copy, merging=merging).merging == merging


def test_weights_that_were_trained_on_elsewhere_are_noticed_and_load_as_what_they_are(copy, export, images, tmp_path):
    network_ = AutoModelForImageClassification.from_pretrained(copy)
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=1, use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    data = [{"pixel_values": image, "labels": 0} for image in images]
    trainer = Trainer(network_, arguments, train_dataset=data)
    trainer.train()
    trainer.save_model(tmp_path / "tuned")
    with pytest.raises(StateError, match="is a plain vit without medmerge"):
        MedMergeModel.from_pretrained(tmp_path / "tuned")
    trainer.save_model(copy)
    assert_noticed(copy, "sha256")
    again = AutoModelForImageClassification.from_pretrained(copy)  # the ways out that the message names
    assert torch.equal(again(images).logits, network_.eval()(images).logits)
    assert MedMergeModel.from_sources([str(copy), str(export)], num_labels=2).merging


def test_a_head_for_other_classes_is_noticed(copy):
    other = AutoModelForImageClassification.from_pretrained(copy, num_labels=5, ignore_mismatched_sizes=True)
    other.save_pretrained(copy)
    assert_noticed(copy, r"classes LABEL_0, .* \(5\), medmerge/config.json a, b, c \(3\)")


def test_classes_that_were_renamed_in_one_place_are_noticed(copy):
    config = json.loads((copy / "config.json").read_text())
    config["id2label"]["0"] = "renamed"
    (copy / "config.json").write_text(json.dumps(config))
    assert_noticed(copy, r"classes renamed, b, c \(3\)")


@pytest.mark.parametrize("file", ["model.safetensors", "medmerge/state.safetensors"])
def test_tensors_of_another_export_are_noticed(copy, file):
    tensors = {name: tensor + 0.1 for name, tensor in load_file(copy / file).items() if tensor.is_floating_point()}
    save_file({**load_file(copy / file), **tensors}, copy / file, metadata={"format": "pt"})
    assert_noticed(copy, "sha256")


def test_an_export_of_one_network_is_watched_too(tmp_path, model):
    model.collapse().merge_state = {}
    model.config.sources = model.config.sources[:1]
    model.save_pretrained(tmp_path / "out")
    assert not MedMergeModel.from_pretrained(tmp_path / "out").merging
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    save_file({**tensors, "fc.bias": tensors["fc.bias"] + 1}, tmp_path / "out" / "model.safetensors")
    with pytest.raises(StateError, match="was changed after its export"):
        MedMergeModel.from_pretrained(tmp_path / "out")


def test_an_export_without_a_noted_hash_still_loads(copy):
    config = json.loads((copy / "medmerge" / "config.json").read_text())
    assert config["record"].pop("tensors_sha256")
    (copy / "medmerge" / "config.json").write_text(json.dumps(config))
    assert not MedMergeModel.from_pretrained(copy).merging
