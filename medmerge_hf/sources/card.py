"""What a model's card says of it."""

import logging
from pathlib import Path
from typing import Any

from .place import read_json


logger = logging.getLogger(__name__)


def read_card(folder: Path) -> Any:
    """What the metadata of a model's card says (`get`); nothing where there is no readable card."""
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data
    except (OSError, ValueError):
        logger.debug("%s has no readable card", folder)
        return {}


def read_license(folder: Path) -> str | None:
    """The licence that a model's card or timm config states, as the Hub calls it."""
    stated = read_card(folder).get("license")
    stated = stated or (read_json(folder / "config.json").get("pretrained_cfg") or {}).get("license")
    return stated if isinstance(stated, str) else None


def base_models(folder: Path) -> list[str]:
    """What a model's card says that it was made of."""
    found = read_card(folder).get("base_model")
    return [found] if isinstance(found, str) else list(found or [])
