"""Hypothesis strategies: small networks that look like the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from hypothesis import strategies as st

from mnv2c.spec.table import DenseRow, Head, InputSpec, Residual, Row, Separable, Spec, Stem


def rows() -> st.SearchStrategy[Row | Separable | Residual]:
    """One row of the table: channels and repeats small, every kind, expansion factor and stride."""
    block = {"c": st.integers(1, 32), "n": st.integers(1, 2), "s": st.integers(1, 2)}
    inverted = st.builds(Row, t=st.integers(1, 6), **block)
    others = [st.builds(Separable, **block), st.builds(Residual, **block, r=st.integers(1, 5))]
    return st.one_of(inverted, *others)


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
    kernel, pool = st.sampled_from([3, 3, 5, 7]), st.sampled_from([0, 0, 1, 2])
    stem = draw(st.builds(Stem, c=st.integers(1, 24), s=st.integers(1, 2), kernel=kernel, pool=pool))
    table = tuple(draw(st.lists(rows(), min_size=1, max_size=4)))
    stride = stem.s * max(stem.pool, 1) * prod(row.s for row in table)
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
        head=draw(st.none() | st.builds(Head, st.integers(1, 48))),
        activation=draw(st.sampled_from(["relu6", "relu6", "relu"])),
    )
