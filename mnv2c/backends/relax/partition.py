"""Kernel calls from a Relax module: TVM's pattern language finds what one kernel computes.

What comes in: a module in the ops of ``emit`` whose ``main`` returns a tuple of the edges to be computed. What goes
out: a ``KernelCall`` for each. ``relax.transform.FuseOpsByPattern`` makes a composite function of every match in
``PATTERNS``, whose name says the kernel family; a workload is read from the composite's attributes and shapes. What
matches no pattern, or has an attribute that the kernel does not implement, is refused with the layer's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from mnv2c.backends.calls import KernelCall
from mnv2c.backends.relax.patterns import PATTERNS, shape_of
from mnv2c.errors import GraphError
from mnv2c.ir.graph import Activation, Padding, TensorType
from mnv2c.workloads import Conv, Dense, Depthwise, MaxPool, Pad, Pointwise, Pool, Softmax, Stem, Workload


def partition(
    module: tvm.IRModule, *, image: str, constants: Sequence[str], edges: Sequence[str]
) -> tuple[KernelCall, ...]:
    """The calls for ``edges``, the fields of the tuple that ``main`` returns, in their order.

    ``image`` and ``constants`` name ``main``'s parameters. GraphError for an edge that no kernel computes.
    """
    fused = relax.transform.FuseOpsByPattern(PATTERNS, bind_constants=False)(module)
    main = fused["main"]
    defined = {binding.var: binding.value for block in main.body.blocks for binding in block.bindings}
    returned = _fields(defined, main.body.body, len(edges))
    names = dict(zip(main.params, (image, *constants), strict=True))
    edge_of = dict(zip(returned, edges, strict=True)) | {main.params[0]: image}
    calls = []
    for var, edge in zip(returned, edges, strict=True):
        composite = _composite(fused, defined[var])
        if composite is None:
            raise GraphError(f"{edge}: no kernel computes {_describe(defined, var, edge_of)}")
        calls.append(_kernel_call(edge, composite, defined[var].args, edge_of, names))
    return tuple(calls)


def _kernel_call(
    edge: str,
    composite: relax.Function,
    arguments: Sequence[relax.Var],
    edge_of: Mapping[relax.Var, str],
    constant_of: Mapping[relax.Var, str],
) -> KernelCall:
    """The call of ``composite``, whose operands are its parameters, named by the ``arguments`` it is called with."""
    body = _Composite(composite)
    try:
        workload, inputs, constants = _READERS[str(composite.attrs["Composite"])](body)
    except ValueError as error:
        raise GraphError(f"{edge}: no kernel computes it: {error}") from error
    given = dict(zip(composite.params, arguments, strict=True))
    return KernelCall(
        layer=edge,
        workload=workload,
        inputs=tuple(edge_of[given[var]] for var in inputs),
        constants=tuple(constant_of[given[var]] for var in constants),
        outputs=(edge,),
    )


class _Composite:
    """The ops of a composite function, in order; ``calls`` by name without the prefix ``relax.``"""

    def __init__(self, function: relax.Function) -> None:
        self.calls: dict[str, list[relax.Call]] = {}
        for block in function.body.blocks:
            for binding in block.bindings:
                self.calls.setdefault(_kind(binding.value), []).append(binding.value)
        self.output = _type(function.body.body)

    def one(self, kind: str) -> relax.Call:
        """The only op of a kind."""
        (call,) = self.calls[kind]
        return call

    @property
    def border(self) -> Padding:
        """What ``nn.pad`` puts around the map; ValueError where it is something else than zeros there."""
        if "nn.pad" not in self.calls:
            return Padding()
        call = self.one("nn.pad")
        widths = list(map(int, call.attrs.pad_width))
        if len(widths) != 8 or any(widths[:2] + widths[6:]) or min(widths) < 0:
            raise ValueError(f"nn.pad by {widths}, not around the rows and columns of NHWC maps")
        if call.attrs.pad_mode != "constant" or float(call.attrs.pad_value) != 0:
            raise ValueError(f"nn.pad with {call.attrs.pad_mode} {float(call.attrs.pad_value):g}, not with zeros")
        _, _, top, bottom, left, right, _, _ = widths
        return Padding(top, left, bottom, right)

    @property
    def activation(self) -> Activation:
        """What cuts the sums; ValueError where that is a clip to others than 0 and 6."""
        if "clip" not in self.calls:
            return "relu" if "nn.relu" in self.calls else None
        limits = [float(arg.value) for arg in self.one("clip").args[1:]]
        if limits != [0, 6]:
            raise ValueError(f"clip to {limits}, not to [0, 6]")
        return "relu6"


Read = tuple[Workload, Sequence[relax.Var], Sequence[relax.Var]]  # the workload, its inputs, its constants


def _convolution(body: _Composite) -> tuple[relax.Call, tuple[int, ...], Sequence[relax.Var], dict[str, Any]]:
    """The convolution, the shape of its result, its constants, and the fields that its workloads share."""
    convolution = body.one("nn.conv2d")
    batch, height, width, channels = shape_of(convolution)
    bias = body.calls["add"][0].args[1]
    if shape_of(bias) != (channels,):
        raise ValueError(f"a bias of shape {shape_of(bias)} for {channels} channels")
    shared = {"batch": batch, "height": height, "width": width, "activation": body.activation}
    return convolution, (batch, height, width, channels), (convolution.args[1], bias), shared


def _read_pointwise(body: _Composite) -> Read:
    convolution, shape, constants, shared = _convolution(body)
    residuals = [call.args[1] for call in body.calls["add"][1:]]
    if any(shape_of(residual) != shape for residual in residuals):
        raise ValueError("a shortcut of another shape")
    k = shape_of(convolution.args[0])[3]
    workload = Pointwise(k=k, n=shape[3], residual=bool(residuals), border=body.border, **shared)
    return workload, (convolution.args[0], *residuals), constants


def _read_depthwise(body: _Composite) -> Read:
    convolution, shape, constants, shared = _convolution(body)
    _, rows, columns, _ = shape_of(convolution.args[0])
    stride = int(convolution.attrs.strides[0])
    workload = Depthwise(channels=shape[3], stride=stride, rows=rows, columns=columns, **shared)
    return workload, (convolution.args[0],), constants


def _read_stem(body: _Composite) -> Read:
    convolution, shape, constants, shared = _convolution(body)
    _, rows, columns, _ = shape_of(convolution.args[0])
    stride, padding = int(convolution.attrs.strides[0]), Padding(*map(int, convolution.attrs.padding))
    workload = Stem(
        n=shape[3],
        kernel=shape_of(constants[0])[2],
        stride=stride,
        rows=rows,
        columns=columns,
        padding=padding,
        border=body.border,
        **shared,
    )
    return workload, (convolution.args[0],), constants


def _read_conv(body: _Composite) -> Read:
    convolution, shape, constants, shared = _convolution(body)
    _, rows, columns, k = shape_of(convolution.args[0])
    stride, kernel = int(convolution.attrs.strides[0]), shape_of(constants[0])[2]
    workload = Conv(
        k=k, n=shape[3], kernel=kernel, stride=stride, rows=rows, columns=columns, border=body.border, **shared
    )
    return workload, (convolution.args[0],), constants


def _read_max_pool(body: _Composite) -> Read:
    pool = body.one("nn.max_pool2d")
    x, attrs = pool.args[0], pool.attrs
    _, rows, columns, channels = _map_shape(x)
    batch, height, width, _ = _map_shape(pool)
    (kernel, across), (stride, aside) = map(int, attrs.pool_size), map(int, attrs.strides)
    plain = kernel == across and stride == aside and list(map(int, attrs.dilation)) == [1, 1]
    if not plain or (attrs.layout, attrs.out_layout) != ("NHWC", "NHWC") or attrs.ceil_mode:
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
    return workload, (x,), ()


def _read_pad(body: _Composite) -> Read:
    x = body.one("nn.pad").args[0]
    batch, height, width, channels = _map_shape(x)
    return Pad(batch=batch, height=height, width=width, channels=channels, border=body.border), (x,), ()


def _read_pool(body: _Composite) -> Read:
    mean = body.one("mean")
    batch, height, width, channels = _map_shape(mean.args[0])
    if list(map(int, mean.attrs.axis or ())) != [1, 2] or mean.attrs.keepdims:
        raise ValueError(f"mean over axes {mean.attrs.axis}, not over rows and columns of NHWC maps")
    return Pool(batch=batch, height=height, width=width, channels=channels), (mean.args[0],), ()


def _read_dense(body: _Composite) -> Read:
    product, weight, bias = body.one("matmul"), body.one("permute_dims").args[0], body.one("add").args[1]
    if len(shape_of(product)) != 2 or len(shape_of(weight)) != 2 or shape_of(bias) != shape_of(weight)[:1]:
        raise ValueError(f"matmul to {shape_of(product)} with a bias of {shape_of(bias)}")
    batch, classes = shape_of(product)
    workload = Dense(batch=batch, k=shape_of(weight)[1], n=classes, activation=body.activation)
    return workload, (product.args[0],), (weight, bias)


def _read_softmax(body: _Composite) -> Read:
    softmax = body.one("nn.softmax")
    shape = shape_of(softmax)
    if len(shape) != 2 or int(softmax.attrs.axis) not in (-1, 1):
        raise ValueError(f"softmax of {shape} over axis {int(softmax.attrs.axis)}, not over the classes of each image")
    return Softmax(batch=shape[0], n=shape[1]), (softmax.args[0],), ()


_READERS: dict[str, Callable[[_Composite], Read]] = {
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


def _fields(defined: Mapping[relax.Var, relax.Expr], value: relax.Expr, count: int) -> tuple[relax.Var, ...]:
    """The variables that ``main`` returns, behind the tuple that holds them where there is more than one."""
    while value in defined and isinstance(defined[value], relax.Var):
        value = defined[value]
    held = defined.get(value)
    return tuple(held.fields) if isinstance(held, relax.Tuple) and count > 1 else (value,)


def _composite(module: tvm.IRModule, value: relax.Expr) -> relax.Function | None:
    """The composite function that ``value`` calls."""
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.GlobalVar):
        return None
    return module[value.op]


def _describe(defined: Mapping[relax.Var, relax.Expr], var: relax.Var, edge_of: Mapping[relax.Var, str]) -> str:
    """What makes a variable, back to other edges: ops, with a convolution's attributes."""
    steps: list[str] = []
    call = defined[var]
    while isinstance(call, relax.Call) and not isinstance(call.op, tvm.ir.GlobalVar):
        steps.append(_convolution_text(call) if _kind(call) == "nn.conv2d" else _kind(call))
        before = call.args[0]
        if before in edge_of or before not in defined:
            break
        call = defined[before]
    return " -> ".join(reversed(steps))


def _convolution_text(call: relax.Call) -> str:
    attrs, weight = call.attrs, "x".join(map(str, shape_of(call.args[1])))
    numbers = {name: list(map(int, getattr(attrs, name))) for name in ("strides", "padding", "dilation")}
    listed = ", ".join(f"{name} {value}" for name, value in numbers.items())
    layouts = f"{attrs.data_layout}, {attrs.kernel_layout}"
    return f"nn.conv2d (weight {weight}, {listed}, groups {int(attrs.groups)}, {layouts}, {call.args[0].ty.dtype})"


def _kind(call: relax.Call) -> str:
    return str(call.op.name).removeprefix("relax.")


def _map_shape(value: relax.Expr) -> tuple[int, ...]:
    if len(shape_of(value)) != 4:
        raise ValueError(f"a map of shape {shape_of(value)}, not NHWC")
    return shape_of(value)


def _type(value: relax.Expr) -> TensorType:
    return TensorType(shape_of(value), str(value.ty.dtype))
