"""MedMerge against what a user would do instead, on every target, merge and seed, with the same budget.

    medmerge compare CONFIG.yaml [--seeds 0 1 2 3 4] [--workers 2] [--trials 1] [--option value ...]
    accelerate launch -m medmerge_hf.cli compare CONFIG.yaml ...

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

from ..errors import SettingsError
from ..runs.checks import Problems, check_values
from ..runs.config import read_options
from ..runs.settings import make_settings, section_rules
from .options import ComparisonOptions
from .plan import Plan
from .report.page import write_report
from .report.rows import alikeness, collect, promises
from .run_store import RunStore
from .runner import run_everything


def make_plan(options: dict[str, Any]) -> Plan:
    """The comparison that options describe, checked."""
    own = take_options(options)
    store = RunStore(Path(str(options.get("output_dir", "comparison"))) / "runs")
    plan = Plan(options, own.seeds, store, own.trials)
    for setting in plan.settings:
        settings = make_settings({**setting.options, "output_dir": str(store.folder)})
        if (settings.merge.max_steps > 0) != (settings.finetune.max_steps > 0):
            raise SettingsError("max_steps counts in both stages or in neither: give it for merge and finetune.")
    return plan


def take_options(options: dict[str, Any]) -> ComparisonOptions:
    """Take a comparison's own options, checked, out of those of its runs."""
    rules, problems = section_rules(ComparisonOptions), Problems()
    given = {name: options.pop(name) for name in rules if name in options}
    found = check_values(given, rules, problems)
    problems.raise_all()
    return ComparisonOptions(**found)


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    hf_logging.set_verbosity_error()
    datasets.disable_progress_bars()
    options = read_options(sys.argv[1:] if argv is None else argv)
    workers = take_options(dict(options)).workers
    plan = make_plan(options)
    run_everything(plan, workers)
    folder = plan.runs.folder.parent
    with PartialState().local_main_process_first():
        text = write_report(collect(plan), folder, promised=promises(plan), alike=alikeness(plan))
    if PartialState().is_main_process:
        print(f"\n{text}\n\nWritten to {folder}")
