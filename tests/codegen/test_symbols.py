"""What an archive defines for the linker of a user's program: nothing but names under the library's prefix; and what it
needs of it: the system's libraries alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import succeed
from mini_spec import MINI
from programs import call, need

from mnv2c.codegen.header import SOURCES
from mnv2c.targets import TARGETS, Target

ELF_MACHINES = {"x86_64": "X86-64", "aarch64": "AArch64", "armv7l": "ARM"}

LOADERS = "__tls_get_addr"
"""Where a thread's own variables are, which the dynamic loader knows."""

HALF = """\
#include <stdio.h>
#include "mini.h"
volatile float one_third = 1.0f / 3.0f;
volatile _Float16 half;
int main(void) {
    mini_context *context;
    if (mini_create(NULL, &context) != MINI_OK) return 2;
    mini_destroy(context);
    half = (_Float16)one_third;
    printf("%.6f\\n", (double)(float)half);
    return 0;
}
"""


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: target.name)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Target, Path]:
    """A target, and a library with every kind of object that a library has."""
    return request.param, _build(tmp_path_factory.mktemp("library"), request.param.name)


def _build(folder: Path, target: str) -> Path:
    (folder / "mini.yaml").write_text(MINI, encoding="utf-8")
    succeed("build", "mini.yaml", "--target", target, "--untuned", "--out", "library", cwd=folder)
    return folder / "library"


def test_every_global_symbol_of_the_archive_has_the_prefix(library: tuple[Target, Path]) -> None:
    target, directory = library
    archive = directory / "lib/libmini.a"
    headers = call("readelf", "-hW", archive).splitlines()
    machines = [line.split(":")[1].strip() for line in headers if "Machine:" in line]
    sources = 1 + len(SOURCES[target.kind])  # and the driver
    kernels = len(target.instruction_sets) if target.kind == "cpu" else 0  # on a GPU they are data
    assert len(machines) == sources + kernels + 1, "those, and the weights"
    assert all(ELF_MACHINES[target.architecture] in machine for machine in machines)
    defined, undefined = _global_symbols(archive)
    assert {"mini_create", "mini_run", "mini_weights"} <= defined
    assert {name for name in defined if not name.startswith("mini_")} == set()
    needed = {name for name in undefined if not name.startswith("mini_")}
    assert "memcpy" in needed
    assert {name for name in needed if name.startswith("_")} <= {LOADERS}, "of a compiler's own library"


def _global_symbols(archive: Path) -> tuple[set[str], set[str]]:
    """Defined and undefined ones, of all objects."""
    symbols = [line.split() for line in call("readelf", "-sW", archive).splitlines()]
    rows = [(row[7], row[6]) for row in symbols if len(row) == 8 and row[4] in ("GLOBAL", "WEAK")]
    return {name for name, place in rows if place != "UND"}, {name for name, place in rows if place == "UND"}


def test_a_program_with_half_precision_runs_on_an_older_processor(tmp_path: Path) -> None:
    """Its conversions are those of its own compiler, not ones of ours for AVX-512."""
    library, emulator = _build(tmp_path, "x86"), need("qemu-x86_64")
    (tmp_path / "half.c").write_text(HALF, encoding="utf-8")
    call("cc", "-march=x86-64", "-O2", "-c", f"-I{library / 'include'}", "half.c", "-o", "half.o", cwd=tmp_path)
    assert "__truncsfhf2" in call("nm", "--undefined-only", tmp_path / "half.o")
    call("cc", tmp_path / "half.o", library / "lib/libmini.a", "-pthread", "-lm", "-o", tmp_path / "half")
    assert call(emulator, "-cpu", "Nehalem", tmp_path / "half") == "0.333252\n"
