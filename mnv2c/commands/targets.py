"""``mnv2c targets``: what a library can be built for."""

from __future__ import annotations

import argparse

from mnv2c.commands import say, say_json
from mnv2c.targets import NATIVE, NATIVE_DESCRIPTION, TARGETS


def command(options: argparse.Namespace) -> int:
    """A line per target; with ``--json`` also the instruction sets (native's depend on the machine)."""
    if options.json:
        listed = [
            {
                "name": target.name,
                "description": target.description,
                "instruction_sets": [isa.name for isa in target.instruction_sets],
            }
            for target in TARGETS
        ]
        say_json([*listed, {"name": NATIVE, "description": NATIVE_DESCRIPTION, "instruction_sets": None}])
        return 0
    for name, description in [*((t.name, t.description) for t in TARGETS), (NATIVE, NATIVE_DESCRIPTION)]:
        say(f"{name:8}  {description}")
    return 0
