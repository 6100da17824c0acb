"""The simulator of caches, on programs whose loads and stores one can count; and ``cost --memory``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import succeed, succeed_json
from small_library import SMALL

from mnv2c.cost.caches import Traffic, simulate
from mnv2c.cost.code import disassemble
from mnv2c.cost.cores import Cache
from mnv2c.targets import ARM
from mnv2c.toolchain import find_qemu, find_toolchain, link_program

needs_tools = pytest.mark.skipif(
    not shutil.which("qemu-aarch64")
    or not any(shutil.which(name) for name in ("llvm-objdump", *(f"llvm-objdump-{n}" for n in range(15, 31)))),
    reason="qemu-aarch64 or llvm-objdump is not here: apt install qemu-user llvm-19",
)

MOVED = ("read_bytes", "filled_bytes", "written_bytes")
PROGRAM = """\
#include <stddef.h>
enum { KB = 1024 };
static volatile char memory[256 * KB] __attribute__((aligned(4096)));
__attribute__((noinline)) void part(void) { __asm__ volatile(""); }
static void load(size_t bytes) { for (size_t i = 0; i < bytes; i += 8) (void)memory[i]; }
static void store(size_t bytes) { for (size_t i = 0; i < bytes; i += 8) memory[i] = 1; }
int main(void)
{
    part(), load(16 * KB);
    part(), load(16 * KB);
    part(), store(16 * KB);
    part(), load(256 * KB);
    part(), load(16 * KB);
    part(), store(256 * KB);
    part(), load(256 * KB);
    return 0;
}
"""
CACHES = (Cache(32 * 1024, 4), Cache(512 * 1024, 16, shared=True))
LINES = 16 * 1024 // 64


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[list[Traffic]]:
    """Of the program with an L2 that holds all, and without one."""
    directory = tmp_path_factory.mktemp("caches")
    (directory / "program.c").write_text(PROGRAM, encoding="utf-8")
    link_program(find_toolchain(ARM), directory, ["program.c"], output="program", static=True)
    program = directory / "program"
    marker, qemu = disassemble(program).functions["part"], find_qemu("aarch64", plugins=True)
    return [simulate(qemu, [str(program)], caches, marker=marker)[1:] for caches in (CACHES, CACHES[:1])]


@needs_tools
def test_lines_are_missed_once_and_then_again_where_others_have_displaced_them(parts: list[list[Traffic]]) -> None:
    both, _ = parts
    l1 = [part.misses[0] for part in both]
    few = 20  # of the stack and the program's start
    assert [pytest.approx(LINES * n, abs=few) for n in (1, 0, 0)] == l1[:3]
    assert l1[3] == pytest.approx(16 * LINES, abs=LINES + few), "all but what was there"
    assert l1[4] == pytest.approx(LINES, abs=few), "256 KB have displaced them"
    assert [part.misses[1] for part in both[4:]] == [pytest.approx(0, abs=few)] * 3, "the L2 holds all"


@needs_tools
def test_stores_fill_lines_and_write_them_back(parts: list[list[Traffic]]) -> None:
    both, l1_alone = parts
    assert l1_alone[2].written == pytest.approx(0, abs=20), "what is stored stays in the L1"
    assert l1_alone[3].written == pytest.approx(LINES, abs=20), "until loads displace it"
    assert l1_alone[5].filled == pytest.approx(16 * LINES, abs=2 * LINES + 20)
    assert l1_alone[5].read < 40
    kept = 32 * 1024 // 64  # lines in the L1
    assert l1_alone[5].written == pytest.approx(16 * LINES - kept, abs=20)
    assert sum(part.written for part in l1_alone[5:]) == pytest.approx(16 * LINES, abs=20), "each once"
    assert sum(part.written for part in both) < 20, "the L2 keeps them"


@pytest.fixture(scope="module")
def on_a_pi3(small_arm_library: Path) -> Any:
    """One inference on one thread."""
    return succeed_json("cost", small_arm_library, "--memory", "--board", "pi3")


@needs_tools
def test_weights_that_no_cache_holds_are_read_in_every_inference(on_a_pi3: Any) -> None:
    classifier = next(layer for layer in on_a_pi3["layers"] if layer["name"] == "fc")
    assert classifier["read_bytes"] == pytest.approx(4 * 1280 * 1008, rel=0.02)
    total = on_a_pi3["total"]
    assert total["misses"] == sorted(total["misses"], reverse=True)
    assert total["read_bytes"] + total["filled_bytes"] == 64 * total["misses"][-1]


@needs_tools
def test_a_range_of_times(on_a_pi3: Any, small_arm_library: Path) -> None:
    cycles = succeed_json("cost", small_arm_library, "--core", "cortex-a53")["total"]["cycles"]
    total, (least, most) = on_a_pi3["total"], on_a_pi3["seconds"]
    assert total["core_seconds"] == pytest.approx((cycles + 7 * total["misses"][0]) / 1.4e9)
    assert total["memory_seconds"][1] == pytest.approx(
        (total["read_bytes"] + total["filled_bytes"] + total["written_bytes"]) / 2e9
    )
    assert max(total["core_seconds"], total["memory_seconds"][0]) <= least < most
    assert most == pytest.approx(total["core_seconds"] + total["memory_seconds"][1])


@needs_tools
def test_four_threads_of_a_board_with_three_levels(on_a_pi3: Any, small_arm_library: Path) -> None:
    """The program's threads have an L1 and an L2 each."""
    result = succeed_json("cost", small_arm_library, "--memory", "--board", "pi5", "--threads", "4")
    assert len(result["total"]["misses"]) == 3
    assert [layer["name"] for layer in result["layers"]] == [layer["name"] for layer in on_a_pi3["layers"]]
    assert result["total"]["core_seconds"] < on_a_pi3["total"]["core_seconds"] / 4
    assert result["total"]["read_bytes"] < on_a_pi3["total"]["read_bytes"], "its L3 holds more"


@needs_tools
def test_a_block_in_bands_is_told_of_as_one(on_a_pi3: Any, tmp_path: Path) -> None:
    """What is inside it no longer goes to memory and back, where it did."""
    succeed("build", *SMALL, "--target", "pi3", "--bands", "2", "--out", tmp_path / "bands")
    result = succeed_json("cost", tmp_path / "bands", "--memory", "--board", "pi3")
    blocks = [f"block{number}.expand..." for number in range(1, 17)]
    assert [layer["name"] for layer in result["layers"]] == ["stem...", *blocks, "head", "pool", "fc"]
    whole, banded = ({name: one["total"][name] for name in MOVED} for one in (on_a_pi3, result))
    assert sum(banded.values()) < sum(whole.values())
    assert result["total"]["core_seconds"] == pytest.approx(on_a_pi3["total"]["core_seconds"], rel=0.2)


@needs_tools
def test_people_are_told_that_it_is_a_range(small_armv7_library: Path) -> None:
    shown = succeed("cost", small_armv7_library, "--memory", "--board", "pizero2")
    assert "on pizero2, estimated: instruction set armv7, 1 of 4 cortex-a53 at 1 GHz" in shown
    assert "a range, not a time" in shown
    assert shown.endswith(" not\n")
