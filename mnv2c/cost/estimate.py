"""The static cost of a built library, layer by layer: ``mnv2c cost``, and its instructions: ``mnv2c bench --count``.

What comes in: a build directory and a core. What goes out: a ``Cost``. One inference runs under qemu, on zeros: which
instructions a kernel runs does not depend on its data. Caches are not modelled.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv2c.cost.blocks import Block, count_blocks
from mnv2c.cost.cycles import FunctionCost, function_costs, model_name
from mnv2c.deploy.network import Build, read_build
from mnv2c.deploy.peer import LINKING, arguments, link_runner, one_request
from mnv2c.errors import LibraryError, TargetError
from mnv2c.spelling import did_you_mean
from mnv2c.targets import InstructionSet, cores, target_for
from mnv2c.toolchain import find_qemu

CAVEAT = "no cache is modelled, and no call (memset): a lower bound to compare schedules by, not a time"


@dataclass(frozen=True)
class LayerCost:
    """One layer's multiply-adds, the instructions that ran and the cycles estimated for them.

    ``peak_share`` is the cycles at the core's peak over the estimated ones, from 0 to 1.
    """

    name: str
    macs: int
    instructions: int
    cycles: float
    peak_share: float

    @property
    def macs_per_cycle(self) -> float:
        return self.macs / self.cycles


@dataclass(frozen=True)
class Cost:
    """``model`` names the program, and its model of the core, that gave the cycles.

    ``peak`` is the core's fp32 multiply-adds per cycle.
    """

    directory: str
    core: str
    model: str
    instruction_set: str
    peak: float
    layers: tuple[LayerCost, ...]

    @property
    def total(self) -> LayerCost:
        """All layers together."""
        return _layer("sum", sum(x.macs for x in self.layers), self.peak, _sum(self.layers))


def cost(
    directory: Path,
    *,
    core: str | None = None,
    instruction_set: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Cost:
    """One inference on one thread.

    ``core`` is LLVM's name of a 64-bit Arm core, by default the one that the kernels in use are scheduled for; the
    kernels are by default those for the core.
    LibraryError, TargetError or ToolError where the library, the core or a tool is not there.
    """
    build = read_build(directory)
    name = instruction_set or _default_kernels(build, core)
    isa = _core(build, name, core)
    layers, prefix = build.manifest.layers, f"{build.interface.identifier}_{name}"
    qemu, model = find_qemu(build.architecture, plugins=True), model_name(isa.mcpu)
    with tempfile.TemporaryDirectory(prefix="mnv2c-") as scratch:
        report(LINKING)
        program = link_runner(build, Path(scratch), static=True)
        report("count the instructions of one inference")
        blocks = count_blocks(qemu, [str(program), *arguments(1, name)], feed=one_request(build.interface))
        report(f"estimate the cycles on {isa.mcpu}")
        symbols = {f"{prefix}_{layer.kernel}" for layer in layers}
        costs = function_costs(program, blocks, symbols, isa.mcpu, build.manifest.target.triple)
    calls = Counter(layer.kernel for layer in layers)
    peak = isa.fmas_per_cycle * isa.lanes
    found = []
    for layer in layers:
        all_calls, times = costs.get(f"{prefix}_{layer.kernel}"), calls[layer.kernel]
        if all_calls is None:
            raise LibraryError(f"{directory}: {layer.kernel} did not run: qemu's processor lacks {name}")
        once = FunctionCost(all_calls.instructions // times, all_calls.cycles / times)
        found.append(_layer(layer.name, layer.macs, peak, once))
    return Cost(str(directory), isa.mcpu, model, name, peak, tuple(found))


def count_instructions(
    directory: Path, *, instruction_set: str | None = None, report: Callable[[str], None] = lambda line: None
) -> int:
    """Instructions of one inference: those of two less those of one; from run to run a few in a million differ.

    LibraryError, TargetError or ToolError as ``cost``.
    """
    build = read_build(directory)
    qemu = find_qemu(build.architecture, plugins=True)
    with tempfile.TemporaryDirectory(prefix="mnv2c-") as scratch:
        report(LINKING)
        program = link_runner(build, Path(scratch), static=True)
        command = [str(program), *arguments(1, instruction_set)]
        report("count the instructions of one inference")
        once, twice = (count_blocks(qemu, command, feed=one_request(build.interface) * runs) for runs in (1, 2))
    return _instructions(twice) - _instructions(once)


def _instructions(blocks: list[Block]) -> int:
    return sum(block.count * block.instructions for block in blocks)


def _default_kernels(build: Build, core: str | None) -> str:
    """Those scheduled for the core, where the library has them, else its best."""
    available, isa = build.interface.instruction_sets, cores("aarch64").get(core or "")
    return isa.name if isa is not None and isa.name in available else available[0]


def _core(build: Build, instruction_set: str, core: str | None) -> InstructionSet:
    """The core asked for, or the one that the kernels were scheduled for."""
    known, available = cores("aarch64"), build.interface.instruction_sets
    if build.architecture != "aarch64":
        raise TargetError(f"{build.directory}: built for {build.architecture}; there are models of {', '.join(known)}")
    if instruction_set not in available:
        raise LibraryError(
            f"{build.directory}: no instruction set {instruction_set!r} in the library; it has {', '.join(available)}"
        )
    if core is None:
        target = target_for(build.manifest.target.name, build.manifest.target.triple)
        scheduled = {isa.name: isa for isa in target.instruction_sets}
        if instruction_set not in scheduled:
            raise TargetError(
                f"{build.directory}: this mnv2c knows no {instruction_set} of {target.name}; build it again"
            )
        return scheduled[instruction_set]
    if core not in known:
        close = did_you_mean(core, known)
        hint = f"did you mean {close}?" if close else f"there are {', '.join(known)}"
        raise TargetError(f"unknown core {core!r}: {hint}")
    return known[core]


def _layer(name: str, macs: int, peak: float, cost: FunctionCost) -> LayerCost:
    return LayerCost(name, macs, cost.instructions, cost.cycles, macs / peak / cost.cycles)


def _sum(layers: tuple[LayerCost, ...]) -> FunctionCost:
    return FunctionCost(sum(layer.instructions for layer in layers), sum(layer.cycles for layer in layers))


def to_json(result: Cost) -> dict[str, Any]:
    """What ``cost --json`` prints."""
    return {
        "directory": result.directory,
        "core": result.core,
        "model": result.model,
        "caveat": CAVEAT,
        "instruction_set": result.instruction_set,
        "peak_macs_per_cycle": result.peak,
        "total": vars(result.total),
        "layers": [vars(layer) for layer in result.layers],
    }


def format_text(result: Cost) -> str:
    """What ``cost`` prints for people."""
    lines = [
        f"{result.directory} on {result.core}, estimated: instruction set {result.instruction_set}, one thread",
        f"cycles by {result.model}; peak {result.peak:g} fp32 multiply-adds a cycle; {CAVEAT}",
        "",
        f"{'layer':16}  {'MACs':>11}  {'instructions':>12}  {'cycles':>11}  {'MACs/cycle':>10}  {'of peak':>7}",
    ]
    for one in (*result.layers, result.total):
        counts = f"{one.macs:11,}  {one.instructions:12,}  {one.cycles:11,.0f}"
        lines.append(f"{one.name:16}  {counts}  {one.macs_per_cycle:10.2f}  {one.peak_share:7.1%}")
    return "\n".join(lines)
