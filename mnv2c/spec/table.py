"""The spec: the paper's table (arXiv 1801.04381, Table 2) and nothing more.

What comes in: a YAML file and ``--set`` overrides. What goes out: a frozen ``Spec`` in which every value is in range,
or one ``SpecError`` with every mistake of file and overrides, each with file, line and column.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Literal, cast

from yaml.nodes import MappingNode, Node, SequenceNode

from mnv2c.errors import SourceError, SpecError
from mnv2c.files import read_ordinary
from mnv2c.ir.graph import Source
from mnv2c.shipped import SPECS, find_spec, spec_names
from mnv2c.spec.reserved import reserved
from mnv2c.spec.yaml_reader import OVERRIDES, Reader, TooMany, place_of
from mnv2c.spelling import did_you_mean

PaddingConvention = Literal["same", "symmetric"]
PerChannel = tuple[float, float, float]
DenseActivation = Literal["relu", "relu6", "softmax"]

_NOWHERE = Source(file="", line=0, row="")
_LONGEST_FILE = 1 << 16  # a table of 64 rows takes a tenth of that; PyYAML some 10 us for a byte

_MOST_CHANNELS = 8192
_MOST_CLASSES = 100_000
_MOST_DENSE = 8
_ACTIVATIONS = ("relu6", "relu")

_KEYS = ("name", "width_multiplier", "input", "padding", "batchnorm_epsilon", "stem", "bottlenecks")
_OPTIONAL = ("channel_divisor", "activation", "head")
_CLASSIFIERS = ("classes", "classifier")
_INPUT_KEYS = ("resolution",)
_INPUT_OPTIONAL = ("batch", "mean", "scale")
_STEM_KEYS = ("c", "s")
_STEM_OPTIONAL = ("kernel", "pool")
_ROW_KEYS = ("t", "c", "n", "s")
_OTHER_ROWS = {"separable": (("c", "n", "s"), ()), "residual": (("c", "n", "s"), ("r",))}
_HEAD_KEYS = ("c",)
_CLASSIFIER_KEYS = ("c",)
_CLASSIFIER_OPTIONAL = ("activation",)
_PATHS = (
    *_KEYS,
    *_OPTIONAL,
    *_CLASSIFIERS,
    *(f"input.{key}" for key in (*_INPUT_KEYS, *_INPUT_OPTIONAL)),
    *(f"stem.{key}" for key in (*_STEM_KEYS, *_STEM_OPTIONAL)),
    "bottlenecks[]",
    *(f"bottlenecks[].{key}" for key in _ROW_KEYS),
    *(f"bottlenecks[].{kind}.{key}" for kind, (keys, more) in _OTHER_ROWS.items() for key in (*keys, *more)),
    *(f"head.{key}" for key in _HEAD_KEYS),
    "classifier[]",
    *(f"classifier[].{key}" for key in (*_CLASSIFIER_KEYS, *_CLASSIFIER_OPTIONAL)),
)
"""Every field that ``--set`` can name; ``[]`` stands for the number of a row."""


@dataclass(frozen=True)
class InputSpec:
    """``batch`` RGB images of ``height`` x ``width`` pixels in one run; ``x = (pixel - mean) / scale`` per channel."""

    height: int
    width: int
    batch: int = 1
    mean: PerChannel = (127.5, 127.5, 127.5)
    scale: PerChannel = (127.5, 127.5, 127.5)
    source: Source = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Stem:
    """The full convolution of the image: channels ``c`` before scaling, stride ``s``, and ``kernel`` pixels a side
    (paper, Table 2); behind it, where ``pool`` is not 0, the largest of 3x3 pixels, with that stride (ResNet)."""

    c: int
    s: int
    kernel: int = 3
    pool: int = 0
    source: Source = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Row:
    """``n`` inverted residuals: expansion factor ``t``, channels ``c`` before scaling, stride ``s`` of the first.

    Paper, Table 2 for the rows, Table 1 and section 3.3 for what one block is.
    """

    t: int
    c: int
    n: int
    s: int
    source: Source = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Separable:
    """``n`` depthwise separable convolutions, as in MobileNetV1 (arXiv 1704.04861, Table 1): a depthwise 3x3, then a
    1x1 to ``c`` channels before scaling; stride ``s`` of the first."""

    c: int
    n: int
    s: int
    source: Source = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Residual:
    """``n`` residual bottlenecks, the paper's figure 3a (arXiv 1512.03385, figure 5): a 1x1 to ``c / r`` channels, a
    3x3, a 1x1 to ``c`` channels before scaling; stride ``s`` of the first, in its 3x3.

    The shortcut is a 1x1 of its own where stride or channels change.
    """

    c: int
    n: int
    s: int
    r: int = 4
    source: Source = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Head:
    """The last 1x1 convolution: channels ``c``, which a width multiplier below 1.0 leaves alone (paper, section 4)."""

    c: int
    source: Source = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class DenseRow:
    """One layer of the classifier: ``c`` outputs, never scaled, and what is done to them; softmax in the last alone."""

    c: int
    activation: DenseActivation | None = None
    source: Source = field(default=_NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Spec:
    """One network: the paper's table and its trade-offs, width multiplier and resolution (section 4).

    ``classifier`` is what stands behind the mean over the map: one layer in the paper, none where the features are
    what is wanted. Sources do not count in comparisons nor in ``repr``: the same table is the same spec anywhere.
    """

    name: str
    width_multiplier: float
    channel_divisor: int
    classifier: tuple[DenseRow, ...]
    input: InputSpec
    padding: PaddingConvention
    batchnorm_epsilon: float
    stem: Stem
    bottlenecks: tuple[Row | Separable | Residual, ...]
    head: Head | None
    activation: Literal["relu6", "relu"] = "relu6"

    def channels(self, c: float) -> int:
        """``c`` of the stem or of a row, scaled by the width multiplier, as a multiple of ``channel_divisor``."""
        return make_divisible(c * self.width_multiplier, self.channel_divisor)

    @property
    def head_channels(self) -> int:
        """The head's ``c``, scaled as those of the rows, but not below 1.0 (paper, section 4); of a table with one."""
        assert self.head is not None
        return make_divisible(self.head.c * max(1.0, self.width_multiplier), self.channel_divisor)


