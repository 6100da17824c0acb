"""Loads as a Cortex-A53 likes them: values that stand side by side at once, 128 bits as two halves.

What comes in: a block's AArch64 instructions and the registers that live on behind it. What goes out: instructions that
compute the same, with registers that no processor has (numbers from 32 on) for values that are new.

A load of 128 bits stands alone for two cycles, one of 64 bits for one, which an insert may share; a load of 64 bits
into a general register goes with a multiply-add for nothing (ncnn's note ``arm-a53-a55-dual-issue.md``). So does the
loop of XNNPACK's ``f32-gemm/6x8-aarch64-neonfma-cortex-a53``.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from mnv2c.instructions.a64 import decode

FIRST_NEW = 32

_BYTES = {"s": 4, "d": 8, "q": 16, "x": 8}
_PAIR = re.compile(r"ldp ([sdq]\d+), ([sdq]\d+), \[(x\d+|sp)(?:, #(-?\w+))?\]")
_LOAD = re.compile(r"ldu?r ([sdq])(\d+), \[(x\d+|sp)(?:, #(-?\w+))?\]")
_INDEXED = re.compile(r"ldr q(\d+), \[(x\d+), (x\d+(?:, lsl #\d+)?)\]")
_BROADCAST = re.compile(r"ld1r \{ ?v(\d+)\.4s ?\}, \[(x\d+)\]")
_MOVES_ON = re.compile(r"(?P<load>ld\S+ .*\[(?P<base>x\d+)\]), #(?P<by>-?\w+)")
_COPY = re.compile(r"mov x(\d+), (x\d+)")
_SUM = re.compile(r"(add|sub) x(\d+), (x\d+), #(\w+)(?:, lsl #(\d+))?")
_MULTIPLICATION = re.compile(
    r"(?P<name>fmla|fmls|fmul) (?P<to>v\d+)\.4s, (?P<one>v\d+)\.4s, (?P<other>v\d+)\.(?P<lane>4s|s\[0\])"
)
_BY_LANES = {4: "q", 2: "d", 1: "s"}


def in_halves(instructions: Sequence[str], live_out: Collection[str], *, lanes: int) -> list[str]:
    """Every load of 128 bits as one of 64, another into a general register, and an insert; what is loaded a value at
    a time before, up to ``lanes`` at once where they stand side by side."""
    new = itertools.count(FIRST_NEW)
    plain = list(_one_by_one(instructions, new))
    together = _together(_from_roots(plain), new, live_out, lanes)
    return list(_halves(_without_unread(together, live_out), new))


def _one_by_one(instructions: Sequence[str], new: Iterator[int]) -> Iterator[str]:
    """Pairs become two loads, a load that moves its pointer on becomes a load and an addition."""
    for text in instructions:
        moves, pair, indexed = _MOVES_ON.fullmatch(text), _PAIR.fullmatch(text), _INDEXED.fullmatch(text)
        if moves:
            yield moves["load"]
            yield f"add {moves['base']}, {moves['base']}, #{moves['by']}"
        elif pair and _name(pair[1]) != _name(pair[3]):
            offset, size = int(pair[4] or "0", 0), _BYTES[pair[1][0]]
            yield _load(pair[1], pair[3], offset)
            yield _load(pair[2], pair[3], offset + size)
        elif indexed:
            place = next(new)
            yield f"add x{place}, {indexed[2]}, {indexed[3]}"
            yield f"ldr q{indexed[1]}, [x{place}]"
        else:
            yield text


def _load(register: str, base: str, offset: int) -> str:
    """``offset`` must be one that the instruction can hold: see ``_holds``."""
    size = _BYTES[register[0]]
    name = "ldr" if offset >= 0 and offset % size == 0 else "ldur"
    return f"{name} {register}, [{base}, #{offset}]" if offset else f"ldr {register}, [{base}]"


def _holds(offset: int, size: int) -> bool:
    return (offset % size == 0 and 0 <= offset < 4096 * size) or -256 <= offset < 256


def _name(register: str) -> str:
    return ("x" if register[0] in "xw" else "v") + register[1:]


def _from_roots(instructions: Sequence[str]) -> Iterator[str]:
    """Addresses that are a sum of a register of before and a number are read off that register, while it stands."""
    roots: dict[str, tuple[str, int]] = {}
    for text in instructions:
        load, broadcast = _LOAD.fullmatch(text), _BROADCAST.fullmatch(text)
        base = load[3] if load else broadcast[2] if broadcast else ""
        root, offset = roots.get(base, (base, 0))
        if load and _holds(total := offset + int(load[4] or "0", 0), _BYTES[load[1]]):
            yield _load(load[1] + load[2], root, total)
        elif broadcast and not offset:
            yield f"ld1r {{ v{broadcast[1]}.4s }}, [{root}]"
        else:
            yield text
        _follow(text, roots)


def _follow(text: str, roots: dict[str, tuple[str, int]]) -> None:
    copy, total = _COPY.fullmatch(text), _SUM.fullmatch(text)
    found = None
    if copy:
        found = f"x{copy[1]}", copy[2], 0
    elif total:
        number = int(total[4], 0) << int(total[5] or "0")
        found = f"x{total[2]}", total[3], number if total[1] == "add" else -number
    before, operation = dict(roots), decode(text)
    for register in (*operation.writes, *operation.pointers):
        roots.pop(register, None)
        for other in [other for other, (root, _) in roots.items() if root == register]:
            del roots[other]
    if found:
        register, source, offset = found
        root, more = before.get(source, (source, 0))
        if root != register:
            roots[register] = root, more + offset


@dataclass(frozen=True)
class _Value:
    """One fp32 value loaded at ``position`` into a register, or into all lanes of it (``is_broadcast``), and read at
    ``uses`` as a multiplicand alone."""

    position: int
    register: str
    is_broadcast: bool
    base: str
    offset: int
    uses: tuple[int, ...]


def _together(instructions: Iterator[str], new: Iterator[int], live_out: Collection[str], lanes: int) -> list[str]:
    """Values that stand side by side in memory are loaded at once, and read by the lane."""
    texts: list[str] = list(instructions)
    loads: dict[int, list[str]] = {}
    removed: set[int] = set()
    for values in _neighbours(texts, live_out):
        for run in _runs(values, lanes):
            number, register = next(new), _BY_LANES[len(run)]
            first = min(value.position for value in run)
            loads.setdefault(first, []).append(_load(f"{register}{number}", run[0].base, run[0].offset))
            removed |= {value.position for value in run}
            for lane, value in enumerate(run):
                for use in value.uses:
                    texts[use] = _by_lane(texts[use], value, f"v{number}.s[{lane}]")
    kept = ((loads.get(n, []), [] if n in removed else [text]) for n, text in enumerate(texts))
    return [text for fresh, old in kept for text in (*fresh, *old)]


def _neighbours(texts: Sequence[str], live_out: Collection[str]) -> list[dict[int, _Value]]:
    """The values, by offset, of each address that one register holds from one store to the next."""
    groups: dict[tuple[str, int], dict[int, _Value]] = {}
    versions: Counter[str] = Counter()
    stores = 0
    for position, text in enumerate(texts):
        operation = decode(text)
        if value := _value(texts, position, live_out):
            key = f"{value.base} {versions[value.base]}", stores
            groups.setdefault(key, {}).setdefault(value.offset, value)
        versions.update((*operation.writes, *operation.pointers))
        stores += operation.kind in ("store", "vector store")
    return list(groups.values())


def _value(texts: Sequence[str], position: int, live_out: Collection[str]) -> _Value | None:
    load = _LOAD.fullmatch(texts[position])
    broadcast = _BROADCAST.fullmatch(texts[position])
    if load and load[1] == "s":
        value = _Value(position, f"v{load[2]}", False, load[3], int(load[4] or "0", 0), ())
    elif broadcast:
        value = _Value(position, f"v{broadcast[1]}", True, broadcast[2], 0, ())
    else:
        return None
    uses = []
    for later in range(position + 1, len(texts)):
        operation = decode(texts[later])
        if value.register in (*operation.reads, *operation.accumulates):
            if _by_lane(texts[later], value, "") == texts[later]:
                return None
            uses.append(later)
        if value.register in operation.writes:
            return replace(value, uses=tuple(uses))
    return None if value.register in live_out else replace(value, uses=tuple(uses))


def _by_lane(text: str, value: _Value, lane: str) -> str:
    """A multiplication by ``value`` with ``lane`` in its place; where it is none, the same text."""
    match = _MULTIPLICATION.fullmatch(text)
    if match is None or match["to"] == value.register or match["one"] == match["other"]:
        return text
    if match["other"] == value.register and (value.is_broadcast or match["lane"] == "s[0]"):
        return f"{match['name']} {match['to']}.4s, {match['one']}.4s, {lane}"
    return text


def _runs(values: dict[int, _Value], lanes: int) -> Iterator[list[_Value]]:
    """Fours, twos and ones, at most ``lanes``, of values side by side, each at an address that a load can hold."""
    left = sorted(values)
    while left:
        start = left[0]
        for count in (count for count in _BY_LANES if count <= lanes):
            wanted = [start + 4 * n for n in range(count)]
            halves_hold = count < 4 or _holds(start + 8, 8)
            if set(wanted) <= set(left) and halves_hold and _holds(start, 4 if count == 1 else 8):
                break
        else:
            raise AssertionError("a value that was loaded can be loaded")
        yield [values[offset] for offset in wanted]
        left = [offset for offset in left if offset not in wanted]


def _without_unread(instructions: Sequence[str], live_out: Collection[str]) -> list[str]:
    """Sums and copies that nothing reads any more are left out."""
    live, kept = set(live_out), []
    for text in reversed(instructions):
        operation = decode(text)
        if (_COPY.fullmatch(text) or _SUM.fullmatch(text)) and live.isdisjoint(operation.writes):
            continue
        live = (live - set(operation.writes)) | {*operation.reads, *operation.accumulates, *operation.pointers}
        kept.append(text)
    return kept[::-1]


def _halves(instructions: Sequence[str], new: Iterator[int]) -> Iterator[str]:
    for text in instructions:
        load = _LOAD.fullmatch(text)
        offset = int(load[4] or "0", 0) if load else 0
        if load is None or load[1] != "q" or not _holds(offset, 8) or not _holds(offset + 8, 8):
            yield text
            continue
        upper = next(new)
        yield _load(f"d{load[2]}", load[3], offset)
        yield _load(f"x{upper}", load[3], offset + 8)
        yield f"mov v{load[2]}.d[1], x{upper}"
