"""The pass over finished assembly: functions of random instructions compute the same before and after it, in qemu."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from programs import need

from mnv2c.instructions.improve import improved
from mnv2c.instructions.inorder import PIPELINES
from mnv2c.targets import PI3
from mnv2c.toolchain import find_toolchain, link_program

FUNCTIONS = 150
A53 = PIPELINES["cortex-a53"]
_MEMORY, _STATE = 4096, 1024  # bytes that a function reads and writes; and what it leaves in registers
_POINTERS, _INDEX, _NUMBERS = ("x0", "x3", "x4"), "x5", [f"x{n}" for n in (*range(6, 18), 19, 20)]
_VECTORS = [*range(10), *range(16, 32)]

_MAIN = f"""\
#include <stdint.h>
#include <stdio.h>
#include <string.h>
typedef void function(void *memory, void *state);
extern function *const functions[];
void call_with_known_registers(void *memory, void *state, function *called);
static uint8_t memory[{_MEMORY}] __attribute__((aligned(16))), state[{_STATE}] __attribute__((aligned(16)));

int main(void)
{{
    for (int n = 0; functions[n]; n++) {{
        for (int i = 0; i < {_MEMORY // 4}; i++) ((float *)memory)[i] = (float)(i * 7919 % 1009) / 512 - 1;
        memset(state, 0, sizeof state);
        call_with_known_registers(memory, state, functions[n]);
        fwrite(memory, 1, sizeof memory, stdout);
        fwrite(state, 1, sizeof state, stdout);
    }}
    return 0;
}}
"""
_SAVED = [*(f"x{n}" for n in range(19, 29)), *(f"d{n}" for n in range(8, 16))]


def known_registers() -> str:
    """Calls a function with numbers in the registers that are its caller's, and keeps what is in them behind it."""
    save = [f"str {register}, [sp, #{16 + 8 * n}]" for n, register in enumerate(_SAVED)]
    known = [
        f"mov x3, #{1000 + n}\nfmov {register}, x3" if register[0] == "d" else f"mov {register}, #{1000 + n}"
        for n, register in enumerate(_SAVED)
    ]
    keep = [f"str {register}, [x3, #{_STATE - 8 * len(_SAVED) + 8 * n}]" for n, register in enumerate(_SAVED)]
    restore = [f"ldr {register}, [sp, #{16 + 8 * n}]" for n, register in enumerate(_SAVED)]
    lines = [
        *("sub sp, sp, #256", "stp x30, x1, [sp]", *save, *known),
        *("blr x2", "ldr x3, [sp, #8]", *keep, *restore, "ldr x30, [sp]", "add sp, sp, #256", "ret"),
    ]
    return "\n".join(["\t.globl call_with_known_registers", "call_with_known_registers:", *lines, ""])


class Author:
    """Writes functions as LLVM does: a block, a loop, a block, over pointers that overlap."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._uses_saved = self._random.random() < 0.5
        self._vectors = [*_VECTORS, *(range(10, 16) if self._uses_saved else ())]
        if not self._uses_saved:
            self._vectors = [number for number in self._vectors if number not in (8, 9)]

    def function(self, name: str) -> str:
        save, restore = [], []
        saved = ["x19", "x20", *(f"d{n}" for n in range(8, 16) if self._uses_saved)]
        for n in range(0, len(saved), 2):
            place = f"{saved[n]}, {saved[n + 1]}, [sp, #{8 * n}]"
            save, restore = [*save, f"stp {place}"], [*restore, f"ldp {place}"]
        turns = self._random.randint(1, 4)
        body = [
            *("sub sp, sp, #96", *save, "add x3, x0, #512", "add x4, x0, #1040", "mov x5, #48"),
            *(f"mov {register}, #{7 * n}" for n, register in enumerate(_NUMBERS)),
            *(f"ldr q{number}, [x0, #{16 * number}]" for number in self._vectors),
            *self._block(12),
            f"mov x2, #{turns}",
            f".L{name}_loop:",
            *self._block(self._random.randint(5, 70)),
            "subs x2, x2, #1",
            f"b.ne .L{name}_loop",
            *self._block(20),
            *(f"str q{number}, [x1, #{16 * n}]" for n, number in enumerate(self._vectors)),
            *(f"str {register}, [x1, #{16 * len(self._vectors) + 8 * n}]" for n, register in enumerate(_NUMBERS)),
            *(*restore, "add sp, sp, #96", "ret"),
        ]
        lines = [line if line.endswith(":") else "\t" + line.replace(" ", "\t", 1) for line in body]
        return "\n".join([f"\t.type\t{name},@function", f"{name}:", *lines, f".Lfunc_end{name[1:]}:", ""])

    def _block(self, count: int) -> Iterator[str]:
        for _ in range(count):
            yield from self._random.choice(self._KINDS)(self)

    def _v(self) -> str:
        return f"v{self._random.choice(self._vectors)}"

    def _x(self) -> str:
        return self._random.choice(_NUMBERS)

    def _number(self) -> int:
        return self._random.choice(self._vectors)

    def _place(self, size: int) -> str:
        pointer, offset = self._random.choice(_POINTERS), self._random.randrange(0, 40) * size
        return f"[{pointer}, #{offset}]" if offset else f"[{pointer}]"

    def _multiply_add(self) -> list[str]:
        lane = self._random.choice(["4s", "s[0]", "s[0]", "s[1]", "s[3]"])
        return [f"{self._random.choice(['fmla', 'fmla', 'fmul'])} {self._v()}.4s, {self._v()}.4s, {self._v()}.{lane}"]

    def _arithmetic(self) -> list[str]:
        return [f"{self._random.choice(['fadd', 'fmaxnm', 'fminnm'])} {self._v()}.4s, {self._v()}.4s, {self._v()}.4s"]

    def _move(self) -> list[str]:
        number = self._random.choice(self._vectors)
        return [
            self._random.choice(
                [
                    f"mov {self._v()}.16b, v{number}.16b",
                    f"dup {self._v()}.4s, v{number}.s[2]",
                    f"mov {self._v()}.s[1], v{number}.s[3]",
                    f"mov {self._v()}.d[1], {self._x()}",
                    f"movi {self._v()}.2d, #0000000000000000",
                    f"fmov {self._v()}.4s, #6.00000000",
                ]
            )
        ]

    def _integers(self) -> list[str]:
        register, one, other = self._x(), self._x(), self._x()
        return [
            *([f"cmp {one}, {other}"] if (is_choice := self._random.random() < 0.4) else []),
            self._random.choice([f"csel {register}, {one}, {other}, lt", f"cset {register}, ge"])
            if is_choice
            else self._random.choice(
                [
                    f"add {register}, {one}, #{self._random.randrange(64)}",
                    f"mov {register}, {one}",
                    f"movk {register}, #{self._random.randrange(64)}, lsl #16",
                    f"madd {register}, {one}, {other}, {self._x()}",
                ]
            ),
        ]

    def _load(self) -> list[str]:
        number, other = self._random.sample(self._vectors, 2)
        return [
            self._random.choice(
                [
                    f"ldr q{number}, {self._place(16)}",
                    f"ldp q{number}, q{other}, [x3, #{16 * self._random.randrange(-8, 8)}]",
                    f"ldr d{number}, {self._place(8)}",
                    f"ldp s{number}, s{other}, [x4, #{4 * self._random.randrange(8)}]",
                    f"ldur q{number}, [x3, #{self._random.randrange(-64, 64)}]",
                    f"ldr q{number}, [x3, x5]",
                    f"ldr {self._x()}, {self._place(8)}",
                ]
            )
        ]

    def _values(self) -> list[str]:
        """Of the input, side by side, each multiplied by: some of them read once more, or otherwise."""
        pointer, offset = self._random.choice(_POINTERS), 4 * self._random.randrange(20)
        found = []
        for lane in range(self._random.randint(1, 6)):
            value = self._random.choice(self._vectors)
            found.append(f"ldr s{value}, [{pointer}, #{offset + 4 * lane}]")
            found += [f"fmla {self._v()}.4s, {self._v()}.4s, v{value}.s[0]" for _ in range(self._random.randrange(3))]
        return found

    def _moving(self) -> list[str]:
        """A pointer copied, and moved on by a load."""
        register, value = self._x(), self._random.choice(self._vectors)
        load = self._random.choice([f"ld1r {{ v{value}.4s }}", f"ldr q{value}", f"ldr s{value}"])
        return [
            f"mov {register}, {self._random.choice(_POINTERS)}",
            f"{load}, [{register}], #{4 if load[:3] == 'ld1' or load[4] == 's' else 16}",
            f"fmla {self._v()}.4s, {self._v()}.4s, v{value}.{'4s' if load[:3] == 'ld1' else 's[0]'}",
            f"ldr s{value}, [{register}]",
            f"mov {register}, #5",
        ]

    def _store(self) -> list[str]:
        number, other = self._random.sample(self._vectors, 2)
        return [
            self._random.choice(
                [
                    f"str q{number}, {self._place(16)}",
                    f"stp q{number}, q{other}, [x3, #{16 * self._random.randrange(-8, 8)}]",
                    f"str s{number}, {self._place(4)}",
                    f"str {self._x()}, {self._place(8)}",
                ]
            )
        ]

    _KINDS = (*[_multiply_add] * 8, _arithmetic, _move, *[_integers] * 2, *[_load] * 4, *[_values] * 2, _moving, _store)


def run(directory: Path, functions: str) -> np.ndarray:
    """What is left in memory and in registers behind each of the functions."""
    directory.mkdir()
    names = [f"f{n}" for n in range(FUNCTIONS)]
    table = "\n".join(f"\t.xword {name}" for name in [*names, "0"])
    data = f"\t.section .data.rel.ro\n\t.p2align 3\n\t.globl functions\nfunctions:\n{table}\n"
    (directory / "functions.s").write_text(f"\t.text\n{functions}\n{known_registers()}\n{data}", encoding="utf-8")
    (directory / "main.c").write_text(_MAIN, encoding="utf-8")
    link_program(find_toolchain(PI3), directory, ["main.c", "functions.s"], output="program", static=True)
    done = subprocess.run([need("qemu-aarch64-static"), directory / "program"], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(FUNCTIONS, _MEMORY + _STATE)


def test_functions_compute_the_same_and_are_faster(tmp_path: Path) -> None:
    functions = "".join(Author(seed).function(f"f{seed}") for seed in range(FUNCTIONS))
    better = improved(functions, A53)
    before, after = run(tmp_path / "before", functions), run(tmp_path / "after", better)
    different = [n for n in range(FUNCTIONS) if not np.array_equal(before[n], after[n])]
    assert different == []
    changed = sum(old != new for old, new in zip(functions.split(".type"), better.split(".type"), strict=True))
    assert changed > FUNCTIONS / 2
