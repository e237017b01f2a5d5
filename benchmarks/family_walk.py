"""One family through a whole merge: a row of benchmarks/FAMILIES.md."""

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from family_networks import Family, family_of, other_arguments
from torch import Tensor
from transformers import AutoModelForImageClassification
from transformers.utils import logging as hf_logging

from medmerge_hf import MedMergeModel, inspect_sources
from medmerge_hf.alignment.channel_trace import trace
from medmerge_hf.alignment.permutations import align, apply_permutation, permute
from medmerge_hf.errors import MedMergeError
from medmerge_hf.networks.backbone import backbone_module, backbone_prefix, head_modules
from medmerge_hf.networks.build import input_shape
from medmerge_hf.networks.caches import clear_caches
from medmerge_hf.networks.features import feature_difference


OK, REFUSED, FAULT = "ok", "refused", "FAULT"

# What a merge goes through, in this order.
COLUMNS = {
    "sources": "`from_sources` merges two random networks as their library saved them",
    "inspect": "`inspect` says the same, of the same tensors",
    "w = 0": "every tensor and every logit is the anchor's, as its library loads it, bit for bit",
    "gradient": "after that forward pass in eval mode kernel weights reach the output and learn",
    "checkpoint": "a checkpoint of the merge stage comes back with the same logits",
    "export": "transformers and this package load the export with the same logits",
    "timm": "so does timm",
    "merging": "so does `from_pretrained(..., merging=True)`, its sources attached again",
    "collapse": "the collapsed model computes the merge's logits",
    "align": "a copy of the anchor whose channels were shuffled is found back, each tensor to 1e-9",
    "in memory": "networks in memory that have run before merge as their files do",
    "arguments": "a network in memory built with other arguments computes after the merge what it did (1e-5), or is "
    "refused",
}

# Relative difference of logits that a float32 network may make of another order of sums.
TOLERANCE = 1e-4

RECOVERED = 1e-9


def walk(family: Family, folder: Path) -> dict[str, Any]:
    """Every column of a row.

    Args:
        family: what is merged.
        folder: empty, for what is written.

    Returns:
        Column -> `ok`, `refused: ` and the reason of a [`MedMergeError`], `FAULT: ` and whatever else was raised, or
        nothing where it does not apply; and the seconds that the slowest parts took.
    """
    row: dict[str, Any] = {"library": family.library, "name": family.name, "network": str(family)}
    row |= dict.fromkeys(COLUMNS, "")
    started = time.perf_counter()
    with _cell(row, "sources"):
        merge = _Merge(family, folder)
    with _cell(row, "inspect"):
        _inspects(folder, merge if row["sources"] == OK else None, row["sources"])
    if row["sources"] == OK:
        steps: dict[str, Callable[[], Any]] = {"w = 0": merge.is_the_anchor, "gradient": merge.learns}
        steps |= {"checkpoint": merge.checkpoint, "export": merge.export, "merging": merge.attached_again}
        steps |= {"timm": merge.timm_loads} if family.library == "timm" else {}
        steps |= {"align": merge.finds_back, "collapse": merge.collapses, "in memory": merge.in_memory}
        steps |= {"arguments": merge.other_arguments} if family.library == "timm" and not family.large else {}
        for column, step in steps.items():
            with _cell(row, column):
                step()
    row["trace"] = round(merge.seconds, 1) if row["sources"] == OK else ""
    return {**row, "seconds": round(time.perf_counter() - started)}


@contextmanager
def _cell(row: dict[str, Any], column: str) -> Iterator[None]:
    try:
        yield
        row[column] = OK
    except MedMergeError as error:
        row[column] = f"{REFUSED}: {error}"
    except Exception as error:  # what must not be: the row says so, and goes on
        row[column] = f"{FAULT}: {type(error).__name__}: {str(error)[:300]}"


def _inspects(folder: Path, merge: "_Merge | None", result: str) -> None:
    found = inspect_sources(_sources(folder))
    problems = [report.problem for report in found.sources if report.problem]
    if merge is None:
        assert not found.ok, "inspect says that it merges, from_sources refuses"
        assert any(problem in result for problem in problems), f"inspect gives another reason: {problems}"
        return
    assert found.ok, f"from_sources merges, inspect says {problems}"
    names = merge.model.merged_network.weights.names
    assert {report.matched for report in found.sources} == {len(names)}, "inspect matched other tensors"


def _sources(folder: Path) -> list[str]:
    return [str(folder / str(seed)) for seed in range(2)]


