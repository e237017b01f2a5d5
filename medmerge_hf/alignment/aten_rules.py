"""What each ATen operation does to the axes of the tensors that go through it (torch only).

A rule takes the tracer (`groups`, and `axes` of every node so far) and a node, notes which axes are reordered alike,
and returns the axes of the result; `None` where it does not apply.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch.fx import Node

from .channel_groups import Axis, ChannelGroups


Axes = list[Axis]

Rule = Callable[[Any, Node], Any]


def _shape(node: Any) -> list[int]:
    return list(node.meta["val"].shape)


def _argument(node: Node, place: int, name: str, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _same(tracer: Any, node: Node) -> Axes:
    return list(tracer.axes[node.args[0]])


def _convolution(tracer: Any, node: Node) -> Axes | None:
    groups = tracer.groups
    given, weight = tracer.axes[node.args[0]], tracer.axes[node.args[1]]
    channels, (out, *_) = _shape(node.args[0])[1], _shape(node.args[1])
    split = _argument(node, 6, "groups", 1)
    for axis in (given[0], *given[2:], *weight[2:]):
        groups.fix(axis)
    if split == 1:
        groups.unify(given[1], weight[1])
    elif given[1] is None:
        groups.fix(weight[0])
    else:
        groups.fix(weight[1])
        step = list(groups.new(split) or []) if split != channels else groups.resolve(given[1]) or []
        if split != channels:
            groups.unify(given[1], [(group, inner * (channels // split)) for group, inner in step])
        groups.unify(weight[0], [(group, inner * (out // split)) for group, inner in step])
    _bias(tracer, weight[0], _argument(node, 2, "bias"))
    return [None, weight[0], *[None] * (len(given) - 2)]


def _bias(tracer: Any, axis: Axis, bias: Any) -> None:
    if isinstance(bias, Node):
        tracer.groups.unify(axis, tracer.axes[bias][0])


def _linear(tracer: Any, node: Node) -> Axes:
    given, weight = tracer.axes[node.args[0]], tracer.axes[node.args[1]]
    tracer.groups.unify(given[-1], weight[1])
    _bias(tracer, weight[0], _argument(node, 2, "bias"))
    return [*given[:-1], weight[0]]


def _batch_norm(tracer: Any, node: Node) -> Axes:
    given = tracer.axes[node.args[0]]
    for part in node.args[1:5]:
        _bias(tracer, given[1], part)
    return list(given)


def _layer_norm(tracer: Any, node: Node) -> Axes | None:
    given = tracer.axes[node.args[0]]
    if len(node.args[1]) != 1:  # type: ignore[arg-type]
        return None
    for part in (_argument(node, 2, "weight"), _argument(node, 3, "bias")):
        _bias(tracer, given[-1], part)
    return list(given)


def _rms_norm(tracer: Any, node: Node) -> Axes | None:
    given = tracer.axes[node.args[0]]
    if len(node.args[1]) != 1:  # type: ignore[arg-type]
        return None
    _bias(tracer, given[-1], _argument(node, 2, "weight"))
    return list(given)


def _group_norm(tracer: Any, node: Node) -> Axes | None:
    given, count = tracer.axes[node.args[0]], node.args[1]
    channels = _shape(node.args[0])[1]
    if given[1] is None:
        return None
    if count != 1:
        group = tracer.groups.new(count)
        tracer.groups.unify(given[1], [(g, inner * (channels // count)) for g, inner in group or []])  # type: ignore
    for part in (_argument(node, 2, "weight"), _argument(node, 3, "bias")):
        _bias(tracer, given[1], part)
    return list(given)


def _broadcast(tracer: Any, operands: Sequence[Any], ndim: int) -> Axes:
    given = [(_shape(operand), tracer.axes[operand]) for operand in operands if isinstance(operand, Node)]
    return _broadcast_axes(tracer, given, ndim)


def _broadcast_axes(tracer: Any, given: Sequence[tuple[Sequence[int], Axes]], ndim: int) -> Axes:
    found: Axes = [None] * ndim
    known = [False] * ndim
    for shape, axes in given:
        for back in range(1, len(shape) + 1):
            place = ndim - back
            if shape[-back] == 1:
                continue
            if known[place]:
                tracer.groups.unify(found[place], axes[-back])
            found[place] = axes[-back] if not known[place] else found[place]
            known[place] = True
    return found


def _elementwise(tracer: Any, node: Node) -> Axes:
    return _broadcast(tracer, node.args, len(_shape(node)))


def _pool(tracer: Any, node: Node) -> Axes:
    given = tracer.axes[node.args[0]]
    for axis in given[2:]:
        tracer.groups.fix(axis)
    return [*given[:2], *[None] * (len(given) - 2)]


def _reduce(tracer: Any, node: Node) -> Axes:
    given = tracer.axes[node.args[0]]
    dims = _argument(node, 1, "dim")
    dims = list(range(len(given))) if dims is None or dims == [] else dims
    gone = {dim % len(given) for dim in ([dims] if isinstance(dims, int) else dims)}
    if len(_shape(node)) == len(given):
        return [None if place in gone else axis for place, axis in enumerate(given)]
    return [axis for place, axis in enumerate(given) if place not in gone]


def _permute(tracer: Any, node: Node) -> Axes:
    given = tracer.axes[node.args[0]]
    return [given[dim] for dim in node.args[1]]  # type: ignore[union-attr]


def _transpose(tracer: Any, node: Node) -> Axes:
    given = list(tracer.axes[node.args[0]])
    one, other = (node.args[1], node.args[2]) if len(node.args) > 2 else (0, 1)
    given[one], given[other] = given[other], given[one]  # type: ignore[index]
    return given


def _reshape(tracer: Any, node: Node) -> Axes:
    """Axes of length 1 do not count; between the others those that have one product belong together."""
    before, after = _shape(node.args[0]), _shape(node)
    given = [axis for axis, size in zip(tracer.axes[node.args[0]], before, strict=True) if size != 1]
    sizes, wanted = [s for s in before if s != 1], [s for s in after if s != 1]
    found: Axes = []
    i = j = 0
    while i < len(sizes) or j < len(wanted):
        ins, outs = [i], [j]
        left, right = sizes[i], wanted[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * sizes[i], i + 1
                ins.append(i - 1)
            else:
                right, j = right * wanted[j], j + 1
                outs.append(j - 1)
        found += _regroup(tracer.groups, [given[k] for k in ins], [sizes[k] for k in ins], [wanted[k] for k in outs])
    real = iter(found)
    return [None if size == 1 else next(real) for size in after]


def _regroup(groups: ChannelGroups, axes: Axes, sizes: list[int], wanted: list[int]) -> Axes:
    if sizes == wanted:
        return axes
    if len(axes) == 1:
        return groups.split(axes[0], wanted)
    if len(wanted) == 1:
        return [groups.merge(axes, sizes)]
    for axis in axes:
        groups.fix(axis)
    return [None] * len(wanted)


def _concatenate(tracer: Any, node: Node) -> Axes:
    parts: Any = node.args[0]
    axes = [tracer.axes[part] for part in parts]
    dim = _argument(node, 1, "dim", 0) % len(axes[0])
    found: Axes = list(axes[0])
    for other in axes[1:]:
        for place, axis in enumerate(other):
            if place != dim:
                tracer.groups.unify(found[place], axis)
    along = [part[dim] for part in axes]
    if any(axis is None for axis in along):
        for axis in along:
            tracer.groups.fix(axis)
        found[dim] = None
    else:
        found[dim] = [atom for axis in along for atom in axis or []]
    return found


def _expand(tracer: Any, node: Node) -> Axes:
    given, shape = tracer.axes[node.args[0]], _shape(node.args[0])
    kept = [None if size == 1 else axis for axis, size in zip(given, shape, strict=True)]
    return [*[None] * (len(_shape(node)) - len(kept)), *kept]


def _select(tracer: Any, node: Node) -> Axes:
    given = list(tracer.axes[node.args[0]])
    tracer.groups.fix(given.pop(node.args[1]))  # type: ignore[arg-type]
    return given


def _slice(tracer: Any, node: Node) -> Axes:
    given = list(tracer.axes[node.args[0]])
    dim = _argument(node, 1, "dim", 0)
    if _shape(node) != _shape(node.args[0]):
        tracer.groups.fix(given[dim])
        given[dim] = None
    return given


def _split(tracer: Any, node: Node) -> list[Axes]:
    given = tracer.axes[node.args[0]]
    dim = _argument(node, 2, "dim", 0)
    sizes = [part.shape[dim] for part in node.meta["val"]]
    along: list[Axis] = [None] * len(sizes)
    if given[dim] is not None:
        along = [tracer.groups.new(size) for size in sizes]
        tracer.groups.unify(given[dim], [atom for axis in along for atom in axis or []])
    parts = [list(given) for _ in sizes]
    for part, axis in zip(parts, along, strict=True):
        part[dim] = axis
    return parts


def _unbind(tracer: Any, node: Node) -> list[Axes]:
    given = list(tracer.axes[node.args[0]])
    tracer.groups.fix(given.pop(_argument(node, 1, "dim", 0)))
    return [list(given) for _ in node.meta["val"]]


def _pad(tracer: Any, node: Node) -> Axes:
    given, widths = list(tracer.axes[node.args[0]]), node.args[1]
    for place, width in enumerate(widths):  # type: ignore[arg-type]
        if width != 0 and given[-1 - place // 2] is not None:
            tracer.groups.fix(given[-1 - place // 2])
            given[-1 - place // 2] = None
    return given


def _roll(tracer: Any, node: Node) -> Axes:
    given = list(tracer.axes[node.args[0]])
    for dim in _argument(node, 2, "dims", ()) or range(len(given)):
        tracer.groups.fix(given[dim])
    return given


def _index(tracer: Any, node: Node) -> Axes | None:
    """`table[index]`: the axes that are looked up in are gone, the others stay."""
    given, wanted = tracer.axes[node.args[0]], list(node.args[1])  # type: ignore
    count = len(wanted)
    if any(not isinstance(index, Node) for index in wanted):
        return None
    for axis in given[:count]:
        tracer.groups.fix(axis)
    return [*[None] * (len(_shape(node)) - len(given) + count), *given[count:]]


def _matmul(tracer: Any, node: Node) -> Axes | None:
    left, right = (tracer.axes[part] for part in node.args[:2])
    if min(len(left), len(right)) < 2:
        return None
    tracer.groups.unify(left[-1], right[-2])
    leading = [(_shape(part)[:-2], tracer.axes[part][:-2]) for part in node.args[:2]]
    batch = _broadcast_axes(tracer, leading, max(len(left), len(right)) - 2)
    return [*batch, left[-2], right[-1]]


def _leading(tracer: Any, operands: Sequence[Any], count: int) -> Axes:
    found: Axes = [None] * count
    for place in range(count):
        real = [tracer.axes[o][place] for o in operands if _shape(o)[place] != 1]
        for axis in real[1:]:
            tracer.groups.unify(real[0], axis)
        found[place] = real[0] if real else None
    return found


def _attention(tracer: Any, node: Node) -> Axes | None:
    query, key, value = node.args[:3]
    axes = [tracer.axes[part] for part in (query, key, value)]
    if len({len(part) for part in axes}) > 1:
        return None
    tracer.groups.unify(axes[0][-1], axes[1][-1])
    batch = _leading(tracer, (query, key, value), len(axes[0]) - 2)
    mask = _argument(node, 3, "attn_mask")
    if isinstance(mask, Node) and len(tracer.axes[mask]) > 2:
        sizes = reversed(_shape(mask)[:-2])
        for axis, other, size in zip(reversed(batch), reversed(tracer.axes[mask][:-2]), sizes, strict=False):
            if size != 1:  # a mask of its own for each head: heads move with it, or not at all
                tracer.groups.unify(axis, other)
    return [*batch, axes[0][-2], axes[2][-1]]


RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "convolution"), _convolution),
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    **dict.fromkeys(("add", "sub", "rsub", "mul", "div", "where", "maximum", "minimum", "clamp", "pow"), _elementwise),
    "masked_fill": _elementwise,
    **dict.fromkeys(
        (
            "relu",
            "relu6",
            "gelu",
            "silu",
            "sigmoid",
            "tanh",
            "hardtanh",
            "hardswish",
            "hardsigmoid",
            "leaky_relu",
            "elu",
            "mish",
            "neg",
            "abs",
            "sqrt",
            "rsqrt",
            "square",
            "log",
        ),
        _same,
    ),
    **dict.fromkeys(("dropout", "contiguous", "clone", "alias", "detach", "to", "softmax", "softplus", "exp"), _same),
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"), _pool),
    "adaptive_avg_pool1d": _pool,
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"), _pool),
    **dict.fromkeys(("mean", "sum", "amax"), _reduce),
    "permute": _permute,
    **dict.fromkeys(("transpose", "t"), _transpose),
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "unsafe_view"), _reshape),
    **dict.fromkeys(("view_as", "reshape_as"), _reshape),
    "cat": _concatenate,
    "expand": _expand,
    "select": _select,
    "slice": _slice,
    **dict.fromkeys(("split", "chunk", "split_with_sizes"), _split),
    "unbind": _unbind,
    "pad": _pad,
    "roll": _roll,
    "index": _index,
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    "scaled_dot_product_attention": _attention,
}
