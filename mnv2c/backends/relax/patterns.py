"""Which Relax ops make one kernel: the table of patterns, in TVM's pattern language.

What comes in: nothing. What goes out: ``PATTERNS`` for ``relax.transform.FuseOpsByPattern``, tried in order, the
longest first; the name of each is that of the kernel family that computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tvm import relax
from tvm.relax import dpl
from tvm.relax.transform import FusionPattern, PatternCheckContext

from mnv2c.workloads import Stem

Pattern = Any
Check = Callable[[relax.Call], bool]


def _convolution_patterns(family: str, check: Check, *, residual: bool, border: bool) -> Iterator[FusionPattern]:
    convolution = dpl.is_op("relax.nn.conv2d")(dpl.wildcard(), dpl.wildcard())
    biased = dpl.is_op("relax.add")(convolution, dpl.wildcard())
    found = _activated(biased)
    if border:
        found = [*(dpl.is_op("relax.nn.pad")(pattern) for pattern in found), *found]
    if residual:
        found = [*_activated(dpl.is_op("relax.add")(biased, dpl.wildcard())), *found]

    def fits(context: PatternCheckContext) -> bool:
        return _is_read_inside_alone(context) and check(context.annotated_expr["convolution"])

    for pattern in found:
        yield FusionPattern(family, pattern, {"convolution": convolution}, fits)


def _activated(sums: Pattern) -> list[Pattern]:
    clipped = dpl.is_op("relax.clip")(sums, dpl.wildcard(), dpl.wildcard())
    return [clipped, dpl.is_op("relax.nn.relu")(sums), sums]


def _is_read_inside_alone(context: PatternCheckContext) -> bool:
    """Whether nobody outside the match reads what it computes on the way: a kernel writes its last value alone."""
    inside = set(context.matched_bindings)
    on_the_way = (var for var, value in context.matched_bindings.items() if not value.same_as(context.matched_expr))
    return all(set(context.var_usages.get(var, ())) <= inside for var in on_the_way)


def _is_plain(call: relax.Call) -> bool:
    """What no kernel of a convolution varies: layouts, element type, dilation, the same stride both ways."""
    attrs, strides = call.attrs, list(map(int, call.attrs.strides))
    layouts = (attrs.data_layout, attrs.kernel_layout, attrs.out_layout) == ("NHWC", "OIHW", "NHWC")
    floats = {str(arg.ty.dtype) for arg in call.args} == {"float32"}
    return layouts and floats and list(map(int, attrs.dilation)) == [1, 1] and strides[0] == strides[1]


def _is_pointwise(call: relax.Call) -> bool:
    attrs, kernel = call.attrs, shape_of(call.args[1])[2:]
    simple = int(attrs.groups) == 1 and int(attrs.strides[0]) == 1 and not any(map(int, attrs.padding))
    return _is_plain(call) and kernel == (1, 1) and simple


def _is_depthwise(call: relax.Call) -> bool:
    (*_, channels), weight = (shape_of(arg) for arg in call.args)
    of_each = int(call.attrs.groups) == channels and weight == (channels, 1, 3, 3)
    return _is_plain(call) and of_each and not any(map(int, call.attrs.padding))


def _is_stem(call: relax.Call) -> bool:
    (*_, channels), weight = (shape_of(arg) for arg in call.args)
    return _is_full(call) and channels == Stem.CHANNELS and weight[2:] != (1, 1)


def _is_conv(call: relax.Call) -> bool:
    return _is_full(call) and not any(map(int, call.attrs.padding))


def _is_full(call: relax.Call) -> bool:
    (*_, channels), weight = (shape_of(arg) for arg in call.args)
    square = weight[1] == channels and weight[2] == weight[3]
    return _is_plain(call) and square and int(call.attrs.groups) == 1


def _dense_patterns() -> Iterator[FusionPattern]:
    transposed = dpl.is_op("relax.permute_dims")(dpl.wildcard())
    sums = dpl.is_op("relax.add")(dpl.is_op("relax.matmul")(dpl.wildcard(), transposed), dpl.wildcard())
    for pattern in _activated(sums):
        yield FusionPattern("dense", pattern, {}, _is_read_inside_alone)


PATTERNS: list[Any] = [
    *_convolution_patterns("pointwise", _is_pointwise, residual=True, border=True),
    *_convolution_patterns("depthwise", _is_depthwise, residual=False, border=False),
    *_convolution_patterns("stem", _is_stem, residual=False, border=True),
    *_convolution_patterns("conv", _is_conv, residual=False, border=True),
    *_dense_patterns(),
    ("softmax", dpl.is_op("relax.nn.softmax")(dpl.wildcard())),
    ("max_pool", dpl.is_op("relax.nn.max_pool2d")(dpl.wildcard())),
    ("pool", dpl.is_op("relax.mean")(dpl.wildcard())),
    ("pad", dpl.is_op("relax.nn.pad")(dpl.wildcard())),
]
"""Tried in order; the name of each is that of the kernel family."""


def shape_of(value: relax.Expr) -> tuple[int, ...]:
    """The extents of a tensor."""
    return tuple(int(extent) for extent in value.ty.shape)
