"""The tensors of a saved network put back into one in memory, by name, all of them or an error."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from ..errors import CheckpointError
from .caches import clear_caches


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Saving and reading back take a second: bars would only tear up the trainer's own."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def load_saved_network(network: Any, tensors: Mapping[str, Tensor], assign: bool = False) -> _IncompatibleKeys:
    """Copy the tensors of a saved network into one in memory, by the names that they have on disk.

    transformers may call tensors otherwise in memory. `from_pretrained` converts those names; `load_state_dict` does
    not and, where it is not strict, leaves such tensors as they are.

    Args:
        network: a classifier; it is changed only if everything fits.
        tensors: as `network.save_pretrained` writes them.
        assign: as in `nn.Module.load_state_dict`.

    Returns:
        No names: all were found.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape.
    """
    try:
        with no_progress_bars():
            saved, info = type(network).from_pretrained(
                None, config=network.config, state_dict=dict(tensors), dtype=network.dtype, output_loading_info=True
            )
    except RuntimeError as error:  # of tensors of another shape
        raise CheckpointError(f"These tensors do not fit {type(network).__name__}: {error}") from error
    clear_caches(network)
    check_names(_IncompatibleKeys(sorted(info["missing_keys"]), sorted(info["unexpected_keys"])), network)
    return network.load_state_dict(saved.state_dict(), assign=assign)


def load_checked(
    model: nn.Module, load: Callable[[Mapping[str, Tensor]], _IncompatibleKeys], tensors: Mapping[str, Tensor]
) -> _IncompatibleKeys:
    """Load a state dict by a model's own names, see [`check_names`].

    Args:
        model: that it is loaded into.
        load: its `load_state_dict`.
        tensors: the state dict.

    Raises:
        CheckpointError: names are missing or left over, or tensors are of another shape.
    """
    try:
        return check_names(load(tensors), model)
    except RuntimeError as error:
        raise CheckpointError(f"These tensors do not fit the model: {error}") from error


def check_names(result: _IncompatibleKeys, model: nn.Module) -> _IncompatibleKeys:
    """Refuse a state dict that did not fit, though it was not loaded strictly. Frozen parameters may be missing.

    Args:
        result: of `load_state_dict`.
        model: that it was called of.

    Returns:
        The result.

    Raises:
        CheckpointError: names are missing or left over.
    """
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    missing = [name for name in result.missing_keys if name not in frozen]
    for names, what in ((missing, "does not hold"), (result.unexpected_keys, "holds, besides what is needed,")):
        if names:
            others = f" and {len(names) - 1} more" if names[1:] else ""
            raise CheckpointError(
                f"This checkpoint {what} {names[0]}{others}: it is not one of this model. from_pretrained(checkpoint) "
                "loads the model that it belongs to."
            )
    return result
