"""The C that ships with every library: its text, and that text under a library's own prefix.

What comes in: C written by hand under the prefix ``mnv2c_``. What goes out: the same under the library's prefix, so
that two libraries can live in one program.
"""

from __future__ import annotations

from importlib import resources


def source(name: str) -> str:
    """The text of a file of this folder, as it is written here."""
    return (resources.files("mnv2c.runtime") / name).read_text(encoding="utf-8")


def under_prefix(text: str, identifier: str) -> str:
    """``mnv2c_run`` -> ``mnv2_1_0_run``, ``MNV2C_OK`` -> ``MNV2_1_0_OK``, ``"mnv2c.h"`` -> ``"mnv2_1_0.h"``."""
    text = text.replace('"mnv2c.h"', f'"{identifier}.h"')
    return text.replace("mnv2c_", f"{identifier}_").replace("MNV2C_", f"{identifier.upper()}_")
