"""What a library's layers move through the caches of a board that is not here: ``mnv2c cost --memory``.

What comes in: a build directory, a board, a number of threads. What goes out: a ``MemoryCost``. Two inferences run
under qemu with a simulator of the board's caches, and the second counts, so that the weights are as warm as they would
be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnv2c.cost.caches import Traffic, simulate
from mnv2c.cost.code import disassemble
from mnv2c.cost.cores import BOARDS, CORES, LINE_BYTES, Board, board_named
from mnv2c.cost.estimate import LayerCost, choose_core, cost_of_program
from mnv2c.deploy.network import Build, read_build
from mnv2c.deploy.runner import LINKING, arguments, link_runner, one_request
from mnv2c.errors import LibraryError, TargetError
from mnv2c.scratch import Scratch
from mnv2c.toolchain import find_qemu

CAVEAT = (
    "a range, not a time: a layer's memory may wait while it computes or not, and stores may read lines first or not"
)


@dataclass(frozen=True)
class LayerMemory:
    """One layer, or all of a block that runs in bands: lines that each cache missed, the L1 first, and bytes that
    memory read for loads, ``filled`` for stores and had written.

    ``core_seconds`` are the model's cycles and what L1 misses add, shared by all threads; ``memory_seconds`` what the
    memory takes at least, without the fills, and at most, with them.
    """

    name: str
    misses: tuple[int, ...]
    read_bytes: int
    filled_bytes: int
    written_bytes: int
    core_seconds: float
    memory_seconds: tuple[float, float]


@dataclass(frozen=True)
class MemoryCost:
    """``model`` is that of the core's cycles."""

    directory: str
    board: str
    threads: int
    model: str
    instruction_set: str
    layers: tuple[LayerMemory, ...]

    @property
    def total(self) -> LayerMemory:
        """All layers together."""
        least, most = (sum(layer.memory_seconds[i] for layer in self.layers) for i in (0, 1))
        return LayerMemory(
            "sum",
            tuple(map(sum, zip(*(layer.misses for layer in self.layers), strict=True))),
            sum(layer.read_bytes for layer in self.layers),
            sum(layer.filled_bytes for layer in self.layers),
            sum(layer.written_bytes for layer in self.layers),
            sum(layer.core_seconds for layer in self.layers),
            (least, most),
        )

    @property
    def seconds(self) -> tuple[float, float]:
        """At least, where a layer computes while memory moves; at most, where neither does while the other works."""
        least = sum(max(layer.core_seconds, layer.memory_seconds[0]) for layer in self.layers)
        return least, sum(layer.core_seconds + layer.memory_seconds[1] for layer in self.layers)