def make_divisible(value: float, divisor: int) -> int:
    """The multiple of ``divisor`` nearest to ``value``, never below ``divisor`` nor below 90 % of ``value``."""
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * value else nearest + divisor


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """The spec in file ``path``, or the shipped one of that name (``mnv2_1.0``), every value in range. Overrides are
    ``KEY=VALUE``: ``resolution=192``, ``bottlenecks[2].c=40``; the last one for a key wins.

    ``SpecError`` where the file cannot be read, and with every mistake of file and overrides.
    """
    path = find_spec(Path(path))
    return read_spec(_read_text(path), os.fsencode(path).decode("utf-8", "backslashreplace"), overrides)


def read_spec(text: str, file: str, overrides: Sequence[str] = ()) -> Spec:
    """The spec that the ``text`` of ``file`` is; else as ``load_spec``."""
    if sum(map(len, overrides)) > _LONGEST_FILE:
        raise SpecError([SourceError(OVERRIDES, 1, 1, "larger than 64 KiB in all", hint="write a spec of your own")])
    overrides = [" ".join(one.splitlines()) for one in overrides]
    reader = Reader(file, text, overrides)
    more = False
    try:
        spec = _read_all(reader, file, overrides)
    except TooMany:
        spec, more = None, True
    if spec is not None and not reader.errors:
        return spec
    in_order = sorted(reader.errors, key=lambda error: (error.file == OVERRIDES, error.line, error.column))
    raise SpecError(in_order, more=more)


def _read_all(reader: Reader, file: str, overrides: Sequence[str]) -> Spec | None:
    for index, override in enumerate(overrides):
        _override(reader, override, index)
    if reader.root is not None:
        return _read_spec(reader, reader.root)
    if not any(error.file == file for error in reader.errors):
        reader.report(file, 1, 1, "the spec is empty", f"begin with `name: ...`; see {SPECS / 'mnv2_1.0.yaml'}")
    return None


