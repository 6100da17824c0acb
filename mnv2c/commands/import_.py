"""``mnv2c import``: a trained model's file as NAME.yaml and NAME.npz, for ``mnv2c build``."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnv2c.commands import OutputError, Report, progress, say, say_json, write_file
from mnv2c.ir.graph import Array
from mnv2c.measure.images import Rgb, find_images, read_rgb
from mnv2c.measure.noise import Noise
from mnv2c.measure.noise import allowed as largest_allowed
from mnv2c.measure.original import Agreement, compare, open_original
from mnv2c.reference.evaluator import Reference
from mnv2c.reference.onnx_export import export_onnx
from mnv2c.spec.frontend import build_graph
from mnv2c.spec.reserved import reserved
from mnv2c.weights.importing import WRITTEN_BY, Imported, describe, import_model


def command(options: argparse.Namespace) -> int:
    """Writes both files or none, never over somebody's own; says what was recognised and what was not."""
    model: Path = options.model
    out: Path = options.out or Path(_name(model.name if model.is_dir() else model.stem))
    table, weights = (out.with_name(f"{out.name}.{suffix}") for suffix in ("yaml", "npz"))
    _check_replaceable(table, weights, model)
    report = progress()
    report(f"read {model}")
    imported = import_model(model, _name(out.name), overrides=options.set, softmax=options.softmax)
    agreement = _check(imported, find_images(options.check), report) if options.check else None
    report(f"write {table} and {weights}")
    write_file(table, imported.yaml().encode())  # first: it says that both are an import's
    write_file(weights, imported.npz())
    if options.json:
        say_json(_to_json(imported, table, weights) | ({"check": agreement.to_json()} if agreement else {}))
    else:
        say(_summary(imported, table, weights, agreement))
    return 0 if agreement is None or agreement.passed else 1


def _check(imported: Imported, paths: Sequence[Path], report: Report) -> Agreement:
    """The network that was imported, as ONNX, against the file in its own engine."""
    spec = imported.spec
    image = spec.input
    original = open_original(imported.path, imported.network, imported.found, mean=image.mean, scale=image.scale)
    model = export_onnx(build_graph(spec, imported.weights))
    reference, noise = Reference(model), Noise(model)
    seen: list[Array] = []

    def ours(pixels: Rgb) -> tuple[str, Array]:
        x = (pixels.astype(np.float32) - np.asarray(image.mean, np.float32)) / np.asarray(image.scale, np.float32)
        seen[:] = [np.repeat(x[None], image.batch, axis=0)]
        ((name, values),) = reference.run(seen[0]).items()
        return name, values[0]

    def allowed(tolerance: float) -> float:
        noise.add(seen[0], reference.run(seen[0]))
        return largest_allowed(tolerance, *noise.largest.values())

    images = ((str(path), read_rgb(path, height=image.height, width=image.width, fit="stretch")) for path in paths)
    with report.counting("compare", images, total=len(paths)) as counted:
        return compare(original, ours, counted, allowed)


def _name(text: str) -> str:
    """A spec's name from a file's, without what a name may not have."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", text, flags=re.ASCII)[:60]
    plain = plain if re.match(r"[A-Za-z]", plain) else f"net_{plain}".rstrip("_")
    return f"{plain[:60]}_net" if reserved(plain) else plain


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


def _summary(imported: Imported, table: Path, weights: Path, agreement: Agreement | None) -> str:
    facts, unknown = describe(imported)
    width = max(map(len, facts)) + 2
    lines = [f"{imported.path}", *(f"  {name:{width}}{text}" for name, text in facts.items())]
    if unknown:
        lines += ["the file does not say:", *(f"  {line}" for line in unknown)]
    lines += [] if agreement is None else [agreement.text()]
    lines += [f"wrote {table} and {weights}", "next:"]
    lines.append(f"  {shlex.join(['mnv2c', 'build', str(table), '--weights', str(weights)])}")
    return "\n".join(lines)


def _to_json(imported: Imported, table: Path, weights: Path) -> dict[str, Any]:
    facts, unknown = describe(imported)
    return {"spec": str(table), "weights": str(weights), "recognised": facts, "unknown": unknown}
