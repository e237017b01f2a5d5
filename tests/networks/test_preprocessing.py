import pytest
import torch
from PIL import Image
from tiny import network
from transformers import ViTImageProcessor, pipeline

from medmerge_hf import MedMergeModel, resolve_preprocessing
from medmerge_hf.errors import SettingsError
from medmerge_hf.networks.preprocessing import resize_processor
from medmerge_hf.networks.timm_config import resize_timm_config


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


def test_a_grey_network_takes_grey_images():
    grey = [network(seed, in_chans=1) for seed in range(2)]
    pixels = resolve_preprocessing(MedMergeModel.from_sources(grey, num_labels=2, image_size=32))
    assert pixels.eval_transform(gradient("RGB")).shape == (1, 32, 32)


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


def test_a_resized_processor_keeps_the_ratio_of_resize_and_crop():
    processor = ViTImageProcessor(
        size={"shortest_edge": 256}, do_center_crop=True, crop_size={"height": 224, "width": 224}
    )
    resized = resize_processor(processor, 112)
    assert dict(resized.size)["shortest_edge"] == 128
    assert dict(resized.crop_size)["height"] == 112
