"""What a user would do instead of a merge, through the same classes and with the same budget.

Averages of the sources are merges whose kernel weights are set and not learned: `init=1 / S` is the uniform average
(with [`MedMergeModel.align`] before it and BatchNorm statistics re-estimated after it: REPAIR's aligned average),
[`init_by_fisher`] with `granularity="element"` is Fisher merging. What is no such average stands here.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adaptation import harmonise_onto
from .configuration_medmerge import MedMergeConfig
from .errors import SettingsError, StateError
from .modeling_medmerge import MedMergeModel
from .networks import backbone_module, backbone_parameters, load_backbone, target_labels
from .soups import average, even
from .source_networks import source_networks, source_tensors
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


def slerp(one: Tensor, other: Tensor, share: float = 0.5) -> Tensor:
    """Spherical interpolation of two tensors (Shoemake 1985), as mergekit does it for whole tensors.

    Args:
        one: any shape.
        other: the same shape.
        share: of the other.

    Returns:
        A tensor on the arc between them; on the line, where they are almost parallel.

    Example:
        >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor([0.7071, 0.7071])
    """
    cosine = float((one * other).sum() / (one.norm() * other.norm()).clamp_min(1e-12))
    if abs(cosine) > 0.9995:
        return one + share * (other - one)
    angle = math.acos(cosine)
    return (math.sin((1 - share) * angle) * one + math.sin(share * angle) * other) / math.sin(angle)


def slerp_sources(model: MedMergeModel, share: float = 0.5) -> dict[str, Tensor]:
    """[`slerp`] of the two sources of a model that is merging, tensor by tensor.

    Returns:
        Name below the backbone -> tensor, for [`collapse_to`].

    Raises:
        SettingsError: it has more than two sources.
    """
    sources = source_tensors(model)
    if len(sources) != 2:
        raise SettingsError(f"SLERP is between two sources, this model has {len(sources)}.")
    return {name: slerp(sources[0][name], sources[1][name], share) for name in backbone_parameters(model.network)}


def regmean_weight(weights: Sequence[Tensor], grams: Sequence[Tensor], shrink: float = 0.9) -> Tensor:
    """RegMean's closed form for one linear map (arXiv 2212.09849, equation 2).

    Args:
        weights: `[out, in]` of each source.
        grams: `[in, in]`, products of each source's inputs.
        shrink: factor of what is off the diagonals, against grams of few images.

    Returns:
        `[out, in]`: `(sum_s W_s G_s) (sum_s G_s)^-1`.

    Example:
        >>> weights, grams = [torch.zeros(1, 2), torch.ones(1, 2)], [torch.eye(2), 3 * torch.eye(2)]
        >>> regmean_weight(weights, grams)
        tensor([[0.7500, 0.7500]])
    """
    # Solved for the distance from the mean, which is then what inputs that never occur keep.
    mean = torch.stack(list(weights)).mean(0)
    grams = [(shrink * gram + (1 - shrink) * torch.diag(gram.diagonal())).double() for gram in grams]
    total = torch.stack(grams).sum(0)
    total = total + 1e-6 * total.diagonal().mean().clamp_min(1e-12) * torch.eye(len(total))
    wanted = torch.stack([(w - mean).double() @ gram for w, gram in zip(weights, grams, strict=True)]).sum(0)
    return mean + torch.linalg.solve(total, wanted.T).T.to(mean)


@torch.no_grad()
def regmean_sources(model: MedMergeModel, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """RegMean of a merging model's convolutions (unfolded, a system a group) and linear layers; the mean of the rest.

    Args:
        model: merging.
        batches: of images `[N, C, H, W]`.

    Returns:
        Name below the backbone -> tensor, for [`collapse_to`].
    """
    networks = [backbone_module(network) for network in source_networks(model)]
    names = backbone_parameters(model.network)
    merged = average([{n: network.get_parameter(n).detach() for n in names} for network in networks], even(networks))
    grams = [_grams(network, batches) for network in networks]
    for name in (name for name in grams[0] if f"{name}.weight" in names):
        weights = [network.get_parameter(f"{name}.weight").detach() for network in networks]
        parts = zip(*(weight.flatten(1).chunk(len(grams[0][name])) for weight in weights), strict=True)
        solved = [regmean_weight(part, [gram[name][group] for gram in grams]) for group, part in enumerate(parts)]
        merged[f"{name}.weight"] = torch.cat(solved).reshape(weights[0].shape)
    return merged


def _grams(network: nn.Module, batches: Sequence[Tensor]) -> dict[str, Tensor]:
    """Layer -> `[groups, in, in]`, products of the inputs of its weights."""
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def look(module: Any, inputs: tuple[Tensor]) -> None:
            rows = inputs[0].flatten(0, -2) if isinstance(module, nn.Linear) else _unfolded(module, inputs[0])
            groups = getattr(module, "groups", 1)
            parts = rows.reshape(len(rows), groups, -1).transpose(0, 1)
            sums[name] = sums.get(name, 0) + parts.transpose(1, 2) @ parts / len(rows)

        return look

    kinds = (nn.Conv2d, nn.Linear)
    hooks = [m.register_forward_pre_hook(watch(n)) for n, m in network.named_modules() if isinstance(m, kinds)]
    for batch in batches:
        network(batch)
    for hook in hooks:
        hook.remove()
    return sums


def _unfolded(module: nn.Conv2d, images: Tensor) -> Tensor:
    """`[positions, in * kernel]`: what a convolution multiplies its weights with."""
    padding = (0, 0) if isinstance(module.padding, str) else module.padding
    patches = nn.functional.unfold(images, module.kernel_size, module.dilation, padding, module.stride)
    return patches.transpose(1, 2).flatten(0, 1)


def collapse_to(model: MedMergeModel, tensors: Mapping[str, Tensor], batches: Any) -> MedMergeModel:
    """End a merge with given weights instead of the learned ones; BatchNorm statistics are re-estimated.

    Args:
        model: merging; changed.
        tensors: name below the backbone -> tensor.
        batches: of training images, as in [`MedMergeModel.collapse`].

    Returns:
        The model, collapsed.
    """
    from .normalization import recalibrate_batch_norm

    model.collapse()
    model.merge_state = {}
    load_backbone(model.network, tensors)
    recalibrate_batch_norm(model.network, batches)
    return model
