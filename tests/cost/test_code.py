"""Runs of instructions, however QEMU cut them into blocks."""

from __future__ import annotations

from mnv2c.cost.blocks import Block
from mnv2c.cost.code import Code, Run, runs

TEXTS = ["mov x0, #3", "fmla", "fmla", "cbnz x0, #0", "fadd", "b.ne #0", "ret"]
CODE = Code(
    {4 * i: text for i, text in enumerate(TEXTS)}, {"kernel": 0, "next": 4 * 6}, frozenset({(4, 4 * 3), (4 * 4, 4 * 5)})
)


def test_a_page_that_ends_in_a_run_does_not_matter() -> None:
    whole = [Block(0, 4, 1), Block(4, 3, 9), Block(16, 2, 5)]
    cut = [Block(0, 2, 1), Block(8, 2, 10), Block(4, 1, 9), Block(16, 1, 5), Block(20, 1, 5)]
    expected = [
        Run("kernel", tuple(TEXTS[:1]), 1),
        Run("kernel", tuple(TEXTS[1:4]), 10),
        Run("kernel", tuple(TEXTS[4:6]), 5),
    ]
    assert runs(CODE, whole, {"kernel"}) == runs(CODE, cut, {"kernel"}) == expected


def test_two_loops_that_ran_as_often_stay_two() -> None:
    found = runs(CODE, [Block(4, 3, 7), Block(16, 2, 7), Block(24, 1, 7)], {"kernel"})
    assert [len(run.instructions) for run in found] == [3, 2]


def test_a_block_of_thumb_has_instructions_of_two_sizes() -> None:
    code = Code({0: "adds r0, r0, #1", 2: "vfma.f32 q0, q1, q2", 6: "nop"}, {"kernel": 0}, frozenset())
    (run,) = runs(code, [Block(0, 3, 2)], {"kernel"})
    assert run.instructions == ("adds r0, r0, #1", "vfma.f32 q0, q1, q2", "nop")
