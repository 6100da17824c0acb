"""The C driver: tables of kernels per instruction set, and one readable call per layer.

What comes in: a ``Program``. What goes out: ``src/<identifier>.c``, and the assembler file that embeds the weights.
"""

from __future__ import annotations

import json
import re

from mnv2c.codegen.program import ALIGNMENT, Call, CompiledKernel, KernelObject, Operand, Program
from mnv2c.runtime import under_prefix

_TOP = """\
/*
 * {name}: the layers in order, each a call of a kernel from lib{identifier}.a.
 *
 * To build the library anew, here with a sanitizer (src/ gives driver and runtime, the archive kernels and weights):
 *     cc -g -fsanitize=thread -Iinclude src/{identifier}.c src/context.c src/threads.c src/cpu.c \\
 *         YOURS.c lib/lib{identifier}.a -pthread -lm
 */
#include "runtime.h"

extern const char mnv2c_weights[];
"""

_LAYER = """\
/* A layer: its record, kernel and operands (input, weight, bias, residual, output). After a failure none runs. */
#define LAYER(record, kernel, ...) \\
    if (status == MNV2C_OK) \\
        status = mnv2c_run_layer(context, &records[record], &kernels[kernel], (struct mnv2c_operands){__VA_ARGS__})
#define A(offset) ((float *)(void *)(arena + (offset))) /* in the arena, in bytes */
#define W(offset) ((const float *)(const void *)(mnv2c_weights + (offset))) /* in the weights, in bytes */

int mnv2c_layers(mnv2c_context *context, const struct mnv2c_work *kernels, char *arena, const void *input, int rgb,
                 float *logits)
{
    int status = MNV2C_OK;
"""

_WEIGHTS = """\
    .section .rodata.mnv2c_weights, "a", %progbits
    .balign {alignment}
    .globl mnv2c_weights
    .hidden mnv2c_weights
    .type mnv2c_weights, %object
    .size mnv2c_weights, {size}
mnv2c_weights:
    .incbin "weights.bin"
    .section .note.GNU-stack, "", %progbits
"""


def weights_assembly(program: Program) -> str:
    """Embeds ``weights.bin``, which lies beside it, as read-only data."""
    return under_prefix(_WEIGHTS.format(alignment=ALIGNMENT, size=len(program.weights)), program.identifier)


def driver(program: Program) -> str:
    """The text of ``src/<identifier>.c``."""
    parts = [
        _TOP.format(name=_comment(program.name), identifier=program.identifier),
        _kernel_names(program),
        *(_kernel_table(kernels) for kernels in program.kernel_objects),
        _levels(program),
        _records(program),
        _LAYER + "".join(_call(index, call) for index, call in enumerate(program.calls)) + "    return status;\n}\n",
    ]
    return under_prefix("\n".join(parts), program.identifier)


def _kernel_names(program: Program) -> str:
    names = ",\n".join(f"    {_constant(name)}" for name in program.kernels)
    return f"enum {{\n{names}\n}};\n"


def _kernel_table(kernels: KernelObject) -> str:
    declarations = "".join(f"mnv2c_kernel {kernel.symbol};\n" for kernel in kernels.kernels)
    rows = "".join(f"    [{_constant(kernel.name)}] = {_work(kernel)},\n" for kernel in kernels.kernels)
    return (
        f"/* Kernels for {kernels.isa.name}: the function, how many tasks it has, the fewest worth a thread. */\n"
        f"{declarations}\nstatic const struct mnv2c_work {kernels.isa.name}_kernels[] = {{\n{rows}}};\n"
    )


def _work(kernel: CompiledKernel) -> str:
    return f"{{{kernel.symbol}, {kernel.tasks}, {kernel.grain}}}"


def _levels(program: Program) -> str:
    rows = "".join(
        f"    {{{_string(kernels.isa.name)}, {kernels.isa.name}_kernels, {_scratch(kernels)}}},\n"
        for kernels in program.kernel_objects
    )
    return (
        f"/* Best first, with the bytes of scratch that its kernels need per thread. */\n"
        f"const struct mnv2c_level mnv2c_levels[] = {{\n{rows}}};\n"
        f"const int mnv2c_level_count = {len(program.kernel_objects)};\n"
        f"const size_t mnv2c_arena_bytes = {program.arena_bytes};\n"
    )


def _scratch(kernels: KernelObject) -> int:
    return max((kernel.scratch_bytes for kernel in kernels.kernels), default=0)


def _records(program: Program) -> str:
    rows = "".join(f"    {_record(call)},\n" for call in program.calls)
    return (
        "/* What an observer is told: name, shape, strides, multiply-accumulates; and where the tensor starts. */\n"
        f"static const struct mnv2c_record records[] = {{\n{rows}}};\n"
    )


def _record(call: Call) -> str:
    """One row; a tensor of rank 2 has height and width 1."""
    shape = call.type.shape
    batch, height, width, channels = shape if len(shape) == 4 else (shape[0], 1, 1, shape[1])
    border = call.border
    row = (border.left + width + border.right) * channels
    image = (border.top + height + border.bottom) * row
    interior = border.top * row + border.left * channels
    numbers = f"{{{batch}, {height}, {width}, {channels}}}, {{{image}, {row}, {channels}, 1}}, 0, {call.macs}"
    return f"{{{{{_string(call.layer)}, NULL, {numbers}}}, {interior}}}"


def _call(index: int, call: Call) -> str:
    kernel = _constant(call.kernel)
    if call.kernel_uint8 is not None:
        kernel = f"rgb ? {_constant(call.kernel_uint8)} : {kernel}"
    operands = ", ".join(
        _operand(operand) for operand in (call.input, call.weight, call.bias, call.residual, call.output)
    )
    return f"\n    /* {_comment(call.layer)}: {_comment(call.comment)} */\n    LAYER({index}, {kernel}, {operands});\n"


def _operand(operand: Operand | None) -> str:
    if operand is None:
        return "NULL"
    names = {"input": "input", "output": "logits", "arena": f"A({operand.offset})", "weights": f"W({operand.offset})"}
    return names[operand.space]


def _constant(name: str) -> str:
    return "KERNEL_" + re.sub(r"\W", "_", name)


def _string(text: str) -> str:
    return json.dumps(text)


def _comment(text: str) -> str:
    return " ".join(text.replace("*/", "* /").split())
