"""The C driver: tables of kernels per instruction set, and one readable call per layer.

What comes in: a ``Program``. What goes out: ``src/<identifier>.c``, and the assembler file that embeds the weights.
"""

from __future__ import annotations

import json

from mnv2c.codegen.chains_c import BANDS, chains, chains_scratch, maps_bytes
from mnv2c.codegen.header import output_parameters
from mnv2c.codegen.program import ALIGNMENT, Call, Chain, CompiledKernel, KernelObject, Operand, Program
from mnv2c.ir.graph import TensorType
from mnv2c.runtime import under_prefix

_TOP = """\
/*
 * {name}: the layers in order, each a call of a kernel from lib{identifier}.a.
 *
 * To build the library anew, here with a sanitizer (src/ gives driver and runtime, the archive kernels and weights):
 *     cc -g -fsanitize=thread -Iinclude src/{identifier}.c src/context.c src/bands.c src/threads.c src/cpu.c \\
 *         src/image.c YOURS.c lib/lib{identifier}.a -pthread -lm
 */
#include "runtime.h"

extern const char mnv2c_weights[];
"""

_MACROS = """\
/* A layer: its step, kernel and operands (inputs, constants, output). After a failure none runs. */
#define LAYER(step, kernel, ...) \\
    if (status == MNV2C_OK) \\
        status = mnv2c_run_layer(context, &steps[step], &kernels[kernel], (void *const[]){__VA_ARGS__})
#define A(offset) ((void *)(arena + (offset))) /* in the arena, in bytes */
#define W(offset) ((void *)(uintptr_t)(mnv2c_weights + (offset))) /* in the weights, in bytes; kernels only read them */
"""

_LAYERS = """\
int mnv2c_layers(mnv2c_context *context, const struct mnv2c_compiled *kernels, char *arena, void *input, int rgb,
                 void *const *outputs)
{
    int status = MNV2C_OK;
"""

_RUN = """
int mnv2c_run{suffix}(mnv2c_context *context, const {element} *{image}, {parameters})
{{
    void *const outputs[] = {{{names}}};
    return mnv2c_run_network(context, {image}, {rgb}, outputs);
}}
"""

_RUN_IMAGE = """
int mnv2c_run_image(mnv2c_context *context, const mnv2c_image *images, {parameters})
{{
    void *const outputs[] = {{{names}}};
    return mnv2c_run_images(context, images, outputs);
}}
"""

