import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DonutImageProcessor,
    EfficientNetImageProcessor,
    ImageGPTImageProcessor,
    MobileViTImageProcessor,
    PerceiverImageProcessor,
    PPLCNetImageProcessor,
    Siglip2ImageProcessor,
    TextNetImageProcessor,
    ViTImageProcessor,
    ViTImageProcessorPil,
)

from medmerge_hf.errors import PreprocessingError
from medmerge_hf.networks.input_convention import INPUTS, InputConvention
from medmerge_hf.networks.preprocessing import preprocessing_of, processor_input
from medmerge_hf.networks.processor_output import check_same_pixels
from medmerge_hf.networks.processors import (
    default_processor,
    exported_processor,
    for_channels,
    normalise_processor,
    resize_processor,
)


SQUARE = {"height": 32, "width": 32}

TAKEN = {
    "ViT": ViTImageProcessor(size=SQUARE),
    "not normalised": ViTImageProcessor(size=SQUARE, do_normalize=False),
    "another factor": ViTImageProcessor(size=SQUARE, rescale_factor=1 / 127.5),
    "not rescaled": ViTImageProcessor(
        size=SQUARE, do_rescale=False, image_mean=[124, 116, 104], image_std=[58, 57, 57]
    ),
    "no square": ViTImageProcessor(size={"height": 24, "width": 40}),
    "nearest": ViTImageProcessor(size=SQUARE, resample=0),
    "BGR": MobileViTImageProcessor(size={"shortest_edge": 36}, crop_size=SQUARE),
    "BGR, normalised": PPLCNetImageProcessor(size={"height": 36, "width": 36}, crop_size=SQUARE),
    "normalised twice": EfficientNetImageProcessor(size=SQUARE),
    "offset": EfficientNetImageProcessor(
        size=SQUARE, rescale_offset=True, rescale_factor=1 / 127.5, include_top=False
    ),
    "crop_pct": ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875),
    "shortest edge and crop": CLIPImageProcessor(size={"shortest_edge": 36}, crop_size=SQUARE),
    "crop, then resize": PerceiverImageProcessor(size=SQUARE, crop_size={"height": 36, "width": 36}),
}

REFUSED = {
    "any size": (ViTImageProcessor(do_resize=False), "ViTImageProcessor .*do_resize=False"),
    "shortest edge alone": (TextNetImageProcessor(), "TextNetImageProcessor does not make one size"),
    "crop without resize": (CLIPImageProcessor(do_resize=False, crop_size=SQUARE), "pads or crops .*do_resize=False"),
    "crop beyond the image": (MobileViTImageProcessor(), "MobileViTImageProcessor pads"),
    "padding": (DonutImageProcessor(), "DonutImageProcessor pads"),
}


def noise(mode="RGB", size=(50, 40), seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def plain(colour, size=(40, 40)):
    return Image.new("RGB", size, colour)


@pytest.mark.parametrize("name", TAKEN)
def test_training_evaluation_and_export_see_the_same_pixels(name):
    pixels = preprocessing_of(TAKEN[name])
    again = exported_processor(pixels.processor, None)
    transform = pixels.train_transform(crop_scale=(1, 1), color_jitter=0)
    for colour in ((255, 128, 0), (1, 2, 3), (250, 251, 0)):
        wanted = pixels.eval_transform(plain(colour))
        near = {"rtol": 0, "atol": 1e-5 * max(1, float(wanted.abs().max()))}
        assert torch.allclose(transform(plain(colour)), wanted, **near)
        assert torch.allclose(again(plain(colour), return_tensors="pt")["pixel_values"][0], wanted, **near)
    check_same_pixels(pixels.processor, again)


@pytest.mark.parametrize("name", ["ViT", "not rescaled", "no square", "normalised twice", "offset"])
def test_an_image_of_the_networks_size_is_the_same_pixel_by_pixel(name):
    pixels = preprocessing_of(TAKEN[name])
    image = noise(size=pixels.size[::-1])
    wanted = pixels.eval_transform(image)
    assert torch.allclose(pixels.colours(image), wanted, rtol=0, atol=1e-5 * max(1, float(wanted.abs().max())))


@settings(max_examples=40, deadline=None)
@given(
    mean=st.lists(st.floats(-1, 2), min_size=3, max_size=3),
    std=st.lists(st.floats(0.01, 4), min_size=3, max_size=3),
    factor=st.floats(1e-3, 2),
    steps=st.fixed_dictionaries({key: st.booleans() for key in ("do_rescale", "do_normalize")}),
    kind=st.sampled_from([ViTImageProcessor, EfficientNetImageProcessor]),
)
def test_any_numbers_are_repeated_or_refused(mean, std, factor, steps, kind):
    processor = kind(size=SQUARE, image_mean=mean, image_std=std, rescale_factor=factor, **steps)
    try:
        pixels = preprocessing_of(processor)
    except PreprocessingError as error:
        assert not any(steps.values()), error  # noqa: PT017
        return
    image = noise(size=(32, 32))
    wanted = pixels.eval_transform(image)
    assert torch.allclose(pixels.colours(image), wanted, rtol=0, atol=1e-5 * max(1, float(wanted.abs().max())))
    rgb = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (pixels.mean, pixels.std))
    assert torch.allclose((rgb - mean) / std, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", REFUSED)
def test_what_training_cannot_repeat_is_refused_by_name_and_the_way_out_works(name):
    processor, words = REFUSED[name]
    with pytest.raises(PreprocessingError, match=f"{words}.*image_size"):
        preprocessing_of(processor)
    resized = preprocessing_of(resize_processor(processor, 48))
    assert resized.size == (48, 48)
    assert resized.eval_transform(noise()).shape == (3, 48, 48)


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        (Siglip2ImageProcessor(), "Siglip2ImageProcessor makes no pixel_values"),
        (
            ImageGPTImageProcessor(clusters=[[0, 0, 0], [1, 1, 1]]),
            "ImageGPTImageProcessor makes no pixel_values .*input_ids",
        ),
        (ViTImageProcessor(do_rescale=False, do_normalize=False), "whole numbers .*do_rescale"),
        (ViTImageProcessor(size=SQUARE, image_std=[-1, 1, 1]), "inverts channels"),
    ],
)
def test_processors_of_no_classifier_are_refused_by_name(processor, words):
    with pytest.raises(PreprocessingError, match=words):
        preprocessing_of(processor, 3)


