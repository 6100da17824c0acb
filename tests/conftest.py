"""Golden files: texts under tests/golden that ``pytest --update-golden`` rewrites; never done unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_library import small_arm_library, small_armv7_library, small_library

__all__ = ["golden", "small_arm_library", "small_armv7_library", "small_library"]

_GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files under tests/golden")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)`` fails where ``text`` is not what tests/golden/``name`` holds."""

    def check(name: str, text: str) -> None:
        path = _GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{name} is new: run pytest --update-golden and read it"
        assert text == path.read_text(encoding="utf-8"), f"{name} differs: mend it, or run pytest --update-golden"

    return check
