"""The kernels of a network, as they are in its library for GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from mnv2c.backends.fusion import fuse_into_readers
from mnv2c.backends.relax import kernel_calls
from mnv2c.codegen.compile import distinct_workloads
from mnv2c.driver import identifier
from mnv2c.kernels.cuda.device import CUDA, scheduled, space
from mnv2c.kernels.cuda.lower import CudaKernel, lower
from mnv2c.passes import run_pipeline
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import load_spec
from mnv2c.targets import PTX
from mnv2c.weights import load_weights


def kernels_of(spec_path: str, settings: Sequence[str] = ()) -> list[CudaKernel]:
    """Of a spec, by rule."""
    spec = load_spec(spec_path, settings)
    graph = run_pipeline(build_graph(spec, load_weights(None, spec, 0)[0]))
    calls = fuse_into_readers(kernel_calls(graph), set(graph.outputs.values()))
    return [
        lower(scheduled(workload, space(workload)[0]), CUDA.symbol(identifier(graph.name), PTX, workload))
        for workload in distinct_workloads(calls, graph.input)
    ]
