"""Relay's own way: ``relay.build`` for this processor, or its MetaSchedule integration, nothing of ours in it.

Imported by ``program`` alone, in the environment that has Relay.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relay
from tvm.contrib import graph_executor

from mnv2c.backends.relay.metaschedule import tuned_library
from mnv2c.ir.graph import Graph


def executor(module: tvm.IRModule, graph: Graph, *, threads: int, minutes: float) -> tuple[Any, int]:
    """TVM's graph executor of ``module``, as ``emit`` made it, the constants of ``graph`` in it: tuned by MetaSchedule
    for ``minutes`` and so many ``threads``, with 0 as TOPI schedules it. With it the number of trials.

    Relay's x86 has convolutions of NHWC maps with HWIO weights alone, and few of those are fast as they are: so the
    layout becomes NCHW first, by Relay's own pass, as its users do it. MetaSchedule is given NHWC, as by TVM's own
    scripts: the same network is 42 tasks in that layout, and 75 in the other.
    """
    processor = tvm.target.codegen.llvm_get_system_cpu()
    target = tvm.target.Target(f"llvm -mcpu={processor} -num-cores {threads}")
    weights = dict(zip(module["main"].params[1:], graph.constants.values(), strict=True))
    named = {parameter.name_hint: tvm.nd.array(value) for parameter, value in weights.items()}
    layouts = ["NHWC", "default"] if minutes else ["NCHW", "OIHW"]
    module = relay.transform.ConvertLayout({"nn.conv2d": layouts})(module)
    if minutes:
        library, trials = tuned_library(module, target, named, minutes=minutes)
    else:
        trials = 0
        with tvm.transform.PassContext(opt_level=3):
            library = relay.build(module, target=target, params=named)
    return graph_executor.GraphModule(library["default"](tvm.cpu())), trials
