"""Which kernels a library for every 64-bit Arm core takes: by qemu's processors, and by the files of a system."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from programs import need

from mnv2c.deploy.network import read_build
from mnv2c.deploy.peer import link_runner

A53, A72, A76 = 0x410FD034, 0x410FD083, 0x414FD0B1
"""MIDR_EL1 of the Pi 3, the Pi 4 and the Pi 5."""


@pytest.fixture(scope="module")
def runner(small_arm_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that says first what it took."""
    need("qemu-aarch64-static")
    return link_runner(read_build(small_arm_library), tmp_path_factory.mktemp("runner"), static=True)


def taken(runner: Path, core: str, *options: str, cpus: Sequence[int] = ()) -> str:
    """The instruction set in use on qemu's ``core``, where the program may run on the processors ``cpus``."""
    only = ("taskset", "-c", ",".join(map(str, cpus))) if cpus else ()
    command = (*only, "qemu-aarch64-static", "-cpu", core, *options, runner, "1")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return done.stdout[24:].decode().split()[0]


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
def test_the_core_decides(runner: Path, core: str, name: str) -> None:
    assert taken(runner, core) == name


def test_what_the_system_says_comes_first(runner: Path, tmp_path: Path) -> None:
    """qemu's max would run all of them."""
    assert taken(runner, "max", *system(tmp_path / "pi3", A53, A53)) == "a53"
    assert taken(runner, "max", *system(tmp_path / "pi4", A72, A72)) == "a72"
    assert taken(runner, "cortex-a53", *system(tmp_path / "pi5", A76, A76)) == "a72", "of those that it has"


def test_of_two_kinds_of_cores_the_biggest_that_we_may_run_on(runner: Path, tmp_path: Path) -> None:
    need("taskset")
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("this machine has one processor")
    both = system(tmp_path, A53, A72)
    assert taken(runner, "max", *both, cpus=cpus[:2]) == "a72"
    assert taken(runner, "max", *both, cpus=cpus[:1]) == "a53"


@pytest.mark.parametrize("odd", ["", "\n", "unknown\n", "0x" + "f" * 64, "\0\0"])
def test_an_odd_file_leaves_the_features_to_decide(runner: Path, tmp_path: Path, odd: str) -> None:
    assert taken(runner, "cortex-a72", *system(tmp_path, odd, odd)) == "a72"
    assert taken(runner, "cortex-a76", *system(tmp_path / "other", odd, odd)) == "a76"
