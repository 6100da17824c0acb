"""``python -m mnv2c``."""

from __future__ import annotations

import sys

from mnv2c.cli import main

if __name__ == "__main__":
    sys.exit(main())
