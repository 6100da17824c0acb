"""Every kernel family, for every instruction set that this machine can run, against a few lines of numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from compiled_kernels import CANARY, RUNNABLE, CompiledKernels
from kernel_examples import IN_BANDS, OF_RESIDUAL_BLOCKS, TRIED, example

from mnv2c.targets import InstructionSet
from mnv2c.workloads import Depthwise, Pointwise, Stem, Workload

EVERY = (*TRIED, *IN_BANDS, *OF_RESIDUAL_BLOCKS)


@pytest.fixture(scope="module", params=RUNNABLE, ids=lambda isa: isa.name)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CompiledKernels:
    isa: InstructionSet = request.param
    return CompiledKernels.by_rule(EVERY, isa, tmp_path_factory.mktemp(isa.name))


@pytest.mark.parametrize("workload", EVERY, ids=lambda workload: workload.name)
def test_a_kernel_computes_what_numpy_does(kernels: CompiledKernels, workload: Workload) -> None:
    inputs, constants, expected = example(workload)
    assert expected.shape == workload.outputs[0].shape
    np.testing.assert_allclose(kernels.run(workload.name, inputs, constants), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("workload", EVERY, ids=lambda workload: workload.name)
def test_tasks_are_independent_and_come_in_any_order(kernels: CompiledKernels, workload: Workload) -> None:
    inputs, constants, _ = example(workload)
    tasks = kernels.kernels[workload.name].tasks
    whole = kernels.run(workload.name, inputs, constants)
    one_by_one = [(task, task + 1) for task in reversed(range(tasks))]
    np.testing.assert_array_equal(kernels.run(workload.name, inputs, constants, one_by_one), whole)
    draw = np.random.default_rng(tasks)
    cuts = [0, *sorted(draw.integers(0, tasks + 1, 5).tolist()), tasks]
    runs = list(itertools.pairwise(cuts))
    draw.shuffle(runs)
    np.testing.assert_array_equal(kernels.run(workload.name, inputs, constants, runs), whole)


@pytest.mark.parametrize("workload", IN_BANDS, ids=lambda workload: workload.name)
def test_equal_runs_of_tasks_are_bands(kernels: CompiledKernels, workload: Stem | Pointwise | Depthwise) -> None:
    """Each writes its rows and no others."""
    inputs, constants, _ = example(workload)
    bands = workload.batch * workload.height // workload.band
    tasks, rest = divmod(kernels.kernels[workload.name].tasks, bands)
    assert rest == 0
    whole = kernels.run(workload.name, inputs, constants).reshape(bands, -1)
    for band in range(bands):
        found = kernels.run(workload.name, inputs, constants, [(band * tasks, (band + 1) * tasks)]).reshape(bands, -1)
        expected = np.full_like(whole, CANARY)
        expected[band] = whole[band]
        np.testing.assert_array_equal(found, expected)
