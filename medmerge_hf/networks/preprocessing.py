"""Training and evaluation transforms, resolved from the anchor's preprocessing.

Evaluation goes through the image processor that is exported with the model, so `pipeline` sees the same pixels. The
training transform augments an image at the network's size and then maps its colours as that processor does. That map
is measured, whatever the processor's options are called.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import PreprocessingError, SettingsError
from .build import input_shape
from .input_convention import InputConvention
from .processor_output import (
    COLOURS,
    blank,
    check_same_pixels,
    compare_pixels,
    convention_of,
    measure_colours,
    output_shape,
)
from .processors import exported_processor


logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network.

    Args:
        processor: the exported image processor; evaluation is its work.
        size: height and width that the network sees.
        matrix: `[C, C]`, float32: what the processor makes of pixels of 0 to 255 is `matrix @ pixel + offset`.
        offset: `[C]`.
        convention: the same, as mean, standard deviation and order of the channels.
        interpolation: of the resize, timm's name.
    """

    processor: Any
    size: tuple[int, int]
    matrix: Tensor
    offset: Tensor
    convention: InputConvention
    interpolation: str = "bicubic"

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel (RGB), in pixels of 0 to 1."""
        return self.convention.pixel_mean

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel (RGB), in pixels of 0 to 1."""
        return self.convention.pixel_std

    @property
    def channels(self) -> int:
        """Of the images: 1 or 3."""
        return len(self.offset)

    @property
    def image_size(self) -> int:
        """Height of what the network sees, which is mostly a square."""
        return self.size[0]

    @property
    def summary(self) -> str:
        """One line for people."""
        colour = "greyscale" if self.channels == 1 else self.convention.channel_order.upper()
        mean, std = (", ".join(f"{value:.3f}" for value in values) for values in (self.mean, self.std))
        return f"{colour}, {self.size[0]} x {self.size[1]} px, mean ({mean}), standard deviation ({std})"

    def pixels(self, image: Image.Image) -> Image.Image:
        """An image of any mode in the network's number of channels."""
        return image.convert("L" if self.channels == 1 else "RGB")

    def colours(self, image: Image.Image) -> Tensor:
        """The last step of training: an image of the network's size and channels -> `[C, H, W]` float tensor."""
        values = torch.from_numpy(np.array(image)).reshape(-1, self.channels).float()
        return torch.addmm(self.offset[:, None], self.matrix, values.T).reshape(-1, image.height, image.width)

    def eval_transform(self, image: Image.Image) -> Tensor:
        """Image of any mode -> `[C, H, W]` float tensor."""
        return self.processor(self.pixels(image), return_tensors="pt")["pixel_values"][0]

    def train_transform(self, crop_scale: Sequence[float] = (0.5, 1.0), color_jitter: float = 0.2) -> "TrainTransform":
        """timm's augmentation (random resized crop, horizontal flip, colour jitter), then the processor's colours.

        Args:
            crop_scale: share of the image's area that a crop keeps, from - to.
            color_jitter: strength for brightness, contrast and saturation; 0 for none.

        Returns:
            A function from an image of any mode to a `[C, H, W]` float tensor; it can be pickled.
        """
        import timm

        crop, jitter, _ = timm.data.create_transform(
            (self.channels, *self.size),
            is_training=True,
            scale=tuple(crop_scale),
            color_jitter=color_jitter or None,
            interpolation=self.interpolation,
            separate=True,
        )
        return TrainTransform(self, (crop, jitter))


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """An image of any mode -> `[C, H, W]` float tensor, augmented.

    Args:
        preprocessing: of the model.
        steps: what is done to the image before its colours are mapped; the last one gives the network's size.
    """

    preprocessing: Preprocessing
    steps: Sequence[Any]

    def __call__(self, image: Image.Image) -> Tensor:
        """The tensor."""
        image = self.preprocessing.pixels(image)
        for step in self.steps:
            image = step(image)
        return self.preprocessing.colours(image)


