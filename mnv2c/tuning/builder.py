"""MetaSchedule's builder for kernels: compiles a batch, guarded, and links it into one library.

What comes in: scheduled modules of one workload. What goes out: for each ``LIBRARY:INDEX``, which our runners read, or
why there is none. The libraries of the batch before are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from tvm import tirx
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms

from mnv2c.kernels.families import workload_of
from mnv2c.targets import InstructionSet, Target
from mnv2c.tuning.candidates import compile_functions
from mnv2c.tuning.gpu_timing import CubinWriter
from mnv2c.tuning.timing import TimingLinker


@derived_object
class Builder(ms.builder.PyBuilder):
    """For one instruction set; keeps a directory until closed."""

    def __init__(self, target: Target, isa: InstructionSet) -> None:
        super().__init__()
        self._target, self._isa = target, isa
        self._linker = CubinWriter() if isa.kind == "cuda" else TimingLinker(target, isa)

    def build(self, build_inputs: Sequence[Any]) -> list[Any]:
        functions = [one.mod["main"] for one in build_inputs]
        compiled = compile_functions([partial(_same, one) for one in functions], self._target, self._isa)
        path = self._linker.link(workload_of(functions[0]), compiled) if compiled.kernels else None
        numbers = {number: index for index, number in enumerate(compiled.kernels)}
        return [
            ms.builder.BuilderResult(f"{path}:{numbers[number]}", None)
            if number in numbers
            else ms.builder.BuilderResult(None, compiled.failures[number])
            for number in range(len(functions))
        ]

    def close(self) -> None:
        """Removes the directory."""
        self._linker.close()


def _same(function: tirx.PrimFunc) -> tirx.PrimFunc:
    return function
