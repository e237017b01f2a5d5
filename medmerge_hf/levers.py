"""What the two stages may do beyond plain training, each behind an argument of [`MedMergeTrainingArguments`]."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from .analysis import network_stage
from .networks import backbone_module


START = "start.safetensors"


class KernelAverage(TrainerCallback):
    """Moves the average of the kernel weights along after every optimizer step.

    Args:
        decay: of the exponential moving average.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """After every step."""
        merge = getattr(model, "merge", None)
        if merge is not None:
            merge.update_average(self.decay)


class HeadFirst(TrainerCallback):
    """Lets the head learn alone for the first part of the merge stage.

    Args:
        share: of the steps.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Before every step: a parameter without gradient is left alone by the optimizer, its moments too."""
        merge = getattr(model, "merge", None)
        if merge is not None and state.global_step < self.share * state.max_steps:
            merge.source_bias.grad = None


def layer_scales(network: Any, decay: float) -> dict[int, float]:
    """How much of the learning rate each parameter of a backbone gets: less, the nearer to the image.

    Args:
        network: a plain classifier. timm's own groups of layers are used for timm networks, the numbered stages of
            others.
        decay: factor from one layer to the one before.

    Returns:
        `id` of a parameter -> factor; the head has 1.

    Example:
        >>> network = nn.Module()
        >>> network.base_model_prefix, network.body = "body", nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> sorted(set(layer_scales(network, 0.5).values()))
        [0.5, 1.0]
    """
    backbone = backbone_module(network)
    if hasattr(backbone, "group_matcher"):
        from timm.optim import param_groups_layer_decay

        groups = param_groups_layer_decay(backbone, layer_decay=decay)
        return {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    stages: dict[str, list[nn.Parameter]] = {}
    for name, parameter in backbone.named_parameters():
        stages.setdefault(network_stage(name), []).append(parameter)
    count = len(stages)
    return {
        id(p): decay ** (count - 1 - place) for place, parameters in enumerate(stages.values()) for p in parameters
    }


def scale_learning_rates(optimizer: torch.optim.Optimizer, scales: Mapping[int, float]) -> None:
    """Split the groups of an optimizer that has not stepped yet, so that each parameter has its share of the rate.

    Args:
        optimizer: changed.
        scales: `id` of a parameter -> factor; 1 where it is not named.
    """
    given, optimizer.param_groups = optimizer.param_groups, []
    for group in given:
        by_scale: dict[float, list[Any]] = {}
        for parameter in group["params"]:
            by_scale.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
        for scale, parameters in by_scale.items():
            optimizer.add_param_group({**group, "params": parameters, "lr": group["lr"] * scale})


class StartingPoint:
    """The weights that a fine-tuning began with, and how far it has gone from them (L2-SP, arXiv 1802.01483).

    Args:
        network: the plain network, as it begins.
        folder: where the weights are kept for a run that is resumed.
        resumed: read them there.
        write: whether this process writes.
    """

    def __init__(self, network: Any, folder: Path, resumed: bool, write: bool) -> None:
        parameters = dict(backbone_module(network).named_parameters())
        if resumed and (folder / START).is_file():
            start = load_file(folder / START)
        else:
            start = {name: p.detach().cpu().clone().contiguous() for name, p in parameters.items()}
            if write:
                folder.mkdir(parents=True, exist_ok=True)
                save_file(start, folder / START)
        self.pairs = [(p, start[name].to(p.device)) for name, p in parameters.items() if p.requires_grad]

    def distance(self) -> Tensor:
        """Half the squared distance, over all parameters of the backbone."""
        return 0.5 * torch.stack([(p - start.to(p.device)).square().sum() for p, start in self.pairs]).sum()
