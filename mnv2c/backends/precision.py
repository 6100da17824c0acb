"""Kernel calls in another precision: the same calls, their workloads marked.

What comes in: calls in fp32. What goes out: in ``tf32`` the 1x1 convolutions marked, in ``fp16`` everything but what
reads the sums of a dense layer, which stay fp32: further dense layers, and softmax.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from mnv2c.backends.calls import KernelCall
from mnv2c.errors import GraphError
from mnv2c.precision import Precision
from mnv2c.workloads import ExpandDepthwise, Pointwise, PointwisePool

_MULTIPLY = (Pointwise, ExpandDepthwise, PointwisePool)


def marked(calls: Sequence[KernelCall], precision: Precision, outputs: Collection[str]) -> tuple[KernelCall, ...]:
    """GraphError where one of ``outputs``, edges that the caller reads as fp32, would not be."""
    if precision == "fp32":
        return tuple(calls)
    found = tuple(_marked(calls, precision))
    for call in found:
        if call.outputs[0] in outputs and call.workload.outputs[0].dtype != "float32":
            raise GraphError(f"{call.layer}: in {precision} a network gives out what its classifier computes alone")
    return found


def _marked(calls: Sequence[KernelCall], precision: Precision) -> Iterator[KernelCall]:
    floats: set[str] = set()
    for call in calls:
        takes_part = precision == "fp16" or isinstance(call.workload, _MULTIPLY)
        if takes_part and floats.isdisjoint(call.inputs):
            call = replace(call, workload=replace(call.workload, precision=precision))
        if call.workload.outputs[0].dtype == "float32" and precision == "fp16":
            floats.update(call.outputs)
        yield call
