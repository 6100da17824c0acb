"""The C driver of a library for GPUs: tables of code by architecture, of kernels, and one readable row per layer.

What comes in: a ``Program`` whose kernel objects are cubins, and PTX. What goes out: ``src/<identifier>.c``, and the
assembler file that embeds the weights and the code.
"""

from __future__ import annotations

from mnv2c.codegen.driver_c import comment_text, constant, run_image, runs, shape, step_numbers, string
from mnv2c.codegen.program import ALIGNMENT, Call, CompiledKernel, KernelObject, Operand, Program
from mnv2c.runtime import under_prefix

_TOP = """\
/*
 * {name}: the layers in order, each a kernel in lib{identifier}.a, launched as the tables say.
 *
 * To build the library anew (src/ gives driver and runtime, the archive code and weights):
 *     cc -g -Iinclude src/{identifier}.c src/gpu.c src/libcuda.c src/image.c \\
 *         YOURS.c lib/lib{identifier}.a -pthread -ldl
 */
#include "gpu.h"
"""

_ENQUEUE = """
int mnv2c_enqueue{suffix}(mnv2c_context *context, const {element} *{image}, {parameters}, void *stream)
{{
    void *const outputs[] = {{{names}}};
    return mnv2c_enqueue_network(context, {image}, {rgb}, outputs, stream);
}}
"""

_BLOB = """\
    .balign {alignment}
    .globl {symbol}
    .hidden {symbol}
    .type {symbol}, %object
{symbol}:
    .incbin "{file}"
    .byte 0
    .size {symbol}, . - {symbol}
"""


def code_file(number: int) -> str:
    """The name of a kernel object's file, beside the assembler file that embeds it."""
    return f"code{number}.bin"


def embedding_assembly(program: Program) -> str:
    """Embeds ``weights.bin`` and each ``code_file`` as read-only data, each with a zero behind it, which ends PTX."""
    blobs = {"mnv2c_weights": "weights.bin"}
    blobs |= {_symbol(kernels.isa.name): code_file(number) for number, kernels in enumerate(program.kernel_objects)}
    parts = ['    .section .rodata.mnv2c_weights, "a", %progbits\n']
    parts += [_BLOB.format(alignment=ALIGNMENT, symbol=symbol, file=file) for symbol, file in blobs.items()]
    return under_prefix("".join([*parts, '    .section .note.GNU-stack, "", %progbits\n']), program.identifier)


def driver(program: Program) -> str:
    """The text of ``src/<identifier>.c``."""
    parts = [
        _TOP.format(name=comment_text(program.name), identifier=program.identifier),
        _kernels(program),
        _codes(program),
        _sizes(program),
        _steps(program),
        runs(program) + run_image(program) + runs(program, _ENQUEUE) + shape(program),
    ]
    return under_prefix("\n".join(parts), program.identifier)


def _symbol(architecture: str) -> str:
    return f"mnv2c_code_{architecture}"


def _codes(program: Program) -> str:
    names = [kernels.isa.name for kernels in program.kernel_objects]
    declarations = "".join(f"extern const char {_symbol(name)}[];\n" for name in names)
    tables = _tables(program)
    rows = "".join(
        f"    {_code(kernels.isa.name, kernels.isa.mcpu, tables.index(_table(kernels)))},\n"
        for kernels in program.kernel_objects
    )
    return (
        f"{declarations}\n/* Code by compute capability, the newest first; PTX last. */\n"
        f"const struct mnv2c_code mnv2c_codes[] = {{\n{rows}}};\n"
        f"const int mnv2c_code_count = {len(names)};\n"
    )


def _code(name: str, mcpu: str, table: int) -> str:
    version = int(mcpu.rpartition("_")[2])
    is_ptx = mcpu.startswith("compute_")
    return f"{{{string(name)}, {version // 10}, {version % 10}, {int(is_ptx)}, {_symbol(name)}, kernels{table}}}"


def _kernels(program: Program) -> str:
    names = ",\n".join(f"    {constant(name)}" for name in program.kernels)
    tables = "".join(
        f"static const struct mnv2c_compiled kernels{number}[] = {{\n{rows}}};\n"
        for number, rows in enumerate(_tables(program))
    )
    return (
        f"enum {{\n{names}\n}};\n\n/* Grid, block, and which of a layer's operands each parameter is. */\n"
        f"{tables}const int mnv2c_kernel_count = {len(program.kernels)};\n"
    )


def _tables(program: Program) -> list[str]:
    """Architectures whose kernels are launched alike share one."""
    return list(dict.fromkeys(_table(kernels) for kernels in program.kernel_objects))


def _table(kernels: KernelObject) -> str:
    return "".join(f"    [{constant(kernel.name)}] = {_compiled(kernel)},\n" for kernel in kernels.kernels)


def _compiled(kernel: CompiledKernel) -> str:
    launch = kernel.launch
    assert launch is not None
    grid, block, order = (", ".join(map(str, values)) for values in (launch.grid, launch.block, launch.operands))
    return f"{{{string(kernel.symbol)}, {{{grid}}}, {{{block}}}, {len(launch.operands)}, {{{order}}}}}"


def _sizes(program: Program) -> str:
    pixels = program.input.elements
    outputs = ", ".join(str(type_.nbytes) for type_ in program.outputs.values())
    return (
        f"const size_t mnv2c_arena_bytes = {program.arena_bytes}, mnv2c_weights_bytes = {len(program.weights)};\n"
        f"const size_t mnv2c_input_bytes[] = {{{program.input.nbytes}, {pixels}}};\n"
        f"const size_t mnv2c_output_bytes[] = {{{outputs}}};\n"
        f"const int mnv2c_output_count = {len(program.outputs)};\n"
    )


def _steps(program: Program) -> str:
    rows = "".join(_step(call) for call in program.layers)
    return (
        "#define INPUT {MNV2C_INPUT, 0}\n#define OUTPUT(number) {MNV2C_OUTPUT, number}\n"
        "#define A(offset) {MNV2C_ARENA, offset} /* in the arena, in bytes */\n"
        "#define W(offset) {MNV2C_WEIGHTS, offset} /* in the weights, in bytes */\n\n"
        "/* A layer: name, element, shape, strides, multiply-adds; kernels for floats and for bytes; operands\n"
        " * (inputs, constants, output); which one is written, and where in it the map begins. */\n"
        f"const struct mnv2c_step mnv2c_steps[] = {{{rows}}};\n"
        f"const int mnv2c_step_count = {len(program.layers)};\n"
    )


def _step(call: Call) -> str:
    layer, output, interior = step_numbers(call)
    kernels = f"{constant(call.kernel)}, {constant(call.kernel_uint8 or call.kernel)}"
    operands = ", ".join(_operand(operand) for operand in call.operands)
    return (
        f"\n    /* {comment_text(call.layer)}: {comment_text(call.comment)} */\n"
        f"    {{{layer}, {kernels},\n     {{{operands}}}, {output}, {interior}}},\n"
    )


def _operand(operand: Operand) -> str:
    names = {
        "input": "INPUT",
        "output": f"OUTPUT({operand.offset})",
        "arena": f"A({operand.offset})",
        "weights": f"W({operand.offset})",
    }
    return names[operand.space]
