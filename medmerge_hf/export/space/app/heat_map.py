"""Grad-CAM (Selvaraju et al., arXiv 1610.02391) by captum, at the last layer that still knows places."""

from typing import Any, NamedTuple

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor, nn


class Grid(NamedTuple):
    """How places lie in the output of a layer for one image.

    Attributes:
        form: `first` for `[1, C, h, w]`, `last` for `[1, h, w, C]`, `tokens` for `[1, others + h * w, C]`.
        height: in places.
        width: in places.
        others: tokens before those of places (class token, registers).
    """

    form: str
    height: int
    width: int
    others: int = 0

    def places(self, output: Tensor) -> Tensor:
        """The output as `[1, C, h, w]`."""
        if self.form == "tokens":
            return output[:, self.others :].transpose(1, 2).unflatten(2, (self.height, self.width))
        return output if self.form == "first" else output.movedim(-1, 1)

    def restored(self, output: Tensor, places: Tensor) -> Tensor:
        """The output with other places, in a tensor of its own: later layers may write into it."""
        if self.form == "tokens":
            return torch.cat([output[:, : self.others], places.flatten(2).transpose(1, 2)], 1)
        return (places if self.form == "first" else places.movedim(1, -1)).clone()


def grid_of(shape: tuple[int, ...], height: int, width: int) -> Grid | None:
    """The places in an output of this shape, for an image of this height and width; `None` where there are none."""
    if len(shape) == 4 and shape[0] == 1:
        for form, (rows, columns) in (("first", shape[2:]), ("last", shape[1:3])):
            in_shape = abs(rows * width - columns * height) <= max(height, width)
            if rows * columns > 1 and rows <= height // 2 and in_shape:
                return Grid(form, rows, columns)
    if len(shape) == 3 and shape[0] == 1:
        for others in range(min(9, shape[1])):
            rows = round(((shape[1] - others) * height / width) ** 0.5)
            columns = (shape[1] - others) // max(rows, 1)
            if rows * columns == shape[1] - others > 1 and rows * width == columns * height:
                return Grid("tokens", rows, columns, others)
    return None


class HeatMap:
    """Where in an image a class gets its score from.

    Args:
        model: a classifier of transformers, in eval mode.
        pixels: `[1, C, H, W]`, of any image.
    """

    def __init__(self, model: Any, pixels: Tensor) -> None:
        self.model, self.probe = model, nn.Identity()
        self.layer = ""
        if found := self._last_layer(pixels):
            self.layer, module, grid = found
            module.register_forward_hook(
                lambda module, args, output: grid.restored(output, self.probe(grid.places(output)))
            )

    def _last_layer(self, pixels: Tensor) -> tuple[str, nn.Module, Grid] | None:
        """The last layer to run on whose places, more than one of them, the answer depends.

        Of layers of tokens only norms count: attention and what follows it works on the class token alone in the last
        block, and queries, keys and values are no features of their places.
        """
        ran: list[tuple[str, nn.Module, Grid, Tensor]] = []

        def note(name: str, module: nn.Module, output: Any) -> None:
            passing = isinstance(module, (nn.Identity, nn.Dropout, nn.Softmax))
            grid = grid_of(output.shape, *pixels.shape[2:]) if isinstance(output, Tensor) and not passing else None
            if grid and (grid.form != "tokens" or "norm" in f"{name} {type(module).__name__}".lower()):
                ran.append((name, module, grid, output))

        hooks = [
            module.register_forward_hook(lambda module, args, output, name=name: note(name, module, output))
            for name, module in self.model.named_modules()
        ]
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
        logits = self.model(noise).logits
        for hook in hooks:
            hook.remove()
        outputs = [output for *_, output in ran if output.requires_grad]
        weighted = (logits * torch.arange(1.0, logits.shape[1] + 1)).sum()
        gradients = torch.autograd.grad(weighted, outputs, allow_unused=True) if outputs else ()
        learnt = [entry for entry in ran if entry[3].requires_grad]
        for (name, module, grid, _), gradient in zip(reversed(learnt), reversed(gradients), strict=True):
            if gradient is not None and (grid.places(gradient).abs().sum(1) > 0).sum() > 1:
                return name, module, grid
        return None

    def __call__(self, pixels: Tensor, index: int) -> np.ndarray | None:
        """The map of one class.

        Args:
            pixels: `[1, C, H, W]`.
            index: of the class.

        Returns:
            `[H, W]`, 0 to 1; `None` where no place raises the class, or no layer knows places.
        """
        if not self.layer:
            return None
        cam = LayerGradCam(lambda inputs: self.model(inputs).logits, self.probe)
        places = cam.attribute(pixels, target=index, relu_attributions=True)
        found = LayerAttribution.interpolate(places, tuple(pixels.shape[2:]), "bilinear")[0, 0]
        highest = float(found.detach().max())
        return (found / highest).detach().numpy() if highest > 0 else None
