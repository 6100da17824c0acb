"""The text of a small kernel under a given schedule: as the template leaves it, and as the C function it becomes."""

from __future__ import annotations

from collections.abc import Callable

from kernel_examples import pointwise

from mnv2c.kernels.cpu.device import scheduled, space
from mnv2c.kernels.cpu.lower import lower
from mnv2c.kernels.cpu.pointwise import PointwiseSchedule
from mnv2c.targets import V3

WORKLOAD = pointwise(2, 3, 8, 24, activation="relu6")
"""Its last column tile is half as wide as the others."""
SCHEDULE = PointwiseSchedule(rows=2, columns=16, lanes=8, strip=6, weights_outer=False, turns=2, prefetch=True)


def test_the_text_of_a_kernel(golden: Callable[[str, str], None]) -> None:
    assert SCHEDULE in space(WORKLOAD, V3)
    func = scheduled(WORKLOAD, SCHEDULE)
    golden(f"{WORKLOAD.name}.scheduled.tir", func.script() + "\n")
    lowered = lower(func, "tiny_1_0_v3_pointwise", pointer_bits=64)
    golden(f"{WORKLOAD.name}.lowered.tir", lowered.func.script() + "\n")
