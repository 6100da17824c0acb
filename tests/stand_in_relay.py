"""A program that stands in for the Python of Relay's environment, and answers what a test wants it to."""

from __future__ import annotations

import os
from pathlib import Path

from mnv2c.backends.relay import environment

_PROGRAM = """\
#!/bin/sh
here=${0%/*}
cat "$here/errors" >&2
if [ "$3" = answer ]; then
    cat "$here/reply" >"$5"
else
    cat "$here/answer" >"$4/answer.npz"
    cat "$here/numbers"
    exec >&-
    cat >/dev/null
fi
exit $(cat "$here/status")
"""
"""In the place of the environment's Python: it says what is in the files beside it."""


def answers_of(folder: Path, **files: bytes) -> None:
    """Makes it in a cache of its own, which is ours from now on.

    ``reply`` is what ``program answer`` writes; ``answer`` and ``numbers`` are what ``program serve`` writes, and says
    on stdout; ``errors`` what both say on stderr, ``status`` how they end.
    """
    os.environ["XDG_CACHE_HOME"] = str(folder)
    place = environment.directory()
    (place / "bin").mkdir(parents=True, exist_ok=True)
    (place / "ready").touch()
    for name, content in {"python": _PROGRAM.encode(), "errors": b"", "status": b"0", **files}.items():
        (place / "bin" / name).write_bytes(content)
    (place / "bin" / "python").chmod(0o755)
