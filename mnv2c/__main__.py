"""The program: ``mnv2c``, and ``python -m mnv2c``."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """``cli.main``; while that is imported, ^C ends the process without a traceback, where it may: a shell's background
    jobs ignore it."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from mnv2c.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
