"""Quantised ONNX graphs with the numbers that their integers stand for, as onnxruntime's quantisation writes them.

The graphs that come of it have names and weights and are not meant to be run.
"""

from typing import Any

import numpy as np


# Operator -> the float one, and where its input, weight, scale, zero point and bias stand.
OPERATORS = {
    "QLinearConv": ("Conv", 0, 3, 4, 5, 8),
    "QGemm": ("Gemm", 0, 3, 4, 5, 6),
    "QLinearMatMul": ("MatMul", 0, 3, 4, 5, None),
    "ConvInteger": ("Conv", 0, 1, None, 3, None),
    "MatMulInteger": ("MatMul", 0, 1, None, 3, None),
}


# What stands beside a tensor of integers.
ENDS = ("_scale", "_zero_point")


def without_rounding(model: Any) -> tuple[Any, int]:
    """The same model with floating point initialisers and the operators that take them.

    Args:
        model: of onnx, its external data loaded.

    Returns:
        The model, and how many initialisers were integers.
    """
    graph = _Graph(model.graph)
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in graph.known:
            graph.dequantised(node)
        elif node.op_type in OPERATORS:
            graph.replaced(node)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = graph.renamed.get(name, name)
    kept = [initializer for initializer in model.graph.initializer if initializer.name not in graph.beside]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model, graph.count


class _Graph:
    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.known = {initializer.name: initializer for initializer in graph.initializer}
        self.renamed: dict[str, str] = {}
        self.beside = set[str]()
        self.count = 0

    def array(self, name: str) -> Any:
        from onnx import numpy_helper

        return numpy_helper.to_array(self.known[name]).astype(np.float64)

    def put(self, name: str, values: Any) -> str:
        """A new initialiser, under the name that the integers' was made of."""
        from onnx import numpy_helper

        plain = name.removesuffix("_quantized")
        if plain not in self.known:
            self.known[plain] = numpy_helper.from_array(np.asarray(values, np.float32), plain)
            self.graph.initializer.append(self.known[plain])
            self.count += 1
        return plain

    def values(self, name: str, scale: Any, zero: str | None, axis: int) -> Any:
        self.beside |= {name, *(other for end in ENDS if (other := f"{name}{end}") in self.known)}
        self.beside |= {other for end in ENDS if (other := f"{name.removesuffix('_quantized')}{end}") in self.known}
        values = self.array(name)
        shape = [1] * values.ndim
        if scale.size > 1:
            shape[axis] = -1
        offset = self.array(zero).reshape(shape if self.array(zero).size > 1 else [1] * values.ndim) if zero else 0.0
        return (values - offset) * scale.reshape(shape)

    def dequantised(self, node: Any) -> None:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        zero = node.input[2] if len(node.input) > 2 and node.input[2] else None
        values = self.values(node.input[0], self.array(node.input[1]), zero, axis if axis >= 0 else -1)
        self.renamed[node.output[0]] = self.put(node.input[0], values)

    def replaced(self, node: Any) -> None:
        kind, image, weight, scale, zero, bias = OPERATORS[node.op_type]
        given = list(node.input)
        if given[weight] not in self.known:
            return
        key = given[weight]
        size = self.array(given[scale] if scale else f"{key.removesuffix('_quantized')}_scale")
        axis = 0 if kind == "Conv" or any(a.name == "transB" and a.i for a in node.attribute) else -1
        point = given[zero] if len(given) > zero and given[zero] in self.known else None
        inputs = [given[image], self.put(key, self.values(key, size, point, axis))]
        if bias is not None and len(given) > bias and given[bias] in self.known:
            inputs.append(self.put(given[bias], self.array(given[bias]) * self.array(given[1]) * size.reshape(-1)))
        elif found := self.added_bias(node, inputs[1]):
            inputs.append(found)
        node.op_type, node.name = kind, node.name.removesuffix("_quant")
        del node.input[:]
        node.input.extend(inputs)

    def added_bias(self, node: Any, weight: str) -> str | None:
        """What is added behind a convolution of integers, in the shape of its output."""
        if f"{weight}_bias" in self.known:
            return f"{weight}_bias"
        for other in self.graph.node:
            base = other.output[0].removesuffix("_bias_reshape_output")
            if other.op_type == "Reshape" and base != other.output[0] and node.output[0].startswith(f"{base}_"):
                return str(other.input[0])
        return None
