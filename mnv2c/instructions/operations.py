"""What an in-order model needs to know of an instruction: ``a64`` and ``a32`` read it from the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "multiply-add",
    "arithmetic",
    "move",
    "insert",
    "vector load",
    "vector store",
    "load",
    "store",
    "integer",
    "multiply",
    "divide",
    "branch",
    "nop",
    "unknown",
]
"""``multiply-add``, ``arithmetic`` (in floating point), ``move`` (and integers) and ``insert`` (of a lane) are of
vector registers, whole or in part; ``integer`` and ``multiply`` are of the others; a prefetch is a ``load``."""


@dataclass(frozen=True)
class Operation:
    """One instruction.

    ``bits`` is how much of vector registers it computes, or how much memory it reads or writes. Registers are named as
    the instruction set's decoder likes: a name per part that can be written alone, and ``flags``. ``accumulates`` are
    those that a multiply-add reads late; ``pointers`` those that a load or store moves on; ``keeps`` those written of
    which a part stays as it was, so that they are read too.
    """

    kind: Kind
    bits: int = 64
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    accumulates: tuple[str, ...] = ()
    pointers: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
