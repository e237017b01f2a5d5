"""BatchNorm statistics of a merged network, estimated again on target images.

The statistics of two networks do not average into those of their merge (REPAIR, arXiv 2211.08403): with stale ones an
otherwise good merge is at chance.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers of a model that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def _to_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, dict):
        return {key: value.to(device) for key, value in batch.items() if isinstance(value, Tensor) and key != "labels"}
    return batch[0].to(device) if isinstance(batch, (list, tuple)) else batch.to(device)


@torch.no_grad()
def recalibrate_batch_norm(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any] | None = None
) -> int:
    """Replace running means and variances by their average over `batches`, each image counting the same.

    Everything but BatchNorm runs in eval mode. Momentum and training mode are as before afterwards. Where several
    processes each have a part of the batches, all end with the statistics over all parts.

    Args:
        model: a network. Without BatchNorm nothing is done.
        batches: dicts with `pixel_values`, tuples whose first entry is the image tensor, or image tensors
            `[N, C, H, W]` as the model takes them.
        forward: called with each batch; by default the model, with keywords for a dict.

    Returns:
        The number of images that this process saw.

    Example:
        >>> norm = nn.BatchNorm2d(1)
        >>> recalibrate_batch_norm(norm, [torch.full((4, 1, 2, 2), 3.0), torch.full((2, 1, 2, 2), 0.0)])
        6
        >>> round(norm.running_mean.item(), 4)
        2.0
    """
    layers = batch_norms(model)
    if not layers:
        return 0
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.train()
    seen = 0
    try:
        for batch in batches:
            batch = _to_device(batch, device)
            images = batch["pixel_values"] if isinstance(batch, dict) else batch
            seen += len(images)
            for layer in layers:
                layer.momentum = len(images) / seen  # the first batch replaces what was there
            if forward is not None:
                forward(batch)
            else:
                model(**batch) if isinstance(batch, dict) else model(batch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        _average_over_processes(layers, seen)
    return seen


def _average_over_processes(layers: Iterable[Any], seen: int) -> None:
    for layer in layers:
        sums = torch.cat([layer.running_mean * seen, layer.running_var * seen, layer.running_mean.new_tensor([seen])])
        torch.distributed.all_reduce(sums)
        mean, variance = (sums[:-1] / sums[-1]).chunk(2)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


@torch.no_grad()
def repair(
    network: nn.Module, sources: Sequence[nn.Module], shares: Mapping[str, Tensor], batches: Iterable[Any]
) -> list[str]:
    """Give the layers of a merged network the spread that its sources' have (REPAIR, arXiv 2211.08403).

    For networks without BatchNorm. Averaged weights shrink what a layer computes, layer after layer. Each output
    channel of a convolution or linear layer is scaled and shifted, in its weights, to the mean and standard deviation
    that the sources have there, weighted by their shares. What comes after a layer sees it mended already. Where
    several processes each have a part of the batches, all end with the same weights.

    Args:
        network: the merged network; changed.
        sources: networks of the same architecture, the anchor first.
        shares: module name -> `[S, channels]`, what each source contributes to each output channel; negative ones
            count as 0. Modules that are not named, and those without bias, stay as they are.
        batches: as in [`recalibrate_batch_norm`]; kept in memory.

    Returns:
        Names of the modules that were changed.

    Example:
        >>> merged, source = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> repair(nn.Sequential(merged), [nn.Sequential(source)], {"0": torch.ones(1, 2)}, [torch.randn(64, 2)])
        ['0']
    """
    kept = [_to_device(batch, next(network.parameters()).device) for batch in batches]
    names = [name for name, module in network.named_modules() if name in shares and _mendable(module)]
    wanted = [_layer_statistics(source, names, kept) for source in sources]
    targets = {}
    for name in names:
        share = shares[name].clamp_min(0)
        share = share / share.sum(0).clamp_min(1e-6)
        targets[name] = tuple(
            sum(part * own[name][place] for part, own in zip(share, wanted, strict=True)) for place in (0, 1)
        )
    found = _layer_statistics(network, names, kept, targets)
    for name in names:
        module: Any = network.get_submodule(name)
        (mean, deviation), (target_mean, target_deviation) = found[name], targets[name]
        scale = target_deviation / deviation.clamp_min(1e-6)
        module.weight.mul_(scale.reshape(-1, *[1] * (module.weight.ndim - 1)))
        module.bias.copy_((module.bias - mean) * scale + target_mean)
    return names


def _mendable(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None


def _layer_statistics(
    network: nn.Module, names: Sequence[str], batches: Sequence[Any], targets: Mapping[str, Any] | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of each layer's output channels; with targets what follows sees them mended."""
    sums: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook(name: str) -> Callable[..., Tensor | None]:
        def look(module: nn.Module, _: Any, output: Tensor) -> Tensor | None:
            dim = 1 if isinstance(module, nn.Conv2d) else output.ndim - 1
            rest = [other for other in range(output.ndim) if other != dim]
            mean, deviation = output.mean(rest), output.std(rest, correction=0)
            sums[name].append(torch.stack([mean, deviation.square() + mean.square()]))
            if targets is None:
                return None
            shape = [-1 if other == dim else 1 for other in range(output.ndim)]
            scale = (targets[name][1] / deviation.clamp_min(1e-6)).reshape(shape)
            return (output - mean.reshape(shape)) * scale + targets[name][0].reshape(shape)

        return look

    hooks = [network.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    was_training = network.training
    network.eval()
    try:
        for batch in batches:
            network(**batch) if isinstance(batch, dict) else network(batch)
    finally:
        network.train(was_training)
        for handle in hooks:
            handle.remove()
    moments = {name: torch.stack(parts).mean(0) for name, parts in sums.items() if parts}
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for moment in moments.values():
            torch.distributed.all_reduce(moment)
            moment /= torch.distributed.get_world_size()
    return {name: (m[0], (m[1] - m[0].square()).clamp_min(0).sqrt()) for name, m in moments.items()}
