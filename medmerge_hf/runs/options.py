"""The options of a run: what each is for, its default, what it may be. Importing this imports nothing heavy."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any


STAGES = ("merge", "finetune")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers that an option takes.

    Args:
        low: the smallest.
        high: the largest.
        open_low: whether `low` itself is left out.
        open_high: whether `high` itself is left out.
        also: one number outside that is taken, too.

    Example:
        >>> Range(0, 1, open_low=True), 0.5 in Range(0, 1), 2 in Range(0, 1)
        (above 0 and at most 1, True, False)
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    also: float | None = None

    def __contains__(self, value: float) -> bool:
        if value == self.also:
            return True
        return (self.low < value if self.open_low else self.low <= value) and (
            value < self.high if self.open_high else value <= self.high
        )

    def __repr__(self) -> str:
        low = f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        high = f"below {self.high:.10g}" if self.open_high else f"at most {self.high:.10g}"
        found = [low] if self.low > -math.inf else []
        found += [high] if self.high < math.inf else []
        return " and ".join(found) + (f", or {self.also:g}" if self.also is not None else "")


NOT_NEGATIVE, SHARE, SEED = Range(0), Range(0, 1), Range(0, 2**32 - 1)


def about(text: str, allowed: Range | Sequence[str] | None = None, count: int | None = None) -> Mapping[str, Any]:
    """What a field of options says of itself.

    Args:
        text: for people.
        allowed: numbers or words that it takes; of a list: that each of its values is.
        count: of a list: how many values.
    """
    return {"help": text, "allowed": allowed, "count": count}


@dataclasses.dataclass
class SourceOptions:
    """What is merged, and how finely."""

    sources: list[Any] = dataclasses.field(
        default_factory=list,
        metadata=about(
            "Anchor first: timm names, Hub ids (@revision), folders, weights files; or mappings (JSON on the command "
            "line) of a SourceReference: id, input, variant, ..."
        ),
    )
    architecture: str | None = dataclasses.field(
        default=None, metadata=about("timm name of the network, where the anchor is a weights file.")
    )
    granularity: str = dataclasses.field(
        default="filter",
        metadata=about("What shares one kernel weight.", ("model", "layer", "filter", "kernel", "element")),
    )
    constraint: str = dataclasses.field(
        default="complementary",
        metadata=about("How weights follow from what is learned.", ("complementary", "convex")),
    )
    init: list[float] = dataclasses.field(
        default_factory=lambda: [0.0],
        metadata=about("Starting weight of every other source, or one each; 0 is the anchor.", SHARE),
    )
    include: list[str] = dataclasses.field(
        default_factory=list, metadata=about("Patterns of the tensors that are merged (layer3.*); all by default.")
    )
    exclude: list[str] = dataclasses.field(
        default_factory=list, metadata=about("Patterns of tensors that stay the anchor's.")
    )
    freeze: list[str] = dataclasses.field(
        default_factory=list, metadata=about("Patterns of tensors whose kernel weights stay at init.")
    )
    keep_best: int | None = dataclasses.field(
        default=None,
        metadata=about(
            "Merge so many of the sources, those on which a linear probe does best, in that order.", Range(2)
        ),
    )
    align: str | None = dataclasses.field(
        default=None,
        metadata=about("Permute the sources' channels onto the anchor's first.", ("weights", "activations")),
    )


@dataclasses.dataclass
class DataOptions:
    """The target task."""

    data: str = dataclasses.field(
        default="",
        metadata=about("Folder of images or DICOM, table (.csv, .jsonl, .parquet, ...), MedMNIST .npz, or Hub id."),
    )
    data_name: str | None = dataclasses.field(default=None, metadata=about("Configuration of a Hub data set."))
    data_revision: str | None = dataclasses.field(default=None, metadata=about("Revision of a Hub data set."))
    image_column: str = dataclasses.field(default="image", metadata=about("Column that holds the images."))
    label_column: str = dataclasses.field(default="label", metadata=about("Column that holds the classes."))
    group_column: str | None = dataclasses.field(
        default=None, metadata=about("Column that holds the patients; each stays on one side of every split.")
    )
    multi_label: bool = dataclasses.field(default=False, metadata=about("An image may have several labels."))
    unlabelled: bool | str = dataclasses.field(
        default=False,
        metadata=about(
            "Also use images without a label: true for those of the data and what label_fraction spares, or where "
            "more lie (folder, table, .npz, Hub id)."
        ),
    )
    dicom_window: list[float] | None = dataclasses.field(
        default=None, metadata=about("Centre and width of DICOM images; by default the files' own.", count=2)
    )
    class_weights: bool = dataclasses.field(
        default=False, metadata=about("Weigh the classes in the loss so that each counts the same.")
    )
    class_priors: bool = dataclasses.field(
        default=False,
        metadata=about("Add the log frequencies of the classes to the logits in the loss (balanced softmax)."),
    )
    match_shares: bool = dataclasses.field(
        default=False,
        metadata=about(
            "At the end, shift the head's biases until the images without a label are of each class as often as "
            "the labels have it; they have to be drawn alike."
        ),
    )
    validation_fraction: float = dataclasses.field(
        default=0.2,
        metadata=about(
            "Share of the training images for validation, where no such split exists.", Range(0, 1, open_high=True)
        ),
    )
    test_fraction: float = dataclasses.field(
        default=0.0, metadata=about("Likewise for the test split.", Range(0, 1, open_high=True))
    )
    label_fraction: float = dataclasses.field(
        default=1.0,
        metadata=about("Share of the training and validation images that is used.", Range(0, 1, open_low=True)),
    )
    skip_unreadable: bool = dataclasses.field(default=False, metadata=about("Leave unreadable images out."))
    drop_duplicates: bool = dataclasses.field(
        default=False, metadata=about("Leave training images out that also stand in validation or test.")
    )
    image_size: int | None = dataclasses.field(
        default=None,
        metadata=about("Pixels a side that the network sees; the anchor's own.", Range(8, 8192)),
    )
    crop_scale: list[float] = dataclasses.field(
        default_factory=lambda: [0.5, 1.0],
        metadata=about("Share of the area that a random crop keeps, from - to.", Range(0, 1, open_low=True), 2),
    )
    color_jitter: float = dataclasses.field(
        default=0.2, metadata=about("Strength of the colour jitter; 0 goes without.", SHARE)
    )


@dataclasses.dataclass
class RunOptions:
    """The run as a whole."""

    output_dir: str = dataclasses.field(default="", metadata=about("Export, results and checkpoints go here."))
    method: str = dataclasses.field(
        default="merge",
        metadata=about(
            "merge: both stages. auto: fine-tune every source too, weigh them on validation, and let them teach the "
            "merge, on images without labels too; or the best source alone, where that is clearly better.",
            ("merge", "auto"),
        ),
    )
    seed: int = dataclasses.field(default=0, metadata=about("Of splits, head, order and augmentation.", SEED))
    export_dtype: str = dataclasses.field(
        default="float32", metadata=about("Of the exported weights.", ("float32", "bfloat16", "float16"))
    )
    report_to: list[str] = dataclasses.field(
        default_factory=lambda: ["none"], metadata=about("Where to log: tensorboard, trackio, wandb, ...")
    )
    channels_last: bool = dataclasses.field(
        default=False, metadata=about("Keep convolution weights channels last: faster on most CPUs and GPUs.")
    )
    sources_alone: bool = dataclasses.field(
        default=False, metadata=about("Also train each source alone, as long as the merge, for the model card.")
    )
    resamples: int = dataclasses.field(
        default=1000,
        metadata=about("Of the bootstrap behind the intervals on the model card.", Range(1, 1_000_000)),
    )
    push_to_hub: bool = dataclasses.field(default=False, metadata=about("Upload the export, with its model card."))
    hub_model_id: str | None = dataclasses.field(
        default=None, metadata=about("user/name; by default the name of output_dir.")
    )
    hub_private_repo: bool | None = dataclasses.field(
        default=None, metadata=about("Whether a repository made here is private.")
    )
    patience: int | None = dataclasses.field(
        default=None, metadata=about("Stop a stage after so many evaluations without a better macro F1.", Range(1))
    )


SECTIONS = (SourceOptions, DataOptions, RunOptions)
