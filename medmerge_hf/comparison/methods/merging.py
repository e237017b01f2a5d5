"""MedMerge in the comparison, and its controls."""

import dataclasses

import numpy as np
import torch

from ...errors import StateError
from ...merging.kernel_table import source_shares
from ...modeling_medmerge import MedMergeModel
from ...networks.backbone import backbone_module
from ...runs.build import choose_sources
from ...sources.reference import short_name
from ...training.distillation import Teachers
from ..job import Job, steps_of, validation_f1, weights_of
from ..registry import OURS, method
from ..run_store import Outcome
from .single_source import FINE_TUNED


BEST_FORM = f"{OURS} (best)"

BEST = "best"  # the config's options of the best form, which its controls share


@torch.no_grad()
def scramble_sources(model: MedMergeModel, seed: int = 0) -> MedMergeModel:
    """Put noise in the place of every source but the anchor: a control of whether a merge uses what they know.

    Each filter's difference to the anchor keeps its norm and gets a random direction, so that the same number of
    weights learns over steps of the same size.

    Args:
        model: merging; changed.
        seed: of the noise.

    Returns:
        The model itself.

    Raises:
        StateError: it is collapsed.

    Example:
        >>> import timm
        >>> model = MedMergeModel.from_sources([timm.create_model("test_resnet") for _ in range(2)], num_labels=2)
        >>> before = [d.norm() for d in model.merge.differences.parameters()]
        >>> after = [d.norm() for d in scramble_sources(model).merge.differences.parameters()]
        >>> torch.allclose(torch.stack(before), torch.stack(after))
        True
    """
    if model.merge is None:
        raise StateError("scramble_sources needs a model that is merging; this one is collapsed.")
    random = torch.Generator().manual_seed(seed)
    for difference in model.merge.differences.parameters():
        rows = difference.reshape(len(difference), -1)
        noise = torch.randn(rows.shape, generator=random).to(rows)
        norms = rows.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        difference.copy_((noise * norms).reshape(difference.shape))
    return model


@method("fine-tuned longer", needs=(FINE_TUNED,), tries_rates=False)
def longer(job: Job) -> Outcome:
    """What the merge of fine-tuned sources does beside merging: the best one's head trained on, new statistics."""
    return of_fine_tuned(job, learned=False)


@method(BEST_FORM, options=BEST)
@method(f"{OURS} (paper)")
def medmerge(
    job: Job, learned: bool = True, scrambled: bool = False, teachers: Teachers | None = None, steps: int = 0
) -> Outcome:
    """The merge as the settings have it: kernel weights and head learn, then everything."""
    job = dataclasses.replace(job, settings=choose_sources(job.settings, job.target))
    model = job.merging()
    if scrambled:
        scramble_sources(model, job.settings.run.seed)
    model.merge.source_bias.requires_grad_(learned)  # type: ignore[union-attr]
    trainer = job.trainer(model, "merge", teachers)
    trainer.train()
    trainer.collapse()
    depth = by_depth(model)
    middle = job.outcome(trainer, steps=steps)
    trainer = job.trainer(model, "finetune", teachers)
    trainer.train()
    merged = {split: middle.scores(split)["macro_f1"] for split in middle.labels}
    states = {} if teachers is None else {"end": weights_of(trainer.model)}
    return job.outcome(trainer, states, depth=depth, merged=merged, steps=middle.notes["steps"])


@method(f"{OURS} of fine-tuned", needs=(FINE_TUNED,), tries_rates=False)
def of_fine_tuned(job: Job, learned: bool = True) -> Outcome:
    """The merge of the fine-tuned sources, aligned, beginning with the best of them, which stays if it is the better.

    It costs what a soup or the ensemble costs, every source fine-tuned, and a merge stage; nothing follows.
    """
    tuned = sorted(job.earlier[FINE_TUNED], key=validation_f1, reverse=True)
    sources = []
    for outcome in tuned:
        alone = job.trained(outcome.states["end"])
        sources.append(getattr(alone.network, "timm_model", alone.network))
    model = job.merging(sources=sources, align="activations", keep_best=None)
    model.network.load_state_dict(tuned[0].states["end"])  # the head of the best, too
    model.merge.source_bias.requires_grad_(learned)  # type: ignore[union-attr]
    trainer = job.trainer(model, "merge")
    trainer.args.eval_on_start = True
    trainer.train()
    depth = by_depth(model)
    trainer.collapse()
    return max([tuned[0], job.outcome(trainer, depth=depth, steps=steps_of(tuned))], key=validation_f1)


@method("best without kernel weights", options=BEST, control="what the kernel weights do", of=BEST_FORM)
def unmerged(job: Job) -> Outcome:
    """What the merge does beside merging: the anchor's head first, new statistics, then everything."""
    return medmerge(job, learned=False)


@method("best with noise for sources", options=BEST, control="what the other source's knowledge does", of=BEST_FORM)
def of_noise(job: Job) -> Outcome:
    """The merge with noise in the place of the other sources: what so many weights gain that know nothing."""
    return medmerge(job, scrambled=True)


def by_depth(model: MedMergeModel) -> dict[str, dict[str, float]]:
    """Block of the network -> source -> root mean square weight over the block's kernels."""
    table = source_shares(model.kernel_weights(), backbone_module(model.network))
    table = table.assign(block=table["block"].astype(str), source=table["source"].astype(str))
    found: dict[str, dict[str, float]] = {}
    for (block, source), rows in table.groupby(["block", "source"], sort=False):
        mean_square = float(np.average(rows["size"] ** 2, weights=rows["kernels"]))
        found.setdefault(block, {})[short_name(source)] = mean_square**0.5
    return found
