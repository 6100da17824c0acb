"""``mnv2c build``: from a layer table to a directory with a library in it."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mnv2c.codegen.library import MANIFEST, Library, check_replaceable
from mnv2c.commands import megabytes, progress, say, say_json
from mnv2c.driver import build
from mnv2c.errors import RecordError
from mnv2c.shipped import SCHEDULES
from mnv2c.spec.table import load_spec
from mnv2c.targets import target_named


def command(options: argparse.Namespace) -> int:
    """Builds, writes, and says what came out."""
    begin = time.monotonic()
    target = target_named(options.target)
    spec = load_spec(options.spec, options.set)
    directory = options.out or Path("build") / f"{spec.name}-{target.name}"
    check_replaceable(directory)
    report = progress()
    library = build(
        spec,
        target=target,
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
        say(_summary(library, directory, seconds))
    return 0


def _schedules(options: argparse.Namespace) -> Path | None:
    """Where the records are; None for a build by rule, which happens only where it was asked for."""
    if options.untuned:
        return None
    directory: Path = options.schedules or SCHEDULES
    if options.schedules is None and not any(directory.glob("*/*.json")):
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


def _summary(library: Library, directory: Path, seconds: float) -> str:
    manifest = json.loads(library.files[MANIFEST])
    name = manifest["interface"]["identifier"]
    shared, static = (len(library.files[f"lib/lib{name}.{suffix}"]) for suffix in ("so", "a"))
    here = manifest["target"]["triple"].startswith(platform.machine())
    runner = "" if here else " --runner qemu"
    compiler = "cc" if here else f"python -m ziglang cc -target {manifest['target']['link']}"
    return "\n".join(
        [
            f"{manifest['name']} for {manifest['target']['name']} in {directory} ({seconds:.1f} s)",
            f"  weights   {_weights(manifest['weights'])}, {megabytes(manifest['weights_bytes'])} packed",
            f"  library   lib/lib{name}.so {megabytes(shared)}, lib/lib{name}.a {megabytes(static)}, "
            f"arena {megabytes(manifest['arena_bytes'])}",
            f"  kernels   {_kernels(manifest['kernels'])}",
            f"  digest    {library.digest}",
            "next:",
            f"  mnv2c validate {directory}{runner}",
            f"  mnv2c run {directory} IMAGE.jpg{runner}",
            f"  {compiler} {directory}/examples/main.c "
            f"$(pkg-config --cflags --libs {directory}/lib/pkgconfig/{name}.pc) -lm",
        ]
    )


def _weights(origin: dict[str, Any]) -> str:
    if origin["sha256"] is None:
        return f"{origin['origin']} (not trained: give --weights FILE.npz)"
    return f"{origin['origin']}, sha256 {origin['sha256'][:12]}..."


def _kernels(sets: dict[str, dict[str, dict[str, str]]]) -> str:
    """``v4: 30 exact, 4 transferred, 2 by rule; v3: 36 by rule``."""
    parts = []
    for isa, kernels in sets.items():
        origins = Counter(kernel["origin"] for kernel in kernels.values())
        words = {"exact": "exact", "transferred": "transferred", "rule": "by rule"}
        counts = [f"{origins[origin]} {word}" for origin, word in words.items() if origins[origin]]
        parts.append(f"{isa}: {', '.join(counts)}")
    return "; ".join(parts)


def _require_tuned(library: Library) -> None:
    """RecordError where a kernel has no record of its own."""
    manifest = json.loads(library.files[MANIFEST])
    lacking = [
        f"{isa}: {name}"
        for isa, kernels in manifest["kernels"].items()
        for name, kernel in kernels.items()
        if kernel["origin"] != "exact"
    ]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        target = manifest["target"]["name"]
        raise RecordError(
            f"--require-tuned: {len(lacking)} kernels have no record of their own ({', '.join(lacking[:3])}{more}); "
            f"`mnv2c tune SPEC --target {target}` makes them"
        )
