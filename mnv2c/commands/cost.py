"""``mnv2c cost``: what a library costs on a core that is not here."""

from __future__ import annotations

import argparse

from mnv2c.commands import progress, say, say_json
from mnv2c.cost.estimate import cost, format_text, to_json


def command(options: argparse.Namespace) -> int:
    """Layer by layer."""
    result = cost(options.build, core=options.core, instruction_set=options.instruction_set, report=progress())
    if options.json:
        say_json(to_json(result))
    else:
        say(format_text(result))
    return 0
