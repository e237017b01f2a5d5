"""Every family of timm and every image classifier of transformers through a whole merge: benchmarks/FAMILIES.md.

    python benchmarks/families.py [--families levit resnet ...] [--classes ViTForImageClassification ...]

Networks are random, their BatchNorm statistics too; those of transformers are tiny, those of timm the smallest of each
family. With names only their rows are walked and printed; without, both tables are written. Nothing is downloaded.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from family_networks import classifiers, save_transformers, smallest, timm_network
from torch import Tensor
from transformers import AutoModelForImageClassification
from transformers.utils import logging as hf_logging

from medmerge_hf import MedMergeModel, inspect_sources
from medmerge_hf.errors import MedMergeError
from medmerge_hf.evaluation.tables import markdown_table
from medmerge_hf.networks.backbone import backbone_module, head_modules
from medmerge_hf.networks.build import input_shape


REPORT = Path("benchmarks/FAMILIES.md")

OK = "ok"

# Relative difference of logits that a float32 network may make of another order of sums.
TOLERANCE = 1e-4


def walk(sources: Sequence[Any], anchor: Mapping[str, Tensor], folder: Path, timm_reads: bool) -> str:
    """Merge, forward, step, checkpoint, export, reload, collapse.

    Args:
        sources: two of one architecture, anchor first.
        anchor: state dict of the anchor, by its library's names in memory.
        folder: for what is written.
        timm_reads: whether `timm.create_model("local-dir:...")` has to read the export too.

    Returns:
        `ok`, or `refused: ` and the reason of a [`MedMergeError`].

    Raises:
        AssertionError: something is not as promised. Whatever else is raised is a fault too.
    """
    found = inspect_sources(sources)
    try:
        model = MedMergeModel.from_sources(sources, num_labels=3)
    except MedMergeError as error:
        assert not found.ok, "inspect says that it merges, from_sources refuses"
        return f"refused: {error}"
    assert found.ok, f"from_sources merges, inspect says {[report.problem for report in found.sources]}"
    assert {report.matched for report in found.sources} == {len(model.merge.names)}, "inspect matched others"
    images = torch.rand(2, *input_shape(model.network), generator=torch.Generator().manual_seed(0))
    _is_the_anchor(model, anchor, images)
    with torch.no_grad():
        model.merge.source_bias.normal_(0.3, 0.1, generator=torch.Generator().manual_seed(0))
    _learns(model, images)
    with torch.no_grad():
        wanted = model(images).logits
        _returns(model, images, wanted, folder)
        if timm_reads:
            _same("timm", timm.create_model(f"local-dir:{folder / 'out'}", pretrained=True).eval()(images), wanted)
        _same("collapse", model.collapse()(images).logits, wanted)
    return OK


def _is_the_anchor(model: MedMergeModel, anchor: Mapping[str, Tensor], images: Tensor) -> None:
    plain = model.plain_model().eval()
    head = tuple(f"{name}." for name in head_modules(plain))
    own = backbone_module(plain).state_dict()
    changed = [k for k, t in own.items() if not k.startswith(head) and k in anchor and not torch.equal(t, anchor[k])]
    absent = [k for k in anchor if not k.startswith(head) and k not in own]
    assert not changed, f"w = 0 is not the anchor's {changed[:3]}"
    assert not absent, f"the anchor's {absent[:3]} are gone"
    with torch.no_grad():  # an eval-mode forward pass: what timm keeps from it must not outlive other weights
        assert torch.equal(model(images).logits, plain(images).logits), "w = 0 computes other logits than the anchor"


def _learns(model: MedMergeModel, images: Tensor) -> None:
    loss = model.train()(images, labels=torch.tensor([0, 1])).loss
    loss.backward()
    gradient = model.merge.source_bias.grad
    assert gradient is not None and bool(torch.isfinite(gradient).all()), "the gradient of the kernel weights"
    assert bool(gradient.any()), "kernel weights do not reach the loss"
    model.zero_grad()
    model.eval()


def _returns(model: MedMergeModel, images: Tensor, wanted: Tensor, folder: Path) -> None:
    """Everything that is written gives the same logits when it is read."""
    model.save_pretrained(folder / "small", collapse=False)
    back = MedMergeModel.from_pretrained(folder / "small")
    assert back.merging, "a checkpoint of the merge stage comes back collapsed"
    _same("checkpoint", back(images).logits, wanted)
    model.save_pretrained(folder / "out")
    _same("transformers", AutoModelForImageClassification.from_pretrained(folder / "out")(images).logits, wanted)
    _same("from_pretrained", MedMergeModel.from_pretrained(folder / "out")(images).logits, wanted)
    again = MedMergeModel.from_pretrained(folder / "out", merging=True)
    _same("merging=True", again(images).logits, wanted)


def _same(what: str, logits: Tensor, wanted: Tensor) -> None:
    apart = float((logits - wanted).abs().max() / wanted.abs().max())
    assert apart < TOLERANCE, f"{what}: logits differ by {apart:.1g} of their size"


def walk_transformers(name: str) -> dict[str, str]:
    """The row of a class of transformers."""

    def run(folder: Path) -> str:
        sources = [folder / str(seed) for seed in range(2)]
        for seed, source in enumerate(sources):
            save_transformers(name, source, seed)
        anchor: dict[str, Tensor] = {}
        if name not in UNBUILT:
            anchor = AutoModelForImageClassification.from_pretrained(sources[0]).state_dict()
            anchor = {k: t for k, t in anchor.items() if not _head_of_a_teacher(k)}
        return walk([str(source) for source in sources], anchor, folder, timm_reads=False)

    return {"class": name, "model type": classifiers()[name], "result": _outcome(run)}


# Needs a library that is not among the extras.
UNBUILT = ("DinatForImageClassification",)


def _head_of_a_teacher(name: str) -> bool:
    return name.startswith(("cls_classifier", "distillation_classifier", "classifier_distill"))


def walk_timm(family: str) -> dict[str, str]:
    """The row of a module of timm."""
    network = smallest(family)

    def run(folder: Path) -> str:
        sources = []
        for seed in range(2):
            timm.models.save_for_hf(timm_network(network, seed), folder / str(seed), safe_serialization=True)
            sources.append(str(folder / str(seed)))
        return walk(sources, timm_network(network, 0).state_dict(), folder, timm_reads=True)

    return {"family": family, "network": network, "result": _outcome(run)}


def _outcome(run: Callable[[Path], str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return " ".join(run(Path(folder)).replace(folder, "").split())
        except Exception as error:  # what must not be: the row says so, and goes on
            return f"FAULT: {type(error).__name__}: {' '.join(str(error).replace(folder, '').split())}"[:300]


def count(rows: Sequence[Mapping[str, str]]) -> str:
    """How the rows of a table ended, in words."""
    kinds = [row["result"].partition(":")[0] for row in rows]
    return f"{len(rows)} rows: {kinds.count(OK)} ok, {kinds.count('refused')} refused, {kinds.count('FAULT')} faults"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows as Markdown."""
    return markdown_table([*rows[0]], [[*row.values()] for row in rows])


