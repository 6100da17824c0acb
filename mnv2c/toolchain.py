"""Finds compilers and QEMU, and runs the compilers: zig from PyPI compiles and links every library.

The machine needs no compiler of its own. One named in ``CC``, or the target's cross gcc where zig is missing, does
the same work; libraries then ask for that compiler's glibc. What comes in: file names inside a working directory.
What goes out: files beside them, the same bytes from the same inputs. Every failure is a ToolError that says what to
do.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv2c import cache, processes
from mnv2c.errors import ToolError
from mnv2c.targets import Target

ZIG_PACKAGE = "ziglang==0.17.1"
_QEMU_NAMES = {"armv7l": "arm"}  # where QEMU names an architecture otherwise
_LITTLE_SPACE = 64 * 1024 * 1024  # bytes; more than any library
_MESSAGE_LINES = 8  # of a compiler's output, enough for its first error


@dataclass(frozen=True)
class Toolchain:
    """A C compiler for one target, with every flag that makes it compile for that.

    ``static`` starts it for programs that need no shared library at all; ``shared_flags`` are for shared libraries.
    """

    name: str
    version: str
    command: tuple[str, ...]
    static: tuple[str, ...]
    archiver: tuple[str, ...]
    shared_flags: tuple[str, ...] = ()


def find_toolchain(target: Target) -> Toolchain:
    """The compiler in ``CC``, else zig, else the target's gcc. ToolError where none is, or is for another machine."""
    named = os.environ.get("CC", "").strip()
    if named:
        return _find_gcc(shlex.split(named), target)
    if importlib.util.find_spec("ziglang") is not None:
        return find_zig(target.zig_triple, _flags(target, zig=True))
    gcc = f"{target.gnu_triple}-gcc"
    if shutil.which(gcc) is None:
        raise ToolError(
            f"nothing here compiles C for {target.gnu_triple}: pip install {ZIG_PACKAGE}, or install {gcc} "
            f"(apt install gcc-{target.gnu_triple}), or set CC to a compiler"
        )
    return _find_gcc([gcc], target)


def find_zig(zig_triple: str, flags: Sequence[str] = ()) -> Toolchain:
    """zig for one target; ToolError where the package is missing."""
    if importlib.util.find_spec("ziglang") is None:
        raise ToolError(f"zig, which compiles and links the library, is missing: pip install {ZIG_PACKAGE}")
    zig = (sys.executable, "-m", "ziglang")
    musl = zig_triple.split(".")[0].replace("-gnu", "-musl")
    return Toolchain(
        name="zig",
        version=importlib.metadata.version("ziglang"),
        command=(*zig, "cc", "-target", zig_triple, *flags),
        static=(*zig, "cc", "-target", musl, *flags, "-static"),
        archiver=(*zig, "ar"),
        # Without this zig first builds its own run-time libraries, 8 to 25 s, which no kernel needs.
        shared_flags=("-nostdlib",),
    )


def _find_gcc(command: list[str], target: Target) -> Toolchain:
    """gcc or another compiler, with its options. ToolError where it compiles for another machine than the target."""
    machine = _first_line((*command, "-dumpmachine"))
    wanted = target.gnu_triple.split("-")[0]
    if machine.split("-")[0] != wanted:
        raise ToolError(
            f"{shlex.join(command)} compiles for {machine or 'an unknown machine'}, not for {wanted}: set CC to "
            f"another compiler, such as {target.gnu_triple}-gcc, or unset it for zig"
        )
    flags = _flags(target, zig=False)
    archiver = next((found for name in (f"{machine}-ar", "ar") if (found := shutil.which(name))), None)
    if archiver is None:
        raise ToolError(f"no {machine}-ar and no ar for the static library: apt install binutils-{target.gnu_triple}")
    return Toolchain(
        name=shlex.join(command),
        version=_first_line((*command, "-dumpversion")),
        command=(*command, *flags),
        static=(*command, *flags, "-static"),
        archiver=(archiver,),
    )


def _flags(target: Target, *, zig: bool) -> tuple[str, ...]:
    if not target.c_cpu:
        return target.c_flags
    cpu = target.c_cpu.replace("-", "_") if zig else target.c_cpu
    return (f"-mcpu={cpu}", *target.c_flags)


def _first_line(command: Sequence[str]) -> str:
    try:
        done = processes.run(command)
    except OSError as error:
        raise ToolError(f"CC: {command[0]} cannot be started: {error.strerror}; unset CC for zig") from error
    if done.returncode != 0:
        raise ToolError(f"CC: {shlex.join(command)} fails, so it is no C compiler; unset CC for zig")
    return done.stdout.strip().split("\n")[0]


def find_cc() -> str:
    """The machine's own C compiler, for a user's programs; mnv2c itself needs none. ToolError where there is none."""
    path = shutil.which(os.environ.get("CC", "cc"))
    if path is None:
        raise ToolError("no C compiler: install one (apt install gcc), or set CC to its path")
    return path


