"""What a library for GPUs takes of one, layer by layer, beside its limits: ``mnv2c cost`` where there is no GPU.

What comes in: a build directory, whose manifest says what NVIDIA's compiler said of each kernel, and a GPU. What goes
out: a ``GpuCost``. Its times are bounds: no latency is modelled, nor that a kernel may read what another has left in
the L2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnv2c.deploy.manifest import Block, Layer
from mnv2c.deploy.network import read_build
from mnv2c.errors import LibraryError, TargetError
from mnv2c.precision import Precision
from mnv2c.spelling import did_you_mean

CAVEAT = "bounds, not times: no latency is modelled"
_PRODUCTS = ("pointwise", "expand_depthwise")  # begin the names of kernels that tensor cores may compute
LAUNCH = 1.3e-6
"""Seconds from one kernel of a CUDA graph to the next, as others have measured on an H100."""


@dataclass(frozen=True)
class Multiprocessor:
    """The limits of one, by NVIDIA's CUDA C++ programming guide, table "Technical Specifications per Compute
    Capability", its fp32 multiply-adds per cycle (table "Throughput of Native Arithmetic Instructions"), and those of
    its tensor cores with sums in fp32, by the data sheet of the GPU in ``GPUS``."""

    lanes: int
    tf32: int
    fp16: int
    threads: int
    blocks: int
    shared_bytes: int
    registers: int = 65536

    def multiply_adds(self, precision: Precision) -> int:
        """In a cycle, of 1x1 convolutions in that precision."""
        return {"fp32": self.lanes, "tf32": self.tf32, "fp16": self.fp16}[precision]

    def resident(self, block: Block) -> int:
        """How many such blocks it holds at once: registers are given out by 256 to a warp of 32 threads, and of shared
        memory each block costs 1 KB more."""
        warps = -(-block.threads // 32)
        registers = warps * (-(-block.registers * 32 // 256) * 256)
        fits = (
            self.threads // (32 * warps),
            self.registers // registers,
            self.shared_bytes // (block.shared_bytes + 1024),
        )
        return min(self.blocks, *fits)


@dataclass(frozen=True)
class Gpu:
    """By NVIDIA's data sheets: ``clock`` is the boost clock in Hz, ``bandwidth`` the memory's in bytes per second."""

    architecture: str
    processors: int
    clock: float
    bandwidth: float


MULTIPROCESSORS = {
    "sm_75": Multiprocessor(lanes=64, tf32=0, fp16=512, threads=1024, blocks=16, shared_bytes=64 * 1024),
    "sm_80": Multiprocessor(lanes=64, tf32=512, fp16=1024, threads=2048, blocks=32, shared_bytes=164 * 1024),
    "sm_86": Multiprocessor(lanes=128, tf32=128, fp16=256, threads=1536, blocks=16, shared_bytes=100 * 1024),
    "sm_87": Multiprocessor(lanes=128, tf32=512, fp16=1024, threads=1536, blocks=16, shared_bytes=164 * 1024),
    "sm_89": Multiprocessor(lanes=128, tf32=256, fp16=512, threads=1536, blocks=24, shared_bytes=100 * 1024),
    "sm_90": Multiprocessor(lanes=128, tf32=1024, fp16=2048, threads=2048, blocks=32, shared_bytes=228 * 1024),
    "sm_100": Multiprocessor(lanes=128, tf32=2048, fp16=4096, threads=2048, blocks=32, shared_bytes=228 * 1024),
    "sm_120": Multiprocessor(lanes=128, tf32=128, fp16=256, threads=1536, blocks=24, shared_bytes=100 * 1024),
}
GPUS = {
    "t4": Gpu("sm_75", 40, 1.59e9, 320e9),
    "a100": Gpu("sm_80", 108, 1.41e9, 1555e9),
    "rtx3090": Gpu("sm_86", 82, 1.695e9, 936e9),
    "orin": Gpu("sm_87", 16, 1.3e9, 204.8e9),
    "l4": Gpu("sm_89", 58, 2.04e9, 300e9),
    "h100": Gpu("sm_90", 132, 1.98e9, 3350e9),
    "b200": Gpu("sm_100", 148, 1.965e9, 8000e9),
    "rtx5090": Gpu("sm_120", 170, 2.41e9, 1792e9),
}
"""One of each architecture that libraries have code for, by the names that ``--core`` takes."""


@dataclass(frozen=True)
class LayerCost:
    """One launch. ``resident`` is how many of its blocks a multiprocessor holds, ``moved_bytes`` all that it reads and
    writes, once each; ``seconds`` the most of what a launch, the arithmetic and the memory take, which is ``bound``."""

    name: str
    blocks: int
    block: Block
    resident: int
    macs: int
    moved_bytes: int
    seconds: float
    bound: Literal["launch", "arithmetic", "memory"]


@dataclass(frozen=True)
class GpuCost:
    """A library's code for one architecture, on one ``gpu``."""

    directory: str
    gpu: str
    instruction_set: str
    precision: Precision
    layers: tuple[LayerCost, ...]

    @property
    def seconds(self) -> float:
        """Of all launches, one after the other."""
        return math.fsum(layer.seconds for layer in self.layers)


