"""``mnv2c bench``: a library's times, beside those of other engines."""

from __future__ import annotations

import argparse
from collections.abc import Collection

from mnv2c.commands import UsageError, progress, say, say_json
from mnv2c.cost.estimate import count_instructions
from mnv2c.measure.bench import ROUNDS, bench, format_text, to_json
from mnv2c.measure.engines import MINUTES, RELAY_TUNED, others
from mnv2c.spelling import did_you_mean


def command(options: argparse.Namespace) -> int:
    """``--against`` takes names with commas between them."""
    if options.count:
        return _count(options)
    _check_runner(options)
    against = _names(options.against, others(options.build)) if options.against else []
    if options.minutes is not None and RELAY_TUNED not in against:
        raise UsageError(f"--minutes is how long {RELAY_TUNED} is tuned: it goes with --against {RELAY_TUNED}")
    result = bench(
        options.build,
        runner=options.runner,
        against=against,
        threads=options.threads,
        rounds=options.rounds or ROUNDS,
        instruction_set=options.instruction_set,
        layers=options.layers,
        minutes=options.minutes or MINUTES,
        report=progress(),
    )
    if options.json:
        say_json(to_json(result))
    else:
        say(format_text(result))
    return 0


def _count(options: argparse.Namespace) -> int:
    """Instructions in place of times: the same on every machine."""
    if (
        options.runner != "qemu"
        or options.against
        or options.layers
        or options.rounds
        or options.minutes
        or options.threads > 1
    ):
        raise UsageError(
            "--count takes --runner qemu and no other option but --instruction-set; see `mnv2c cost` for the layers"
        )
    instructions = count_instructions(options.build, instruction_set=options.instruction_set, report=progress())
    if options.json:
        say_json({"directory": str(options.build), "instructions": instructions})
    else:
        say(f"{options.build}: {instructions:,} instructions for one inference")
    return 0


def _check_runner(options: argparse.Namespace) -> None:
    """What can be timed elsewhere is the library alone, on a real machine."""
    if options.runner is None:
        return
    if options.runner.partition(":")[0] == "qemu":
        raise UsageError(
            "--runner qemu: times in an emulator say nothing about a board: see `mnv2c cost BUILD`, or "
            "`mnv2c bench BUILD --count --runner qemu`"
        )
    for option in ("against", "layers"):
        if getattr(options, option):
            raise UsageError(f"--{option} measures this machine; leave it out with --runner {options.runner}")


def _names(text: str, known: Collection[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            close = did_you_mean(name, known)
            hint = f"did you mean {close}?" if close else f"there are {', '.join(known)}"
            raise UsageError(f"--against: unknown engine {name!r}: {hint}")
    return names
