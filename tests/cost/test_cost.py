"""``cost`` and ``bench --count``: the same where it counts again, sane where it estimates."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import succeed, succeed_json
from small_library import SMALL
from tried import try_schedules

from mnv2c.cost.cycles import cycles
from mnv2c.cost.kernels import kernel_cycles
from mnv2c.errors import ToolError
from mnv2c.kernels.cpu.device import CPU
from mnv2c.targets import A53, A72, ARM, InstructionSet
from mnv2c.tuning.candidates import compile_candidates
from mnv2c.tuning.runners.static import StaticRunner
from mnv2c.tuning.timing import operand_bytes
from mnv2c.workloads import Pointwise

needs_llvm = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("llvm-mca", *(f"llvm-mca-{n}" for n in range(15, 31)))),
    reason="llvm-mca is not here: apt install llvm-19",
)
needs_counting = pytest.mark.skipif(
    not shutil.which("qemu-aarch64"), reason="qemu-aarch64 is not here: apt install qemu-user"
)


@needs_llvm
def test_cycles_are_those_of_the_cores_units() -> None:
    independent = [f"fmla v{n}.4s, v30.4s, v31.s[0]" for n in range(16)]
    chained = ["fmla v0.4s, v30.4s, v31.s[0]"] * 16
    a72 = cycles([independent, chained], "cortex-a72", ARM.triple)
    (n1,) = cycles([independent], "cortex-a76", ARM.triple)
    assert a72[0] == pytest.approx(16, rel=0.05), "one vector multiply-add a cycle"
    assert n1 == pytest.approx(8, rel=0.1), "two of them"
    assert a72[1] > 1.5 * a72[0], "a chain waits for itself"


@needs_llvm
def test_an_unknown_core_is_an_error() -> None:
    with pytest.raises(ToolError, match="llvm-mca"):
        cycles([["nop"]], "cortex-z99", ARM.triple)


@needs_llvm
@needs_counting
def test_a_kernel_cannot_be_faster_than_the_peak() -> None:
    workload = Pointwise(height=7, width=7, k=64, n=32)
    compiled = compile_candidates(workload, CPU.space(workload, A72)[:1], ARM, A72)
    (kernel,) = compiled.kernels.values()

    def cost(isa: InstructionSet, share: float = 1.0) -> float:
        sizes = operand_bytes(workload)
        return kernel_cycles(compiled.object, [kernel], sizes, ARM, isa, share=share)[kernel.symbol]

    assert workload.macs / 4 < cost(A72) < workload.macs / 4 / 0.85
    assert cost(A72) == cost(A72), "the same every time"
    assert cost(A53) > cost(A72), "an in-order core takes longer"
    assert cost(A72, share=0.5) == pytest.approx(cost(A72), rel=0.05)


@needs_llvm
@needs_counting
def test_an_operand_may_be_of_any_size() -> None:
    """116 MB are read, and as many written."""
    workload = Pointwise(height=1100, width=1100, k=24, n=24)
    (trial,) = try_schedules(StaticRunner(ARM, A72), workload, CPU.space(workload, A72)[:1])
    assert not trial.failure
    assert trial.seconds[1] > workload.macs / 4 / 1e9


@needs_llvm
@needs_counting
def test_every_layer_has_its_cost(small_arm_library: Path) -> None:
    result = succeed_json("cost", small_arm_library, "--instruction-set", "a72")
    assert result["core"] == "cortex-a72"
    assert result["peak_macs_per_cycle"] == 4
    assert "no cache" in result["caveat"]
    shown = succeed_json("show", *SMALL)
    assert result["total"]["macs"] == shown["totals"]["macs"]
    assert [layer["name"] for layer in result["layers"]][-2:] == ["pool", "fc"]
    for layer in result["layers"]:
        assert layer["instructions"] > layer["macs"] / 4, "every four multiply-adds are an instruction at least"
        assert 0 <= layer["peak_share"] <= 1
    assert result["total"]["cycles"] == pytest.approx(sum(layer["cycles"] for layer in result["layers"]))


@needs_llvm
@needs_counting
def test_the_core_can_be_named(small_arm_library: Path) -> None:
    slow, fast = (
        succeed_json("cost", small_arm_library, "--core", f"cortex-{core}", "--instruction-set", "a72")
        for core in ("a53", "a76")
    )
    assert slow["total"]["instructions"] == fast["total"]["instructions"]
    assert slow["total"]["cycles"] > 2 * fast["total"]["cycles"]
    assert "neoverse-n1" in fast["model"], "whose model it is, where LLVM has none of its own"
    text = succeed("cost", small_arm_library, "--core", "cortex-a53")
    assert "instruction set a53, one thread" in text, "the kernels for the core, where they are not named"
    assert "no cache is modelled" in text


@needs_counting
def test_counting_repeats(small_arm_library: Path) -> None:
    first, second = (succeed_json("bench", small_arm_library, "--count", "--runner", "qemu") for _ in range(2))
    assert first["instructions"] == pytest.approx(second["instructions"], rel=1e-4)


@needs_llvm
@needs_counting
def test_the_kernels_are_nearly_all_that_runs(small_arm_library: Path) -> None:
    counted = succeed_json("bench", small_arm_library, "--count", "--runner", "qemu")["instructions"]
    kernels = succeed_json("cost", small_arm_library)["total"]["instructions"]
    assert kernels < counted < 1.03 * kernels, "beside them the driver, memset and reading the image"
