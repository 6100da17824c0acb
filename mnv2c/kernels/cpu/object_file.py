"""A compiled TVM module to an object file in which nothing but the kernels has a global symbol.

In: what ``tvm.tirx.build.codegen_build`` returns. Out: the bytes of an ELF object.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import tvm_ffi

from mnv2c.instructions.improve import improved
from mnv2c.instructions.inorder import Pipeline

_DEBUG = re.compile(rb", !dbg !\d+|^ *#dbg_.*\n|^!llvm\.dbg\.cu = .*\n| !dbg !\d+(?= \{)", re.MULTILINE)
_TRIPLE = re.compile(rb"^target .*$", re.MULTILINE)
_TVM_TARGET = re.compile(rb'^!\d+ = (!\{i32 \d+, !"tvm_target".*\})$', re.MULTILINE)


def object_file(module: tvm_ffi.Module, pipeline: Pipeline | None) -> bytes:
    """The ELF object of ``module``; where ``pipeline`` says how its core executes in order, with its blocks in an order
    for that.

    TVM adds ``__truncsfhf2`` and ``__extendhfsf2`` to every LLVM module (``CodeGenLLVM::InitTarget``): weak, and
    compiled for the kernels' instruction set. From a static library they would take the place of those of the user's
    own compiler, and end the program on an older processor. So what is weak becomes internal, on the way through LLVM's
    text, after TVM's optimisations, which do not run again: the code stays the same, byte for byte.
    """
    text = _written(module, "ll").replace(b"\ndefine weak ", b"\ndefine internal ")
    if pipeline is None:
        return _written(_read(text), "o")
    assembly = _written(_read(_DEBUG.sub(b"", text)), "s")
    return _written(_read(_assembled(improved(assembly.decode(), pipeline), text)), "o")


def _read(text: bytes) -> tvm_ffi.Module:
    with _memory(text) as path:
        return tvm_ffi.get_global_func("ffi.Module.load_from_file.ll")(path, "ll")


def _assembled(assembly: str, text: bytes) -> bytes:
    """A module of LLVM's with nothing but ``assembly``, for the target of the module ``text``."""
    escaped = assembly.replace("\\", "\\5C").replace('"', "\\22").replace("\t", "\\09")
    flag = _TVM_TARGET.search(text)
    assert flag is not None
    head = [*_TRIPLE.findall(text), b"!llvm.module.flags = !{!0}", b"!0 = " + flag[1]]
    return b"\n".join([*head, *(f'module asm "{line}"'.encode() for line in escaped.splitlines()), b""])


def _written(module: tvm_ffi.Module, kind: str) -> bytes:
    with _memory() as path:
        module.write_to_file(path, kind)
        return Path(path).read_bytes()


@contextlib.contextmanager
def _memory(content: bytes = b"") -> Iterator[str]:
    """The path of a file in memory, which no full disk can fail: LLVM ends the process where it cannot write a file."""
    with os.fdopen(os.memfd_create("mnv2c"), "wb") as memory:
        memory.write(content)
        memory.flush()
        yield f"/proc/self/fd/{memory.fileno()}"
