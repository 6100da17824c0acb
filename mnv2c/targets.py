"""What a library can be built for: frozen values, and ``target_named`` that finds them by the names users type.

A target is one library; it carries one or more CPUs, instruction sets whose kernels the library holds and chooses among
when a context is created. Cores, vector width, register count and cache sizes drive the kernels' schedule rules.
"""

from __future__ import annotations

import difflib
import platform
from dataclasses import dataclass, replace
from pathlib import Path

from mnv2c.errors import TargetError


@dataclass(frozen=True)
class InstructionSet:
    """An instruction set that kernels are generated for, and the core that they are scheduled for.

    ``name`` is part of kernel symbols (``v3``) and what ``--instruction-set`` takes; ``mcpu`` is LLVM's name for the
    core, ``attributes`` what it may use besides (``+neon``) or not (``-crypto``). ``features`` are what a processor
    must have, by their names in /proc/cpuinfo on Arm. ``lanes`` is fp32 values per vector register; ``registers`` the
    architectural vector registers; cache sizes in bytes, per core or what all share; ``fmas_per_cycle`` counts vectors;
    ``fma_latency`` in cycles, to the next use as accumulator; ``loads_ahead`` registers that a core which executes in
    order needs free for what it loads before its use; ``load_cycles`` what a load costs beside multiply-adds.
    """

    name: str
    mcpu: str
    lanes: int
    registers: int
    features: tuple[str, ...]
    l2_bytes: int = 512 * 1024
    attributes: tuple[str, ...] = ()
    fmas_per_cycle: float = 2
    fma_latency: int = 4
    loads_ahead: int = 0
    load_cycles: float = 0.1


@dataclass(frozen=True)
class Target:
    """One library: ``triple`` is LLVM's, ``zig_triple`` the linker's with its glibc floor; the best CPU comes first.

    ``c_cpu`` and ``c_flags`` are what a C compiler needs to know beside the triple; ``float_abi`` is LLVM's where the
    triple leaves it open.
    """

    name: str
    description: str
    triple: str
    zig_triple: str
    instruction_sets: tuple[InstructionSet, ...]
    c_cpu: str = ""
    c_flags: tuple[str, ...] = ()
    float_abi: str = ""

    @property
    def gnu_triple(self) -> str:
        """As Debian names cross compilers and the folders of cross libraries: ``arm-linux-gnueabihf``."""
        return self.zig_triple.split(".")[0]

    @property
    def pointer_bits(self) -> int:
        """32 or 64."""
        return 32 if self.architecture.startswith("armv7") else 64

    @property
    def architecture(self) -> str:
        """As ``uname -m`` and the first part of triples name it: ``x86_64``, ``aarch64``, ``armv7l``."""
        return self.triple.split("-")[0]


