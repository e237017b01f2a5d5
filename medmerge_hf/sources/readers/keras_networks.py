"""The networks of keras.applications: how they are told by their layers, and in what they differ from timm's."""

import dataclasses
import re
from collections.abc import Mapping

from torch import Tensor

from ...networks.input_convention import INPUTS, InputConvention
from ..reference import NetworkVariant


@dataclasses.dataclass(frozen=True)
class Family:
    """A network of keras.applications.

    Args:
        name: Keras' own.
        architecture: timm's.
        layers: that only this network has.
        variant: in what it differs from timm's.
        input: name of what its `preprocess_input` makes of images, see `INPUTS`.
        flattened: layer -> height, width and channels of what was flattened before it.
        residuals: whether its shortcuts have no names of their own but Keras' counters.
    """

    name: str
    architecture: str
    layers: tuple[str, ...]
    variant: NetworkVariant
    input: str
    flattened: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    residuals: bool = False

    def prepare(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors with channels before pixels behind a flattening, and counted layers counted from 0."""
        found = dict(tensors)
        for layer, (height, width, channels) in self.flattened.items():
            weight = found.get(f"{layer}.weight")
            if weight is not None and weight.ndim == 2 and weight.shape[1] == height * width * channels:
                image = weight.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
                found[f"{layer}.weight"] = image.reshape(len(weight), -1)
        return _counted(found) if self.residuals else found

    def convention(self, tensors: Mapping[str, Tensor]) -> InputConvention:
        """What images it is given; a network that normalises by itself has the numbers in a layer."""
        mean, variance = tensors.get("normalization.mean"), tensors.get("normalization.variance")
        if mean is not None and variance is not None and not mean.any() and bool((variance == 1).all()):
            return INPUTS["unit"]
        return INPUTS[self.input]


def _resnet(depth: int, blocks: int, old: bool) -> Family:
    last = f"res4{chr(96 + blocks)}_branch2c" if old and depth == 50 else f"conv4_block{blocks}_3_conv"
    eps = 1e-3 if old else 1.001e-5
    return Family(
        f"ResNet{depth}{' (before 2019)' if old else ''}",
        f"resnet{depth}",
        ("bn_conv1" if old else "conv1_bn", last),
        NetworkVariant(bn_eps=eps, stride="conv1"),
        "caffe",
    )


DEPTHS = {121: (24, 16), 169: (32, 32), 201: (48, 32)}

TENSORFLOW = NetworkVariant(bn_eps=1e-3, padding="tf_same")

# A deeper network has the layers of the shallower ones: the deepest comes first.
FAMILIES = (
    *(_resnet(depth, blocks, False) for depth, blocks in ((152, 36), (101, 23), (50, 6))),
    _resnet(50, 6, True),
    *(
        Family(
            f"DenseNet{depth}",
            f"densenet{depth}",
            (f"conv4_block{third}_2_conv", f"conv5_block{fourth}_2_conv", "pool2_conv"),
            NetworkVariant(bn_eps=1.001e-5),
            "imagenet",
        )
        for depth, (third, fourth) in sorted(DEPTHS.items(), reverse=True)
    ),
    *(
        Family(
            f"VGG{depth}",
            f"vgg{depth}",
            ("block1_conv1", "block5_conv3", last),
            NetworkVariant(),
            "caffe",
            {"fc1": (7, 7, 512)},
        )
        for depth, last in ((19, "block5_conv4"), (16, "block5_conv3"))
    ),
    Family("MobileNetV2", "mobilenetv2_100", ("bn_Conv1", "block_16_project"), TENSORFLOW, "symmetric"),
    Family(
        "EfficientNetB0", "tf_efficientnet_b0", ("stem_conv", "block6d_dwconv", "top_conv"), TENSORFLOW, "imagenet"
    ),
    Family(
        "Xception",
        "legacy_xception",
        ("block1_conv1_bn", "block14_sepconv2"),
        NetworkVariant(bn_eps=1e-3, pooling="tf_same"),
        "symmetric",
        residuals=True,
    ),
)


def known_names() -> str:
    """The networks that are told by their layers, for an error."""
    return ", ".join(family.name for family in FAMILIES)


def family_of(tensors: Mapping[str, Tensor]) -> Family | None:
    """The network that has these layers."""
    layers = {name.split(".")[0] for name in tensors}
    return next((family for family in FAMILIES if set(family.layers) <= layers), None)


def fold_biases(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Biases of convolutions before a BatchNorm taken off its mean, which computes the same; timm has none there.

    Args:
        tensors: `x_conv.bias` belongs before `x_bn`, and of Keras before 2019 `res2a_branch2a` before `bn2a_branch2a`.

    Returns:
        The tensors, and a note.
    """
    found, count = dict(tensors), 0
    for name, bias in tensors.items():
        layer, leaf = name.rpartition(".")[::2]
        norm = {layer.replace("_conv", "_bn"), re.sub("^res", "bn", layer), f"bn_{layer}"} - {layer}
        mean = next((f"{n}.running_mean" for n in sorted(norm) if f"{n}.running_mean" in tensors), None)
        if leaf == "bias" and mean is not None and tensors[mean].shape == bias.shape:
            found[mean], count = tensors[mean] - bias, count + 1
            del found[name]
    return found, [f"{count} biases before a BatchNorm taken off its mean"] if count else []


def _counted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`conv2d_7`, `conv2d_8`, ... as `conv2d_0`, `conv2d_1`: Keras counts on over all networks of a process."""
    names: dict[str, str] = {}
    for kind in ("conv2d", "batch_normalization"):
        found = {name.split(".")[0] for name in tensors if re.fullmatch(rf"{kind}(_\d+)?", name.split(".")[0])}
        ordered = sorted(found, key=lambda layer: int(layer.rpartition("_")[2]) if layer[-1].isdigit() else 0)
        names |= {layer: f"{kind}_{index}" for index, layer in enumerate(ordered)}
    split = {name: name.partition(".") for name in tensors}
    return {f"{names.get(top, top)}.{rest}": tensors[name] for name, (top, _, rest) in split.items()}