def _read_text(path: Path) -> str:
    """The file's text, or a ``SpecError`` that says why there is none."""
    hint, line, column = "", 1, 1
    try:
        data = read_ordinary(path, _LONGEST_FILE + 1)
        if len(data) <= _LONGEST_FILE:
            return data.decode("utf-8-sig")
        message = "larger than 64 KiB: this is no spec"
    except UnicodeDecodeError as error:
        message, hint = f"not UTF-8 text: byte 0x{error.object[error.start]:02x}", "save the file as UTF-8"
        before = error.object[: error.start].decode("utf-8", "replace")
        line, column = place_of(before, len(before))
    except FileNotFoundError:
        known = {found.name: str(found) for found in sorted(path.parent.glob("*.yaml"))} | {n: n for n in spec_names()}
        guess = did_you_mean(path.name, known)
        message = "no such file, nor does a spec of that name come with mnv2c"
        hint = f"did you mean {known[guess]}?" if guess else f"there are {', '.join(spec_names())}"
    except IsADirectoryError:
        message, hint = "a directory, not a file", "name the YAML file in it"
    except (OSError, ValueError) as error:
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise SpecError([SourceError(str(path), line, column, message, hint=hint)])


def _override(reader: Reader, text: str, index: int) -> None:
    """Finds out which value ``KEY=VALUE`` stands in for; a short name does where only one section has it."""
    key, equals, _ = text.partition("=")
    name = key.strip()
    pattern = re.sub(r"\[(0|[1-9][0-9]{0,5})\]", "[]", name, count=1)
    meant = [path for path in _PATHS if path.endswith(f".{name}") and path.count(".") == 1]
    if not equals or not name:
        reader.report(OVERRIDES, index + 1, 1, "not KEY=VALUE", "write for example resolution=192")
    elif pattern in _PATHS and "[]" not in name:
        reader.override(name, index, len(key) + 1)
    elif len(meant) == 1 and "[]" not in meant[0]:
        reader.override(meant[0], index, len(key) + 1)
    elif meant:
        hint = f"write {' or '.join(meant)}".replace("[]", "[0]")
        reader.report(OVERRIDES, index + 1, 1, f"`{name}` could mean several fields", hint)
    else:
        short = [path.removeprefix("input.") for path in _PATHS]
        guess = did_you_mean(pattern, (*_PATHS, *short)).replace("[]", "[0]")
        hint = f"did you mean `{guess}`?" if guess else f"known: {', '.join((*_KEYS, *_CLASSIFIERS))}"
        reader.report(OVERRIDES, index + 1, 1, f"unknown key `{name}`", hint)


def _read_spec(reader: Reader, root: Node) -> Spec:
    """The whole table; where the reader has noted errors, not to be used."""
    fields = reader.fields(root, "", required=_KEYS, optional=_OPTIONAL, one_of=_CLASSIFIERS)
    stem = _read_stem(reader, fields.get("stem"))
    items = reader.items(fields.get("bottlenecks"), "bottlenecks", most=64)
    rows = tuple(_read_row(reader, node, f"bottlenecks[{i}]") for i, node in enumerate(items))
    stride = stem.s * max(stem.pool, 1) * prod(row.s for row in rows)
    divisor, activation = fields.get("channel_divisor"), fields.get("activation")
    return Spec(
        name=_read_name(reader, fields.get("name")),
        width_multiplier=reader.number(fields.get("width_multiplier"), "width_multiplier", least=0.05, most=4.0),
        channel_divisor=reader.integer(divisor, "channel_divisor", least=1, most=64) if divisor else 8,
        classifier=_read_classifier(reader, fields.get("classes"), fields.get("classifier")),
        input=_read_input(reader, fields.get("input"), stride),
        padding=cast(PaddingConvention, reader.choice(fields.get("padding"), "padding", ("same", "symmetric"))),
        batchnorm_epsilon=reader.number(fields.get("batchnorm_epsilon"), "batchnorm_epsilon", least=1e-12, most=1.0),
        stem=stem,
        bottlenecks=rows,
        head=_read_head(reader, fields["head"]) if "head" in fields else None,
        activation="relu"
        if activation and reader.choice(activation, "activation", _ACTIVATIONS) == "relu"
        else "relu6",
    )


