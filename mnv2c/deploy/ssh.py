"""Runs a library on another machine, over ssh: the very file ``lib/*.so`` that is deployed, and a program beside it.

What comes in: a library and a host. What goes out: a ``RemoteNetwork``. One connection does it all: a shell over there
makes a directory, unpacks the first part of its input there, runs it on the rest, and removes the directory, also when
the connection is lost.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mnv2c import processes
from mnv2c.deploy.network import Build
from mnv2c.deploy.peer import Ending, Peer, RemoteNetwork
from mnv2c.deploy.runner import LINKING, PROGRAM, arguments, link_runner
from mnv2c.errors import LibraryError, ToolError
from mnv2c.scratch import Scratch

PACKAGE = "openssh-client"
_GREETING = b"mnv2c-host "
_OPTIONS = (
    *("-o", "BatchMode=yes", "-o", "LogLevel=ERROR"),
    *("-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
)
_SILENCE = 25.0  # seconds without a sign of life, longer than ssh's own limits
_BANNER = 1 << 16  # bytes that a shell over there may say before it runs our script
_PRINTED = 1 << 20  # bytes that a program over there may print
_NAME = 100  # characters of a machine's name that are shown
_SLOWEST = 20e6  # multiply-adds a second, fewer than any board does: a large network may take longer than that
_RUNS = {"x86_64": ("x86_64",), "aarch64": ("aarch64",), "armv7l": ("armv7l", "armv8l", "aarch64")}
"""By the architecture of a library, what ``uname -m`` may say: a 32-bit system may have a 64-bit kernel."""
_NO_ROOM = {
    "Disk quota exceeded": "Disk quota exceeded",
    "No space left": "No space left",
    "Wrote only": "No space left",
}
"""By what tar says, before a last line which tells only that it failed."""
_TMPDIR = "its TMPDIR, by default /tmp"
_ELSEWHERE = "export TMPDIR=FOLDER there, at the top of ~/.bashrc"
_TARGETS = {"x86_64": "x86", "aarch64": "arm", "armv7l": "armv7", "armv8l": "armv7"}
"""By what ``uname -m`` says, what to build for."""

_SCRIPT = """\
export LC_ALL=C
directory=$(mktemp -d) || exit
trap 'rm -rf "$directory"' EXIT
model() { tr -d '\\0' </proc/device-tree/model || sed -n 's/^model name.*: //p' /proc/cpuinfo; }
echo "mnv2c-host $(uname -m) $(model 2>/dev/null | head -n 1)"
read size
head -c "$size" | tar -x -f - -C "$directory" || exit
"""
_ALONE = """\
directory=$(mktemp -d) || exit
trap 'rm -rf "$directory"' EXIT
cd "$directory" && tar -x -f - || exit
"""
_TELL = """\
cat errors >&2
exit $status
"""


@dataclass(frozen=True)
class Host:
    """Where to connect; ``port`` is empty for what ssh's configuration says."""

    name: str
    port: str = ""

    @staticmethod
    def parse(text: str) -> Host:
        """``[USER@]HOST[:PORT]``; LibraryError where it is something else."""
        match = re.fullmatch(r"((?:[\w.-]+@)?(?:\w[\w.-]*|\[[0-9A-Fa-f:.]+\]))(?::([0-9]{1,5}))?", text, re.ASCII)
        if match is None:
            raise LibraryError(f"ssh:{text}: give ssh:[USER@]HOST[:PORT], such as ssh:pi@raspberrypi.local")
        return Host(re.sub(r"[][]", "", match[1]), match[2] or "")


def open_ssh(
    build: Build, host: Host, *, threads: int, instruction_set: str | None, report: Callable[[str], None]
) -> RemoteNetwork:
    """Copies the library to ``host`` and starts it there; ``report`` is told of what takes long.

    LibraryError where the connection fails or the host cannot run the library, ToolError where ssh or a compiler is
    missing.
    """
    told = arguments(threads, instruction_set)
    script = f'{_SCRIPT}"$directory/{PROGRAM}" {shlex.join(told)}\n'
    command = _command(host, script)
    report(f"connect to {host.name}")
    patience = max(_SILENCE, sum(layer.macs for layer in build.manifest.layers) / _SLOWEST)
    peer = Peer(command, lambda ending: _explain(build, host, ending), patience=patience)
    try:
        processor = _greet(build, host, peer)
        report(LINKING)
        archive = _archive(build)
        peer.send(b"%d\n" % len(archive), archive)
    except BaseException:
        peer.close()
        raise
    return RemoteNetwork(build, peer, processor=processor, threads=threads, instruction_set=instruction_set)


