"""What a misspelt word was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The choice that is most like ``word``, or an empty string where none is like it."""
    return next(iter(difflib.get_close_matches(word, list(choices), n=1)), "")


def shown(text: str) -> str:
    """``text`` for a terminal: what is neither printed nor a new line, such as an escape sequence in somebody's file
    name or label, as its code."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)
