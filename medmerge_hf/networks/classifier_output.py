"""Classifiers that call their logits otherwise and compute no loss (PP-LCNet), made to answer as the others do."""

import inspect
from collections.abc import Mapping
from typing import Any


def answers_labels(kind: type) -> bool:
    """Whether a class of transformers computes a loss when it is given labels."""
    return "labels" in inspect.signature(kind.forward).parameters  # type: ignore[attr-defined]


def as_classifier(network: Any) -> Any:
    """Make a network of transformers answer with logits and, given labels, a loss. In place.

    Args:
        network: an image classifier; of one that does so already nothing is changed.

    Returns:
        The network. What it saves stays as it was.

    Example:
        >>> from transformers import PPLCNetConfig, PPLCNetForImageClassification
        >>> network = as_classifier(PPLCNetForImageClassification(PPLCNetConfig(scale=0.25, num_labels=3)).eval())
        >>> import torch
        >>> network(torch.zeros(2, 3, 32, 32), labels=torch.tensor([0, 1])).logits.shape
        torch.Size([2, 3])
    """
    if not answers_labels(type(network)):
        network.register_forward_hook(_answer, with_kwargs=True)
    return network


def _answer(network: Any, images: tuple[Any, ...], given: Mapping[str, Any], output: Any) -> Any:
    from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

    logits, *rest = output if isinstance(output, tuple) else output.to_tuple()
    labels = given.get("labels")
    loss = None if labels is None else network.loss_function(labels, logits, network.config)
    if isinstance(output, tuple):
        return (logits, *rest) if loss is None else (loss, logits, *rest)
    hidden = getattr(output, "hidden_states", None)
    return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=hidden)
