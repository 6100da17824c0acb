"""What a user does with a built library: builds against it, links two, runs it under valgrind and the sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from programs import call, need, sanitizer_flags
from tiny_program import HEIGHT, WIDTH, baseline_target, reference, tiny_manifest, tiny_program

from mnv2c.codegen.assemble import assemble
from mnv2c.runtime import under_prefix

HERE = Path(__file__).parent
PIXELS = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


@dataclass(frozen=True)
class Built:
    """A library, and the C source of its kernels."""

    directory: Path
    kernels: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    workload = tmp_path_factory.mktemp("kernels")
    program = tiny_program(workload, target=baseline_target())
    directory = tmp_path_factory.mktemp("build") / "tiny"
    assemble(program, tiny_manifest(program), extra={}).write(directory)
    moved = tmp_path_factory.mktemp("moved") / "with a space"  # everything in it is relative
    directory.rename(moved)
    return Built(moved, workload / "tiny_1_0_v2.c")


def check_example(program: Path, tmp_path: Path, library: Path) -> None:
    """Runs the example on an image; its classes and probabilities must be numpy's."""
    (tmp_path / "image.rgb").write_bytes(PIXELS.tobytes())
    (tmp_path / "labels.txt").write_text("".join(f"label {i}\n" for i in range(7)))
    environment = {"LD_LIBRARY_PATH": str(library / "lib")}
    lines = call(program, tmp_path / "image.rgb", tmp_path / "labels.txt", env=environment).splitlines()
    logits = reference((PIXELS[np.newaxis].astype(np.float32) - 127.5) / 127.5)["classifier"][0]
    probabilities = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-logits)[:5]
    assert lines == [f"{i:4d} {probabilities[i]:6.4f} label {i}" for i in order]


@pytest.mark.parametrize("static", [False, True])
def test_pkg_config(built: Built, tmp_path: Path, static: bool) -> None:
    environment = {"PKG_CONFIG_PATH": str(built.directory / "lib/pkgconfig")}
    words = call(need("pkg-config"), "--cflags", "--libs", "tiny_1_0", env=environment).replace("\\ ", "\0").split()
    flags = [word.replace("\0", " ") for word in words]
    if static:
        flags = [flag for flag in flags if flag != "-ltiny_1_0"] + ["-l:libtiny_1_0.a", "-pthread"]
    call(
        need("cc"),
        "-Wall",
        "-Wextra",
        "-Werror",
        built.directory / "examples/main.c",
        *flags,
        "-lm",
        "-o",
        tmp_path / "main",
    )
    check_example(tmp_path / "main", tmp_path, built.directory)


@pytest.mark.parametrize("static", [False, True])
def test_cmake(built: Built, tmp_path: Path, static: bool) -> None:
    need("cc")
    source = built.directory / "examples"
    if static:
        source = tmp_path / "examples"
        shutil.copytree(built.directory / "examples", source)
        lists = (source / "CMakeLists.txt").read_text().replace("tiny_1_0::tiny_1_0 m", "tiny_1_0::static")
        (source / "CMakeLists.txt").write_text(lists)
    call(need("cmake"), "-S", source, "-B", tmp_path / "out", f"-DCMAKE_PREFIX_PATH={built.directory}")
    call("cmake", "--build", tmp_path / "out")
    check_example(tmp_path / "out/classify", tmp_path, built.directory)


