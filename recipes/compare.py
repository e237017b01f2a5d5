"""Merge against each source alone, with the same data, transforms, steps and seeds.

    python recipes/compare.py CONFIG.yaml --seeds 0 1 2 [--option value ...]

CONFIG.yaml is one of `train.py`. Each source alone runs LP-FT: its head for as long as the merge stage, then
everything for as long as the fine-tuning. Finished runs are kept in `<output_dir>/runs.json` and not repeated.
"""

import json
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from settings import Settings, make_settings, read_options
from train import load_data, lp_ft, make_single, merge_and_finetune
from transformers import set_seed
from transformers.utils import logging as hf_logging

from medmerge_hf.errors import MedMergeError
from medmerge_hf.report import markdown_table, mean_and_spread, plot_scores, short_name


MERGE = "merge"


def names(settings: Settings) -> list[str]:
    """What the sources are called."""
    return [source if isinstance(source, str) else source["id"] for source in settings.source.sources]


def run_one(method: str, settings: Settings, target: Any) -> dict[str, float]:
    """One method with one seed: the merge, or the source of that name alone."""
    set_seed(settings.run.seed)
    if method != MERGE:
        source = settings.source.sources[names(settings).index(method)]
        return lp_ft(make_single(source, settings, target), target, settings)
    return merge_and_finetune(target, settings)[1]


def compare(options: Mapping[str, Any], seeds: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """All methods with all seeds; rows of method, seed and figures."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "runs.json"
    runs: dict[str, Any] = json.loads(record.read_text()) if record.is_file() else {}
    rows = []
    for seed in seeds:
        settings = make_settings({**options, "seed": seed, "output_dir": str(folder / "work")})
        target = load_data(settings)
        for method in [*names(settings), MERGE]:
            key = json.dumps([method, seed, {k: v for k, v in options.items() if k != "output_dir"}], sort_keys=True)
            if key not in runs:
                runs[key] = run_one(method, settings, target)
                record.write_text(json.dumps(runs, indent=1))
                shutil.rmtree(folder / "work", ignore_errors=True)
            rows.append({"method": method, "seed": seed, **runs[key]})
    return rows


def title(method: str) -> str:
    """What tables and pictures call a method."""
    return "MedMerge" if method == MERGE else f"{short_name(method)} alone"


def summary(rows: Sequence[Mapping[str, Any]], split: str) -> str:
    """Mean and spread over seeds after each stage, as Markdown, and the paired gain over the best source."""
    methods = list(dict.fromkeys(row["method"] for row in rows))

    def scores(method: str, key: str) -> list[float]:
        return [row[key] for row in rows if row["method"] == method]

    columns = [f"merged_{split}_macro_f1"] + [
        f"finetuned_{split}_{metric}" for metric in ("macro_f1", "balanced_accuracy", "accuracy", "auroc")
    ]
    header = ["method", "stage 1: macro F1", "fine-tuned: macro F1", "balanced accuracy", "accuracy", "AUROC", "seeds"]
    table = [
        [
            title(method),
            *(mean_and_spread(scores(method, column)) for column in columns),
            " ".join(f"{value:.3f}" for value in scores(method, columns[1])),
        ]
        for method in methods
    ]
    best = max(methods[:-1], key=lambda m: sum(scores(m, "finetuned_validation_macro_f1")))
    pairs = zip(scores(MERGE, columns[1]), scores(best, columns[1]), strict=True)
    gains = [ours - theirs for ours, theirs in pairs]
    line = f"MedMerge - {title(best)} (best on validation), paired over {len(gains)} seeds: {mean_and_spread(gains)}"
    return f"{markdown_table(header, table)}\n\n{line}"


def stage_scores(rows: Sequence[Mapping[str, Any]], split: str) -> dict[str, dict[str, list[float]]]:
    """Method -> stage -> macro F1 of each seed."""
    scores: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        stages = scores.setdefault(title(row["method"]), {"after stage 1": [], "fine-tuned": []})
        for stage, values in zip(("merged", "finetuned"), stages.values(), strict=True):
            values.append(row[f"{stage}_{split}_macro_f1"])
    return scores


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    hf_logging.set_verbosity_warning()
    datasets.disable_progress_bars()
    try:
        options = read_options(sys.argv[1:] if argv is None else argv)
        seeds = options.pop("seeds", ["0"])
        seeds = [int(seed) for seed in (seeds if isinstance(seeds, list) else [seeds])]
        folder = Path(make_settings(options).run.output_dir)
        rows = compare(options, seeds, folder)
    except MedMergeError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    split = "test" if "finetuned_test_macro_f1" in rows[0] else "validation"
    text = summary(rows, split)
    (folder / "comparison.md").write_text(text + "\n")
    plot_scores(stage_scores(rows, split), folder / "comparison.png", f"{split} macro F1")
    print(f"\n{text}\n\nWritten to {folder}")


if __name__ == "__main__":
    main()
