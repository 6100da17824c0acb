"""Every kernel family, for every CPU that this machine can run, against a few lines of numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compiled_kernels import RUNNABLE, CompiledKernels
from kernel_examples import TRIED, example

from mnv2c.kernels import Stem, Workload
from mnv2c.targets import InstructionSet


@pytest.fixture(scope="module", params=RUNNABLE, ids=lambda isa: isa.name)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CompiledKernels:
    isa: InstructionSet = request.param
    return CompiledKernels(TRIED, isa, tmp_path_factory.mktemp(isa.name))


@pytest.mark.parametrize("workload", TRIED, ids=lambda workload: workload.name)
def test_a_kernel_computes_what_numpy_does(kernels: CompiledKernels, workload: Workload) -> None:
    operands, expected = example(workload)
    np.testing.assert_allclose(kernels.run(workload, operands, expected.shape), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("workload", TRIED, ids=lambda workload: workload.name)
def test_tasks_are_independent_and_come_in_any_order(kernels: CompiledKernels, workload: Workload) -> None:
    operands, expected = example(workload)
    tasks = [(task, task + 1) for task in reversed(range(kernels.lowered[workload.name].tasks))]
    whole = kernels.run(workload, operands, expected.shape)
    np.testing.assert_array_equal(kernels.run(workload, operands, expected.shape, tasks), whole)


def test_names_tell_workloads_apart() -> None:
    assert len({workload.name for workload in TRIED}) == len(TRIED)
    for workload in TRIED:
        assert workload.name.replace("_", "").isalnum(), "a name is part of a C symbol"


def test_a_byte_stem_differs_from_a_float_stem_in_name() -> None:
    stem = TRIED[0]
    assert isinstance(stem, Stem)
    assert replace(stem, mean=(0.0,) * 3, scale=(1.0,) * 3).name != stem.name