def timm_processor(config: Any) -> Any:
    """The image processor that transformers makes of a `timm_wrapper` config."""
    from transformers import TimmWrapperImageProcessor

    return TimmWrapperImageProcessor(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture)


def resolve_preprocessing(model: Any) -> Preprocessing:
    """The preprocessing of a [`MedMergeModel`] (or of anything with an `image_processor`).

    Args:
        model: its `image_processor` is read.

    Returns:
        Mean, std, size and the two transforms.

    Raises:
        PreprocessingError: the processor does what training cannot do.
    """
    network = getattr(model, "network", model)
    return preprocessing_of(model.image_processor, input_shape(network)[0] if hasattr(network, "config") else None)


def preprocessing_of(processor: Any, channels: int | None = None) -> Preprocessing:
    """The preprocessing that an image processor stands for.

    Args:
        processor: of transformers.
        channels: of the network; by default as many as the processor has means.

    Raises:
        PreprocessingError: it does what training cannot do.
    """
    if processor is None:
        raise PreprocessingError(
            "The model has no image processor: set model.image_processor = AutoImageProcessor.from_pretrained(...)."
        )
    channels = channels or _channels(processor)
    if channels not in (1, 3):
        raise PreprocessingError(f"The network takes {channels} channels; images have 1 (grey) or 3 (RGB).")
    size = output_shape(processor, channels)
    matrix, offset = measure_colours(processor, size, channels)
    convention = convention_of(processor, matrix, offset)
    return Preprocessing(processor, size, matrix.float(), offset.float(), convention, _interpolation(processor))


def _channels(processor: Any) -> int:
    if hasattr(processor, "data_config"):
        return processor.data_config["input_size"][0]
    return len(getattr(processor, "image_mean", None) or (0, 0, 0))


def _interpolation(processor: Any) -> str:
    if hasattr(processor, "data_config"):
        return processor.data_config["interpolation"]
    found = getattr(processor, "resample", None)
    found = Image.Resampling(found) if isinstance(found, int) else found
    return getattr(found, "name", "bilinear").lower()  # what torchvision takes where nothing is said


def input_of(model: Any) -> InputConvention:
    """The images that a model's processor gives; what it states, where a network takes no grey or RGB ones."""
    if input_shape(model.network)[0] not in (1, 3):
        return processor_input(model.image_processor) or InputConvention()
    return resolve_preprocessing(model).convention


def processor_input(processor: Any) -> InputConvention | None:
    """The images that a transformers image processor gives; `None` where there is none, or they cannot be told."""
    if processor is None:
        return None
    try:
        return preprocessing_of(processor).convention
    except (PreprocessingError, SettingsError) as error:
        logger.warning("Not known what images a source expects, which is taken for the anchor's. %s", error)
        return None


def check_preprocessing(model: Any, *transforms: Any) -> None:
    """Refuse a model that would not see the same pixels in training, in evaluation and once exported.

    Augmentation apart, a test image goes through all three.

    Args:
        model: a [`MedMergeModel`].
        transforms: of the data sets; those that [`Preprocessing`] made must be this model's.

    Raises:
        PreprocessingError: pixels differ.
    """
    network = model.network
    if model.image_processor is None or input_shape(network)[0] not in (1, 3):
        return  # its tensors are made by the user's own code
    ours = resolve_preprocessing(model)
    for colour in COLOURS:
        image = blank(ours.channels, (ours.size[1], ours.size[0]), colour)
        trained, evaluated = ours.colours(ours.pixels(image)), ours.eval_transform(image)
        compare_pixels(trained, evaluated, f"Training and evaluation by {type(ours.processor).__name__}")
    check_same_pixels(ours.processor, exported_processor(ours.processor, network.config), ours.channels)
    for transform in transforms:
        source = getattr(transform, "preprocessing", getattr(transform, "__self__", None))
        if isinstance(source, Preprocessing) and source.processor is not ours.processor:
            check_same_pixels(source.processor, ours.processor, ours.channels)
