"""BatchNorm statistics of a merged network, estimated again on target images.

The statistics of two networks do not average into those of their merge (REPAIR, arXiv 2211.08403): with stale ones an
otherwise good merge is at chance.
"""

from collections.abc import Callable, Iterable, Iterator
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


def _not_alone(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches, one of a single image joined to a neighbour: it has no variance where a layer sees one pixel of it."""
    waiting: list[Any] = []
    for batch in batches:
        if waiting and _size(waiting[-1]) == 1:
            batch = _joined(waiting.pop(), batch)
        waiting.append(batch)
        if len(waiting) == 2 and _size(batch) > 1:
            yield waiting.pop(0)
    if len(waiting) == 2:
        waiting = [_joined(*waiting)]
    yield from waiting


def _size(batch: Any) -> int:
    return len(batch["pixel_values"] if isinstance(batch, dict) else batch)


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, dict):
        return {key: torch.cat([tensor, second[key]]) for key, tensor in first.items()}
    return torch.cat([first, second])


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
        for batch in _not_alone(_to_device(batch, device) for batch in batches):
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
