"""``cost`` and ``bench --count``: the same where it counts again, sane where it estimates."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import succeed, succeed_json
from mini_spec import MINI
from small_library import SMALL
from tried import try_schedules

from mnv2c.cost.code import Run
from mnv2c.cost.cores import CORES
from mnv2c.cost.cycles import cycles, function_costs
from mnv2c.cost.estimate import Cost, LayerCost, format_text
from mnv2c.cost.kernels import KernelCost, kernel_costs
from mnv2c.errors import ToolError
from mnv2c.kernels.cpu.depthwise import DepthwiseSchedule
from mnv2c.kernels.cpu.device import CPU
from mnv2c.kernels.cpu.pointwise import PointwiseSchedule
from mnv2c.targets import A7, A53, A72, ARM, ARMV7, InstructionSet, Target, cores
from mnv2c.tuning.candidates import compile_candidates
from mnv2c.tuning.runners.static import StaticRunner
from mnv2c.tuning.timing import operand_bytes
from mnv2c.workloads import Depthwise, Pointwise

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
    a72_in_32_bits = cycles([[f"vfma.f32 q{n}, q14, q15" for n in range(14)]], "cortex-a72", ARMV7.triple)
    (n1,) = cycles([independent], "cortex-a76", ARM.triple)
    assert a72[0] == pytest.approx(16, rel=0.05), "one vector multiply-add a cycle"
    assert n1 == pytest.approx(8, rel=0.1), "two of them"
    assert a72[1] > 1.5 * a72[0], "a chain waits for itself"
    assert a72_in_32_bits == pytest.approx([14], rel=0.05)


def test_what_a_model_does_not_know_is_counted_and_told() -> None:
    run = Run("kernel", ("frobnicate x0, x1", "nop"), 7)
    (cost,) = function_costs([run], "cortex-a53", ARM.triple).values()
    assert cost.unknown == {"frobnicate": 7}
    assert cost.cycles > 7 * 1
    layers = (LayerCost("stem", 4, 2, 2.0, 0.5),)
    assert "frobnicate 7" in format_text(Cost("build", "cortex-a53", "a model", "armv8", 4, layers, cost.unknown))


@needs_llvm
def test_an_unknown_core_is_an_error() -> None:
    with pytest.raises(ToolError, match="llvm-mca"):
        cycles([["nop"]], "cortex-z99", ARM.triple)


def costs(
    workload: Pointwise,
    schedules: Sequence[PointwiseSchedule],
    isa: InstructionSet,
    target: Target = ARM,
    share: float = 1.0,
) -> list[KernelCost]:
    """Of a kernel for each schedule."""
    compiled = compile_candidates(workload, schedules, target, isa)
    kernels = list(compiled.kernels.values())
    found = kernel_costs(compiled.object, kernels, operand_bytes(workload), target, isa, share=share)
    return [found[kernel.symbol] for kernel in kernels]


RAGGED = Pointwise(height=14, width=14, k=64, n=64)
TILES_OF_48 = [PointwiseSchedule(rows=1, columns=48, lanes=4, strip=196, weights_outer=True)]


@needs_llvm
@needs_counting
def test_a_kernel_cannot_be_faster_than_the_peak() -> None:
    workload = Pointwise(height=7, width=7, k=64, n=32)
    schedules = CPU.space(workload, A72)
    (a72,) = costs(workload, schedules[:1], A72)
    assert workload.macs / 4 < a72.cycles < workload.macs / 4 / 0.8
    assert costs(workload, schedules[:1], A72) == [a72], "the same every time"
    beside = costs(workload, [schedules[9], schedules[0]], A72)[1]
    assert beside.cycles == pytest.approx(a72.cycles, rel=1e-3), "but for where its constants lie beside another"
    (whole,), (part,) = (costs(RAGGED, TILES_OF_48, A53, share=share) for share in (1.0, 0.2))
    assert part.cycles == pytest.approx(whole.cycles, rel=0.05), "the last tasks are not like the others"
    assert costs(workload, schedules[:1], A53)[0].cycles > a72.cycles, "an in-order core takes longer"
    (a7,) = costs(workload, CPU.space(workload, A7)[:1], A7, ARMV7)
    assert workload.macs < a7.cycles < workload.macs / 0.3


@needs_llvm
@needs_counting
def test_half_of_a_line_misses_as_much_as_all_of_it() -> None:
    """A tile of 8 columns reads half of each line of a panel, and its other half when the L1 holds it no longer."""
    workload = Pointwise(height=14, width=14, k=384, n=64)
    narrow, wide = costs(workload, [PointwiseSchedule(14, 8, 4, 14, True), PointwiseSchedule(6, 16, 4, 14, True)], A72)
    assert narrow.l1_misses > 1.3 * wide.l1_misses


@pytest.mark.parametrize("architecture", ["aarch64", "armv7l"])
def test_the_cores_of_targets_are_known(architecture: str) -> None:
    for name, isa in cores(architecture).items():
        assert CORES[name].macs_per_cycle == isa.fmas_per_cycle * isa.lanes


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
def test_a_schedule_for_which_registers_are_too_few_fails() -> None:
    """24 sums, weights and inputs in 32 registers."""
    workload = Depthwise(height=28, width=28, channels=16, stride=1, rows=30, columns=30)
    few, many = DepthwiseSchedule(1, 7, 4), DepthwiseSchedule(1, 24, 4)
    fits, spills = try_schedules(StaticRunner(ARM, A72), workload, [few, many])
    assert fits.seconds
    assert not fits.failure
    assert not spills.seconds
    assert "on the stack in an inner loop" in spills.failure


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
@pytest.mark.parametrize("core", ["cortex-a7", "cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76"])
def test_a_32_bit_library_has_its_cost_on_every_core(small_armv7_library: Path, core: str) -> None:
    result = succeed_json("cost", small_armv7_library, "--core", core)
    assert core in result["model"] or core == "cortex-a76"
    assert result["unknown_instructions"] == {}
    assert 0.05 < result["total"]["peak_share"] < 1


@needs_llvm
@needs_counting
def test_the_core_can_be_named(small_arm_library: Path) -> None:
    slow, fast = (
        succeed_json("cost", small_arm_library, "--core", f"cortex-{core}", "--instruction-set", "a72")
        for core in ("a53", "a76")
    )
    assert slow["total"]["instructions"] == fast["total"]["instructions"]
    assert slow["total"]["cycles"] > 2 * fast["total"]["cycles"]
    assert slow["unknown_instructions"] == {}
    assert slow["model"].startswith("mnv2c in order")
    assert "neoverse-n1" in fast["model"], "whose model it is, where LLVM has none of its own"
    text = succeed("cost", small_arm_library, "--core", "cortex-a53")
    assert "instruction set a53, one thread" in text, "the kernels for the core, where they are not named"
    assert "no cache is modelled" in text


@needs_llvm
@needs_counting
def test_what_is_estimated_is_told_in_cycles(tmp_path: Path) -> None:
    (tmp_path / "mini.yaml").write_text(MINI, encoding="utf-8")
    records = ("--schedules", tmp_path / "schedules")
    summary = succeed(
        "tune", tmp_path / "mini.yaml", "--target", "pi3", "--measure", "static", "--trials", "1", *records
    )
    listed, shown = succeed("records", "list", *records), succeed("records", "show", "dense", *records)
    for text in (summary, listed, shown):
        assert " kcycles" in text
        assert " us " not in text
    assert "mnv2c in order" in listed
    assert "7 cycles an L1 miss" in listed


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
