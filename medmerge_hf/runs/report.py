"""The page of a run, `report.html` in its folder: what was read, how it was trained, what came of it.

It is made of what lies on the disk (the export's record, the stages' histories, `all_results.json`): a run that was
killed and went on has the same page.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..configuration_medmerge import MedMergeConfig
from ..evaluation.drawing import (
    COLOURS,
    Drawing,
    calibration_in_words,
    draw_calibration,
    draw_confusion,
    figure,
    look,
)
from ..evaluation.metrics import METRICS
from ..evaluation.page import Grid, Section, render_page
from ..export.card.data_card import in_order, pixel_lines
from ..export.card.kernel_plot import draw_kernel_weights
from ..export.card.record import AFTER, method_name
from ..export.card.tables import (
    Table,
    choice_rows,
    data_rows,
    labels_rows,
    metric_title,
    results_rows,
    training_rows,
    weights_rows,
)
from ..networks.build import MULTI_LABEL
from ..sources.reference import source_name
from .history import read_histories
from .run_folder import RESULTS


DRAWN = 30  # classes up to which a confusion matrix is drawn

MISTAKES = 50  # rows of the table of confusions


def run_page(folder: Path, config: MedMergeConfig, weights: Any) -> str:
    """The page as HTML.

    Args:
        folder: of the run, with the histories of its stages and `all_results.json`.
        config: of the exported model, with its record.
        weights: of [`MedMergeModel.kernel_weights`]; not looked at where nothing was merged.

    Returns:
        One file with everything in it.
    """
    record = config.record
    figures = json.loads((folder / RESULTS).read_text())
    histories = read_histories(folder)
    row = next((row for row in record.get("results", [])[::-1] if row["method"] == method_name(config)), None)
    names = [source_name(source) for source in config.sources]
    architecture = config.network.get("architecture") or config.network.get("model_type")
    sections = [
        _results(config, figures),
        *(_counted(config, row) if row else ()),
        Section(
            "Training",
            drawings=[draw_history(stage, logs) for stage, logs in histories.items()],
            tables=[
                *(_evaluations(stage, logs) for stage, logs in histories.items()),
                Grid("What each stage was told", *training_rows(record.get("training", {})), folded=True),
            ],
        ),
        *(_merge(record, weights, names) if len(names) > 1 else ()),
        *(_choice(record["choice"]) if "choice" in record else ()),
        _sources(config),
        _data(config),
        Section(
            "Make it again",
            [f"medmerge train config.yaml, where config.yaml is as below. {_versions(record)}"],
            code=record.get("recipe", "").strip(),
        ),
    ]
    made = "merged" if len(names) > 1 else "fine-tuned"
    told = f"{architecture} for {len(config.id2label)} classes, {made} from {', '.join(names)}."
    return render_page(f"Run {folder.absolute().name}", sections, told)


def _merge(record: Mapping[str, Any], weights: Any, names: Sequence[str]) -> list[Section]:
    table = Grid("Mean and standard deviation by block", *weights_rows(record.get("kernel_weights", {}), names))
    told = "How much of each other source the merge took, layer by layer; 0 is the anchor."
    return [Section("Kernel weights by depth", [told], [draw_kernel_weights(weights)], [table])]


def _choice(choice: Mapping[str, Any]) -> list[Section]:
    told = ["Every source was fine-tuned as many steps as the merge, and taught it.", choice["advice"]]
    exported = f"Exported: {choice['exported']}."
    return [Section("How it was chosen", [*told, exported], tables=[Grid("Candidates", *choice_rows(choice))])]


def _results(config: MedMergeConfig, figures: Mapping[str, float]) -> Section:
    """Figures after each stage on every split, and those with intervals."""
    results = config.record.get("results", [])
    resamples = min((row["resamples"] for row in results), default=0)
    note = f"In brackets: 95 % intervals by bootstrap over images ({resamples} resamples)."
    return Section(
        "Results",
        [f"{note} They do not cover the spread between training runs."],
        tables=[
            Grid("With intervals", *results_rows(results)),
            Grid("Each label by itself", *labels_rows(results, config.id2label.values())),
            Grid("After each stage", *figures_rows(figures)),
        ],
    )


def figures_rows(figures: Mapping[str, float]) -> Table:
    """Metrics after each stage on every split.

    Args:
        figures: of `all_results.json`.
    """
    metrics = [name for name in METRICS if f"finetuned_validation_{name}" in figures]
    rows = [
        [stage, split, *(f"{figures[f'{key}_{split}_{name}']:.3f}" for name in metrics)]
        for key, stage in (("merged", AFTER["merge"]), ("finetuned", AFTER["finetune"]), ("matched", AFTER["match"]))
        for split in ("validation", "test")
        if f"{key}_{split}_macro_f1" in figures
    ]
    return ["stage", "split", *map(metric_title, metrics)], rows


def _counted(config: MedMergeConfig, row: Mapping[str, Any]) -> list[Section]:
    """What is taken for what, and whether probabilities can be believed."""
    names, multi_label = [str(name) for name in config.id2label.values()], config.problem_type == MULTI_LABEL
    where, counts = f"{row['images']} images of {row['split']}, as {row['after']}", row["confusion"]
    if multi_label:
        header = ["label", "has it and is named", "has it and is missed", "named without it", "neither"]
        lines = [[name, *map(str, own)] for name, own in zip(names, counts, strict=True)]
        confusion = Section("Confusion", tables=[Grid(f"Each label: {where}", header, lines)])
    else:
        wrong = sorted((c for c in counts if c[0] != c[1]), key=lambda c: -c[2])
        lines = [[names[true], names[predicted], str(images)] for true, predicted, images in wrong[:MISTAKES]]
        drawn = [draw_counts(names, counts)] if len(names) <= DRAWN else []
        table = Grid("Mistakes, the most frequent first", ["true", "predicted", "images"], lines)
        confusion = Section("Confusion", [f"Of {where}."], drawn, [table])
    own = [r for r in config.record["results"] if r["method"] == row["method"] and r["split"] == row["split"]]
    curves = {r["after"]: r["reliability"] for r in own}
    header = ["stage", "mean probability", "share that is right", "images"]
    lines = [[after, f"{p:.3f}", f"{right:.3f}", str(n)] for after, points in curves.items() for p, right, n in points]
    points = Grid("Points of the curve", header, lines, folded=True)
    told = [f"Of {row['images']} images of {row['split']}, after each stage."]
    return [confusion, Section("Calibration", told, [draw_curves(curves, multi_label)], [points])]


@look()
def draw_counts(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Drawing:
    """The confusion matrix.

    Args:
        names: of the classes.
        counts: of [`confusion_counts`].
    """
    matrix = np.zeros((len(names), len(names)), dtype=int)
    for true, predicted, images in counts:
        matrix[true, predicted] = images
    size = min(8.0, 2.4 + 0.5 * len(names))
    drawn = figure(size, size)
    axes = drawn.subplots()
    draw_confusion(axes, matrix, names)
    axes.set_ylabel("true")
    said = (f"{n} {matrix[k, k]} of {matrix[k].sum()}" for k, n in enumerate(names))
    return Drawing(drawn, f"Confusion matrix; rightly recognised: {', '.join(said)}.")


@look()
def draw_curves(curves: Mapping[str, Sequence[Sequence[float]]], multi_label: bool) -> Drawing:
    """How sure the model is, and how often right.

    Args:
        curves: stage -> points of [`reliability`].
        multi_label: whether an image may have several labels.
    """
    drawn = figure(4.2, 3.8)
    of, share = ("a label", "share that has it") if multi_label else ("the predicted class", "share that is right")
    draw_calibration(drawn.subplots(), curves, f"probability of {of}", share)
    return Drawing(drawn, f"Reliability diagram. {calibration_in_words(curves)}")


@look()
def draw_history(stage: str, logs: Sequence[Mapping[str, Any]]) -> Drawing:
    """Losses of a stage over its epochs, and macro F1 where it was evaluated.

    Args:
        stage: what it is called.
        logs: of [`read_histories`].
    """
    evaluated = any("eval_macro_f1" in entry for entry in logs)
    drawn, said = figure(4.6, 4.2 if evaluated else 2.4), []
    losses, *others = drawn.subplots(1 + evaluated, 1, sharex=True, squeeze=False)[:, 0]
    scores = others[0] if others else losses
    panels = (
        (losses, "loss", "training loss", {"color": COLOURS[0], "ls": "--", "marker": ".", "ms": 4}),
        (losses, "eval_loss", "validation loss", {"color": COLOURS[1], "marker": "s", "ms": 3}),
        (scores, "eval_macro_f1", "macro F1 on validation", {"color": COLOURS[2], "marker": "o", "ms": 3}),
    )
    for axes, key, name, style in panels:
        points = [(entry["epoch"], entry[key]) for entry in logs if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, **style)
            said.append(f"{name} from {points[0][1]:.3f} to {points[-1][1]:.3f}")
    scores.set_ylabel("macro F1")
    losses.set_ylabel("loss")
    scores.set_xlabel("epoch")
    for axes in (losses, *others):
        if axes.lines:
            axes.legend()
    losses.set_title(stage)
    return Drawing(drawn, f"{stage}: {'; '.join(said)}.")


def _evaluations(stage: str, logs: Sequence[Mapping[str, Any]]) -> Grid:
    """What was measured on validation while a stage was trained."""
    metrics = [name for name in METRICS if any(f"eval_{name}" in entry for entry in logs)]
    names = ["loss", *metrics]
    rows = [
        [f"{entry['epoch']:g}", str(entry["step"]), *(f"{entry[f'eval_{name}']:.3f}" for name in names)]
        for entry in logs
        if "eval_loss" in entry
    ]
    header = ["epoch", "step", "loss", *map(metric_title, metrics)]
    return Grid(f"{stage}, evaluations on validation", header, rows, folded=True)


def _sources(config: MedMergeConfig) -> Section:
    rows = [
        [
            source_name(source),
            "other" if index else "anchor",
            (source["revision"] or "local")[:12],
            source["license"] or "not stated",
            (source["sha256"] or "")[:12],
            source["loader"],
        ]
        for index, source in enumerate(config.sources)
    ]
    header = ["source", "role", "revision", "licence", "sha256 of the weights", "read by"]
    points = [f"{source_name(source)}: {note}" for source in config.sources for note in source["notes"]]
    return Section("Sources", tables=[Grid("What the weights come from", header, rows)], points=points)


def _data(config: MedMergeConfig) -> Section:
    data = config.record.get("data", {})
    place = data.get("hub_id") or data.get("name") or "not named"
    left_out = data.get("left_out", {})
    reasons = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    told = f"Data set: {place}{_at(data)}. "
    told += f"{sum(left_out.values())} left out, by reason below." if left_out else "Nothing was left out."
    return Section(
        "Data",
        [told],
        tables=[
            Grid("Images by class", *data_rows(data, [str(name) for name in config.id2label.values()])),
            Grid("What was left out", ["reason", "images, files or rows"], [[text, str(n)] for text, n in reasons]),
        ],
        points=pixel_lines(data),
    )


def _at(data: Mapping[str, Any]) -> str:
    return f" at {data['revision'][:12]}" if data.get("revision") else ""


def _versions(record: Mapping[str, Any]) -> str:
    found = record.get("versions", {})
    return f"Versions: {', '.join(f'{name} {found[name]}' for name in in_order(found, ['medmerge_hf']))}."
