"""What ``mnv2c show`` prints: the layers of a graph with their shapes, parameters, multiply-adds and bytes.

What comes in: the unoptimised ``Graph``. What goes out: a ``Summary``, as a table for people or as JSON for programs.

A layer is a convolution, a shortcut, the pool or the classifier; a BatchNorm counts to the convolution before it. The
published numbers of MobileNetV2 are ``weights`` (convolutions and classifier alone) and, for a batch of one, ``macs``;
those of torchvision are ``parameters`` (with BatchNorm's gamma and beta and with biases; a folded layer has its bias).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from mnv2c.ir.graph import ACTIVATIONS, BatchNorm, Convolution, Dense, Graph, Input, Op


@dataclass(frozen=True)
class Layer:
    """One row: counts of values, and the multiply-adds and the bytes of the activation of one run, the whole batch.

    ``row`` is the text of the YAML row it came from, ``line`` where that stands, ``repeat`` which of its ``n`` blocks
    it belongs to (from 0). ``band`` is how many rows of its block's output are computed at a time, None where all are.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    parameters: int
    weights: int
    macs: int
    activation_bytes: int
    row: str
    line: int
    repeat: int
    band: int | None


@dataclass(frozen=True)
class Totals:
    """Sums over the layers; ``arena_bytes`` is the memory plan's, ``None`` where none was made."""

    parameters: int
    weights: int
    macs: int
    arena_bytes: int | None


@dataclass(frozen=True)
class Summary:
    """A graph in numbers."""

    name: str
    layers: tuple[Layer, ...]
    totals: Totals


def summarize(
    graph: Graph, *, arena_bytes: int | None = None, bands: Mapping[str, int] = MappingProxyType({})
) -> Summary:
    """Counts of every layer, in the order in which they run; ``bands`` has the rows of those that run in bands."""
    norms = {op.inputs[0]: op for op in graph.ops if isinstance(op, BatchNorm)}
    rows = [op for op in graph.ops if not isinstance(op, (Input, BatchNorm, *ACTIVATIONS))]
    layers = tuple(_layer(op, norms.get(op.name), graph, bands.get(op.name)) for op in rows)
    totals = Totals(
        parameters=sum(layer.parameters for layer in layers),
        weights=sum(layer.weights for layer in layers),
        macs=sum(layer.macs for layer in layers),
        arena_bytes=arena_bytes,
    )
    return Summary(name=graph.name, layers=layers, totals=totals)


def to_json(summary: Summary) -> dict[str, Any]:
    """``{"name": ..., "layers": [...], "totals": {...}}``, each with the fields of its dataclass."""
    fields = asdict(summary)
    fields["layers"] = [{**layer, "shape": list(layer["shape"])} for layer in fields["layers"]]
    return fields


def format_table(summary: Summary) -> str:
    """A table of about 110 columns; a YAML row stands beside the first layer of each block it makes.

    A column for bands is there where there are any.
    """
    in_bands = any(layer.band for layer in summary.layers)
    titles = ("parameters", "weights", "MACs", "bytes", *(("band",) if in_bands else ()))
    rows: list[tuple[str, ...]] = [("layer", "op", "output", *titles, "YAML row")]
    previous = ""
    for layer in summary.layers:
        origin = layer.row + (f"  block {layer.repeat + 1}" if layer.repeat else "")
        counts = (layer.parameters, layer.weights, layer.macs, layer.activation_bytes, layer.band or 0)[: len(titles)]
        shape = "x".join(str(extent) for extent in layer.shape)
        rows.append((layer.name, layer.op, shape, *map(_count, counts), "" if origin == previous else origin))
        previous = origin
    totals = summary.totals
    sums = (totals.parameters, totals.weights, totals.macs, *(0 for _ in titles[3:]))
    rows.append(("total", "", "", *map(_count, sums), ""))
    lines = _align(rows)
    rule = "-" * max(map(len, lines))
    arena = "" if totals.arena_bytes is None else f", arena {totals.arena_bytes:,} bytes"
    title = f"{summary.name}: {totals.weights / 1e6:.2f} M weights, {totals.macs / 1e6:.1f} M multiply-adds{arena}"
    return "\n".join([title, "", lines[0], rule, *lines[1:-1], rule, lines[-1]]) + "\n"


def _layer(op: Op, norm: BatchNorm | None, graph: Graph, band: int | None) -> Layer:
    constants = graph.constants
    weights = parameters = macs = 0
    if isinstance(op, (Convolution, Dense)):
        weights = parameters = constants[op.weight].size
        parameters += 0 if op.bias is None else constants[op.bias].size
        positions = op.type.elements // op.type.shape[-1]  # every weight is used once at each of them
        macs = weights * positions
    if norm is not None:
        parameters += constants[norm.gamma].size + constants[norm.beta].size
    return Layer(
        name=op.name,
        op=type(op).__name__,
        shape=op.type.shape,
        parameters=parameters,
        weights=weights,
        macs=macs,
        activation_bytes=op.type.nbytes,
        row=op.source.row,
        line=op.source.line,
        repeat=op.source.repeat,
        band=band,
    )


def _count(value: int) -> str:
    return f"{value:,}" if value else ""


def _align(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell; the counts, between the first three and the last, right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if 3 <= column < len(row) - 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
