"""Times a built library beside other engines: ``mnv2c bench``.

What comes in: a build directory, the engines to compare with, the number of threads. What goes out: a ``Bench``. In
every round each engine has its turn (A B C A B C ...), so that whatever disturbs the machine disturbs all; a turn is
one untimed run, which brings the engine's weights back into the caches, and ``RUNS`` timed ones. No thread is pinned: a
pinned one would have to wait for whatever else runs on its core, and minima show what each engine can do.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv2c.deploy.manifest import normalise, read_manifest
from mnv2c.deploy.network import RunnableNetwork
from mnv2c.deploy.opening import open_network
from mnv2c.errors import LibraryError
from mnv2c.ir.graph import Array
from mnv2c.measure.engines import MINUTES, RELAY_TUNED, Engine, library_engine, other_engine
from mnv2c.measure.images import seeded_image
from mnv2c.measure.layers import largest
from mnv2c.measure.peak import PeakMeter
from mnv2c.targets import instruction_set_named

RUNS = 4
ROUNDS = 50
WARM_UP = 3
SAME = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2}
"""Of the largest value: engines that differ by more do not compute the same network."""


@dataclass(frozen=True)
class EngineTimes:
    """``max_abs_difference`` is that of its outputs from the library's."""

    name: str
    version: str
    min_ms: float
    median_ms: float
    max_abs_difference: float


@dataclass(frozen=True)
class LayerTime:
    """The fastest run of one layer. ``peak_share`` is ``gflops`` over the measured peak, which is None on a GPU."""

    name: str
    min_ms: float
    macs: int
    gflops: float
    peak_share: float | None


@dataclass(frozen=True)
class Bench:
    """All of one run of ``mnv2c bench``; the library is the first engine."""

    directory: str
    cpu: str
    instruction_set: str
    threads: int
    rounds: int
    engines: tuple[EngineTimes, ...]
    layers: tuple[LayerTime, ...] = ()
    peak_gflops: float | None = None


def bench(
    directory: Path,
    *,
    runner: str | None = None,
    against: Sequence[str] = (),
    threads: int = 1,
    rounds: int = ROUNDS,
    instruction_set: str | None = None,
    layers: bool = False,
    minutes: float = MINUTES,
    report: Callable[[str], None] = lambda line: None,
) -> Bench:
    """Times all of them; on another machine (``runner``) the library alone, without ``layers``. ``minutes`` is how long
    Relay's MetaSchedule tunes first.

    LibraryError where an engine computes something else; ToolError where one is missing.
    """
    with contextlib.ExitStack() as opened:
        net = opened.enter_context(
            open_network(directory, runner, threads=threads, instruction_set=instruction_set, report=report)
        )
        batch, *shape = net.input_shape
        x = normalise(directory, np.stack([seeded_image(index, tuple(shape)) for index in range(batch)]))
        engines = [library_engine(net, x)]
        for name in against:
            report(f"tune {name} for {minutes:g} min" if name == RELAY_TUNED else f"prepare {name}")
            engines.append(other_engine(name, directory, x, threads=threads, minutes=minutes))
            opened.callback(engines[-1].close)
            if engines[-1].trials:
                report(f"{name}: {engines[-1].trials} trials")
        meter = _meter(net) if layers else None
        same = SAME[read_manifest(directory).precision]
        differences = _check_same(engines, same)
        report(f"time {', '.join(engine.name for engine in engines)}: {rounds} rounds")
        turns, observed, peak = _rounds(engines, rounds, net=net, x=x, layers=layers, meter=meter)
        _check_same(engines, same)
        times = [
            EngineTimes(engine.name, engine.version, min(runs) / 1e6, statistics.median(runs) / 1e6, difference)
            for engine, runs, difference in zip(engines, turns, differences, strict=True)
        ]
        return Bench(
            directory=str(directory),
            cpu=net.processor,
            instruction_set=net.instruction_set,
            threads=threads,
            rounds=rounds,
            engines=tuple(times),
            layers=_layer_times(observed, peak),
            peak_gflops=peak or None,
        )


def _check_same(engines: Sequence[Engine], same: float) -> list[float]:
    """How far each is from the first, over all outputs; warms them up on the way."""
    computed = [[engine.run()[0] for _ in range(WARM_UP)][-1] for engine in engines]
    differences = [0.0 for _ in engines]
    for name, ours in computed[0].items():
        allowed = same * max(1.0, largest(ours))
        for index, engine in enumerate(engines):
            difference = largest(computed[index][name].astype(np.float64) - ours)
            if not difference <= allowed:
                raise LibraryError(
                    f"{engine.name}'s {name} differ from the library's by {difference:.2g}: not the same network, so "
                    "not timed; see `mnv2c validate`"
                )
            differences[index] = max(differences[index], difference)
    return differences


