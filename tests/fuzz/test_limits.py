"""The judge itself: what is a fault and what is none."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from fuzz import limits
from fuzz.limits import Verdict, command, judge

from mnv2c.errors import LibraryError, SourceError, SpecError


def verdicts(folder: Path, *feeds: Callable[[], object]) -> list[Verdict]:
    """A case for each."""
    return list(judge(lambda draw, place: feeds[int(place.name)], range(len(feeds)), folder))


def refuse(message: str) -> Callable[[], object]:
    def feed() -> object:
        raise LibraryError(message)

    return feed


def out_of_memory() -> object:
    try:
        return np.ones(1 << 28)
    except MemoryError as error:
        raise LibraryError("it takes more memory than there is") from error


def test_success_and_one_line_are_none(tmp_path: Path) -> None:
    spec = SpecError([SourceError("a.yaml", line, 1, "wrong") for line in range(50)])

    def feed() -> object:
        raise spec

    good = verdicts(tmp_path, dict, refuse("one line"), refuse("faults:\n    a\n    b"), feed)
    assert [verdict.fault for verdict in good] == [""] * 4
    assert [verdict.refused for verdict in good] == [False, True, True, True]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        (lambda: int("x"), "ValueError: invalid literal"),
        (lambda: exec("raise SystemExit(0)"), "SystemExit"),
        (refuse(""), "LibraryError without a word"),
        (refuse("two\nlines"), "more than one line"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "killed by SIGSEGV"),
        (lambda: os._exit(3), "ended with status 3"),
        (lambda: np.ones(1 << 28), "MemoryError"),
        (out_of_memory, "out of memory, told as: it takes more"),
    ],
)
def test_everything_else_is_one(feed: Callable[[], object], words: str, tmp_path: Path) -> None:
    """And the cases before and after it have verdicts of their own."""
    before, verdict, after = verdicts(tmp_path, dict, feed, dict)
    assert words in verdict.fault
    assert (before.seed, before.fault, after.seed, after.fault) == (0, "", 2, "")


def busy(seconds: float) -> Callable[[], object]:
    def feed() -> object:
        begin = time.process_time()
        while time.process_time() - begin < seconds:
            pass
        return None

    return feed


def test_what_takes_long_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.1)
    monkeypatch.setattr(limits, "_KILLED", 2)
    late, endless = verdicts(tmp_path, busy(0.3), busy(60))
    assert late.fault.startswith("it took 0.")
    assert "killed by SIGXCPU" in endless.fault


def test_what_waits_for_ever_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_STUCK", 2)
    (verdict,) = verdicts(tmp_path, lambda: time.sleep(1000))
    assert "killed by SIGKILL" in verdict.fault


def test_a_seed_is_a_case(tmp_path: Path) -> None:
    def case(draw: Random, folder: Path) -> Callable[[], object]:
        return refuse(f"two\n{draw.random()}")

    one, other, again = (verdict.fault for verdict in judge(case, [7, 8, 7], tmp_path))
    assert one == again != other


def test_the_command_line(tmp_path: Path) -> None:
    ok, refused = verdicts(tmp_path, lambda: command("show", "mnv2_1.0"), lambda: command("show", "no\x1b[2J"))
    assert (ok.fault, ok.refused, refused.fault, refused.refused) == ("", False, "", True)
    (shown,) = verdicts(tmp_path, lambda: command("--help"))
    assert shown.fault == ""
