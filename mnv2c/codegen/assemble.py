"""From a Program to a Library: compiles the driver and the runtime, embeds the weights, links, adds the package files.

What comes in: a ``Program`` whose kernels are objects already. What goes out: a ``Library``, the same bytes from the
same inputs, under any directory, on any day.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mnv2c.codegen import driver_c, driver_gpu
from mnv2c.codegen.header import FUNCTIONS, ON_STREAMS, SOURCES, example, header, runtime_sources
from mnv2c.codegen.library import Library
from mnv2c.codegen.package import package_files
from mnv2c.codegen.program import Program
from mnv2c.deploy.manifest import Block, Interface, Kernel, Layer, Manifest, Output
from mnv2c.errors import ToolError
from mnv2c.kernels.abi import Launch
from mnv2c.scratch import Scratch
from mnv2c.toolchain import Toolchain, archive, compile_c, find_toolchain, link_shared


def interface(program: Program) -> Interface:
    """What the manifest says of how the library is called."""
    batch, height, width, channels = program.input.shape
    return Interface(
        identifier=program.identifier,
        instruction_sets=tuple(kernels.isa.name for kernels in program.kernel_objects),
        input_shape=(batch, height, width, channels),
        outputs=tuple(Output(name, type_.shape) for name, type_ in program.outputs.items()),
    )


def layers(program: Program) -> tuple[Layer, ...]:
    """What the manifest says of the layers."""
    chains = {call.layer: (chain.rows, number) for number, chain in enumerate(program.chains) for call in chain.calls}
    return tuple(
        Layer(call.layer, call.kernel, call.macs, call.moved_bytes, *chains.get(call.layer, (None, None)))
        for call in program.layers
    )


def kernels(program: Program) -> dict[str, dict[str, Kernel]]:
    """What the manifest says of the kernels, by instruction set and name."""
    return {
        compiled.isa.name: {
            kernel.name: Kernel(kernel.origin, kernel.schedule, kernel.tasks, _block(kernel.launch))
            for kernel in compiled.kernels
        }
        for compiled in program.kernel_objects
    }


def _block(launch: Launch | None) -> Block | None:
    if launch is None or launch.usage is None:
        return None
    usage = launch.usage
    return Block(math.prod(launch.block), usage.registers, usage.spilled, usage.shared)


def assemble(program: Program, manifest: Manifest, *, extra: Mapping[str, bytes]) -> Library:
    """Compiles and links in a temporary directory; ``extra`` are further files of the library by path.

    ToolError where zig is missing or fails, ValueError where the program breaks its contract.
    """
    _check(program)
    identifier = program.identifier
    drivers = {"cpu": driver_c.driver, "cuda": driver_gpu.driver}
    sources = runtime_sources(program) | {f"{identifier}.c": drivers[program.target.kind](program)}
    texts = {f"src/{name}": text for name, text in sources.items()} | package_files(identifier, program.target.kind)
    texts[f"include/{identifier}.h"] = header(program)
    if (text := example(program)) is not None:
        texts["examples/main.c"] = text
    files = {path: text.encode() for path, text in texts.items()} | _compile(program, texts) | dict(extra)
    return Library.of(files, manifest)


def _check(program: Program) -> None:
    """The contract that C cannot check: every symbol under the library's prefix, every kernel for every CPU."""
    if not re.fullmatch(r"[A-Za-z]\w*", program.identifier, re.ASCII):
        raise ValueError(f"identifier {program.identifier!r} is not a C identifier")
    for kernels in program.kernel_objects:
        if tuple(kernel.name for kernel in kernels.kernels) != program.kernels:
            raise ValueError(f"the kernels for {kernels.isa.name} are not those of the program")
        for kernel in kernels.kernels:
            if not kernel.symbol.startswith(f"{program.identifier}_"):
                raise ValueError(f"kernel symbol {kernel.symbol!r} lacks the prefix {program.identifier}_")


def _compile(program: Program, texts: Mapping[str, str]) -> dict[str, bytes]:
    """The two libraries, by path."""
    toolchain = find_toolchain(program.target)
    try:
        with Scratch() as scratch:
            return _compile_in(scratch, toolchain, program, texts)
    except OSError as error:
        raise ToolError(f"cannot compile the library in {tempfile.gettempdir()}: {error.strerror}") from error


def _compile_in(directory: Path, toolchain: Toolchain, program: Program, texts: Mapping[str, str]) -> dict[str, bytes]:
    identifier = program.identifier
    shared, static = f"lib{identifier}.so", f"lib{identifier}.a"
    for path, text in texts.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text, encoding="utf-8")
    (directory / "weights.bin").write_bytes(program.weights)
    (directory / "weights.S").write_text(_embedding(program), encoding="utf-8")
    (directory / "exports.map").write_text(_version_script(program), encoding="utf-8")
    objects = _write_code(directory, program)
    sources = [f"src/{identifier}.c", *(f"src/{source}" for source in SOURCES[program.target.kind]), "weights.S"]
    flags = ("-Iinclude", "-Wall", "-Wextra")
    objects = compile_c(toolchain, directory, *sources, flags=flags) + objects
    libraries = ("-ldl",) if program.target.kind == "cuda" else ()
    link_shared(toolchain, directory, objects, output=shared, version_script="exports.map", libraries=libraries)
    archive(toolchain, directory, objects, output=static)
    return {f"lib/{name}": (directory / name).read_bytes() for name in (shared, static)}


def _embedding(program: Program) -> str:
    return (driver_gpu.embedding_assembly if program.target.kind == "cuda" else driver_c.weights_assembly)(program)


def _write_code(directory: Path, program: Program) -> list[str]:
    """The kernels' files; those among them that are to be linked."""
    if program.target.kind == "cuda":
        for number, kernels in enumerate(program.kernel_objects):
            (directory / driver_gpu.code_file(number)).write_bytes(kernels.object)
        return []
    objects = {f"kernels_{kernels.isa.name}.o": kernels.object for kernels in program.kernel_objects}
    for name, content in objects.items():
        (directory / name).write_bytes(content)
    return list(objects)


def _version_script(program: Program) -> str:
    functions = (*FUNCTIONS, *ON_STREAMS) if program.target.kind == "cuda" else FUNCTIONS
    names = "".join(f" {program.identifier}_{function};" for function in functions)
    return f"{{ global:{names} local: *; }};\n"
