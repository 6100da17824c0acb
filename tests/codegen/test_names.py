"""Libraries of odd names that a spec may have: each builds, compiles its example and runs, and so do two in one program
that includes all of C."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import call, need
from tiny_program import CHANNELS, CLASSES, HEIGHT, WIDTH, baseline_target, tiny_manifest, tiny_program

from mnv2c.codegen.assemble import assemble
from mnv2c.driver import identifier
from mnv2c.shipped import SPECS
from mnv2c.spec.reserved import HEADERS
from mnv2c.spec.table import load_spec

NAMES = (
    *("a", "Z", "I", "a-1.0", "a_1__", "n" * 64),
    *("for", "restrict", "nullptr", "thread_local", "class", "NULL", "errno_t", "linux"),
    *("net", "net_v2", "net_context", "net_layers", "net_weights", "net_threads", "libm", "stdio2", "pthreads"),
)
"""Short, long and with all that a name may have; words of C, C++ and their libraries; parts of our own symbols."""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By identifier."""
    place = tmp_path_factory.mktemp("names")
    found = {}
    for name in NAMES:
        own = identifier(load_spec(SPECS / "mnv2_0.35.yaml", [f'name="{name}"']).name)
        program = tiny_program(place, identifier=own, target=baseline_target())
        assemble(program, tiny_manifest(program), extra={}).write(place / own)
        found[own] = place / own
    return found


def flags(name: str, library: Path) -> list[str]:
    """What a program needs, as pkg-config says it."""
    environment = {"PKG_CONFIG_PATH": str(library / "lib/pkgconfig")}
    return call(need("pkg-config"), "--cflags", "--libs", name, env=environment).split()


@pytest.mark.parametrize("name", [identifier(name) for name in NAMES])
def test_its_example_runs(libraries: dict[str, Path], name: str, tmp_path: Path) -> None:
    (tmp_path / "image.rgb").write_bytes(bytes(range(HEIGHT)) * WIDTH * CHANNELS)
    expected = call_example(libraries["net"], "net", tmp_path)
    assert len(expected.splitlines()) == 5
    assert call_example(libraries[name], name, tmp_path) == expected


def call_example(library: Path, name: str, folder: Path) -> str:
    program = folder / f"main-{name}"
    call("cc", library / "examples/main.c", *flags(name, library), "-lm", "-o", program)
    return call(program, folder / "image.rgb", env={"LD_LIBRARY_PATH": str(library / "lib")})


BOTH = f"""\
#include "@one@.h"
#include "@other@.h"
#include <stdio.h>
static float x[{HEIGHT * WIDTH * CHANNELS}], y[{CLASSES}], z[{CLASSES}];
int main(void)
{{
    @one@_context *one;
    @other@_context *other;
    if (@one@_create(NULL, &one) != @ONE@_OK || @other@_create(NULL, &other) != @OTHER@_OK) return 1;
    if (@one@_run(one, x, y) != @ONE@_OK || @other@_run(other, x, z) != @OTHER@_OK) return 2;
    for (int i = 0; i < @ONE@_CLASSES; i++)
        if (y[i] != z[i]) return 3;
    @one@_destroy(one);
    @other@_destroy(other);
    return 0;
}}
"""


@pytest.mark.parametrize("name", [identifier(name) for name in NAMES if name != "net"])
def test_two_in_one_program(libraries: dict[str, Path], name: str, tmp_path: Path) -> None:
    """With all of C and POSIX before their headers; linked statically, and as shared libraries."""
    headers = "".join(f"#if __has_include(<{one}.h>)\n#include <{one}.h>\n#endif\n" for one in HEADERS.split())
    text = BOTH.replace("@one@", "net").replace("@other@", name).replace("@ONE@", "NET")
    (tmp_path / "main.c").write_text(f"#define _GNU_SOURCE\n{headers}{text.replace('@OTHER@', name.upper())}")
    both = (libraries["net"], libraries[name])
    includes = [f"-I{library}/include" for library in both]
    archives = [libraries["net"] / "lib/libnet.a", libraries[name] / f"lib/lib{name}.a"]
    strict = ("-std=gnu2x", "-Wall", "-Wextra", "-Werror")
    call("cc", *strict, *includes, tmp_path / "main.c", *archives, "-pthread", "-lm", "-o", tmp_path / "static")
    call(tmp_path / "static")
    call("cc", tmp_path / "main.c", *flags("net", both[0]), *flags(name, both[1]), "-o", tmp_path / "shared")
    call(tmp_path / "shared", env={"LD_LIBRARY_PATH": ":".join(f"{library}/lib" for library in both)})
