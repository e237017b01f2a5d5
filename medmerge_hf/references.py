"""What a user says of a source: where its weights lie, which network they belong to, what images it expects."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from .errors import SettingsError


Loader = Literal["timm", "transformers", "file", "memory"]
ChannelOrder = Literal["rgb", "bgr"]
Padding = Literal["symmetric", "tf_same"]
Stride = Literal["conv2", "conv1"]
BY_ORDER = "order"


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


@dataclasses.dataclass(frozen=True)
class NetworkDialect:
    """In what a source's network differs from timm's of the same name and shapes.

    Args:
        bn_eps: of its BatchNorm layers; folded into their scales, exactly.
        padding: `tf_same` where strided convolutions and poolings are padded at the right and bottom first.
        stride: `conv1` where a bottleneck strides in its first 1 x 1 (Keras' ResNet), `conv2` in its 3 x 3.
        pooling: any other pooling than the anchor's, by a name of yours.
        accept: merge although padding, stride or pooling differ. Such a source computes other features from the
            anchor's places; how far off they are is measured and noted.

    Raises:
        SettingsError: an unknown value.
    """

    bn_eps: float | None = None
    padding: Padding = "symmetric"
    stride: Stride = "conv2"
    pooling: str | None = None
    accept: bool = False

    def __post_init__(self) -> None:
        if self.padding not in get_args(Padding) or self.stride not in get_args(Stride):
            raise SettingsError(
                f"dialect: padding={self.padding!r} is one of {', '.join(get_args(Padding))}; stride={self.stride!r} "
                f"one of {', '.join(get_args(Stride))}."
            )
        if self.bn_eps is not None and not self.bn_eps > 0:
            raise SettingsError(f"dialect: bn_eps={self.bn_eps} must be above 0.")

    @property
    def unfoldable(self) -> tuple[str, ...]:
        """Differences that no change of weights makes good."""
        found = [f"padding {self.padding}"] if self.padding != "symmetric" else []
        found += [f"stride in {self.stride} of a bottleneck"] if self.stride != "conv2" else []
        return (*found, *([f"pooling {self.pooling}"] if self.pooling else []))


@dataclasses.dataclass(frozen=True)
class SourceReference:
    """All that says what a source is, so that a merge can be repeated from its config alone.

    Args:
        id: Hub id (`user/name`, `@revision` allowed), timm name, folder, file, or a name for a module in memory.
        loader: what reads it: `timm`, `transformers`, `file` (weights alone) or `memory`; found out by default.
        revision: commit sha, branch or tag on the Hub; pinned to a sha once read. `None` for anything local.
        file: name of the weights file in a folder or repository that neither timm nor transformers wrote.
        architecture: timm name of the network, for weights that do not say it; the anchor's by default.
        input: [`InputConvention`], its fields, or a name of `INPUTS`. By default what the checkpoint's own config
            says, and the anchor's where it says nothing (the notes tell so).
        dialect: [`NetworkDialect`] or its fields.
        key_map: regular expression -> replacement, applied in order to every name of the checkpoint; or `order`, which
            pairs tensors with the anchor's by shape and order alone.
        sha256: of the harmonised weights ([`harmonization.fingerprint`]), once they were read.
        license: as the Hub calls it (`apache-2.0`, ...); read off the source's card or config where it is not given.
        notes: what was done to bring it under the anchor's names.

    Example:
        >>> SourceReference("caffe.pth", architecture="resnet50", input="caffe").input.channel_order
        'bgr'
    """

    id: str
    loader: Loader | None = None
    revision: str | None = None
    file: str | None = None
    architecture: str | None = None
    input: Any = None
    dialect: Any = None
    key_map: Mapping[str, str] | str | None = None
    sha256: str | None = None
    license: str | None = None
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self.notes))
        object.__setattr__(self, "input", InputConvention.parse(self.input))
        if isinstance(self.dialect, Mapping):
            object.__setattr__(self, "dialect", NetworkDialect(**_known(NetworkDialect, self.dialect, "dialect")))
        if isinstance(self.key_map, str) and self.key_map != BY_ORDER:
            raise SettingsError(f"key_map={self.key_map!r} is neither {BY_ORDER!r} nor a mapping.")

    @classmethod
    def parse(cls, value: "str | Mapping[str, Any] | SourceReference") -> "SourceReference":
        """A reference from a string (`id` or `id@revision`), or from its fields.

        Raises:
            SettingsError: an unknown field, or no id.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping) or not isinstance(value.get("id"), str):
            raise SettingsError(f"A source is a string, or a mapping with an id; not {value!r}.")
        return cls(**_known(cls, value, f"source {value['id']!r}"))

    def to_dict(self) -> dict[str, Any]:
        """Its fields as JSON has them; [`parse`] reads them again."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def _known(kind: Any, values: Mapping[str, Any], what: str) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - names):
        raise SettingsError(f"{what}: unknown {', '.join(unknown)}; known are {', '.join(sorted(names))}.")
    return dict(values)
