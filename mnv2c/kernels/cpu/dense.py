"""The classifier: the computation, its schedule template and the rule for its defaults.

``output[b, n] = activation(sum_k input[b, k] * weight[n // 16, k, n % 16] + bias[n])``: few rows, so that every weight
is used a few times and the layer is as fast as weights arrive; several panels at once keep several streams of them in
flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.tiles import pack_panels, panels_of, register_tile, task_loops
from mnv2c.kernels.cpu.tir_passes import PANEL
from mnv2c.kernels.elements import activate
from mnv2c.targets import InstructionSet
from mnv2c.workloads import Dense


def pack(workload: Dense, constants: Sequence[Array]) -> tuple[Array, ...]:
    """``n x k`` as panels; the bias as it is."""
    weight, bias = constants
    return pack_panels(weight), bias


def compute(workload: Dense) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, weight, bias, output)``."""
    B, K, N, panels = workload.batch, workload.k, workload.n, panels_of(workload.n)
    act = workload.activation

    @T.prim_func(s_tir=True)
    def dense(
        input: T.Buffer((B, K), "float32"),
        weight: T.Buffer((panels, K, PANEL), "float32"),
        bias: T.Buffer((N,), "float32"),
        output: T.Buffer((B, N), "float32"),
    ):
        product = T.sblock_alloc_buffer((B, panels * PANEL), "float32")
        for b, n, k in T.grid(B, panels * PANEL, K):
            with T.sblock("product"):
                vb, vn, vk = T.axis.remap("SSR", [b, n, k])
                with T.init():
                    product[vb, vn] = T.float32(0)
                product[vb, vn] = product[vb, vn] + input[vb, vk] * weight[vn // PANEL, vk, vn % PANEL]
        for b, n in T.grid(B, panels * PANEL):
            with T.sblock("epilogue"):
                vb, vn = T.axis.remap("SS", [b, n])
                if vn < N:
                    output[vb, vn] = activate(product[vb, vn] + bias[vn], act)

    return dense


STREAMS = 8
"""Of weights that a core keeps in flight; twice as many took 1.7 times as long on Zen 4. Each brings a line in as many
cycles: all together one in every cycle."""
THREADS = 4  # that are to have equal shares, as boards have cores


@dataclass(frozen=True)
class DenseSchedule:
    """``panels`` of 16 classes at once, in vectors of ``lanes``, for one image: a task."""

    panels: int
    lanes: int


def apply(s: s_tir.Schedule, workload: Dense, schedule: DenseSchedule) -> None:
    """A few panels; for each image in turn all features for them, so that the panels come from the cache again."""
    product, epilogue = s.get_sblock("product"), s.get_sblock("epilogue")
    b, n = s.get_loops(epilogue)
    n, lane = s.split(n, [None, schedule.panels * PANEL])
    s.reorder(n, b, lane)
    task_loops(s, (n, b), ragged=(n,))
    s.compute_at(product, b, preserve_unit_loops=True)
    *_, column, k = s.get_loops(product)
    s.reorder(k, column)
    register_tile(s, (), column, schedule.lanes)
    s.decompose_reduction(product, k)


def space(workload: Dense, isa: InstructionSet) -> list[DenseSchedule]:
    """Panels that leave a few registers free, first those up to ``STREAMS``: the fewest cycles first, those of one
    thread and those of the busiest of ``THREADS`` added up, so that neither pays much for the other."""
    most = min(max((isa.registers - 2) * isa.lanes // PANEL, 1), panels_of(workload.n))

    def rank(panels: int) -> tuple[bool, float]:
        return panels > STREAMS, _cycles(workload, isa, panels, 1) + _cycles(workload, isa, panels, THREADS)

    return [DenseSchedule(panels, isa.lanes) for panels in sorted(range(most, 0, -1), key=rank)]


def _cycles(workload: Dense, isa: InstructionSet, panels: int, threads: int) -> float:
    """Estimated, for each of the ``k`` features, of the thread with the most tasks: bound by the FMA units, their
    latency or the weights, and a little by the loads."""

    def task(panels: int) -> float:
        vectors = panels * PANEL / isa.lanes
        return max(vectors / isa.fmas_per_cycle, isa.fma_latency, STREAMS) + isa.load_cycles * (1 + vectors)

    whole, last = divmod(panels_of(workload.n), panels)
    tasks = [task(panels)] * whole * workload.batch + [task(last)] * bool(last) * workload.batch
    return sum(tasks[: -(-len(tasks) // threads)])
