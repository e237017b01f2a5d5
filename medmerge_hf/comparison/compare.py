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
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
from accelerate.state import PartialState
from transformers.utils import logging as hf_logging

from ..runs.checks import Problems, Rule, check_names, check_values
from ..runs.config import read_options
from ..runs.settings import find_settings, section_rules
from .options import ComparisonOptions, SectionOptions, SettingOptions
from .plan import SECTION, Plan
from .registry import METHODS
from .report.foresight import foresights
from .report.page import write_report
from .report.rows import alikeness, collect, promises
from .run_store import RunStore
from .runner import run_everything


def make_plan(options: dict[str, Any]) -> Plan:
    """The comparison that options describe, all of its runs checked.

    Args:
        options: of [`read_options`]; those of the comparison itself are taken out.

    Raises:
        SettingsError: a line for each option that is wrong, in whatever run.
    """
    own, problems = take_options(options), Problems()
    check_section(options.get(SECTION), problems)
    problems.raise_all()
    store = RunStore(Path(str(options.get("output_dir", "comparison"))) / "runs")
    plan = Plan(options, own.seeds, store, own.trials)
    for setting in plan.settings:
        runs = [setting.options, *(plan.key(setting, name, 0)["options"] for name in setting.methods)]
        for place, options in enumerate(runs):
            if options not in runs[:place]:
                _check_run({**options, "output_dir": str(store.folder)}, problems)
    Problems(dict.fromkeys(problems)).raise_all()
    return plan


def _check_run(options: Mapping[str, Any], problems: Problems) -> None:
    settings = find_settings(options, problems)
    if settings is not None and (settings.merge.max_steps > 0) != (settings.finetune.max_steps > 0):
        problems.append("max_steps: counts in both stages or in neither: give it for merge and finetune.")


def check_section(section: Any, problems: Problems) -> None:
    """Note what the section `compare` of a config cannot hold; the options of its runs are not looked at.

    Args:
        section: as the YAML has it.
        problems: receives what is wrong.
    """
    if section is None:
        return
    if not isinstance(section, Mapping):
        problems.value(SECTION, section, "a mapping")
        return
    rules = {method.options: Rule(dict) for method in METHODS.values() if method.options} | section_rules(
        SectionOptions
    )
    rules["methods"] = Rule(list[str], list(METHODS))
    check_names(section, [f"{SECTION}.{name}" for name in rules], problems, f"{SECTION}.")
    found = check_values(section, rules, problems, f"{SECTION}.")
    below = {name: rules[name] for name in section_rules(SettingOptions)}
    for kind in ("targets", "merges"):
        for name, options in found.get(kind, {}).items():
            place = f"{SECTION}.{kind}.{name}"
            if not isinstance(name, str) or not isinstance(options, Mapping):
                problems.value(place, options, "a name in quotes, and a mapping of options")
            else:
                check_values(options, below, problems, f"{place}.")


def take_options(options: dict[str, Any]) -> ComparisonOptions:
    """Take a comparison's own options, checked, out of those of its runs."""
    rules, problems = section_rules(ComparisonOptions), Problems()
    given = {name: options.pop(name) for name in rules if name in options}
    found = check_values(given, rules, problems)
    for name, library in (("workers", "ray"), ("trials", "optuna")):
        if found.get(name, 1) > 1 and find_spec(library) is None:
            problems.value(
                name, found[name], f"1, since {library} is not installed: pip install medmerge_hf[comparison]"
            )
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
        rows, before = collect(plan), promises(plan)
        text = write_report(rows, folder, promised=before, alike=alikeness(plan), foreseen=foresights(plan))
    if PartialState().is_main_process:
        print(f"\n{text}\n\nWritten to {folder}")
