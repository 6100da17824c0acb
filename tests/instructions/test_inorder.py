"""The model of in-order cores, beside what others have published of a Cortex-A53 on loops of the same kind.

The loops multiply 6 rows by 8 columns. What was published: XNNPACK's 6x8 kernel for the A53, which loads 64 bits at a
time between its multiply-adds, takes 1.31 cycles for each (76 % of the peak), those with 128-bit loads 1.58.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest

from mnv2c.instructions import a32, a64
from mnv2c.instructions.inorder import PIPELINES, cycles
from mnv2c.instructions.operations import Operation

_ROWS, _COLUMNS = 6, 2  # vectors
_ACCUMULATORS, _INPUTS, _WEIGHTS = 20, (0, 3), (12, 16)  # the first vector register of each; two sets of what is loaded


def per_multiply_add(texts: Sequence[str], core: str, decode: Callable[[str], Operation] = a64.decode) -> float:
    """Cycles of a loop."""
    body = [decode(text) for text in texts]
    assert all(operation.kind != "unknown" for operation in body)
    return cycles(body, PIPELINES[core]) / sum(operation.kind == "multiply-add" for operation in body)


def multiply_adds(turn: int) -> Iterator[str]:
    """Two steps of k, on one set of registers: two rows share a register of inputs."""
    for step in range(2):
        for column in range(_COLUMNS):
            for row in range(_ROWS):
                weight, value = (
                    _WEIGHTS[turn] + 2 * step + column,
                    f"v{_INPUTS[turn] + row // 2}.s[{step + row % 2 * 2}]",
                )
                yield f"fmla v{_ACCUMULATORS + 2 * row + column}.4s, v{weight}.4s, {value}"


def loaded(turn: int) -> list[int]:
    """The registers that a turn needs, in the order of their use."""
    inputs, weights = _INPUTS[turn], _WEIGHTS[turn]
    return [weights, inputs, inputs + 1, inputs + 2, weights + 1, weights + 2, weights + 3]


def halves() -> list[str]:
    """64 bits a load, the other half through an integer register, for the turn after this one."""
    body, last = [], loaded(0)[-1]
    for turn in (0, 1):
        products = multiply_adds(turn)
        for register in loaded(1 - turn):
            body += [f"ldr d{register}, [x5], #16", f"mov v{last}.d[1], x8", next(products)]
            body += ["ldur x8, [x5, #-8]", next(products), next(products)]
            last = register
        body += products
    return [*body, "subs x0, x0, #16", "b.hs #0"]


def wholes() -> list[str]:
    """128 bits a load, for the turn after this one."""
    body = []
    for turn in (0, 1):
        products = multiply_adds(turn)
        for register in loaded(1 - turn):
            body += [f"ldr q{register}, [x5], #16", *itertools.islice(products, 3)]
        body += products
    return [*body, "subs x0, x0, #16", "b.hs #0"]


def late() -> list[str]:
    """128 bits a load, right before the first use."""
    body = []
    for turn in (0, 1):
        missing = loaded(turn)
        for product in multiply_adds(turn):
            needed = [register for register in missing if f"v{register}." in product]
            missing = [register for register in missing if register not in needed]
            body += [*(f"ldr q{register}, [x5], #16" for register in needed), product]
    return [*body, "subs x0, x0, #16", "b.hs #0"]


def test_loops_of_published_kernels_cost_what_was_published() -> None:
    """XNNPACK's share inputs among rows as ``halves`` does; 14 registers of 128 bits are loaded for 48 products."""
    narrow, wide = (per_multiply_add(loop, "cortex-a53") for loop in (halves(), wholes()))
    assert narrow == pytest.approx(1.31, rel=0.04)
    assert wide == pytest.approx(1.58, rel=0.04)
    assert per_multiply_add(late(), "cortex-a53") > wide + 0.2, "what is loaded must be waited for"


def test_an_a55_gains_less_by_halves() -> None:
    assert per_multiply_add(halves(), "cortex-a55") < per_multiply_add(halves(), "cortex-a53")
    assert per_multiply_add(wholes(), "cortex-a55") == pytest.approx(1.58, rel=0.04)


@pytest.mark.parametrize(("chains", "expected"), [(1, 4), (2, 2), (4, 1), (16, 1)])
def test_sums_are_forwarded(chains: int, expected: float) -> None:
    loop = [f"fmla v{number % chains}.4s, v30.4s, v31.s[0]" for number in range(16)]
    assert per_multiply_add(loop, "cortex-a53") == pytest.approx(expected)


def test_a_product_is_waited_for_longer_than_a_sum() -> None:
    body = ["fmla v0.4s, v30.4s, v31.s[0]", "fadd v1.4s, v0.4s, v0.4s", "mov v0.16b, v1.16b"]
    assert per_multiply_add(body, "cortex-a53") == pytest.approx(8 + 4 + 3)


