"""A compiled TVM module to an object file in which nothing but the kernels has a global symbol.

In: what ``tvm.tirx.build.codegen_build`` returns. Out: the bytes of an ELF object.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import tvm_ffi


def object_file(module: tvm_ffi.Module) -> bytes:
    """The ELF object of ``module``.

    TVM adds ``__truncsfhf2`` and ``__extendhfsf2`` to every LLVM module (``CodeGenLLVM::InitTarget``): weak, and
    compiled for the kernels' instruction set. From a static library they would take the place of those of the user's
    own compiler, and end the program on an older processor. So what is weak becomes internal, on the way through LLVM's
    text, after TVM's optimisations, which do not run again: the code stays the same, byte for byte.
    """
    with _memory(_written(module, "ll").replace(b"\ndefine weak ", b"\ndefine internal ")) as path:
        internal = tvm_ffi.get_global_func("ffi.Module.load_from_file.ll")(path, "ll")
    return _written(internal, "o")


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