class _Merge:
    """A merge under way, and what has to hold of it."""

    def __init__(self, family: Family, folder: Path) -> None:
        self.family, self.folder, self.seconds = family, folder, 0.0
        for seed, source in enumerate(_sources(folder)):
            family.save(seed, Path(source))
        self.model = MedMergeModel.from_sources(_sources(folder), num_labels=family.labels)
        shape = input_shape(self.model.network)
        self.images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) * 4 - 2

    def is_the_anchor(self) -> None:
        # Copied and frozen: torch sums in another order for tensors that lie in a file, and for those that learn.
        anchor = copy.deepcopy(self.family.load(self.folder / "0")).requires_grad_(False)
        plain = backbone_module(self.model.plain_model())
        head = tuple(f"{name}." for name in head_modules(self.model.network))
        own, theirs = plain.state_dict(), anchor.state_dict()
        wanted = {name: tensor for name, tensor in theirs.items() if not name.startswith(head)}
        changed = [name for name, tensor in wanted.items() if name in own and not torch.equal(own[name], tensor)]
        absent = [name for name in wanted if name not in own]
        assert not changed, f"w = 0 is not the anchor's {changed[:3]}"
        assert not absent, f"the anchor's {absent[:3]} are gone"
        anchor.load_state_dict({name: own[name] for name in theirs if name.startswith(head)}, strict=False)
        clear_caches(anchor)
        with torch.no_grad():
            found, logits = self.model(self.images).logits, _logits(anchor, self.images)
        assert bool(torch.isfinite(logits).all()), "the anchor's logits are not finite"
        assert float((logits[0] - logits[1]).abs().max()) > 0, "the anchor does not tell two images apart"
        assert torch.equal(found, logits), f"w = 0 computes other logits: {float((found - logits).abs().max()):.1g}"

    def learns(self) -> None:
        merge = self.model.merged_network.weights
        with torch.no_grad():
            merge.source_bias.normal_(0.3, 0.1, generator=torch.Generator().manual_seed(0))
        self.model(self.images, labels=torch.tensor([0, 1])).loss.backward()
        gradient = merge.source_bias.grad
        assert gradient is not None, "kernel weights have no gradient"
        gradients = merge.split(gradient)
        self.model.zero_grad()
        assert all(bool(torch.isfinite(part).all()) for part in gradients.values()), "a gradient is not finite"
        without = [name for name, part in gradients.items() if not part.any()]
        assert len(without) < len(gradients) / 4, f"{len(without)} of {len(gradients)} tensors learn nothing {without}"
        with torch.no_grad():
            self.wanted = self.model(self.images).logits

    def checkpoint(self) -> None:
        self.model.save_pretrained(self.folder / "small", collapse=False)
        back = MedMergeModel.from_pretrained(self.folder / "small")
        assert back.merging, "a checkpoint of the merge stage comes back collapsed"
        self._same(back)

    def export(self) -> None:
        self.model.save_pretrained(self.folder / "out")
        self._same(AutoModelForImageClassification.from_pretrained(self.folder / "out"))
        self._same(MedMergeModel.from_pretrained(self.folder / "out"))

    def timm_loads(self) -> None:
        self._same(self.family.load(self.folder / "out"))

    def attached_again(self) -> None:
        self._same(MedMergeModel.from_pretrained(self.folder / "out", merging=True))

    def collapses(self) -> None:
        self._same(self.model.collapse())

    @torch.no_grad()
    def _same(self, model: Any) -> None:
        logits = _logits(model.eval(), self.images)
        apart = _apart(logits, self.wanted)
        assert apart < TOLERANCE, f"logits differ by {apart:.1g} of their size"

    def finds_back(self) -> None:
        network, (anchor, other) = self.model.network, self.model.merged_network.source_tensors()
        below = backbone_prefix(network)
        started = time.perf_counter()
        found = trace(network, self.images)
        self.seconds = time.perf_counter() - started
        generator = torch.Generator().manual_seed(1)
        order = {g: torch.randperm(found.groups.sizes[g], generator=generator) for g in found.free()}
        copy = _below(below, permute({below + name: t for name, t in anchor.items()}, found, order))
        flat = align(network, found, [anchor, copy, other], "weights", [self.images])
        back = apply_permutation(found, below, copy, flat[0])
        apart = {name: _apart(back[name], tensor) for name, tensor in anchor.items()}
        lost = {name: value for name, value in apart.items() if not value < RECOVERED}
        assert not lost, f"{len(lost)} of {len(apart)} tensors are not found back: {list(lost.items())[:2]}"

    def _of(self, sources: list[Any]) -> MedMergeModel:
        return MedMergeModel.from_sources(sources, num_labels=self.family.labels)

    def in_memory(self) -> None:
        networks = [self.family.load(Path(source)) for source in _sources(self.folder)]
        with torch.no_grad():
            for network in networks:
                network(self.images)
        model = self._of(networks)
        heads = tuple(f"{backbone_prefix(model.network)}{name}." for name in head_modules(model.network))
        head = {name: t for name, t in self.model.network.state_dict().items() if name.startswith(heads)}
        with torch.no_grad():
            model.merged_network.weights.source_bias.copy_(self.model.kernel_layout()[1])
        model.network.load_state_dict(head, strict=False)
        self._same(model)

    def other_arguments(self) -> None:
        for what, networks in other_arguments(self.family):
            try:
                model = self._of(networks)
            except MedMergeError as error:
                if what not in str(error):
                    raise AssertionError(f"{what} is refused without being named: {error}") from error
                continue
            apart = feature_difference(networks[0], model.plain_model().eval(), self.images)
            assert apart < 1e-5, f"{what}: features differ by {apart:.1g}"


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return 0.0 if torch.equal(one, other) else float((one - other).abs().max() / other.abs().max())


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _logits(model: Any, images: Tensor) -> Tensor:
    output = model(images)
    return output if isinstance(output, Tensor) else output[0]


def walk_one(library: str, name: str) -> dict[str, Any]:
    """The row of one family."""
    warnings.simplefilter("ignore")
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        row = walk(family_of(library, name), Path(folder))
        return {
            key: " ".join(text.replace(folder, "").split()) if isinstance(text, str) else text
            for key, text in row.items()
        }
