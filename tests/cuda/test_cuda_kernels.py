"""Every kernel family of GPUs against a few lines of numpy, run by an emulator, in any order of threads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from emulated import ORDERS, EmulatedKernels, barriers, run, without_barrier
from gpu_kernels import by_rule
from kernel_examples import ALL, FUSED, IN_FP16, ON_TENSOR_CORES, TRIED, example, expand_depthwise, pointwise, tolerance

from mnv2c.errors import WeightsError
from mnv2c.kernels.cuda.device import CUDA
from mnv2c.workloads import PointwisePool, Workload

WORKLOADS = (*TRIED, *FUSED, *ON_TENSOR_CORES, *IN_FP16)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> EmulatedKernels:
    return EmulatedKernels([by_rule(workload) for workload in WORKLOADS], tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_kernel_computes_what_numpy_does(kernels: EmulatedKernels, workload: Workload, order: int) -> None:
    inputs, constants, expected = example(workload)
    relative, absolute = tolerance(workload)
    computed = run(kernels, workload, inputs, constants, order=order)
    np.testing.assert_allclose(computed, expected, rtol=relative, atol=absolute)


@pytest.mark.parametrize("workload", ON_TENSOR_CORES, ids=lambda workload: workload.name)
def test_tensor_cores_are_used(workload: Workload) -> None:
    assert "mma(" in by_rule(workload).source


def test_what_tensor_cores_cannot_take_is_computed_without() -> None:
    for workload in (
        pointwise(9, 9, 126, 24),  # k
        pointwise(9, 9, 24, 35),  # n
        pointwise(5, 3, 24, 72, border=ALL),
        expand_depthwise(2, 300, 16, 96, 2),  # a row of outputs reads three of 601 pixels: too many for shared memory
        PointwisePool(height=40, width=40, k=320, n=1280),
    ):
        assert "mma(" not in by_rule(replace(workload, precision="tf32")).source


def test_a_weight_beyond_fp16_is_refused() -> None:
    workload = replace(pointwise(7, 7, 40, 64), precision="fp16")
    weight, bias = (np.full(type_.shape, 7e4, np.float32) for type_ in workload.constants)
    with pytest.raises(WeightsError, match=r"a weight is 7e\+04 when BatchNorm is folded: beyond float16"):
        CUDA.pack(workload, [weight, bias])


BARRED = (*FUSED[:4], *TRIED[10:12], *ON_TENSOR_CORES[:2], *ON_TENSOR_CORES[6:9], ON_TENSOR_CORES[-1], IN_FP16[-1])


@pytest.mark.parametrize("workload", BARRED, ids=lambda workload: workload.name)
def test_a_barrier_taken_out_shows(workload: Workload, tmp_path: Path) -> None:
    whole = by_rule(workload)
    assert barriers(whole) > 0
    variants = [
        replace(whole, symbol=f"{whole.symbol}_without_{number}", source=without_barrier(whole, number))
        for number in range(barriers(whole))
    ]
    renamed = [replace(one, source=one.source.replace(whole.symbol, one.symbol)) for one in variants]
    kernels = EmulatedKernels(renamed, tmp_path)
    inputs, constants, expected = example(workload)
    for variant in renamed:
        runs = [run(kernels, workload, inputs, constants, symbol=variant.symbol, order=order) for order in ORDERS]
        assert not all(np.allclose(got, expected, rtol=0, atol=1e-3) for got in runs), variant.symbol


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_block_is_within_what_every_architecture_has(workload: Workload) -> None:
    kernel = by_rule(workload)
    x, y, z = kernel.block
    assert 1 <= x * y <= 512
    assert z == 1
    assert kernel.grid[1] < 1 << 16
    assert kernel.grid[2] == workload.batch or kernel.grid[2] == 1
    shared = re.findall(r"__shared__ alignas\(\d+\) (float|half) \w+\[(\d+)\]", kernel.source)
    assert kernel.source.count("__shared__") == len(shared)
    assert sum({"float": 4, "half": 2}[element] * int(count) for element, count in shared) <= 48 * 1024


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_kernel_waits_before_it_touches_what_another_has_written(workload: Workload) -> None:
    head, *body = by_rule(workload).source.splitlines()
    (wait,) = (number for number, line in enumerate(body) if line == "  WAIT();")  # all threads come by there
    changing = re.findall(r"(?:float|half|uchar)\* (?!__restrict__)(\w+)", head)
    names = set(changing)
    assert len(names) == len(workload.inputs) + 1
    for line in body[:wait]:
        assert not names & set(re.findall(r"\w+", line)), line
    fetched = re.findall(r"FETCH\((\w+), \d+\)", "\n".join(body[:wait]))
    assert sorted(fetched) == sorted(re.findall(r"__restrict__ (\w+)", head))
