"""``mnv2c import``: a trained model's file as NAME.yaml and NAME.npz, for ``mnv2c build``."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

from mnv2c.commands import OutputError, progress, say, say_json, write_file
from mnv2c.weights.importing import WRITTEN_BY, Imported, describe, import_model


def command(options: argparse.Namespace) -> int:
    """Writes both files or none, never over somebody's own; says what was recognised and what was not."""
    out: Path = options.out or Path(_name(options.model))
    table, weights = (out.with_name(f"{out.name}.{suffix}") for suffix in ("yaml", "npz"))
    _check_replaceable(table, weights, options.model)
    report = progress()
    report(f"read {options.model}")
    imported = import_model(options.model, _name(out), overrides=options.set, softmax=options.softmax)
    report(f"write {table} and {weights}")
    write_file(weights, imported.npz())
    write_file(table, imported.yaml().encode())
    if options.json:
        say_json(_to_json(imported, table, weights))
    else:
        say(_summary(imported, table, weights))
    return 0


def _name(path: Path) -> str:
    """A spec's name from a file's, without what a name may not have."""
    stem = path.stem if path.suffix else path.name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", stem, flags=re.ASCII)[:60]
    return plain if re.match(r"[A-Za-z]", plain) else f"net_{plain}".rstrip("_")


def _check_replaceable(table: Path, weights: Path, model: Path) -> None:
    """OutputError where a file would be lost that no import wrote."""
    if weights.exists() and model.exists() and weights.samefile(model):
        raise OutputError(f"{weights}: is the model itself; give the new files another name: -o NAME")
    if table.exists():
        with table.open("rb") as stream:
            is_ours = stream.readline(200).startswith(f"# {WRITTEN_BY}".encode())
    else:
        is_ours = not weights.exists()
    if not is_ours:
        there = table if table.exists() else weights
        raise OutputError(f"{there}: is there already, and no import wrote it; give another name: -o NAME")


def _summary(imported: Imported, table: Path, weights: Path) -> str:
    facts, unknown = describe(imported)
    width = max(map(len, facts)) + 2
    lines = [f"{imported.path}", *(f"  {name:{width}}{text}" for name, text in facts.items())]
    if unknown:
        lines += ["the file does not say:", *(f"  {line}" for line in unknown)]
    lines += [f"wrote {table} and {weights}", "next:"]
    lines.append(f"  {shlex.join(['mnv2c', 'build', str(table), '--weights', str(weights)])}")
    return "\n".join(lines)


def _to_json(imported: Imported, table: Path, weights: Path) -> dict[str, Any]:
    facts, unknown = describe(imported)
    return {"spec": str(table), "weights": str(weights), "recognised": facts, "unknown": unknown}