def memory_cost(
    directory: Path,
    *,
    board: str | None = None,
    threads: int = 1,
    instruction_set: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> MemoryCost:
    """One inference on ``threads`` of the ``board``'s cores; the board is by default the one that the library is for.

    LibraryError, TargetError or ToolError where the library, the board or a tool is not there.
    """
    build = read_build(directory)
    name, there = _board(build, board, instruction_set)
    chosen = choose_core(build, there.core, instruction_set)
    with Scratch() as scratch:
        report(LINKING)
        program = link_runner(build, scratch, static=True)
        computed = cost_of_program(build, program, chosen, report)
        report(f"simulate the caches of {name} for two inferences on {threads} thread{'s' if threads > 1 else ''}")
        jobs = _jobs(build, computed.layers)
        traffic = _traffic(build, program, there, threads, chosen.instruction_set, len(jobs))
    layers = tuple(_layer(one, moved, there, threads) for one, moved in zip(jobs, traffic, strict=True))
    return MemoryCost(str(directory), name, threads, computed.model, chosen.instruction_set, layers)


def _jobs(build: Build, layers: Sequence[LayerCost]) -> list[list[LayerCost]]:
    """What the pool of threads is given at once: a layer, or the layers of a block in bands."""
    found: list[list[LayerCost]] = []
    chain = None
    for layer, cost in zip(build.manifest.layers, layers, strict=True):
        if layer.chain is None or layer.chain != chain:
            found.append([])
        found[-1].append(cost)
        chain = layer.chain
    return found


def _board(build: Build, name: str | None, instruction_set: str | None) -> tuple[str, Board]:
    """The one named; else that of the target's name, else the first whose cores the kernels are scheduled for."""
    if name is not None:
        return name, board_named(name)
    if build.manifest.target.name in BOARDS:
        return build.manifest.target.name, BOARDS[build.manifest.target.name]
    core = choose_core(build, None, instruction_set).core
    for found, board in BOARDS.items():
        if board.core == core:
            return found, board
    raise TargetError(
        f"{build.directory}: scheduled for {core}, which no board here has: name a --board of {', '.join(BOARDS)}"
    )


def _traffic(build: Build, program: Path, board: Board, threads: int, instruction_set: str, jobs: int) -> list[Traffic]:
    """Of each job of the second inference: the pool of threads is given one after the other."""
    marker = disassemble(program).functions.get(f"{build.interface.identifier}_pool_run")
    if marker is None:
        raise LibraryError(f"{build.directory}: nothing in it gives layers to threads; build the library again")
    qemu, command = find_qemu(build.architecture, plugins=True), [str(program), *arguments(threads, instruction_set)]
    parts = simulate(qemu, command, board.caches, marker=marker, feed=one_request(build.interface) * 2)
    if len(parts) != 1 + 2 * jobs:
        raise LibraryError(f"{build.directory}: {len(parts) - 1} layers ran, not twice {jobs}; build the library again")
    return parts[-jobs:]


def _layer(computed: Sequence[LayerCost], moved: Traffic, board: Board, threads: int) -> LayerMemory:
    name = computed[0].name if len(computed) == 1 else f"{computed[0].name}..."
    cycles = sum(layer.cycles for layer in computed) + moved.misses[0] * CORES[board.core].l1_miss
    read, filled, written = (lines * LINE_BYTES for lines in (moved.read, moved.filled, moved.written))
    least, most = (moved / board.bandwidth for moved in (read + written, read + filled + written))
    return LayerMemory(name, moved.misses, read, filled, written, cycles / board.clock / threads, (least, most))


def to_json(result: MemoryCost) -> dict[str, Any]:
    """What ``cost --memory --json`` prints."""
    board = BOARDS[result.board]
    return {
        "directory": result.directory,
        "board": {"name": result.board, **asdict(board)},
        "threads": result.threads,
        "model": result.model,
        "caveat": CAVEAT,
        "instruction_set": result.instruction_set,
        "seconds": result.seconds,
        "total": asdict(result.total),
        "layers": [asdict(layer) for layer in result.layers],
    }


def format_text(result: MemoryCost) -> str:
    """What ``cost --memory`` prints for people."""
    board = BOARDS[result.board]
    sizes = ", ".join(
        f"L{number} {cache.bytes // 1024} KB{' shared' if cache.shared else ''}"
        for number, cache in enumerate(board.caches, 1)
    )
    missed = "  ".join(f"{f'L{number} misses':>10}" for number in range(1, len(board.caches) + 1))
    lines = [
        f"{result.directory} on {result.board}, estimated: instruction set {result.instruction_set}, "
        f"{result.threads} of {board.cores} {board.core} at {board.clock / 1e9:g} GHz, {sizes}, "
        f"{board.bandwidth / 1e9:g} GB/s",
        f"cycles by {result.model}, and {CORES[board.core].l1_miss:g} more for an L1 miss; {CAVEAT}",
        "",
        f"{'layer':16}  {missed}  {'MB read':>8}  {'filled':>8}  {'written':>8}  {'core ms':>8}  {'memory ms':>14}",
    ]
    for one in (*result.layers, result.total):
        misses = "  ".join(f"{count:10,}" for count in one.misses)
        moved = "  ".join(f"{count / 1e6:8.2f}" for count in (one.read_bytes, one.filled_bytes, one.written_bytes))
        memory = " to ".join(f"{seconds * 1e3:.2f}" for seconds in one.memory_seconds)
        lines.append(f"{one.name:16}  {misses}  {moved}  {one.core_seconds * 1e3:8.2f}  {memory:>14}")
    least, most = (seconds * 1e3 for seconds in result.seconds)
    lines += ["", f"{least:.1f} ms overlapped, {most:.1f} ms not"]
    return "\n".join(lines)
