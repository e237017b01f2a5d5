"""A network whose kernels are its sources' kernels with channels re-routed and mixed, which folds into a plain one.

After FS-Merge (arXiv 2410.01483).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from medmerge_hf.alignment.channel_trace import Trace, trace
from medmerge_hf.errors import SettingsError
from medmerge_hf.networks.backbone import backbone_parameters, backbone_prefix
from medmerge_hf.networks.build import input_shape
from medmerge_hf.networks.features import observed_features


RANK = 16


class Mixing(nn.Module):
    """One matrix `[C, C]` a source, diagonal plus low rank.

    Args:
        channels: C.
        diagonal: where each source's diagonal starts; the low-rank part starts at 0.
        rank: of that part.
    """

    def __init__(self, channels: int, diagonal: Sequence[float], rank: int) -> None:
        super().__init__()
        count = len(diagonal)
        self.diagonal = nn.Parameter(torch.tensor(diagonal)[:, None].repeat(1, channels))
        self.down = nn.Parameter(torch.randn(count, rank, channels) / channels**0.5)
        self.up = nn.Parameter(torch.zeros(count, channels, rank))

    def columns(self, source: int, kernel: Tensor) -> Tensor:
        """A kernel `[O, P, C]` times the matrix of a source."""
        return torch.addcmul(kernel @ self.up[source] @ self.down[source], kernel, self.diagonal[source])

    def rows(self, kernels: Sequence[Tensor]) -> Tensor:
        """The matrices times the kernels `[C, P, I]` of all sources, summed."""
        flat = [kernel.flatten(1) for kernel in kernels]
        inner = torch.cat([down @ kernel for down, kernel in zip(self.down, flat, strict=True)])
        found = self.up.transpose(0, 1).flatten(1) @ inner
        for diagonal, kernel in zip(self.diagonal, flat, strict=True):
            found = torch.addcmul(found, diagonal[:, None], kernel)
        return found.view_as(kernels[0])


class Foldable(nn.Module):
    """A network each of whose convolutions is `M blockdiag(W_1, ..., W_S) U` of its sources' convolutions.

    `U` re-routes the channels of the one stream to every source's inputs, `M` makes one stream of their outputs. All
    convolutions that read a stream share its `U`, all that write it its `M`, so that skip connections stay sums. Both
    commute with space, so the whole is an ordinary network at every step, and `M = [I 0]`, `U = [I; I]` the anchor.

    Args:
        network: the anchor, a classifier of [`MedMergeModel`] whose norms go on learning.
        sources: name below the backbone -> tensor, the anchor's first.
        rank: of what `M` and `U` have beside their diagonals.

    Raises:
        SettingsError: a convolution in groups, or one whose outputs are no channels of their own.
    """

    def __init__(self, network: Any, sources: Sequence[Mapping[str, Tensor]], rank: int = RANK) -> None:
        super().__init__()
        self.network = network
        self.merge: Any = nn.ModuleDict()
        self.route: Any = nn.ModuleDict()
        self.places: dict[str, tuple[str, str | None]] = {}
        self.kernels: dict[str, list[Tensor]] = {}
        if grouped := [name for name, m in network.named_modules() if getattr(m, "groups", 1) > 1]:
            raise SettingsError(f"{grouped[0]} cannot be folded: in groups, a convolution mixes no channels.")
        found, prefix = trace(network, torch.randn(2, *input_shape(network))), backbone_prefix(network)
        for name, parameter in backbone_parameters(network).items():
            if parameter.ndim == 4:
                parameter.requires_grad_(False)
                kernels = [_as_large(source[name], parameter.detach()) for source in sources]
                self._add(prefix + name, kernels, found, rank)

    def _add(self, name: str, kernels: list[Tensor], found: Trace, rank: int) -> None:
        """One convolution, and the matrices of its streams where they are not there yet."""
        writes, reads = (_group(axis, found.free()) for axis in found.axes[name][:2])
        if writes is None:
            raise SettingsError(f"{name} cannot be folded: its outputs stand in a fixed order.")
        self.places[name], self.kernels[name] = (writes, reads), kernels
        for table, group, start in ((self.merge, writes, 0.0), (self.route, reads, 1.0)):
            if group is not None and group not in table:
                size = found.groups.sizes[int(group)]
                table[group] = Mixing(size, [1.0, *[start] * (len(kernels) - 1)], rank)

    def tensors(self) -> dict[str, Tensor]:
        """Name of each convolution in the network -> what it is now."""
        shapes = {name: self.network.get_parameter(name).shape for name in self.kernels}
        return {
            name: self._folded(*self.places[name], kernels).view(shapes[name][0], *shapes[name][2:], -1).movedim(3, 1)
            for name, kernels in self.kernels.items()
        }

    def _folded(self, writes: str, reads: str | None, kernels: Sequence[Tensor]) -> Tensor:
        if reads is not None:
            kernels = [self.route[reads].columns(source, kernel) for source, kernel in enumerate(kernels)]
        return self.merge[writes].rows(kernels)

    def forward(self, images: Tensor) -> Tensor:
        """Features `[N, D]`."""
        return features_of(self.network, images, self.tensors())

    @torch.no_grad()
    def fold(self) -> Any:
        """The one plain network that this is, all of which learns from here on."""
        for name, tensor in self.tensors().items():
            self.network.get_parameter(name).copy_(tensor)
        return self.network.requires_grad_(True)


def _group(axis: Any, free: Sequence[int]) -> str | None:
    """The group that an axis is, if it is one whole group whose channels may be mixed."""
    whole = axis is not None and len(axis) == 1 and axis[0][1] == 1 and axis[0][0] in free
    return str(axis[0][0]) if whole else None


def _as_large(kernel: Tensor, anchor: Tensor) -> Tensor:
    """A source's filters at the scale of the anchor's, so that a step means the same; `[O, P, I]`, P its pixels."""
    scale = anchor.flatten(1).norm(dim=1).mean() / kernel.flatten(1).norm(dim=1).mean()
    return scale * kernel.flatten(2).transpose(1, 2).contiguous()


def noise_like(tensors: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Random filters of the norms that a source's filters have, in their place; other tensors as they are."""
    random, made = torch.Generator().manual_seed(seed), dict(tensors)
    for name, tensor in tensors.items():
        if tensor.ndim == 4:
            noise = torch.randn(tensor.shape, generator=random).flatten(1)
            norms = tensor.flatten(1).norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
            made[name] = (noise * norms).view(tensor.shape)
    return made


def features_of(network: nn.Module, images: Tensor, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
    """What reaches the head of a network, with other tensors in the places of some of its own."""
    with observed_features(network) as seen:
        functional_call(network, dict(tensors or {}), (images,))
    return seen[-1]


@torch.no_grad()
def features_of_all(network: nn.Module, images: Tensor) -> Tensor:
    """Features of many images in eval mode."""
    return torch.cat([features_of(network.eval(), part.float()) for part in images.split(64)])


class Whole(nn.Module):
    """A plain network all of whose backbone learns: feature distillation without kernels of another source."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Features `[N, D]`."""
        return features_of(self.network, images)
