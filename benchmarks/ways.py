"""The ways of writing a merge that benchmarks/cost.py compares, and one training step of each."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from medmerge_hf.merging.kernel_weights import kernel_shape
from medmerge_hf.modeling_medmerge import MedMergeModel


CLASSES = 5

HEADS = ("fc.", "classifier.", "head.")

PLAIN, OURS, NAIVE, PARAMETRIZE = "plain fine-tuning", "medmerge_hf", "naive sum", "parametrize"

WAYS = (OURS, NAIVE, PARAMETRIZE)


def networks(architecture: str, count: int) -> list[nn.Module]:
    """Networks of one architecture from different initialisations."""
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(timm.create_model(architecture, num_classes=CLASSES))
    return made


class NaiveSum(nn.Module):
    """Every tensor as a weighted sum of all sources, left to autograd."""

    def __init__(self, sources: Sequence[nn.Module]) -> None:
        super().__init__()
        self.network = sources[0]
        self.names = [name for name, _ in self.network.named_parameters() if not name.startswith(HEADS)]
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name.startswith(HEADS))
        stacks = [[source.get_parameter(name) for source in sources] for name in self.names]
        self.stacks = [torch.stack([p.detach() for p in stack]) for stack in stacks]
        shapes = [(len(sources), *kernel_shape(stack.shape[1:])) for stack in self.stacks]
        self.weights = nn.ParameterList(torch.full(shape, 1 / len(sources)) for shape in shapes)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.stacks = [fn(stack) for stack in self.stacks]
        return super()._apply(fn, recurse)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        merged = [(w * stack).sum(0) for w, stack in zip(self.weights, self.stacks, strict=True)]
        return functional_call(self.network, dict(zip(self.names, merged, strict=True)), (images,))


class _Parametrization(nn.Module):
    def __init__(self, tensor: Tensor, others: Sequence[Tensor]) -> None:
        super().__init__()
        shape = (len(others), *kernel_shape(tensor.shape))
        self.weight = nn.Parameter(torch.zeros(shape))
        self.differences = nn.ParameterList(
            nn.Parameter(other.detach() - tensor.detach(), requires_grad=False) for other in others
        )

    def forward(self, anchor: Tensor) -> Tensor:
        for weight, difference in zip(self.weight, self.differences, strict=True):
            anchor = anchor + weight * difference
        return anchor


def parametrized(sources: Sequence[nn.Module]) -> nn.Module:
    """The anchor with a `torch.nn.utils.parametrize` on every tensor of its backbone."""
    anchor, *others = sources
    places = [(name, *name.rpartition(".")[::2]) for name, _ in anchor.named_parameters()]
    for name, module, leaf in places:
        parameter = anchor.get_parameter(name)
        if name.startswith(HEADS):
            continue
        parameter.requires_grad_(False)
        tensors = [other.get_parameter(name) for other in others]
        parametrize.register_parametrization(anchor.get_submodule(module), leaf, _Parametrization(parameter, tensors))
    return anchor


def build(way: str, architecture: str, count: int) -> nn.Module:
    """One of the ways, ready to train; `count` sources."""
    sources = networks(architecture, 1 if way == PLAIN else count)
    if way == PLAIN:
        return sources[0].train()
    if way == OURS:
        return MedMergeModel.from_sources(sources, num_labels=CLASSES, init=1 / count).train()
    return (NaiveSum(sources) if way == NAIVE else parametrized(sources)).train()


class Step:
    """One training step: forward, loss, backward, AdamW."""

    def __init__(self, way: str, architecture: str, count: int, batch: int, device: torch.device) -> None:
        self.model = build(way, architecture, count).to(device)
        learned = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, lr=1e-4, fused=True)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(batch, 3, 224, 224, generator=generator).to(device)
        self.labels = torch.randint(CLASSES, (batch,), generator=generator).to(device)
        self.autocast = torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda")

    def __call__(self) -> float:
        """Seconds."""
        start = self._now()
        with self.autocast:
            output = self.model(self.images)
            loss = nn.functional.cross_entropy(getattr(output, "logits", output).float(), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self._now() - start

    def _now(self) -> float:
        if self.images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()
