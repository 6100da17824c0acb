"""NVRTC from its package: every architecture, and what ptxas says of each kernel."""

from __future__ import annotations

import importlib.metadata

import pytest
from gpu_kernels import kernels_of

from mnv2c.errors import ToolError
from mnv2c.kernels.cuda import nvrtc
from mnv2c.kernels.cuda.blocks import SHARED_BYTES
from mnv2c.kernels.cuda.lower import CudaKernel, program
from mnv2c.targets import CUDA, PTX, InstructionSet

REGISTERS = 65536  # of a multiprocessor, on every architecture
WARPS = 4  # that it can at least hold at once


@pytest.fixture(scope="module")
def kernels() -> list[CudaKernel]:
    return kernels_of("mnv2_1.0")


@pytest.mark.parametrize("isa", CUDA.instruction_sets[:-1], ids=lambda isa: isa.name)
def test_every_architecture_has_room_for_every_kernel(kernels: list[CudaKernel], isa: InstructionSet) -> None:
    compiled = nvrtc.compile_cubin(program(kernels), isa.mcpu)
    assert compiled.code.startswith(b"\x7fELF")
    assert compiled.usage.keys() == {kernel.symbol for kernel in kernels}
    for kernel in kernels:
        usage = compiled.usage[kernel.symbol]
        assert (usage.spilled, usage.stack) == (0, 0), kernel.symbol
        assert usage.shared <= SHARED_BYTES, kernel.symbol
        assert usage.registers * max(kernel.block[0], 32 * WARPS) <= REGISTERS, kernel.symbol


def test_ptx_is_for_every_later_gpu(kernels: list[CudaKernel]) -> None:
    text = nvrtc.compile_ptx(program(kernels), PTX.mcpu).code.decode()
    assert ".target sm_75" in text
    assert text.count(".entry") == len(kernels)
    assert "mma" not in text


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
