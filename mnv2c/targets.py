"""What a library can be built for: frozen values, and the functions that find them.

What comes in: names that users type, that manifests and that records hold. What goes out: a ``Target``, which is one
library, or an ``InstructionSet``, for which the library holds kernels: it chooses among them when a context is created.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from mnv2c.errors import TargetError
from mnv2c.precision import Precision
from mnv2c.spelling import did_you_mean

Kind: TypeAlias = Literal["cpu", "cuda"]
"""Of devices: whose kernels, packing and memory a library takes."""

Bands: TypeAlias = Literal["off", "auto"] | int
"""Which blocks run in bands: none, those whose expanded map no L2 holds, or all, of so many rows."""


@dataclass(frozen=True)
class InstructionSet:
    """An instruction set that kernels are generated for, and the core that they are scheduled for.

    ``name`` is part of kernel symbols (``v3``, ``a72``) and what ``--instruction-set`` takes; ``mcpu`` is LLVM's name
    for the core, under which its records are kept, ``attributes`` what it may use besides (``+neon``) or not
    (``-crypto``). ``features`` are what a processor must have, by their names in /proc/cpuinfo; ``runtime/cpu.c`` asks
    for the same. ``parts`` are the cores that it is meant for, before all others that these run on: Arm's implementer
    and part, as ``implementer << 12 | part``.

    The rest drives the schedules: ``lanes`` is fp32 values per vector register; ``registers`` the architectural vector
    registers; ``fused_multiply_add`` whether one instruction multiplies and adds, so that no register is needed for the
    product; ``scalar_operand`` whether it takes one value for all lanes, or a load spreads it in passing, so that
    neither a register nor an instruction is needed for that; ``pair_bytes`` how far apart values may lie that LLVM
    loads from one base, each with its neighbour, which then waits in a register; ``unrolls`` whether LLVM may write out
    short loops, and load once for all pixels what they read, into registers; ``l2_bytes`` per core, or what all share;
    ``fmas_per_cycle`` counts vectors; ``fma_latency`` in cycles, to the next use as accumulator; ``sums`` how many of
    those, vectors, a kernel with few multiply-adds for each keeps: with more the code grows, and with 32 registers
    sixteen are 1.04 to 1.2 times slower than eight on a Zen 4, 1.01 to 1.2 times by the models of the A72 and the A76,
    where LLVM spills some; ``loads_ahead`` registers that a core which executes in order needs free for what it loads
    before its use; ``load_cycles`` what a load costs beside multiply-adds.
    """

    name: str
    mcpu: str
    lanes: int
    registers: int
    features: tuple[str, ...]
    parts: tuple[int, ...] = ()
    l2_bytes: int = 512 * 1024
    attributes: tuple[str, ...] = ()
    fused_multiply_add: bool = True
    scalar_operand: bool = True
    pair_bytes: int = 0
    unrolls: bool = True
    fmas_per_cycle: float = 2
    fma_latency: int = 4
    sums: int = 8
    loads_ahead: int = 0
    load_cycles: float = 0.1

    @property
    def kind(self) -> Kind:
        """Of the devices that have it."""
        return kind_of(self.mcpu)


@dataclass(frozen=True)
class Target:
    """One library: ``triple`` is LLVM's, ``zig_triple`` the linker's with its glibc floor.

    ``instruction_sets`` stand best first, all of one kind.
    ``c_cpu`` and ``c_flags`` are what a C compiler needs to know beside the triple; ``float_abi`` is LLVM's where the
    triple leaves it open. ``bands`` is what a build does that is not told: ``auto`` where nothing large stands between
    the L2 and the memory; where an L3 does, bands gain no time.
    """

    name: str
    description: str
    triple: str
    zig_triple: str
    instruction_sets: tuple[InstructionSet, ...]
    c_cpu: str = ""
    c_flags: tuple[str, ...] = ()
    float_abi: str = ""
    bands: Bands = "off"

    @property
    def l2_bytes(self) -> int:
        """What every one of its cores has."""
        return min(isa.l2_bytes for isa in self.instruction_sets)

    @property
    def kind(self) -> Kind:
        """Of its instruction sets."""
        return self.instruction_sets[0].kind

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
    name="v2",
    mcpu="x86-64-v2",
    lanes=4,
    registers=16,
    features=("pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "cx16", "lahf_lm"),
    fused_multiply_add=False,
)
V3 = InstructionSet(
    name="v3",
    mcpu="x86-64-v3",
    lanes=8,
    registers=16,
    features=(*V2.features, "avx", "avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"),
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

# Latencies and throughputs: Arm's software optimization guides for each core; the A53 has none, so LLVM's model of it.
_ARMV8 = ("fp", "asimd")
_ARMV82 = (*_ARMV8, "crc32", "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "asimddp")
_PAIR_BYTES = 512  # of ldp, for single values
_BASE_ONLY = ("+neon", "-crypto", "-aes", "-sha2", "-crc")  # the BCM2711 has no crypto extension, though its core may

A53 = InstructionSet(
    name="a53",
    mcpu="cortex-a53",
    lanes=4,
    registers=32,
    pair_bytes=_PAIR_BYTES,
    features=_ARMV8,
    parts=(0x41D03, 0x41D04, 0x41D05, 0x41D46, 0x41D80),  # A53, A35, A55, A510, A520: all execute in order
    attributes=_BASE_ONLY,
    fmas_per_cycle=1,
    fma_latency=10,
    loads_ahead=7,
    load_cycles=1,
)
A72 = InstructionSet(
    name="a72",
    mcpu="cortex-a72",
    lanes=4,
    registers=32,
    pair_bytes=_PAIR_BYTES,
    features=_ARMV8,
    parts=(0x41D08, 0x41D07, 0x41D09),  # A72, A57, A73
    l2_bytes=1024 * 1024,
    attributes=_BASE_ONLY,
    fmas_per_cycle=1,
    fma_latency=4,
)
A76 = InstructionSet(
    name="a76",
    mcpu="cortex-a76",
    lanes=4,
    registers=32,
    pair_bytes=_PAIR_BYTES,
    features=_ARMV82,
    parts=(0x41D0B,),
    attributes=("+neon", "+dotprod", "+fullfp16", "-crypto", "-aes", "-sha2"),
    fmas_per_cycle=2,
    fma_latency=4,
)
NEOVERSE_N1 = replace(A76, name="n1", mcpu="neoverse-n1", parts=(0x41D0C,), l2_bytes=1024 * 1024)
# LLVM takes a multiplication and an addition for vfma on a Cortex-A7, and orders by its oldest scheduler, which spills.
_FUSED = ("-slowfpvfmx", "-slowfpvmlx", "-vmlx-hazards")
A7 = InstructionSet(
    name="armv7",
    mcpu="cortex-a7",
    lanes=4,
    registers=16,
    features=("neon", "vfpv4"),
    attributes=("+neon", "+vfp4", *_FUSED, "+use-misched"),
    scalar_operand=False,
    unrolls=False,  # nothing that it reads once fits in registers then
    fmas_per_cycle=0.25,
    fma_latency=8,
    sums=4,
    loads_ahead=2,
    load_cycles=2,
)


def _arm64(name: str, description: str, *instruction_sets: InstructionSet, bands: Bands = "auto") -> Target:
    return Target(
        name,
        description,
        triple="aarch64-linux-gnu",
        zig_triple="aarch64-linux-gnu.2.28",
        instruction_sets=instruction_sets,
        bands=bands,
    )


ARM = _arm64(
    "arm",
    "every 64-bit Raspberry Pi and other Arm board: kernels for Cortex-A53, A72 and A76, chosen at create",
    A76,
    A72,
    A53,
)
PI3 = _arm64("pi3", "Raspberry Pi 3, 64-bit (Cortex-A53); runs on every ARMv8", A53)
PI_ZERO_2W = _arm64("pizero2", "Raspberry Pi Zero 2 W, 64-bit (Cortex-A53); runs on every ARMv8", A53)
PI4 = _arm64("pi4", "Raspberry Pi 4, 64-bit (Cortex-A72); runs on every ARMv8", A72)
PI5 = _arm64("pi5", "Raspberry Pi 5 (Cortex-A76): ARMv8.2 and newer only", A76)
AARCH64 = _arm64(
    "aarch64",
    "64-bit Arm servers (Graviton, Neoverse): kernels for ARMv8.2 and ARMv8.0, chosen at create",
    NEOVERSE_N1,
    A72,
    bands="off",
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
    bands="auto",
)
_ARM_TARGETS = (ARM, PI3, PI_ZERO_2W, PI4, PI5, AARCH64, ARMV7)


def _gpu(architecture: str, *, name: str = "") -> InstructionSet:
    """NVIDIA's name for an architecture, real (``sm_90``) or virtual (``compute_75``, for which PTX is kept)."""
    return InstructionSet(name=name or architecture, mcpu=architecture, lanes=32, registers=255, features=())


