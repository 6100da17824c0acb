"""A library in a child of ``fork``, and one that is closed while a context lives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from programs import call, need

HERE = Path(__file__).parent
FORKED = "18"


def test_a_child_is_told_that_it_has_no_threads(small_library: Path, tmp_path: Path) -> None:
    archive = small_library / "lib" / "libmnv2_0_35.a"
    program = tmp_path / "fork"
    call("cc", f"-I{small_library}/include", HERE / "fork.c", archive, "-pthread", "-lm", "-o", program)
    assert call(program).splitlines() == ["0 0 0 0 0", f"{FORKED} {FORKED} {FORKED} 0 0"]


def test_python_ends_in_a_child(small_library: Path) -> None:
    """Destructors run there too."""
    code = f"""
import os, mnv2c
net = mnv2c.load({str(small_library)!r}, threads=3)
if os.fork() == 0:
    try:
        net.run_rgb(__import__("numpy").zeros((96, 96, 3), "uint8"))
    except mnv2c.errors.LibraryError as error:
        print(error, flush=True)
else:
    print(os.wait()[1], flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert "belong to the process that forked this one" in done.stdout
    assert done.stdout.splitlines()[-1] == "0"


def test_code_that_threads_run_stays_when_the_library_is_closed(small_library: Path) -> None:
    flags = call(need("readelf"), "--dynamic", small_library / "lib" / "libmnv2_0_35.so")
    assert "NODELETE" in flags
