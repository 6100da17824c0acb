"""The program that runs a library elsewhere, ``runner.c``: how it is made, what it is asked, and what it answers.

What comes in: a ``Build``. What goes out: the program, and the bytes that go to it and come from it.
"""

from __future__ import annotations

import math
import re
import struct
from importlib import resources
from pathlib import Path

from mnv2c.deploy.manifest import Interface
from mnv2c.deploy.network import Build, check_threads
from mnv2c.errors import LibraryError
from mnv2c.runtime import under_prefix
from mnv2c.targets import target_for
from mnv2c.toolchain import find_toolchain, link_program

REQUEST = struct.Struct("<II")  # as in runner.c, as all of these
ANSWER = struct.Struct("<IiQQ")
LAYER = struct.Struct("<Q4qQ")
MAGIC, LAYER_MAGIC = 0x4132766D, 0x4C32766D
PROGRAM = "mnv2c-runner"
_OUTPUT_SIZE = re.compile(rb"^#define \w+_SIZE \d+ /\* floats: ", re.MULTILINE)  # see codegen.header
LINKING = "link a program that runs the library (the first one for an architecture takes a minute)"


def one_request(interface: Interface) -> bytes:
    """A request to run once, on normalised images of zeros: what ``runner.c`` reads from stdin."""
    return REQUEST.pack(0, 0) + bytes(4 * math.prod(interface.input_shape))


def arguments(threads: int, instruction_set: str | None) -> list[str]:
    """The program's command line, after its name. LibraryError where no context can have so many ``threads``."""
    check_threads(threads)
    return [str(threads), *([] if instruction_set is None else [instruction_set])]


def runner_source(interface: Interface) -> str:
    """``runner.c`` for one library."""
    count = len(interface.outputs)
    outputs = ", ".join(f"tensors[{number}]" for number in range(1, count + 1))
    source = (resources.files("mnv2c.deploy") / "runner.c").read_text(encoding="utf-8")
    return f"#define OUTPUT_COUNT {count}\n#define OUTPUTS {outputs}\n" + under_prefix(source, interface.identifier)


def link_runner(build: Build, directory: Path, *, static: bool) -> Path:
    """Makes the program in ``directory``, with the library inside or, not ``static``, to lie beside it; its path.

    LibraryError where a file of the library is missing, or its functions take another number of outputs than its
    manifest says; TargetError where its target is unknown, ToolError from zig.
    """
    header = build.checked(build.header)
    own, said = len(_OUTPUT_SIZE.findall(header.read_bytes())), len(build.interface.outputs)
    if own != said:
        raise LibraryError(f"{build.directory}: the library has {own} outputs, not {said}; build it again")
    target = target_for(build.manifest.target.name, build.manifest.target.triple)
    (directory / "runner.c").write_text(runner_source(build.interface), encoding="utf-8")
    library = build.checked(build.static_library if static else build.shared_library)
    flags = [f"-I{header.parent.resolve()}", *([] if static else ["-Wl,-rpath,$ORIGIN"])]
    inputs = ("runner.c", str(library.resolve()))
    link_program(find_toolchain(target), directory, inputs, output=PROGRAM, static=static, flags=flags)
    return directory / PROGRAM
