"""The cores and boards that costs can be estimated for: frozen values.

What comes in: names that users type. What goes out: a ``Core``, or a ``Board`` with four of one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mnv2c.errors import TargetError
from mnv2c.spelling import did_you_mean

LINE_BYTES = 64
"""Of every cache of every core here."""


@dataclass(frozen=True)
class Cache:
    """``shared`` by all cores, or one for each."""

    bytes: int
    ways: int
    shared: bool = False


@dataclass(frozen=True)
class Core:
    """``macs_per_cycle`` are its fp32 multiply-adds at the peak; ``l1`` its data cache.

    ``l1_miss`` is what a line that the L1 lacks and the L2 has costs on average, in cycles: a share of the L2's
    latency, since the rest is hidden. In order that is half of some 15 cycles: the prefetcher finds streams only. Out
    of order it is a fifth, of some 20 on the A72 and of 11 on the A76 and the N1. The latencies are about those that
    Chips and Cheese measured of such cores; the shares are assumed, not measured.
    """

    macs_per_cycle: float
    l1: Cache
    l1_miss: float
    runs: tuple[str, ...] = ("aarch64", "armv7l")


CORES = {
    "cortex-a7": Core(macs_per_cycle=1, l1=Cache(32 * 1024, 4), l1_miss=7, runs=("armv7l",)),
    "cortex-a53": Core(macs_per_cycle=4, l1=Cache(32 * 1024, 4), l1_miss=7),
    "cortex-a55": Core(macs_per_cycle=4, l1=Cache(32 * 1024, 4), l1_miss=7),
    "cortex-a72": Core(macs_per_cycle=4, l1=Cache(32 * 1024, 2), l1_miss=4),
    "cortex-a76": Core(macs_per_cycle=8, l1=Cache(64 * 1024, 4), l1_miss=2),
    "neoverse-n1": Core(macs_per_cycle=8, l1=Cache(64 * 1024, 4), l1_miss=2),
}
"""By LLVM's name. Caches: Arm's technical reference manuals. ``runs`` are architectures as ``uname -m`` names them."""


@dataclass(frozen=True)
class Board:
    """``caches`` are the L1 first; ``clock`` is in Hz, ``bandwidth`` what its memory sustains, in bytes per second."""

    core: str
    clock: float
    caches: tuple[Cache, ...]
    bandwidth: float
    cores: int = 4


_A53_CACHES = (CORES["cortex-a53"].l1, Cache(512 * 1024, 16, shared=True))
BOARDS = {
    "pi3": Board("cortex-a53", 1.4e9, _A53_CACHES, 2.0e9),
    "pizero2": Board("cortex-a53", 1.0e9, _A53_CACHES, 2.0e9),
    "pi4": Board("cortex-a72", 1.5e9, (CORES["cortex-a72"].l1, Cache(1024 * 1024, 16, shared=True)), 4.8e9),
    "pi5": Board(
        "cortex-a76",
        2.4e9,
        (CORES["cortex-a76"].l1, Cache(512 * 1024, 8), Cache(2 * 1024 * 1024, 16, shared=True)),
        9.7e9,
    ),
}
"""Clocks and caches: Raspberry Pi's documentation, "Processors" (of the 3B+; a 3B runs at 1.2 GHz, newer 4B at 1.8).

Bandwidths: of the Pi 4 STREAM's triad, 4.84 GB/s (sci-pi.org.uk/bench/stream.html); of the Pi 5 tinymembench's C copy,
4.87 GB/s read and as many written (github.com/geerlingguy/sbc-reviews, issue 21); of the Pi 3 and the Zero 2 W 55 % of
what LPDDR2 at 450 MHz on 32 bits could do, assumed.
"""


def cores_of(architecture: str) -> list[str]:
    """LLVM's names of those that run programs for an architecture. TargetError where there is none."""
    able = [name for name, core in CORES.items() if architecture in core.runs]
    if not able:
        raise TargetError(f"no core that runs code for {architecture} has a model here; there are {', '.join(CORES)}")
    return able


def core_for(name: str, architecture: str) -> Core:
    """By LLVM's name. TargetError where it is unknown, or does not run programs for ``architecture``."""
    able = cores_of(architecture)
    if name in able:
        return CORES[name]
    if name in CORES:
        raise TargetError(f"core {name} does not run code for {architecture}; there are {', '.join(able)}")
    raise TargetError(f"unknown core {name!r}: {_hint(name, able)}")


def board_named(name: str) -> Board:
    """TargetError with the nearest name where there is none."""
    if name in BOARDS:
        return BOARDS[name]
    raise TargetError(f"unknown board {name!r}: {_hint(name, BOARDS)}")


def _hint(name: str, known: Iterable[str]) -> str:
    close = did_you_mean(name, list(known))
    return f"did you mean {close}?" if close else f"there are {', '.join(known)}"
