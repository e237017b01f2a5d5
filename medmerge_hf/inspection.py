"""Will these sources merge, and what will it take? Answered from headers, before anything large is downloaded."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .conversion.attach import anchor_config
from .conversion.convert import convert_onto
from .conversion.state_dict import ConvertedSource
from .errors import MedMergeError, SettingsError, SourceError
from .networks.backbone import backbone_parameters, is_timm
from .networks.build import build_network, network_config
from .networks.input_convention import INPUTS
from .networks.timm_config import timm_input
from .sources.describe import describe
from .sources.reference import Description, Source, source_name


FIRST = 3  # convolutions whose cosine tells a common initialisation


@dataclasses.dataclass
class SourceReport:
    """What is known of one source before it is loaded.

    Args:
        source: its name, with its place among the sources where another has the same.
        loader: what will read it.
        revision: commit on the Hub.
        file: that will be read, where one of several was named.
        entry: network of a file that holds several, where one was named.
        architecture: timm name or model type.
        problem: why it cannot be merged, in one sentence; `None` where nothing speaks against it.
        matched: tensors that stand for one of the anchor's.
        merged_parameters: numbers in those.
        notes: what will be done to it.
        dropped: tensors of no use to the merge.
        dtypes: dtype -> number of tensors.
        batch_norms: layers with running statistics.
        parameters: numbers in its floating point tensors.
        bytes: of its weights files.
        license: as its card states it.
        base_model: as its card states it.
        metadata: of its safetensors header.
        cosine: to the anchor, over the first convolutions, where both are on this machine: 0 for trainings of
            different initialisation, near 1 for the same.
    """

    source: str
    loader: str | None = None
    revision: str | None = None
    file: str | None = None
    entry: str | None = None
    architecture: str | None = None
    problem: str | None = None
    matched: int = 0
    merged_parameters: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    dropped: list[str] = dataclasses.field(default_factory=list)
    dtypes: dict[str, int] = dataclasses.field(default_factory=dict)
    batch_norms: int = 0
    parameters: int = 0
    bytes: int = 0
    license: str | None = None
    base_model: list[str] = dataclasses.field(default_factory=list)
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    cosine: float | None = None

    def lines(self, anchor: bool = False) -> list[str]:
        """What is known of it, a line each, which begins with its name.

        Args:
            anchor: whether it is the first source.
        """
        facts = [("problem", self.problem), ("network", self.architecture), ("read by", self.loader)]
        facts += [("revision", self.revision), ("file", self.file), ("entry", self.entry)]
        if self.dtypes:  # otherwise nothing is known of its tensors
            dtypes = ", ".join(f"{count} {dtype}" for dtype, count in self.dtypes.items())
            facts += [("tensors", dtypes), ("matched", str(self.matched)), ("BatchNorms", str(self.batch_norms))]
            facts += [("parameters", f"{self.parameters / 1e6:.1f} M")]
        if self.loader:
            facts += [("size", f"{self.bytes / 1e6:.1f} MB"), ("licence", self.license or "not stated")]
        facts += [("made from", base) for base in self.base_model] + [("note", note) for note in self.notes]
        facts += [("dropped", name) for name in self.dropped]
        facts += [("metadata", f"{key}={value}") for key, value in self.metadata.items()]
        if anchor or self.cosine is not None:
            facts.append(("cosine to the anchor", "it is the anchor" if anchor else f"{self.cosine:.2f}"))
        return [" ".join(f"{self.source}: {what}: {value}".split()) for what, value in facts if value]


@dataclasses.dataclass
class Inspection:
    """The sources of a merge before it is made.

    Args:
        sources: anchor first.
        download_bytes: of weights that are not on this machine.
        memory_bytes: RAM that the weights take while they are read and merged (float32; activations not counted).
        device_bytes: memory that the weights take on the accelerator in the merge stage (activations not counted).
    """

    sources: list[SourceReport]
    download_bytes: int
    memory_bytes: int
    device_bytes: int

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the merge."""
        return not any(report.problem for report in self.sources)

    def to_json(self) -> str:
        """Everything, for programs."""
        return json.dumps({"ok": self.ok, **dataclasses.asdict(self)}, indent=2)

    def to_text(self) -> str:
        """One fact a line, for pipes and logs."""
        lines = [line for index, report in enumerate(self.sources) for line in report.lines(anchor=index == 0)]
        costs = {"download": self.download_bytes, "memory": self.memory_bytes, "device memory": self.device_bytes}
        lines += [f"{what}: {count / 1e6:.1f} MB" for what, count in costs.items()]
        return "\n".join([*lines, f"merges: {'yes' if self.ok else 'no'}"])


