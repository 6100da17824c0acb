"""``mnv2c doctor``: what this machine lacks, and how to get it."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

from mnv2c import cache
from mnv2c.backends.relay import environment
from mnv2c.commands import megabytes, progress, say, say_json
from mnv2c.doctor import examine, format_finding


def command(options: argparse.Namespace) -> int:
    """Exit status 1 where something required is missing, or cannot be installed."""
    if options.install:
        return _install(options)
    if options.clean:
        return _clean(options)
    findings = []
    for finding in examine():
        findings.append(finding)
        if not options.json:
            say(format_finding(finding))
    missing = [finding.name for finding in findings if finding.required and not finding.ok]
    if options.json:
        say_json({"ok": not missing, "findings": [{**asdict(finding), "ok": finding.ok} for finding in findings]})
    else:
        say(f"\nmissing: {', '.join(missing)}" if missing else "\nnothing that is required is missing")
    return 1 if missing else 0


def _clean(options: argparse.Namespace) -> int:
    """What is needed again is made again: zig's libraries in some seconds, Relay by ``--install``."""
    freed = cache.clear()
    if options.json:
        say_json({"directory": str(cache.directory()), "bytes": freed})
    else:
        say(f"{cache.directory()} is empty: {megabytes(freed)} removed")
    return 0


def _install(options: argparse.Namespace) -> int:
    """The environment of the Relay backend."""
    begin = time.monotonic()
    made = environment.install(progress())
    place, seconds = environment.directory(), time.monotonic() - begin
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    if options.json:
        say_json({"directory": str(place), "made": made, "seconds": round(seconds, 3), "bytes": size})
    else:
        how = f"made in {seconds:.0f} s" if made else "works already"
        say(f"Relay (TVM {environment.TVM}) in {place}: {how}, {megabytes(size)}")
    return 0
