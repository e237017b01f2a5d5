"""Whether an export is what was trained: tensors, logits, class names, and the pixels that it makes of an image."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ExportError
from ..networks.backbone import is_bound
from ..networks.build import input_shape
from ..networks.classifier_output import as_classifier
from ..networks.preprocessing import preprocessing_of
from ..sources.place import read_json


LOGIT_TOLERANCE = 1e-6

PIXEL_TOLERANCE = 1e-5


def verify_export(network: Any, folder: Path, processor: Any = None) -> None:
    """Read an export back, once, and compare it with the network that was saved.

    Args:
        network: the network in memory, on the CPU; put into eval mode.
        folder: the export.
        processor: the image processor that it was trained with.

    Raises:
        ExportError: tensors are missing, left over, changed or not finite; logits, class names or pixels differ.
    """
    expected = network.state_dict()
    bounds = {name for name, buffer in network.named_buffers() if is_bound(buffer)}
    _check_finite({name: tensor for name, tensor in expected.items() if name not in bounds})
    reloaded = _read_back(folder, network.dtype)
    changed = [name for name, tensor in reloaded.state_dict().items() if not torch.equal(tensor, expected[name])]
    if changed:
        raise ExportError(f"{changed[0]} reads back with other values; nothing was saved.")
    _check_names(network.config.id2label, reloaded.config.id2label)
    _check_logits(network, reloaded)
    if processor is not None and input_shape(network)[0] in (1, 3):
        _check_pixels(processor, input_shape(network)[0], folder)


def _read_back(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForImageClassification

    try:
        network, info = AutoModelForImageClassification.from_pretrained(
            folder, output_loading_info=True, dtype=dtype, trust_remote_code=False
        )
    except Exception as error:  # whatever transformers, timm or safetensors raise
        raise ExportError(f"The export cannot be read back ({error}); nothing was saved.") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise ExportError(f"The export reads back with {problem}: {sorted(info[problem])[:4]}; nothing was saved.")
    return as_classifier(network)


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            way_out = "Export in bfloat16" if tensor.dtype == torch.float16 else "Lower the learning rates"
            raise ExportError(f"{name} holds NaN or infinity as {tensor.dtype}; nothing was saved. {way_out}.")


def _check_names(trained: Mapping[int, str], exported: Mapping[int, str]) -> None:
    for index in sorted({*trained, *exported}):
        if trained.get(index) != exported.get(index):
            raise ExportError(
                f"Class {index} is {trained.get(index)!r} in the model and {exported.get(index)!r} in the export; "
                "nothing was saved. Set model.config.id2label to names (text) of the classes 0 to K - 1."
            )


@torch.no_grad()
def _check_logits(network: Any, reloaded: Any) -> None:
    """With one set of tensors behind both: their values are compared already, and sums keep one order."""
    if network.dtype != torch.float32:
        network = copy.deepcopy(network).double()  # halves are slow here and too coarse to tell a mistake
    reloaded.load_state_dict(network.state_dict(), assign=True)
    own = torch.Generator().manual_seed(0)  # a training that saves must not draw other numbers than one that does not
    images = torch.rand(1, *input_shape(network), dtype=network.dtype, generator=own)
    logits, again = (net.eval()(images).logits for net in (network, reloaded.to(network.dtype)))
    difference, scale = float((logits - again).abs().max()), max(1.0, float(logits.abs().max()))
    if not difference < LOGIT_TOLERANCE * scale:
        raise ExportError(f"The export computes other logits (by {difference:.2g} of {scale:.2g}); nothing was saved.")


def _check_pixels(processor: Any, channels: int, folder: Path) -> None:
    pixels = preprocessing_of(processor)
    if not len(pixels.mean) == len(pixels.std) == channels:
        raise ExportError(
            f"The image processor has {len(pixels.mean)} means and {len(pixels.std)} standard deviations for "
            f"{channels} channels; nothing was saved. Give the anchor an input with so many of each."
        )
    noise = np.random.default_rng(0).integers(0, 256, (97, 71, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert("L" if channels == 1 else "RGB")
    trained = pixels.eval_transform(image)
    for reader, found in _exported_pixels(image, hasattr(processor, "data_config"), folder).items():
        same = found.shape == trained.shape and torch.allclose(found, trained, rtol=0, atol=PIXEL_TOLERANCE)
        if not same:
            raise ExportError(
                f"The export's preprocessing, read by {reader}, makes other pixels of an image than the model was "
                f"trained on ({tuple(found.shape)}, mean {found.mean():.4f}; {tuple(trained.shape)}, mean "
                f"{trained.mean():.4f}); nothing was saved. Leave model.image_processor as from_sources made it."
            )


def _exported_pixels(image: Image.Image, timm_too: bool, folder: Path) -> dict[str, Tensor]:
    """What those who load the folder feed its network with."""
    from timm.data import create_transform, resolve_data_config
    from transformers import AutoImageProcessor
    from transformers.utils import logging as hf_logging

    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # it warns that timm's processor is not of torchvision, which is as it should be
    try:
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    finally:
        hf_logging.set_verbosity(verbosity)
    found = {"transformers": processor(image, return_tensors="pt")["pixel_values"][0]}
    if timm_too:
        data = resolve_data_config(pretrained_cfg=read_json(folder / "config.json")["pretrained_cfg"])
        found["timm"] = create_transform(**data, is_training=False)(image)
    return found
