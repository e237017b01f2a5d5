"""Image processors of transformers, made and changed for a network."""

import copy
import json
import logging
import tempfile
from collections.abc import Sequence
from typing import Any

from ..errors import PreprocessingError
from .input_convention import InputConvention
from .processor_output import centre_colours, compare_pixels, one_shape, resizes


logger = logging.getLogger(__name__)


def default_processor(image_size: int | Sequence[int] = 224) -> Any:
    """A plain resize with ImageNet's mean and standard deviation, for networks that come without a processor.

    Args:
        image_size: pixels of a square, or height and width.
    """
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from transformers import ViTImageProcessor

    height, width = image_size if isinstance(image_size, Sequence) else (image_size, image_size)
    logger.warning("The anchor carries no image processor: resizing to %d px, ImageNet mean and std.", height)
    mean, std = list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
    return ViTImageProcessor(size={"height": height, "width": width}, image_mean=mean, image_std=std)


def for_channels(processor: Any, channels: int) -> Any:
    """A transformers image processor for images of so many channels: mean and deviation averaged where they are more.

    Args:
        processor: it stays as it is.
        channels: of the network; only grey and RGB images go through a processor.
    """
    mean = getattr(processor, "image_mean", None)
    if mean is None or len(mean) == channels or channels not in (1, 3):
        return processor
    processor = copy.deepcopy(processor)
    for name in ("image_mean", "image_std"):
        values = getattr(processor, name)
        setattr(processor, name, [sum(values) / len(values)] * channels)
    if channels == 1 and getattr(processor, "do_convert_rgb", None):
        processor.do_convert_rgb = False
    return processor


def resize_processor(processor: Any, image_size: int, channels: int = 3) -> Any:
    """An image processor of the same colours whose output is `image_size` pixels.

    Args:
        processor: it stays as it is. Resize and crop keep their ratio; one that does not make a square of an image so
            is made to resize plainly.
        image_size: pixels of the square.
        channels: of the images.

    Raises:
        PreprocessingError: it gives another size, or other colours, all the same.
    """
    wanted = (channels, image_size, image_size)
    for change in (_scaled, _square, _replaced):
        try:
            changed = change(processor, image_size, channels)
            if one_shape(changed, channels) == wanted and resizes(changed, channels):
                compare_pixels(centre_colours(processor, channels), centre_colours(changed, channels), "Both sizes")
                return changed
        except PreprocessingError as error:
            logger.debug("%s does not do: %s", change.__name__, error)
    raise PreprocessingError(
        f"The image processor {type(processor).__name__} cannot be made to give images of {image_size} x {image_size} "
        "px: save another preprocessor_config.json (ViTImageProcessor resizes plainly) beside the weights."
    )


def _scaled(processor: Any, image_size: int, channels: int) -> Any:
    changed, shape = copy.deepcopy(processor), one_shape(processor, channels) or (channels, image_size, image_size)
    for name in ("size", "crop_size"):
        values = dict(getattr(changed, name, None) or {}).items()
        setattr(changed, name, {key: round(value * image_size / shape[1]) for key, value in values if value} or None)
    return changed


def _square(processor: Any, image_size: int, channels: int) -> Any:
    changed = copy.deepcopy(processor)
    changed.do_resize, changed.size = True, {"height": image_size, "width": image_size}
    for other in ("do_center_crop", "do_pad", "do_thumbnail"):
        if hasattr(changed, other):
            setattr(changed, other, False)
    return changed


def _replaced(processor: Any, image_size: int, channels: int) -> Any:
    from transformers import ViTImageProcessor

    names = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    kept = {name: value for name in names if (value := getattr(processor, name, None)) is not None}
    return ViTImageProcessor(size={"height": image_size, "width": image_size}, **kept)


def normalise_processor(processor: Any, images: InputConvention, channels: int = 3) -> Any:
    """A copy of a transformers image processor that gives images of a convention, in RGB.

    Args:
        processor: it keeps how it resizes and crops.
        images: the convention.
        channels: of the network.
    """
    processor = copy.deepcopy(processor)
    processor.do_rescale, processor.rescale_factor, processor.do_normalize = True, 1 / 255, True
    for other in ("do_flip_channel_order", "rescale_offset", "include_top"):  # MobileViT, EfficientNet
        if hasattr(processor, other):
            setattr(processor, other, False)
    processor.image_mean, processor.image_std = images.normalisation(channels)
    return for_channels(processor, channels)


def exported_processor(processor: Any, config: Any) -> Any:
    """What somebody loads who has the export only.

    Args:
        processor: of the model.
        config: of its network, which holds timm's.
    """
    from transformers import AutoImageProcessor

    if hasattr(processor, "data_config"):
        saved = json.loads(json.dumps(config.pretrained_cfg))
        return type(processor)(pretrained_cfg=saved, architecture=config.architecture)
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
