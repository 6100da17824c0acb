"""NVRTC from its package: every architecture, and what ptxas says of each kernel."""

from __future__ import annotations

import functools
import importlib.metadata
import re

import pytest
from gpu_kernels import kernels_of

from mnv2c.errors import ToolError
from mnv2c.kernels.cuda import nvrtc
from mnv2c.kernels.cuda.blocks import SHARED_BYTES
from mnv2c.kernels.cuda.lower import CudaKernel, program
from mnv2c.precision import PRECISIONS, Precision
from mnv2c.targets import CUDA, PTX, InstructionSet, in_precision

REGISTERS = 65536  # of a multiprocessor, on every architecture
WARPS = 4  # that it can at least hold at once


COMPILED = [
    (precision, isa)
    for precision in PRECISIONS
    for isa in in_precision(CUDA, precision).instruction_sets
    if isa.name != PTX.name
]


@functools.cache
def kernels_in(precision: Precision) -> list[CudaKernel]:
    return kernels_of("mnv2_1.0", precision=precision)


@pytest.mark.parametrize(("precision", "isa"), COMPILED, ids=lambda value: getattr(value, "name", value))
def test_every_architecture_has_room_for_every_kernel(precision: Precision, isa: InstructionSet) -> None:
    kernels = kernels_in(precision)
    compiled = nvrtc.compile_cubin(program(kernels), isa.mcpu)
    assert compiled.code.startswith(b"\x7fELF")
    assert compiled.usage.keys() == {kernel.symbol for kernel in kernels}
    for kernel in kernels:
        usage = compiled.usage[kernel.symbol]
        assert (usage.spilled, usage.stack) == (0, 0), kernel.symbol
        assert usage.shared <= SHARED_BYTES, kernel.symbol
        assert usage.registers * max(kernel.block[0] * kernel.block[1], 32 * WARPS) <= REGISTERS, kernel.symbol


@pytest.mark.parametrize(
    ("precision", "first", "products"),
    [("fp32", "sm_75", ()), ("tf32", "sm_80", ("f32.tf32.tf32.f32",)), ("fp16", "sm_75", ("f32.f16.f16.f32",))],
)
def test_ptx_is_for_every_later_gpu(precision: Precision, first: str, products: tuple[str, ...]) -> None:
    kernels, (ptx,) = kernels_in(precision), in_precision(CUDA, precision).instruction_sets[-1:]
    text = nvrtc.compile_ptx(program(kernels), ptx.mcpu).code.decode()
    assert f".target {first}" in text
    assert text.count(".entry") == len(kernels)
    assert set(re.findall(r"mma\.sync\.aligned\.m16n8k8\.row\.col\.([\w.]+)", text)) == set(products)


def test_what_cannot_be_compiled_is_said_in_one_line() -> None:
    with pytest.raises(
        ToolError, match=r"NVRTC cannot compile for sm_90: .*error: identifier \"nonsense\" is undefined"
    ) as caught:
        nvrtc.compile_cubin('extern "C" __global__ void f(float *a) { a[0] = nonsense; }', "sm_90")
    assert "\n" not in str(caught.value)
    with pytest.raises(ToolError, match="NVRTC cannot compile for sm_12"):
        nvrtc.compile_cubin("", "sm_12")


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ToolError, match=r"pip install 'mnv2c\[cuda\]'"):
        nvrtc.version()
