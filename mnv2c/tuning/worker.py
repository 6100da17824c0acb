"""Times a library of candidates (``timing.c``): a process of its own, since a candidate may crash or never return.

What comes in, on stdin: a line of JSON per library: its path, the indices of its candidates to time, for which numbers
of threads, and how many rounds. What goes out, on stdout: before each candidate's first run a line with its index, in
the end one with the nanoseconds of its runs, a list for each number of threads. It imports no package, so that it
starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import json
import sys

TURNS = 4  # of each number of threads, since a machine may have no core to give for a while


def main() -> None:
    """One request a line, until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        candidates, threads = request["candidates"], request["threads"]
        time = ctypes.CDLL(request["library"]).mnv2c_time
        time.restype = ctypes.c_int64
        runs: dict[int, list[list[int]]] = {index: [[] for _ in threads] for index in candidates}
        for _ in range(TURNS):
            for column, count in enumerate(threads):
                for index in candidates:
                    _say(index)
                    if time(index, count) < 0:
                        raise MemoryError
                for _ in range(-(-request["rounds"] // TURNS)):
                    for index in candidates:
                        runs[index][column].append(time(index, count))
        _say([runs[index] for index in candidates])


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
