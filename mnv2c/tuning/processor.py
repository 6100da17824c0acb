"""What LLVM calls this machine's processor: the name under which its records are kept."""

from __future__ import annotations

import functools

from tvm.target.codegen import llvm_get_system_cpu


@functools.cache
def processor_name() -> str:
    """``znver5``; where LLVM does not know it, the nearest that it does, or ``generic``."""
    return str(llvm_get_system_cpu())
