"""The static cost of a built library, layer by layer: ``mnv2c cost``, and its instructions: ``mnv2c bench --count``.

What comes in: a build directory and a core. What goes out: a ``Cost``. One inference runs under qemu, on zeros: which
instructions a kernel runs does not depend on its data. Caches are not modelled here: see ``memory``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv2c.cost.blocks import Block, count_blocks
from mnv2c.cost.code import disassemble, runs
from mnv2c.cost.cores import CORES, core_for, cores_of
from mnv2c.cost.cycles import function_costs, model_name
from mnv2c.deploy.network import Build, read_build
from mnv2c.deploy.runner import LINKING, arguments, link_runner, one_request
from mnv2c.errors import LibraryError, TargetError
from mnv2c.scratch import Scratch
from mnv2c.targets import target_for
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

    ``peak`` is the core's fp32 multiply-adds per cycle. ``unknown`` counts the instructions that ran and that the model
    does not know, by mnemonic.
    """

    directory: str
    core: str
    model: str
    instruction_set: str
    peak: float
    layers: tuple[LayerCost, ...]
    unknown: Mapping[str, int]

    @property
    def total(self) -> LayerCost:
        """All layers together."""
        macs, instructions = sum(x.macs for x in self.layers), sum(x.instructions for x in self.layers)
        return _layer("sum", macs, self.peak, instructions, sum(x.cycles for x in self.layers))


@dataclass(frozen=True)
class CoreChoice:
    """A core by LLVM's name, and which of the library's kernels run on it."""

    core: str
    instruction_set: str


def cost(
    directory: Path,
    *,
    core: str | None = None,
    instruction_set: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Cost:
    """One inference on one thread.

    ``core`` is LLVM's name of an Arm core, by default the one that the kernels in use are scheduled for; those are of
    ``instruction_set``, by default the one scheduled for ``core``, else the best in the library.
    LibraryError, TargetError or ToolError where the library, the core or a tool is not there.
    """
    build = read_build(directory)
    chosen = choose_core(build, core, instruction_set)
    with Scratch() as scratch:
        report(LINKING)
        return cost_of_program(build, link_runner(build, scratch, static=True), chosen, report)


def cost_of_program(build: Build, program: Path, chosen: CoreChoice, report: Callable[[str], None]) -> Cost:
    """The same, where ``link_runner`` has made ``program`` of the library."""
    core, name, triple = chosen.core, chosen.instruction_set, build.manifest.target.triple
    layers, prefix = build.manifest.layers, f"{build.interface.identifier}_{name}"
    qemu, model = find_qemu(build.architecture, plugins=True), model_name(core, triple)
    report("count the instructions of one inference")
    blocks = count_blocks(qemu, [str(program), *arguments(1, name)], feed=one_request(build.interface))
    report(f"estimate the cycles on {core}")
    symbols = {f"{prefix}_{layer.kernel}" for layer in layers}
    costs = function_costs(runs(disassemble(program), blocks, symbols), core, triple)
    calls = Counter(layer.kernel for layer in layers)
    peak = CORES[core].macs_per_cycle
    found = []
    for layer in layers:
        all_calls, times = costs.get(f"{prefix}_{layer.kernel}"), calls[layer.kernel]
        if all_calls is None:
            raise LibraryError(f"{build.directory}: {layer.kernel} did not run: qemu's processor lacks {name}")
        found.append(_layer(layer.name, layer.macs, peak, all_calls.instructions // times, all_calls.cycles / times))
    unknown = sum((one.unknown for one in costs.values()), Counter[str]())
    return Cost(str(build.directory), core, model, name, peak, tuple(found), unknown)


def count_instructions(
    directory: Path, *, instruction_set: str | None = None, report: Callable[[str], None] = lambda line: None
) -> int:
    """Instructions of one inference: those of two less those of one; from run to run a few in a million differ.

    LibraryError, TargetError or ToolError as ``cost``.
    """
    build = read_build(directory)
    qemu = find_qemu(build.architecture, plugins=True)
    with Scratch() as scratch:
        report(LINKING)
        program = link_runner(build, scratch, static=True)
        command = [str(program), *arguments(1, instruction_set)]
        report("count the instructions of one inference")
        once, twice = (count_blocks(qemu, command, feed=one_request(build.interface) * n) for n in (1, 2))
    return _instructions(twice) - _instructions(once)


def _instructions(blocks: list[Block]) -> int:
    return sum(block.count * block.instructions for block in blocks)


def choose_core(build: Build, core: str | None, instruction_set: str | None) -> CoreChoice:
    """The core asked for, else the one that the kernels are scheduled for; LibraryError or TargetError where there is
    none such."""
    known = cores_of(build.architecture)
    available, target = build.interface.instruction_sets, build.manifest.target
    if instruction_set is not None and instruction_set not in available:
        raise LibraryError(
            f"{build.directory}: no instruction set {instruction_set!r} in the library; it has {', '.join(available)}"
        )
    if core is not None:
        core_for(core, build.architecture)
    scheduled = {isa.name: isa.mcpu for isa in target_for(target.name, target.triple).instruction_sets}
    named_for = {mcpu: name for name, mcpu in scheduled.items() if name in available}
    name = instruction_set or named_for.get(core or "", available[0])
    if core is None and scheduled.get(name) not in known:
        raise TargetError(
            f"{build.directory}: no model of what {name} of {target.name} is scheduled for; name a --core of "
            f"{', '.join(known)}"
        )
    return CoreChoice(core or scheduled[name], name)


def _layer(name: str, macs: int, peak: float, instructions: int, cycles: float) -> LayerCost:
    return LayerCost(name, macs, instructions, cycles, macs / peak / cycles)


def to_json(result: Cost) -> dict[str, Any]:
    """What ``cost --json`` prints."""
    return {
        "directory": result.directory,
        "core": result.core,
        "model": result.model,
        "caveat": CAVEAT,
        "instruction_set": result.instruction_set,
        "peak_macs_per_cycle": result.peak,
        "unknown_instructions": dict(result.unknown),
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
    if result.unknown:
        names = ", ".join(f"{name} {count:,}" for name, count in sorted(result.unknown.items()))
        lines += ["", f"instructions that the model does not know, taken for slow ones: {names}"]
    return "\n".join(lines)