def report(families: Sequence[Mapping[str, str]], classes: Sequence[Mapping[str, str]]) -> str:
    """The text of FAMILIES.md."""
    walked = (
        "Two random networks (BatchNorm statistics, biases and scales too) are saved as their library saves them and "
        "merged. `ok` means: inspection says what the merge does; at w = 0 every tensor and logit is the anchor's, bit "
        "for bit; after that forward pass in eval mode kernel weights reach the output and have a gradient; a "
        "checkpoint of the merge stage, the export (read by transformers, by this package, for timm's by timm) and "
        "`from_pretrained(..., merging=True)` compute the merge's logits; so does the collapsed model. `refused` gives "
        "the message of the error."
    )
    versions = f"timm {timm.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    parts = [
        "# Families",
        walked,
        f"Made by `python benchmarks/families.py` with {versions}.",
        f"## timm: the smallest network of every module\n\n{count(families)}.",
        table(families),
        f"## transformers: every image classifier that it lists, tiny\n\n{count(classes)}.",
        table(classes),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Walk, print, and write the report where nothing was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", help="modules of timm")
    parser.add_argument("--classes", nargs="*", help="classes of transformers")
    chosen = parser.parse_args(arguments)
    whole = chosen.families is None and chosen.classes is None
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    walks: list[tuple[Any, Sequence[str]]] = [
        (walk_timm, timm.list_modules() if whole else chosen.families or []),
        (walk_transformers, [*classifiers()] if whole else chosen.classes or []),
    ]
    tables: list[list[dict[str, str]]] = [[], []]
    for rows, (one, names) in zip(tables, walks, strict=True):
        for name in names:
            rows.append(one(name))
            print(*rows[-1].values(), sep=" | ", flush=True)
        print(count(rows))
    if whole:
        REPORT.write_text(report(*tables))


if __name__ == "__main__":
    main()