_SHAPE = """
int mnv2c_shape(int tensor, int64_t shape[4])
{{
    static const int ranks[] = {{{ranks}}};
    static const int64_t shapes[][4] = {{{shapes}}};
    if (tensor < 0 || tensor >= {count} || shape == NULL) return 0;
    for (int i = 0; i < ranks[tensor]; i++) shape[i] = shapes[tensor][i];
    return ranks[tensor];
}}
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
        _TOP.format(name=comment_text(program.name), identifier=program.identifier),
        _kernel_names(program),
        *(_kernel_table(kernels) for kernels in program.kernel_objects),
        _instruction_sets(program),
        _steps(program),
        *([chains(program)] if program.chains else []),
        _MACROS + (BANDS if program.chains else ""),
        _LAYERS + _layers(program) + "    return status;\n}\n" + runs(program) + run_image(program) + shape(program),
    ]
    return under_prefix("\n".join(parts), program.identifier)


def _kernel_names(program: Program) -> str:
    names = ",\n".join(f"    {constant(name)}" for name in program.kernels)
    return f"enum {{\n{names}\n}};\n"


def _kernel_table(kernels: KernelObject) -> str:
    declarations = "".join(f"mnv2c_kernel {kernel.symbol};\n" for kernel in kernels.kernels)
    rows = "".join(f"    [{constant(kernel.name)}] = {_compiled(kernel)},\n" for kernel in kernels.kernels)
    return (
        f"/* Kernels for {kernels.isa.name}: the function, how many tasks it has, the fewest worth a thread. */\n"
        f"{declarations}\nstatic const struct mnv2c_compiled {kernels.isa.name}_kernels[] = {{\n{rows}}};\n"
    )


def _compiled(kernel: CompiledKernel) -> str:
    return f"{{{kernel.symbol}, {kernel.tasks}, {kernel.grain}}}"


def _instruction_sets(program: Program) -> str:
    rows = "".join(f"    {{{_instruction_set(program, kernels)}}},\n" for kernels in program.kernel_objects)
    return (
        f"/* Best first; the bytes of scratch that its kernels need per thread; the cores that they are for. */\n"
        f"const struct mnv2c_instruction_set mnv2c_instruction_sets[] = {{\n{rows}}};\n"
        f"const int mnv2c_instruction_set_count = {len(program.kernel_objects)};\n"
        f"const size_t mnv2c_arena_bytes = {program.arena_bytes};\n"
        f"const size_t mnv2c_maps_bytes = {maps_bytes(program)};\n"
        f"const int mnv2c_output_count = {len(program.outputs)};\n"
    )


def _instruction_set(program: Program, kernels: KernelObject) -> str:
    isa = kernels.isa
    parts = ", ".join(map(hex, isa.parts)) or "0"
    return f"{string(isa.name)}, {isa.name}_kernels, {_scratch(program, kernels)}, {{{parts}}}"


def _scratch(program: Program, kernels: KernelObject) -> int:
    """That of one kernel, behind what a block in bands has there."""
    return max((kernel.scratch_bytes for kernel in kernels.kernels), default=0) + chains_scratch(program)


def _steps(program: Program) -> str:
    rows = "".join(f"    {_step(call)},\n" for call in program.layers)
    return (
        "/* What an observer is told: name, element, shape, strides, multiply-adds; which operand, and where. */\n"
        f"static const struct mnv2c_step steps[] = {{\n{rows}}};\n"
    )


def _step(call: Call) -> str:
    layer, output, interior = step_numbers(call)
    return f"{{{layer}, {output}, {interior}}}"


def step_numbers(call: Call) -> tuple[str, int, int]:
    """What an observer is told, as an initialiser; which operand is written, and how many bytes into it the map begins.

    A tensor of rank 2 has height and width 1.
    """
    shape = call.type.shape
    batch, height, width, channels = shape if len(shape) == 4 else (shape[0], 1, 1, shape[1])
    border = call.border
    row = (border.left + width + border.right) * channels
    image = (border.top + height + border.bottom) * row
    interior = TensorType((border.top * row + border.left * channels,), call.type.dtype).nbytes
    numbers = f"{{{batch}, {height}, {width}, {channels}}}, {{{image}, {row}, {channels}, 1}}, 0, {call.macs}"
    return f"{{{string(call.layer)}, NULL, {string(call.type.dtype)}, {numbers}}}", len(call.operands) - 1, interior


def _layers(program: Program) -> str:
    steps = {call.layer: number for number, call in enumerate(program.layers)}
    numbers = {chain.calls[0].layer: number for number, chain in enumerate(program.chains)}
    return "".join(
        _chain(steps[call.calls[0].layer], numbers[call.calls[0].layer], call)
        if isinstance(call, Chain)
        else _call(steps[call.layer], call)
        for call in program.calls
    )


def _call(step: int, call: Call) -> str:
    return f"\n    /* {_comment(call)} */\n    LAYER({step}, {_kernel(call)}, {_operands(call)});\n"


def _chain(step: int, number: int, chain: Chain) -> str:
    rows = "1 row" if chain.rows == 1 else f"{chain.rows} rows"
    lines = "".join(f"\n     *     {_comment(call)}" for call in chain.calls)
    kernels = ",\n                  ".join(f"&kernels[{_kernel(call)}]" for call in chain.calls)
    operands = ",\n                 ".join(f"OPERANDS({_operands(call)})" for call in chain.calls)
    return (
        f"\n    /* in {chain.bands} bands of {rows}:{lines} */\n"
        f"    BANDS({step}, {number},\n          KERNELS({kernels}),\n          LAYERS({operands}));\n"
    )


def _comment(call: Call) -> str:
    return f"{comment_text(call.layer)}: {comment_text(call.comment)}"


def _kernel(call: Call) -> str:
    kernel = constant(call.kernel)
    return kernel if call.kernel_uint8 is None else f"rgb ? {constant(call.kernel_uint8)} : {kernel}"


def _operands(call: Call) -> str:
    return ", ".join(_operand(operand) for operand in call.operands)


def _operand(operand: Operand) -> str:
    names = {
        "input": "input",
        "output": f"outputs[{operand.offset}]",
        "arena": f"A({operand.offset})",
        "weights": f"W({operand.offset})",
        "scratch": "NULL",
    }
    return names[operand.space]


def runs(program: Program, function: str = _RUN) -> str:
    """The two functions that take one pointer for each output, for floats and for bytes."""
    fields = _outputs(program)
    return function.format(suffix="", element="float", image="input", rgb=0, **fields) + function.format(
        suffix="_rgb", element="uint8_t", image="rgb", rgb=1, **fields
    )


def run_image(program: Program) -> str:
    """The function that takes images as cameras deliver them."""
    return _RUN_IMAGE.format(**_outputs(program))


def shape(program: Program) -> str:
    """The function that says what a run reads and writes."""
    shapes = [type_.shape for type_ in (program.input, *program.outputs.values())]
    rows = ", ".join(f"{{{', '.join(map(str, shape))}}}" for shape in shapes)
    return _SHAPE.format(ranks=", ".join(str(len(shape)) for shape in shapes), shapes=rows, count=len(shapes))


def _outputs(program: Program) -> dict[str, str]:
    return {"parameters": output_parameters(program.outputs), "names": ", ".join(program.outputs)}


def constant(name: str) -> str:
    """A kernel's number, by its name."""
    return "KERNEL_" + name


def string(text: str) -> str:
    """As a literal."""
    return json.dumps(text)


def comment_text(text: str) -> str:
    """``text`` where it cannot end a comment."""
    return " ".join(text.replace("*/", "* /").split())