def find_qemu(architecture: str, *, plugins: bool = False) -> str:
    """The path of QEMU's user emulator for ``architecture`` (as in ``uname -m``); ToolError where there is none.

    With ``plugins`` one that loads them, which Debian's static ones do not.
    """
    name = f"qemu-{_QEMU_NAMES.get(architecture, architecture)}"
    for program in (name,) if plugins else (f"{name}-static", name):
        path = shutil.which(program)
        if path is not None:
            return path
    if plugins:
        raise ToolError(f"no {name}, which counts instructions: apt install qemu-user")
    raise ToolError(f"no {name}-static, which runs programs for {architecture} here: apt install qemu-user-static")


def compile_c(toolchain: Toolchain, directory: Path, *sources: str, flags: Sequence[str] = ()) -> list[str]:
    """Compiles ``sources`` (C, or assembler: ``.S``) in ``directory``, all at once; the names of the objects there.

    ToolError, here and below, where the compiler fails or the disk is full.
    """
    names = [Path(source).with_suffix(".o").name for source in sources]
    options = ("-O2", "-std=c11", "-fPIC", "-fvisibility=hidden", "-g0", *flags)
    commands = [
        (*toolchain.command, *options, "-c", source, "-o", name) for source, name in zip(sources, names, strict=True)
    ]
    _run(toolchain, commands, directory)
    return names


def link_shared(
    toolchain: Toolchain,
    directory: Path,
    objects: Sequence[str],
    *,
    output: str,
    version_script: str | None = None,
    libraries: Sequence[str] = (),
) -> None:
    """Links objects in ``directory`` into the stripped shared library ``output``, which is its soname too.

    ``libraries`` are options for those it needs beside libc, libm and pthread: ``-ldl``.
    """
    options = ["-shared", *toolchain.shared_flags, "-s", f"-Wl,-soname,{output}", "-Wl,--build-id=none", "-Wl,-z,defs"]
    options.append("-Wl,-z,nodelete")  # threads of a context that is alive run its code, dlclose or not
    if version_script is not None:
        options.append(f"-Wl,--version-script={version_script}")
    standard = ("-lc", "-lpthread", "-lm")
    _run(toolchain, [(*toolchain.command, *options, *objects, *standard, *libraries, "-o", output)], directory)


def link_program(
    toolchain: Toolchain,
    directory: Path,
    inputs: Sequence[str],
    *,
    output: str,
    static: bool,
    flags: Sequence[str] = (),
) -> None:
    """Compiles and links sources and libraries in ``directory`` into a program; ``static`` ones run on any Linux."""
    command = toolchain.static if static else toolchain.command
    _run(toolchain, [(*command, "-O2", "-std=c11", *flags, *inputs, "-lpthread", "-lm", "-o", output)], directory)


def archive(toolchain: Toolchain, directory: Path, objects: Sequence[str], *, output: str) -> None:
    """Makes the static library ``output`` of objects in ``directory``, without times and owners."""
    _run(toolchain, [(*toolchain.archiver, "rcsD", output, *objects)], directory)


def _run(toolchain: Toolchain, commands: Sequence[Sequence[str]], directory: Path) -> None:
    """Side by side. Only what zig makes of its own is kept: what it makes of ours is never asked for again."""
    own = directory / ".zig-cache"
    with cache.using("zig") as kept:  # its C library stubs take seconds
        places = {"ZIG_GLOBAL_CACHE_DIR": str(kept), "ZIG_LOCAL_CACHE_DIR": str(own), "TMPDIR": str(directory)}
        try:
            finished = processes.run_side_by_side(commands, cwd=directory, env=os.environ | places | {"LC_ALL": "C"})
        except OSError as error:
            raise ToolError(f"{toolchain.name} cannot be started: {error.strerror}") from error
        finally:
            shutil.rmtree(own, ignore_errors=True)
        for done in finished:
            if done.returncode != 0:
                raise ToolError(_explain(toolchain.name, directory, kept, done))


def _explain(name: str, directory: Path, kept: Path, done: processes.Finished) -> str:
    free = min(shutil.disk_usage(place).free for place in (directory, kept))
    # zig writes through mapped memory, so that on a full disk it may end without a message.
    died = not done.stderr.strip() and free < _LITTLE_SPACE
    if died or "NoSpaceLeft" in done.stderr or "No space left" in done.stderr:
        return f"{name}: the disk is full; free some space in {directory.parent} and {kept}"
    lines = [line for line in done.stderr.splitlines() if line.strip()][:_MESSAGE_LINES]
    reason = "\n    ".join(lines) if lines else f"no message, exit status {done.returncode}"
    return f"{name} failed: {reason}"
