"""Libraries for Arm as files, and as their users build against them: the example, cross-compiled, in qemu."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from programs import call, need
from small_library import RESOLUTION

import mnv2c
from mnv2c.measure.images import seeded_image
from mnv2c.targets import ARM, ARMV7, Target
from mnv2c.toolchain import find_qemu, find_toolchain, link_program

PIXELS = seeded_image(0, (RESOLUTION, RESOLUTION, 3), seed=7)
NAME = "mnv2_0_35"


@pytest.fixture(params=[ARM, ARMV7], ids=lambda target: target.name)
def arm(request: pytest.FixtureRequest) -> tuple[Target, Path]:
    """A target, and the small library for it."""
    return request.param, request.getfixturevalue(f"small_{request.param.name}_library")


def check_example(program: Path, small_library: Path, tmp_path: Path, *command: str | Path) -> None:
    """The program, started by ``command``, prints the classes and probabilities of the library for this machine."""
    (tmp_path / "image.rgb").write_bytes(PIXELS.tobytes())
    lines = call(*command, program, tmp_path / "image.rgb").splitlines()
    with mnv2c.load(small_library) as net:
        logits = net.run_rgb(PIXELS)[0].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    assert [int(line.split()[0]) for line in lines] == np.argsort(-logits)[:5].tolist()
    for line in lines:
        number, probability = line.split()
        assert abs(float(probability) - probabilities[int(number)]) < 2e-4


def need_system() -> str:
    """Where Debian's cross compiler keeps the C library that dynamic programs for Arm need."""
    system = Path("/usr/aarch64-linux-gnu")
    if not (system / "lib/libc.so.6").exists():
        pytest.skip("no C library for aarch64 here: apt install libc6-dev-arm64-cross")
    return str(system)


def qemu_for(architecture: str) -> str:
    need({"aarch64": "qemu-aarch64-static", "armv7l": "qemu-arm-static"}[architecture])
    return find_qemu(architecture)


def test_needs_no_more_than_an_old_c_library(arm: tuple[Target, Path]) -> None:
    library = arm[1] / f"lib/lib{NAME}.so"
    dynamic = call("readelf", "-dW", library)
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
    assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}
    assert "TEXTREL" not in dynamic
    words = call("readelf", "-VW", library).split()
    minors = [int(word.removeprefix("GLIBC_2.").split(".")[0]) for word in words if word.startswith("GLIBC_2.")]
    assert max(minors) <= 28
    symbols = call("readelf", "--dyn-syms", "-W", library).lower()
    assert "aligned_alloc" in symbols
    assert "tvm" not in symbols
    assert not any("STACK" in line and "RWE" in line for line in call("readelf", "-lW", library).splitlines())


def test_the_example_linked_by_zig(arm: tuple[Target, Path], small_library: Path, tmp_path: Path) -> None:
    target, library = arm
    qemu = qemu_for(target.architecture)
    inputs = (str(library / "examples/main.c"), str(library / f"lib/lib{NAME}.a"))
    flags = (f"-I{library / 'include'}", "-Wall", "-Wextra", "-Werror")
    link_program(find_toolchain(target), tmp_path, inputs, output="main", static=True, flags=flags)
    check_example(tmp_path / "main", small_library, tmp_path, qemu)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("compiler", ["zig", "aarch64-linux-gnu-gcc"])
def test_the_example_on_glibc(
    small_arm_library: Path, small_library: Path, tmp_path: Path, *, compiler: str, static: bool
) -> None:
    qemu, system = qemu_for("aarch64"), need_system()
    command = find_toolchain(ARM).command if compiler == "zig" else (need(compiler),)
    library = small_arm_library / "lib" / f"lib{NAME}.{'a' if static else 'so'}"
    include, main = f"-I{small_arm_library / 'include'}", small_arm_library / "examples/main.c"
    call(*command, include, main, library, "-lm", "-pthread", "-o", tmp_path / "main")
    environment = ("-E", f"LD_LIBRARY_PATH={library.parent}")
    check_example(tmp_path / "main", small_library, tmp_path, qemu, "-L", system, *environment)
