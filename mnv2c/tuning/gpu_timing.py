"""Candidates for a GPU as files that ``gpu_timing.c`` reads: a cubin, and a list of its kernels.

What comes in: compiled candidates of a workload. What goes out: ``batchN.cubin`` and ``batchN.txt``, for a runner, here
or on a machine that has the GPU and nothing of mnv2c.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mnv2c.errors import ToolError
from mnv2c.ir.graph import TensorType
from mnv2c.kernels.cuda.device import CUDA
from mnv2c.scratch import Scratch
from mnv2c.tuning.candidates import Compiled
from mnv2c.workloads import Workload

LIST = ".txt"


class CubinWriter:
    """Keeps a directory."""

    def __init__(self) -> None:
        self._scratch = Scratch()
        self._directory = self._scratch.path
        self._batches = 0

    def link(self, workload: Workload, compiled: Compiled) -> Path:
        """A cubin with ``compiled.kernels`` in order, and their list beside it; those before it are gone."""
        self._batches += 1
        path = self._directory / f"batch{self._batches}.cubin"
        try:
            for old in self._directory.glob("batch*"):
                old.unlink()
            path.write_bytes(compiled.object)
            path.with_suffix(LIST).write_text(listing(workload, compiled), encoding="ascii")
        except OSError as error:
            raise ToolError(f"cannot write candidates in {tempfile.gettempdir()}: {error.strerror}") from error
        return path

    def close(self) -> None:
        """Removes the directory."""
        self._scratch.close()


def listing(workload: Workload, compiled: Compiled) -> str:
    """As ``gpu_timing.c`` says: the operands, then the kernels."""
    sizes = operand_bytes(workload)
    lines = [f"{len(sizes)} {len(workload.inputs)} {' '.join(map(str, sizes))}"]
    for kernel in compiled.kernels.values():
        launch = kernel.launch
        assert launch is not None
        fields = [kernel.symbol, *launch.grid, *launch.block, len(launch.operands), *launch.operands]
        lines.append(" ".join(map(str, fields)))
    return "".join(line + "\n" for line in lines)


def operand_bytes(workload: Workload) -> list[int]:
    """The size of each of the kernel's operands, constants as they are packed, in the order of the workload."""
    types = (parameter.ty for parameter in CUDA.computation(workload).params)
    return [TensorType(tuple(map(int, type_.shape)), str(type_.dtype)).nbytes for type_ in types]
