"""An exponential moving average of all weights of a fine-tuning, which evaluation and checkpoints then see."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from .errors import CheckpointError


RAW = "not_averaged.safetensors"


class WeightAverage(TrainerCallback):
    """Moves the average along after every optimizer step, BatchNorm statistics included.

    A checkpoint's model is the average; the weights that training goes on from lie beside it.

    Args:
        decay: of the average. Early on it is shorter, `step / (step + 9)`, so that the start is soon forgotten.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.resumed_from: Path | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """What is loaded now is the average; a resumed run's own weights are read from beside it."""
        self.average = {name: tensor.detach().clone() for name, tensor in _floating(model).items()}
        if self.resumed_from is not None:
            file = self.resumed_from / RAW
            if not file.is_file():
                raise CheckpointError(f"{self.resumed_from} was written without weight_average: resume without it.")
            raw = load_file(file)
            with torch.no_grad():
                for name, tensor in _floating(model).items():
                    tensor.copy_(raw[name])

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """After every step."""
        decay = min(self.decay, state.global_step / (state.global_step + 9))
        for name, tensor in _floating(model).items():
            self.average[name].lerp_(tensor.detach(), 1 - decay)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """The average takes the place of the weights, unless a best checkpoint (an average too) was loaded."""
        if state.best_model_checkpoint is None or not args.load_best_model_at_end:
            self._swap(model)
        self.average = {}

    @contextmanager
    def instead(self, model: Any) -> Iterator[None]:
        """While it is open the model has the averaged weights."""
        if self.average:
            self._swap(model)
        try:
            yield
        finally:
            if self.average:
                self._swap(model)

    def save_raw(self, model: Any, folder: str) -> None:
        """Write what training goes on from beside a checkpoint."""
        if self.average:
            save_file({n: t.detach().cpu().contiguous() for n, t in _floating(model).items()}, Path(folder) / RAW)

    @torch.no_grad()
    def _swap(self, model: Any) -> None:
        for name, tensor in _floating(model).items():
            kept = tensor.detach().clone()
            tensor.copy_(self.average[name])
            self.average[name] = kept


def _floating(model: Any) -> dict[str, Tensor]:
    """Name -> parameter or buffer that can be averaged."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point()}
