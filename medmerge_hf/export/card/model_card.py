"""The model card of an export, made of its config alone."""

import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from ...configuration_medmerge import MedMergeConfig
from ...evaluation.metrics import METRICS
from ...evaluation.tables import markdown_table
from ...networks.build import MULTI_LABEL
from ...sources.reference import source_name
from .data_card import data_line, in_order, left_out_lines, page, pixel_lines, unlabelled_lines
from .licenses import merged_license
from .record import METHOD, method_name
from .reproduce import USUAL, merge_call, merge_settings, own_fields
from .tables import Table, choice_rows, data_rows, labels_rows, metric_title, results_rows, training_rows, weights_rows


# In a record: whether the weights that it stands beside are those of a merge.
MERGED = "merged"

FIGURE = "medmerge/kernel_weights.png"

TAGS = ("medmerge", "merge", "medical-imaging")

INTERVAL = {"confidence_level": 0.95, "method": "percentile bootstrap over images"}


def render_card(config: MedMergeConfig, name: str, tags: Sequence[str] = (), page: str = "") -> str:
    """Write the card.

    Args:
        config: of the model, with what was noted in its `record`.
        name: Hub id, or the folder's name.
        tags: more of them.
        page: file of the page of the run, where one lies beside the card.

    Returns:
        Markdown with a YAML header (`ModelCard(text)` parses it).
    """
    from huggingface_hub import ModelCard

    license_, warnings = source_licenses(config)
    template = importlib.resources.files(__package__).joinpath("templates/model_card.md.jinja").read_text()
    data = card_data(config, name, license_, tags)
    sections = {**_sections(config, name, license_, warnings), "page": page}
    return str(ModelCard.from_template(data, template_str=template, **sections))


def sources_behind(config: MedMergeConfig) -> list[dict[str, Any]]:
    """The sources that the weights come from: none where a config names several and nothing was merged."""
    return config.sources if config.record.get(MERGED, True) or len(config.sources) == 1 else []


def source_licenses(config: MedMergeConfig) -> tuple[str, list[str]]:
    """Licence of the model and warnings about it, see [`licenses.merged_license`]."""
    return merged_license({source_name(source): source["license"] for source in sources_behind(config)})


def card_data(config: MedMergeConfig, name: str, license_: str, tags: Sequence[str] = ()) -> Any:
    """The YAML header.

    Args:
        config: see [`render_card`].
        name: Hub id, or the folder's name.
        license_: of the merge.
        tags: more of them.

    Returns:
        `huggingface_hub.ModelCardData`.
    """
    from huggingface_hub import ModelCardData

    timm = config.network.get("model_type") == "timm_wrapper"
    sources = sources_behind(config)
    bases = [source["id"] for source in sources if source["revision"]]
    relation: dict[str, Any] = {"base_model_relation": "merge" if len(sources) > 1 else "finetune"} if bases else {}
    data_id = config.record.get("data", {}).get("hub_id")
    results = eval_results(config)
    return ModelCardData(
        license=license_,
        library_name="timm" if timm else "transformers",
        pipeline_tag="image-classification",
        tags=[*TAGS, *(["timm", "transformers"] if timm else []), *tags],
        base_model=bases or None,
        **relation,
        datasets=[data_id] if data_id else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name.rsplit("/", 1)[-1],
        eval_results=results or None,
    )


def eval_results(config: MedMergeConfig) -> list[Any]:
    """The model's own figures as the Hub's `EvalResult`s, intervals in `metric_args`."""
    from huggingface_hub import EvalResult

    data = config.record.get("data", {})
    own = [row for row in config.record.get("results", []) if row["method"] == method_name(config)]
    last = own[-1]["after"] if own else None
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=data.get("hub_id") or data.get("name") or "private",
            dataset_name=data.get("name") or "private images",
            dataset_split=row["split"],
            dataset_revision=data.get("revision"),
            metric_type=METRICS[metric].hub_name if metric in METRICS else metric,
            metric_name=metric_title(metric),
            metric_value=round(found["value"], 4),
            metric_args={
                "low": round(found["low"], 4),
                "high": round(found["high"], 4),
                **INTERVAL,
                "resamples": row["resamples"],
            },
        )
        for row in own
        if row["after"] == last
        for metric in in_order(row["metrics"], METRICS)
        for found in [row["metrics"][metric]]
        if found["value"] == found["value"]  # YAML on the Hub knows no NaN
    ]


