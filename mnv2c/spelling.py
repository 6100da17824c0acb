"""What a misspelt word was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The choice that is most like ``word``, or an empty string where none is like it."""
    return next(iter(difflib.get_close_matches(word, list(choices), n=1)), "")
