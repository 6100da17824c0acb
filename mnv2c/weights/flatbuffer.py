"""Reads FlatBuffers without a schema's generated code: tables, by the numbers of their fields, with every offset
checked.

What comes in: bytes. What goes out: ``Table`` values. ``ValueError`` where an offset or a length leads out of the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIZES = {"<i1": 1, "<u1": 1, "<i4": 4, "<u4": 4, "<i8": 8, "<u8": 8, "<f4": 4}
_LONGEST_TEXT = 1024


@dataclass(frozen=True)
class Table:
    """The table at ``position`` of ``data``; a field that is not there has the ``default``."""

    data: bytes
    position: int

    @staticmethod
    def root(data: bytes) -> Table:
        """The table that the file begins with."""
        return Table(data, _unsigned(data, 0))

    def number(self, field: int, kind: str, default: float = 0) -> Any:
        """``kind`` as in NumPy: ``<i4``."""
        place = self._place(field)
        if place is None:
            return default
        return np.frombuffer(_slice(self.data, place, _SIZES[kind]), kind)[0].item()

    def text(self, field: int) -> str:
        """Cut where it is long."""
        place = self._pointer(field)
        if place is None:
            return ""
        length = min(_unsigned(self.data, place), _LONGEST_TEXT)
        return bytes(_slice(self.data, place + 4, length)).decode("utf-8", "replace")

    def table(self, field: int) -> Table | None:
        place = self._pointer(field)
        return None if place is None else Table(self.data, place)

    def tables(self, field: int, *, most: int) -> list[Table]:
        """A vector of tables; ValueError for more than ``most``."""
        place = self._pointer(field)
        if place is None:
            return []
        offsets = self._vector(place, "<u4", most)
        begins = [place + 4 + 4 * index for index in range(len(offsets))]
        return [Table(self.data, begin + int(offset)) for begin, offset in zip(begins, offsets, strict=True)]

    def numbers(self, field: int, kind: str, *, most: int) -> NDArray[Any]:
        """A vector of numbers, not copied; ValueError for more than ``most``."""
        place = self._pointer(field)
        return np.zeros(0, kind) if place is None else self._vector(place, kind, most)

    def _vector(self, place: int, kind: str, most: int) -> NDArray[Any]:
        length = _unsigned(self.data, place)
        if length > most:
            raise ValueError(f"damaged: a list of {length} where at most {most} can be")
        return np.frombuffer(_slice(self.data, place + 4, length * _SIZES[kind]), kind)

    def _pointer(self, field: int) -> int | None:
        place = self._place(field)
        return None if place is None else place + _unsigned(self.data, place)

    def _place(self, field: int) -> int | None:
        (back,) = struct.unpack("<i", _slice(self.data, self.position, 4))
        entries = self.position - back
        (size,) = struct.unpack("<H", _slice(self.data, entries, 2))
        if 4 + 2 * field + 2 > size:
            return None
        (offset,) = struct.unpack("<H", _slice(self.data, entries + 4 + 2 * field, 2))
        return self.position + int(offset) if offset else None


def _unsigned(data: bytes, position: int) -> int:
    return int(struct.unpack("<I", _slice(data, position, 4))[0])


def _slice(data: bytes, position: int, length: int) -> memoryview:
    if position < 0 or position + length > len(data):
        raise ValueError("truncated or damaged: an offset leads out of the file")
    return memoryview(data)[position : position + length]