Observed = list[list[tuple[str, int, int]]]  # per round, each layer's name, nanoseconds, multiply-adds


def _rounds(
    engines: Sequence[Engine], rounds: int, *, net: RunnableNetwork, x: Array, layers: bool, meter: PeakMeter | None
) -> tuple[list[list[int]], Observed, float]:
    """Nanoseconds of every run by engine; the ``layers`` of each round; the best peak, where there is a ``meter``."""
    turns: list[list[int]] = [[] for _ in engines]
    observed: Observed = []
    peak = 0.0
    for _ in range(rounds):
        for engine, runs in zip(engines, turns, strict=True):
            runs += turn(engine)
        if layers:
            observed.append([(layer.name, layer.nanoseconds, layer.macs) for layer in net.layers(x)])
        if meter is not None:
            peak = max(peak, meter.measure())
    return turns, observed, peak


def turn(engine: Engine) -> list[int]:
    """Nanoseconds of ``RUNS`` runs, behind one that brings the engine's weights back into the caches."""
    engine.run()
    return [engine.run()[1] for _ in range(RUNS)]


def _layer_times(observed: Observed, peak: float) -> tuple[LayerTime, ...]:
    layers = []
    for runs in zip(*observed, strict=True):
        name, _, macs = runs[0]
        nanoseconds = max(1, min(run[1] for run in runs))
        gflops = 2 * macs / nanoseconds
        layers.append(LayerTime(name, nanoseconds / 1e6, macs, gflops, gflops / peak if peak else None))
    return tuple(layers)


def _meter(net: RunnableNetwork) -> PeakMeter | None:
    """The machine's peak in the instruction set that the library uses; none of a GPU is measured."""
    target, isa = instruction_set_named(net.instruction_set)
    if target.kind == "cuda":
        return None
    return PeakMeter(target.zig_triple, isa, threads=net.threads)


def to_json(result: Bench) -> dict[str, Any]:
    """What ``bench --json`` prints; ``ratio`` is how many times as long as the library's an engine's minimum is."""
    library = result.engines[0]
    fields: dict[str, Any] = {
        "directory": result.directory,
        "cpu": result.cpu,
        "instruction_set": result.instruction_set,
        "threads": result.threads,
        "rounds": result.rounds,
        "runs_per_round": RUNS,
        "engines": {
            engine.name: {
                "version": engine.version,
                "min_ms": engine.min_ms,
                "median_ms": engine.median_ms,
                "ratio": engine.min_ms / library.min_ms,
                "max_abs_difference": engine.max_abs_difference,
            }
            for engine in result.engines
        },
    }
    if result.layers:
        fields["peak_gflops"] = result.peak_gflops
        fields["layers"] = [vars(layer) for layer in result.layers]
    return fields


def format_text(result: Bench) -> str:
    """What ``bench`` prints for people."""
    library = result.engines[0]
    lines = [
        f"{result.directory} on {result.cpu}: instruction set {result.instruction_set}, threads {result.threads}, "
        f"{result.rounds} rounds of {RUNS} runs, interleaved",
        "",
        f"{'engine':18}  {'version':12}  {'min ms':>8}  {'median ms':>9}  {'mnv2c faster by':>15}  {'difference':>10}",
    ]
    for engine in result.engines:
        times = f"{engine.min_ms:8.3f}  {engine.median_ms:9.3f}"
        ratios = f"{engine.min_ms / library.min_ms:.2f} / {engine.median_ms / library.median_ms:.2f}"
        ratio = "" if engine is library else ratios
        lines.append(f"{engine.name:18}  {engine.version:12}  {times}  {ratio:>15}  {engine.max_abs_difference:10.1e}")
    if result.layers:
        lines += ["", *_layer_lines(result)]
    return "\n".join(lines)


def _layer_lines(result: Bench) -> list[str]:
    total = sum(layer.min_ms for layer in result.layers)
    peak = result.peak_gflops
    lines = [f"{'layer':16}  {'min ms':>8}  {'of all':>6}  {'GFLOP/s':>8}" + ("  of peak" if peak else "")]

    def line(name: str, min_ms: float, gflops: float) -> str:
        share = f"  {gflops / peak:7.1%}" if peak else ""
        return f"{name:16}  {min_ms:8.4f}  {min_ms / total:6.1%}  {gflops:8.1f}{share}"

    lines += [line(layer.name, layer.min_ms, layer.gflops) for layer in result.layers]
    lines.append(line("sum", total, 2 * sum(layer.macs for layer in result.layers) / total / 1e6))
    if peak:
        lines.append(f"measured FMA peak: {peak:.1f} GFLOP/s on {result.threads} thread(s)")
    return lines
