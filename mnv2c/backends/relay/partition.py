"""Kernel calls from a Relay module: ``MergeComposite`` finds what one kernel computes.

Imported by ``program`` alone, in the environment that has Relay. What comes in: a module of ``emit`` whose ``main``
returns a tuple of the edges to be computed. What goes out: a ``KernelCall`` for each. The name of a pattern is that of
the kernel family; a workload is read from the attributes and shapes of the ops that matched. What matches no pattern,
or has an attribute that the kernel does not implement, is refused with the layer's name.

Written anew beside ``relax.partition``, on purpose: a mistake in one shows against the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tvm
from tvm import relay
from tvm.relay.dataflow_pattern import is_op, wildcard

from mnv2c.backends.calls import KernelCall
from mnv2c.errors import GraphError
from mnv2c.ir.graph import Activation, Padding
from mnv2c.workloads import Conv, Dense, Depthwise, MaxPool, Pad, Pointwise, Pool, Softmax, Stem, Workload

Check = Callable[[Any], bool]


def partition(
    module: tvm.IRModule, *, image: str, constants: Sequence[str], edges: Sequence[str]
) -> tuple[KernelCall, ...]:
    """The calls for ``edges``, the fields of the tuple that ``main`` returns, in their order.

    ``image`` and ``constants`` name ``main``'s parameters. GraphError for an edge that no kernel computes.
    """
    merged = relay.transform.InferType()(relay.transform.MergeComposite(PATTERNS)(module))
    main = merged["main"]
    returned = list(main.body.fields) if len(edges) > 1 else [main.body]
    names = dict(zip(main.params, (image, *constants), strict=True)) | dict(zip(returned, edges, strict=True))
    calls = []
    for value, edge in zip(returned, edges, strict=True):
        if not isinstance(value.op, relay.Function):
            raise GraphError(f"{edge}: no kernel computes {value.op.name}")
        try:
            calls.append(_kernel_call(edge, value, names))
        except ValueError as error:
            raise GraphError(f"{edge}: no kernel computes it: {error}") from error
    return tuple(calls)


def _kernel_call(edge: str, call: Any, names: Mapping[Any, str]) -> KernelCall:
    family = str(call.op.attrs["Composite"])
    ops = _chain(call.op.body)
    workload, inputs, constants = _READERS[family](ops)
    given = dict(zip(call.op.params, call.args, strict=True))

    def name(var: Any) -> str:
        if given.get(var) not in names:
            raise ValueError("it reads what no edge is")
        return names[given[var]]

    return KernelCall(
        layer=edge,
        workload=workload,
        inputs=tuple(map(name, inputs)),
        constants=tuple(map(name, constants)),
        outputs=(edge,),
    )


def _chain(body: Any) -> dict[str, Any]:
    """The ops of a composite by name, back from its last along first arguments, as far as the convolution."""
    found: dict[str, Any] = {}
    while isinstance(body, relay.Call) and "nn.conv2d" not in found:
        found[str(body.op.name)] = body
        body = body.args[0]
    return found


Ops = Mapping[str, Any]
Read = tuple[Workload, Sequence[Any], Sequence[Any]]  # the workload, its inputs, its constants


def _convolution(ops: Ops) -> tuple[Any, tuple[int, ...], Sequence[Any], dict[str, Any]]:
    """The convolution, the shape of its result, its constants, and the fields that its workloads share."""
    convolution, bias = ops["nn.conv2d"], ops["nn.bias_add"]
    shape = _shape(convolution)
    if int(bias.attrs.axis) % len(shape) != len(shape) - 1:
        raise ValueError(f"a bias along axis {bias.attrs.axis} of NHWC maps")
    batch, height, width, _ = shape
    shared = {"batch": batch, "height": height, "width": width, "activation": _activation(ops)}
    return convolution, shape, (convolution.args[1], bias.args[1]), shared


def _activation(ops: Ops) -> Activation:
    if "clip" not in ops:
        return "relu" if "nn.relu" in ops else None
    limits = [float(ops["clip"].attrs.a_min), float(ops["clip"].attrs.a_max)]
    if limits != [0, 6]:
        raise ValueError(f"clip to {limits}, not to [0, 6]")
    return "relu6"


def _border(ops: Ops) -> Padding:
    """What ``nn.pad`` puts around the map; ValueError where it is something else than zeros there."""
    if "nn.pad" not in ops:
        return Padding()
    call = ops["nn.pad"]
    widths = [[int(width) for width in axis] for axis in call.attrs.pad_width]
    if len(widths) != 4 or any(widths[0] + widths[3]) or min(map(min, widths)) < 0:
        raise ValueError(f"nn.pad by {widths}, not around the rows and columns of NHWC maps")
    if str(call.attrs.pad_mode) != "constant":
        raise ValueError(f"nn.pad with {call.attrs.pad_mode}, not with zeros")
    (top, bottom), (left, right) = widths[1:3]
    return Padding(top, left, bottom, right)


def _read_pointwise(ops: Ops) -> Read:
    convolution, shape, constants, shared = _convolution(ops)
    residuals = [ops["add"].args[1]] if "add" in ops else []
    if any(_shape(residual) != shape for residual in residuals):
        raise ValueError("a shortcut of another shape")
    k = _shape(convolution.args[0])[3]
    workload = Pointwise(k=k, n=shape[3], residual=bool(residuals), border=_border(ops), **shared)
    return workload, (convolution.args[0], *residuals), constants


def _read_depthwise(ops: Ops) -> Read:
    convolution, shape, constants, shared = _convolution(ops)
    _, rows, columns, _ = _shape(convolution.args[0])
    stride = int(convolution.attrs.strides[0])
    workload = Depthwise(channels=shape[3], stride=stride, rows=rows, columns=columns, **shared)
    return workload, (convolution.args[0],), constants


def _read_stem(ops: Ops) -> Read:
    convolution, shape, constants, shared = _convolution(ops)
    _, rows, columns, _ = _shape(convolution.args[0])
    stride, padding = int(convolution.attrs.strides[0]), Padding(*map(int, convolution.attrs.padding))
    workload = Stem(
        n=shape[3],
        kernel=_shape(constants[0])[2],
        stride=stride,
        rows=rows,
        columns=columns,
        padding=padding,
        border=_border(ops),
        **shared,
    )
    return workload, (convolution.args[0],), constants


def _read_conv(ops: Ops) -> Read:
    convolution, shape, constants, shared = _convolution(ops)
    _, rows, columns, k = _shape(convolution.args[0])
    stride, kernel = int(convolution.attrs.strides[0]), _shape(constants[0])[2]
    workload = Conv(
        k=k, n=shape[3], kernel=kernel, stride=stride, rows=rows, columns=columns, border=_border(ops), **shared
    )
    return workload, (convolution.args[0],), constants


def _read_max_pool(ops: Ops) -> Read:
    pool = ops["nn.max_pool2d"]
    (batch, height, width, channels), (_, rows, columns, _) = _shape(pool), _shape(pool.args[0])
    attrs, (kernel, across) = pool.attrs, map(int, pool.attrs.pool_size)
    stride, aside = map(int, attrs.strides)
    square = kernel == across and stride == aside and [int(d) for d in attrs.dilation] == [1, 1]
    if not square or str(attrs.layout) != "NHWC" or attrs.ceil_mode:
        raise ValueError("nn.max_pool2d with other windows than square ones of NHWC maps, rounded down")
    workload = MaxPool(
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        kernel=kernel,
        stride=stride,
        rows=rows,
        columns=columns,
        padding=Padding(*map(int, attrs.padding)),
    )
    return workload, (pool.args[0],), ()


def _read_pad(ops: Ops) -> Read:
    x = ops["nn.pad"].args[0]
    batch, height, width, channels = _shape(x)
    return Pad(batch=batch, height=height, width=width, channels=channels, border=_border(ops)), (x,), ()


def _read_pool(ops: Ops) -> Read:
    mean = ops["mean"]
    batch, height, width, channels = _shape(mean.args[0])
    if [int(axis) for axis in mean.attrs.axis or ()] != [1, 2] or mean.attrs.keepdims:
        raise ValueError(f"mean over axes {mean.attrs.axis}, not over rows and columns of NHWC maps")
    return Pool(batch=batch, height=height, width=width, channels=channels), (mean.args[0],), ()


def _read_dense(ops: Ops) -> Read:
    product, bias = ops["nn.dense"], ops["nn.bias_add"]
    weight = product.args[1]
    classes, k = _shape(weight)
    workload = Dense(batch=_shape(product)[0], k=k, n=classes, activation=_activation(ops))
    return workload, (product.args[0],), (weight, bias.args[1])


def _read_softmax(ops: Ops) -> Read:
    softmax = ops["nn.softmax"]
    shape = _shape(softmax)
    if len(shape) != 2 or int(softmax.attrs.axis) not in (-1, 1):
        raise ValueError(f"softmax of {shape} over axis {softmax.attrs.axis}, not over the classes of each image")
    return Softmax(batch=shape[0], n=shape[1]), (softmax.args[0],), ()


_READERS: dict[str, Callable[[Ops], Read]] = {
    "pointwise": _read_pointwise,
    "depthwise": _read_depthwise,
    "stem": _read_stem,
    "conv": _read_conv,
    "max_pool": _read_max_pool,
    "pad": _read_pad,
    "pool": _read_pool,
    "dense": _read_dense,
    "softmax": _read_softmax,
}


def _convolution_patterns(family: str, check: Check, *, residual: bool, border: bool) -> Iterator[tuple[Any, ...]]:
    """The longest first."""
    biased = is_op("nn.bias_add")(is_op("nn.conv2d")(wildcard(), wildcard()), wildcard())
    found = _activated(biased)
    if border:
        found = [*(is_op("nn.pad")(pattern, wildcard()) for pattern in found), *found]
    if residual:
        found = [*_activated(is_op("add")(biased, wildcard())), *found]
    for pattern in found:
        yield family, pattern, lambda call: check(_chain(call)["nn.conv2d"])


def _activated(sums: Any) -> list[Any]:
    return [is_op("clip")(sums), is_op("nn.relu")(sums), sums]


def _is_plain(call: Any) -> bool:
    """What no kernel of a convolution varies: layouts, element type, dilation, the same stride both ways."""
    attrs, strides = call.attrs, [int(stride) for stride in call.attrs.strides]
    layouts = (attrs.data_layout, attrs.kernel_layout) == ("NHWC", "OIHW") and attrs.out_layout in ("", "NHWC")
    floats = {str(arg.checked_type.dtype) for arg in call.args} == {"float32"}
    return layouts and floats and [int(d) for d in attrs.dilation] == [1, 1] and strides[0] == strides[1]


def _is_pointwise(call: Any) -> bool:
    attrs, kernel = call.attrs, _shape(call.args[1])[2:]
    simple = int(attrs.groups) == 1 and int(attrs.strides[0]) == 1 and not any(map(int, attrs.padding))
    return _is_plain(call) and kernel == (1, 1) and simple


def _is_depthwise(call: Any) -> bool:
    (*_, channels), weight = (_shape(arg) for arg in call.args)
    of_each = int(call.attrs.groups) == channels and weight == (channels, 1, 3, 3)
    return _is_plain(call) and of_each and not any(map(int, call.attrs.padding))


def _is_stem(call: Any) -> bool:
    (*_, channels), weight = (_shape(arg) for arg in call.args)
    return _is_full(call) and channels == Stem.CHANNELS and weight[2:] != (1, 1)


def _is_conv(call: Any) -> bool:
    return _is_full(call) and not any(map(int, call.attrs.padding))


def _is_full(call: Any) -> bool:
    (*_, channels), weight = (_shape(arg) for arg in call.args)
    square = weight[1] == channels and weight[2] == weight[3]
    return _is_plain(call) and square and int(call.attrs.groups) == 1


def _dense_patterns() -> list[Any]:
    return _activated(is_op("nn.bias_add")(is_op("nn.dense")(wildcard(), wildcard()), wildcard()))


PATTERNS: list[tuple[Any, ...]] = [
    *_convolution_patterns("pointwise", _is_pointwise, residual=True, border=True),
    *_convolution_patterns("depthwise", _is_depthwise, residual=False, border=False),
    *_convolution_patterns("stem", _is_stem, residual=False, border=True),
    *_convolution_patterns("conv", _is_conv, residual=False, border=True),
    *(("dense", pattern) for pattern in _dense_patterns()),
    ("softmax", is_op("nn.softmax")(wildcard())),
    ("max_pool", is_op("nn.max_pool2d")(wildcard())),
    ("pool", is_op("mean")(wildcard())),
    ("pad", is_op("nn.pad")(wildcard(), wildcard())),
]
"""Tried in order; the name of each is that of the kernel family."""


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value.checked_type.shape)
