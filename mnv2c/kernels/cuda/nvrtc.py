"""NVIDIA's run-time compiler, from its package on PyPI, by ``ctypes``: CUDA C to a cubin or to PTX, without a GPU.

What comes in: CUDA C that needs no header, and an architecture. What goes out: its code, with what ptxas says of each
kernel: registers, bytes spilled, shared memory.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mnv2c.errors import ToolError
from mnv2c.kernels.abi import Usage

PACKAGE = "nvidia-cuda-nvrtc-cu12"
_OPTIONS = ("--std=c++17", "--fmad=true", "--ptxas-options=-v")
_USED = re.compile(
    r"Compiling entry function '(\w+)'.*?\n(?:.*\n)*?.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads\n.*?Used (\d+) registers(.*)"
)
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Compiled:
    """``code`` is an ELF file (a cubin) or PTX text; ``usage`` by kernel, none for PTX."""

    code: bytes
    usage: Mapping[str, Usage]


def compile_cubin(source: str, architecture: str) -> Compiled:
    """For one architecture, such as ``sm_90``. ToolError where the compiler is missing or refuses."""
    return _compile(source, f"--gpu-architecture={architecture}", "CUBIN")


def compile_ptx(source: str, architecture: str) -> Compiled:
    """For a virtual architecture, such as ``compute_75``, and every later GPU, whose driver compiles it."""
    return _compile(source, f"--gpu-architecture={architecture}", "PTX")


def version() -> str:
    """Of the package. ToolError where it is not installed."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise _missing() from None


def _missing() -> ToolError:
    return ToolError(f"target cuda needs the package {PACKAGE}: pip install 'mnv2c[cuda]'")


@functools.cache
def _library() -> ctypes.CDLL:
    version()
    files = importlib.metadata.files(PACKAGE) or ()
    paths = sorted(Path(str(file.locate())) for file in files if re.match(r"libnvrtc(-builtins)?\.so\.", file.name))
    try:
        loaded = [ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL) for path in paths]  # the builtins sort first
    except OSError as error:
        raise ToolError(f"{PACKAGE} cannot be loaded: {error}") from error
    if not loaded:
        raise _missing()
    return next(library for library in reversed(loaded) if hasattr(library, "nvrtcCompileProgram"))


def _compile(source: str, architecture: str, kind: str) -> Compiled:
    library = _library()
    program = ctypes.c_void_p()
    _check(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None))
    try:
        options = [option.encode() for option in (architecture, *_OPTIONS)]
        status = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _text(library, program, "ProgramLog").decode(errors="replace").rstrip("\0")
        if status:
            first = next((line for line in log.splitlines() if "error" in line), log[:200])
            raise ToolError(f"NVRTC cannot compile for {architecture.partition('=')[2]}: {first}")
        return Compiled(_text(library, program, kind), usage(log))
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(library: ctypes.CDLL, program: ctypes.c_void_p, kind: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(library, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(library, f"nvrtcGet{kind}")(program, buffer))
    return buffer.raw


def usage(log: str) -> dict[str, Usage]:
    """By kernel, as ptxas writes it."""
    found = {}
    for name, stack, stores, loads, registers, rest in _USED.findall(log):
        shared = _SHARED.search(rest)
        spilled = int(stores) + int(loads)
        found[name] = Usage(int(registers), spilled, int(stack), int(shared[1]) if shared else 0)
    return found


def _check(status: int) -> None:
    if status:
        raise ToolError(f"NVRTC failed with status {status}")