def test_a_stated_input_replaces_whatever_the_processor_does():
    for processor in [*TAKEN.values(), ViTImageProcessor(do_rescale=False, do_normalize=False)]:
        if type(processor) not in (PPLCNetImageProcessor, MobileViTImageProcessor):  # always BGR; never normalised
            found = processor_input(normalise_processor(processor, InputConvention([0.4], [0.2])))
            assert (found.pixel_mean, found.pixel_std, found.channel_order) == ((0.4,) * 3, (0.2,) * 3, "rgb")


def test_numbers_of_the_processor_are_kept_to_the_last_digit():
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    found = processor_input(CLIPImageProcessor(image_mean=mean, image_std=std))
    assert (found.mean, found.std) == (mean, std)
    caffe = normalise_processor(ViTImageProcessor(size=SQUARE), INPUTS["caffe"])
    assert processor_input(caffe).std == INPUTS["caffe"].pixel_std


def test_what_is_measured_is_told_as_a_convention():
    assert processor_input(TAKEN["BGR"]) == InputConvention([0] * 3, [1] * 3, channel_order="bgr")
    assert processor_input(TAKEN["normalised twice"]) == InputConvention([0.5] * 3, [0.25] * 3)
    assert processor_input(TAKEN["not normalised"]) == InputConvention([0] * 3, [1] * 3)
    assert processor_input(None) is None


def test_interpolation_is_the_processors():
    found = {name: preprocessing_of(TAKEN[name]).interpolation for name in ("ViT", "nearest", "crop_pct")}
    assert found == {"ViT": "bilinear", "nearest": "nearest", "crop_pct": "bicubic"}


@pytest.mark.parametrize("name", ["ViT", "not normalised", "crop_pct", "shortest edge and crop", "normalised twice"])
def test_one_channel_has_one_mean(name):
    pixels = preprocessing_of(for_channels(TAKEN[name], 1), 1)
    assert len(pixels.mean) == len(pixels.std) == 1
    image = Image.new("L", (40, 40), 99)
    trained = pixels.train_transform(crop_scale=(1, 1), color_jitter=0)(image)
    assert torch.allclose(trained, pixels.eval_transform(image), rtol=0, atol=1e-5)
    assert trained.shape == (1, 32, 32)


def test_without_a_processor_images_are_resized_with_a_word(caplog):
    assert preprocessing_of(default_processor(48)).size == (48, 48)
    assert preprocessing_of(default_processor([48, 64])).size == (48, 64)
    assert preprocessing_of(default_processor()).size == (224, 224)
    assert "no image processor: resizing to 48 px" in caplog.text


def test_a_resized_processor_keeps_the_ratio_of_resize_and_crop():
    processor = ViTImageProcessor(
        size={"shortest_edge": 256}, do_center_crop=True, crop_size={"height": 224, "width": 224}
    )
    resized = resize_processor(CLIPImageProcessor(**processor.to_dict()), 112)
    assert dict(resized.size)["shortest_edge"] == 128
    assert dict(resized.crop_size)["height"] == 112


def test_a_processor_that_no_size_can_be_told_is_refused():
    with pytest.raises(PreprocessingError, match="Siglip2ImageProcessor cannot be made to give images of 48 x 48"):
        resize_processor(Siglip2ImageProcessor(), 48)


def test_processors_of_other_pixels_are_told_apart():
    with pytest.raises(PreprocessingError, match="ViTImageProcessorPil and ViTImageProcessor make pixels"):
        check_same_pixels(ViTImageProcessorPil(size=SQUARE), ViTImageProcessor(size=SQUARE))
    with pytest.raises(PreprocessingError, match=r"\[1, 3, 32, 32\] and \[1, 3, 224, 224\]"):
        check_same_pixels(ViTImageProcessor(size=SQUARE), ViTImageProcessor())
