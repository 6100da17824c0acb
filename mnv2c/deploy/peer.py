"""The other side of ``deploy/runner.c``: asks a program that runs the library, through pipes.

What comes in: the command that starts the program, here or on another machine. What goes out: ``RemoteNetwork``, used
as ``deploy.native.Network`` is. A program that ends too early is a LibraryError with its status and its last line; so
is one that answers something else than ``runner.c`` would. Nothing is read before it is known to be of a fitting size.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c import processes
from mnv2c.deploy import runner
from mnv2c.deploy.binding import NetworkError, check_shapes
from mnv2c.deploy.manifest import Layer
from mnv2c.deploy.network import OK, Build, LayerRun, Pixel, RunnableNetwork, explain_create, fitting
from mnv2c.errors import LibraryError, ToolError

_PATIENCE = 10  # seconds for a program to end once its stdin has
_SLOWEST = 10e3  # bytes a second, fewer than come over any network that one would take
_KEPT = 1 << 16  # bytes of its stderr, the last
_SHOWN = 300  # characters of a line that it wrote
_WORDS = 1 << 16  # bytes of an answer that is no array


@dataclass(frozen=True)
class Ending:
    """How a program ended: its status as Python has it, below 0 for a signal, None where it was given up; the last of
    its stderr."""

    status: int | None
    errors: str

    @property
    def last_line(self) -> str:
        """Of its stderr, empty where there is none."""
        return (self.errors.strip().splitlines() or [""])[-1].strip()[:_SHOWN]

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
    neither writes nor reads, or than those and what its bytes take over a slow network: that is a LibraryError too.
    ToolError where the command cannot be started.
    """

    def __init__(self, command: Sequence[str], explain: Callable[[Ending], str], *, patience: float = math.inf) -> None:
        self._explain, self._patience = explain, patience
        self._received, self._errors = bytearray(), b""
        try:
            self._program = processes.start(command, stdin=subprocess.PIPE)
        except OSError as error:
            raise ToolError(f"{command[0]} cannot be started: {error.strerror}") from error
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        assert self._program.stderr is not None
        self._input, self._output, self._told = self._program.stdin, self._program.stdout, self._program.stderr

    def send(self, *parts: bytes) -> None:
        """Writes all of ``parts`` to its stdin."""
        until = self._deadline(sum(map(len, parts)))
        for part in parts:
            left = memoryview(part)
            while left:
                self._await([], [self._input], until)
                try:
                    left = left[os.write(self._input.fileno(), left[: select.PIPE_BUF]) :]  # so much does not block
                except OSError:
                    raise LibraryError(self._explain(self._end())) from None

    def receive(self, size: int) -> bytes:
        """Exactly ``size`` bytes of its stdout."""
        until = self._deadline(size)
        while len(self._received) < size:
            self._read(until)
        return self._take(size)

    def receive_line(self, start: bytes, *, within: int) -> bytes:
        """What follows ``start`` in the first line of its stdout that begins so, ``within`` bytes of what comes."""
        until = self._deadline(within)
        while within > 0:
            while b"\n" not in self._received and len(self._received) < within:
                self._read(until)
            line = self._take(self._received.find(b"\n") + 1 or within)
            if line.startswith(start):
                return line.removeprefix(start)
            within -= len(line)
        raise self._given_up("it writes on and on, and does not run the program")

    def receive_all(self, *, most: int) -> tuple[bytes, Ending]:
        """Its stdout to the end, ``most`` bytes, and how it ended; its stdin is closed before."""
        until = self._deadline(most)
        self._input.close()
        while self._read_some(until):
            if len(self._received) > most:
                raise self._given_up("it writes on and on")
        return self._take(most), self._end()

    def close(self) -> None:
        """Closes its pipes, so that it ends; kills it where it does not."""
        for pipe in (self._input, self._output, self._told):
            with contextlib.suppress(OSError):
                pipe.close()
        self._wait()

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _read(self, until: float) -> None:
        if not self._read_some(until):
            raise LibraryError(self._explain(self._end()))

    def _read_some(self, until: float) -> bool:
        """Whether there was anything."""
        self._await([self._output], [], until)
        data = os.read(self._output.fileno(), 1 << 16)
        self._received += data
        return bool(data)

    def _deadline(self, size: int) -> float:
        """When ``size`` bytes have come or gone, however slow the network is."""
        return time.monotonic() + self._patience + size / _SLOWEST

    def _await(self, readable: list[Any], writable: list[Any], until: float) -> None:
        """Until one of them is, or LibraryError; its stderr is read meanwhile, lest it wait for us."""
        while (seconds := min(self._patience, until - time.monotonic())) > 0:
            told = [] if self._told.closed else [self._told]
            ready = select.select([*readable, *told], writable, [], None if math.isinf(seconds) else seconds)
            if self._told in ready[0]:
                self._listen()
            elif any(ready):
                return
            else:
                break
        stopped = "the program, the machine or the network has stopped, or is too slow"
        raise self._given_up(f"no answer for {self._patience:.0f} s: {stopped}")

    def _given_up(self, reason: str) -> LibraryError:
        """The program is killed, for it may never end."""
        processes.end(self._program)
        return LibraryError(self._explain(Ending(None, reason)))

    def _end(self) -> Ending:
        with contextlib.suppress(OSError):
            self._input.close()
        until = time.monotonic() + _PATIENCE
        while not self._told.closed and (seconds := until - time.monotonic()) > 0:
            if any(select.select([self._told], [], [], seconds)):
                self._listen()
        return Ending(self._wait(), self._errors.decode(errors="replace"))

    def _wait(self) -> int:
        try:
            return self._program.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return processes.end(self._program)

    def _listen(self) -> None:
        """Some of its stderr, which is closed at its end."""
        if data := os.read(self._told.fileno(), _KEPT):
            self._errors = (self._errors + data)[-_KEPT:]
        else:
            self._told.close()


