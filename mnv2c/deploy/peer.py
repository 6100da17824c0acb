"""The other side of ``deploy/runner.c``: asks a program that runs the library, through pipes.

What comes in: the command that starts the program, here or on another machine. What goes out: ``RemoteNetwork``, used
as ``deploy.native.Network`` is. A program that ends too early is a LibraryError with its status and its last line.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import select
import signal
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c import processes
from mnv2c.deploy.manifest import Interface
from mnv2c.deploy.network import (
    OK,
    Build,
    LayerRun,
    Pixel,
    RunnableNetwork,
    check_threads,
    explain_create,
    fitting,
)
from mnv2c.errors import LibraryError, ToolError
from mnv2c.runtime import under_prefix
from mnv2c.targets import target_for
from mnv2c.toolchain import find_toolchain, link_program

_REQUEST = struct.Struct("<II")  # as in runner.c
_ANSWER = struct.Struct("<IiQQ")
_LAYER = struct.Struct("<Q4qQ")
_MAGIC, _LAYER_MAGIC = 0x4132766D, 0x4C32766D
_PATIENCE = 10  # seconds for a program to end once its stdin has
PROGRAM = "mnv2c-runner"
LINKING = "link a program that runs the library (the first one for an architecture takes a minute)"


@dataclass(frozen=True)
class Ending:
    """How a program ended: its status as Python has it, below 0 for a signal, None where it only fell silent; all of
    its stderr."""

    status: int | None
    errors: str

    @property
    def last_line(self) -> str:
        """Of its stderr, empty where there is none."""
        return (self.errors.strip().splitlines() or [""])[-1].strip()

    def __str__(self) -> str:
        if self.status is None:
            return self.last_line
        signal_number = -self.status if self.status < 0 else self.status - 128  # a shell adds 128
        try:
            end = f"was killed by {signal.Signals(signal_number).name}"
        except ValueError:
            end = f"ended with status {self.status}"
        return f"the program {end}{': ' if self.last_line else ''}{self.last_line}"


class Peer:
    """A started program and its pipes. Where it has ended too early, every method raises a LibraryError.

    ``explain`` makes its message. With ``patience`` no method waits longer than so many seconds for a program that
    neither writes nor reads: that is a LibraryError too. ToolError where the command cannot be started.
    """

    def __init__(
        self, command: Sequence[str], explain: Callable[[Ending], str], *, patience: float | None = None
    ) -> None:
        self._explain, self._patience = explain, patience
        self._received = bytearray()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would block the program
        try:
            self._program = processes.start(command, stdin=subprocess.PIPE, stderr=self._errors)
        except OSError as error:
            raise ToolError(f"{command[0]} cannot be started: {error.strerror}") from error
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._input, self._output = self._program.stdin, self._program.stdout

    def send(self, *parts: bytes | memoryview) -> None:
        """Writes all of ``parts`` to its stdin."""
        for part in parts:
            left = memoryview(part)
            while left:
                self._await([], [self._input])
                try:
                    left = left[os.write(self._input.fileno(), left[: select.PIPE_BUF]) :]  # so much does not block
                except OSError:
                    raise self._ended() from None

    def receive(self, size: int) -> bytes:
        """Exactly ``size`` bytes of its stdout."""
        while len(self._received) < size:
            self._read()
        return self._take(size)

    def receive_line(self) -> bytes:
        """Its stdout up to the end of the line."""
        while b"\n" not in self._received:
            self._read()
        return self._take(self._received.index(b"\n") + 1)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _read(self) -> None:
        self._await([self._output], [])
        data = os.read(self._output.fileno(), 1 << 20)
        if not data:
            raise self._ended()
        self._received += data

    def _await(self, readable: list[Any], writable: list[Any]) -> None:
        """Until one of them is. Where that takes too long the program is killed, for it may never end."""
        if any(select.select(readable, writable, [], self._patience)):
            return
        processes.end(self._program)
        silence = f"no answer for {self._patience:.0f} s: the program, the machine or the network has stopped"
        raise LibraryError(self._explain(Ending(None, silence)))

    def close(self) -> None:
        """Closes its pipes, so that it ends; kills it where it does not."""
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):
                pipe.close()
        self._wait()
        self._errors.close()

    def _wait(self) -> int:
        try:
            return self._program.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return processes.end(self._program)

    def _ended(self) -> LibraryError:
        with contextlib.suppress(OSError):
            self._input.close()
        status = self._wait()
        self._errors.seek(0)
        return LibraryError(self._explain(Ending(status, self._errors.read().decode(errors="replace"))))


class RemoteNetwork(RunnableNetwork):
    """A library in a program at the other end of ``peer``."""

    def __init__(self, build: Build, peer: Peer, *, processor: str, threads: int, instruction_set: str | None) -> None:
        """Owns ``peer`` from now on; its program was started with these ``threads`` and ``instruction_set``.

        ``processor`` is for people. LibraryError where the program could not make a context.
        """
        super().__init__(build)
        self._peer, self._processor = peer, processor
        try:
            status, _, payload = self._answer()
            text = payload.decode(errors="replace")
            if status != OK:
                raise explain_create(build, status, text, threads=threads, instruction_set=instruction_set)
            self._instruction_set, number = text.split()
            self._threads = int(number)
        except BaseException:
            peer.close()
            raise

    @property
    def processor(self) -> str:
        return self._processor

    @property
    def instruction_set(self) -> str:
        return self._instruction_set

    @property
    def threads(self) -> int:
        return self._threads

    def close(self) -> None:
        self._peer.close()

    def _run(self, x: Any, pixel: Pixel, seen: list[LayerRun] | None = None) -> tuple[list[NDArray[np.float32]], int]:
        images = fitting(self._build, x, pixel)
        self._peer.send(_REQUEST.pack(pixel is np.uint8, seen is not None), images.tobytes())
        status, nanoseconds, payload = self._answer(seen)
        if status != OK:
            raise LibraryError(f"{self.directory}: {payload.decode(errors='replace')}")
        parts = np.split(np.frombuffer(payload, "<f4"), _starts(self._build.interface)[1:])
        shapes = self.output_shapes.values()
        return [part.reshape(shape).copy() for part, shape in zip(parts, shapes, strict=True)], nanoseconds

    def _answer(self, seen: list[LayerRun] | None = None) -> tuple[int, int, bytes]:
        """Status, nanoseconds and payload, after the answers of layers."""
        while True:
            header = self._peer.receive(_ANSWER.size)
            magic, status, nanoseconds, size = _ANSWER.unpack(header)
            if magic not in (_MAGIC, _LAYER_MAGIC):
                raise LibraryError(
                    f"{self.directory} on {self._processor}: something else than the program answers: {header!r}"
                )
            payload = self._peer.receive(size)
            if magic == _MAGIC:
                return status, nanoseconds, payload
            if seen is not None:
                seen.append(_layer(payload, nanoseconds))


def _layer(payload: bytes, nanoseconds: int) -> LayerRun:
    macs, *shape, element_bytes = _LAYER.unpack_from(payload)
    count = int(np.prod(shape))
    values = np.frombuffer(payload, f"<f{element_bytes}", count, _LAYER.size)
    name = payload[_LAYER.size + values.nbytes :].decode()
    return LayerRun(name, values.reshape(shape).astype(np.float32), nanoseconds, macs)


def _starts(interface: Interface) -> list[int]:
    """Where each output begins in the answer, in floats: they stand one after the other."""
    return list(itertools.accumulate((math.prod(output.shape) for output in interface.outputs[:-1]), initial=0))


def one_request(interface: Interface) -> bytes:
    """A request to run once, on normalised images of zeros: what ``runner.c`` reads from stdin."""
    return _REQUEST.pack(0, 0) + bytes(4 * math.prod(interface.input_shape))


def arguments(threads: int, instruction_set: str | None) -> list[str]:
    """The program's command line, after its name. LibraryError where no context can have so many ``threads``."""
    check_threads(threads)
    return [str(threads), *([] if instruction_set is None else [instruction_set])]


