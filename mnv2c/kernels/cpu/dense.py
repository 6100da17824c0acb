"""The classifier: the computation, its schedule template and the rule for its defaults.

``output[n] = sum_k input[k] * weight[n // 16, k, n % 16] + bias[n]``: one row, so that every weight is used once and
the layer is as fast as weights arrive; several panels at once keep several streams of them in flight.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.lower import PANEL, TASK
from mnv2c.kernels.cpu.tiles import pack_panels, register_tile
from mnv2c.targets import InstructionSet


@dataclass(frozen=True)
class Dense:
    """The workload: ``k`` features in, ``n`` classes out."""

    k: int
    n: int

    @property
    def name(self) -> str:
        return f"dense_{self.k}_{self.n}"

    @property
    def macs(self) -> int:
        return self.k * self.n

    @property
    def panels(self) -> int:
        return -(-self.n // PANEL)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.panels, self.k, PANEL)

    def pack(self, weight: Array) -> Array:
        """``n x k`` as panels."""
        return pack_panels(weight)

    def compute(self) -> tirx.PrimFunc:
        """The PrimFunc before scheduling: ``(input, weight, bias, output)``."""
        K, N, panels = self.k, self.n, self.panels

        @T.prim_func(s_tir=True)
        def dense(
            input: T.Buffer((1, K), "float32"),
            weight: T.Buffer((panels, K, PANEL), "float32"),
            bias: T.Buffer((N,), "float32"),
            output: T.Buffer((1, N), "float32"),
        ):
            product = T.sblock_alloc_buffer((panels * PANEL,), "float32")
            for n, k in T.grid(panels * PANEL, K):
                with T.sblock("product"):
                    vn, vk = T.axis.remap("SR", [n, k])
                    with T.init():
                        product[vn] = T.float32(0)
                    product[vn] = product[vn] + input[0, vk] * weight[vn // PANEL, vk, vn % PANEL]
            for n in T.serial(panels * PANEL):
                with T.sblock("epilogue"):
                    vn = T.axis.remap("S", [n])
                    if vn < N:
                        output[0, vn] = product[vn] + bias[vn]

        return dense


STREAMS = 8  # of weights that a core keeps in flight; twice as many took 1.7 times as long on Zen 4


@dataclass(frozen=True)
class DenseSchedule:
    """``panels`` of 16 classes at once, in vectors of ``lanes``."""

    panels: int
    lanes: int


def apply(s: s_tir.Schedule, workload: Dense, schedule: DenseSchedule) -> None:
    """A few panels, then all features for them."""
    product, epilogue = s.get_sblock("product"), s.get_sblock("epilogue")
    (n,) = s.get_loops(epilogue)
    n, _ = s.split(n, [None, schedule.panels * PANEL])
    s.annotate(n, TASK, 1)
    s.compute_at(product, n, preserve_unit_loops=True)
    *_, column, k = s.get_loops(product)
    s.reorder(k, column)
    register_tile(s, (), column, schedule.lanes)
    s.decompose_reduction(product, k)


def space(workload: Dense, isa: InstructionSet) -> list[DenseSchedule]:
    """Panels that divide the classes and leave a few registers free: first those up to ``STREAMS``, the most first."""
    most = max((isa.registers - 2) * isa.lanes // PANEL, 1)
    panels = [panels for panels in range(most, 0, -1) if workload.panels % panels == 0]
    return [DenseSchedule(count, isa.lanes) for count in sorted(panels, key=lambda count: count > STREAMS)]
