"""How a [`MedMergeModel`] shows its kernel weights."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .analysis import kernel_table, source_shares, stage_statistics
from .blending import KernelWeights
from .configuration_medmerge import MedMergeConfig
from .errors import StateError
from .export import KERNEL_WEIGHTS
from .networks import backbone_module, merged_parameters


class KernelViews(PreTrainedModel):
    """The part of [`MedMergeModel`] that reads kernel weights, in either state."""

    config: MedMergeConfig
    network: Any
    merge: KernelWeights | None
    merge_state: dict[str, Tensor]

    def _layout(self) -> KernelWeights:
        """Names and kernel shapes of the kernel weights."""
        if self.merge is not None:
            return self.merge
        shapes = {name: p.shape for name, p in merged_parameters(self.network, self.config).items()}
        with torch.device("meta"):
            return KernelWeights(shapes, len(self.config.sources), self.config.granularity, self.config.constraint)

    def _kernel_parameter(self) -> Tensor:
        if self.merge is not None:
            return self.merge.source_bias.detach().cpu()
        if not self.merge_state:
            raise StateError("This model has no kernel weights: it was not made by a merge.")
        return self.merge_state[KERNEL_WEIGHTS]

    def kernel_weights(self) -> Any:
        """The weights of all sources, in either state.

        Returns:
            A `pandas.DataFrame` with columns `tensor`, `kernel` (row-major index), `source` and `weight`. Over the
            sources the weights of a kernel sum to 1.
        """
        parameter = self._kernel_parameter()
        return kernel_table(self._layout(), parameter, [source["id"] for source in self.config.sources])

    def kernel_weight_statistics(self) -> dict[str, float]:
        """Mean and standard deviation of the other sources' weights by stage of the network, for logs."""
        parameter = self._kernel_parameter()
        return stage_statistics(self._layout(), parameter)

    def source_shares(self) -> Any:
        """Which source the merge took how much of, by depth and kind of layer: the paper's layer-wise transfer.

        Returns:
            A `pandas.DataFrame` with columns `stage`, `kind` (`Conv2d`, `BatchNorm2d`, ...), `source`, `share` (mean
            weight of the kernels), `size` (their root mean square) and `kernels`. Over the sources the shares of a
            stage and kind sum to 1; where weights of either sign cancel in them, the sizes show them.
        """
        kinds = {name: type(module).__name__ for name, module in backbone_module(self.network).named_modules()}
        return source_shares(self.kernel_weights(), kinds)
