"""Reads YAML so that every mistake is reported at once, each with its file, line, column and a hint.

What comes in: the text of a file, and overrides (``--set KEY=VALUE``) that stand in for some of its values. What goes
out: checked numbers and words, and ``errors``. Nothing here knows what the keys mean. A reader that finds a mistake
notes it and returns a harmless value, so that the caller goes on to the next; a missing value (``None``) is noted once,
where ``fields`` misses it. YAML nodes are never expanded, so that anchors and aliases, even recursive ones, cost no
more than their text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mnv2c.errors import SourceError
from mnv2c.spelling import did_you_mean

OVERRIDES = "--set"
"""The file name that errors of overrides carry; their line is the number of the override."""

MOST_ERRORS = 50
"""Of one file: with the last of them reading ends."""

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_LONGEST_LINE_SHOWN = 200


class TooMany(Exception):
    """``MOST_ERRORS`` are noted, and there is another."""


class Reader:
    """The nodes of one file. ``path`` is where a node stands, e.g. ``bottlenecks[2].c``; the root's is empty."""

    def __init__(self, file: str, text: str, overrides: Sequence[str]) -> None:
        self.errors: list[SourceError] = []
        self._file = file
        self._lines = {file: text.splitlines(), OVERRIDES: overrides}
        self._overrides: dict[str, Node] = {}
        self.root = self._compose(file, text)

    def override(self, path: str, index: int, column: int) -> None:
        """Lets the text of override ``index`` from ``column`` on stand in for the value at ``path``."""
        value = self._lines[OVERRIDES][index][column:]
        before = len(self.errors)
        node = self._compose(OVERRIDES, value, line=index, column=column)
        if node is not None:
            self._overrides[path] = node
        elif len(self.errors) == before:
            self.report(OVERRIDES, index + 1, column + 1, f"`{path}` is given no value", "write KEY=VALUE")

    def report(self, file: str, line: int, column: int, message: str, hint: str = "") -> None:
        """Notes a mistake at a 1-based place; the same mistake, seen again through an alias, once. ``TooMany``."""
        lines = self._lines[file]
        text = lines[line - 1] if line <= len(lines) else ""
        text = "".join(char if char.isprintable() else " " for char in text)
        text = text if len(text) <= _LONGEST_LINE_SHOWN else ""
        error = SourceError(file, line, column, message, text, hint)
        if error in self.errors:
            return
        if len(self.errors) == MOST_ERRORS:
            raise TooMany
        self.errors.append(error)

    def error(self, node: Node, message: str, hint: str = "") -> None:
        """Notes a mistake where ``node`` begins."""
        file, line = self.place(node)
        self.report(file, line, node.start_mark.column + 1, message, hint)

    def place(self, node: Node | None) -> tuple[str, int]:
        """The file and the 1-based line where ``node`` begins."""
        return (str(node.start_mark.name), node.start_mark.line + 1) if node else (self._file, 1)

    def fields(
        self,
        node: Node | None,
        path: str,
        *,
        required: Sequence[str],
        optional: Sequence[str] = (),
        one_of: Sequence[str] = (),
    ) -> dict[str, Node]:
        """The values of a mapping by key, overrides in place; notes unknown, missing and repeated keys, and where not
        exactly one of the keys ``one_of`` is there."""
        if not isinstance(node, MappingNode):
            self._must_be(node, path, "a mapping", hint=f"its keys: {', '.join(required)}")
            return {}
        keys = (*required, *optional, *one_of)
        found: dict[str, Node] = {}
        meant: set[str] = set()
        for key, value in node.value:
            word = key.value if isinstance(key, ScalarNode) else ""
            if word in found:
                self.error(key, f"`{word}` is given twice", "keep one of them")
            elif word in keys:
                found[word] = value
            else:
                guess = did_you_mean(word, keys)
                meant.add(guess)
                hint = f"did you mean `{guess}`?" if guess else f"known here: {', '.join(keys)}"
                self.error(key, f"unknown key `{word}`" if word else "a key must be a word", hint)
        found |= {key: self._overrides[_join(path, key)] for key in keys if _join(path, key) in self._overrides}
        for key in required:
            if key not in found and key not in meant:
                self.error(node, f"{_quote(path)} lacks `{key}`", f"add `{key}: ...`")
        alternatives = [key for key in one_of if key in found]
        if one_of and not alternatives and meant.isdisjoint(one_of):
            self.error(node, f"{_quote(path)} lacks `{one_of[0]}`", f"add `{one_of[0]}: ...`")
        if len(alternatives) > 1:
            first, second = alternatives[:2]
            self.error(found[first], f"`{first}` and `{second}` are two ways to say one thing", "keep one of them")
        return found

    def items(self, node: Node | None, path: str, *, most: int, least: int = 1) -> list[Node]:
        """The items of a list that is neither shorter than ``least`` nor longer than ``most``, overrides in place."""
        if not isinstance(node, SequenceNode):
            self._must_be(node, path, "a list", hint="begin each item with `- `")
            return []
        count = len(node.value)
        if not least <= count <= most:
            self.error(node, f"{_quote(path)} must have {least} to {most} items, not {count}")
            return []
        for target, value in self._overrides.items():
            index = re.match(re.escape(path) + r"\[([0-9]+)\]", target)
            if index and int(index[1]) >= count:
                self.error(value, f"`{target}` does not exist", f"{_quote(path)} counts from 0 to {count - 1}")
        return [self._overrides.get(f"{path}[{i}]", item) for i, item in enumerate(node.value)]

    def integer(self, node: Node | None, path: str, *, least: int, most: int, hint: str = "") -> int:
        """A decimal integer in a range: neither ``true``, nor ``1.0``, nor ``"1"``. ``hint`` explains the range."""
        if not isinstance(node, ScalarNode) or _tag(node) != "int" or not _INTEGER.fullmatch(node.value):
            self._must_be(node, path, "an integer")
            return least
        value = int(node.value)
        if least <= value <= most:
            return value
        self._must_be(node, path, f"from {least} to {most}", hint=hint)
        return least

    def number(self, node: Node | None, path: str, *, least: float, most: float) -> float:
        """A finite number in a range. ``1e-3`` counts too, though YAML 1.1 takes it for a word."""
        plain = isinstance(node, ScalarNode) and not node.style and _NUMBER.fullmatch(node.value)
        if node is None or not plain or _tag(node) not in ("int", "float", "str"):
            self._must_be(node, path, "a finite number")
            return least
        value = float(node.value)
        if least <= value <= most:
            return value
        self._must_be(node, path, f"from {least:g} to {most:g}")
        return least

    def word(self, node: Node | None, path: str, *, pattern: str, meaning: str) -> str:
        """Text that matches ``pattern`` whole; ``meaning`` says in words what does."""
        if node is not None and _tag(node) != "str":
            self._must_be(node, path, "a word", hint="put it in quotes if you mean the text")
        elif node is not None and re.fullmatch(pattern, node.value):
            return str(node.value)
        else:
            self._must_be(node, path, meaning)
        return ""

    def choice(self, node: Node | None, path: str, choices: Sequence[str]) -> str:
        """One of a few words."""
        word = node.value if isinstance(node, ScalarNode) else ""
        if word in choices:
            return str(word)
        guess = did_you_mean(word, choices)
        self._must_be(node, path, " or ".join(choices), hint=f"did you mean `{guess}`?" if guess else "")
        return choices[0]

    def _must_be(self, node: Node | None, path: str, wanted: str, *, hint: str = "") -> None:
        """Notes what should stand there; where there is no node, ``fields`` has noted that it is missing."""
        if node is not None:
            self.error(node, f"{_quote(path)} must be {wanted}, not {_kind(node)}", hint)

    def _compose(self, file: str, text: str, *, line: int = 0, column: int = 0) -> Node | None:
        """The root node; None where the text is empty, or no YAML, which is then noted. The text begins in that line
        and column of the file, both from 0."""
        try:
            loader = yaml.SafeLoader(text)
            loader.name, loader.line, loader.column = file, line, column
            return loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            assert mark is not None, "PyYAML marks one of the two"
            self.report(file, mark.line + 1, mark.column + 1, f"not valid YAML: {error.problem or error.context}")
        except yaml.reader.ReaderError as error:
            down, right = place_of(text, error.position)
            message = f"not valid YAML: the character U+{error.character:04X} is not allowed"
            self.report(file, line + down, column + right, message)
        except RecursionError:
            self.report(file, line + 1, column + 1, "nested too deeply")
        except (ValueError, OverflowError, IndexError) as error:  # PyYAML checks no code points, versions and numbers
            message = f"not valid YAML: {' '.join(str(error).split()) or type(error).__name__}"
            self.report(file, line + 1, column + 1, message)
        return None


def place_of(text: str, position: int) -> tuple[int, int]:
    """The 1-based line and column of a position in ``text``."""
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _quote(path: str) -> str:
    return f"`{path}`" if path else "the spec"


def _tag(node: Node) -> str:
    """``int``, ``float``, ``bool``, ``null``, ``str`` ... for a scalar as YAML resolves it; else an empty string."""
    return str(node.tag).removeprefix("tag:yaml.org,2002:") if isinstance(node, ScalarNode) else ""


def _kind(node: Node) -> str:
    """What stands there, in words."""
    if isinstance(node, ScalarNode):
        shown = node.value if len(node.value) <= 40 else node.value[:40] + "..."
        return f"the text {shown!r}" if node.style or _tag(node) == "str" else shown or "nothing"
    return "a list" if isinstance(node, SequenceNode) else "a mapping"