def test_the_example_says_what_is_wrong(built: Built, tmp_path: Path) -> None:
    library = built.directory / "lib/libtiny_1_0.a"
    include = f"-I{built.directory / 'include'}"
    call("cc", include, built.directory / "examples/main.c", library, "-lm", "-pthread", "-o", tmp_path / "main")
    (tmp_path / "short.rgb").write_bytes(b"123")
    (tmp_path / "image.rgb").write_bytes(PIXELS.tobytes())
    cases = {(): "usage", ("no",): "no", ("short.rgb",): "is not a file of", ("image.rgb", "no"): "cannot be read"}
    for arguments, words in cases.items():
        done = subprocess.run(
            [tmp_path / "main", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_labels_of_any_length(built: Built, tmp_path: Path, end: str) -> None:
    """One that the example has no room for is cut; those after it stay with their classes."""
    include, library = f"-I{built.directory / 'include'}", built.directory / "lib/libtiny_1_0.a"
    strict = ("-O2", "-D_FORTIFY_SOURCE=2", "-Wall", "-Wextra", "-Werror", include)
    call("cc", *strict, built.directory / "examples/main.c", library, "-lm", "-pthread", "-o", tmp_path / "main")
    (tmp_path / "image.rgb").write_bytes(PIXELS.tobytes())
    labels = ["a" * 254, "b" * 255, "", "c" * 256, "d" * 100_000, " e f", "g"]
    (tmp_path / "labels.txt").write_bytes((end or "\n").join(labels).encode() + end.encode())
    lines = call(tmp_path / "main", tmp_path / "image.rgb", tmp_path / "labels.txt").splitlines()
    shown = {int(line[:4]): line[12:] for line in lines}
    assert len(shown) == 5
    assert shown == {number: labels[number][:255] for number in shown}
    assert {3, 4} & shown.keys(), "of those that are cut"
    assert {5, 6} & shown.keys(), "of those after them"


def test_two_libraries_in_one_program(built: Built, tmp_path: Path) -> None:
    other = tiny_program(tmp_path, identifier="tiny_2_0", target=baseline_target())
    assemble(other, tiny_manifest(other), extra={}).write(tmp_path / "other")
    (tmp_path / "main.c").write_text(
        '#include "tiny_1_0.h"\n#include "tiny_2_0.h"\n'
        "int main(void) { tiny_1_0_context *a; tiny_2_0_context *b;\n"
        "int status = tiny_1_0_create(0, &a) + tiny_2_0_create(0, &b); tiny_1_0_destroy(a); tiny_2_0_destroy(b);\n"
        "return status; }\n"
    )
    includes = [f"-I{directory / 'include'}" for directory in (built.directory, tmp_path / "other")]
    libraries = [built.directory / "lib/libtiny_1_0.a", tmp_path / "other/lib/libtiny_2_0.a"]
    call("cc", *includes, tmp_path / "main.c", *libraries, "-pthread", "-o", tmp_path / "main")
    call(tmp_path / "main")


def test_the_header_is_c_and_cxx(built: Built, tmp_path: Path) -> None:
    (tmp_path / "main.cc").write_text(
        '#include "tiny_1_0.h"\n'
        "int main() { tiny_1_0_options o = TINY_1_0_OPTIONS_INIT;"
        "return o.threads + (tiny_1_0_create(&o, 0) != TINY_1_0_ARGUMENT); }\n"
    )
    flags = ("-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{built.directory / 'include'}")
    library = built.directory / "lib/libtiny_1_0.a"
    call(need("c++"), *flags, tmp_path / "main.cc", library, "-pthread", "-o", tmp_path / "main")


def test_errors_from_c(built: Built, tmp_path: Path) -> None:
    include = f"-I{built.directory / 'include'}"
    library = built.directory / "lib/libtiny_1_0.a"
    call("cc", include, HERE / "misuse.c", library, "-pthread", "-o", tmp_path / "misuse")
    assert call(tmp_path / "misuse") == "every misuse gave its status\n"


def compile_stress(built: Built, program: Path, *flags: str, sources: tuple[Path, ...] = ()) -> None:
    include = f"-I{built.directory / 'include'}"
    library = built.directory / "lib/libtiny_1_0.a"
    call("cc", "-g", *flags, include, HERE / "stress.c", *sources, library, "-pthread", "-lm", "-o", program)


def test_twelve_threads(built: Built, tmp_path: Path) -> None:
    compile_stress(built, tmp_path / "stress", "-O2")
    assert call(tmp_path / "stress", "2000") == "0 of 12 threads got wrong numbers\n"


def test_valgrind(built: Built, tmp_path: Path) -> None:
    compile_stress(built, tmp_path / "stress", "-O2")
    valgrind = (need("valgrind"), "-q", "--error-exitcode=3", "--leak-check=full", "--errors-for-leak-kinds=all")
    call(*valgrind, tmp_path / "stress", "20")


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers(built: Built, tmp_path: Path, sanitizer: str) -> None:
    """The driver and the runtime from ``src/``, the kernels from their C; only the weights come from the archive."""
    sources = (*sorted((built.directory / "src").glob("*.c")), built.kernels)
    compile_stress(built, tmp_path / "stress", *sanitizer_flags(sanitizer, tmp_path), sources=sources)
    call(tmp_path / "stress", "300")


SANITIZED = [("", 400), ("address,undefined", 100), ("thread", 100)]


@pytest.mark.parametrize(("sanitizer", "rounds"), SANITIZED)
def test_each_task_runs_once_whoever_steals_it(built: Built, tmp_path: Path, sanitizer: str, rounds: int) -> None:
    """``stealing.c`` and the pool alone."""
    program = compile_runtime(built, tmp_path, sanitizer, "stealing.c", "threads.c")
    assert call(program, str(rounds)) == "each task ran once\n"


@pytest.mark.parametrize(("sanitizer", "rounds"), SANITIZED)
def test_bands_find_the_rows_they_read(built: Built, tmp_path: Path, sanitizer: str, rounds: int) -> None:
    """``bands.c`` here and there, and the pool."""
    program = compile_runtime(built, tmp_path, sanitizer, "bands.c", "threads.c", "bands.c")
    assert call(program, str(rounds // 20)) == "every band is right\n"


def compile_runtime(built: Built, tmp_path: Path, sanitizer: str, test: str, *parts: str) -> Path:
    """A program beside this file with those parts of the runtime alone, with a sanitizer where one is named."""
    flags = sanitizer_flags(sanitizer, tmp_path) if sanitizer else ("-O2",)
    source = tmp_path / test
    source.write_text(under_prefix((HERE / test).read_text(encoding="utf-8"), "tiny_1_0"), encoding="utf-8")
    includes = [f"-I{built.directory / folder}" for folder in ("include", "src")]
    warnings = ("-Wall", "-Wextra", "-Werror")
    runtime = [built.directory / "src" / part for part in parts]
    call(need("cc"), "-g", *warnings, *flags, *includes, source, *runtime, "-pthread", "-o", tmp_path / "program")
    return tmp_path / "program"


def test_an_idle_pool_sleeps(built: Built, tmp_path: Path) -> None:
    (tmp_path / "idle.c").write_text(
        '#include <stdio.h>\n#include <time.h>\n#include <unistd.h>\n#include "tiny_1_0.h"\n'
        "static float x[TINY_1_0_HEIGHT * TINY_1_0_WIDTH * 3], y[TINY_1_0_CLASSES];\n"
        "int main(void) { tiny_1_0_options o = TINY_1_0_OPTIONS_INIT; tiny_1_0_context *c; o.threads = 2;\n"
        "if (tiny_1_0_create(&o, &c) || tiny_1_0_run(c, x, y)) return 1;\n"
        'clock_t start = clock(); usleep(500000); printf("%f\\n", (double)(clock() - start) / CLOCKS_PER_SEC);\n'
        "tiny_1_0_destroy(c); return 0; }\n"
    )
    include = f"-I{built.directory / 'include'}"
    library = built.directory / "lib/libtiny_1_0.a"
    call("cc", include, tmp_path / "idle.c", library, "-pthread", "-o", tmp_path / "idle")
    assert float(call(tmp_path / "idle")) < 0.05
