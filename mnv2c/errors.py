"""What a user is told: every failure but a bug is one of these, and ends in a clear line and a non-zero status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class Mnv2cError(Exception):
    """A failure the user can do something about. ``str(error)`` is the whole message, without a traceback."""


@dataclass(frozen=True)
class SourceError:
    """One mistake in a text file: where (1-based line and column), what, the line itself and how to correct it."""

    file: str
    line: int
    column: int
    message: str
    text: str = ""
    hint: str = ""

    def __str__(self) -> str:
        lines = [f"{self.file}:{self.line}:{self.column}: error: {self.message}"]
        if self.text:
            lines += [f"    {self.text}", "    " + " " * (self.column - 1) + "^"]
        if self.hint:
            lines.append(f"    hint: {self.hint}")
        return "\n".join(lines)


class SpecError(Mnv2cError):
    """Every mistake of one spec at once; with ``more`` there are others, which are not listed."""

    def __init__(self, errors: Sequence[SourceError], *, more: bool = False) -> None:
        self.errors = tuple(errors)
        rest = [f"and more: these are the first {len(self.errors)}"] if more else []
        super().__init__("\n".join([*(str(error) for error in self.errors), *rest]))


class WeightsError(Mnv2cError):
    """Weights that do not fit the graph: one message that lists every tensor at fault."""


class GraphError(Mnv2cError):
    """A graph that breaks an invariant of the IR (see ``verifier``)."""


class TargetError(Mnv2cError):
    """An unknown target, or one this machine cannot serve."""


class ToolError(Mnv2cError):
    """A tool that is missing or that failed: zig, a compiler, a package; says how to get it."""


class LibraryError(Mnv2cError):
    """A built library that cannot be written, found, loaded or run."""


class RecordError(Mnv2cError):
    """Tuning records that cannot be read or written, or that are missing where they are required."""
