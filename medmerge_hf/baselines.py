"""What a user would do instead of a merge, and controls of one, through the same classes.

Averages of the sources are merges whose kernel weights are set and not learned: `init=1 / S` is the uniform average,
the aligned one with [`MedMergeModel.align`] before it.
"""

from collections.abc import Mapping

import torch

from .adaptation import harmonise_onto
from .configuration_medmerge import MedMergeConfig
from .errors import StateError
from .modeling_medmerge import MedMergeModel
from .networks import backbone_parameters, load_backbone, target_labels
from .sources import Source, identify, load_source
from .transforms import input_of


def single_source_model(
    source: Source,
    *,
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    problem_type: str | None = None,
    architecture: str | None = None,
    image_size: int | None = None,
) -> MedMergeModel:
    """One source with a new head: the start of fine-tuning, or of LP-FT (Kumar et al., arXiv 2202.10054).

    Args:
        source: as in [`MedMergeModel.from_sources`].
        num_labels: classes of the target task.
        id2label: names of the classes.
        problem_type: as in [`MedMergeModel.from_sources`].
        architecture: timm name of the network, needed for a weights file or a bare module.
        image_size: pixels; by default the source's own.

    Returns:
        A model in the collapsed state, without merge state.

    Example:
        >>> import timm
        >>> model = single_source_model(timm.create_model("test_resnet"), num_labels=2)
        >>> model.merging
        False
    """
    loaded = load_source(source, architecture)
    config = MedMergeConfig(problem_type=problem_type, **target_labels(num_labels, id2label))
    model = MedMergeModel.from_anchor(loaded, config, image_size)
    found = harmonise_onto(model.network, loaded, input_of(model), anchor=True)
    load_backbone(model.network, found.tensors)
    model.config.sources = identify([loaded.reference], [found.only(backbone_parameters(model.network))], [])
    return model


def freeze_backbone(model: MedMergeModel, frozen: bool = True) -> MedMergeModel:
    """Let the head alone learn (linear probing), or everything again.

    Args:
        model: a collapsed model.
        frozen: whether the backbone is held.

    Returns:
        The model itself.
    """
    for parameter in backbone_parameters(model.network).values():
        parameter.requires_grad_(not frozen)
    return model


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
