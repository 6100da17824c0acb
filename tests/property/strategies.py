"""Hypothesis strategies: small networks that look like the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from hypothesis import strategies as st

from mnv2c.spec.table import Head, InputSpec, Row, Spec, Stem


def rows() -> st.SearchStrategy[Row]:
    """One row of the table: channels and repeats small, every expansion factor and stride."""
    return st.builds(Row, t=st.integers(1, 6), c=st.integers(1, 32), n=st.integers(1, 2), s=st.integers(1, 2))


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
        classes=draw(st.integers(1, 20)),
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


def yaml_of(spec: Spec) -> str:
    """The spec as a file would have it."""
    image = spec.input
    table = "".join(f"  - {{t: {row.t}, c: {row.c}, n: {row.n}, s: {row.s}}}\n" for row in spec.bottlenecks)
    return (
        f"name: {spec.name}\nwidth_multiplier: {spec.width_multiplier}\n"
        f"channel_divisor: {spec.channel_divisor}\nclasses: {spec.classes}\n"
        f"input: {{batch: {image.batch}, resolution: [{image.height}, {image.width}], "
        f"mean: {list(image.mean)}, scale: {list(image.scale)}}}\n"
        f"padding: {spec.padding}\nbatchnorm_epsilon: {spec.batchnorm_epsilon}\n"
        f"stem: {{c: {spec.stem.c}, s: {spec.stem.s}}}\nbottlenecks:\n{table}head: {{c: {spec.head.c}}}\n"
    )
