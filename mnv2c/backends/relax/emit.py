"""The Graph as a Relax module in the ops that a TVM user knows: ``nn.conv2d``, ``add``, ``clip``, ``mean``, ``matmul``.

What comes in: a graph after ``passes``, BatchNorm folded. What goes out: an IRModule whose ``main`` takes the image
(NHWC) and then every constant as a parameter, in the order of the graph; the names of variables are those of the edges,
as far as Relax allows (``_`` for ``.``), for people to read: nothing finds an edge by them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import tvm
from tvm import relax

from mnv2c.errors import GraphError
from mnv2c.ir.graph import (
    Add,
    BatchNorm,
    Convolution,
    Dense,
    Depthwise,
    GlobalAvgPool,
    Graph,
    MaxPool,
    Op,
    Pad,
    Padding,
    ReLU,
    ReLU6,
    Softmax,
    TensorType,
)


def emit(graph: Graph, *, returned: Sequence[str] | None = None) -> tvm.IRModule:
    """The module. ``main`` returns the ``returned`` edges, by default the graph's outputs: a tensor where it is one,
    else a tuple in their order. GraphError where an op is left that the passes fold into its neighbour."""
    for op in graph.ops[1:]:
        _check(op)
    image = relax.Var("input", _type(graph.input.type))
    constants = {
        name: relax.Var(_readable(name), _type(TensorType(value.shape, str(value.dtype))))
        for name, value in graph.constants.items()
    }
    edges: dict[str, relax.Expr] = {graph.input.name: image, **constants}
    builder = relax.BlockBuilder()
    with builder.function("main", [image, *constants.values()]):
        with builder.dataflow():
            for op in graph.ops[1:]:
                edges[op.name] = _emit_op(builder, op, edges)
            values = [edges[edge] for edge in returned or graph.outputs.values()]
            output = builder.emit_output(values[0] if len(values) == 1 else relax.Tuple(values), "output")
        builder.emit_func_output(output)
    return builder.finalize()


def _check(op: Op) -> None:
    """Before TVM's builder is open, which writes to the terminal where it is left half done."""
    if isinstance(op, BatchNorm | ReLU6 | ReLU | Add):
        before = " and ".join(op.inputs)
        raise GraphError(
            f"{op.name}: no kernel computes {type(op).__name__} by itself; the passes fold it into what computes "
            f"{before} where nothing else reads that and it is no output"
        )
    if isinstance(op, Convolution | Dense) and op.bias is None:
        passed = "fold_batchnorm" if isinstance(op, Convolution) else "add_bias"
        raise GraphError(f"{op.name}: a {type(op).__name__} without a bias; {passed} gives it one")


def _readable(edge: str) -> str:
    """A name that Relax takes."""
    return edge.replace(".", "_")


def _type(type_: TensorType) -> relax.TensorType:
    return relax.TensorType(type_.shape, type_.dtype)


def _emit_op(builder: relax.BlockBuilder, op: Op, edges: Mapping[str, relax.Expr]) -> relax.Expr:
    match op:
        case Convolution():
            return _emit_convolution(builder, op, edges)
        case GlobalAvgPool():
            return builder.emit(relax.op.mean(edges[op.inputs[0]], axis=[1, 2]), _readable(op.name))
        case Dense():
            assert op.bias is not None, "_check refuses it"
            weight = builder.emit(relax.op.permute_dims(edges[op.weight]), _readable(f"{op.name}.transposed"))
            product = builder.emit(relax.op.matmul(edges[op.inputs[0]], weight), _readable(f"{op.name}.product"))
            sums = relax.op.add(product, edges[op.bias])
            if op.activation is None:
                return builder.emit(sums, _readable(op.name))
            return builder.emit(_activated(builder.emit(sums, _readable(f"{op.name}.biased")), op), _readable(op.name))
        case Softmax():
            return builder.emit(relax.op.nn.softmax(edges[op.inputs[0]], axis=-1), _readable(op.name))
        case MaxPool():
            return builder.emit(_max_pool(edges[op.inputs[0]], op), _readable(op.name))
        case Pad():
            return builder.emit(_pad(edges[op.inputs[0]], op.border), _readable(op.name))
    raise AssertionError(f"{op.name}: a {type(op).__name__}, which _check lets through")


def _emit_convolution(builder: relax.BlockBuilder, op: Convolution, edges: Mapping[str, relax.Expr]) -> relax.Expr:
    """``conv2d`` of an NHWC map with an OIHW weight, then whatever was fused into it: bias, shortcut, activation."""
    assert op.bias is not None, "_check refuses it"
    bias, pad, border = edges[op.bias], op.padding, op.border
    convolution = relax.op.nn.conv2d(
        edges[op.inputs[0]],
        edges[op.weight],
        strides=(op.stride, op.stride),
        padding=(pad.top, pad.left, pad.bottom, pad.right),
        groups=op.type.shape[3] if isinstance(op, Depthwise) else 1,
        data_layout="NHWC",
        kernel_layout="OIHW",
    )
    steps: list[tuple[str, Callable[[relax.Expr], relax.Expr]]] = [
        ("convolved", lambda _: convolution),
        ("biased", lambda x: relax.op.add(x, bias)),
    ]
    if len(op.inputs) > 1:
        steps.append(("added", lambda x: relax.op.add(x, edges[op.inputs[1]])))
    if op.activation is not None:
        steps.append(("clipped", lambda x: _activated(x, op)))
    if border != Padding():
        steps.append(("padded", lambda x: _pad(x, border)))
    value: relax.Expr = None
    for suffix, step in steps[:-1]:
        value = builder.emit(step(value), _readable(f"{op.name}.{suffix}"))
    return builder.emit(steps[-1][1](value), _readable(op.name))


def _activated(x: relax.Expr, op: Convolution | Dense) -> relax.Expr:
    return relax.op.clip(x, 0, 6) if op.activation == "relu6" else relax.op.nn.relu(x)


def _pad(x: relax.Expr, border: Padding) -> relax.Expr:
    return relax.op.nn.pad(x, [0, 0, border.top, border.bottom, border.left, border.right, 0, 0])


def _max_pool(x: relax.Expr, op: MaxPool) -> relax.Expr:
    window, strides = (op.kernel, op.kernel), (op.stride, op.stride)
    return relax.op.nn.max_pool2d(x, window, strides, op.padding.sides, layout="NHWC")
