"""Kernel calls in another precision: the same calls, their workloads marked.

What comes in: calls in fp32. What goes out: in ``tf32`` the 1x1 convolutions marked, in ``fp16`` everything.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    found = tuple(
        replace(call, workload=replace(call.workload, precision=precision))
        if precision == "fp16" or isinstance(call.workload, _MULTIPLY)
        else call
        for call in calls
    )
    for call in found:
        if call.outputs[0] in outputs and call.workload.outputs[0].dtype != "float32":
            raise GraphError(f"{call.layer}: in {precision} a network gives out the logits of its classifier alone")
    return found
