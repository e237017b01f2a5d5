"""Tables of a record, header and rows: on the model card they are Markdown, on the page of a run HTML."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...evaluation.metrics import METRICS
from .data_card import SPLITS, in_order
from .record import AFTER, ALWAYS, METHOD, TAKEN


Table = tuple[list[str], list[list[str]]]

TITLES = {"merge": "merge stage", "head": "head alone", "finetune": "fine-tuning", "match": "shares of the classes"}


def data_rows(data: Mapping[str, Any], classes: Iterable[str]) -> Table:
    """Images of each label, and all of them: an image of several labels stands in several columns.

    Args:
        data: of [`record_data`].
        classes: names of the labels in their order.
    """
    splits, images = data.get("splits", {}), data.get("images", {})
    names = in_order(next(iter(splits.values()), ()), classes)
    rows = [
        [split, *(str(counts[name]) for name in names), str(images.get(split, sum(counts.values())))]
        for split in in_order(splits, SPLITS)
        for counts in [splits[split]]
    ]
    if pool := data.get("unlabelled"):
        rows.append(["without a label", *("" for _ in names), str(pool["images"])])
    return ["split", *names, "all"], rows


def weights_rows(weights: Mapping[str, float], sources: Sequence[str]) -> Table:
    """Mean ± standard deviation by block of the network, a column a source that is not the anchor.

    Args:
        weights: of [`block_statistics`].
        sources: their names, the anchor first.
    """
    rows: dict[str, list[str]] = {}
    for key in weights:
        if key.endswith("/mean"):
            mean, std = weights[key], weights[f"{key.removesuffix('mean')}std"]
            rows.setdefault(key.split("/")[1], []).append(f"{mean:.3f} ± {std:.3f}")
    header = ["block of the network", *(f"weight of {source}" for source in sources[1:])]
    return header, [[stage, *cells] for stage, cells in rows.items()]


def choice_rows(choice: Mapping[str, Any]) -> Table:
    """What was trained to choose from, how it told the validation images, how much it counted as a teacher.

    Args:
        choice: of [`record_choice`]; nothing where nothing was chosen.
    """
    shares, temperatures = choice.get("shares", {}), choice.get("temperatures", {})
    rows = [
        [name, f"{loss:.3f}", f"{temperatures[name]:.1f}", f"{shares[name]:.2f}" if name in shares else "-"]
        for name, loss in choice.get("losses", {}).items()
    ]
    return ["model", "log-loss on validation", "at the temperature", "weight as a teacher"], rows


def training_rows(training: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each stage was told, and what came of it.

    Args:
        training: of [`record_training`], stage -> setting -> value.
    """
    stages = in_order(training, TITLES)
    names = in_order(sorted({name for settings in training.values() for name in settings}), (*ALWAYS, *TAKEN))
    rows = [[name, *(_value(training[stage], name) for stage in stages)] for name in names]
    return ["setting", *(TITLES[stage] for stage in stages)], rows


def _value(settings: Mapping[str, Any], name: str) -> str:
    """Nothing where a stage does not have it."""
    value = settings.get(name, "")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def results_rows(results: Sequence[Mapping[str, Any]]) -> Table:
    """Figures with their intervals, those of the last stage last.

    Args:
        results: of [`record_result`].
    """
    metrics = in_order({metric for row in results for metric in row["metrics"]}, METRICS)
    rows = []
    last = {AFTER["finetune"]: 1, AFTER["match"]: 2}
    for row in sorted(results, key=lambda row: (row["split"], last.get(row["after"], 0))):
        method = METHOD if row["method"] == METHOD else f"{row['method']} alone"
        cells = [_interval(row["metrics"][metric]) if metric in row["metrics"] else "" for metric in metrics]
        rows.append([method, row["after"], row["split"], *cells, str(row["images"])])
    return ["model", "after", "split", *map(metric_title, metrics), "images"], rows


def labels_rows(results: Sequence[Mapping[str, Any]], labels: Iterable[str]) -> Table:
    """Each label of several by itself, as the last stage left the model.

    Args:
        results: of [`record_result`].
        labels: their names.
    """
    rows = [row for row in results if row.get("labels")]
    last = [row for row in rows if row["after"] == rows[-1]["after"]]
    names = in_order({name for row in last for own in row["labels"].values() for name in own}, METRICS)
    cells = [
        [row["split"], label, *(f"{row['labels'][label][name]:.3f}" for name in names)]
        for row in last
        for label in labels
        if label in row["labels"]
    ]
    return ["split", "label", *(metric_title(name).removeprefix("macro ") for name in names)], cells


def metric_title(metric: str) -> str:
    """For people; figures of a `compute_metrics` of the user's own keep their names."""
    return METRICS[metric].title if metric in METRICS else metric


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['value']:.3f} ({found['low']:.3f} - {found['high']:.3f})"
