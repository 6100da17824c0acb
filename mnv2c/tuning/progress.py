"""What a person sees of a tuning run: a table on a terminal, a line per batch elsewhere, and a log to read later.

What comes in: the tasks, and every batch when it has been kept. What goes out: text on stderr, ``tuning.log`` beside
the records, and a summary.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mnv2c.errors import RecordError
from mnv2c.tuning.records import in_unit
from mnv2c.tuning.runners import Conditions, Trial
from mnv2c.tuning.tune import Task

LOG = "tuning.log"


class Progress:
    """Use it in a ``with``: it gives the terminal back."""

    def __init__(self, tasks: Sequence[Task], conditions: Conditions, directory: Path, seconds: float | None) -> None:
        self._tasks, self._conditions, self._seconds = tasks, conditions, seconds
        self._known = sum(len(task.tried) for task in tasks)
        self._begin = time.monotonic()
        self._log = directory / LOG
        console = Console(stderr=True)
        self._live = (
            Live(console=console, auto_refresh=False, vertical_overflow="crop") if console.is_terminal else None
        )
        self._write(
            f"{time.strftime('%Y-%m-%d %H:%M:%S')} {conditions.origin}, {conditions.isa.mcpu}: {len(tasks)} kernels, "
            f"{self._known} trials known"
        )

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
            self._live.update(self._table(None), refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        how = "end" if kind is None else "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        self._write(f"{how} after {time.monotonic() - self._begin:.0f} s, {self.new_trials} new trials")

    def batch(self, task: Task, trials: Sequence[Trial]) -> None:
        """Every trial goes to the log; the terminal shows the state."""
        for trial in trials:
            times = ", ".join(
                f"{_time(seconds, task.conditions)} ({threads})" for threads, seconds in trial.seconds.items()
            )
            result = trial.failure or f"{times} by threads"
            self._write(f"{task.workload.name}  {trial.schedule}  {result}")
        if self._live is not None:
            self._live.update(self._table(task), refresh=True)
        else:
            best = f"best {_time(task.best, task.conditions)}" if task.best else "nothing worked yet"
            gain = f", {task.default / task.best:.2f}x the rule" if task.best and task.default else ""
            print(
                f"[{time.monotonic() - self._begin:5.1f} s] {task.workload.name}: {len(task.tried)} trials, "
                f"{best}{gain}{self._left()}",
                file=sys.stderr,
                flush=True,
            )

    def summary(self) -> str:
        """A line per kernel."""
        lines = [
            f"{self._conditions.isa.mcpu}, {self._conditions.origin}: {self.new_trials} new trials in "
            f"{time.monotonic() - self._begin:.0f} s",
            "",
            f"{'kernel':56} {'layers':>6} {'rule':>15} {'best':>15} {'gain':>6} {'of peak':>7} {'trials':>6}",
        ]
        for task in self._tasks:
            lines.append(f"{task.workload.name:56} {' '.join(_row(task))}")
        return "\n".join(lines)

    @property
    def new_trials(self) -> int:
        """Those of this run, all kept."""
        return sum(len(task.tried) for task in self._tasks) - self._known

    def _table(self, current: Task | None) -> Table:
        table = Table(
            title=f"{self._conditions.isa.mcpu}: {self.new_trials} new trials{self._left()}", box=None, padding=(0, 1)
        )
        for name in ("kernel", "layers", "rule", "best", "gain", "of peak", "trials"):
            table.add_column(name, justify="left" if name == "kernel" else "right", no_wrap=True)
        for task in sorted(self._tasks, key=lambda task: task is not current):
            table.add_row(
                task.workload.name, *(cell.strip() for cell in _row(task)), style="bold" if task is current else ""
            )
        return table

    def _left(self) -> str:
        if self._seconds is None:
            return ""
        return f", {max(self._seconds - (time.monotonic() - self._begin), 0):.0f} s left"

    def _write(self, line: str) -> None:
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise RecordError(f"{self._log}: cannot be written: {error.strerror}") from error


def to_json(tasks: Sequence[Task], conditions: Conditions) -> dict[str, Any]:
    """What ``tune --json`` prints for an instruction set."""
    return {
        "core": conditions.isa.mcpu,
        "origin": str(conditions.origin),
        "kernels": [
            {
                "kernel": task.workload.name,
                "layers": list(task.layers),
                "rule_seconds": task.default,
                "best_seconds": task.best,
                "best": str(task.best_schedule),
                "peak_share": task.floor / task.best if task.best else None,
                "trials": len(task.tried),
            }
            for task in tasks
        ],
    }


def _row(task: Task) -> list[str]:
    gain = f"{task.default / task.best:6.2f}" if task.best and task.default else "     -"
    share = f"{task.floor / task.best:7.1%}" if task.best and task.floor else "      -"
    return [
        f"{len(task.layers):6}",
        f"{_time(task.default, task.conditions):>15}",
        f"{_time(task.best, task.conditions):>15}",
        gain,
        share,
        f"{len(task.tried):6}",
    ]


def _time(seconds: float | None, conditions: Conditions) -> str:
    if seconds is None or seconds == float("inf"):
        return "-"
    value, unit = in_unit(seconds, conditions.origin.kind)
    return f"{value:.1f} {unit}"
