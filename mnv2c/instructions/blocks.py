"""Assembly as LLVM writes it, taken apart into basic blocks, and which registers live on behind each.

What comes in: the body of a function without debug information, and how its instruction set writes things. What goes
out: its ``Block`` values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mnv2c.instructions.operations import Operation

_LABEL = re.compile(r"(\S+):")


@dataclass(frozen=True)
class Dialect:
    """Of an instruction set: how its instructions are read, and what their first words say.

    A ``jump`` ends a block, and so does a ``call``; after what ``passes``, the next block follows too; what ``returns``
    goes nowhere else. A call reads ``arguments`` and leaves nothing in the registers ``clobbered``.
    """

    decode: Callable[[str], Operation]
    comment: re.Pattern[str]
    jump: re.Pattern[str]
    call: re.Pattern[str]
    passes: re.Pattern[str]
    returns: re.Pattern[str]
    arguments: frozenset[str]
    clobbered: frozenset[str]

    def target(self, block: Block) -> str | None:
        """The label that the block jumps to."""
        jumps = block.end and not self.returns.match(block.end) and not self.call.match(block.end)
        return block.end.split()[-1] if jumps else None

    def goes_on(self, block: Block) -> bool:
        """Whether the block may be followed by the next one."""
        return not block.end or bool(self.passes.match(block.end) or self.call.match(block.end))


@dataclass
class Block:
    """Instructions in a row, which no jump enters but at the first, and left after the last alone.

    ``head`` are the lines before: labels and directives. ``end`` is the jump, or the call, behind the instructions,
    where there is one. ``live_in`` and ``live_out`` are the registers whose values are read in the block, or after the
    instructions, before they are written. ``spare`` are registers of others that the block may write too, since they
    are saved around it: a loop that nothing jumps into, and that does not touch them. ``depth`` is how far the stack
    pointer stands below where the function found it, in bytes.
    """

    head: list[str] = field(default_factory=list)
    instructions: list[str] = field(default_factory=list)
    end: str = ""
    live_in: set[str] = field(default_factory=set)
    live_out: set[str] = field(default_factory=set)
    spare: set[str] = field(default_factory=set)
    depth: int | None = None
    before: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        return [match[1] for line in self.head if (match := _LABEL.fullmatch(line))]

    def lines(self) -> Iterator[str]:
        yield from (f"\t{text}" for text in self.before)
        yield from self.head
        yield from (f"\t{text}" for text in (*self.instructions, *([self.end] if self.end else []), *self.behind))


def blocks_of(body: str, dialect: Dialect) -> list[Block]:
    """In their order."""
    blocks = [Block()]
    for raw in body.splitlines():
        line = dialect.comment.sub("", raw).rstrip()
        is_instruction = line.startswith("\t") and not line.startswith("\t.")
        current = blocks[-1]
        if current.end or (_LABEL.fullmatch(line) and current.instructions):
            blocks.append(current := Block())
        text = " ".join(line.split())
        if not is_instruction:
            if line and current.instructions:  # a directive may stand before the label of a block
                blocks.append(current := Block())
            current.head += [line] if line else []
        elif dialect.jump.match(text) or dialect.call.match(text):
            current.end = text
        else:
            current.instructions.append(text)
    return blocks


def is_known(blocks: Sequence[Block], dialect: Dialect) -> bool:
    """Whether all of its instructions are, and its jumps stay within the function."""
    labels = {label for block in blocks for label in block.labels}
    targets = {target for block in blocks if (target := dialect.target(block)) is not None}
    texts = [text for block in blocks for text in block.instructions]
    return all(dialect.decode(text).kind != "unknown" for text in texts) and targets <= labels


def find_live(blocks: Sequence[Block], results: set[str], dialect: Dialect) -> None:
    """Backwards from ``results``, what the function's caller reads, until nothing changes."""
    by_label = {label: block for block in blocks for label in block.labels}
    following = dict(zip(map(id, blocks), blocks[1:], strict=False))
    changed = True
    while changed:
        changed = False
        for block in reversed(blocks):
            live_out = _before_end(block, by_label, following.get(id(block)), results, dialect)
            live_in = _before(block.instructions, live_out, dialect)
            changed |= live_in != block.live_in or live_out != block.live_out
            block.live_in, block.live_out = live_in, live_out


def _before_end(
    block: Block, by_label: dict[str, Block], following: Block | None, results: set[str], dialect: Dialect
) -> set[str]:
    """What is read after the block's instructions."""
    end, target = block.end, dialect.target(block)
    after: set[str] = set(following.live_in) if following and dialect.goes_on(block) else set()
    if end and dialect.call.match(end):
        after = (after - dialect.clobbered) | dialect.arguments
    if end and dialect.returns.match(end):
        after |= results
    if target is not None:
        after |= by_label[target].live_in
    return after | set(dialect.decode(end).reads if end else ())


def _before(instructions: Sequence[str], live_out: set[str], dialect: Dialect) -> set[str]:
    live = set(live_out)
    for text in reversed(instructions):
        operation = dialect.decode(text)
        live -= set(operation.writes)
        live |= {*operation.reads, *operation.accumulates, *operation.pointers}
    return live
