"""Finds the compilers and runs them: zig from PyPI compiles and links every library; the machine needs none of its own.

What comes in: file names inside a working directory. What goes out: files beside them, the same bytes from the same
inputs. Every failure is a ToolError that says what to do.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv2c.errors import ToolError

ZIG_PACKAGE = "ziglang==0.17.1"
_ANOTHER_CACHE = "set XDG_CACHE_HOME to another place"
_LITTLE_SPACE = 64 * 1024 * 1024  # bytes; more than any library
_MESSAGE_LINES = 8  # of a compiler's output, enough for its first error


@dataclass(frozen=True)
class Toolchain:
    """zig and what it compiles for: ``command`` starts it, ``triple`` is zig's, with the glibc floor."""

    command: tuple[str, ...]
    version: str
    triple: str


def find_zig(zig_triple: str) -> Toolchain:
    """zig for one target; ToolError where the package is missing."""
    if importlib.util.find_spec("ziglang") is None:
        raise ToolError(f"zig, which compiles and links the library, is missing: pip install {ZIG_PACKAGE}")
    return Toolchain(
        command=(sys.executable, "-m", "ziglang"),
        version=importlib.metadata.version("ziglang"),
        triple=zig_triple,
    )


def find_cc() -> str:
    """The machine's own C compiler, for a user's programs; mnv2c itself needs none. ToolError where there is none."""
    path = shutil.which(os.environ.get("CC", "cc"))
    if path is None:
        raise ToolError("no C compiler: install one (apt install gcc), or set CC to its path")
    return path


def compile_c(toolchain: Toolchain, directory: Path, source: str, *, flags: Sequence[str] = ()) -> str:
    """Compiles ``source`` (C, or assembler: ``.S``) in ``directory``; the name of the object, which lies there."""
    name = Path(source).with_suffix(".o").name
    options = ("-O2", "-std=c11", "-fPIC", "-fvisibility=hidden", "-g0", *flags)
    _run(toolchain, ("cc", "-target", toolchain.triple, *options, "-c", source, "-o", name), directory)
    return name


def link_shared(
    toolchain: Toolchain, directory: Path, objects: Sequence[str], *, output: str, version_script: str | None = None
) -> None:
    """Links objects in ``directory`` into the stripped shared library ``output``, which is its soname too."""
    # Without -nostdlib zig first builds its own run-time libraries, 8 to 25 s, which no kernel needs.
    options = ["-shared", "-nostdlib", "-s", f"-Wl,-soname,{output}", "-Wl,--build-id=none", "-Wl,-z,defs"]
    if version_script is not None:
        options.append(f"-Wl,--version-script={version_script}")
    command = ("cc", "-target", toolchain.triple, *options, *objects, "-lc", "-lpthread", "-lm", "-o", output)
    _run(toolchain, command, directory)


def archive(toolchain: Toolchain, directory: Path, objects: Sequence[str], *, output: str) -> None:
    """Makes the static library ``output`` of objects in ``directory``, without times and owners."""
    _run(toolchain, ("ar", "rcsD", output, *objects), directory)


def _run(toolchain: Toolchain, arguments: Sequence[str], directory: Path) -> None:
    cache = str(_cache_directory())
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            (*toolchain.command, *arguments),
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise ToolError(f"zig cannot be started: {error.strerror}; try: pip install {ZIG_PACKAGE}") from error
    if done.returncode != 0:
        raise ToolError(_explain(arguments, directory, done.returncode, done.stderr))


def _explain(arguments: Sequence[str], directory: Path, status: int, output: str) -> str:
    cache = _cache_directory()
    free = min(shutil.disk_usage(place).free for place in (directory, cache))
    # zig writes through mapped memory, so that on a full disk it may die without a word.
    died = not output.strip() and free < _LITTLE_SPACE
    if died or "NoSpaceLeft" in output or "No space left" in output:
        return f"zig {arguments[0]}: the disk is full; free some space in {directory.parent} and {cache}"
    lines = [line for line in output.splitlines() if line.strip()][:_MESSAGE_LINES]
    reason = "\n    ".join(lines) if lines else f"no message, exit status {status}"
    return f"zig {arguments[0]} failed: {reason}"


def _cache_directory() -> Path:
    """Where zig keeps what it has built (its C library stubs take seconds): ``~/.cache/mnv2c/zig``, made here.

    zig itself does not return where it cannot make it.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        directory = (Path(home).absolute() if home else Path.home() / ".cache") / "mnv2c" / "zig"
        directory.mkdir(parents=True, exist_ok=True)
    except RuntimeError as error:
        raise ToolError("no home directory for zig's cache: set XDG_CACHE_HOME to a place for it") from error
    except OSError as error:
        raise ToolError(f"cannot make zig's cache {directory}: {error.strerror}; {_ANOTHER_CACHE}") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ToolError(f"cannot write zig's cache {directory}: permission denied; {_ANOTHER_CACHE}")
    return directory
