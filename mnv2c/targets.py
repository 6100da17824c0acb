"""What a library can be built for: frozen values, and ``target_named`` that finds them by the names users type.

A target is one library; it carries one or more CPUs, i.e. instruction sets whose kernels the library holds and chooses among
when a context is created. Cores, vector width, register count and cache sizes drive the kernels' schedule rules.
"""

from __future__ import annotations

import difflib
import platform
from dataclasses import dataclass
from pathlib import Path

from mnv2c.errors import TargetError


@dataclass(frozen=True)
class Cpu:
    """An instruction set that kernels are generated for.

    ``name`` is part of kernel symbols (``v3``) and what ``--instruction-set`` takes; ``lanes`` is fp32 values per vector
    register; ``registers`` the architectural vector registers; cache sizes in bytes, per core.
    """

    name: str
    mcpu: str
    lanes: int
    registers: int
    features: tuple[str, ...]
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 512 * 1024


@dataclass(frozen=True)
class Target:
    """One library: ``triple`` is LLVM's, ``zig_triple`` the linker's with its glibc floor; the best CPU comes first."""

    name: str
    description: str
    triple: str
    zig_triple: str
    cpus: tuple[Cpu, ...]


V2 = Cpu(name="v2", mcpu="x86-64-v2", lanes=4, registers=16, features=("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"))
V3 = Cpu(
    name="v3",
    mcpu="x86-64-v3",
    lanes=8,
    registers=16,
    features=(*V2.features, "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "lzcnt", "movbe"),
)
V4 = Cpu(
    name="v4",
    mcpu="x86-64-v4",
    lanes=16,
    registers=32,
    features=(*V3.features, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
)

X86 = Target(
    name="x86",
    description="every x86-64 machine: kernels for x86-64-v2, v3 and v4, chosen when a context is created",
    triple="x86_64-linux-gnu",
    zig_triple="x86_64-linux-gnu.2.28",
    cpus=(V4, V3, V2),
)


def _one_level(cpu: Cpu) -> Target:
    return Target(
        name=f"x86-{cpu.name}",
        description=f"x86-64 machines with {cpu.mcpu} only",
        triple=X86.triple,
        zig_triple=X86.zig_triple,
        cpus=(cpu,),
    )


TARGETS = (X86, *(_one_level(cpu) for cpu in (V2, V3, V4)))
NATIVE_DESCRIPTION = "this machine only"


def native_target() -> Target:
    """The best x86-64 level this machine has, its own L1 and L2; TargetError on another architecture."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        raise TargetError(
            f"target native: this machine is {platform.system()} on {platform.machine()}; mnv2c builds for x86-64 Linux so far"
        )
    flags = _cpu_flags()
    for cpu in X86.cpus:
        if all(_KERNEL_NAMES.get(feature, feature.replace(".", "_")) in flags for feature in cpu.features):
            return Target(
                name="native",
                description=NATIVE_DESCRIPTION,
                triple=X86.triple,
                zig_triple=X86.zig_triple,
                cpus=(cpu,),
            )
    raise TargetError("target native: this processor lacks SSE4.2, which x86-64-v2 needs")


_KERNEL_NAMES = {"sse3": "pni", "lzcnt": "abm"}  # where /proc/cpuinfo names a feature otherwise


def _cpu_flags() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def target_named(name: str) -> Target:
    """The target a user named; TargetError with the nearest names where there is none."""
    if name == "native":
        return native_target()
    for target in TARGETS:
        if target.name == name:
            return target
    names = [target.name for target in TARGETS] + ["native"]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the targets are {', '.join(names)}"
    raise TargetError(f"unknown target {name!r}: {hint} (`mnv2c targets` describes them)")