def _sections(config: MedMergeConfig, name: str, license_: str, warnings: Sequence[str]) -> dict[str, Any]:
    """What the template is filled with."""
    record, sources = config.record, sources_behind(config)
    names = [source_name(source) for source in sources]
    results, data = record.get("results", []), record.get("data", {})
    weights, multi_label = record.get("kernel_weights", {}), config.problem_type == MULTI_LABEL
    others = {name: value for name, value in merge_settings(config).items() if name not in USUAL}
    return {
        "name": name,
        "title": name.rsplit("/", 1)[-1],
        "config": config,
        "merged": len(sources) > 1,
        "fine_tuned": "finetune" in record.get("training", {}),
        "architecture": config.network.get("architecture") or config.network.get("model_type"),
        "library": "timm" if config.network.get("model_type") == "timm_wrapper" else "transformers",
        "labels": [str(label) for label in config.id2label.values()],
        "preprocessing": record.get("preprocessing", "see config.json"),
        "grey": _channels(config.network) == 1,
        "sources": [
            {"name": source_name(source), "told": _told(source), "notes": source["notes"]} for source in sources
        ],
        "call": merge_call(config),
        "settings": ", ".join(f"`{name}={value!r}`" for name, value in others.items()),
        "sources_table": _sources_table(sources),
        "anchor": names[0] if names else "",
        "license": license_,
        "license_warnings": warnings,
        "kernels": record.get("kernels"),
        "tensors": record.get("tensors"),
        "statistics": record.get("statistics"),
        "weights_table": _markdown(weights_rows(weights, names)),
        "figure": FIGURE,
        "data_line": data_line(data),
        "data_table": _markdown(data_rows(data, config.id2label.values())),
        "data_notes": [*pixel_lines(data), *unlabelled_lines(data), *left_out_lines(data)],
        "multi_label": multi_label,
        "kind": "labels, of which an image may have several" if multi_label else "classes",
        "labels_table": _markdown(labels_rows(results, config.id2label.values())),
        "training_table": _markdown(training_rows(record.get("training", {}))),
        "results_table": _markdown(results_rows(results)),
        "resamples": min((row["resamples"] for row in results), default=0),
        "alone": any(row["method"] != METHOD for row in results),
        "choice": record.get("choice", {}),
        "choice_table": _markdown(choice_rows(record.get("choice", {}))),
        "recipe": record.get("recipe", "").strip(),
        "versions": ", ".join(f"{library} {number}" for library, number in record.get("versions", {}).items()),
    }


def _channels(network: Mapping[str, Any]) -> int:
    """Of the images that a network takes, from its config as a dict."""
    cfg = network.get("pretrained_cfg") or {}
    return cfg["input_size"][0] if "input_size" in cfg else network.get("num_channels") or 3


def _link(source: Mapping[str, Any]) -> str:
    return page(source["id"]) if source["revision"] else source_name(source)


def _told(source: Mapping[str, Any]) -> str:
    """By what a source was read, and what was said of it."""
    told = [f"`{name}={value!r}`" for name, value in own_fields(source).items()]
    return ", ".join([f"read by `{source['loader']}`", *told])


def _markdown(table: Table) -> str:
    """Nothing where there are no rows."""
    return markdown_table(*table) if table[1] else ""


def _sources_table(sources: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            "other" if index else "anchor",
            _link(source),
            f"`{source['revision'][:12]}`" if source["revision"] else "local",
            source["license"] or "not stated",
            f"`{(source['sha256'] or '')[:12]}`",
        ]
        for index, source in enumerate(sources)
    ]
    return markdown_table(["", "source", "revision", "licence", "sha256 of the weights"], rows)
