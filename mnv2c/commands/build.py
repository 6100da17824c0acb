"""``mnv2c build``: from a layer table to a directory with a library in it."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2c.codegen.library import Library, check_replaceable
from mnv2c.commands import megabytes, progress, say, say_json
from mnv2c.deploy.manifest import MANIFEST, Kernel, Layer, WeightsSource
from mnv2c.driver import build
from mnv2c.errors import RecordError
from mnv2c.shipped import SCHEDULES
from mnv2c.spec.table import load_spec
from mnv2c.targets import Target, target_named
from mnv2c.toolchain import find_toolchain


def command(options: argparse.Namespace) -> int:
    """Refuses a directory that holds other files before it compiles; prints what was built and what to do next."""
    begin = time.monotonic()
    target = target_named(options.target)
    spec = load_spec(options.spec, options.set)
    directory = options.out or Path("build") / _name(spec.name, options)
    check_replaceable(directory)
    report = progress()
    library = build(
        spec,
        target=target,
        precision=options.precision,
        backend=options.backend,
        bands=options.bands,
        weights_path=options.weights,
        seed=options.seed,
        schedules=_schedules(options),
        report=report,
    )
    if options.require_tuned:
        _require_tuned(library)
    report(f"write {directory}")
    library.write(directory)
    seconds = time.monotonic() - begin
    report("done")
    if options.json:
        say_json(_to_json(library, directory, seconds))
    else:
        say(_summary(library, directory, target, seconds))
    return 0


def _name(spec: str, options: argparse.Namespace) -> str:
    precision = () if options.precision == "fp32" else (options.precision,)
    return "-".join((spec, options.target, *precision))


def _schedules(options: argparse.Namespace) -> Path | None:
    """Where the records are; None for a build by rule, which happens only where it was asked for."""
    if options.untuned:
        return None
    directory: Path = options.schedules or SCHEDULES
    if options.schedules is None and not any(directory.glob("*/*.jsonl")):
        raise RecordError(
            f"{directory}: the tuning records that come with mnv2c are missing; install mnv2c again, or build "
            "without them, which makes slower kernels: --untuned"
        )
    if not directory.is_dir():
        raise RecordError(f"{directory}: no such directory; `mnv2c tune --schedules DIR` makes one")
    return directory


def _to_json(library: Library, directory: Path, seconds: float) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "digest": library.digest,
        "seconds": round(seconds, 3),
        "files": {path: len(content) for path, content in library.files.items()},
        "manifest": json.loads(library.files[MANIFEST]),
    }


def _summary(library: Library, directory: Path, target: Target, seconds: float) -> str:
    manifest = library.manifest
    name = manifest.interface.identifier
    shared, static = (len(library.files[f"lib/lib{name}.{suffix}"]) for suffix in ("so", "a"))
    return "\n".join(
        [
            f"{manifest.name} for {target.name}, {manifest.precision}, in {directory} ({seconds:.1f} s)",
            f"  weights   {_weights(manifest.weights)}, {megabytes(manifest.weights_bytes)} packed",
            f"  library   lib/lib{name}.so {megabytes(shared)}, lib/lib{name}.a {megabytes(static)}, "
            f"arena {megabytes(manifest.arena_bytes)}",
            *_bands(manifest.layers),
            f"  kernels   {_kernels(manifest.kernels)}",
            f"  digest    {library.digest}",
            "next:",
            *(f"  {line}" for line in _next(directory, target, name, classifies="examples/main.c" in library.files)),
        ]
    )


def _next(directory: Path, target: Target, name: str, *, classifies: bool) -> list[str]:
    """Commands for a shell: to validate and run the library here, and to make a program with the network in it."""
    here = target.architecture == platform.machine()
    runner = () if here else ("--runner", "qemu")
    compiler = ("cc",) if here else find_toolchain(target).command
    further = ("-ldl",) if target.kind == "cuda" else ()
    inputs = (f"-I{directory}/include", f"{directory}/examples/main.c", f"{directory}/lib/lib{name}.a")
    validate = ("mnv2c", "validate", str(directory), *runner)
    if not classifies:
        return [shlex.join(validate)]
    commands = (
        validate,
        ("mnv2c", "run", str(directory), "IMAGE.jpg", *runner),
        (*compiler, "-O2", *inputs, "-pthread", "-lm", *further, "-o", "classify"),
    )
    return [shlex.join(command) for command in commands]


def _weights(source: WeightsSource) -> str:
    if source.sha256 is None:
        return f"{source.origin} (not trained: give --weights FILE.npz)"
    return f"{source.origin}, sha256 {source.sha256[:12]}..."


def _bands(layers: Sequence[Layer]) -> list[str]:
    """One line, where some run in bands."""
    banded = [layer for layer in layers if layer.band]
    if not banded:
        return []
    return [
        f"  bands     {banded[0].name} to {banded[-1].name}: {len(banded)} layers, their blocks never whole in memory"
    ]


def _kernels(sets: Mapping[str, Mapping[str, Kernel]]) -> str:
    """``v4: 30 exact, 4 transferred, 2 by rule; v3: 36 by rule``."""
    parts = []
    for isa, kernels in sets.items():
        origins = Counter(kernel.origin for kernel in kernels.values())
        counts = [f"{origins['exact']} exact", f"{origins['transferred']} transferred", f"{origins['rule']} by rule"]
        parts.append(f"{isa}: {', '.join(count for count in counts if not count.startswith('0 '))}")
    return "; ".join(parts)


def _require_tuned(library: Library) -> None:
    """RecordError where a kernel's schedule is not from a record of its very workload."""
    lacking = [
        f"{isa}: {name}"
        for isa, kernels in library.manifest.kernels.items()
        for name, kernel in kernels.items()
        if kernel.origin != "exact"
    ]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        target = library.manifest.target.name
        raise RecordError(
            f"--require-tuned: {len(lacking)} kernels have no record of their own ({', '.join(lacking[:3])}{more}); "
            f"`mnv2c tune SPEC --target {target}` makes them"
        )