PTX = _gpu("compute_75", name="ptx")
CUDA = Target(
    name="cuda",
    description="NVIDIA GPUs from Turing on: code for sm_75 to sm_120, chosen at create, and PTX for later ones",
    triple=X86.triple,
    zig_triple=X86.zig_triple,
    instruction_sets=(*(_gpu(f"sm_{number}") for number in (120, 100, 90, 89, 87, 86, 80, 75)), PTX),
)


def _one_gpu(name: str) -> Target | None:
    """``cuda:sm_90``: code for that architecture alone; None where it is not one of ``CUDA``'s."""
    found = [isa for isa in CUDA.instruction_sets if f"{CUDA.name}:{isa.name}" == name]
    return replace(CUDA, name=name, instruction_sets=tuple(found)) if found else None


_TF32 = 80  # the first compute capability, times ten, whose tensor cores take it


def in_precision(target: Target, precision: Precision) -> Target:
    """Those of ``target``'s instruction sets that compute in ``precision``; TargetError where there are none."""
    if precision == "fp32":
        return target
    if target.kind == "cpu":
        raise TargetError(f"target {target.name}: kernels for CPUs compute in fp32, not in {precision}")
    if precision == "fp16":
        return target
    later = replace(PTX, mcpu=f"compute_{_TF32}")
    named = [later if isa == PTX else isa for isa in target.instruction_sets]
    able = tuple(isa for isa in named if int(isa.mcpu.rpartition("_")[2]) >= _TF32)
    if not able:
        raise TargetError(f"target {target.name}: tensor cores take tf32 from sm_{_TF32} on; this one's take fp16")
    return replace(target, instruction_sets=able)


