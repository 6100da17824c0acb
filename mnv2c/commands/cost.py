"""``mnv2c cost``: what a library costs on a core, or takes of a GPU, that is not here."""

from __future__ import annotations

import argparse

from mnv2c.commands import progress, say, say_json
from mnv2c.cost import gpu
from mnv2c.cost.estimate import cost, format_text, to_json
from mnv2c.deploy.network import read_build
from mnv2c.targets import kind_of_target


def command(options: argparse.Namespace) -> int:
    """Layer by layer."""
    if kind_of_target(read_build(options.build).manifest.target.name) == "cuda":
        return _gpu(options)
    result = cost(options.build, core=options.core, instruction_set=options.instruction_set, report=progress())
    if options.json:
        say_json(to_json(result))
    else:
        say(format_text(result))
    return 0


def _gpu(options: argparse.Namespace) -> int:
    result = gpu.gpu_cost(options.build, core=options.core, instruction_set=options.instruction_set)
    if options.json:
        say_json(gpu.to_json(result))
    else:
        say(gpu.format_text(result))
    return 0