def run_there(host: Host, files: Sequence[Path], command: Sequence[str], *, seconds: int) -> processes.Finished:
    """Runs ``command`` in a directory of ``host`` that has ``files`` and is removed afterwards.

    Its status is 124 where it takes longer than ``seconds``. ToolError where ssh is missing, the connection fails, or
    what comes does not end.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path in files:
            archive.add(path, path.name)
    script = f'{_ALONE}timeout {seconds} {shlex.join(command)} 2>"$directory/errors"\nstatus=$?\n{_TELL}'

    def explain(ending: Ending) -> str:
        return _lost(host, ending.last_line) if ending.status == 255 else f"{host.name}: {ending}"

    peer = Peer(_command(host, script), explain, patience=seconds + _SILENCE)
    try:
        peer.send(content.getvalue())
        printed, ending = peer.receive_all(most=_PRINTED)
    except LibraryError as error:
        raise ToolError(str(error)) from error
    finally:
        peer.close()
    if ending.status is None or ending.status == 255:
        raise ToolError(explain(ending))
    return processes.Finished(command, ending.status, printed.decode(errors="replace"), ending.errors)


def _command(host: Host, script: str) -> list[str]:
    """ssh, and what the shell over there does. ToolError where ssh is missing."""
    ssh = shutil.which("ssh")
    if ssh is None:
        raise ToolError(f"ssh, which runs programs on {host.name}, is missing: apt install {PACKAGE}")
    port = ("-p", host.port) if host.port else ()
    return [ssh, *_OPTIONS, *port, "--", host.name, f"exec sh -c {shlex.quote(script)}"]


def _greet(build: Build, host: Host, peer: Peer) -> str:
    """The host's name and machine, for people; LibraryError where it cannot run the library."""
    line = peer.receive_line(_GREETING, within=_BANNER)  # after what the user's shell says at its start
    machine, _, name = line.decode(errors="replace").strip()[:_NAME].partition(" ")
    if machine not in _RUNS.get(build.architecture, ()):
        advice = f"; build with --target {_TARGETS[machine]}" if machine in _TARGETS else ""
        raise LibraryError(
            f"{build.directory}: built for {build.architecture} ({build.manifest.target.triple}), but {host.name} is "
            f"{machine or 'unknown'}{advice}"
        )
    return f"{host.name} ({name or machine})"


def _archive(build: Build) -> bytes:
    """The program and the library it opens, as a tar."""
    content = io.BytesIO()
    with Scratch() as scratch, tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(link_runner(build, scratch, static=False), PROGRAM)
        archive.add(build.shared_library, build.shared_library.name)
    return content.getvalue()


def _explain(build: Build, host: Host, ending: Ending) -> str:
    """ssh itself ends with 255; a shell with 126 or 127 where it cannot start the program, by mktemp's or tar's status
    where there is no place for it."""
    if ending.status is None:
        return f"ssh to {host.name}: {ending}"
    if ending.status == 255:
        return _lost(host, ending.last_line)
    for words, reason in _NO_ROOM.items():
        if words in ending.errors:
            size = build.shared_library.stat().st_size / 1e6
            place = f"the library ({size:.1f} MB) does not fit in {_TMPDIR}"
            return f"{host.name}: {reason}: {place}: free some, or {_ELSEWHERE}"
    reason = ending.last_line.rpartition(": ")[2]
    if ending.last_line.startswith("mktemp: "):
        return f"{host.name}: {reason}: nothing can be written in {_TMPDIR}: {_ELSEWHERE}"
    if ending.status == 126 and reason == "Permission denied":
        return f"{host.name}: {reason}: no program may run from {_TMPDIR} (mounted noexec?): {_ELSEWHERE}"
    if ending.status in (126, 127):
        others = {"aarch64": "; for a 32-bit system build with --target armv7", "armv7l": "; build with --target arm"}
        return (
            f"{build.directory}: {host.name} cannot start programs for {build.manifest.target.triple} "
            f"({ending.last_line}){others.get(build.architecture, '')}"
        )
    return f"{build.directory} on {host.name}: {ending}"


def _lost(host: Host, last_line: str) -> str:
    """Where ssh itself has failed; it says nothing of a host that falls silent."""
    advice = ""
    if "Permission denied" in last_line or "verification failed" in last_line:
        advice = f"; `ssh {host.name}` must work without a question: try it once, then ssh-copy-id {host.name}"
    elif not last_line or "timed out" in last_line or "No route" in last_line:
        advice = "; is the machine on, and its network up?"
    return f"ssh to {host.name}: {last_line or 'the connection timed out or was lost'}{advice}"
