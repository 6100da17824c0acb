"""What to try next: which candidates of a space, after what has been tried.

What comes in: the candidates, the family's rule's choice first and then as its model likes them, and the seconds of
those that were tried. What goes out: the next few, or none where nothing is left. A schedule's first two parameters
are its register tile, which decides most: first the rule's choice, what was good elsewhere, and the model's favourite
of every tile width; then, taking turns, steps away from the best so far and tiles that were not tried yet, in the
model's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import chain, zip_longest
from typing import Any, TypeVar

Schedule = TypeVar("Schedule")

_CENTRES = 2  # the best so far that steps are made from


def propose(
    space: Sequence[Schedule], tried: Mapping[Schedule, float], count: int, *, elsewhere: Sequence[Schedule] = ()
) -> list[Schedule]:
    """At most ``count`` candidates that were not tried; failed ones have a time of infinity.

    ``elsewhere`` are those of the space that were good on other machines.
    """
    best = sorted(tried.keys() & set(space), key=lambda schedule: tried[schedule])[:_CENTRES]
    steps = chain.from_iterable(_steps(space, centre) for centre in best)
    turns = chain.from_iterable(zip_longest(steps, _first_of_each(space, 2)))
    wanted = chain(space[:1], elsewhere, _first_of_each(space, 1, skip=1), turns, space)
    return [schedule for schedule in dict.fromkeys(wanted) if schedule is not None and schedule not in tried][:count]


def _first_of_each(space: Sequence[Schedule], parameters: int, *, skip: int = 0) -> Iterator[Schedule]:
    """The first candidate with each value of so many parameters, after the first ``skip``."""
    seen = set()
    for schedule in space:
        key = _values(schedule)[skip : skip + parameters]
        if key not in seen:
            seen.add(key)
            yield schedule


def _steps(space: Sequence[Schedule], centre: Schedule) -> Iterator[Schedule]:
    """What differs from ``centre`` in one parameter, nearest values first; then in two."""
    values = _values(centre)

    def distance(schedule: Schedule) -> tuple[int, float]:
        pairs = [(a, b) for a, b in zip(_values(schedule), values, strict=True) if a != b]
        return len(pairs), sum(abs(a - b) / max(a, b) for a, b in pairs)

    for schedule in sorted(space, key=distance)[1:]:
        if distance(schedule)[0] <= 2:
            yield schedule


def _values(schedule: Any) -> tuple[int, ...]:
    return tuple(int(getattr(schedule, field.name)) for field in fields(schedule))
