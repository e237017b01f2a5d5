"""Averages of state dicts: what is done with networks that were fine-tuned already."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .errors import StateError


def average(states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Weighted average of state dicts: the uniform soup (arXiv 2203.05482), or WiSE-FT's line (arXiv 2109.01903).

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


def learned_soup(
    network: Any, states: Sequence[Mapping[str, Tensor]], images: Tensor, labels: Tensor, steps: int = 40
) -> dict[str, Tensor]:
    """Average with shares learned a layer on validation images (arXiv 2203.05482, appendix I).

    Args:
        network: a classifier of the states' architecture; not changed.
        states: of the fine-tuned networks, heads included.
        images: `[N, C, H, W]`.
        labels: `[N]`.
        steps: of AdamW on batches of 32.

    Returns:
        The soup.
    """
    if not states:
        raise StateError("A soup needs fine-tuned networks.")
    names = [name for name, _ in network.named_parameters()]
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    logits = torch.zeros(len(states), len(layers), requires_grad=True)
    optimizer = torch.optim.AdamW([logits], lr=0.05, weight_decay=0.0)
    place = {name: layers.index(name.rpartition(".")[0]) for name in names}

    def blended() -> dict[str, Tensor]:
        shares = logits.softmax(0)
        return {n: torch.stack([shares[i, place[n]] * s[n] for i, s in enumerate(states)]).sum(0) for n in names}

    generator = torch.Generator().manual_seed(0)
    was_training = network.training
    network.train()  # BatchNorm of the batch, as the statistics of no state fit the average
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    for _ in range(steps):
        draw = torch.randint(len(images), (min(32, len(images)),), generator=generator)
        output = functional_call(network, {**blended(), **kept}, (images[draw],))
        loss = nn.functional.cross_entropy(getattr(output, "logits", output), labels[draw])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.train(was_training)
    return {**average(states, even(states)), **{name: tensor.detach() for name, tensor in blended().items()}}
