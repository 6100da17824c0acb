"""mnv2c compiles MobileNetV2 layer tables into standalone C libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnv2c.deploy.native import Network, load

__version__ = "0.1.0"
__all__ = ["Network", "__version__", "load"]


def __getattr__(name: str) -> object:
    """``load`` and ``Network`` come when first asked for: the command line must not wait for numpy."""
    if name in ("Network", "load"):
        from mnv2c.deploy import native

        return getattr(native, name)
    raise AttributeError(f"module 'mnv2c' has no attribute {name!r}")
