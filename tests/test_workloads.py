"""Workloads: names that tell them apart, JSON both ways, and no TVM."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kernel_examples import TRIED

from mnv2c.ir.graph import Padding
from mnv2c.workload_json import from_json, to_json
from mnv2c.workloads import Conv, Dense, Depthwise, MaxPool, Pad, Pointwise, Pool, Softmax, Stem, Workload

SMALL = st.integers(1, 12)
SIDES = st.builds(Padding, *[st.integers(0, 11)] * 4)
ACTIVATIONS = st.sampled_from([None, "relu6", "relu"])
NUMBERS = st.floats(-1e6, 1e6).map(lambda value: value or 0.0)
SCALES = st.tuples(NUMBERS, NUMBERS, NUMBERS)


def _kinds() -> list[st.SearchStrategy[Workload]]:
    extents: dict[str, Any] = {"batch": SMALL, "height": SMALL, "width": SMALL}
    banded = {**extents, "band": st.integers(0, 12)}
    stem = {**banded, "n": SMALL, "stride": SMALL, "rows": SMALL, "columns": SMALL, "padding": SIDES}
    stem |= {"activation": ACTIVATIONS, "border": SIDES, "kernel": SMALL}
    windows = {**extents, "kernel": SMALL, "stride": SMALL, "rows": SMALL, "columns": SMALL}
    return [
        st.builds(Stem, **stem),
        st.builds(Stem, **stem, image=st.just("uint8"), mean=SCALES, scale=SCALES),
        st.builds(Pointwise, **banded, k=SMALL, n=SMALL, activation=ACTIVATIONS, residual=st.booleans(), border=SIDES),
        st.builds(
            Depthwise,
            **banded,
            channels=SMALL,
            stride=SMALL,
            rows=SMALL,
            columns=SMALL,
            activation=ACTIVATIONS,
            ring=st.booleans(),
        ),
        st.builds(Conv, **windows, k=SMALL, n=SMALL, activation=ACTIVATIONS, border=SIDES),
        st.builds(MaxPool, **windows, channels=SMALL, padding=SIDES),
        st.builds(Pad, **extents, channels=SMALL, border=SIDES),
        st.builds(Pool, **extents, channels=SMALL),
        st.builds(Dense, batch=SMALL, k=SMALL, n=SMALL, activation=ACTIVATIONS),
        st.builds(Softmax, batch=SMALL, n=SMALL),
    ]


KINDS = _kinds()
ANY = st.one_of(KINDS)


@given(ANY, ANY)
def test_two_workloads_never_share_a_name(one: Workload, other: Workload) -> None:
    assume(one != other)
    assert one.name != other.name


@given(st.sampled_from(KINDS), st.data())
def test_a_workload_that_differs_in_one_field_has_another_name(
    kind: st.SearchStrategy[Workload], data: st.DataObject
) -> None:
    workload, other = data.draw(kind), data.draw(kind)
    field = data.draw(st.sampled_from(sorted(vars(workload))))
    changed = type(workload)(**{**vars(workload), field: getattr(other, field)})
    assert (changed.name == workload.name) == (changed == workload)


def test_a_stem_is_told_by_padding_border_and_preprocessing() -> None:
    plain = {"height": 4, "width": 4, "n": 8, "stride": 2, "rows": 8, "columns": 8}
    after, around = Padding(0, 0, 1, 1), Padding(1, 1, 1, 1)
    of_bytes = {"image": "uint8", "scale": (2.0, 2.0, 2.0)}
    stems = [
        Stem(**plain, padding=after),
        Stem(**plain, padding=around),
        Stem(**plain, padding=after, border=around),
        Stem(**plain, padding=after, mean=(1.0, 1.0, 1.0), **of_bytes),
        Stem(**plain, padding=after, mean=(1.0, 1.0, 2.0), **of_bytes),
        Stem(**plain, padding=after, mean=(-1.0, -1.0, -1.0), **of_bytes),
        Stem(**plain, padding=after, mean=(1e-07, 1e-07, 1e-07), **of_bytes),
    ]
    assert len({stem.name for stem in stems}) == len(stems)


@given(ANY)
def test_a_name_is_a_c_identifier(workload: Workload) -> None:
    assert re.fullmatch(r"[a-z][A-Za-z0-9_]*", workload.name)


@given(ANY)
def test_json_gives_the_workload_back(workload: Workload) -> None:
    assert from_json(json.loads(json.dumps(to_json(workload)))) == workload


@pytest.mark.parametrize("workload", TRIED, ids=lambda workload: workload.name)
def test_the_last_extent_of_inputs_and_outputs_is_channels(workload: Workload) -> None:
    weights = [type_.shape[0] for type_ in workload.constants]
    assert weights == [workload.outputs[0].shape[-1]] * len(weights)
    assert all(type_.shape[0] == workload.batch for type_ in (*workload.inputs, *workload.outputs))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"family": "convolution"},
        {"family": ["dense"]},
        {"family": "dense", "k": 4},
        {"family": "dense", "k": 4, "n": "5"},
        {"family": "dense", "k": 4, "n": True},
        {"family": "dense", "k": 4, "n": -5},
        {"family": "dense", "k": 4, "n": 5.5},
        {"family": "dense", "k": 4, "n": 5, "m": 6},
        {"family": "dense", "k": 4, "n": 5, "precision": "fp8"},
        {"family": "dense", "k": 4, "n": 5, "dtype": "float32"},
        {"family": "pool", "height": 1, "width": 1, "channels": None},
        {"family": "pad", "height": 1, "width": 1, "channels": 1, "border": [1, 1, 1]},
        {"family": "pad", "height": 1, "width": 1, "channels": 1, "border": [1, 1, 1, -1]},
        {"family": "pointwise", "height": 1, "width": 1, "k": 1, "n": 1, "activation": "elu"},
        {"family": "pointwise", "height": 1, "width": 1, "k": 1, "n": 1, "residual": 1},
    ],
)
def test_anything_else_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_json(value)


def test_workloads_and_kernel_calls_need_no_tvm() -> None:
    code = "import sys, mnv2c.workloads, mnv2c.workload_json, mnv2c.backends.calls; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
