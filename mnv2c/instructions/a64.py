"""Reads AArch64 instructions as LLVM's objdump writes them: ``fmla v4.4s, v1.4s, v0.s[2]``.

What comes in: a text. What goes out: an ``Operation``, of kind ``unknown`` where the mnemonic is.
"""

from __future__ import annotations

import functools
import re

from mnv2c.instructions.operations import Kind, Operation

REGISTER = re.compile(r"\b(?:([vqdsbh])(\d+)\b|[xw](\d+|zr)\b|(w?sp)\b)")
_ADDRESS = re.compile(r"\[(?P<base>x\d+|sp).*")
_SHAPE = re.compile(r"\bv\d+\.(?P<count>\d*)(?P<element>[dshb])")
_BITS = {"q": 128, "d": 64, "s": 32, "h": 16, "b": 8}

_NAMES: tuple[tuple[Kind, str], ...] = (
    ("branch", r"b|br|b\.\w+|bl|blr|ret|cbn?z|tbn?z"),
    ("nop", r"nop|hint|bti|yield|dmb|isb"),
    ("load", r"prfu?m|ldn?p|ldpsw|ldu?r(s?[bhw])?|ld[1-4]r?|lda?x?r"),
    ("store", r"stn?p|stu?r[bh]?|st[1-4]|stl?x?r"),
    ("multiply-add", r"fml[as]|fn?m(add|sub)"),
    ("divide", r"f(div|sqrt)|[su]div"),
    ("move", r"fmov|mov|movi|mvni?|dup|ins|[us]mov|ext|zip[12]|uzp[12]|trn[12]|rev(16|32|64)?|tb[lx]"),
    (
        "arithmetic",
        r"f(add|sub|n?mul|mulx|(max|min)(nm)?)(p|v)?|f(abs|neg|abd|csel|c?cmpe?|cvt\w+|cm(eq|ge|gt|le|lt)|ac(ge|gt)"
        r"|rint\w|recp[esx]|rsqrt[es])|[su]cvtf",
    ),
    ("multiply", r"mul|mneg|m(add|sub)|[su](mull|mulh|maddl|msubl|mnegl)|ml[as]"),
    (
        "integer",
        r"(adc|add|sub|sbc|neg|and|bic)s?|cm[pn]|orr|orn|eor|eon|tst|ls[lr]|asr|ror|extr|mov[kzn]|adrp?|mrs"
        r"|[su]?bf(i|x|iz|xil|m|c)|[su]xt[bhw]|cset|csetm|c(inc|inv|neg)|cs(el|inc|inv|neg)|ccm[pn]|clz|cls|rbit|cnt|abs"
        r"|[su](max|min)|[su]?sh[lr]l?2?|[su]?xt[ln]2?|bi[tf]|bsl|cm\w+|addv|addp",
    ),
)
_PATTERNS = tuple((kind, re.compile(names)) for kind, names in _NAMES)
_OF_VECTORS: dict[Kind, Kind] = {
    "load": "vector load",
    "store": "vector store",
    "integer": "move",
    "multiply": "arithmetic",
}
_SETS_FLAGS = re.compile(r"(add|sub|and|bic|adc|sbc|neg)s|cm[pn]|tst|ccm[pn]|fc?cmpe?")
_READS_FLAGS = re.compile(r"b\.\w+|cs\w+|cinc|cinv|cneg|f?ccm[pn]e?|adcs?|sbcs?|fcsel")
_READS_WRITTEN = re.compile(r"movk|bfi|bfxil|bit|bif|bsl|ml[as]|tbx|\w+[nt]2")  # what narrows writes the upper half
_WRITES_NOTHING = re.compile(
    r"cm[pn]|tst|ccm[pn]|fcmpe?|prfu?m|st\w+|fccmpe?|b|b\.\w+|br|cbn?z|tbn?z|ret|nop|hint|bti|yield|dmb"
)
_WRITES_ALL = re.compile(r"ldn?p|ldpsw|ld[1-4]r?")


@functools.cache
def decode(text: str) -> Operation:
    """One instruction, without comments."""
    mnemonic, _, operands = text.partition(" ")
    address = _ADDRESS.search(operands)
    listed = operands[: address.start()] if address else operands
    registers = _registers(listed)
    kind = _kind(mnemonic, listed, registers)
    written = _written(mnemonic, registers)
    keeps = written if kind == "insert" or _keeps(mnemonic, operands) else []
    read = [*keeps, *registers[len(written) :]]
    accumulates: list[str] = []
    if kind == "multiply-add" and mnemonic.startswith("fml"):  # it adds to what it writes
        accumulates = written
    elif kind == "multiply-add":  # to its last operand
        read, accumulates = read[:-1], read[-1:]
    if _READS_FLAGS.fullmatch(mnemonic):
        read = [*read, "flags"]
    return Operation(
        kind,
        _bits(mnemonic, listed, kind),
        (*written, *(["flags"] if _SETS_FLAGS.fullmatch(mnemonic) else [])),
        tuple(dict.fromkeys((*read, *_registers(address[0] if address else "")))),
        tuple(accumulates),
        (_name(address["base"]),) if address and re.search(r"!|\], ", address[0]) else (),
        tuple(keeps),
    )


def _registers(operands: str) -> list[str]:
    """By the name of the whole register; the zero register is none."""
    found = [_name(match[0]) for match in REGISTER.finditer(operands)]
    return [register for register in found if register != "xzr"]


def _name(register: str) -> str:
    if register in ("sp", "wsp"):
        return "sp"
    return ("v" if register[0] in "vqdsbh" else "x") + register[1:]


def _kind(mnemonic: str, listed: str, registers: list[str]) -> Kind:
    kind = _named(mnemonic)
    of_vectors = any(register.startswith("v") for register in registers)
    if kind == "move" and re.match(r"v\d+\.[dshb]\[", listed):
        return "insert"
    if kind == "move":
        return kind if of_vectors else "integer"
    return _OF_VECTORS.get(kind, kind) if of_vectors else kind


@functools.cache
def _named(mnemonic: str) -> Kind:
    kinds = (kind for kind, pattern in _PATTERNS if pattern.fullmatch(mnemonic))
    return next(kinds, "unknown")


def _written(mnemonic: str, registers: list[str]) -> list[str]:
    if mnemonic in ("bl", "blr"):
        return ["x30"]
    if _WRITES_NOTHING.fullmatch(mnemonic):
        return []
    return registers if _WRITES_ALL.fullmatch(mnemonic) else registers[:1]


def _keeps(mnemonic: str, operands: str) -> bool:
    """Whether a part of what it writes stays as it was, so that it is read too."""
    return _READS_WRITTEN.fullmatch(mnemonic) is not None or (mnemonic == "ld1" and "}[" in operands)


def _bits(mnemonic: str, listed: str, kind: Kind) -> int:
    """All that it moves, or what it computes of each register."""
    shape = _SHAPE.search(listed)
    plain = re.match(r"([qdshb])\d", listed)
    element = _BITS[shape["element"]] if shape else _BITS[plain[1]] if plain else 64
    whole = element * int((shape and shape["count"]) or 1)
    if kind not in ("vector load", "vector store"):
        return whole
    if shape and (mnemonic.endswith("r") or "}[" in listed):  # one value for all lanes; one lane
        return element
    return whole * len(_registers(listed))