@dataclass(frozen=True)
class _Answer:
    """As in ``runner.c``."""

    magic: int
    status: int
    nanoseconds: int
    payload: bytes

    @property
    def words(self) -> str:
        """Why there is nothing else."""
        return " ".join(self.payload.decode(errors="replace").split())[:_SHOWN] or f"status {self.status}"


class RemoteNetwork(RunnableNetwork):
    """A library in a program at the other end of ``peer``."""

    def __init__(self, build: Build, peer: Peer, *, processor: str, threads: int, instruction_set: str | None) -> None:
        """Owns ``peer`` from now on; its program was started with these ``threads`` and ``instruction_set``.

        ``processor`` is for people. LibraryError where the program could not make a context.
        """
        super().__init__(build)
        self._peer, self._processor, self._threads = peer, processor, threads
        self._sizes = [math.prod(shape) for shape in self.output_shapes.values()]  # in floats
        layers = (runner.LAYER.size + layer.moved_bytes + len(layer.name.encode()) for layer in build.manifest.layers)
        self._longest = {runner.MAGIC: max(_WORDS, 4 * sum(self._sizes)), runner.LAYER_MAGIC: max(layers, default=0)}
        try:
            answer = self._receive()
            if answer.status != OK:
                raise explain_create(
                    build, answer.status, answer.words, threads=threads, instruction_set=instruction_set
                )
            self._instruction_set = self._check_hello(answer.payload)
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

    def _check_hello(self, payload: bytes) -> str:
        """The instruction set in use. LibraryError where the library is another than its manifest says."""
        words = re.fullmatch(r"(\w+) (\d{1,3})((?: [\dx]{1,99})+)", payload.decode(errors="replace"), re.ASCII)
        if words is None or words[1] not in self.instruction_sets or int(words[2]) != self._threads:
            raise self._strange(repr(payload[:_SHOWN]))
        own = [tuple(int(extent or 0) for extent in shape.split("x")) for shape in words[3].split()]
        try:
            check_shapes(own, self.input_shape, self.output_shapes)
        except NetworkError as error:
            raise LibraryError(f"{self.directory}: {error}") from error
        return words[1]

    def _run(self, x: Any, pixel: Pixel, seen: list[LayerRun] | None = None) -> tuple[list[NDArray[np.float32]], int]:
        images = fitting(self._build, x, pixel)
        self._peer.send(runner.REQUEST.pack(pixel is np.uint8, seen is not None), images.tobytes())
        layers = () if seen is None else self._build.manifest.layers
        runs: list[LayerRun] = []
        while (answer := self._receive()).magic == runner.LAYER_MAGIC:
            if len(runs) == len(layers):
                raise self._strange(f"a layer after {len(layers)}")
            runs.append(self._layer(layers[len(runs)], answer))
        if answer.status != OK:
            raise LibraryError(f"{self.directory}: {answer.words}")
        if len(runs) != len(layers) or len(answer.payload) != 4 * sum(self._sizes) or answer.nanoseconds == 0:
            size, time = len(answer.payload), answer.nanoseconds
            raise self._strange(f"{size} bytes of outputs after {len(runs)} layers and {time} ns")
        if seen is not None:
            seen += runs
        parts = np.split(np.frombuffer(answer.payload, "<f4"), list(itertools.accumulate(self._sizes[:-1])))
        shapes = self.output_shapes.values()
        return [part.reshape(shape).copy() for part, shape in zip(parts, shapes, strict=True)], answer.nanoseconds

    def _layer(self, layer: Layer, answer: _Answer) -> LayerRun:
        """Of an answer that is to be of this ``layer``."""
        about, rest = answer.payload[: runner.LAYER.size], answer.payload[runner.LAYER.size :]
        macs, *shape, element_bytes = runner.LAYER.unpack(about.ljust(runner.LAYER.size, b"\0"))
        count = math.prod(shape)
        fits = macs == layer.macs and min(shape) > 0 and element_bytes in (2, 4)
        if not fits or rest[count * element_bytes :] != layer.name.encode():
            raise self._strange(f"something else than layer {layer.name}")
        values = np.frombuffer(rest, f"<f{element_bytes}", count)
        return LayerRun(layer.name, values.reshape(shape).astype(np.float32), answer.nanoseconds, macs)

    def _receive(self) -> _Answer:
        """LibraryError before more is read than such an answer has."""
        header = self._peer.receive(runner.ANSWER.size)
        magic, status, nanoseconds, size = runner.ANSWER.unpack(header)
        if size > self._longest.get(magic, -1):
            raise self._strange(repr(header))
        return _Answer(magic, status, nanoseconds, self._peer.receive(size))

    def _strange(self, what: str) -> LibraryError:
        return LibraryError(f"{self.directory} on {self._processor}: something else than the program answers: {what}")
