"""Training and evaluation transforms, resolved from the anchor's preprocessing.

Evaluation goes through the image processor that is exported with the model, so `pipeline` sees the same pixels.
"""

import copy
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from .input_convention import InputConvention


logger = logging.getLogger(__name__)


def timm_processor(config: Any) -> Any:
    """The image processor that transformers makes of a `timm_wrapper` config."""
    from transformers import TimmWrapperImageProcessor

    return TimmWrapperImageProcessor(pretrained_cfg=config.pretrained_cfg, architecture=config.architecture)


def default_processor(image_size: int = 224) -> Any:
    """A plain resize with ImageNet's mean and standard deviation, for networks that come without a processor."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from transformers import ViTImageProcessor

    logger.warning("The anchor carries no image processor: resizing to %d px, ImageNet mean and std.", image_size)
    size = {"height": image_size, "width": image_size}
    mean, std = list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
    return ViTImageProcessor(size=size, image_mean=mean, image_std=std)


def resize_processor(processor: Any, image_size: int) -> Any:
    """A copy of a transformers image processor whose output is `image_size` pixels."""
    processor = copy.deepcopy(processor)
    size, crop = dict(processor.size), dict(getattr(processor, "crop_size", None) or {})
    factor = image_size / (crop.get("height") or size.get("shortest_edge") or size["height"])
    processor.size = {key: round(value * factor) for key, value in size.items() if value}
    if crop:
        processor.crop_size = {"height": image_size, "width": image_size}
    return processor


def normalise_processor(processor: Any, images: InputConvention) -> Any:
    """A copy of a transformers image processor that gives images of a convention, in RGB."""
    processor = copy.deepcopy(processor)
    processor.do_rescale, processor.rescale_factor, processor.do_normalize = True, 1 / 255, True
    count = 3 // len(images.pixel_mean)
    processor.image_mean, processor.image_std = list(images.pixel_mean) * count, list(images.pixel_std) * count
    return processor


def input_of(model: Any) -> InputConvention:
    """The images that a model's processor gives."""
    pixels = resolve_preprocessing(model)
    return InputConvention(mean=pixels.mean, std=pixels.std)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network.

    Args:
        processor: the exported image processor; evaluation is its work.
        mean: a channel.
        std: a channel.
        image_size: pixels of the square that the network sees.
        interpolation: of the resize while training, timm's name.
    """

    processor: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    interpolation: str = "bicubic"

    @property
    def summary(self) -> str:
        """One line for people."""
        colour = "greyscale" if len(self.mean) == 1 else "RGB"
        mean, std = (", ".join(f"{value:.3f}" for value in values) for values in (self.mean, self.std))
        return f"{colour}, {self.image_size} x {self.image_size} px, mean ({mean}), standard deviation ({std})"

    def _pixels(self, image: Image.Image) -> Image.Image:
        return image.convert("L" if len(self.mean) == 1 else "RGB")

    def eval_transform(self, image: Image.Image) -> Tensor:
        """Image of any mode -> `[C, H, W]` float tensor."""
        return self.processor(self._pixels(image), return_tensors="pt")["pixel_values"][0]

    def train_transform(
        self, crop_scale: Sequence[float] = (0.5, 1.0), color_jitter: float = 0.2
    ) -> Callable[[Image.Image], Tensor]:
        """timm's training transform: random resized crop, horizontal flip, colour jitter.

        Args:
            crop_scale: share of the image's area that a crop keeps, from - to.
            color_jitter: strength for brightness, contrast and saturation; 0 for none.

        Returns:
            A function from an image of any mode to a `[C, H, W]` float tensor.
        """
        import timm

        augment = timm.data.create_transform(
            (len(self.mean), self.image_size, self.image_size),
            is_training=True,
            scale=tuple(crop_scale),
            color_jitter=color_jitter or None,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
        )
        return lambda image: augment(self._pixels(image))


def resolve_preprocessing(model: Any) -> Preprocessing:
    """The preprocessing of a [`MedMergeModel`] (or of anything with an `image_processor`).

    Args:
        model: its `image_processor` is read.

    Returns:
        Mean, std, size and the two transforms.
    """
    return preprocessing_of(model.image_processor)


def preprocessing_of(processor: Any) -> Preprocessing:
    """The preprocessing that an image processor stands for."""
    if hasattr(processor, "data_config"):
        data = processor.data_config
        return Preprocessing(
            processor, tuple(data["mean"]), tuple(data["std"]), data["input_size"][-1], data["interpolation"]
        )
    size = dict(getattr(processor, "crop_size", None) or processor.size)
    image_size = size.get("height") or size["shortest_edge"]
    return Preprocessing(processor, tuple(processor.image_mean), tuple(processor.image_std), image_size)


def processor_input(processor: Any) -> InputConvention | None:
    """Of a transformers image processor."""
    if getattr(processor, "image_mean", None) is None:
        return None
    high = 1 / processor.rescale_factor / 255 if getattr(processor, "do_rescale", True) else 1 / 255
    if not getattr(processor, "do_normalize", True):
        return InputConvention(std=(high,))
    scaled = [[value * high for value in values] for values in (processor.image_mean, processor.image_std)]
    return InputConvention(mean=scaled[0], std=scaled[1])
