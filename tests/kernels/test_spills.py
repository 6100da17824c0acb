"""Registers: the kernels of the Arm targets keep every vector of their inner loops in one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from command_line import SPECS
from kernel_examples import depthwise

from mnv2c.cost.code import Code, disassemble
from mnv2c.cost.spills import innermost, spills
from mnv2c.driver import workloads
from mnv2c.kernels.abi import Schedule
from mnv2c.kernels.cpu.depthwise import DepthwiseSchedule
from mnv2c.kernels.cpu.device import CPU
from mnv2c.shipped import SCHEDULES
from mnv2c.spec.table import load_spec
from mnv2c.targets import ARMV7, PI3, PI4, PI5, Target
from mnv2c.tuning.lookup import by_rule, from_records
from mnv2c.workloads import Pad, Pool, Workload

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("llvm-objdump", *(f"llvm-objdump-{n}" for n in range(15, 31)))),
    reason="llvm-objdump is not here: apt install llvm-19",
)
A64, A32 = PI4.triple, ARMV7.triple


SIX = [load_spec(path) for path in sorted(SPECS.glob("mnv2_*.yaml"))]


@pytest.mark.parametrize("target", [ARMV7, PI3, PI4, PI5], ids=lambda target: target.name)
def test_no_vector_of_an_inner_loop_lies_on_the_stack(target: Target, tmp_path: Path) -> None:
    (isa,) = target.instruction_sets
    by = {workload: by_rule(workload, isa).schedule for workload in workloads_of_all(target)}
    code = compiled(by, target, tmp_path)
    function_at = code.function_at()
    looping = {function_at[first] for first, _ in innermost(code, target.triple)}
    assert looping == {workload.name for workload in by if not isinstance(workload, Pad | Pool)}
    assert spills(code, target.triple) == {}


@pytest.mark.parametrize("target", [PI3, PI4, PI5], ids=lambda target: target.name)
def test_nor_with_what_records_choose_instead(target: Target, tmp_path: Path) -> None:
    (isa,) = target.instruction_sets
    choose = from_records(SCHEDULES, [isa], complain=pytest.fail)
    chosen = {workload: choose(workload, isa).schedule for workload in workloads_of_all(target)}
    others = {workload: one for workload, one in chosen.items() if one != by_rule(workload, isa).schedule}
    assert len(others) > len(chosen) // 4
    assert spills(compiled(others, target, tmp_path), target.triple) == {}


def workloads_of_all(target: Target) -> list[Workload]:
    """Of MobileNetV2's six specs, each once."""
    assert len(SIX) == 6
    return list(dict.fromkeys(workload for spec in SIX for _, workload in workloads(spec, target)))


@pytest.mark.parametrize(("target", "width"), [(PI4, 24), (ARMV7, 12)], ids=lambda value: getattr(value, "name", value))
def test_too_many_sums_for_the_registers_are_found(target: Target, width: int, tmp_path: Path) -> None:
    workload = depthwise(28, 28, 96, 1)
    few, many = (DepthwiseSchedule(height=1, width=sums, lanes=4) for sums in (4, width))
    assert spills(compiled({workload: few}, target, tmp_path), target.triple) == {}
    (found,) = spills(compiled({workload: many}, target, tmp_path), target.triple).values()
    assert len(found) > 10


def test_a_minimum_is_one_instruction_in_32_bits_too(tmp_path: Path) -> None:
    workload = depthwise(28, 28, 96, 1, activation="relu6")
    code = compiled({workload: CPU.space(workload, ARMV7.instruction_sets[0])[0]}, ARMV7, tmp_path)
    used = {text.split()[0] for text in code.instructions.values()}
    assert used >= {"vmin.f32", "vmax.f32"}
    assert used.isdisjoint({"vcgt.f32", "vbif", "vbsl"})


BEFORE = ["sub sp, sp, #0x40", "add x9, sp, #0x10", "str q0, [sp]", "mov x10, x0"]
MULTIPLY, BACK = "fmla v0.4s, v1.4s, v2.s[0]", "b.ne #0"


@pytest.mark.parametrize(
    ("loop", "found"),
    [
        (["ldr q1, [x0, #0x10]", "str q2, [x10]"], []),
        (["ldr q1, [sp, #0x10]"], ["ldr q1, [sp, #0x10]"]),
        (["stp q1, q2, [sp]", "ldr d3, [x9]"], ["stp q1, q2, [sp]", "ldr d3, [x9]"]),
        (["ldr x3, [sp, #0x8]", "str w3, [x9]"], []),
        (["add x9, x9, #0x10", "ldr q1, [x9]"], ["ldr q1, [x9]"]),
        (["add x9, x0, #0x10", "ldr q1, [x9]"], []),
        (["ldr q1, [x10]", "mov x10, sp"], ["ldr q1, [x10]"]),
        (["ldr x9, [x9]", "ldr q1, [x9]"], []),
    ],
)
def test_what_is_an_access_of_the_stack(loop: list[str], found: list[str]) -> None:
    (kernel,) = [spills(code_of([*BEFORE, *loop, MULTIPLY, BACK, "ret"], len(BEFORE)), A64).get("kernel", ())]
    assert list(kernel) == found


@pytest.mark.parametrize(
    ("loop", "found"),
    [
        (["vld1.32 {d2, d3}, [r0]!"], []),
        (["vldmia r9, {d2, d3}", "vstr d4, [sp, #8]"], ["vldmia r9, {d2, d3}", "vstr d4, [sp, #8]"]),
        (["add r3, sp, #96", "vst1.64 {d2, d3}, [r3:128]"], ["vst1.64 {d2, d3}, [r3:128]"]),
    ],
)
def test_the_same_in_32_bits(loop: list[str], found: list[str]) -> None:
    texts = ["sub sp, sp, #64", "add r9, sp, #16", *loop, "vfma.f32 q0, q1, q2", "bne #0", "bx lr"]
    assert list(spills(code_of(texts, 2), A32).get("kernel", ())) == found


def test_loops_around_others_and_those_that_do_not_multiply_may_use_the_stack() -> None:
    texts = ["str q0, [sp]", MULTIPLY, "b.ne #0", "ldr q0, [sp]", "b.ne #0", "str q0, [sp]", "b.ne #0", "ret"]
    loops = frozenset({(4, 8), (0, 16), (20, 24)})
    code = Code({4 * i: text for i, text in enumerate(texts)}, {"kernel": 0}, loops)
    assert innermost(code, A64) == [(4, 8)]
    assert spills(code, A64) == {}


def code_of(texts: list[str], first: int) -> Code:
    """Of one function, whose loop begins at a place and ends in front of the last instruction."""
    return Code(
        {4 * i: text for i, text in enumerate(texts)}, {"kernel": 0}, frozenset({(4 * first, 4 * len(texts) - 8)})
    )


def compiled(kernels: Mapping[Workload, Schedule], target: Target, directory: Path) -> Code:
    """Those, disassembled; each function is named after its workload."""
    (isa,) = target.instruction_sets
    listed = [(workload.name, workload, schedule) for workload, schedule in kernels.items()]
    code, _ = CPU.compile(listed, target, isa)
    (directory / "kernels.o").write_bytes(code)
    return disassemble(directory / "kernels.o")
