"""Reads 32-bit Arm instructions, ARM or Thumb, as LLVM's objdump writes them: ``vfma.f32 q8, q9, d2[0]``.

What comes in: a text. What goes out: an ``Operation``, of kind ``unknown`` where the mnemonic is. Vector registers are
taken as ``d`` registers: a ``q`` is two of them, an ``s`` half of one.
"""

from __future__ import annotations

import functools
import re

from mnv2c.instructions.operations import Kind, Operation

_CONDITION = r"(?P<condition>eq|ne|hs|cs|lo|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?"
_NAMES: tuple[tuple[Kind, str], ...] = (
    ("nop", r"it[te]*|nop|dmb|hint|yield"),
    ("branch", r"b|bl|bx|blx|cbn?z|tb[bh]"),
    ("load", r"pldw?|ldr(s?[bh]|d)?|ldm(ia|ib|da|db)?|pop|ldrex"),
    ("store", r"str([bhd])?|stm(ia|ib|da|db)?|push|strex"),
    ("vector load", r"vld[1-4r]|vldm(ia|db)?|vpop"),
    ("vector store", r"vst[1-4r]|vstm(ia|db)?|vpush"),
    ("multiply-add", r"vfn?m[as]|vn?ml[as]"),
    ("divide", r"vdiv|vsqrt|[su]div"),
    ("arithmetic", r"v(add|sub|n?mul|(max|min)(nm)?|p(add|max|min)|abs|neg|cvt\w?|cmpe?|c(eq|ge|gt|le|lt)|rint\w)"),
    ("move", r"v(mov[ln]?|dup|mvn|ext|trn|zip|uzp|rev\d*|swp|tb[lx]|mrs|and|orr|eor|bic|bi[tf]|bsl|sh[lr]l?)"),
    ("multiply", r"mul|mla|mls|[su]mull|[su]mlal|smm(ul|l[as])|sm(ul|la)\w\w"),
    (
        "integer",
        r"adc|addw?|subw?|sbc|rs[bc]|cmp|cmn|and|bic|orr|orn|eor|tst|teq|mov[wt]?|mvn|ls[lr]|asr|ror|rrx|[su]bfx|bf[ci]"
        r"|[su]xta?[bh]|rev(16|sh)?|rbit|clz|sel|[su]sat|adr|mrs|msr",
    ),
)
_PATTERNS = tuple((kind, re.compile(rf"(?P<name>{names})(?P<flags>s)?{_CONDITION}")) for kind, names in _NAMES)

_REGISTER = re.compile(r"\b(?:(?P<size>[qds])(?P<number>\d+)|(?P<other>r\d+|sp|lr|sb|sl|fp|ip))\b")
_ADDRESS = re.compile(r"\[(?=[a-z]).*")  # not the index of a lane
_LIST_AT = re.compile(r"\w+!?, (?=\{)")
_MOVES_ON = re.compile(r"!|\], ")  # of an address: before or after its use

_WRITES_NOTHING = re.compile(r"cmp|cmn|tst|teq|vcmpe?|pldw?|v?st\w+|v?push|b|bx|cbn?z|tb[bh]|nop|it\w*|hint|dmb|yield")
_WRITES_ALL = re.compile(r"v?ld\w+|v?pop|vtrn|vzip|vuzp|vswp")
_WRITES_TWO = re.compile(r"[su]m(ul|la)l")
_READS_WRITTEN = re.compile(r"movt|bf[ci]|vbi[tf]|vbsl|vtrn|vzip|vuzp|vswp|[su]mlal")
_READS_FLAGS = re.compile(r"adc|sbc|rsc|rrx|sel")
_SETS_FLAGS = re.compile(r"cmp|cmn|tst|teq|vmrs")


@functools.cache
def decode(text: str) -> Operation:
    """One instruction, without comments."""
    mnemonic, _, operands = text.partition(" ")
    stem, _, types = mnemonic.partition(".")
    kind, name, sets_flags, condition = _parse(stem)
    listed, address = _split(name, operands)
    first, *_ = listed.split(", ") if listed else [""]
    written = _written(name, listed, first)
    of_a_lane = re.match(r"\{?[ds]\d+\[\d", first) is not None
    if kind == "move" and of_a_lane:
        kind = "insert"
    registers = _registers(listed)
    keeps = bool(condition) or of_a_lane or _READS_WRITTEN.fullmatch(name) is not None
    read = registers if keeps else registers[len(written) :]
    bases = _registers(address)
    uses_flags = bool(condition) or _READS_FLAGS.fullmatch(name) is not None
    return Operation(
        kind,
        _bits(kind, listed, types),
        (*written, *(["flags"] if sets_flags or _SETS_FLAGS.fullmatch(name) else [])),
        tuple(dict.fromkeys((*read, *bases, *(["flags"] if uses_flags else [])))),
        tuple(written) if kind == "multiply-add" else (),
        tuple(bases[:1]) if _MOVES_ON.search(address) else (),
    )


def _parse(stem: str) -> tuple[Kind, str, bool, str]:
    """The kind; the mnemonic without what follows: whether it sets the flags, and its condition."""
    for kind, pattern in _PATTERNS:
        found = pattern.fullmatch(stem)
        if found:
            return kind, found["name"], found["flags"] is not None, found["condition"] or ""
    return "unknown", stem, False, ""


def _split(name: str, operands: str) -> tuple[str, str]:
    """The operands that are registers, and the address."""
    if name.endswith(("push", "pop")):
        return operands, "sp!"
    if base := _LIST_AT.match(operands):
        return operands[base.end() :], base[0]
    address = _ADDRESS.search(operands)
    return (operands[: address.start()], address[0]) if address else (operands, "")


def _registers(text: str) -> list[str]:
    """In order; of vector registers the ``d``."""
    found: list[str] = []
    for match in _REGISTER.finditer(text):
        if match["other"]:
            found.append({"sb": "r9", "sl": "r10", "fp": "r11", "ip": "r12", "lr": "r14"}.get(match[0], match[0]))
        elif match["size"] == "q":
            found += [f"d{2 * int(match['number'])}", f"d{2 * int(match['number']) + 1}"]
        else:
            number = int(match["number"])
            found.append(f"d{number if match['size'] == 'd' else number // 2}")
    return found


def _written(name: str, listed: str, first: str) -> list[str]:
    if name in ("bl", "blx"):
        return ["r14"]
    if _WRITES_NOTHING.fullmatch(name):
        return []
    if _WRITES_ALL.fullmatch(name):
        return _registers(listed)
    return _registers(listed)[:2] if _WRITES_TWO.fullmatch(name) else _registers(first)


def _bits(kind: Kind, listed: str, types: str) -> int:
    """All that it moves, or what it computes of each register."""
    sizes = [match["size"] for match in _REGISTER.finditer(listed)]
    widths = [{"q": 128, "d": 64}.get(size or "", 32) for size in sizes]
    if kind in ("load", "store", "vector load", "vector store"):
        element = re.search(r"\d+$", types)
        if "[" in listed and element:
            return int(element[0])  # one lane, or one value for all of them
        return sum(widths) or 32  # a prefetch has none
    return widths[0] if widths else 32
