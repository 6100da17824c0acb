"""``mnv2c doctor``: what this machine lacks, and how to get it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from mnv2c.commands import say, say_json
from mnv2c.doctor import examine, format_finding


def command(options: argparse.Namespace) -> int:
    """Exit status 1 where something required is missing."""
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