def _read_name(reader: Reader, node: Node | None) -> str:
    meaning = "a letter, then letters, digits, `.`, `_` or `-`, 64 at most"
    name = reader.word(node, "name", pattern=r"[A-Za-z][A-Za-z0-9._-]{0,63}", meaning=meaning)
    owner = reserved(name)
    if node is not None and owner:
        reader.error(node, f"`name` must not be {name}: {owner}")
    return name


def _read_input(reader: Reader, node: Node | None, stride: int) -> InputSpec:
    fields = reader.fields(node, "input", required=_INPUT_KEYS, optional=_INPUT_OPTIONAL)
    height, width = _read_resolution(reader, fields.get("resolution"), stride)
    batch = reader.integer(fields["batch"], "input.batch", least=1, most=1024) if "batch" in fields else 1
    values = InputSpec(
        height=height,
        width=width,
        batch=batch,
        mean=_read_per_channel(reader, fields.get("mean"), "input.mean", -1e6),
        scale=_read_per_channel(reader, fields.get("scale"), "input.scale", 1e-6),
    )
    channels = f"mean: {_text(values.mean)}, scale: {_text(values.scale)}"
    resolution = str(height) if height == width else f"[{height}, {width}]"
    row = f"input: {{batch: {batch}, resolution: {resolution}, {channels}}}"
    return replace(values, source=Source(*reader.place(node), row))


def _read_resolution(reader: Reader, node: Node | None, stride: int) -> tuple[int, int]:
    """Height and width in pixels: one integer for both, or a list of two; each at least the stride of the table."""

    def extent(node: Node | None, path: str) -> int:
        reason = f"the strides of the table divide the image by {stride}"
        return reader.integer(node, path, least=stride, most=max(4096, stride), hint=reason)

    if not isinstance(node, SequenceNode):
        side = extent(node, "input.resolution")
        return side, side
    sides = [extent(item, f"input.resolution[{i}]") for i, item in enumerate(node.value)]
    if len(sides) != 2:
        message = f"`input.resolution` must be one integer or a list of 2, not of {len(sides)}"
        reader.error(node, message, "[height, width]")
        return stride, stride
    return sides[0], sides[1]


def _read_per_channel(reader: Reader, node: Node | None, path: str, least: float) -> PerChannel:
    """One number for all three channels, or a list of three; 127.5 where nothing is given."""
    if node is None:
        return (127.5, 127.5, 127.5)
    if not isinstance(node, SequenceNode):
        value = reader.number(node, path, least=least, most=1e6)
        return (value, value, value)
    values = [reader.number(item, f"{path}[{i}]", least=least, most=1e6) for i, item in enumerate(node.value)]
    if len(values) != 3:
        reader.error(node, f"`{path}` must be one number or a list of 3, not of {len(values)}", "red, green, blue")
        return (least, least, least)
    return (values[0], values[1], values[2])


def _text(values: PerChannel) -> str:
    """As YAML: one number where all three are the same."""
    return f"{values[0]:g}" if len(set(values)) == 1 else f"[{', '.join(f'{value:g}' for value in values)}]"


def _read_stem(reader: Reader, node: Node | None) -> Stem:
    fields = reader.fields(node, "stem", required=_STEM_KEYS, optional=_STEM_OPTIONAL)
    c = reader.integer(fields.get("c"), "stem.c", least=1, most=_MOST_CHANNELS)
    s = reader.integer(fields.get("s"), "stem.s", least=1, most=2)
    kernel = reader.integer(fields["kernel"], "stem.kernel", least=3, most=7) if "kernel" in fields else 3
    pool = reader.integer(fields["pool"], "stem.pool", least=1, most=2) if "pool" in fields else 0
    more = (f", kernel: {kernel}" if kernel != 3 else "") + (f", pool: {pool}" if pool else "")
    return Stem(c, s, kernel, pool, Source(*reader.place(node), f"stem: {{c: {c}, s: {s}{more}}}"))


