"""MedMerge against what a user would do instead, on every target, merge and seed, with the same budget.

    python recipes/compare.py CONFIG.yaml [--seeds 0 1 2 3 4] [--workers 2] [--trials 1] [--option value ...]
    accelerate launch recipes/compare.py CONFIG.yaml ...

CONFIG.yaml is one of `train.py`; its section `compare` may name several `targets` and `merges` (each a mapping of
options), the `methods`, `label_fractions` (of a target, or of all), and what is different in `best`. Finished runs are
kept in `<output_dir>/runs` by their settings and never trained twice. `--workers` spreads them with Ray
(`pip install "medmerge_hf[comparison]"`), here or over the machines of a cluster. Writes comparison.md, .csv, .tex,
.html and pictures.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from accelerate.state import PartialState
from transformers.utils import logging as hf_logging

from ..errors import MedMergeError, SettingsError
from ..runs.config import make_settings, pop_list, read_options
from .plan import Plan
from .report.page import write_report
from .report.rows import alikeness, collect, promises
from .run_store import RunStore
from .runner import run_everything


def make_plan(options: dict[str, Any]) -> Plan:
    """The comparison that options describe, checked."""
    seeds, trials = [int(seed) for seed in pop_list(options, "seeds", [0])], int(pop_list(options, "trials", [1])[0])
    plan = Plan(options, seeds, RunStore(Path(str(options.get("output_dir", "comparison"))) / "runs"), trials)
    for setting in plan.settings:
        settings = make_settings({**setting.options, "output_dir": "checked"})
        if (settings.merge.max_steps > 0) != (settings.finetune.max_steps > 0):
            raise SettingsError("max_steps counts in both stages or in neither: give it for merge and finetune.")
    return plan


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    hf_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        options = read_options(sys.argv[1:] if argv is None else argv)
        workers = [int(count) for count in pop_list(options, "workers", [])]
        plan = make_plan(options)
        run_everything(plan, workers[0] if workers else None)
        folder = plan.runs.folder.parent
        with PartialState().local_main_process_first():
            text = write_report(collect(plan), folder, promised=promises(plan), alike=alikeness(plan))
    except MedMergeError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if PartialState().is_main_process:
        print(f"\n{text}\n\nWritten to {folder}")


if __name__ == "__main__":
    main()
