"""One tiny comparison, run once for all tests that read what it leaves."""

from contextlib import redirect_stdout
from io import StringIO

import pytest
import timm
import yaml
from tiny import network

from medmerge_hf.comparison.compare import main, make_plan
from medmerge_hf.runs.config import read_options


STAGE = {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True, "save_only_model": True}
METHODS = [
    "uniform average",
    "greedy soup",
    "ensemble",
    "fine-tuned longer",
    "MedMerge (best)",
    "MedMerge of fine-tuned",
    "best without kernel weights",
    "best with noise for sources",
    "ranking of all",
    "ensemble of seeds",
    "distilled",
    "self-trained",
    "MedMerge distilled",
    "distilled with noise for sources",
    "best single source matched",
    "MedMerge distilled matched",
]


def write_config(folder, vessels):
    for seed in range(2):
        timm.models.save_for_hf(network(seed), folder / str(seed), safe_serialization=True)
    options = {
        "sources": [str(folder / "0"), str(folder / "1")],
        "data": str(vessels),
        "image_size": 32,
        "output_dir": str(folder / "out"),
        "merge": STAGE,
        "finetune": {**STAGE, "learning_rate": 1e-3},
        "label_fraction": 0.5,
        "unlabelled": True,
        "compare": {"methods": METHODS, "best": {"init": 0.1}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(options, sort_keys=False))
    return folder / "config.yaml"


@pytest.fixture
def config(tmp_path, vessels):
    return write_config(tmp_path, vessels)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, vessels):
    """A comparison that was run: its config and what it printed."""
    config = write_config(tmp_path_factory.mktemp("compared"), vessels)
    with redirect_stdout(StringIO()) as printed:
        main([str(config)])
    return config, printed.getvalue()


@pytest.fixture
def finished_plan(finished):
    return make_plan(read_options([str(finished[0])]))
