"""A run from its options to the export: `medmerge train`, or `accelerate launch recipes/train.py` in a clone.

    medmerge train CONFIG.yaml [--option value ...] [--merge.option value] [--finetune.option value]

The YAML holds the options of `options.py`, and under `merge` and `finetune` the `TrainingArguments` of the two stages.
`${NAME}` in it is an environment variable. What stands on the command line wins.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from transformers import set_seed
from transformers.utils import logging as hf_logging

from ..evaluation.tables import markdown_table
from ..export.card.record import METHOD
from ..export.folder import add_page
from ..export.upload import push_export
from ..modeling_medmerge import MedMergeModel
from ..sources.reference import SourceReference
from .auto import auto
from .build import choose_sources, load_data
from .config import read_options
from .progress import followed
from .report import figures_rows, run_page
from .run_folder import RESULTS, claim_output_dir, figures_of_finished, recipe_of, write_json
from .settings import Settings, make_settings
from .stages import match_shares, merge_and_finetune, train_alone


logger = logging.getLogger(__name__)


def _at_revision(given: Any, found: Mapping[str, Any]) -> Any:
    pinned = {"id": found["id"], "revision": found["revision"]}
    return {**given, **pinned} if isinstance(given, dict) else f"{found['id']}@{found['revision']}"


def exact_revisions(model: MedMergeModel, target: Any, settings: Settings) -> dict[str, Any]:
    """The sources and the data set as options, at the commits that were used."""
    used = {found["id"]: found for found in model.config.sources if found["revision"]}
    sources = [
        _at_revision(given, used[name]) if (name := SourceReference.parse(given).id) in used else given
        for given in settings.options["sources"]
    ]
    data = {"data_revision": target.revision} if target.revision else {}
    more = target.unlabelled_from or ""
    return {"sources": sources, **data} | ({"unlabelled": more} if "/" in more else {})  # of the Hub, at a commit


def run(settings: Settings) -> dict[str, float]:
    """Everything from sources to the export; returns what `all_results.json` holds.

    Started again after it was killed, it goes on from its last whole checkpoint and ends as it would have. One that is
    over is not trained again, only pushed where the settings ask for that.
    """
    with settings.merge.main_process_first(desc="claim the output folder"):
        folder = claim_output_dir(settings)
    figures = figures_of_finished(folder)
    if figures is None:
        figures = _train(folder, settings)
    else:
        logger.info("%s holds this run, which is over: nothing is trained again.", folder)
    if settings.finetune.should_save and settings.run.push_to_hub:
        name = settings.run.hub_model_id or folder.absolute().name
        push_export(folder, name, private=settings.run.hub_private_repo)
    return figures


def _train(folder: Path, settings: Settings) -> dict[str, float]:
    """From the data to the export and its page, which is the last that a run writes."""
    target = load_data(settings)
    settings = choose_sources(settings, target)
    set_seed(settings.run.seed)
    chooses = settings.run.method == "auto"
    with followed(settings, len(target["train"])):
        if chooses:
            model, figures = auto(target, settings, resume=True)
        else:
            model, figures = merge_and_finetune(target, settings, settings.run.resamples, resume=True)
        figures |= match_shares(model, target, settings, settings.run.resamples)
        if settings.run.sources_alone and not chooses:
            results = [row for row in model.config.record["results"] if row["method"] == METHOD]
            model.config.record = {**model.config.record, "results": results + train_alone(target, settings)}
    if settings.finetune.should_save:
        exact = exact_revisions(model, target, settings)
        model.config.record = {**model.config.record, "recipe": recipe_of(settings, exact)}
        write_json(folder / RESULTS, figures)
        model.save_pretrained(folder, dtype=settings.run.export_dtype)
        weights = model.kernel_weights() if len(model.config.sources) > 1 else None
        add_page(folder, run_page(folder, model.config, weights))
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the words of a command line say, and print the results.

    Args:
        argv: CONFIG.yaml and options; those of the process by default.

    Raises:
        SettingsError: a line for each option that is wrong; nothing was read then.
        MedMergeError: of the data, the sources, the folder.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("medmerge_hf").setLevel(logging.INFO)
    hf_logging.set_verbosity_warning()
    datasets.disable_progress_bars()
    settings = make_settings(read_options(sys.argv[1:] if argv is None else argv))
    figures = run(settings)
    if settings.merge.process_index == 0:
        print(f"\n{markdown_table(*figures_rows(figures))}\n\nExported to {settings.run.output_dir}")
