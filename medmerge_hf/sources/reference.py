"""What a user says of a source: where its weights lie, which network they belong to, what images it expects."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn

from ..errors import SettingsError
from ..networks.input_convention import InputConvention, _known


Loader = Literal["timm", "transformers", "file", "memory"]

Padding = Literal["symmetric", "tf_same"]

Stride = Literal["conv2", "conv1"]

BY_ORDER = "order"


@dataclasses.dataclass(frozen=True)
class NetworkVariant:
    """In what a source's network differs from timm's of the same name and shapes.

    Args:
        bn_eps: of its BatchNorm layers; folded into their scales, exactly.
        padding: `tf_same` where strided convolutions and poolings are padded at the right and bottom first.
        stride: `conv1` where a bottleneck strides in its first 1 x 1 (Keras' ResNet), `conv2` in its 3 x 3.
        pooling: `tf_same` where max poolings are padded like that, or any other pooling, by a name of yours.
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
                f"variant: padding={self.padding!r} is one of {', '.join(get_args(Padding))}; stride={self.stride!r} "
                f"one of {', '.join(get_args(Stride))}."
            )
        if self.bn_eps is not None and not self.bn_eps > 0:
            raise SettingsError(f"variant: bn_eps={self.bn_eps} must be above 0.")

    @property
    def unfoldable(self) -> tuple[str, ...]:
        """Differences that no change of weights makes good."""
        found = [f"padding {self.padding}"] if self.padding != "symmetric" else []
        found += [f"stride in {self.stride} of a bottleneck"] if self.stride != "conv2" else []
        return (*found, *([f"pooling {self.pooling}"] if self.pooling else []))

    def or_else(self, stated: "NetworkVariant") -> "NetworkVariant":
        """The same; where it says nothing, what another states.

        Example:
            >>> NetworkVariant(accept=True).or_else(NetworkVariant(padding="tf_same")).padding
            'tf_same'
        """
        plain, names = NetworkVariant(), [field.name for field in dataclasses.fields(self)]
        own = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(plain, name)}
        return dataclasses.replace(stated, **own)


@dataclasses.dataclass(frozen=True)
class SourceReference:
    """All that says what a source is, so that a merge can be repeated from its config alone.

    Args:
        id: Hub id (`user/name`, `@revision` allowed), timm name, folder, file, or a name for a module in memory.
        loader: what reads it: `timm`, `transformers`, `file` (weights alone) or `memory`; found out by default.
        revision: commit sha, branch or tag on the Hub; pinned to a sha once read. `None` for anything local.
        file: name of the weights file in a folder or repository that neither timm nor transformers wrote.
        entry: which network of a file that holds several: the name of its mapping (`state_dict_ema`, `model.ema`) or
            of its module (`encoder_k`, `student`). By default the usual one of such pairs, which the notes tell.
        architecture: timm name of the network, for weights that do not say it; the anchor's by default.
        input: [`InputConvention`], its fields, or a name of `INPUTS`. By default what the checkpoint's own config
            says, and the anchor's where it says nothing (the notes tell so).
        variant: [`NetworkVariant`] or its fields.
        key_map: regular expression -> replacement, applied in order to every name of the checkpoint; or `order`, which
            pairs tensors with the anchor's by shape and order alone.
        sha256: of the converted weights ([`conversion.fingerprint`]), once they were read.
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
    entry: str | None = None
    architecture: str | None = None
    input: Any = None
    variant: Any = None
    key_map: Mapping[str, str] | str | None = None
    sha256: str | None = None
    license: str | None = None
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self.notes))
        object.__setattr__(self, "input", InputConvention.parse(self.input))
        if isinstance(self.variant, Mapping):
            object.__setattr__(self, "variant", NetworkVariant(**_known(NetworkVariant, self.variant, "variant")))
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


@dataclasses.dataclass
class LoadedSource:
    """A checkpoint in memory.

    Args:
        reference: where it came from.
        tensors: its state dict, under its own names.
        network_config: dict of the plain transformers config (`timm_wrapper` for timm networks), where known.
        image_processor: of transformers-native checkpoints that carry one.
        input: what images it expects, where it or its reference says so.
        module: the network itself, of sources in memory.
        run: the network itself, of files that a library can run: features of images.
        notes: what was chosen and left out while it was read, a phrase each.
        metadata: free text that whoever wrote the file put beside the tensors.
        hint: the way out that its format knows where tensors are missing.
    """

    reference: SourceReference
    tensors: Mapping[str, Tensor]
    network_config: dict[str, Any] | None = None
    image_processor: Any = None
    input: InputConvention | None = None
    module: nn.Module | None = None
    run: nn.Module | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    hint: str = ""


@dataclasses.dataclass(frozen=True)
class Description:
    """A source whose weights stay where they are.

    Args:
        source: its reference, config and input, its tensors empty (meta device); none where only the weights
            themselves could tell (a pickle on the Hub).
        files: its weights files on this machine; none for the Hub or memory.
        bytes: of its weights files.
        base_model: what its card says that it was made of.
    """

    source: LoadedSource
    files: list[Path]
    bytes: int
    base_model: list[str] = dataclasses.field(default_factory=list)


def source_name(source: Mapping[str, Any]) -> str:
    """What people call a source: its Hub id, or a local file's name without the path."""
    return source["id"] if source["revision"] else source["id"].rstrip("/").rsplit("/", 1)[-1]


def short_name(source: str) -> str:
    """The last part of a path or Hub id, without suffix."""
    name = source.rstrip("/").rsplit("/", 1)[-1]
    for suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".h5", ".keras", ".onnx"):
        name = name.removesuffix(suffix)
    return name


def stated_name(source: str | Mapping[str, Any]) -> str:
    """What tables call a source that an option names, by itself or by a mapping of more.

    Example:
        >>> stated_name({"id": "lab/xray.safetensors", "input": "imagenet"})
        'xray'
    """
    return short_name(source if isinstance(source, str) else source["id"])


# What a source may be given as.
Source = str | Mapping[str, Any] | SourceReference | nn.Module
