"""The library's C text but for the driver: the public header, the runtime sources and the example.

What comes in: ``mnv2c.runtime``, hand-written C, and a Program. What goes out: that C under the library's own prefix,
with the network's dimensions and a pointer for each of its outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mnv2c.codegen.program import Program
from mnv2c.ir.graph import CLASSIFIED, LOGITS
from mnv2c.kernels.abi import HEADER as KERNEL_HEADER
from mnv2c.runtime import source, under_prefix

FUNCTIONS = (
    *("message", "create", "destroy", "run", "run_rgb", "run_image"),
    *("instruction_set", "threads", "shape", "observe"),
)
"""The whole API."""
SOURCES = {
    "cpu": ("context.c", "bands.c", "threads.c", "cpu.c", "image.c"),
    "cuda": ("gpu.c", "libcuda.c", "image.c"),
}
"""The runtime beside the driver, by the kind of target."""
_HEADERS = {"cpu": ("runtime.h", KERNEL_HEADER, "image.h"), "cuda": ("gpu.h", "libcuda.h", "image.h")}
ON_STREAMS = ("enqueue", "enqueue_rgb")  # and what a library for GPUs has besides
_FUNCTIONS = "/* @functions@ */\n"
_STATUSES = "    /* @statuses@ */\n"
_SOFTMAX = re.compile(r" */\* @softmax@ \*/\n(.*) */\* @end of softmax@ \*/\n", re.DOTALL)
_CONSTANTS, _OUTPUTS, _BUFFERS, _ARGUMENTS = (
    f"/* @{name}@ */" for name in ("constants", "outputs", "buffers", "arguments")
)


def header(program: Program) -> str:
    """``include/<identifier>.h``: the API, and the network's dimensions as constants."""
    batch, height, width, channels = program.input.shape
    dimensions = {"BATCH": batch, "HEIGHT": height, "WIDTH": width, "CHANNELS": channels}
    if (classified := _classified(program)) is not None:
        dimensions["CLASSES"] = program.outputs[classified].shape[-1]
    isas = ", ".join(f'"{kernels.isa.name}"' for kernels in program.kernel_objects)
    lines = [f"/* {program.name}: instruction sets {isas}. */"]
    lines += [f"#define MNV2C_{name} {value}" for name, value in dimensions.items()]
    for name, type_ in program.outputs.items():
        shape = " x ".join(map(str, type_.shape))
        lines.append(f"#define MNV2C_{name.upper()}_SIZE {type_.elements} /* floats: {shape} */")
    is_gpu = program.target.kind == "cuda"
    statuses, functions = (source(f"gpu_{part}.h") if is_gpu else "" for part in ("statuses", "functions"))
    text = (
        source("mnv2c.h")
        .replace(_STATUSES, statuses)
        .replace(_FUNCTIONS, functions)
        .replace(_CONSTANTS, "\n".join(lines))
        .replace(_OUTPUTS, output_parameters(program.outputs))
    )
    return under_prefix(text, program.identifier)


def output_parameters(names: Iterable[str]) -> str:
    """One pointer for each output: ``float *logits``."""
    return ", ".join(f"float *{name}" for name in names)


def runtime_sources(program: Program) -> dict[str, str]:
    """The contexts, and what they need, by file name."""
    kind = program.target.kind
    return {name: under_prefix(source(name), program.identifier) for name in (*_HEADERS[kind], *SOURCES[kind])}


def example(program: Program) -> str | None:
    """``examples/main.c``: classifies a raw RGB file; None for a network that has no classes."""
    classified = _classified(program)
    if classified is None:
        return None
    buffers = "\n".join(f"static float {name}[MNV2C_{name.upper()}_SIZE];" for name in program.outputs)
    text = _SOFTMAX.sub(r"\1" if classified == LOGITS else "    float sum = 1;\n", source("example.c"))
    text = text.replace("logits", classified).replace(_BUFFERS, buffers).replace(_ARGUMENTS, ", ".join(program.outputs))
    return under_prefix(text, program.identifier)


def _classified(program: Program) -> str | None:
    """The output that ``examples/main.c`` and ``MNV2C_CLASSES`` are about."""
    return next((name for name in CLASSIFIED if name in program.outputs), None)
