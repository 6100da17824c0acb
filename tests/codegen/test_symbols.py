"""What an archive defines for the linker of a user's program: nothing but names under the library's prefix."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import succeed
from mini_spec import MINI
from programs import call, need

ELF_MACHINES = {"x86": "X86-64", "arm": "AArch64", "aarch64": "AArch64", "armv7": "ARM"}

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


@pytest.fixture(scope="module", params=ELF_MACHINES)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A target, and a library with every kind of object that a library has."""
    return request.param, _build(tmp_path_factory.mktemp(request.param), request.param)


def _build(folder: Path, target: str) -> Path:
    (folder / "mini.yaml").write_text(MINI, encoding="utf-8")
    succeed("build", "mini.yaml", "--target", target, "--untuned", "--out", "library", cwd=folder)
    return folder / "library"


def test_every_global_symbol_of_the_archive_has_the_prefix(library: tuple[str, Path]) -> None:
    target, directory = library
    archive = directory / "lib/libmini.a"
    headers = call("readelf", "-hW", archive).splitlines()
    machines = [line.split(":")[1].strip() for line in headers if "Machine:" in line]
    assert len(machines) >= 6, "driver, context, threads, cpu, weights and at least one instruction set"
    assert all(ELF_MACHINES[target] in machine for machine in machines)
    symbols = [line.split() for line in call("readelf", "-sW", archive).splitlines()]
    defined = [row[7] for row in symbols if len(row) == 8 and row[4] in ("GLOBAL", "WEAK") and row[6] != "UND"]
    assert {"mini_create", "mini_run"} <= set(defined)
    assert [name for name in defined if not name.startswith("mini_")] == []


def test_a_program_with_half_precision_runs_on_an_older_processor(tmp_path: Path) -> None:
    """Its conversions are those of its own compiler, not ones of ours for AVX-512."""
    library, emulator = _build(tmp_path, "x86"), need("qemu-x86_64")
    (tmp_path / "half.c").write_text(HALF, encoding="utf-8")
    call("cc", "-march=x86-64", "-O2", "-c", f"-I{library / 'include'}", "half.c", "-o", "half.o", cwd=tmp_path)
    assert "__truncsfhf2" in call("nm", "--undefined-only", tmp_path / "half.o")
    call("cc", tmp_path / "half.o", library / "lib/libmini.a", "-pthread", "-lm", "-o", tmp_path / "half")
    assert call(emulator, "-cpu", "Nehalem", tmp_path / "half") == "0.333252\n"
