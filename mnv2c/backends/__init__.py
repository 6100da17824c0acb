"""From a Graph to kernel calls: by way of Relax (the default), or of Relay, in an environment of its own.

A backend is a module with ``kernel_calls(graph)``, ``text(graph)``, the graph in its IR as people read it, and
``FILE``, the name under which a build keeps that.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, get_args

Backend = Literal["relax", "relay"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


def backend(name: Backend) -> Any:
    """The module."""
    return import_module(f"mnv2c.backends.{name}")
