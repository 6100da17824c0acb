"""A manifest with other fields, signed again: as if a build had written it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mnv2c.deploy.manifest import signed


def changed_manifest(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """``content`` of a manifest.json with ``change`` made to its fields."""
    fields = json.loads(content)
    fields.pop("sha256", None)
    change(fields)
    return signed(fields)
