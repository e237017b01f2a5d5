"""A network that computes with other tensors than its own parameters (torch only)."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


class ParameterSwap:
    """Puts tensors in the places of a network's parameters, and back.

    `torch.func.functional_call` does so too. It looks for every place at every call, though, and puts the parameters
    back before a checkpointed block is recomputed in the backward pass, which then computes with the wrong weights.

    Args:
        network: whose parameters are replaced.
        parameters: name -> parameter of it. One that is used in several places is replaced in all of them.
        forget: called before and after, where the network keeps what it computed from its parameters.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> with ParameterSwap(layer, {"weight": layer.weight}).of({"weight": layer.weight * 0}):
        ...     bool((layer.weight == 0).all())
        True
    """

    def __init__(
        self,
        network: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        places: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        for module in network.modules():
            for leaf, parameter in module._parameters.items():
                if parameter is not None:
                    places[id(parameter)].append((module, leaf))
        self.network, self._forget = network, forget
        self.places = {name: places[id(parameter)] for name, parameter in parameters.items()}
        self._own: dict[str, Tensor | None] = {}

    def parameters(self) -> dict[str, Tensor]:
        """Name -> parameter, the network's own also while others stand in their places."""
        if self._own:
            return dict(self._own)  # type: ignore[arg-type]
        return {name: module._parameters[leaf] for name, ((module, leaf), *_) in self.places.items()}  # type: ignore[misc]

    def install(self, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors into the places, until [`restore`].

        Args:
            tensors: every name -> tensor.
        """
        self.restore()
        self._own = dict(self.parameters())
        self._put(tensors)

    def restore(self) -> None:
        """Put the parameters back, if others are in their places."""
        if self._own:
            own, self._own = self._own, {}
            self._put(own)

    def _put(self, tensors: Mapping[str, Tensor | None]) -> None:
        self._forget()
        for name, places in self.places.items():
            for module, leaf in places:
                module._parameters[leaf] = tensors[name]  # type: ignore[assignment]

    @contextmanager
    def of(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """[`install`] for the length of a block."""
        self.install(tensors)
        try:
            yield
        finally:
            self.restore()
