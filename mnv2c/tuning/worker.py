"""Times a library of candidates (``measure``): a process of its own, since a candidate may crash or never return.

What comes in, on stdin: a line of JSON per library: its path, the indices of its candidates to time, how many rounds.
What goes out, on stdout: before each candidate's first run a line with its index, in the end one with the nanoseconds
of every run of each. It imports no package, so that it starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import json
import sys


def main() -> None:
    """One request a line, until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        time = ctypes.CDLL(request["library"]).mnv2c_time
        time.restype = ctypes.c_int64
        for index in request["candidates"]:
            _say(index)
            if time(index) < 0:
                raise MemoryError
        rounds = [[time(index) for index in request["candidates"]] for _ in range(request["rounds"])]
        _say([list(runs) for runs in zip(*rounds, strict=True)])


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
