"""CUDA kernels run on a CPU: their text compiled as C++ against ``emulator.h``."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.kernels.cuda.device import CUDA
from mnv2c.kernels.cuda.lower import CudaKernel
from mnv2c.workloads import Workload

Array = NDArray[Any]
ORDERS = range(4)
_HERE = Path(__file__).parent / "cuda"
_BARRIER = "__syncthreads();"


class EmulatedKernels:
    """A library of kernels in ``directory``, each launched by name."""

    def __init__(self, kernels: Sequence[CudaKernel], directory: Path) -> None:
        self.kernels = {kernel.symbol: kernel for kernel in kernels}
        self._library = ctypes.CDLL(str(_compile(kernels, directory / "kernels.so")))

    def run(self, symbol: str, operands: Sequence[Array], order: int = 0) -> None:
        """Launches a kernel on its operands, packed; RuntimeError where threads wait for ever."""
        kernel = self.kernels[symbol]
        pointers = (ctypes.c_void_p * len(operands))(*(operands[i].ctypes.data for i in kernel.operands))
        if getattr(self._library, f"launch_{symbol}")(pointers, order):
            raise RuntimeError(f"{symbol}: some threads wait at a barrier that others never reach")


def stand_in(kernels: Sequence[CudaKernel], directory: Path) -> dict[str, str]:
    """A driver for a library with these kernels (``stand_in.cpp``), and the environment in which programs find it."""
    _compile(kernels, directory / "libcuda.so.1", "stand_in.cpp", "-Wl,-soname,libcuda.so.1")
    return os.environ | {"LD_LIBRARY_PATH": str(directory)}


def _compile(kernels: Sequence[CudaKernel], library: Path, *further: str) -> Path:
    """As a shared library, with further source files of this folder, and options."""
    includes = ["emulator.h", *(name for name in further if name.endswith(".cpp"))]
    options = [name for name in further if not name.endswith(".cpp")]
    source = library.with_name("kernels.cpp")
    text = [*(f'#include "{name}"' for name in includes), *map(_entry, kernels)]
    source.write_text("\n".join(text), encoding="utf-8")
    flags = ("-std=c++17", "-O2", "-shared", "-fPIC", "-fno-sanitize=all", "-fno-strict-aliasing", "-nostdlib++")
    flags = (*flags, "-I", str(_HERE), "-I", str(resources.files("mnv2c.kernels.cuda")), *options)
    subprocess.run([sys.executable, "-m", "ziglang", "c++", *flags, str(source), "-o", str(library)], check=True)
    return library


def run(
    kernels: EmulatedKernels,
    workload: Workload,
    inputs: Sequence[Array],
    constants: Sequence[Array],
    *,
    symbol: str = "",
    order: int = 0,
) -> Array:
    """The output of a workload's kernel, which is named after it where there is no ``symbol``."""
    output = np.full(workload.outputs[0].shape, np.nan, workload.outputs[0].dtype)
    packed = [np.ascontiguousarray(value) for value in (*inputs, *CUDA.pack(workload, constants))]
    kernels.run(symbol or workload.name, [*packed, output], order)
    return output


def barriers(kernel: CudaKernel) -> int:
    """How many stand in its text."""
    return kernel.source.count(_BARRIER)


def without_barrier(kernel: CudaKernel, number: int) -> str:
    """Its text without that one."""
    places = [match.start() for match in re.finditer(re.escape(_BARRIER), kernel.source)]
    start = places[number]
    return kernel.source[:start] + kernel.source[start + len(_BARRIER) :]


def _entry(kernel: CudaKernel) -> str:
    """The kernel, and a C function that launches it."""
    text = re.sub(r"__shared__ (alignas\(\d+\))", r"\1 __shared__", kernel.source)
    arguments = ", ".join(f"static_cast<{type_}>(a[{i}])" for i, type_ in enumerate(_types(kernel.source)))
    bits = sum(1 << i for i, parameter in enumerate(_parameters(kernel.source)) if "__restrict__" not in parameter)
    grid, block = (", ".join(map(str, extents)) for extents in (kernel.grid, kernel.block))
    return f"""{text}
static void call_{kernel.symbol}(void **a) {{ {kernel.symbol}({arguments}); }}
extern "C" const emulated::kernel emulated_{kernel.symbol} = {{call_{kernel.symbol}, {len(kernel.operands)}, {bits}}};
extern "C" int launch_{kernel.symbol}(void **a, unsigned order)
{{
    return emulated::launch(call_{kernel.symbol}, a, {{{grid}}}, {{{block}}}, order);
}}
"""


def _types(source: str) -> list[str]:
    """Of the kernel's parameters: ``float*``."""
    return [parameter.replace("__restrict__", "").rpartition(" ")[0].strip() for parameter in _parameters(source)]


def _parameters(source: str) -> list[str]:
    """As they are declared."""
    parameters = re.search(r"\w+\(([^)]*)\)\s*\{", source)
    assert parameters is not None
    return [parameter.strip() for parameter in parameters[1].split(",")]
