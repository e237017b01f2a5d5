import pickle
import random

import datasets
import pytest
import torch
from PIL import Image
from tiny import network, unlike
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    EfficientNetForImageClassification,
    EfficientNetImageProcessor,
    MobileViTForImageClassification,
    MobileViTImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from medmerge_hf import (
    ImageDataset,
    MedMergeModel,
    MedMergeTrainer,
    MedMergeTrainingArguments,
    resolve_preprocessing,
)
from medmerge_hf.errors import PreprocessingError, SettingsError
from medmerge_hf.networks.backbone import backbone_state
from medmerge_hf.networks.preprocessing import check_preprocessing
from medmerge_hf.networks.timm_config import resize_timm_config


SQUARE = {"height": 32, "width": 32}


def gradient(mode="RGB", size=(90, 70)):
    return Image.linear_gradient("L").resize(size).convert(mode)


def test_image_size_and_statistics_come_from_the_anchor(model):
    pixels = resolve_preprocessing(model)
    assert (pixels.image_size, pixels.mean, pixels.std) == (32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert pixels.eval_transform(gradient()).shape == (3, 32, 32)
    assert pixels.train_transform()(gradient()).shape == (3, 32, 32)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_any_mode_become_rgb(model, mode):
    pixels = resolve_preprocessing(model)
    for transform in (pixels.eval_transform, pixels.train_transform()):
        assert transform(gradient(mode)).shape == (3, 32, 32)


def test_a_grey_network_takes_grey_images_and_its_card_says_so(tmp_path):
    grey = [network(seed, in_chans=1) for seed in range(2)]
    model = MedMergeModel.from_sources(grey, num_labels=2, image_size=32)
    assert resolve_preprocessing(model).eval_transform(gradient("RGB")).shape == (1, 32, 32)
    model.save_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline(" not in card
    assert "`pipeline` cannot feed it" in card
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")  # as the card does
    network_again = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    logits = network_again(**processor(gradient().convert("L"), return_tensors="pt")).logits
    ours = model.eval()(resolve_preprocessing(model).eval_transform(gradient())[None]).logits
    assert torch.allclose(logits, ours, atol=1e-5)


def test_pipeline_on_the_export_gives_the_probabilities_of_our_evaluation(model, tmp_path):
    model.save_pretrained(tmp_path / "out")
    image = gradient()
    with torch.no_grad():
        ours = model(resolve_preprocessing(model).eval_transform(image)[None]).logits.softmax(1)[0]
    theirs = {
        row["label"]: row["score"] for row in pipeline("image-classification", model=str(tmp_path / "out"))(image)
    }
    assert theirs == {name: pytest.approx(ours[i].item(), abs=1e-5) for i, name in enumerate("abc")}


def test_a_network_of_fixed_size_refuses_another():
    config = {"architecture": "vit", "pretrained_cfg": {"input_size": (3, 160, 160), "fixed_input_size": True}}
    with pytest.raises(SettingsError, match="160 px only, not 112"):
        resize_timm_config(config, 112)


def test_both_transforms_can_be_pickled(model):
    pixels, image = resolve_preprocessing(model), gradient()
    for transform in (pixels.eval_transform, pixels.train_transform()):
        assert pickle.loads(pickle.dumps(transform))(image).shape == (3, 32, 32)


@pytest.mark.slow
def test_a_spawned_worker_makes_the_same_pixels(model):
    pixels = resolve_preprocessing(model)
    plain = [Image.new("RGB", (40, 40), (40 * i, 10, 20)) for i in range(4)]
    table = datasets.Dataset.from_dict({"image": plain, "label": [0, 1, 0, 1]}).cast_column("image", datasets.Image())
    images = ImageDataset(table, pixels.train_transform(crop_scale=(1, 1), color_jitter=0))
    [batch] = torch.utils.data.DataLoader(images, 4, num_workers=1, multiprocessing_context="spawn")
    expected = torch.stack([pixels.eval_transform(image) for image in plain])
    assert torch.allclose(batch["pixel_values"], expected, rtol=0, atol=1e-5)


def test_augmentation_crops_flips_and_jitters(model):
    pixels, image = resolve_preprocessing(model), gradient(size=(64, 64)).rotate(90)
    random.seed(0)
    torch.manual_seed(0)
    crops = torch.stack([pixels.train_transform((0.3, 0.5), 0)(image) for _ in range(20)])
    rising = crops[:, 0, 16, -1] > crops[:, 0, 16, 0]
    assert 2 < int(rising.sum()) < 18
    assert float(crops.amax((1, 2, 3)).std()) > 0.01
    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    assert len({round(float(pixels.train_transform((1, 1), 0.5)(grey).mean()), 3) for _ in range(10)}) > 5


def test_check_goes_through_training_evaluation_and_export(model):
    check_preprocessing(model)
    model.network.config.pretrained_cfg["mean"] = (0.4, 0.5, 0.5)
    with pytest.raises(PreprocessingError, match="make pixels of one image that differ"):
        check_preprocessing(model)


def test_transforms_of_another_model_are_refused_before_training(model, sources, tmp_path):
    other = resolve_preprocessing(MedMergeModel.from_sources(sources, num_labels=3, image_size=64))
    own, rows = (
        resolve_preprocessing(model),
        datasets.Dataset.from_dict({"image": [gradient()] * 4, "label": [0, 1, 2, 0]}),
    )
    args = MedMergeTrainingArguments(str(tmp_path), use_cpu=True, max_steps=1, disable_tqdm=True, save_strategy="no")
    for training, evaluation in (
        (other.train_transform(), own.eval_transform),
        (own.train_transform(), other.eval_transform),
    ):
        images = {"train_dataset": ImageDataset(rows, training), "eval_dataset": ImageDataset(rows, evaluation)}
        trainer = MedMergeTrainer(model=model, args=args, **images)
        with pytest.raises(PreprocessingError, match=r"\[1, 3, 64, 64\] and \[1, 3, 32, 32\]"):
            trainer.train()
        assert trainer.state.global_step == 0
    images = {"train_dataset": ImageDataset(rows, own.train_transform()), "eval_dataset": None}
    MedMergeTrainer(model=model, args=args, **images).train()


@pytest.mark.parametrize(
    ("kind", "processor"),
    [
        (MobileViTForImageClassification, MobileViTImageProcessor(size={"shortest_edge": 36}, crop_size=SQUARE)),
        (EfficientNetForImageClassification, EfficientNetImageProcessor(size=SQUARE)),
    ],
)
def test_a_processor_of_its_own_kind_leaves_the_anchor_as_it_is(kind, processor, tmp_path):
    """Sources of one convention are folded into nothing, whatever their processor does to colours."""
    configs = {
        "MobileViT": {"hidden_sizes": [16] * 3, "neck_hidden_sizes": [8, 8, 8, 16, 16, 16, 32], "image_size": 32}
    }
    configs["EfficientNet"] = {
        "width_coefficient": 0.25,
        "depth_coefficient": 0.2,
        "image_size": 32,
        "hidden_dim": 320,
    }
    name = kind.__name__.removesuffix("ForImageClassification")
    for seed in range(2):
        torch.manual_seed(seed)
        unlike(kind(kind.config_class(**configs[name])), seed).save_pretrained(tmp_path / str(seed))
        processor.save_pretrained(tmp_path / str(seed))
    merge = MedMergeModel.from_sources([str(tmp_path / "0"), str(tmp_path / "1")], num_labels=2)
    check_preprocessing(merge)
    anchor = kind.from_pretrained(tmp_path / "0")
    for tensor, expected in zip(backbone_state(merge.network).values(), backbone_state(anchor).values(), strict=True):
        assert torch.equal(tensor, expected)
    assert not [note for source in merge.config.sources for note in source["notes"] if "fold" in note]


def test_a_native_network_of_one_channel_sees_grey(tmp_path):
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        num_channels=1,
    )
    merge = MedMergeModel.from_sources([ViTForImageClassification(config) for _ in range(2)], num_labels=2)
    pixels = resolve_preprocessing(merge)
    assert pixels.eval_transform(gradient()).shape == pixels.train_transform()(gradient()).shape == (1, 32, 32)
    check_preprocessing(merge)
    merge.collapse().save_pretrained(tmp_path / "out")
    assert MedMergeModel.from_pretrained(tmp_path / "out").image_processor.image_mean == pytest.approx(
        [0.449], abs=1e-3
    )


def test_a_model_without_processor_says_so(model):
    model.image_processor = None
    with pytest.raises(PreprocessingError, match="no image processor: set model"):
        resolve_preprocessing(model)