@pytest.mark.parametrize(
    ("beside", "a53", "a55"),
    [
        ("ldr q9, [x1]", 2, 2),
        ("ldp q9, q10, [x1]", 4, 4),
        ("ldr d9, [x1]", 1, 0),
        ("ldr s9, [x1]", 1, 0),
        ("ld1r { v9.4s }, [x1]", 1, 0),
        ("mov v9.d[1], x8", 1, 0),
        ("str q9, [x1]", 1, 0),
        ("stp q9, q10, [x1]", 2, 0),
        ("ldr x9, [x1]", 0, 0),
        ("add x9, x9, #16", 0, 0),
        ("prfm pldl1keep, [x1, #64]", 0, 0),
    ],
)
def test_what_stands_beside_products(beside: str, a53: int, a55: int) -> None:
    """In cycles, as others have measured, on a Raspberry Pi 3 for one."""
    loop = [a64.decode(text) for text in [*(f"fmla v{n}.4s, v30.4s, v31.s[0]" for n in range(8)), beside]]
    assert [cycles(loop, PIPELINES[core]) - 8 for core in ("cortex-a53", "cortex-a55")] == [a53, a55]


def test_an_a7_computes_32_bits_a_cycle() -> None:
    products = [f"vfma.f32 q{number}, q14, d30[0]" for number in range(8)]
    assert per_multiply_add(products, "cortex-a7", a32.decode) == 4
    hidden = [text for product in products for text in (product, "vld1.32 {d28, d29}, [r0]!", "subs r1, r1, #1")]
    assert per_multiply_add(hidden, "cortex-a7", a32.decode) < 8
    assert per_multiply_add(products, "cortex-a53", a32.decode) == 1


@pytest.mark.parametrize("core", PIPELINES)
def test_an_unknown_instruction_is_taken_for_a_slow_one(core: str) -> None:
    decode, register = (a32.decode, "r0") if core == "cortex-a7" else (a64.decode, "x0")
    assert decode(f"frobnicate {register}, {register}").kind == "unknown"
    chain = [decode(f"frobnicate {register}, {register}"), decode(f"add {register}, {register}, #1")]
    assert cycles(chain, PIPELINES[core]) >= 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ldr q0, [x1], #16", Operation("vector load", 128, ("v0",), ("x1",), (), ("x1",))),
        ("ldp d0, d1, [sp, #32]!", Operation("vector load", 128, ("v0", "v1"), ("sp",), (), ("sp",))),
        ("ld1 { v0.s }[1], [x9]", Operation("vector load", 32, ("v0",), ("v0", "x9"), keeps=("v0",))),
        ("st1 { v0.s }[2], [x4]", Operation("vector store", 32, (), ("v0", "x4"))),
        ("str w1, [x2, x3]", Operation("store", 64, (), ("x1", "x2", "x3"))),
        ("mov v0.d[1], x9", Operation("insert", 64, ("v0",), ("v0", "x9"), keeps=("v0",))),
        ("fmla v4.4s, v1.4s, v0.s[2]", Operation("multiply-add", 128, ("v4",), ("v1", "v0"), ("v4",))),
        ("fmadd s0, s1, s2, s3", Operation("multiply-add", 32, ("v0",), ("v1", "v2"), ("v3",))),
        ("csel x0, xzr, x2, lo", Operation("integer", 64, ("x0",), ("x2", "flags"))),
        ("movk x0, #3, lsl #16", Operation("integer", 64, ("x0",), ("x0",), keeps=("x0",))),
        ("xtn2 v0.8h, v1.4s", Operation("move", 128, ("v0",), ("v0", "v1"), keeps=("v0",))),
        ("subs x0, x0, #16", Operation("integer", 64, ("x0", "flags"), ("x0",))),
        ("b.ne #0", Operation("branch", 64, (), ("flags",))),
    ],
)
def test_64_bit_code_is_read(text: str, expected: Operation) -> None:
    assert a64.decode(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vld1.32 {d16, d17}, [r0:128]!", Operation("vector load", 128, ("d16", "d17"), ("r0",), (), ("r0",))),
        ("vld1.32 {d16[], d17[]}, [r0]", Operation("vector load", 32, ("d16", "d17"), ("r0",))),
        ("vldmia r0!, {d0, d1, d2}", Operation("vector load", 192, ("d0", "d1", "d2"), ("r0",), (), ("r0",))),
        ("vst1.64 {d0, d1}, [r3], r2", Operation("vector store", 128, (), ("d0", "d1", "r3", "r2"), (), ("r3",))),
        (
            "vfma.f32 q8, q9, d2[0]",
            Operation("multiply-add", 128, ("d16", "d17"), ("d18", "d19", "d2"), ("d16", "d17")),
        ),
        ("vmov.32 d0[1], r2", Operation("insert", 64, ("d0",), ("d0", "r2"))),
        ("vmaxnm.f32 s0, s2, s3", Operation("arithmetic", 32, ("d0",), ("d1",))),
        ("push {r4, r5, lr}", Operation("store", 96, (), ("r4", "r5", "r14", "sp"), (), ("sp",))),
        ("addne.w r0, r0, ip", Operation("integer", 32, ("r0",), ("r0", "r12", "flags"))),
        ("bls #0", Operation("branch", 32, (), ("flags",))),
        ("bics r0, r1, r2", Operation("integer", 32, ("r0", "flags"), ("r1", "r2"))),
        ("ldrls r1, [r2, r3, lsl #2]", Operation("load", 32, ("r1",), ("r1", "r2", "r3", "flags"))),
    ],
)
def test_32_bit_code_is_read(text: str, expected: Operation) -> None:
    assert a32.decode(text) == expected
