"""A Program becomes a Library: its symbols, its sources, the same bytes each time; written at once or not at all."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.metadata
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest
from command_line import SPECS, mnv2c
from programs import call
from tiny_program import baseline_target, tiny_manifest, tiny_program

from mnv2c.codegen.assemble import assemble
from mnv2c.codegen.header import FUNCTIONS
from mnv2c.codegen.library import Library
from mnv2c.codegen.program import Program
from mnv2c.deploy.manifest import Manifest
from mnv2c.errors import LibraryError, ToolError
from mnv2c.toolchain import ZIG_PACKAGE, compile_c, find_cc, find_zig, link_shared

Small = Callable[..., Library]
OURS = {"lib/a": b"one", "include/b.h": b"two"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return tiny_program(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def small(program: Program) -> Small:
    """A library of a few files and a real manifest: ``small({"lib/old": b""})`` has one more."""
    manifest = tiny_manifest(program)
    return lambda more=MappingProxyType({}): Library.of({**OURS, **more}, manifest)


@pytest.fixture(scope="module")
def library(program: Program) -> Library:
    return assemble(program, tiny_manifest(program), extra={})


@pytest.fixture(scope="module")
def built(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("build") / "tiny"
    library.write(directory)
    return directory


def test_holds_what_a_person_deploys(library: Library) -> None:
    assert set(library.files) == {
        "manifest.json",
        "include/tiny_1_0.h",
        "lib/libtiny_1_0.so",
        "lib/libtiny_1_0.a",
        "lib/pkgconfig/tiny_1_0.pc",
        "lib/cmake/tiny_1_0/tiny_1_0Config.cmake",
        "lib/cmake/tiny_1_0/tiny_1_0ConfigVersion.cmake",
        "src/tiny_1_0.c",
        "src/bands.c",
        "src/context.c",
        "src/threads.c",
        "src/cpu.c",
        "src/image.c",
        "src/image.h",
        "src/runtime.h",
        "src/kernel.h",
        "examples/main.c",
        "examples/CMakeLists.txt",
    }


def test_the_same_inputs_give_the_same_bytes(program: Program, library: Library, small: Small, tmp_path: Path) -> None:
    again = assemble(tiny_program(tmp_path), tiny_manifest(program), extra={})
    assert again.digest == library.digest
    assert dict(again.files) == dict(library.files)
    assert small({"lib/a": b"two"}).digest != small().digest


def test_nothing_says_where_it_was_built(library: Library) -> None:
    for path, content in library.files.items():
        for place in (b"/tmp", str(Path.cwd()).encode(), str(Path.home()).encode() + b"/", b"mnv2c_"):
            assert place not in content, f"{path} holds {place!r}"


def test_exports_only_the_documented_functions(built: Path) -> None:
    lines = call("nm", "-D", "--defined-only", built / "lib/libtiny_1_0.so").splitlines()
    assert {line.split()[-1] for line in lines} == {f"tiny_1_0_{name}" for name in FUNCTIONS}
    text = (built / "include/tiny_1_0.h").read_text()
    assert all(f"tiny_1_0_{name}(" in text for name in FUNCTIONS)


def test_every_symbol_of_the_archive_has_the_prefix(built: Path) -> None:
    lines = call("nm", "-g", "--defined-only", built / "lib/libtiny_1_0.a").splitlines()
    names = [line.split()[-1] for line in lines if len(line.split()) == 3]
    assert names
    assert all(name.startswith("tiny_1_0_") for name in names)


def test_needs_no_more_than_an_old_c_library(built: Path) -> None:
    dynamic = call("readelf", "-dW", built / "lib/libtiny_1_0.so")
    needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
    assert needed <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}
    assert "Library soname: [libtiny_1_0.so]" in dynamic
    versions = call("readelf", "-VW", built / "lib/libtiny_1_0.so")
    minors = [
        int(word.removeprefix("GLIBC_2.").split(".")[0]) for word in versions.split() if word.startswith("GLIBC_2.")
    ]
    assert max(minors) <= 28
    stack = next(line for line in call("readelf", "-lW", built / "lib/libtiny_1_0.so").splitlines() if "STACK" in line)
    assert "RWE" not in stack


def test_weights_are_stored_once_and_read_only(program: Program, built: Path) -> None:
    content = (built / "lib/libtiny_1_0.so").read_bytes()
    assert content.count(program.weights) == 1
    begin = content.index(program.weights)
    end = begin + len(program.weights)
    segments = [line.split() for line in call("readelf", "-lW", built / "lib/libtiny_1_0.so").splitlines()]
    loaded = [(int(row[1], 16), int(row[4], 16), "".join(row[6:-1])) for row in segments if row[:1] == ["LOAD"]]
    assert [flags for start, size, flags in loaded if start <= begin and end <= start + size] == ["R"]
    assert not (built / "weights.bin").exists()


def test_the_driver_is_a_call_per_layer(library: Library) -> None:
    text = library.files["src/tiny_1_0.c"].decode()
    assert "/* block1.mirror: each row and its mirror image */\n    LAYER(1, KERNEL_mirror, A(0)" in text
    assert "/* stem: scale and bias * / per channel */" in text


def test_sources_compile_without_a_warning(built: Path) -> None:
    strict = (find_cc(), "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-I", built / "include")
    for source in sorted((built / "src").glob("*.c")):
        for standard in ("c11", "gnu17"):
            subprocess.run([*strict, f"-std={standard}", "-pedantic", source], check=True)
    subprocess.run([*strict, built / "examples/main.c"], check=True)


def test_a_program_that_breaks_its_contract(program: Program) -> None:
    with pytest.raises(ValueError, match="lacks the prefix other_"):
        assemble(dataclasses.replace(program, identifier="other"), tiny_manifest(program), extra={})
    with pytest.raises(ValueError, match="not a C identifier"):
        assemble(dataclasses.replace(program, identifier="1.0"), tiny_manifest(program), extra={})
    with pytest.raises(ValueError, match="kernels for v4"):
        assemble(dataclasses.replace(program, kernels=("stem",)), tiny_manifest(program), extra={})


def test_zig_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError, match=f"pip install {ZIG_PACKAGE}"):
        find_zig("x86_64-linux-gnu")


def test_zig_package_is_the_pinned_one() -> None:
    assert ZIG_PACKAGE in (importlib.metadata.requires("mnv2c") or [])


def test_compiler_errors_are_shown(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int broken( {\n")
    with pytest.raises(ToolError, match=r"zig failed: .*bad\.c:1"):
        compile_c(find_zig(baseline_target().zig_triple), tmp_path, "bad.c")


def test_no_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ToolError, match="no C compiler: install one"):
        find_cc()


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_write_makes_and_replaces(tmp_path: Path, small: Small) -> None:
    target = tmp_path / "deep" / "build"
    small({"old": b""}).write(target)
    small().write(target)
    assert files_in(target) == dict(small().files)
    assert list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_write_replaces_where_names_cannot_be_exchanged(
    tmp_path: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnv2c.codegen.library._exchange", lambda one, other: False)
    small({"old": b""}).write(tmp_path / "build")
    small().write(tmp_path / "build")
    assert files_in(tmp_path / "build") == dict(small().files)
    assert list(tmp_path.iterdir()) == [tmp_path / "build"]


def test_write_into_an_empty_directory_and_through_a_link(tmp_path: Path, small: Small) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    small().write(tmp_path / "link")
    assert files_in(tmp_path / "real") == dict(small().files)
    assert (tmp_path / "link").is_symlink()


def test_write_spares_what_is_not_ours(tmp_path: Path, small: Small) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(LibraryError, match=r"it holds thesis\.tex, which is not part of an earlier build"):
        small().write(tmp_path)
    with pytest.raises(LibraryError, match="a file of that name is in the way"):
        small().write(tmp_path / "thesis.tex")
    with pytest.raises(LibraryError, match=r"cannot write .*a file on that path"):
        small().write(tmp_path / "thesis.tex" / "build")
    assert files_in(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("manifest", ["{}", "", '{"manifest_version": 3, "name": "an extension"}', "[" * 100_000])
def test_write_spares_other_people_s_manifests(tmp_path: Path, small: Small, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(LibraryError, match=r"it holds manifest\.json, which is not"):
        small().write(tmp_path)
    (tmp_path / "work.js").write_text("x")
    before = files_in(tmp_path)
    with pytest.raises(LibraryError, match=r"it holds manifest\.json, work\.js, which are not"):
        small().write(tmp_path)
    assert files_in(tmp_path) == before


def _a_file(build: Path) -> str:
    (build / "notes.txt").write_text("mine")
    return r"notes\.txt, which is"


def _a_file_beside_ours(build: Path) -> str:
    (build / "lib" / "mine").write_text("mine")
    return "lib/mine, which is"


def _a_repository(build: Path) -> str:
    (build / ".git" / "objects").mkdir(parents=True)
    (build / ".git" / "HEAD").write_text("ref: refs/heads/main")
    return r"\.git/, which is"


def _a_link_for_a_file(build: Path) -> str:
    (build / "lib" / "a").rename(build.parent / "a")
    (build / "lib" / "a").symlink_to(build.parent / "a")
    return "lib/a, which is"


def _a_link_for_a_folder(build: Path) -> str:
    (build / "lib").rename(build.parent / "lib")
    (build / "lib").symlink_to(build.parent / "lib")
    return "lib, which is"


def _a_link_for_the_manifest(build: Path) -> str:
    (build / "manifest.json").rename(build.parent / "manifest.json")
    (build / "manifest.json").symlink_to(build.parent / "manifest.json")
    return r"include/, lib/, manifest\.json, which are"


def _a_folder_for_a_file(build: Path) -> str:
    (build / "lib" / "a").unlink()
    (build / "lib" / "a").mkdir()
    return "lib/a/, which is"


def _more_than_is_told(build: Path) -> str:
    for number in range(5):
        (build / f"{number}").touch()
    return "it holds 0, 1, 2 and 2 more, which are"


@pytest.mark.parametrize(
    "add",
    [
        _a_file,
        _a_file_beside_ours,
        _a_repository,
        _a_link_for_a_file,
        _a_link_for_a_folder,
        _a_link_for_the_manifest,
        _a_folder_for_a_file,
        _more_than_is_told,
    ],
)
def test_write_spares_what_was_added_to_a_build(tmp_path: Path, small: Small, add: Callable[[Path], str]) -> None:
    small().write(tmp_path / "build")
    words = add(tmp_path / "build")
    before = files_in(tmp_path)
    with pytest.raises(LibraryError, match=words):
        small({"lib/a": b"new"}).write(tmp_path / "build")
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("out", ["ext", "."])
def test_build_refuses_before_it_compiles(tmp_path: Path, out: str) -> None:
    """As a browser extension is: it has a manifest.json too."""
    (tmp_path / out).mkdir(exist_ok=True)
    (tmp_path / out / "manifest.json").write_text("{}")
    (tmp_path / out / "work.js").write_text("x")
    before = files_in(tmp_path)
    done = mnv2c("build", SPECS / "mnv2_0.35.yaml", "--out", out, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, "nothing was done before"
    assert "it holds manifest.json, work.js, which are not part of an earlier build" in done.stderr
    assert files_in(tmp_path) == before


def test_write_spares_what_is_added_while_it_writes(
    tmp_path: Path, small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    small().write(tmp_path / "build")
    real = Path.write_bytes

    def slow(path: Path, content: bytes) -> int:
        (tmp_path / "build" / "notes.txt").touch()
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", slow)
    with pytest.raises(LibraryError, match="notes"):
        small({"lib/a": b"new"}).write(tmp_path / "build")
    assert set(files_in(tmp_path)) == {"build/notes.txt", *(f"build/{path}" for path in small().files)}


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only")])
def test_a_failed_write_leaves_the_old(
    tmp_path: Path, small: Small, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    small().write(tmp_path / "build")

    def fail(path: Path, content: bytes) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(LibraryError, match=words):
        small({"lib/a": b"new"}).write(tmp_path / "build")
    assert files_in(tmp_path / "build") == dict(small().files)
    assert list(tmp_path.iterdir()) == [tmp_path / "build"]


_WRITER = """
import sys
from pathlib import Path
from mnv2c.codegen.library import Library
from mnv2c.deploy.manifest import read_manifest
manifest = read_manifest(Path(sys.argv[2]))
for i in range(10**6):
    Library.of({f"{k}/file": str(i).encode() * 1000 for k in range(40)}, manifest).write(Path(sys.argv[1]))
    print("written", flush=True)
