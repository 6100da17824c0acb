"""``mnv2c cost``: what a library costs on a core or a board, or takes of a GPU, that is not here."""

from __future__ import annotations

import argparse

from mnv2c.commands import UsageError, progress, say, say_json
from mnv2c.cost import estimate, gpu, memory
from mnv2c.deploy.network import read_build
from mnv2c.targets import kind_of_target


def command(options: argparse.Namespace) -> int:
    """Layer by layer."""
    _check(options)
    if kind_of_target(read_build(options.build).manifest.target.name) == "cuda":
        return _gpu(options)
    return _memory(options) if options.memory else _core(options)


def _check(options: argparse.Namespace) -> None:
    """UsageError where options do not go together."""
    if options.memory and options.core is not None:
        raise UsageError("--memory: a board's cores are what they are: give --board in place of --core")
    if not options.memory and (options.board is not None or options.threads is not None):
        raise UsageError("--board and --threads are for --memory: cycles are those of one thread on a --core")


def _core(options: argparse.Namespace) -> int:
    result = estimate.cost(options.build, core=options.core, instruction_set=options.instruction_set, report=progress())
    if options.json:
        say_json(estimate.to_json(result))
    else:
        say(estimate.format_text(result))
    return 0


def _memory(options: argparse.Namespace) -> int:
    result = memory.memory_cost(
        options.build,
        board=options.board,
        threads=options.threads or 1,
        instruction_set=options.instruction_set,
        report=progress(),
    )
    if options.json:
        say_json(memory.to_json(result))
    else:
        say(memory.format_text(result))
    return 0


def _gpu(options: argparse.Namespace) -> int:
    if options.memory:
        raise UsageError("--memory is for boards: what a GPU's memory moves is in `mnv2c cost BUILD --core NAME`")
    result = gpu.gpu_cost(options.build, core=options.core, instruction_set=options.instruction_set)
    if options.json:
        say_json(gpu.to_json(result))
    else:
        say(gpu.format_text(result))
    return 0
