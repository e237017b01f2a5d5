"""One source without a merge: what a merge is measured against, by fine-tuning or LP-FT."""

from collections.abc import Mapping

from ..configuration_medmerge import MedMergeConfig
from ..conversion.convert import convert_onto
from ..conversion.fingerprint import identify
from ..modeling_medmerge import MedMergeModel
from ..networks.backbone import backbone_parameters, load_backbone
from ..networks.build import target_labels
from ..networks.preprocessing import input_of
from ..sources.load import load_source
from ..sources.reference import Source


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
    found = convert_onto(model.network, loaded, input_of(model), anchor=True)
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
