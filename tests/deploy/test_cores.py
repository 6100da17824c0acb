"""Which kernels a library for every 64-bit Arm core takes: by qemu's processors, and by the files of a system."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from programs import call, need

from mnv2c.targets import ARM
from mnv2c.toolchain import find_toolchain, link_program

PROGRAM = """\
#include <stdio.h>
#include <stdlib.h>
#include "mnv2_0_35.h"

int main(int argc, char **argv)
{
    int cpus[8], count = 0;
    mnv2_0_35_options options = MNV2_0_35_OPTIONS_INIT;
    mnv2_0_35_context *context;
    while (count < 8 && count < argc - 1) cpus[count] = atoi(argv[1 + count]), count++;
    if (count > 0) options.cpus = cpus, options.cpu_count = count;
    int status = mnv2_0_35_create(&options, &context);
    puts(status == MNV2_0_35_OK ? mnv2_0_35_instruction_set(context) : mnv2_0_35_message(status));
    mnv2_0_35_destroy(context);
    return 0;
}
"""
A53, A72, A76 = 0x410FD034, 0x410FD083, 0x414FD0B1
"""MIDR_EL1 of the Pi 3, the Pi 4 and the Pi 5."""


@pytest.fixture(scope="module")
def program(small_arm_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It says what it took; its arguments are ``options.cpus``."""
    need("qemu-aarch64-static")
    folder = tmp_path_factory.mktemp("program")
    (folder / "main.c").write_text(PROGRAM, encoding="utf-8")
    inputs = ("main.c", str(small_arm_library / "lib/libmnv2_0_35.a"))
    flags = (f"-I{small_arm_library / 'include'}",)
    link_program(find_toolchain(ARM), folder, inputs, output="main", static=True, flags=flags)
    return folder / "main"


def taken(program: Path, core: str, *options: str, cpus: Sequence[int] = (), only: Sequence[int] = ()) -> str:
    """The instruction set in use on qemu's ``core``, by ``options.cpus``, and where we may run ``only`` on some."""
    where = ("taskset", "-c", ",".join(map(str, only))) if only else ()
    return call(*where, "qemu-aarch64-static", "-cpu", core, *options, program, *map(str, cpus)).strip()


def system(root: Path, *files: int | str | None) -> tuple[str, str]:
    """qemu's options for a system that has such a file for each of the first processors that we may run on, or none."""
    for cpu, content in zip(sorted(os.sched_getaffinity(0)), files, strict=False):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}/regs/identification"
        folder.mkdir(parents=True)
        if content is not None:
            text = content if isinstance(content, str) else f"{content:#018x}\n"
            (folder / "midr_el1").write_text(text, encoding="utf-8")
    return "-L", str(root)


@pytest.mark.parametrize(
    ("core", "name"),
    [
        ("cortex-a53", "a53"),
        ("cortex-a35", "a53"),
        ("cortex-a57", "a72"),
        ("cortex-a72", "a72"),
        ("cortex-a76", "a76"),
        ("neoverse-n1", "a76"),
        ("max", "a76"),
    ],
)
def test_the_core_decides(program: Path, core: str, name: str) -> None:
    assert taken(program, core) == name


def test_what_the_system_says_comes_first(program: Path, tmp_path: Path) -> None:
    """qemu's max would run all of them."""
    assert taken(program, "max", *system(tmp_path / "pi3", A53, A53)) == "a53"
    assert taken(program, "max", *system(tmp_path / "pi4", A72, A72)) == "a72"
    assert taken(program, "cortex-a53", *system(tmp_path / "pi5", A76, A76)) == "a72", "of those that it has"


def test_of_two_kinds_of_cores_the_biggest_that_we_may_run_on(program: Path, tmp_path: Path) -> None:
    need("taskset")
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("this machine has one processor")
    both = system(tmp_path, A53, A72)
    assert taken(program, "max", *both, only=cpus[:2]) == "a72"
    assert taken(program, "max", *both, only=cpus[:1]) == "a53"
    assert taken(program, "max", *both, cpus=cpus[:2]) == "a72"
    assert taken(program, "max", *both, cpus=cpus[:1]) == "a53"
    assert taken(program, "max", *both, cpus=cpus[1:2], only=cpus[:1]) == "a72", "where the threads will be"


@pytest.mark.parametrize("odd", ["", "\n", "unknown\n", "0x" + "f" * 64, "\0\0"])
def test_an_odd_file_leaves_the_features_to_decide(program: Path, tmp_path: Path, odd: str) -> None:
    assert taken(program, "cortex-a72", *system(tmp_path, odd, odd)) == "a72"
    assert taken(program, "cortex-a76", *system(tmp_path / "other", odd, odd)) == "a76"