def runner_source(interface: Interface) -> str:
    """``runner.c`` for one library: the outputs, which it writes into one array, are passed by their own pointers."""
    floats = sum(math.prod(output.shape) for output in interface.outputs)
    pointers = ", ".join(f"outputs + {start}" for start in _starts(interface))
    source = (resources.files("mnv2c.deploy") / "runner.c").read_text(encoding="utf-8")
    return f"#define OUTPUT_FLOATS {floats}\n#define OUTPUT_POINTERS {pointers}\n" + under_prefix(
        source, interface.identifier
    )


def link_runner(build: Build, directory: Path, *, static: bool) -> Path:
    """Makes the program in ``directory``, with the library inside or, not ``static``, to lie beside it; its path.

    LibraryError where a file of the library is missing, TargetError where its target is unknown, ToolError from zig.
    """
    target = target_for(build.manifest.target.name, build.manifest.target.triple)
    (directory / "runner.c").write_text(runner_source(build.interface), encoding="utf-8")
    library = build.checked(build.static_library if static else build.shared_library)
    include = build.checked(build.header).parent.resolve()
    flags = [f"-I{include}", *([] if static else ["-Wl,-rpath,$ORIGIN"])]
    inputs = ("runner.c", str(library.resolve()))
    link_program(find_toolchain(target), directory, inputs, output=PROGRAM, static=static, flags=flags)
    return directory / PROGRAM