"""


def test_killed_at_any_moment_it_is_the_old_or_the_new(tmp_path: Path, built: Path, small: Small) -> None:
    target = tmp_path / "build"
    moments = random.Random(1)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", _WRITER, target, built], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.1 + moments.random() / 10)
            writer.send_signal(signal.SIGKILL)
        contents = {content for path, content in files_in(target).items() if path != "manifest.json"}
        assert len(contents) == 1
        assert len(files_in(target)) == 41
    small().write(target)
    assert [path.name for path in tmp_path.iterdir()] == ["build"]


def test_manifest_tells_the_interface(library: Library) -> None:
    assert json.loads(library.files["manifest.json"])["interface"] == {
        "identifier": "tiny_1_0",
        "instruction_sets": ["v4", "v3", "v2"],
        "input_shape": [1, 40, 6, 3],
        "outputs": [{"name": "logits", "shape": [1, 7], "dtype": "float32"}],
    }


def test_manifest_tells_the_tasks_and_the_files(program: Program, library: Library) -> None:
    manifest = Manifest.from_json(library.files["manifest.json"])
    assert manifest == library.manifest
    assert {name: kernel.tasks for name, kernel in manifest.kernels["v3"].items()} == {
        kernel.name: kernel.tasks for kernel in program.kernel_objects[0].kernels
    }
    assert manifest.files == {
        path: hashlib.sha256(content).hexdigest() for path, content in library.files.items() if path != "manifest.json"
    }


def test_no_place_for_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "good.c").write_text("int good;\n")
    with pytest.raises(ToolError, match=r"cannot make the cache .*/zig: .*; set XDG_CACHE_HOME to another place"):
        compile_c(find_zig(baseline_target().zig_triple), tmp_path, "good.c")


def test_a_symbol_that_is_nowhere(program: Program, tmp_path: Path) -> None:
    name = "tiny_1_0.c"
    (tmp_path / name).write_text("int nowhere(void);\nint somewhere(void) { return nowhere(); }\n")
    zig = find_zig(program.target.zig_triple)
    with pytest.raises(ToolError, match="undefined symbol: nowhere"):
        link_shared(zig, tmp_path, compile_c(zig, tmp_path, name), output="lib.so")
