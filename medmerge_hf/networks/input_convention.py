"""What images a network expects."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from ..errors import SettingsError


ChannelOrder = Literal["rgb", "bgr"]


@dataclasses.dataclass(frozen=True)
class InputConvention:
    """How a network expects its images: `x = (value - mean) / std`, where `value` is the pixel in `value_range`.

    Args:
        mean: of each channel, in the units of `value_range` and the order of `channel_order`. One number holds for all
            channels.
        std: likewise.
        value_range: what black and white become before the mean is taken off; `(0, 1)`, `(0, 255)`, ...
        channel_order: `rgb` or `bgr`.

    Raises:
        SettingsError: numbers that describe no normalisation.

    Example:
        >>> InputConvention(mean=[127.5], std=[127.5], value_range=(0, 255)).pixel_mean
        (0.5,)
    """

    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    value_range: Sequence[float] = (0.0, 1.0)
    channel_order: ChannelOrder = "rgb"

    def __post_init__(self) -> None:
        for name in ("mean", "std", "value_range"):
            value = getattr(self, name)
            numbers = [value] if isinstance(value, (int, float)) else list(value)
            object.__setattr__(self, name, tuple(float(number) for number in numbers))
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise SettingsError(
                f"input: mean has {len(self.mean)} and std {len(self.std)} numbers; give one or three of each."
            )
        if min(self.std) <= 0:
            raise SettingsError(f"input: std {self.std} must be above 0.")
        if len(self.value_range) != 2 or self.value_range[0] >= self.value_range[1]:
            raise SettingsError(f"input: value_range {self.value_range} must be (black, white), black below white.")
        if self.channel_order not in get_args(ChannelOrder):
            raise SettingsError(f"input: channel_order {self.channel_order!r} is not one of rgb, bgr.")

    def _rgb(self, values: Sequence[float]) -> tuple[float, ...]:
        return tuple(reversed(values)) if self.channel_order == "bgr" else tuple(values)

    @property
    def pixel_mean(self) -> tuple[float, ...]:
        """The mean for RGB pixels between 0 and 1."""
        low, high = self.value_range
        return self._rgb([(value - low) / (high - low) for value in self.mean])

    @property
    def pixel_std(self) -> tuple[float, ...]:
        """The standard deviation for RGB pixels between 0 and 1."""
        low, high = self.value_range
        return self._rgb([value / (high - low) for value in self.std])

    def normalisation(self, channels: int) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of pixels between 0 and 1, a number a channel.

        Args:
            channels: 1 or 3; one channel takes the average of three.

        Example:
            >>> InputConvention().normalisation(3)
            ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
        """
        mean, std = (list(values) for values in (self.pixel_mean, self.pixel_std))
        if len(mean) != channels:
            mean, std = ([sum(values) / len(values)] * channels for values in (mean, std))
        return mean, std

    @classmethod
    def parse(cls, value: "str | Mapping[str, Any] | InputConvention | None") -> "InputConvention | None":
        """A convention from its name (see `INPUTS`) or its fields.

        Raises:
            SettingsError: an unknown name or field.
        """
        if value is None or isinstance(value, InputConvention):
            return value
        if isinstance(value, str):
            if value not in INPUTS:
                raise SettingsError(f"input={value!r} is not one of {', '.join(INPUTS)}; or give mean, std, ...")
            return INPUTS[value]
        return cls(**_known(cls, value, "input"))


INPUTS = {
    "imagenet": InputConvention(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),  # torchvision, timm
    "unit": InputConvention(),  # TF Hub
    "symmetric": InputConvention(mean=(0.5,), std=(0.5,)),  # Keras' mode "tf", Inception
    "caffe": InputConvention(  # Keras' mode "caffe": ResNet-50, VGG
        mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), value_range=(0, 255), channel_order="bgr"
    ),
    "torchxrayvision": InputConvention(value_range=(-1024, 1024)),
}


def _known(kind: Any, values: Mapping[str, Any], what: str) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - names):
        raise SettingsError(f"{what}: unknown {', '.join(unknown)}; known are {', '.join(sorted(names))}.")
    return dict(values)
