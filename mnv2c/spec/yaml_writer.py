"""Writes a spec as the YAML that ``table`` reads.

What comes in: a ``Spec``. What goes out: text, the same for equal specs; what is read from it is equal to the spec.
"""

from __future__ import annotations

from collections.abc import Sequence

from mnv2c.spec.table import DenseRow, InputSpec, Residual, Row, Separable, Spec, Stem


def write_spec(spec: Spec, *, comments: Sequence[str] = ()) -> str:
    """The file's text, ``comments`` as its first lines."""
    rows = "".join(f"  - {_row(row)}\n" for row in spec.bottlenecks)
    return (
        "".join(f"# {' '.join(comment.split())}\n" for comment in comments)
        + f"name: {_word(spec.name)}\n"
        + f"width_multiplier: {_number(spec.width_multiplier)}\n"
        + (f"channel_divisor: {spec.channel_divisor}\n" if spec.channel_divisor != 8 else "")
        + _classifier(spec.classifier)
        + f"input: {_input(spec.input)}\n"
        + f"padding: {spec.padding}\n"
        + f"batchnorm_epsilon: {_number(spec.batchnorm_epsilon)}\n"
        + (f"activation: {spec.activation}\n" if spec.activation != "relu6" else "")
        + f"stem: {_stem(spec.stem)}\n"
        + f"bottlenecks:\n{rows}"
        + (f"head: {{c: {spec.head.c}}}\n" if spec.head else "")
    )


def _stem(stem: Stem) -> str:
    kernel = f", kernel: {stem.kernel}" if stem.kernel != 3 else ""
    pool = f", pool: {stem.pool}" if stem.pool else ""
    return f"{{c: {stem.c}, s: {stem.s}{kernel}{pool}}}"


def _row(row: Row | Separable | Residual) -> str:
    block = f"c: {row.c}, n: {row.n}, s: {row.s}"
    match row:
        case Row():
            return f"{{t: {row.t}, {block}}}"
        case Separable():
            return f"{{separable: {{{block}}}}}"
    return f"{{residual: {{{block}{f', r: {row.r}' if row.r != 4 else ''}}}}}"


def _classifier(rows: tuple[DenseRow, ...]) -> str:
    if len(rows) == 1 and rows[0].activation is None:
        return f"classes: {rows[0].c}\n"
    if not rows:
        return "classifier: []\n"
    return "classifier:\n" + "".join(f"  - {_dense(row)}\n" for row in rows)


def _dense(row: DenseRow) -> str:
    return f"{{c: {row.c}}}" if row.activation is None else f"{{c: {row.c}, activation: {row.activation}}}"


def _input(image: InputSpec) -> str:
    square = image.height == image.width
    resolution = str(image.height) if square else f"[{image.height}, {image.width}]"
    return (
        f"{{batch: {image.batch}, resolution: {resolution}, mean: {_per_channel(image.mean)}, "
        f"scale: {_per_channel(image.scale)}}}"
    )


def _per_channel(values: tuple[float, ...]) -> str:
    """One number where all three are the same."""
    return _number(values[0]) if len(set(values)) == 1 else f"[{', '.join(map(_number, values))}]"


def _word(name: str) -> str:
    """In quotes where YAML 1.1 takes it for something else than a word."""
    return f'"{name}"' if name.lower() in ("true", "false", "yes", "no", "on", "off", "null", "y", "n") else name


def _number(value: float) -> str:
    """The shortest text that reads as the same number; YAML 1.1 wants a point in ``1.0e-05``."""
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    return text if not e or "." in mantissa else f"{mantissa}.0e{exponent}"
