"""Where a library runs: on this machine, in qemu, or on another machine over ssh.

What comes in: a build directory and a runner's name, ``qemu``, ``qemu:CPU`` or ``ssh:[USER@]HOST[:PORT]``. What goes
out: a network to run. Every failure is a LibraryError or a ToolError.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mnv2c.deploy.native import Network
from mnv2c.deploy.network import RunnableNetwork, read_build
from mnv2c.deploy.qemu import open_qemu
from mnv2c.deploy.ssh import Host, open_ssh
from mnv2c.errors import LibraryError
from mnv2c.spelling import did_you_mean

FORMS = "qemu, qemu:CPU or ssh:[USER@]HOST[:PORT]"


def open_network(
    directory: Path,
    runner: str | None = None,
    *,
    threads: int = 1,
    instruction_set: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> RunnableNetwork:
    """The library in ``directory``, ready to run: close it, or use it in a ``with``.

    Without a ``runner`` it runs here; ``threads`` and ``instruction_set`` are as in ``deploy.native.load``; ``report``
    is told of what takes long.
    """
    if runner is None:
        return Network(directory, threads=threads, instruction_set=instruction_set)
    kind, _, where = runner.partition(":")
    if kind not in ("qemu", "ssh"):
        close = did_you_mean(kind, ("qemu", "ssh"))
        raise LibraryError(f"unknown runner {runner!r}: {f'did you mean {close}?' if close else f'give {FORMS}'}")
    build = read_build(directory)
    if kind == "qemu":
        return open_qemu(build, where, threads=threads, instruction_set=instruction_set, report=report)
    return open_ssh(build, Host.parse(where), threads=threads, instruction_set=instruction_set, report=report)
