"""The text of a small kernel under a given schedule: as the template leaves it, and as the C function it becomes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from kernel_examples import ALL, depthwise, pointwise

from mnv2c.kernels.cpu.device import CPU
from mnv2c.kernels.cpu.lower import lower
from mnv2c.kernels.cpu.tir_passes import TAIL
from mnv2c.targets import V2, V3, V4, InstructionSet
from mnv2c.workloads import Workload

_SCRIPT = """
from mnv2c.kernels.cpu.device import CPU
from mnv2c.kernels.cpu.lower import lower
from mnv2c.kernels.cpu.pointwise import PointwiseSchedule
from mnv2c.targets import V3
from mnv2c.workloads import Pointwise

workload = Pointwise(height=2, width=3, k=8, n=24, activation="relu6")  # 16 + 8 columns
schedule = PointwiseSchedule(rows=2, columns=16, lanes=8, strip=6, weights_outer=False, turns=2, prefetch=True)
assert schedule in CPU.space(workload, V3)
func = CPU.scheduled(workload, schedule)
print(func.script() + "=" * 80)
print(lower(func, "tiny_1_0_v3_pointwise", pointer_bits=64).func.script())
"""


def test_the_text_of_a_kernel(golden: Callable[[str, str], None]) -> None:
    """In a process of its own: TVMScript numbers the blocks of ``T.inline`` through all functions of a process."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scheduled, lowered = done.stdout.split("=" * 80 + "\n")
    golden("pointwise_2x3_8_24_relu6.scheduled.tir", scheduled + "\n")
    golden("pointwise_2x3_8_24_relu6.lowered.tir", lowered)


@pytest.mark.parametrize("isa", [V4, V3, V2], ids=lambda isa: isa.name)
@pytest.mark.parametrize(
    "workload",
    [pointwise(56, 56, 24, 144, activation="relu6", border=ALL), pointwise(14, 14, 384, 64), depthwise(56, 56, 144, 1)],
    ids=lambda workload: workload.name,
)
def test_nothing_inside_a_loop_asks_where_its_end_is(workload: Workload, isa: InstructionSet) -> None:
    """Row tiles that do not divide: inside a task a loop of their own for the last, between tasks one question each."""
    for schedule in (one for one in CPU.space(workload, isa)[:400:8] if not hasattr(one, "rows") or one.rows > 1):
        text = lower(CPU.scheduled(workload, schedule), "kernel", pointer_bits=64).func.script()
        assert TAIL not in text, schedule
        asked = [line for line in text.splitlines() if line.strip().startswith("if ") and "begin" not in line]
        assert len(asked) <= 4, schedule
