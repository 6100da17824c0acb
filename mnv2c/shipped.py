"""What comes with mnv2c beside its code: the paper's specs, and tuning records.

In the repository they are folders at its top; a wheel has them inside the package.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


SPECS = _folder("specs")
SCHEDULES = _folder("schedules")


def spec_names() -> list[str]:
    """The names of the shipped specs, such as ``mnv2_1.0``."""
    return sorted(path.stem for path in SPECS.glob("*.yaml"))


def find_spec(path: Path) -> Path:
    """``path``, or where no file is there, the shipped spec that it names: ``mnv2_1.0``."""
    shipped = SPECS / f"{path}.yaml"
    named = path.parent == Path() and (path.is_dir() or not path.exists())
    return shipped if named and shipped.is_file() else path
