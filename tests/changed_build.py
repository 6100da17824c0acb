"""A built directory with something else in it, signed again: as if a build had written it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnv2c.deploy.manifest import signed


def changed_manifest(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """``content`` of a manifest.json with ``change`` made to its fields."""
    fields = json.loads(content)
    fields.pop("sha256", None)
    change(fields)
    return signed(fields)


def replace_file(library: Path, name: str, content: bytes) -> None:
    """Another content for a file that the manifest lists."""
    (library / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    manifest = library / "manifest.json"
    manifest.write_bytes(changed_manifest(manifest.read_bytes(), lambda fields: fields["files"].update({name: digest})))
