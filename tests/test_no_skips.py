"""A skip fails a run that allows none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """\
import pytest
from no_skips import WITHOUT_WEIGHTS

@pytest.mark.skipif(True, reason="no such tool")
def test_marked():
    pass

def test_body():
    pytest.skip("no such tool")

@pytest.mark.skipif(True, reason=WITHOUT_WEIGHTS)
def test_weights():
    pass
"""


@pytest.mark.parametrize(
    ("no_skips", "status", "summary"),
    [("1", 1, "1 failed, 1 skipped, 1 error"), ("", 0, "3 skipped")],
    ids=["none", "allowed"],
)
def test_a_skip_is_a_failure_where_none_is_allowed(tmp_path: Path, no_skips: str, status: int, summary: str) -> None:
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    changes = {"MNV2C_NO_SKIPS": no_skips, "PYTHONPATH": str(Path(__file__).parent), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-p", "no_skips", "test_some.py"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | changes, capture_output=True, text=True, check=False)
    assert summary in done.stdout, done.stdout + done.stderr
    assert done.returncode == status