def gpu_cost(directory: Path, *, core: str | None = None, instruction_set: str | None = None) -> GpuCost:
    """One inference. ``core`` is one of ``GPUS``, by default that of the ``instruction_set``, which is by default the
    core's, or ``sm_90`` where the library has that.

    LibraryError where there is no such library, TargetError where it has no code for the core.
    """
    build = read_build(directory)
    available = [name for name in build.interface.instruction_sets if name in MULTIPROCESSORS]
    gpu = _gpu(core, instruction_set, available)
    name = GPUS[gpu].architecture
    if name not in available:
        raise TargetError(f"{directory}: no code for {name} in the library; it has {', '.join(available)}")
    kernels = build.manifest.kernels[name]
    found = []
    for layer in build.manifest.layers:
        kernel = kernels.get(layer.kernel)
        if kernel is None or kernel.block is None:
            raise LibraryError(f"{directory}: its manifest lacks {layer.kernel} for {name}; build the library again")
        found.append(_layer(layer, kernel.tasks, kernel.block, GPUS[gpu], build.manifest.precision))
    return GpuCost(str(directory), gpu, name, build.manifest.precision, tuple(found))


def _gpu(core: str | None, instruction_set: str | None, available: list[str]) -> str:
    """The GPU's name."""
    if core is not None and core not in GPUS:
        close = did_you_mean(core, GPUS)
        hint = f"did you mean {close}?" if close else f"there are {', '.join(GPUS)}"
        raise TargetError(f"unknown GPU {core!r}: {hint}")
    if core is not None and instruction_set not in (None, GPUS[core].architecture):
        raise TargetError(f"{core} runs code for {GPUS[core].architecture}, not for {instruction_set}")
    wanted = instruction_set or ("sm_90" if "sm_90" in available else next(iter(available), "sm_90"))
    by_architecture = {gpu.architecture: name for name, gpu in GPUS.items()}
    if core is None and wanted not in by_architecture:
        raise TargetError(f"no code is kept for {wanted}; there are {', '.join(by_architecture)}")
    return core or by_architecture[wanted]


def _layer(layer: Layer, blocks: int, block: Block, gpu: Gpu, precision: Precision) -> LayerCost:
    processor = MULTIPROCESSORS[gpu.architecture]
    rate = processor.multiply_adds(precision if layer.kernel.startswith(_PRODUCTS) else "fp32")
    share = blocks / (gpu.processors * math.ceil(blocks / gpu.processors))  # of the processors, none waits for another
    bounds = {
        "launch": LAUNCH,
        "arithmetic": layer.macs / (rate * gpu.processors * gpu.clock * share),
        "memory": layer.moved_bytes / gpu.bandwidth,
    }
    bound: Any = max(bounds, key=lambda name: bounds[name])
    resident = processor.resident(block)
    return LayerCost(layer.name, blocks, block, resident, layer.macs, layer.moved_bytes, bounds[bound], bound)


def to_json(result: GpuCost) -> dict[str, Any]:
    """What ``cost --json`` prints."""
    return {
        "directory": result.directory,
        "core": result.gpu,
        "caveat": CAVEAT,
        "instruction_set": result.instruction_set,
        "precision": result.precision,
        "seconds": result.seconds,
        "layers": [{**vars(layer), "block": vars(layer.block)} for layer in result.layers],
    }


def format_text(result: GpuCost) -> str:
    """What ``cost`` prints for people."""
    gpu = GPUS[result.gpu]
    processor = MULTIPROCESSORS[gpu.architecture]
    peak = 2 * processor.multiply_adds(result.precision) * gpu.processors * gpu.clock
    lines = [
        f"{result.directory} on {result.gpu}, {result.precision}, estimated: code for {result.instruction_set}, "
        f"{gpu.processors} multiprocessors, {peak / 1e12:.1f} TFLOP/s, {gpu.bandwidth / 1e9:.0f} GB/s, "
        f"{LAUNCH * 1e6:.1f} us a launch",
        f"{CAVEAT}; limits of a multiprocessor: {processor.registers} registers, {processor.threads} threads, "
        f"{processor.blocks} blocks, {processor.shared_bytes} bytes of shared memory",
        "",
        f"{'layer':16}  {'blocks':>6}  {'threads':>7}  {'registers':>9}  {'spilled':>7}  {'shared':>6}  "
        f"{'resident':>8}  {'MACs':>11}  {'bytes':>10}  {'us':>6}  bound by",
    ]
    for one in result.layers:
        block = one.block
        lines.append(
            f"{one.name:16}  {one.blocks:6}  {block.threads:7}  {block.registers:9}  {block.spilled_bytes:7}  "
            f"{block.shared_bytes:6}  {one.resident:8}  {one.macs:11,}  {one.moved_bytes:10,}  "
            f"{one.seconds * 1e6:6.2f}  {one.bound}"
        )
    macs, moved = sum(one.macs for one in result.layers), sum(one.moved_bytes for one in result.layers)
    launches = f"{len(result.layers)} launches"
    lines.append(f"{launches:69}  {macs:11,}  {moved:10,}  {result.seconds * 1e6:6.2f}")
    return "\n".join(lines)
