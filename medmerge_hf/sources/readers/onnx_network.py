"""The network of an ONNX file, run by onnxruntime where that is installed: what it computes proves what was read."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CorruptSourceError


class OnnxNetwork(nn.Module):
    """What an ONNX file computes before its last linear layer.

    Args:
        file: the file, whose external data was found to lie beside it.
        model: its content, without external data.

    Attributes:
        only_size: height and width of the images that it takes; `None` where it takes any.
        precision: relative difference of features that float32 may make.
    """

    precision = 1e-4

    def __init__(self, file: Path, model: Any) -> None:
        super().__init__()
        self.file = file
        known = {initializer.name for initializer in model.graph.initializer}
        self.given = next(given for given in model.graph.input if given.name not in known)
        shape = self.given.type.tensor_type.shape.dim
        sizes = [dim.dim_value or None for dim in shape]
        if len(sizes) != 4:
            raise ValueError(f"it takes {len(sizes)} axes, not images")
        self.channels_last = sizes[3] in (1, 3) and sizes[1] not in (1, 3)
        self.batch = sizes[0] or 1
        height, width = sizes[1:3] if self.channels_last else sizes[2:4]
        self.only_size = (height, width) if height and width else None
        linear = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul") and node.input[1] in known]
        self.wanted = linear[-1].input[0] if linear else model.graph.output[0].name
        self.session: Any = None

    def __deepcopy__(self, memo: Any) -> "OnnxNetwork":
        """Itself: nothing in it can be changed."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Features `[1, D]` of an image `[1, C, H, W]`.

        Raises:
            CorruptSourceError: onnxruntime cannot run the file.
        """
        values = images.float().expand(self.batch, *images.shape[1:])
        values = values.permute(0, 2, 3, 1) if self.channels_last else values
        try:
            self.session = self.session or self._open()
            (found,) = self.session.run([self.wanted], {self.given.name: values.contiguous().numpy()})
        except Exception as error:  # of onnx and onnxruntime, on graphs that contradict themselves
            raise CorruptSourceError(
                f"Source {str(self.file)!r} is an ONNX file that onnxruntime cannot run ({str(error)[:300]}). Export "
                "it again, or take the checkpoint that it was exported from."
            ) from error
        return torch.from_numpy(found).to(images.dtype)[:1]

    def _open(self) -> Any:
        import onnx
        import onnxruntime

        model = onnx.load(str(self.file))
        if self.wanted not in {output.name for output in model.graph.output}:
            model.graph.output.append(onnx.ValueInfoProto(name=self.wanted))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def runnable(file: Path, model: Any) -> OnnxNetwork | None:
    """The network of an ONNX file; `None` without onnxruntime, or where it does not take images.

    Args:
        file: see [`OnnxNetwork`].
        model: see there.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return None
    try:
        return OnnxNetwork(file, copy.copy(model))
    except (ValueError, StopIteration, IndexError):
        return None