def in_bands(target: Target, bands: Bands | None) -> Target:
    """``target`` with ``bands``, where they are given; TargetError where it has no kernels for them."""
    if bands is None or bands == target.bands:
        return target
    if target.kind == "cuda":
        raise TargetError(f"target {target.name}: blocks run in bands on CPUs alone; leave out --bands")
    return replace(target, bands=bands)


def _only(isa: InstructionSet) -> Target:
    return Target(
        name=f"x86-{isa.name}",
        description=f"x86-64 machines with {isa.mcpu} only",
        triple=X86.triple,
        zig_triple=X86.zig_triple,
        instruction_sets=(isa,),
    )


TARGETS = (X86, *(_only(isa) for isa in (V2, V3, V4)), *_ARM_TARGETS, CUDA)
"""All but ``native``, which depends on the machine."""

_EVERYWHERE = {target.architecture: target for target in (X86, ARM)}
"""Which libraries run on every machine of an architecture."""

NATIVE = "native"
NATIVE_DESCRIPTION = "this machine only: of x86 or arm, the kernels that it would take"


def target_named(name: str) -> Target:
    """The target a user named; TargetError with the nearest names where there is none."""
    if name == NATIVE:
        return native_target()
    for target in TARGETS:
        if target.name == name:
            return target
    if (gpu := _one_gpu(name)) is not None:
        return gpu
    names = [*(target.name for target in TARGETS), NATIVE]
    close = did_you_mean(name, names)
    hint = f"did you mean {close}?" if close else f"the targets are {', '.join(names)}"
    raise TargetError(f"unknown target {name!r}: {hint} (`mnv2c targets` describes them)")


