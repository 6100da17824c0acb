"""``mnv2c bench``: a library's times, beside those of other engines."""

from __future__ import annotations

import argparse

from mnv2c.bench import ROUNDS, bench, format_text, to_json
from mnv2c.commands import UsageError, progress, say, say_json
from mnv2c.engines import OTHERS
from mnv2c.yaml_reader import did_you_mean


def command(options: argparse.Namespace) -> int:
    """``--against`` takes names with commas between them."""
    result = bench(
        options.build,
        against=_names(options.against),
        threads=options.threads,
        rounds=options.rounds or ROUNDS,
        instruction_set=options.instruction_set,
        layers=options.layers,
        report=progress(),
    )
    if options.json:
        say_json(to_json(result))
    else:
        say(format_text(result))
    return 0


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in OTHERS:
            close = did_you_mean(name, OTHERS)
            hint = f"did you mean {close}?" if close else f"there are {', '.join(OTHERS)}"
            raise UsageError(f"--against: unknown engine {name!r}: {hint}")
    return names
