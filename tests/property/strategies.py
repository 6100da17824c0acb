"""Hypothesis strategies: small networks that look like the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from hypothesis import strategies as st

from mnv2c.spec.table import DenseRow, Head, InputSpec, Row, Spec, Stem


def rows() -> st.SearchStrategy[Row]:
    """One row of the table: channels and repeats small, every expansion factor and stride."""
    return st.builds(Row, t=st.integers(1, 6), c=st.integers(1, 32), n=st.integers(1, 2), s=st.integers(1, 2))


@st.composite
def classifiers(draw: st.DrawFn) -> tuple[DenseRow, ...]:
    """None, one layer, or several, the last with a softmax or without."""
    *hidden, last = draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
    activation = st.sampled_from([None, "relu", "relu6"])
    rows = (*(DenseRow(c, draw(activation)) for c in hidden), DenseRow(last, draw(st.sampled_from([None, "softmax"]))))
    return draw(st.sampled_from([rows, rows[-1:], ()]))


@st.composite
def specs(draw: st.DrawFn, *, largest_batch: int = 3, divisors: Sequence[int] = (1, 2, 8)) -> Spec:
    """A valid spec of one to four rows, whose maps are odd and even, square and not, down to one pixel."""
    stem = draw(st.builds(Stem, c=st.integers(1, 24), s=st.integers(1, 2)))
    table = tuple(draw(st.lists(rows(), min_size=1, max_size=4)))
    stride = stem.s * prod(row.s for row in table)
    side = st.integers(stride, stride + 16)
    per_channel = st.tuples(*[st.integers(1, 255).map(float)] * 3)
    return Spec(
        name="random",
        width_multiplier=draw(st.sampled_from([0.35, 0.5, 0.75, 1.0, 1.3, 1.4])),
        channel_divisor=draw(st.sampled_from(divisors)),
        classifier=draw(classifiers()),
        input=InputSpec(
            height=draw(side),
            width=draw(side),
            batch=draw(st.integers(1, largest_batch)),
            mean=draw(per_channel),
            scale=draw(per_channel),
        ),
        padding=draw(st.sampled_from(["same", "symmetric"])),
        batchnorm_epsilon=draw(st.sampled_from([1e-3, 1e-5])),
        stem=stem,
        bottlenecks=table,
        head=Head(draw(st.integers(1, 48))),
    )
