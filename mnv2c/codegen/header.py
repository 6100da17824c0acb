"""The library's C text that is the same for every network: the public header, the runtime sources and the example.

What comes in: ``runtime/``, hand-written C under the prefix ``mnv2c_``. What goes out: the same under the library's own
prefix, so that two libraries can live in one program.
"""

from __future__ import annotations

import math

from mnv2c.codegen.program import Program
from mnv2c.runtime import source, under_prefix

FUNCTIONS = ("message", "create", "destroy", "run", "run_rgb", "instruction_set", "threads", "observe")  # the whole API
RUNTIME_SOURCES = ("context.c", "threads.c", "cpu.c")
RUNTIME_HEADER = "runtime.h"
_CONSTANTS = "/* @constants@ */"


def header(program: Program) -> str:
    """``include/<identifier>.h``: the API, and the network's dimensions as constants."""
    batch, height, width, channels = program.input.shape
    dimensions = {"BATCH": batch, "HEIGHT": height, "WIDTH": width, "CHANNELS": channels}
    dimensions |= {"CLASSES": program.output.shape[-1], "LOGITS_SIZE": math.prod(program.output.shape)}
    levels = ", ".join(f'"{kernels.isa.name}"' for kernels in program.kernel_objects)
    lines = [f"/* {program.name}: instruction sets {levels}. */"]
    lines += [f"#define MNV2C_{name} {value}" for name, value in dimensions.items()]
    return under_prefix(source("mnv2c.h").replace(_CONSTANTS, "\n".join(lines)), program.identifier)


def runtime_sources(identifier: str) -> dict[str, str]:
    """The thread pool, the contexts and the CPU detection, by file name."""
    return {name: under_prefix(source(name), identifier) for name in (RUNTIME_HEADER, *RUNTIME_SOURCES)}


def example(identifier: str) -> str:
    """``examples/main.c``: classifies a raw RGB file."""
    return under_prefix(source("example.c"), identifier)
