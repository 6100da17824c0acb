"""What a program's loads and stores miss in caches that are not here: a program for another machine, in QEMU.

What comes in: an executable, caches, and the function whose calls begin what is told apart. What goes out: ``Traffic``
values. Every failure is a ToolError.

The line whose use lies longest ago is replaced, and written back where it has changed; stores allocate lines as loads
do. Pages lie anywhere in memory, as Linux gives them, but for the L1s: so what an L2 misses differs by a percent or two
from run to run, as it does with several threads. Not modelled: instructions, prefetching, coherence (a core's copy of a
line that another one writes stays), and the streaming of stores, which keeps lines that are written whole from being
read first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mnv2c.cost.cores import Cache
from mnv2c.cost.emulate import emulate


@dataclass(frozen=True)
class Traffic:
    """In lines: the ``misses`` of each cache, the L1 first, and what the memory behind the last one ``read`` for loads,
    ``filled`` for stores and had ``written`` back."""

    misses: tuple[int, ...]
    read: int
    filled: int
    written: int


def simulate(
    qemu: str, command: Sequence[str], caches: Sequence[Cache], *, marker: int, feed: bytes = b""
) -> list[Traffic]:
    """Runs ``command`` under ``qemu`` with ``feed`` on its stdin, to the end.

    ``marker`` is the address of a function: the first value is of what ran before its first call, each other of what
    ran from a call to the next, or to the end.
    """
    levels = " ".join(f"{cache.bytes},{cache.ways},{int(cache.shared)}" for cache in caches)
    settings = {"MNV2C_MARKER": f"{marker:x}", "MNV2C_CACHES": levels}
    lines = emulate(qemu, command, "simulate_caches", settings=settings, feed=feed).splitlines()
    found = []
    for line in lines:
        *misses, read, filled, written = map(int, line.split())
        found.append(Traffic(tuple(misses), read, filled, written))
    return found
