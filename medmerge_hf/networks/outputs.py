"""A classifier's forward pass with what a call or its config wants besides logits, all of it there or an error."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..errors import SettingsError
from .backbone import is_timm
from .build import architecture_name


# What can be asked for -> what the output calls it.
OPTIONAL = {"output_hidden_states": "hidden_states", "output_attentions": "attentions"}


def classify(
    network: Any,
    config: Any,
    forward: Callable[..., Any],
    pixel_values: Tensor,
    labels: Tensor | None,
    asked: Mapping[str, bool | None],
    interpolate_pos_encoding: bool,
    return_dict: bool | None,
) -> Any:
    """Run a classifier.

    Args:
        network: a plain classifier.
        config: whose settings hold where the call says nothing.
        forward: the network, or what computes like it with other tensors.
        pixel_values: `[N, C, H, W]`.
        labels: for a loss.
        asked: keyword of `OPTIONAL` -> what the call says, `None` for nothing.
        interpolate_pos_encoding: whether the images may be of another size than the network's.
        return_dict: `False` for a tuple.

    Returns:
        The network's output.

    Raises:
        SettingsError: the network does not return what is wanted, or takes no other image size.
    """
    found = {name: getattr(config, name) if value is None else value for name, value in asked.items()}
    # What is not wanted is left out: None would override the network's own config.
    wanted = {name: value for name, value in found.items() if value}
    _check_wanted(network, wanted, interpolate_pos_encoding)
    size = {"interpolate_pos_encoding": True} if interpolate_pos_encoding else {}
    output = forward(pixel_values, labels=labels, **wanted, **size)
    for name in wanted:
        if output.get(OPTIONAL[name]) is None or len(output[OPTIONAL[name]]) == 0:
            raise SettingsError(
                f"{architecture_name(network)} returns no {OPTIONAL[name]}: {_way_out(network, name)}."
            )
    return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()


def _check_wanted(network: Any, wanted: dict[str, Any], interpolate: bool) -> None:
    """transformers' networks swallow keywords that they do not know."""
    if "output_attentions" in wanted and is_timm(network):
        raise SettingsError(f"timm's {architecture_name(network)} returns no attentions: leave output_attentions out.")
    if interpolate and "interpolate_pos_encoding" not in inspect.signature(network.forward).parameters:
        raise SettingsError(
            f"{architecture_name(network)} interpolates no position embeddings in its forward pass: build the model "
            "for these images, from_sources(..., image_size=...)."
        )


def _way_out(network: Any, name: str) -> str:
    attention = getattr(network.config, "_attn_implementation", None)
    if name == "output_attentions" and attention not in (None, "eager"):
        return f"none with {attention} attention, call model.set_attn_implementation('eager') before"
    return f"leave {name} out"