def _read_row(reader: Reader, node: Node, path: str) -> Row | Separable | Residual:
    words = [str(key.value) for key, _ in node.value] if isinstance(node, MappingNode) else []
    kind = next((kind for word in words if (kind := did_you_mean(word, _OTHER_ROWS))), "")
    if kind:
        return _read_other_row(reader, reader.fields(node, path, required=(kind,)).get(kind), f"{path}.{kind}", kind)
    fields = reader.fields(node, path, required=_ROW_KEYS)
    t = reader.integer(fields.get("t"), f"{path}.t", least=1, most=64)
    c, n, s = _read_block(reader, fields, path)
    return Row(t, c, n, s, Source(*reader.place(node), f"{{t: {t}, c: {c}, n: {n}, s: {s}}}"))


def _read_other_row(reader: Reader, node: Node | None, path: str, kind: str) -> Separable | Residual:
    required, optional = _OTHER_ROWS[kind]
    fields = reader.fields(node, path, required=required, optional=optional)
    c, n, s = _read_block(reader, fields, path)
    r = reader.integer(fields["r"], f"{path}.r", least=1, most=64) if "r" in fields else 4
    more = f", r: {r}" if r != 4 else ""
    source = Source(*reader.place(node), f"{{{kind}: {{c: {c}, n: {n}, s: {s}{more}}}}}")
    return Separable(c, n, s, source) if kind == "separable" else Residual(c, n, s, r, source)


def _read_block(reader: Reader, fields: Mapping[str, Node], path: str) -> tuple[int, int, int]:
    """Channels, repeats and stride, which every kind of row has."""
    c = reader.integer(fields.get("c"), f"{path}.c", least=1, most=_MOST_CHANNELS)
    n = reader.integer(fields.get("n"), f"{path}.n", least=1, most=64)
    s = reader.integer(fields.get("s"), f"{path}.s", least=1, most=2)
    return c, n, s


def _read_head(reader: Reader, node: Node) -> Head:
    fields = reader.fields(node, "head", required=_HEAD_KEYS)
    c = reader.integer(fields.get("c"), "head.c", least=1, most=_MOST_CHANNELS)
    return Head(c, Source(*reader.place(node), f"head: {{c: {c}}}"))


def _read_classifier(reader: Reader, classes: Node | None, rows: Node | None) -> tuple[DenseRow, ...]:
    """``classes: N`` is short for one row."""
    if rows is None:
        c = reader.integer(classes, "classes", least=1, most=_MOST_CLASSES)
        return (DenseRow(c, None, Source(*reader.place(classes), f"classes: {c}")),)
    items = reader.items(rows, "classifier", least=0, most=_MOST_DENSE)
    last = len(items) - 1
    return tuple(_read_dense(reader, node, f"classifier[{i}]", is_last=i == last) for i, node in enumerate(items))


def _read_dense(reader: Reader, node: Node, path: str, *, is_last: bool) -> DenseRow:
    fields = reader.fields(node, path, required=_CLASSIFIER_KEYS, optional=_CLASSIFIER_OPTIONAL)
    c = reader.integer(fields.get("c"), f"{path}.c", least=1, most=_MOST_CLASSES)
    text = f"{{c: {c}}}"
    activation: DenseActivation | None = None
    if "activation" in fields:
        choices = ("relu", "relu6", "softmax") if is_last else ("relu", "relu6")
        activation = cast(DenseActivation, reader.choice(fields["activation"], f"{path}.activation", choices))
        text = f"{{c: {c}, activation: {activation}}}"
    return DenseRow(c, activation, Source(*reader.place(node), text))
