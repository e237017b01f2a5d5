"""The layers of keras.applications -> timm's names, as regular expressions over what the Keras reader gives."""

from typing import Any


# Blocks of MobileNetV2 before each stage of timm's.
_MOBILENET = (0, 1, 3, 6, 10, 13, 16)


def _mobilenet_block(found: Any) -> str:
    number = int(found[1])
    stage = max(index for index, first in enumerate(_MOBILENET) if first <= number)
    return f"blocks.{stage}.{number - _MOBILENET[stage]}."


def _efficientnet_block(found: Any) -> str:
    return f"blocks.{int(found[1]) - 1}.{ord(found[2]) - ord('a')}."


def _xception_block(found: Any) -> str:
    """timm's first block has no ReLU in front."""
    block, layer = int(found[1]) - 1, 3 * (int(found[2]) - 1) + (int(found[1]) > 2) + bool(found[3])
    return f"block{block}.rep.{layer}."


def _xception_shortcut(found: Any) -> str:
    return f"block{(1, 2, 3, 12)[int(found[2])]}.{'skip' if found[1] == 'conv2d' else 'skipbn'}."


def _vgg(*sizes: int) -> dict[str, Any]:
    places, place = {}, 0
    for block, size in enumerate(sizes, 1):
        for layer in range(1, size + 1):
            places[rf"^block{block}_conv{layer}\."] = f"features.{place}."
            place += 2
        place += 1
    return {**places, r"^fc([12])\.": r"pre_logits.fc\1."}


_HEAD = {r"^predictions\.": r"head."}

# Where two of a family share a rule, the longer rule comes first.
KERAS: dict[str, dict[str, Any]] = {
    "ResNet": {
        r"^conv1_(conv|bn)\.": lambda found: {"conv": "conv1.", "bn": "bn1."}[found[1]],
        r"^conv(\d)_block(\d+)_0_(conv|bn)\.": lambda found: (
            f"layer{int(found[1]) - 1}.{int(found[2]) - 1}.downsample.{int(found[3] == 'bn')}."
        ),
        r"^conv(\d)_block(\d+)_([123])_(conv|bn)\.": lambda found: (
            f"layer{int(found[1]) - 1}.{int(found[2]) - 1}.{found[4]}{found[3]}."
        ),
        **_HEAD,
    },
    "ResNet of before 2019": {
        r"^bn_conv1\.": r"bn1.",
        r"^(res|bn)(\d)([a-z])_branch1\.": lambda found: (
            f"layer{int(found[2]) - 1}.{ord(found[3]) - ord('a')}.downsample.{int(found[1] == 'bn')}."
        ),
        r"^(res|bn)(\d)([a-z])_branch2([abc])\.": lambda found: (
            f"layer{int(found[2]) - 1}.{ord(found[3]) - ord('a')}."
            f"{'conv' if found[1] == 'res' else 'bn'}{ord(found[4]) - ord('a') + 1}."
        ),
        r"^fc1000\.": r"head.",
    },
    "VGG16": {**_vgg(2, 2, 3, 3, 3), **_HEAD},
    "VGG19": {**_vgg(2, 2, 4, 4, 4), **_HEAD},
    "DenseNet": {
        r"^conv1_(conv|bn)\.": lambda found: f"features.{'conv0' if found[1] == 'conv' else 'norm0'}.",
        r"^conv(\d)_block(\d+)_([012])_(conv|bn)\.": lambda found: (
            f"features.denseblock{int(found[1]) - 1}.denselayer{found[2]}."
            f"{f'conv{found[3]}' if found[4] == 'conv' else f'norm{int(found[3]) + 1}'}."
        ),
        r"^pool(\d)_(conv|bn)\.": lambda found: (
            f"features.transition{int(found[1]) - 1}.{'conv' if found[2] == 'conv' else 'norm'}."
        ),
        r"^bn\.": r"features.norm5.",
        **_HEAD,
    },
    "MobileNetV2": {
        r"^Conv1\.": r"conv_stem.",
        r"^bn_Conv1\.": r"bn1.",
        r"^Conv_1\.": r"conv_head.",
        r"^Conv_1_bn\.": r"bn2.",
        r"^expanded_conv_depthwise\.": r"blocks.0.0.conv_dw.",
        r"^expanded_conv_depthwise_BN\.": r"blocks.0.0.bn1.",
        r"^expanded_conv_project\.": r"blocks.0.0.conv_pw.",
        r"^expanded_conv_project_BN\.": r"blocks.0.0.bn2.",
        r"^block_(\d+)_": _mobilenet_block,
        r"\.expand\.": r".conv_pw.",
        r"\.expand_BN\.": r".bn1.",
        r"\.depthwise\.": r".conv_dw.",
        r"\.depthwise_BN\.": r".bn2.",
        r"\.project\.": r".conv_pwl.",
        r"\.project_BN\.": r".bn3.",
        **_HEAD,
    },
    "EfficientNet": {
        r"^stem_(conv|bn)\.": lambda found: {"conv": "conv_stem.", "bn": "bn1."}[found[1]],
        r"^top_(conv|bn)\.": lambda found: {"conv": "conv_head.", "bn": "bn2."}[found[1]],
        r"^block1([a-z])_project_conv\.": lambda found: f"blocks.0.{ord(found[1]) - ord('a')}.conv_pw.",
        r"^block1([a-z])_project_bn\.": lambda found: f"blocks.0.{ord(found[1]) - ord('a')}.bn2.",
        r"^block1([a-z])_bn\.": lambda found: f"blocks.0.{ord(found[1]) - ord('a')}.bn1.",
        r"^block(\d)([a-z])_": _efficientnet_block,
        r"\.expand_conv\.": r".conv_pw.",
        r"\.expand_bn\.": r".bn1.",
        r"\.dwconv\.": r".conv_dw.",
        r"(blocks\.\d+\.\d+)\.bn\.": r"\1.bn2.",
        r"\.project_conv\.": r".conv_pwl.",
        r"\.project_bn\.": r".bn3.",
        r"\.se_(reduce|expand)\.": r".se.conv_\1.",
        **_HEAD,
    },
    "Xception": {
        r"^block1_conv([12])\.": r"conv\1.",
        r"^block1_conv([12])_bn\.": r"bn\1.",
        r"^block14_sepconv([12])\.": lambda found: f"conv{int(found[1]) + 2}.",
        r"^block14_sepconv([12])_bn\.": lambda found: f"bn{int(found[1]) + 2}.",
        r"^block(\d+)_sepconv(\d)(_bn)?\.": _xception_block,
        r"^(conv2d|batch_normalization)_(\d+)\.": _xception_shortcut,
        r"\.depthwise\.": r".conv1.",
        **_HEAD,
    },
}
