"""Every kernel family, for every instruction set that this machine can run, against a few lines of numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from compiled_kernels import RUNNABLE, CompiledKernels
from kernel_examples import TRIED, example

from mnv2c.targets import InstructionSet
from mnv2c.workloads import Workload


@pytest.fixture(scope="module", params=RUNNABLE, ids=lambda isa: isa.name)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CompiledKernels:
    isa: InstructionSet = request.param
    return CompiledKernels(TRIED, isa, tmp_path_factory.mktemp(isa.name))


@pytest.mark.parametrize("workload", TRIED, ids=lambda workload: workload.name)
def test_a_kernel_computes_what_numpy_does(kernels: CompiledKernels, workload: Workload) -> None:
    inputs, constants, expected = example(workload)
    assert expected.shape == workload.outputs[0].shape
    np.testing.assert_allclose(kernels.run(workload, inputs, constants), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("workload", TRIED, ids=lambda workload: workload.name)
def test_tasks_are_independent_and_come_in_any_order(kernels: CompiledKernels, workload: Workload) -> None:
    inputs, constants, _ = example(workload)
    tasks = kernels.kernels[workload.name].tasks
    whole = kernels.run(workload, inputs, constants)
    one_by_one = [(task, task + 1) for task in reversed(range(tasks))]
    np.testing.assert_array_equal(kernels.run(workload, inputs, constants, one_by_one), whole)
    draw = np.random.default_rng(tasks)
    cuts = [0, *sorted(draw.integers(0, tasks + 1, 5).tolist()), tasks]
    runs = list(itertools.pairwise(cuts))
    draw.shuffle(runs)
    np.testing.assert_array_equal(kernels.run(workload, inputs, constants, runs), whole)
