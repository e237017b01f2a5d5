"""The folder of a run: who may write into it, files written whole, the recipe that made it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import OutputDirError
from ..export.staging import PAGE, export_files
from .options import STAGES
from .settings import Settings


RECORD, RESULTS = "run.yaml", "all_results.json"

# Where the export goes: a run that is over, started again with these, is pushed.
PUSH = ("push_to_hub", "hub_model_id", "hub_private_repo")

# Options that are nobody else's.
PRIVATE = (*PUSH, "output_dir", "hub_token", "report_to", "disable_tqdm")


def claim_output_dir(settings: Settings) -> Path:
    """Make the output folder, unless another run's files are in it.

    Args:
        settings: of the run; its options, but for tokens and where it is pushed to, are kept in `run.yaml`, by
            which the run is known again.

    Returns:
        The folder.

    Raises:
        OutputDirError: another run or other files lie there, or nothing can be written.
    """
    folder = Path(settings.run.output_dir)
    mine = yaml.safe_dump(
        {
            key: {k: v for k, v in value.items() if k != "hub_token"} if key in STAGES and value else value
            for key, value in settings.options.items()
            if key not in PUSH
        }
    )
    record = folder / RECORD
    try:
        if held := _held(folder, record, mine):
            raise OutputDirError(f"{folder} already holds {held}. Choose another --output_dir, or move it away.")
        write_whole(record, mine)
    except OSError as error:
        raise OutputDirError(f"{folder} cannot be written into ({error}). Choose another --output_dir.") from error
    return folder


def _held(folder: Path, record: Path, mine: str) -> str:
    """What lies in a folder that is not this run's."""
    if not folder.is_dir() or not any(file != record.with_suffix(".tmp") for file in folder.iterdir()):
        return ""
    if not record.is_file():
        return "other files"
    return "" if record.read_text(errors="replace") == mine else f"another run (its {RECORD} differs)"


def figures_of_finished(folder: Path) -> dict[str, float] | None:
    """The figures of a run that is over, which has weights and its page; nothing of one that is not."""
    found = export_files(folder)
    over = PAGE in found and any(path.startswith("model") for path in found)
    return json.loads((folder / RESULTS).read_text()) if over else None


def write_whole(file: Path, text: str) -> None:
    """All of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_suffix(".tmp")
    staged.write_text(text)
    staged.replace(file)


def write_json(file: Path, figures: Any) -> None:
    """Figures or rows of results."""
    write_whole(file, json.dumps(figures, indent=2, sort_keys=True))


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