def native_target() -> Target:
    """What the library for every machine of this architecture would take here, alone; TargetError where there is none.

    Kernels are scheduled as for every processor that takes them, whatever this one's caches are: so their records fit.
    """
    everywhere = _target_here()
    if everywhere is None:
        raise TargetError(
            f"target native: this machine is {platform.system()} on {platform.machine()}; native means Linux on "
            f"{' or '.join(_EVERYWHERE)}"
        )
    here = instruction_sets_here()
    if not here:
        least = everywhere.instruction_sets[-1]
        raise TargetError(f"target native: this processor lacks what {least.mcpu} needs ({', '.join(least.features)})")
    return replace(everywhere, name=NATIVE, description=NATIVE_DESCRIPTION, instruction_sets=here[:1])


def instruction_sets_here() -> tuple[InstructionSet, ...]:
    """Those whose kernels this machine runs, the one that ``runtime/cpu.c`` chooses first, then best first; none where
    it is none that libraries are built for."""
    everywhere = _target_here()
    if everywhere is None:
        return ()
    cpuinfo = _cpuinfo()
    runs = [isa for isa in everywhere.instruction_sets if _features(cpuinfo).issuperset(isa.features)]
    # A core that none is meant for takes the best; of several kinds of cores the biggest counts.
    taken = {next((isa for isa in runs if part in isa.parts), runs[0]) for part in _parts(cpuinfo) if runs}
    first = [isa for isa in runs if isa in taken][:1]
    return (*first, *(isa for isa in runs if isa not in first))


def target_for(name: str, triple: str) -> Target:
    """The target to compile C for a built library with, whose manifest has ``name`` and ``triple``.

    TargetError where this version has no such target.
    """
    same = {target.name: target for target in TARGETS if target.triple == triple}
    if name == NATIVE and (everywhere := _EVERYWHERE.get(triple.split("-")[0])) is not None:
        return everywhere
    if CUDA.triple == triple and (gpu := _one_gpu(name)) is not None:
        return gpu
    if name not in same:
        raise TargetError(f"this mnv2c knows no target {name} for {triple}; build the library again")
    return same[name]


def instruction_set_named(name: str) -> tuple[Target, InstructionSet]:
    """By the name in kernel symbols, and a target that has it. TargetError where there is none."""
    for target, isa in _pairs():
        if isa.name == name:
            return target, isa
    raise TargetError(f"this mnv2c knows no instruction set {name}; build the library again")


def core_named(mcpu: str) -> tuple[Target, InstructionSet]:
    """By LLVM's name for the core, under which records are kept; and a target. TargetError where none is for it."""
    for target, isa in _pairs():
        if isa.mcpu == mcpu:
            return target, isa
    raise TargetError(f"this mnv2c knows no core {mcpu!r}: no target is scheduled for it")


def kind_of(mcpu: str) -> Kind:
    """The kind of device that has LLVM's, or NVIDIA's, architecture of a name."""
    return "cuda" if mcpu.startswith(("sm_", "compute_")) else "cpu"


def kind_of_target(name: str) -> Kind:
    """Of a target by its name, which a manifest may have from another version."""
    return "cuda" if name.partition(":")[0] == CUDA.name else "cpu"


def cores(architecture: str) -> dict[str, InstructionSet]:
    """Those that targets of an ``architecture`` (as in ``uname -m``) are scheduled for, by LLVM's name."""
    return {isa.mcpu: isa for target, isa in _pairs() if target.architecture == architecture}


def _pairs() -> Iterator[tuple[Target, InstructionSet]]:
    for target in TARGETS:
        for isa in target.instruction_sets:
            yield target, isa


def _target_here() -> Target | None:
    """The one for every machine like this."""
    return _EVERYWHERE.get(platform.machine()) if platform.system() == "Linux" else None


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")


def _features(cpuinfo: str) -> frozenset[str]:
    """Of its first processor; the others have the same."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found[1].split() if found else ())


def _parts(cpuinfo: str) -> list[int]:
    """Of Arm cores, as ``InstructionSet.parts``."""
    implementers, parts = (
        [int(number, 16) for number in re.findall(rf"^CPU {name}\s*: (0x[0-9a-f]+)$", cpuinfo, re.MULTILINE)]
        for name in ("implementer", "part")
    )
    return [implementer << 12 | part for implementer, part in zip(implementers, parts, strict=False)]
