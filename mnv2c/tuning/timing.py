"""Links candidates into a library that times them: ``timing.c``, the runtime's threads, the kernels, their table.

What comes in: compiled candidates of a workload. What goes out: a shared library for the target's machine,
cross-linked here; beside it the object and, as JSON, the kernels in it, for a runner that times without running.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from mnv2c import runtime
from mnv2c.errors import ToolError
from mnv2c.ir.graph import TensorType
from mnv2c.kernels.abi import HEADER, KernelCode, grain
from mnv2c.kernels.cpu.device import CPU
from mnv2c.scratch import Scratch
from mnv2c.targets import InstructionSet, Target
from mnv2c.toolchain import compile_c, find_toolchain, link_shared
from mnv2c.tuning.candidates import Compiled
from mnv2c.workload_json import to_json
from mnv2c.workloads import Workload

_RUNTIME = ("threads.c", "runtime.h", "mnv2c.h", HEADER)
_CACHES = 8  # times the core's L2 that displace a kernel's weights


class TimingLinker:
    """Keeps a directory, and the part that is the same for all candidates."""

    def __init__(self, target: Target, isa: InstructionSet) -> None:
        self._isa = isa
        self._toolchain = find_toolchain(target)
        self._scratch = Scratch()
        self._directory = self._scratch.path
        self._batches = 0
        timing = (resources.files("mnv2c.tuning") / "timing.c").read_text(encoding="utf-8")
        self._write("timing.c", timing.encode())
        for name in _RUNTIME:
            self._write(name, runtime.source(name).replace(", /* @outputs@ */", "").encode())  # of no network
        self._common = compile_c(self._toolchain, self._directory, "timing.c", "threads.c")

    def link(self, workload: Workload, compiled: Compiled) -> Path:
        """A library whose ``mnv2c_time(index, threads)`` times the ``index``-th of ``compiled.kernels``; the one before
        it is gone.

        It has a name of its own: the system's loader gives the same library for the same name.
        """
        self._batches += 1
        name = f"batch{self._batches}"
        for old in self._directory.glob("batch*"):
            old.unlink()
        kernels = list(compiled.kernels.values())
        self._write(f"{name}.o", compiled.object)
        listed = {"workload": to_json(workload), "kernels": [asdict(kernel) for kernel in kernels]}
        self._write(f"{name}.json", json.dumps(listed).encode())
        self._write(f"{name}_table.c", self._table(workload, kernels).encode())
        (table,) = compile_c(self._toolchain, self._directory, f"{name}_table.c")
        link_shared(self._toolchain, self._directory, [f"{name}.o", table, *self._common], output=f"{name}.so")
        return self._directory / f"{name}.so"

    def close(self) -> None:
        """Removes the directory."""
        self._scratch.close()

    def _table(self, workload: Workload, kernels: Sequence[KernelCode]) -> str:
        scratch = max(kernel.scratch_bytes for kernel in kernels)
        blocks = [*operand_bytes(workload), scratch, _CACHES * self._isa.l2_bytes]
        rows = [f"{{{kernel.symbol}, {kernel.tasks}, {grain([workload], kernel.tasks)}}}," for kernel in kernels]
        return "\n".join(
            [
                '#include "runtime.h"',
                *(f"mnv2c_kernel {kernel.symbol};" for kernel in kernels),
                "const struct mnv2c_compiled mnv2c_candidates[] = {",
                *rows,
                "};",
                f"const int mnv2c_candidate_count = {len(rows)};",
                f"const int mnv2c_block_count = {len(blocks)}, mnv2c_input_count = {len(workload.inputs)};",
                f"const size_t mnv2c_block_bytes[] = {{{', '.join(map(str, blocks))}}};",
                f"void *mnv2c_blocks[{len(blocks)}];",
            ]
        )

    def _write(self, name: str, content: bytes) -> None:
        try:
            (self._directory / name).write_bytes(content)
        except OSError as error:
            raise ToolError(f"cannot write candidates in {tempfile.gettempdir()}: {error.strerror}") from error


def operand_bytes(workload: Workload) -> list[int]:
    """The size of each of the kernel's operands, constants as they are packed, in the order of the signature."""
    types = (parameter.ty for parameter in CPU.computation(workload).params)
    return [TensorType(tuple(map(int, type_.shape)), str(type_.dtype)).nbytes for type_ in types]
