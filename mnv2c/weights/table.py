"""Blocks as the rows of a table, and channels as the paper's, scaled by a width multiplier, where they are that.

What comes in: what ``recognise`` found, block by block, in numbers of channels as the network has them. What goes out:
rows, and the numbers that the spec has for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mnv2c.spec.table import Row, make_divisible

PAPER = (16, 24, 32, 64, 96, 160, 320)
"""The channels of Table 2's rows."""
REPEATS = (1, 2, 3, 4, 3, 3, 1)
"""How many blocks each has, where all are there."""
STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of their first blocks."""
_STEM, _HEAD, _DIVISOR = 32, 1280, 8
_WIDTHS = sorted((round(0.05 * step, 2) for step in range(2, 61)), key=lambda width: (width != 1.0, width))


@dataclass(frozen=True)
class Block:
    """One inverted residual: expansion factor, channels as they are, stride."""

    t: int
    channels: int
    stride: int


@dataclass(frozen=True)
class Channels:
    """A spec's ``width_multiplier`` and ``channel_divisor``, and the channels of stem, rows and head before scaling."""

    width_multiplier: float
    divisor: int
    stem: int
    rows: tuple[Row, ...]
    head: int


def rows_of(blocks: Sequence[Block]) -> tuple[Row, ...]:
    """Equal blocks, but for the first one's stride, as one row of channels as they are."""
    rows: list[Row] = []
    for block in blocks:
        last = rows[-1] if rows else None
        if last is not None and block.stride == 1 and (last.t, last.c) == (block.t, block.channels):
            rows[-1] = replace(last, n=last.n + 1)
        else:
            rows.append(Row(block.t, block.channels, 1, block.stride))
    return tuple(rows)


def unscaled(stem: int, rows: tuple[Row, ...], head: int) -> Channels:
    """The paper's channels where one width multiplier makes these of them; else these themselves, at 1.0."""
    found = [stem, *(row.c for row in rows), head]
    for width in _WIDTHS:
        last = make_divisible(_HEAD * max(1.0, width), _DIVISOR)
        if found == [*(make_divisible(c * width, _DIVISOR) for c in (_STEM, *PAPER)), last]:
            named = tuple(replace(row, c=c) for row, c in zip(rows, PAPER, strict=True))
            return Channels(width, _DIVISOR, _STEM, named, _HEAD)
    return Channels(1.0, _DIVISOR if all(c % _DIVISOR == 0 for c in found) else 1, stem, rows, head)
