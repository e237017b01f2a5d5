"""Runs of tiny networks."""

import pytest
import timm
from tiny import network


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> list[str]:
    """Three sources as timm folders."""
    place = tmp_path_factory.mktemp("sources")
    for seed in range(3):
        timm.models.save_for_hf(network(seed), place / str(seed), safe_serialization=True)
    return [str(place / str(seed)) for seed in range(3)]
