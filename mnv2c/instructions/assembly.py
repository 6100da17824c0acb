"""AArch64 assembly as LLVM writes it, taken apart into basic blocks, and which registers live on behind each.

What comes in: a text of functions without debug information. What goes out: the text again, its blocks rewritten.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mnv2c.instructions.a64 import decode

Rewrite = Callable[["Block"], Sequence[str]]
"""The instructions that take the place of a block's."""

_FUNCTION = re.compile(r"^\t\.type\t([^,]+),@function\n\1:\s*\n(?P<body>.*?)^\.Lfunc_end\d+:", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"\s*//.*")
_LABEL = re.compile(r"(\S+):")
_CALL = re.compile(r"blr? ")
_JUMP = re.compile(r"(b(\.\w+)?|cbn?z|tbn?z|br|ret)\b")
_PASSES = re.compile(r"b\.|[ct]bn?z ")  # on to what follows, where it does not jump
_SUM = re.compile(r"(sub|add) sp, sp, #(\w+)(?:, lsl #(\d+))?")
_MOVED = re.compile(r"\[sp, #(-\w+)\]!|\[sp\], #(\w+)")
_SLOT = 16
_OURS = (*(f"x{n}" for n in range(19)), *(f"v{n}" for n in (*range(8), *range(16, 32))))
_CALLERS = (*(f"x{n}" for n in range(19, 29)), *(f"v{n}" for n in range(8, 16)))
REGISTERS = frozenset((*_OURS, *_CALLERS))
"""What a block may write. Those that the caller wants back are saved, where LLVM did not."""
_ARGUMENTS = ("sp", *(f"x{n}" for n in range(8)), *(f"v{n}" for n in range(8)))


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


def rewritten(text: str, rewrite: Rewrite) -> str:
    """``text`` with ``rewrite`` applied to every block of its functions; a function stays as it is where an instruction
    is not known, or a jump goes elsewhere."""

    def function(match: re.Match[str]) -> str:
        blocks = _blocks(match["body"])
        if not _is_known(blocks):
            return match[0]
        before = _written(block.instructions for block in blocks)
        _find_live(blocks, {"x0", "sp", "x29", "x30"} | before.intersection(_CALLERS))
        _find_depths(blocks)
        _find_spare(blocks)
        for block in blocks:
            block.instructions = list(rewrite(block))
        _save(blocks, sorted((_written(block.instructions for block in blocks) - before).intersection(_CALLERS)))
        return match[0].replace(match["body"], "".join(f"{line}\n" for block in blocks for line in block.lines()))

    return _FUNCTION.sub(function, text)


def _is_known(blocks: Sequence[Block]) -> bool:
    """Whether all of its instructions are, and its jumps stay within the function."""
    labels = {label for block in blocks for label in block.labels}
    jumps = [block.end for block in blocks if block.end and block.end != "ret" and not _CALL.match(block.end)]
    texts = [text for block in blocks for text in block.instructions]
    return all(decode(text).kind != "unknown" for text in texts) and {jump.split()[-1] for jump in jumps} <= labels


def _written(bodies: Iterable[Sequence[str]]) -> set[str]:
    return {register for body in bodies for text in body for register in decode(text).writes}


def _save(blocks: Sequence[Block], of_caller: Sequence[str]) -> None:
    """On the stack, above what the function has there: ``of_caller`` from its beginning until it returns, and what a
    block writes of others around that block."""
    around = {id(block): sorted(block.spare.intersection(_written([block.instructions]))) for block in blocks}
    slots = len(of_caller) + max(map(len, around.values()), default=0)
    if not slots:
        return
    size = _SLOT * slots
    places = [_slot(register, number) for number, register in enumerate(of_caller)]
    for block in blocks:
        inner = [
            _slot(register, number, block.depth or 0)
            for number, register in enumerate(around[id(block)], start=len(of_caller))
        ]
        block.before += [f"str {place}" for place in inner]
        block.behind += [f"ldr {place}" for place in inner]
        if block.end == "ret":
            block.instructions += [*(f"ldr {place}" for place in places), f"add sp, sp, #{size}"]
    blocks[0].before[:0] = [f"sub sp, sp, #{size}", *(f"str {place}" for place in places)]


