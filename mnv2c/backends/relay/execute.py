"""Relay's own way: ``relay.build`` for this processor, nothing of ours in it.

Imported by ``program`` alone, in the environment that has Relay.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relay
from tvm.contrib import graph_executor

from mnv2c.ir.graph import Graph


def executor(module: tvm.IRModule, graph: Graph) -> Any:
    """TVM's graph executor of ``module``, as ``emit`` made it, the constants of ``graph`` in it.

    Relay's x86 has convolutions of NHWC maps with HWIO weights alone, and few of those are fast: so the layout becomes
    NCHW first, by Relay's own pass, as its users do it.
    """
    target = tvm.target.Target(f"llvm -mcpu={tvm.target.codegen.llvm_get_system_cpu()}")
    weights = dict(zip(module["main"].params[1:], graph.constants.values(), strict=True))
    named = {parameter.name_hint: tvm.nd.array(value) for parameter, value in weights.items()}
    layouts = relay.transform.ConvertLayout({"nn.conv2d": ["NCHW", "OIHW"]})
    with tvm.transform.PassContext(opt_level=3):
        library = relay.build(layouts(module), target=target, params=named)
    return graph_executor.GraphModule(library["default"](tvm.cpu()))
