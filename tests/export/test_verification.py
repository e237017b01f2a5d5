"""What is saved is what was trained: each way in which an export can differ is found before it takes its place."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import network
from transformers import AutoConfig, AutoImageProcessor, ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from medmerge_hf import MedMergeModel, resolve_preprocessing
from medmerge_hf.errors import ExportError, SettingsError
from medmerge_hf.export.verification import verify_export


PHOTO = Image.fromarray(np.random.default_rng(1).integers(0, 256, (61, 83, 3), dtype=np.uint8))

ODD = {2: "naïve/é — 語", 0: 'a "quoted" \\name', 1: "|\n,;", 3: " "}


def native(folder, seed):
    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
    ResNetForImageClassification(config).save_pretrained(folder / str(seed))
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / str(seed))
    return str(folder / str(seed))


@pytest.fixture(params=["timm", "transformers"])
def pair(request, tmp_path):
    return [network(seed) if request.param == "timm" else native(tmp_path, seed) for seed in range(2)]


@pytest.mark.parametrize("given", [ODD, {i: f"class/{i}" for i in reversed(range(1000))}])
def test_each_index_has_its_name_in_the_export(pair, tmp_path, given):
    MedMergeModel.from_sources(pair, id2label=given, image_size=32).save_pretrained(tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").id2label == given
    again = MedMergeModel.from_pretrained(tmp_path / "out").config
    assert (again.id2label, again.label2id) == (given, {name: index for index, name in given.items()})
    assert list(again.id2label) == sorted(given)


def test_names_that_were_given_after_the_training_are_exported(model, tmp_path):
    model.config.id2label = {2: "z", 0: "x", 1: "y"}
    model.save_pretrained(tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").id2label == {0: "x", 1: "y", 2: "z"}
    model.config.id2label = {0: "x", 1: "y"}
    with pytest.raises(SettingsError, match="names 2 classes, the model has 3"):
        model.save_pretrained(tmp_path / "out")
    model.config.id2label = {0: "x", 1: "y", 3: "z"}
    with pytest.raises(SettingsError, match="numbered 0 to K - 1"):
        model.save_pretrained(tmp_path / "out")


def edit(file, **changes):
    values = json.loads(file.read_text())
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(values))


def swap_names(folder):
    edit(folder / "config.json", label_names=["b", "a", "c"])


def normalise_otherwise(folder):
    edit(folder / "config.json", pretrained_cfg={"mean": [0.4, 0.4, 0.4]})


def crop_otherwise(folder):
    edit(folder / "config.json", pretrained_cfg={"crop_pct": 0.5})


def pool_otherwise(folder):
    edit(folder / "config.json", model_args={"global_pool": "max"})


def leave_a_class_out(folder):
    edit(folder / "config.json", label_names=["a", "b"], num_classes=2)


def change_a_weight(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["fc.bias"][1] += 1e-6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def leave_a_weight_out(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["fc.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap_names, "Class 0 is 'a' in the model and 'b' in the export"),
        (normalise_otherwise, "preprocessing, read by transformers, makes other pixels"),
        (crop_otherwise, "preprocessing, read by transformers, makes other pixels"),
        (pool_otherwise, "computes other logits"),
        (change_a_weight, r"fc\.bias reads back with other values"),
        (leave_a_weight_out, r"missing_keys: .*fc\.bias"),
        (leave_a_class_out, "cannot be read back"),
    ],
)
def test_an_export_that_differs_is_refused(sources, tmp_path, damage, message):
    model = MedMergeModel.from_sources(sources, id2label={0: "a", 1: "b", 2: "c"}, image_size=96)
    model.save_pretrained(tmp_path / "out")
    plain = model.plain_model()
    verify_export(plain, tmp_path / "out", model.image_processor)
    damage(tmp_path / "out")
    with pytest.raises(ExportError, match=message):
        verify_export(plain, tmp_path / "out", model.image_processor)


@pytest.mark.parametrize("channels", [1, 3])
def test_all_who_read_a_timm_export_make_the_pixels_of_the_training(tmp_path, channels):
    pair = [network(seed, in_chans=channels) for seed in range(2)]
    model = MedMergeModel.from_sources(pair, num_labels=2)
    model.save_pretrained(tmp_path / "out")
    photo = PHOTO.convert("L" if channels == 1 else "RGB")
    trained = resolve_preprocessing(model).eval_transform(PHOTO)
    assert len(trained) == channels
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert torch.equal(processor(photo, return_tensors="pt")["pixel_values"][0], trained)
    plain = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(plain), is_training=False)
    assert torch.equal(transform(photo), trained)


def test_a_processor_that_timm_does_not_read_is_refused(model, tmp_path):
    model.image_processor = ViTImageProcessor(size={"height": 32, "width": 32})
    with pytest.raises(ExportError, match="makes other pixels"):
        model.save_pretrained(tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stated", ["unit", "symmetric", {"mean": [0.3], "std": [0.2]}, "caffe"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_stated_input_has_as_many_means_as_channels(tmp_path, stated, channels):
    for seed in range(2):
        save_file(network(seed, in_chans=channels).state_dict(), tmp_path / f"{seed}.safetensors")
    anchor = {"id": str(tmp_path / "0.safetensors"), "input": stated}
    model = MedMergeModel.from_sources(
        [anchor, str(tmp_path / "1.safetensors")], architecture="test_resnet", num_labels=2
    )
    model.save_pretrained(tmp_path / "out")
    cfg = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert (len(cfg["mean"]), len(cfg["std"])) == (channels, channels)


def test_networks_of_other_channels_than_images_have_are_exported_without_a_test_image(tmp_path):
    for seed in range(2):
        torch.manual_seed(seed)
        config = ResNetConfig(num_channels=4, embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
        ResNetForImageClassification(config).save_pretrained(tmp_path / str(seed))
    model = MedMergeModel.from_sources([str(tmp_path / "0"), str(tmp_path / "1")], num_labels=2)
    model.save_pretrained(tmp_path / "out")
    assert MedMergeModel.from_pretrained(tmp_path / "out")(torch.rand(1, 4, 64, 64)).logits.shape == (1, 2)
