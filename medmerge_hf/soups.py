"""Averages of state dicts: what is done with networks that were fine-tuned already."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def average(states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Weighted average of state dicts: a soup (arXiv 2203.05482), or WiSE-FT's line (arXiv 2109.01903).

    Args:
        states: of one architecture.
        shares: a number a state.

    Returns:
        Name -> tensor; integers are the first state's.

    Example:
        >>> average([{"w": torch.zeros(2)}, {"w": torch.ones(2)}], [0.75, 0.25])["w"]
        tensor([0.2500, 0.2500])
    """
    return {
        name: torch.stack([share * state[name] for share, state in zip(shares, states, strict=True)]).sum(0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }


def even(things: Sequence[Any]) -> list[float]:
    """The same share for each."""
    return [1 / len(things)] * len(things)


def greedy_choice(
    states: Sequence[Mapping[str, Tensor]], scores: Sequence[float], score: Callable[[dict[str, Tensor]], float]
) -> list[int]:
    """Which fine-tuned networks the greedy soup averages: each that does not lower the score (arXiv 2203.05482).

    Args:
        states: of the fine-tuned networks.
        scores: of each alone, on validation.
        score: of an average, on validation.

    Returns:
        Their places, the best alone first.

    Example:
        >>> states = [{"w": torch.tensor(value)} for value in (1.0, 3.0, 9.0)]
        >>> greedy_choice(states, [-6, -4, -2], lambda state: -abs(float(state["w"]) - 7))
        [2, 1]
    """
    order = sorted(range(len(states)), key=lambda place: -scores[place])
    chosen, best = order[:1], scores[order[0]]
    for place in order[1:]:
        taken = [states[i] for i in [*chosen, place]]
        found = score(average(taken, even(taken)))
        if found >= best:
            chosen, best = [*chosen, place], found
    return chosen