def _slot(register: str, number: int, depth: int = 0) -> str:
    return f"{register.replace('v', 'q')}, [sp, #{depth + _SLOT * number}]"


def _blocks(body: str) -> list[Block]:
    blocks = [Block()]
    for raw in body.splitlines():
        line = _COMMENT.sub("", raw).rstrip()
        is_instruction = line.startswith("\t") and not line.startswith("\t.")
        current = blocks[-1]
        if current.end or (_LABEL.fullmatch(line) and current.instructions):
            blocks.append(current := Block())
        text = " ".join(line.split())
        if not is_instruction:
            if line and current.instructions:  # a directive may stand before the label of a block
                blocks.append(current := Block())
            current.head += [line] if line else []
        elif _JUMP.match(text) or _CALL.match(text):
            current.end = text
        else:
            current.instructions.append(text)
    return blocks


def _find_live(blocks: Sequence[Block], behind: set[str]) -> None:
    """Backwards from ``behind``, what its caller reads, until nothing changes."""
    by_label = {label: block for block in blocks for label in block.labels}
    following = dict(zip(map(id, blocks), blocks[1:], strict=False))
    changed = True
    while changed:
        changed = False
        for block in reversed(blocks):
            live_out = _before_end(block.end, by_label, following.get(id(block)), behind)
            live_in = _before(block.instructions, live_out)
            changed |= live_in != block.live_in or live_out != block.live_out
            block.live_in, block.live_out = live_in, live_out


def _find_depths(blocks: Sequence[Block]) -> None:
    """Forwards from the first; where the stack pointer moves by what is not a number, nothing is known."""
    by_label = {label: block for block in blocks for label in block.labels}
    following = dict(zip(map(id, blocks), blocks[1:], strict=False))
    blocks[0].depth = 0
    todo = [blocks[0]]
    while todo:
        block = todo.pop()
        depth = _depth_behind(block)
        targets = [by_label[block.end.split()[-1]]] if _JUMP.match(block.end) and block.end != "ret" else []
        if (not block.end or _PASSES.match(block.end) or _CALL.match(block.end)) and id(block) in following:
            targets.append(following[id(block)])
        for target in targets:
            if target.depth is None and depth is not None:
                target.depth = depth
                todo.append(target)


def _depth_behind(block: Block) -> int | None:
    depth = block.depth
    for text in block.instructions:
        operation = decode(text)
        if depth is None or "sp" not in (*operation.writes, *operation.pointers):
            continue
        total, moved = _SUM.fullmatch(text), _MOVED.search(text)
        if total:
            number = int(total[2], 0) << int(total[3] or "0")
            depth += number if total[1] == "sub" else -number
        else:
            depth = depth - int(moved[1] or moved[2], 0) if moved else None
    return depth


def _find_spare(blocks: Sequence[Block]) -> None:
    jumps = Counter(block.end.split()[-1] for block in blocks if block.end)
    for previous, block in itertools.pairwise(blocks):
        enters = not previous.end or _PASSES.match(previous.end) or _CALL.match(previous.end)
        loops = _PASSES.match(block.end) and block.labels == [block.end.split()[-1]] and jumps[block.labels[0]] == 1
        if enters and loops and block.depth is not None:
            texts = (*block.instructions, block.end)
            touched = {register for text in texts for register in (*decode(text).reads, *decode(text).writes)}
            block.spare = block.live_out & REGISTERS - touched


def _before_end(end: str, by_label: dict[str, Block], following: Block | None, behind: set[str]) -> set[str]:
    after: set[str] = set(following.live_in) if following and (not end or _PASSES.match(end)) else set()
    if _CALL.match(end):
        assert following is not None
        return (following.live_in - {*_OURS, "x30", "flags"}) | set(_ARGUMENTS) | set(decode(end).reads)
    if end == "ret":
        return set(behind)
    if end:
        after |= by_label[end.split()[-1]].live_in
    return after | set(decode(end).reads if end else ())


def _before(instructions: Sequence[str], live_out: set[str]) -> set[str]:
    live = set(live_out)
    for text in reversed(instructions):
        operation = decode(text)
        live -= set(operation.writes)
        live |= {*operation.reads, *operation.accumulates, *operation.pointers}
    return live
