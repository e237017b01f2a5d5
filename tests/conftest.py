"""Shared tiny models and images, and a loopback Hub. Nothing leaves this machine, no cache of the user is touched.

What takes long to import is imported where it is used: the process that only hands the tests out reads this file too.
"""

import gc
import os
import tempfile
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub


# Read by huggingface_hub when it is imported.
HUB = Hub()
os.environ |= {
    "HF_ENDPOINT": HUB.url,
    "HF_HOME": tempfile.mkdtemp(prefix="medmerge-hf-home-"),
    "HF_TOKEN": TOKEN,
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "KERAS_BACKEND": "torch",
}

REAL_DATA = Path(os.environ.get("MEDMERGE_DATA") or Path(__file__).parents[2] / "shared" / "data")


def pytest_collection_finish():
    """`Trainer` collects garbage before every training; what was imported is none, and takes longest to search."""
    gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real checkpoints and images, where they are."""
    if not (REAL_DATA / "checkpoints").is_dir():
        pytest.skip("no real checkpoints here: set MEDMERGE_DATA to a folder with checkpoints/ and targets/")
    return REAL_DATA


@pytest.fixture
def hub():
    """The loopback Hub, empty and without faults."""
    HUB.reset()
    HUB.repos.clear()
    yield HUB
    HUB.reset()


@pytest.fixture
def sources():
    from tiny import network

    return [network(0), network(1)]


@pytest.fixture
def model(sources):
    """A merge of two tiny networks, with weights that are neither the one nor the other."""
    import torch

    from medmerge_hf import MedMergeModel

    torch.manual_seed(2)
    model = MedMergeModel.from_sources(sources, id2label={0: "a", 1: "b", 2: "c"}, image_size=32).eval()
    with torch.no_grad():
        model.merge.source_bias.normal_(0.2, 0.1)
    return model


@pytest.fixture(scope="session")
def images():
    import torch

    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def vessels(tmp_path_factory) -> Path:
    """A synthetic imagefolder: 3 classes, train / validation / test."""
    from phantoms import write_task

    return write_task("vessels", tmp_path_factory.mktemp("vessels"), {"train": 8, "validation": 4, "test": 4})
