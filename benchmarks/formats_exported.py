"""Files that were exported from their networks' own library: ONNX, Keras, TensorFlow.js."""

import sys
import types
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from formats_made import Case, Made, lively
from torch import Tensor, nn


# ONNX


def _onnx_export(build: Callable[[], Any], size: int, **options: Any) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        network = lively(build())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images = (torch.zeros(1, 3, size, size),)
            torch.onnx.export(network, images, str(folder / "made.onnx"), verbose=False, **options)
        return {"id": str(folder / "made.onnx")}, network

    return make


def _onnx_rounded(folder: Path) -> Made:
    from onnxruntime.quantization import quantize_dynamic

    source, network = _onnx_export(lambda: timm.create_model("test_resnet"), 64, dynamo=False)(folder)
    quantize_dynamic(source["id"], folder / "rounded.onnx")
    return {"id": str(folder / "rounded.onnx")}, network


# Keras and TensorFlow.js


class OfKeras(nn.Module):
    """A network of Keras that takes and gives channels first.

    Args:
        network: of Keras.
        scale: of the images that it wants, which go from 0 to 1.
    """

    def __init__(self, network: Any, scale: float) -> None:
        super().__init__()
        self.run, self.scale = [network], scale

    def forward(self, images: Tensor) -> Tensor:
        """Features."""
        pixels = (images.float() * self.scale).permute(0, 2, 3, 1)
        found = np.asarray(self.run[0](pixels.numpy(), training=False).detach().cpu().numpy())
        return torch.from_numpy(found).permute(0, 3, 1, 2).to(images.dtype)


def _vary(weights: Any, name: Callable[[Any], str]) -> None:
    generator = np.random.default_rng(0)
    for weight in weights:
        place, shape = name(weight), tuple(weight.shape)
        if place.endswith(("moving_mean", "beta", "bias")):
            weight.assign(0.1 * generator.standard_normal(shape))
        elif place.endswith(("moving_variance", "gamma")) and "normalization/" not in place:
            weight.assign(0.75 + 0.5 * generator.random(shape))


def _keras_network(name: str, form: str, size: int) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        import keras

        made = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), include_top=False)
        _vary(made.weights, lambda weight: weight.path)
        file = folder / f"made{form}"
        made.save_weights(file) if form == ".weights.h5" else made.save(file)
        stated = {"variant": {"accept": True}, "input": "unit"}
        return {"id": str(file), **stated}, OfKeras(made, 255.0 if name == "EfficientNetB0" else 1.0)

    return make


class Recorded(nn.Module):
    """Features that another library computed of the image that was given to it."""

    def __init__(self, images: Any, found: Any) -> None:
        super().__init__()
        self.images, self.found = torch.from_numpy(images), torch.from_numpy(found)

    def forward(self, images: Tensor) -> Tensor:
        """Those."""
        return self.found.permute(0, 3, 1, 2).to(images.dtype)


def _tfjs_network(name: str, size: int, quantization: Mapping[str, Any] | None = None) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        # Its converters of other formats want packages that layers models do not need.
        for other in ("tensorflow_decision_forests", "tensorflow_hub", "jax", "jax.experimental.jax2tf"):
            for part in (other, other.rpartition(".")[0]):
                sys.modules.setdefault(part or other, types.ModuleType(part or other))
        for word in ("object", "bool"):  # gone from NumPy
            if word not in vars(np):
                setattr(np, word, {"object": object, "bool": bool}[word])
        import tf_keras
        from tensorflowjs.converters import converter, keras_h5_conversion

        made = getattr(tf_keras.applications, name)(weights=None, input_shape=(size, size, 3), include_top=False)
        _vary(made.weights, lambda weight: weight.name.split(":")[0])
        images = np.random.default_rng(0).random((1, size, size, 3)).astype("float32")
        made.save(str(folder / "made.h5"))
        convert = converter.dispatch_keras_h5_to_tfjs_layers_model_conversion
        topology, groups = convert(str(folder / "made.h5"))
        (folder / "js").mkdir()
        keras_h5_conversion.write_artifacts(topology, groups, str(folder / "js"), quantization_dtype_map=quantization)
        stated = {"variant": {"accept": True}, "input": "unit"}
        return {"id": str(folder / "js" / "model.json"), **stated}, Recorded(images, made(images).numpy())

    return make


def _others() -> list[Case]:
    sizes = {"ResNet50": "resnet50", "MobileNetV2": "mobilenetv2_100", "DenseNet121": "densenet121"}
    sizes |= {"EfficientNetB0": "tf_efficientnet_b0", "Xception": "legacy_xception", "VGG16": "vgg16"}
    pixels = {"Xception": 96, "VGG16": 224}
    forms = {"ResNet50": ".h5", "MobileNetV2": ".keras", "DenseNet121": ".weights.h5", "VGG16": ".h5"}
    keras = [
        Case(f"{name} ({form})", ("keras", "h5py"), architecture, _keras_network(name, form, size), size)
        for name, architecture in sizes.items()
        for form, size in [(forms.get(name, ".keras"), pixels.get(name, 64))]
    ]
    onnx, js = ("onnx", "onnxruntime", "onnxscript"), ("tensorflowjs", "tf_keras")
    resnet, vgg = (lambda: torchvision.models.resnet18(weights=None)), torchvision.models.vgg16
    return [
        *keras,
        Case("ResNet-18, BatchNorms folded", onnx, "resnet18", _onnx_export(resnet, 64, dynamo=False)),
        Case("ResNet-18, the new exporter", onnx, "resnet18", _onnx_export(resnet, 64, dynamo=True)),
        Case("VGG16", onnx, "vgg16", _onnx_export(lambda: vgg(weights=None), 224, dynamo=False), 224),
        Case("int8 by onnxruntime", onnx, "test_resnet", _onnx_rounded, extracted=True, tolerance=0.1),
        Case("MobileNetV2", js, "mobilenetv2_100", _tfjs_network("MobileNetV2", 64)),
        Case("ResNet50", js, "resnet50", _tfjs_network("ResNet50", 64)),
        Case(
            "MobileNetV2, --quantize_uint8",
            js,
            "mobilenetv2_100",
            _tfjs_network("MobileNetV2", 64, {"uint8": "*"}),
            tolerance=0.1,
        ),
    ]


EXPORTED = _others()