def inspect_sources(sources: Sequence[Source], architecture: str | None = None, **hub: Any) -> Inspection:
    """Look at the headers of sources: do they fit, what will be done to them, what will it cost.

    Args:
        sources: anchor first, as in [`MedMergeModel.from_sources`].
        architecture: timm name of the network, needed where the anchor does not say it.
        hub: of `hf_hub_download`: `token`, `cache_dir`, ...

    Returns:
        A report a source. What is wrong with one is in its `problem`; nothing is raised for it.

    Raises:
        SettingsError: no source was given.

    Example:
        >>> import timm
        >>> found = inspect_sources([timm.create_model("test_resnet"), timm.create_model("test_vit")])
        >>> found.ok, "not the anchor's architecture" in found.sources[1].problem
        (False, True)
    """
    if not sources:
        raise SettingsError("Name at least one source.")
    reports: list[SourceReport] = []
    described: list[Description | None] = []
    for source in sources:
        first = described[0].source.reference.architecture if described and described[0] else architecture
        report, description = _describe(source, first or architecture, **hub)
        reports.append(report)
        described.append(description)
    _tell_apart(reports)
    anchor = described[0]
    if anchor is not None:
        _compare(anchor, described, reports)
    return _with_costs(reports, described)


def _tell_apart(reports: Sequence[SourceReport]) -> None:
    """Files of one name in two folders."""
    names = Counter(report.source for report in reports)
    for index, report in enumerate(reports):
        if names[report.source] > 1:
            report.source = f"{report.source} (source {index})"


def _describe(source: Source, architecture: str | None, **hub: Any) -> tuple[SourceReport, Description | None]:
    try:
        description = describe(source, architecture, **hub)
    except SourceError as error:
        name = str(source.get("id") if isinstance(source, Mapping) else getattr(source, "id", source))
        return SourceReport(name, problem=str(error)), None
    loaded = description.source
    reference, tensors, config = loaded.reference, loaded.tensors, loaded.network_config or {}
    floating = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    report = SourceReport(
        source=source_name(dataclasses.asdict(reference)),
        loader=reference.loader,
        revision=reference.revision,
        file=reference.file,
        entry=reference.entry,
        architecture=reference.architecture or config.get("model_type"),
        dtypes=dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())),
        batch_norms=sum(name.endswith("running_mean") for name in tensors),
        parameters=sum(tensor.numel() for tensor in floating),
        bytes=description.bytes,
        license=reference.license,
        base_model=description.base_model,
        metadata=loaded.metadata,
    )
    if not tensors:
        report.problem = "a pickle on the Hub: its names are known only once it is downloaded"
    return report, description


def _compare(anchor: Description, described: Sequence[Description | None], reports: Sequence[SourceReport]) -> None:
    try:
        match = _matcher(anchor)
    except MedMergeError as error:
        reports[0].problem = reports[0].problem or str(error)
        return
    first: Tensor | None = None
    for description, report in zip(described, reports, strict=True):
        if description is None or report.problem:
            continue
        try:
            found = match(description)
        except SourceError as error:
            report.problem = str(error)
            continue
        report.matched, report.notes, report.dropped = len(found.tensors), found.notes, sorted(found.dropped)
        report.merged_parameters = sum(tensor.numel() for tensor in found.tensors.values())
        kernels = _first_kernels(description, found)
        if description is anchor:
            first = kernels
        elif first is not None and kernels is not None and first.shape == kernels.shape:
            report.cosine = float(torch.cosine_similarity(first, kernels, dim=0))


def _matcher(anchor: Description) -> Any:
    """A function from a description to its tensors under the anchor's names."""
    plain = anchor_config(anchor.source)
    with torch.device("meta"):
        network = build_network(network_config(plain, num_labels=2))
    images = anchor.source.input or (timm_input(plain) if is_timm(network) else INPUTS["imagenet"])
    wanted = backbone_parameters(network)
    return lambda description: convert_onto(network, description.source, images, description is anchor).only(wanted)


def _first_kernels(description: Description, found: ConvertedSource) -> Tensor | None:
    """The first convolutions as one vector, where they can be read without the rest."""
    names = [name for name, tensor in found.tensors.items() if tensor.ndim == 4]
    wanted = [found.pairs.get(name, name) for name in itertools.islice(names, FIRST)]
    tensors = _read_some(description.files, wanted)
    if len(tensors) < len(wanted) or not wanted:
        return None
    return torch.cat([tensors[name].double().flatten() for name in wanted])


def _read_some(files: Sequence[Path], names: Sequence[str]) -> Mapping[str, Tensor]:
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                found |= {name: opened.get_tensor(name) for name in set(names) & set(opened.keys())}
    return found


def _with_costs(reports: list[SourceReport], described: Sequence[Description | None]) -> Inspection:
    known = [description for description in described if description is not None]
    download = sum(d.bytes for d in known if not d.files and d.source.module is None)
    weights = 4 * max(report.merged_parameters for report in reports)
    # Held: the anchor, a difference a source; while reading one more as it lies in its file.
    return Inspection(reports, download, (len(reports) + 1) * weights, len(reports) * weights)