V2 = InstructionSet(
    name="v2", mcpu="x86-64-v2", lanes=4, registers=16, features=("sse3", "ssse3", "sse4.1", "sse4.2", "popcnt")
)
V3 = InstructionSet(
    name="v3",
    mcpu="x86-64-v3",
    lanes=8,
    registers=16,
    features=(*V2.features, "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "lzcnt", "movbe"),
)
V4 = InstructionSet(
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
    instruction_sets=(V4, V3, V2),
)

# Latencies and throughputs: Arm's software optimization guides for each core; the A53's has none, so LLVM's model.
_ARMV8 = ("fp", "asimd")
_ARMV82 = (*_ARMV8, "crc32", "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "asimddp")
_BASE_ONLY = ("+neon", "-crypto", "-aes", "-sha2", "-crc")  # the BCM2711 has no crypto extension, though its core may

A53 = InstructionSet(
    name="armv8",
    mcpu="cortex-a53",
    lanes=4,
    registers=32,
    features=_ARMV8,
    attributes=_BASE_ONLY,
    fmas_per_cycle=1,
    fma_latency=10,
    loads_ahead=10,
    load_cycles=1,
)
A72 = InstructionSet(
    name="armv8",
    mcpu="cortex-a72",
    lanes=4,
    registers=32,
    features=_ARMV8,
    l2_bytes=1024 * 1024,
    attributes=_BASE_ONLY,
    fmas_per_cycle=1,
    fma_latency=4,
)
A76 = InstructionSet(
    name="armv82",
    mcpu="cortex-a76",
    lanes=4,
    registers=32,
    features=_ARMV82,
    attributes=("+neon", "+dotprod", "+fullfp16", "-crypto", "-aes", "-sha2"),
    fmas_per_cycle=2,
    fma_latency=4,
)
NEOVERSE_N1 = replace(A76, mcpu="neoverse-n1", l2_bytes=1024 * 1024)
A7 = InstructionSet(
    name="armv7",
    mcpu="cortex-a7",
    lanes=4,
    registers=16,
    features=("neon", "vfpv4"),
    attributes=("+neon", "+vfp4"),
    fmas_per_cycle=0.25,
    fma_latency=8,
)


def _arm64(name: str, description: str, *instruction_sets: InstructionSet) -> Target:
    return Target(
        name,
        description,
        triple="aarch64-linux-gnu",
        zig_triple="aarch64-linux-gnu.2.28",
        instruction_sets=instruction_sets,
    )


ARM = _arm64("arm", "every 64-bit Raspberry Pi and other ARMv8 boards, scheduled for the Pi 4 (Cortex-A72)", A72)
PI3 = _arm64("pi3", "Raspberry Pi 3, 64-bit (Cortex-A53); runs on every ARMv8", A53)
PI_ZERO_2W = _arm64("pizero2", "Raspberry Pi Zero 2 W, 64-bit (Cortex-A53); runs on every ARMv8", A53)
PI4 = _arm64("pi4", "Raspberry Pi 4, 64-bit (Cortex-A72); the same as arm", A72)
PI5 = _arm64("pi5", "Raspberry Pi 5 (Cortex-A76): ARMv8.2 and newer only", A76)
AARCH64 = _arm64(
    "aarch64",
    "64-bit Arm servers (Graviton, Neoverse): kernels for ARMv8.2 and ARMv8.0, chosen at create",
    NEOVERSE_N1,
    A72,
)
ARMV7 = Target(
    name="armv7",
    description="32-bit hard float with NEON and VFPv4: Raspberry Pi 2 and newer under a 32-bit system",
    triple="armv7l-linux-gnueabihf",
    zig_triple="arm-linux-gnueabihf.2.28",
    instruction_sets=(A7,),
    c_cpu="cortex-a7",
    c_flags=("-fno-unwind-tables", "-fno-asynchronous-unwind-tables"),
    float_abi="hard",
)
_ARM_TARGETS = (ARM, PI3, PI_ZERO_2W, PI4, PI5, AARCH64, ARMV7)


def _one_level(isa: InstructionSet) -> Target:
    return Target(
        name=f"x86-{isa.name}",
        description=f"x86-64 machines with {isa.mcpu} only",
        triple=X86.triple,
        zig_triple=X86.zig_triple,
        instruction_sets=(isa,),
    )


TARGETS = (X86, *(_one_level(isa) for isa in (V2, V3, V4)), *_ARM_TARGETS)
NATIVE_DESCRIPTION = "this machine only"


def native_target() -> Target:
    """The best x86-64 level this machine has, its own L1 and L2; TargetError on another architecture."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        raise TargetError(
            f"target native: this machine is {platform.system()} on {platform.machine()}; native means x86-64 Linux"
        )
    flags = _cpu_flags()
    for isa in X86.instruction_sets:
        if all(_KERNEL_NAMES.get(feature, feature.replace(".", "_")) in flags for feature in isa.features):
            return Target(
                name="native",
                description=NATIVE_DESCRIPTION,
                triple=X86.triple,
                zig_triple=X86.zig_triple,
                instruction_sets=(isa,),
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
