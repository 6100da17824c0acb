"""Runs a library for another processor here, in qemu's user-mode emulation: right to the bit, and slow.

What comes in: a library and, where wanted, the name of a core. What goes out: a ``RemoteNetwork``.
"""

from __future__ import annotations

from collections.abc import Callable

from mnv2c.deploy.network import Build
from mnv2c.deploy.peer import Ending, Peer, RemoteNetwork
from mnv2c.deploy.runner import LINKING, arguments, link_runner
from mnv2c.scratch import Scratch
from mnv2c.toolchain import find_qemu


def open_qemu(
    build: Build, cpu: str, *, threads: int, instruction_set: str | None, report: Callable[[str], None]
) -> RemoteNetwork:
    """Starts the library in an emulator.

    ``cpu`` is qemu's name for a core, empty for qemu's own with every extension; ``report`` is told of what takes long.
    LibraryError where the core is unknown or lacks the instruction set, ToolError where qemu or a compiler is missing.
    """
    told = arguments(threads, instruction_set)
    qemu = find_qemu(build.architecture)
    processor = f"qemu ({cpu})" if cpu else "qemu"

    def explain(ending: Ending) -> str:
        if "unable to find CPU model" in ending.last_line:
            return f"--runner qemu:{cpu}: qemu knows no such core; `{qemu} -cpu help` lists them"
        return f"{build.directory} on {processor}: {ending}"

    with Scratch() as scratch:
        report(LINKING)
        program = link_runner(build, scratch, static=True)
        command = [qemu, *(["-cpu", cpu] if cpu else []), str(program), *told]
        # Once the program has answered it is in memory, and its file may go.
        return RemoteNetwork(
            build, Peer(command, explain), processor=processor, threads=threads, instruction_set=instruction_set
        )
