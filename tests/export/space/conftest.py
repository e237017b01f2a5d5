"""Exports of every kind, and what runs in a Space as it lies in its folder."""

import importlib
import sys

import pytest
import torch
from PIL import Image
from tiny import native_vit, network
from transformers import ViTImageProcessor

from medmerge_hf import MedMergeModel


NAMES = {0: "benign", 1: "malignant", 2: "normal"}

MULTI_LABEL = {"problem_type": "multi_label_classification"}


def native_sources(folder):
    for seed in (0, 1):
        native_vit(seed).save_pretrained(folder / f"source{seed}")
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / f"source{seed}")
    return [str(folder / "source0"), str(folder / "source1")]


KINDS = {
    "resnet": lambda folder: {"sources": [network(0), network(1)], "image_size": 32},
    "grey": lambda folder: {"sources": [network(n, in_chans=1) for n in (0, 1)], "image_size": 32, **MULTI_LABEL},
    "native": lambda folder: {"sources": native_sources(folder)},
}


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """Name of a kind -> the folder of a model that is far from even probabilities."""
    folder = tmp_path_factory.mktemp("exports")
    for name, kind in KINDS.items():
        model = MedMergeModel.from_sources(id2label=NAMES, **kind(folder))
        torch.manual_seed(0)
        head = model.network.get_output_embeddings() or list(model.network.modules())[-1]
        torch.nn.init.normal_(head.weight, std=0.3)
        model.save_pretrained(folder / name)
    return folder


@pytest.fixture
def load(monkeypatch):
    """A function that loads the classifier of a Space, of the files that lie in it."""
    pytest.importorskip("captum")

    def load(folder):
        monkeypatch.syspath_prepend(str(folder))
        forget()
        return importlib.import_module("classifier").load_classifier()

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] in ("classifier", "heat_map", "reading")]:
            del sys.modules[name]

    yield load
    forget()


@pytest.fixture
def photograph(tmp_path):
    """A JPEG with a comment and a place in its metadata."""
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    noise = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).save(tmp_path / "jane_doe.jpg", exif=exif, comment=b"Jane Doe", quality=95)
    return tmp_path / "jane_doe.jpg"
