"""``mnv2c compare``: tables beside each other, on paper and on this machine."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mnv2c.commands import OutputError, Report, UsageError, progress, say, say_json, write_file
from mnv2c.driver import build
from mnv2c.measure.compare import ROUNDS, Candidate, compare, format_text, need_matplotlib, picture, to_json
from mnv2c.measure.report import summarize
from mnv2c.scratch import Scratch
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.table import Residual, Row, Separable, Spec, load_spec
from mnv2c.targets import native_target
from mnv2c.weights import load_weights

_BLOCKS = {Row: "inverted residual", Separable: "depthwise separable", Residual: "residual"}


def command(options: argparse.Namespace) -> int:
    """Builds each with seeded weights for this machine, in a folder that is removed; then times all of them."""
    if options.picture is not None:
        need_matplotlib()
        if not options.picture.parent.is_dir():
            raise OutputError(f"cannot write {options.picture}: there is no folder {options.picture.parent}")
    specs = [load_spec(path, options.set) for path in options.specs]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two of the tables are named {name}: give each a name of its own")
    report = progress()
    with Scratch() as folder:
        candidates = [_candidate(spec, folder / spec.name, report) for spec in specs]
        threads = options.threads or (1, 2)[: os.cpu_count()]
        result = compare(candidates, threads=threads, rounds=options.rounds or ROUNDS, report=report)
    if options.picture is not None:
        write_file(options.picture, picture(result))
    if options.json:
        say_json(to_json(result))
    else:
        say(format_text(result))
    return 0


def _candidate(spec: Spec, directory: Path, report: Report) -> Candidate:
    report(f"build {spec.name}")
    library = build(spec, target=native_target(), weights_path=None, seed=0, report=lambda line: None)
    library.write(directory)
    weights, _ = load_weights(None, spec, 0)
    kinds = dict.fromkeys(_BLOCKS[type(row)] for row in spec.bottlenecks)
    return Candidate(spec.name, " and ".join(kinds), summarize(build_graph(spec, weights)).totals, directory)
