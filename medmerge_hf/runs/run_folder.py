"""The folder of a run: who may write into it, files written whole, the recipe that made it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import OutputDirError
from .config import STAGES, Settings


# Options that are nobody else's.
PRIVATE = ("output_dir", "push_to_hub", "hub_model_id", "hub_private_repo", "hub_token", "report_to", "disable_tqdm")


def claim_output_dir(settings: Settings) -> Path:
    """Make the output folder, unless another run's files are in it."""
    folder = Path(settings.run.output_dir)
    mine = yaml.safe_dump(
        {
            key: {k: v for k, v in value.items() if k != "hub_token"} if key in STAGES else value
            for key, value in settings.options.items()
        }
    )
    record = folder / "run.yaml"
    half_written = record.with_suffix(".tmp")
    held_files = [file for file in folder.iterdir() if file != half_written] if folder.is_dir() else []
    if held_files and not (record.is_file() and record.read_text() == mine):
        held = "another run (its run.yaml differs)" if record.is_file() else "other files"
        raise OutputDirError(f"{folder} already holds {held}. Choose another --output_dir, or move it away.")
    write_whole(record, mine)
    return folder


def write_whole(file: Path, text: str) -> None:
    """All of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_suffix(".tmp")
    staged.write_text(text)
    staged.replace(file)


def recipe_of(settings: Settings, revisions: Mapping[str, Any]) -> str:
    """The options of a run as YAML for the model card, without places on this machine and without tokens.

    Args:
        settings: of the run.
        revisions: options that say exactly what was used, instead of what the user wrote.
    """

    def public(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: public(item) for key, item in value.items() if key not in PRIVATE}
        if isinstance(value, list):
            return [public(item) for item in value]
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return yaml.safe_dump(public({**settings.options, **revisions}), sort_keys=False)
