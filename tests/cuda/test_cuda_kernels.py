"""Every kernel family of GPUs against a few lines of numpy, run by an emulator, in any order of threads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from emulated import ORDERS, EmulatedKernels, barriers, run, without_barrier
from gpu_kernels import by_rule
from kernel_examples import FUSED, TRIED, example

from mnv2c.workloads import Workload

WORKLOADS = (*TRIED, *FUSED)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> EmulatedKernels:
    return EmulatedKernels([by_rule(workload) for workload in WORKLOADS], tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_kernel_computes_what_numpy_does(kernels: EmulatedKernels, workload: Workload, order: int) -> None:
    inputs, constants, expected = example(workload)
    np.testing.assert_allclose(run(kernels, workload, inputs, constants, order=order), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("workload", FUSED[:4] + TRIED[8:10], ids=lambda workload: workload.name)
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
    shared = re.findall(r"__shared__ alignas\(\d+\) float \w+\[(\d+)\]", kernel.source)
    assert kernel.source.count("__shared__") == len(shared)
    assert 4 * sum(map(int, shared)) <= 48 * 1024


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_a_kernel_waits_before_it_touches_what_another_has_written(workload: Workload) -> None:
    head, *body = by_rule(workload).source.splitlines()
    (wait,) = (number for number, line in enumerate(body) if line == "  WAIT();")  # all threads come by there
    changing = re.findall(r"float\* (?!__restrict__)(\w+)|uchar\* (?!__restrict__)(\w+)", head)
    names = {one or other for one, other in changing}
    assert len(names) == len(workload.inputs) + 1
    for line in body[:wait]:
        assert not names & set(re.findall(r"\w+", line)), line
    fetched = re.findall(r"FETCH\((\w+), \d+\)", "\n".join(body[:wait]))
    assert sorted(fetched) == sorted(re.findall(r"__restrict__ (\w+)", head))
