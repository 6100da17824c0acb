"""Two kernel calls as one, for devices whose kernels can hold what is between them.

What comes in: the calls of a backend, and the edges that must exist. What goes out: calls that compute the same::

    a = Pointwise(x), with zeros around it              ->    b = ExpandDepthwise(x)
    b = Depthwise(a)

    a = Pointwise(x)                                    ->    b = PointwisePool(x)
    b = Pool(a)

where nothing else reads ``a``. The fused call has the second layer's name, and its edge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from mnv2c.backends.calls import KernelCall
from mnv2c.workloads import Depthwise, ExpandDepthwise, Pointwise, PointwisePool, Pool, Workload


def fuse_into_readers(calls: Sequence[KernelCall], kept: Collection[str]) -> tuple[KernelCall, ...]:
    """Every pair of the module's rewrites in ``calls``; ``kept`` are edges that somebody else reads."""
    readers = Counter(edge for call in calls for edge in call.inputs) + Counter(kept)
    writer = {edge: call for call in calls for edge in call.outputs}
    fused: dict[str, KernelCall] = {}
    gone = set()
    for call in calls:
        first = writer.get(call.inputs[0]) if len(call.inputs) == 1 else None
        if first is None or readers[call.inputs[0]] != 1:
            continue
        workload = _fused(first.workload, call.workload)
        if workload is not None:
            constants = (*first.constants, *call.constants)
            fused[call.layer] = KernelCall(call.layer, workload, first.inputs, constants, call.outputs)
            gone.add(first.layer)
    return tuple(fused.get(call.layer, call) for call in calls if call.layer not in gone)


def _fused(first: Workload, second: Workload) -> Workload | None:
    """One workload for two, None where no kernel computes them at once."""
    if not isinstance(first, Pointwise) or first.residual:
        return None
    if isinstance(second, Depthwise):
        return ExpandDepthwise(
            batch=second.batch,
            height=second.height,
            width=second.width,
            k=first.k,
            channels=second.channels,
            stride=second.stride,
            rows=first.height,
            columns=first.width,
            padding=first.border,
            expansion=first.activation,
            activation=second.activation,
        )
    if isinstance(second, Pool) and not first.bordered:
        return PointwisePool(
            batch=first.batch,
            height=first.height,
            width=first.width,
            k=first.k,
            n=first.n,
            activation=first.activation,
        )
    return None
