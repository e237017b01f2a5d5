"""What an image processor of transformers makes of test images: their size, their colours.

It is measured, so that a processor's options need not be known by name.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import PreprocessingError
from .input_convention import ChannelOrder, InputConvention


# Two shapes of image: a processor that does not make one size of both leaves the network images of any size.
SHAPES = ((61, 97), (97, 61))

COLOURS = ((255, 255, 255), (128, 128, 128), (37, 201, 90), (90, 5, 250))

# Of a pixel, relative to the largest (at least 1).
TOLERANCE = 1e-5

WAY_OUT = "Pass image_size=... to resize to a square, or save another preprocessor_config.json beside the weights"

STATE_INPUT = 'Say what images the anchor expects: {"id": ..., "input": "imagenet"}'


def one_shape(processor: Any, channels: int) -> tuple[int, ...] | None:
    """Shape `[C, H, W]` of what a processor makes of every image; `None` where it depends on the image."""
    shapes = {tuple(run_processor(processor, [blank(channels, shape)]).shape[1:]) for shape in SHAPES}
    return shapes.pop() if len(shapes) == 1 else None


def blank(channels: int, size: tuple[int, int], colour: Sequence[int] = (0, 0, 0)) -> Image.Image:
    """An image of one colour.

    Args:
        channels: 1 or 3.
        size: width and height.
        colour: values of 0 to 255; of one channel the first counts.
    """
    return Image.new("RGB", size, tuple(colour)) if channels == 3 else Image.new("L", size, colour[0])


def run_processor(processor: Any, images: Sequence[Image.Image]) -> Tensor:
    """What a processor makes of images of one shape.

    Args:
        processor: of transformers.
        images: of one shape.

    Returns:
        `[N, C, H, W]`, float.

    Raises:
        PreprocessingError: anything else comes out.
    """
    name = type(processor).__name__
    try:
        output = processor(list(images), return_tensors="pt")
    except Exception as error:  # a processor is foreign code
        raise PreprocessingError(
            f"The image processor {name} fails on a plain image ({error}). {WAY_OUT}. {STATE_INPUT}."
        ) from error
    found = output.get("pixel_values")
    if not isinstance(found, Tensor) or found.ndim != 4:
        raise PreprocessingError(
            f"The image processor {name} makes no pixel_values [N, C, H, W] of images but "
            f"{ {key: list(getattr(value, 'shape', ())) for key, value in output.items()} }: its networks are no "
            "classifiers of plain images. Take sources of another architecture."
        )
    if not found.is_floating_point():
        raise PreprocessingError(
            f"The image processor {name} gives whole numbers ({found.dtype}), which `pipeline` hands to the network "
            f"as they are (do_rescale, do_normalize). {STATE_INPUT}."
        )
    return found


def output_shape(processor: Any, channels: int) -> tuple[int, int]:
    """Height and width of what a processor makes of every image.

    Raises:
        PreprocessingError: it depends on the image, or the number of channels is another.
    """
    name, found = type(processor).__name__, one_shape(processor, channels)
    if found is None:
        raise PreprocessingError(
            f"The image processor {name} does not make one size of all images (do_resize="
            f"{getattr(processor, 'do_resize', None)}, size={_plain(processor, 'size')}, do_center_crop="
            f"{getattr(processor, 'do_center_crop', None)}), so that no batch can be made of them. {WAY_OUT}."
        )
    if found[0] != channels:
        raise PreprocessingError(
            f"The image processor {name} gives {found[0]} channels, the network takes {channels}. {WAY_OUT}."
        )
    return found[1], found[2]


def _plain(processor: Any, name: str) -> Any:
    return {key: value for key, value in dict(getattr(processor, name, None) or {}).items() if value}


def _run_colours(processor: Any, size: tuple[int, int], channels: int, colours: Sequence[Sequence[int]]) -> Tensor:
    """Of images of one colour each, `[N, C, H, W]`, float64; they have half the size, so that a border would show."""
    side = max(8, max(size) // 2)
    return run_processor(processor, [blank(channels, (side, side), colour) for colour in colours]).double()


def _flat(images: Tensor) -> bool:
    spread = images.amax((2, 3)) - images.amin((2, 3))
    return float(spread.max()) <= TOLERANCE * max(1.0, float(images.abs().max()))


def resizes(processor: Any, channels: int) -> bool:
    """Whether a processor makes an image of one colour of an image of one colour: resized, not padded.

    Args:
        processor: of transformers.
        channels: of the images.
    """
    return _flat(_run_colours(processor, output_shape(processor, channels), channels, COLOURS))


def centre_colours(processor: Any, channels: int) -> Tensor:
    """What a processor makes of some colours, in the centre of the image, `[N, C]`.

    Args:
        processor: of transformers.
        channels: of the images.
    """
    found = run_processor(processor, [blank(channels, (48, 48), colour) for colour in COLOURS])
    return found[:, :, found.shape[2] // 2, found.shape[3] // 2]


def measure_colours(processor: Any, size: tuple[int, int], channels: int) -> tuple[Tensor, Tensor]:
    """What a processor makes of colours: `matrix @ pixel + offset`, of pixels of 0 to 255.

    Args:
        processor: of transformers.
        size: of its output.
        channels: of the images.

    Returns:
        `[C, C]` and `[C]`, float64.

    Raises:
        PreprocessingError: it makes anything else of them.
    """
    basis = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))[: channels + 1]
    images = _run_colours(processor, size, channels, (*basis, *COLOURS))
    found = images.mean((2, 3))
    offset, name = found[0], type(processor).__name__
    matrix = (found[1 : channels + 1] - offset).T / 255
    pixels = torch.tensor([colour[:channels] for colour in COLOURS], dtype=torch.float64)
    scale = TOLERANCE * max(1.0, float(images.abs().max()))
    if not _flat(images):
        raise PreprocessingError(
            f"The image processor {name} pads or crops instead of resizing (do_resize="
            f"{getattr(processor, 'do_resize', None)}): training cannot show objects at the size that it gives them. "
            f"{WAY_OUT}."
        )
    if float((pixels @ matrix.T + offset - found[channels + 1 :]).abs().max()) > scale:
        raise PreprocessingError(
            f"The image processor {name} changes colours by more than a factor and an offset a channel (do_rescale, "
            f"do_normalize), which training cannot repeat. {STATE_INPUT}."
        )
    return matrix, offset


def convention_of(processor: Any, matrix: Tensor, offset: Tensor) -> InputConvention:
    """Mean, deviation and channel order of a measured map; the processor's own numbers where they say the same.

    Args:
        processor: of transformers.
        matrix: see [`measure_colours`].
        offset: likewise.

    Raises:
        PreprocessingError: channels are mixed, dropped or inverted.
    """
    order = matrix.abs().argmax(1)
    factors = matrix.gather(1, order[:, None])[:, 0] * 255
    mixed = matrix.scatter(1, order[:, None], 0).abs().max() > TOLERANCE * matrix.abs().max()
    orders: dict[tuple[int, ...], ChannelOrder] = {(0,): "rgb", (0, 1, 2): "rgb", (2, 1, 0): "bgr"}
    if mixed or tuple(order.tolist()) not in orders or factors.min() <= 0:
        raise PreprocessingError(
            f"The image processor {type(processor).__name__} mixes, drops or inverts channels, which no mean and "
            f"standard deviation says. {STATE_INPUT}."
        )
    mean, std = (-offset / factors).tolist(), (1 / factors).tolist()
    # Of a mean that is nothing beside its deviation only noise was measured.
    mean = [float(f"{m:.6g}") if abs(m) > 1e-6 * s else 0.0 for m, s in zip(mean, std, strict=True)]
    found = InputConvention(mean, [float(f"{s:.6g}") for s in std], channel_order=orders[tuple(order.tolist())])
    stated = _stated(processor)
    return stated if stated is not None and _near(stated, found) else found


def _near(stated: InputConvention, found: InputConvention) -> bool:
    if stated.channel_order != found.channel_order or len(stated.mean) != len(found.mean):
        return False
    mean, std = np.array(found.pixel_mean), np.array(found.pixel_std)
    largest = np.maximum(np.abs(mean), np.abs(1 - mean))  # measured in pixels of up to this over the deviation
    return bool(
        (np.abs(stated.pixel_mean - mean) <= TOLERANCE * np.maximum(std, largest)).all()
        and (np.abs(stated.pixel_std - std) <= TOLERANCE * std * np.maximum(1, largest)).all()
    )


def _stated(processor: Any) -> InputConvention | None:
    """What the numbers of a processor say, to their last digit; its steps may say otherwise."""
    if hasattr(processor, "data_config"):
        return InputConvention(processor.data_config["mean"], processor.data_config["std"])
    numbers = [getattr(processor, name, None) or () for name in ("image_mean", "image_std")]
    if not getattr(processor, "do_normalize", True) or {len(values) for values in numbers} not in ({1}, {3}):
        return None
    high = 1 / processor.rescale_factor / 255 if getattr(processor, "do_rescale", True) else 1 / 255
    mean, std = ([value * high for value in values] for values in numbers)
    return InputConvention(mean, std)


@torch.no_grad()
def check_same_pixels(processor: Any, other: Any, channels: int = 3, tolerance: float = TOLERANCE) -> None:
    """Refuse two image processors that make different pixels of the same test images.

    Args:
        processor: of the model that was trained.
        other: the exported one.
        channels: of the images.
        tolerance: of a pixel, relative to the largest (at least 1).

    Raises:
        PreprocessingError: with the difference.
    """
    own = torch.Generator().manual_seed(0)
    for width, height in SHAPES:
        noise = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=own).numpy()
        image = Image.fromarray(noise).convert("RGB" if channels == 3 else "L")
        ours, theirs = (run_processor(one, [image]) for one in (processor, other))
        compare_pixels(
            ours, theirs, f"The image processors {type(processor).__name__} and {type(other).__name__}", tolerance
        )


def compare_pixels(ours: Tensor, theirs: Tensor, of: str, tolerance: float = TOLERANCE) -> None:
    """Refuse pixels that differ.

    Args:
        ours: any shape.
        theirs: the same.
        of: what the two come from.
        tolerance: of a pixel, relative to the largest (at least 1).

    Raises:
        PreprocessingError: they differ, or have another shape.
    """
    if ours.shape != theirs.shape:
        raise PreprocessingError(
            f"{of} make images of shapes {list(ours.shape)} and {list(theirs.shape)} of one image."
        )
    difference, scale = float((ours - theirs).abs().max()), max(1.0, float(ours.abs().max()))
    if not difference <= tolerance * scale:
        raise PreprocessingError(f"{of} make pixels of one image that differ by {difference:.2g}, of {scale:.2g}.")
