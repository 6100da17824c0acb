"""What all tests share: fixtures, and golden files, texts that ``pytest --update-golden`` alone rewrites."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from no_skips import pytest_runtest_makereport
from small_library import small_arm_library, small_armv7_library, small_library

__all__ = ["golden", "pytest_runtest_makereport", "small_arm_library", "small_armv7_library", "small_library"]

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and what they start, ignore it

_GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files under tests/golden")
    parser.addoption("--moments", type=int, default=1, help="how often each command is ended by each signal")
    parser.addoption("--cases", type=int, metavar="N", help="tests/fuzz: so many of each kind, in place of CI's share")
    parser.addoption("--only", type=int, metavar="SEED", help="tests/fuzz: the one case of that seed")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden(name, text)`` fails where ``text`` is not what tests/golden/``name`` holds."""

    def check(name: str, text: str) -> None:
        path = _GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{name} is new: run pytest --update-golden and read it"
        assert text == path.read_text(encoding="utf-8"), f"{name} differs: correct it, or run pytest --update-golden"

    return check
