"""What to try next: which candidates of a space, after what has been tried.

What comes in: the candidates, the rule's first, and the seconds of those that were tried. What goes out: the next
few, or none where nothing promising is left. First the rule's choice and the register tiles that the family's model
likes best, then the neighbours of the best so far: what differs from it in one parameter, then in two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TypeVar

How = TypeVar("How")

_SEEDS = 12  # tiles of the model's choice, before the search goes where the times point
_CENTRES = 3  # the best so far whose neighbours are tried


def propose(space: Sequence[How], tried: Mapping[How, float], count: int) -> list[How]:
    """At most ``count`` candidates that were not tried; failed ones have a time of infinity."""
    seeds = _distinct_tiles(space)[:_SEEDS]
    best = sorted((how for how in tried if how in set(space)), key=lambda how: tried[how])[:_CENTRES]
    wanted = list(seeds)
    for differences in (1, 2):
        for centre in best[: _CENTRES if differences == 1 else 1]:
            wanted += [how for how in space if _differences(how, centre) == differences]
    return [how for how in dict.fromkeys(wanted) if how not in tried][:count]


def _distinct_tiles(space: Sequence[How]) -> list[How]:
    """The first of each register tile: the first two parameters, and the vector."""
    seen: dict[tuple[object, ...], How] = {}
    for how in space:
        seen.setdefault(tuple(getattr(how, field.name) for field in fields(how)[:2]), how)  # type: ignore[arg-type]
    return list(seen.values())


def _differences(one: How, other: How) -> int:
    return sum(getattr(one, f.name) != getattr(other, f.name) for f in fields(one))  # type: ignore[arg-type]
