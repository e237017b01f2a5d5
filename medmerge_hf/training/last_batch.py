"""The last batch of an epoch, which may be one image: BatchNorm learns nothing where it sees one pixel of it."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingsError
from ..networks.batch_norm import batch_norms


logger = logging.getLogger(__name__)


def drops_last_batch(
    model: Any, dataset: Any, batch_size: int, processes: int, drop_last: bool, one_image: Callable[[], Tensor]
) -> bool:
    """Whether an epoch has to end before its last batch, which is checked before the first one begins.

    Args:
        model: that is trained.
        dataset: of training images.
        batch_size: of one process.
        processes: that share an epoch; Accelerate fills their last batches up.
        drop_last: what the arguments ask for.
        one_image: gives a batch of one, `[1, C, H, W]`.

    Returns:
        `drop_last`, or that the last batch is one image of which the network cannot learn.

    Raises:
        SettingsError: no batch would be left.
    """
    if not hasattr(dataset, "__len__"):
        return drop_last
    count = len(dataset)
    if drop_last and count // batch_size < processes:
        raise SettingsError(
            f"dataloader_drop_last leaves no batch: {count} images, {processes} x {batch_size} a step. Set "
            f"per_device_train_batch_size to {max(1, count // processes)}, or leave dataloader_drop_last out."
        )
    alone = batch_size == 1 or (processes == 1 and not drop_last and count % batch_size == 1)
    if not alone or not fails_on_one_image(model, one_image):
        return drop_last
    reason = "BatchNorm cannot learn from one image of this size, where some layer sees one pixel of it"
    if batch_size == 1 or count == 1:
        raise SettingsError(f"{count} images in batches of {batch_size}: {reason}. Take batches of at least 2 images.")
    logger.warning(
        "%d images in batches of %d: the last one would be alone. %s. It is left out, another image each epoch; "
        "with another per_device_train_batch_size none is.",
        *(count, batch_size, reason),
    )
    return True


@torch.no_grad()
def fails_on_one_image(model: Any, one_image: Callable[[], Tensor]) -> bool:
    """Whether a network in training mode refuses a batch of one image. It is as before afterwards.

    Args:
        model: that is trained.
        one_image: gives a batch of one, `[1, C, H, W]`.
    """
    if not batch_norms(model):
        return False
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    mode = model.training
    with torch.random.fork_rng():
        try:
            model.train()
            model(one_image().to(model.device))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            return True
        finally:
            model.train(mode)
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
    return False
