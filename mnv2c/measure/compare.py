"""Networks beside each other: what their tables cost on paper, and what they take here: ``mnv2c compare``.

What comes in: networks in numbers (``report``) and libraries of them for this machine. What goes out: a ``Comparison``,
as a table, as JSON, or as a picture of latency over multiply-adds. In every round each network has its turn with each
number of threads (A B C A B C ...), so that whatever disturbs the machine disturbs all.
"""

from __future__ import annotations

import contextlib
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv2c.deploy.manifest import normalise, read_manifest
from mnv2c.deploy.network import RunnableNetwork
from mnv2c.deploy.opening import open_network
from mnv2c.errors import ToolError
from mnv2c.measure.bench import RUNS, turn
from mnv2c.measure.engines import Engine, library_engine
from mnv2c.measure.images import seeded_image
from mnv2c.measure.report import Totals

ROUNDS = 30
PICTURE = "mnv2c[picture]"


@dataclass(frozen=True)
class Times:
    """Milliseconds of one run."""

    min_ms: float
    median_ms: float


@dataclass(frozen=True)
class Candidate:
    """A network, the kind of its blocks in words, what it costs on paper, and where a library of it is."""

    name: str
    blocks: str
    totals: Totals
    directory: Path


@dataclass(frozen=True)
class Measured:
    """``shape`` is the input's, N x H x W x 3; ``arena_bytes`` all activations that exist at once, in the library's
    plan; ``times`` by the number of threads."""

    name: str
    blocks: str
    shape: tuple[int, ...]
    macs: int
    parameters: int
    arena_bytes: int
    times: Mapping[int, Times]


@dataclass(frozen=True)
class Comparison:
    """All of one run of ``mnv2c compare``."""

    cpu: str
    instruction_set: str
    rounds: int
    networks: tuple[Measured, ...]


def compare(
    candidates: Sequence[Candidate],
    *,
    threads: Sequence[int],
    rounds: int = ROUNDS,
    report: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Times all of them. LibraryError where one cannot be run."""
    with contextlib.ExitStack() as opened:
        nets = {
            (one.name, count): opened.enter_context(open_network(one.directory, None, threads=count))
            for one in candidates
            for count in threads
        }
        engines = {key: _engine(net) for key, net in nets.items()}
        report(f"time {', '.join(one.name for one in candidates)}: {rounds} rounds")
        runs: dict[tuple[str, int], list[int]] = {key: [] for key in engines}
        for _ in range(rounds):
            for key, engine in engines.items():
                runs[key] += turn(engine)
        first = next(iter(nets.values()))
        return Comparison(
            cpu=first.processor,
            instruction_set=first.instruction_set,
            rounds=rounds,
            networks=tuple(
                Measured(
                    name=one.name,
                    blocks=one.blocks,
                    shape=nets[one.name, threads[0]].input_shape,
                    macs=one.totals.macs,
                    parameters=one.totals.parameters,
                    arena_bytes=read_manifest(one.directory).arena_bytes,
                    times={count: _times(runs[one.name, count]) for count in threads},
                )
                for one in candidates
            ),
        )


def _engine(net: RunnableNetwork) -> Engine:
    batch, *shape = net.input_shape
    images = np.stack([seeded_image(index, tuple(shape)) for index in range(batch)])
    return library_engine(net, normalise(net.directory, images))


def _times(nanoseconds: Sequence[int]) -> Times:
    return Times(min(nanoseconds) / 1e6, statistics.median(nanoseconds) / 1e6)


def to_json(comparison: Comparison) -> dict[str, Any]:
    """What ``compare --json`` prints."""
    networks = [
        {
            **vars(one),
            "shape": list(one.shape),
            "times": {str(count): vars(times) for count, times in one.times.items()},
        }
        for one in comparison.networks
    ]
    return {**vars(comparison), "runs_per_round": RUNS, "networks": networks}


def format_text(comparison: Comparison) -> str:
    """A table, a network a line; times are minimum and median."""
    counts = list(comparison.networks[0].times)
    columns = "".join(f"  {_threads(count) + ', ms':>20}" for count in counts)
    lines = [
        f"{comparison.cpu}: instruction set {comparison.instruction_set}, {comparison.rounds} rounds of {RUNS} runs, "
        "interleaved",
        "",
        f"{'network':16}  {'blocks':20}  {'input':>12}  {'M MACs':>8}  {'M parameters':>12}  {'arena MB':>8}{columns}",
    ]
    for one in comparison.networks:
        times = "".join(f"  {f'{t.min_ms:.3f} ({t.median_ms:.3f})':>20}" for t in one.times.values())
        shape = "x".join(map(str, one.shape[:-1] if one.shape[0] > 1 else one.shape[1:-1]))
        numbers = f"{one.macs / 1e6:8.1f}  {one.parameters / 1e6:12.2f}  {one.arena_bytes / 1e6:8.2f}"
        lines.append(f"{one.name:16}  {one.blocks:20}  {shape:>12}  {numbers}{times}")
    return "\n".join(lines)


def need_matplotlib() -> None:
    """ToolError where ``picture`` could not be drawn: to be known before anything is built and timed."""
    try:
        import matplotlib.figure  # noqa: F401 - whether it is there
    except ImportError as error:
        raise ToolError(f"the picture needs matplotlib: pip install '{PICTURE}'") from error


def picture(comparison: Comparison) -> bytes:
    """An SVG: latency over multiply-adds, both logarithmic, a curve for each kind of block and number of threads.

    ToolError where matplotlib is missing.
    """
    need_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    with matplotlib.rc_context({"svg.hashsalt": "mnv2c", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 5.5), layout="constrained")
        axes = figure.subplots()
        kinds = list(dict.fromkeys(one.blocks for one in comparison.networks))
        for number, kind in enumerate(kinds):
            _draw(axes, kind, number, [one for one in comparison.networks if one.blocks == kind])
        axes.set(xscale="log", yscale="log", xlabel="million multiply-adds", ylabel="milliseconds, the fastest run")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{comparison.cpu}, {comparison.instruction_set}")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.margins(x=0.15)  # the names stand to the right of their points
        axes.legend()
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _draw(axes: Any, kind: str, number: int, networks: Sequence[Measured]) -> None:
    """A curve for each number of threads; the names stand beside the first, every second kind's below it."""
    in_order = sorted(networks, key=lambda one: one.macs)
    counts = list(in_order[0].times)
    for count, line in zip(counts, ("-", "--", ":", "-.") * len(counts), strict=False):
        values = [(one.macs / 1e6, one.times[count].min_ms) for one in in_order]
        axes.plot(*zip(*values, strict=True), f"o{line}", color=f"C{number}", label=f"{kind}, {_threads(count)}")
    for one in in_order:
        place = one.macs / 1e6, one.times[counts[0]].min_ms
        axes.annotate(
            one.name, place, xytext=(5, -12 if number % 2 else 6), textcoords="offset points", fontsize="small"
        )


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
