"""Changes valid inputs: as bytes, as text, and as trees of what JSON and YAML know.

What comes in: a ``Random``, and something valid. What goes out: something like it. The same numbers give the same.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import onnx
from google.protobuf.json_format import MessageToDict, ParseDict

ESCAPES = "\x1b[2J\x1b]0;gone\x07\x9b31m\u202e\r\x00\ud800"
"""What a terminal obeys, or cannot show."""

_NUMBERS = (0, -1, 1, 2, 3, 255, 256, 1 << 16, (1 << 31) - 1, 1 << 31, -(1 << 31), 1 << 40, (1 << 63) - 1, 1 << 63)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", [], {}, "x", "true", "1", "-0", ".", "..", "../../etc/passwd", "/dev/zero", ESCAPES),
    *_NUMBERS,
    *(10**30, 10**400, -(10**400), 0.0, -0.0, 0.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")),
    *("a" * 5000, "\u00e9\u4e2d\U0001f600", "a\nb: c", "!!python/object:os.system", [[]], [None], {"": None}),
)
_WORDS = (
    *("-1", "0", "1", "1e999", "-1e999", "NaN", "Infinity", ".nan", ".inf", "0x7fffffff", "1_0", "1:30", "null", "~"),
    *("9" * 5000, "1." + "0" * 5000, "[" * 500, "{" * 500, "[" * 50_000, '{"a":' * 20_000, "- " * 5000, "&a [*a]"),
    *("true", "*a", "!!str", "!!python/name:os", "%YAML 1.", "\\ud800", '"\\U00110000"', ESCAPES, "\ufeff", "'", '"'),
)


def changed_bytes(draw: Random, content: bytes, *, others: Sequence[bytes] = ()) -> bytes:
    """One to six changes at random places; ``others`` are what parts may be taken from."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        change: Callable[[Random, bytearray, Sequence[bytes]], None] = draw.choice(_CHANGES)
        change(draw, changed, others or (content,))
    return bytes(changed)


def _flip(draw: Random, changed: bytearray, others: Sequence[bytes]) -> None:
    if changed:
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)


def _number(draw: Random, changed: bytearray, others: Sequence[bytes]) -> None:
    """A number of one to eight bytes, of those that formats count with."""
    size = draw.choice((1, 2, 4, 8))
    number = draw.choice((*_NUMBERS, len(changed), len(changed) + 1)) % (1 << 8 * size)
    place = _place(draw, changed)
    changed[place : place + size] = number.to_bytes(size, draw.choice(("little", "big")))


def _cut(draw: Random, changed: bytearray, others: Sequence[bytes]) -> None:
    begin = _place(draw, changed)
    del changed[begin : begin + draw.choice((1, 4, 16, 256, len(changed)))]


def _insert(draw: Random, changed: bytearray, others: Sequence[bytes]) -> None:
    place = _place(draw, changed)
    changed[place:place] = draw.randbytes(draw.choice((1, 4, 16, 256)))


def _splice(draw: Random, changed: bytearray, others: Sequence[bytes]) -> None:
    """A part of another, or of itself, over or before what is there."""
    other = draw.choice(others)
    begin, place = _place(draw, other), _place(draw, changed)
    part = other[begin : begin + draw.choice((4, 64, 1024))]
    changed[place : place + draw.choice((0, len(part)))] = part


_CHANGES = (_flip, _flip, _number, _number, _cut, _insert, _splice)


def _place(draw: Random, content: bytes | bytearray) -> int:
    """More often near the beginning or the end, where formats have their tables."""
    size = len(content)
    return min(
        draw.choice((draw.randint(0, size), draw.randint(0, min(size, 64)), max(size - draw.randint(0, 64), 0))), size
    )


def changed_text(draw: Random, text: str) -> bytes:
    """In UTF-8: a word or a number is another, a line comes twice or many times, or bytes are changed."""
    lines = text.splitlines(keepends=True)
    for _ in range(draw.randint(1, 3)):
        number = draw.randrange(len(lines))
        line = lines[number]
        match draw.randrange(6):
            case 0:
                lines[number : number + 1] = [line] * draw.choice((0, 2, 50, 2000))
            case 1:
                lines.insert(draw.randrange(len(lines)), line)
            case 2:
                place = draw.randint(0, len(line))
                lines[number] = line[:place] + draw.choice(_WORDS) + line[place:]
            case _:
                words = line.split(" ")
                place = draw.randrange(len(words))
                end = next((end for end in ("},\n", ",\n", "\n", ",", "}", ":") if words[place].endswith(end)), "")
                words[place] = draw.choice(_WORDS) + draw.choice((end, ""))
                lines[number] = " ".join(words)
        lines = lines or [""]
    content = "".join(lines).encode(errors="surrogatepass")
    return changed_bytes(draw, content) if draw.random() < 0.2 else content


def changed_tree(draw: Random, tree: Any, *, values: Sequence[Any] = ()) -> Any:
    """One to three of its values are others, of any type, are gone, are there twice, are nested or have another name;
    ``values`` are further ones that mean something there."""
    changed = deepcopy(tree)
    for _ in range(draw.randint(1, 3)):
        changed = _changed_once(draw, changed, (*_VALUES, *values, *values))
    return changed


def _changed_once(draw: Random, tree: Any, values: Sequence[Any]) -> Any:
    places = list(_places(tree))
    if not places:
        return draw.choice(values)
    holder, key = draw.choice(places)
    value = holder[key]
    match draw.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder[key:key] = [deepcopy(value)] * draw.choice((1, 10, 1000))
        case 1:
            holder[draw.choice(("x", "", "__meta__", ESCAPES, "a" * 3000))] = holder.pop(key)
        case 2:
            for _ in range(draw.choice((1, 2, 40))):
                value = [value] if draw.random() < 0.5 else {"a": value}
            holder[key] = value
        case 3:
            other, name = draw.choice(places)
            holder[key] = deepcopy(other[name])
        case 4 if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
            holder[key] = draw.choice((-value, value + 1, value - 1, value * 1000, float(value), str(value)))
        case _:
            holder[key] = deepcopy(draw.choice(values))
    return tree


def _places(tree: Any) -> Any:
    """Every (holder, key) in it; an object is its attributes."""
    tree = tree if isinstance(tree, type) else getattr(tree, "__dict__", tree)
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _places(value)


def json_bytes(tree: Any) -> bytes:
    """With whatever ``changed_tree`` put into it: NaN, lone surrogates, integers without an end."""
    return json.dumps(tree).encode()


_OF_ONNX = (
    *("Add", "Reshape", "Concat", "Pad", "Gemm", "ConstantOfShape", "Expand", "Transpose", "Loop", "pixels", "AAAA"),
    *("-1", "0", "1000000000000", [1, -1], ["1", "1"], [0], ["4294967296"] * 2, [], 1, 7, 11, 13, -1),
)


def changed_onnx(draw: Random, content: bytes) -> bytes:
    """A model, as far as protobuf's types go."""
    tree = MessageToDict(onnx.load_model_from_string(content), preserving_proto_field_name=True)
    while True:
        try:
            return bytes(ParseDict(changed_tree(draw, tree, values=_OF_ONNX), onnx.ModelProto()).SerializeToString())
        except Exception:  # whatever protobuf says to a value of another type
            continue


def no_file(draw: Random, path: Path) -> None:
    """Something else in place of the file: what never ends, what never begins, what is not there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    match draw.randrange(5):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to("/dev/zero")
        case 2:
            path.mkdir()
        case 3:
            path.symlink_to(path.name)
