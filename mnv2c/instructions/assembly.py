"""AArch64 assembly as LLVM writes it: its blocks rewritten, and what they then write of others' registers saved.

What comes in: a text of functions without debug information. What goes out: the text again, its blocks rewritten.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from mnv2c.instructions.a64 import decode
from mnv2c.instructions.blocks import Block, Dialect, blocks_of, find_live, is_known

Rewrite = Callable[[Block], Sequence[str]]
"""The instructions that take the place of a block's."""

_FUNCTION = re.compile(r"^\t\.type\t([^,]+),@function\n\1:\s*\n(?P<body>.*?)^\.Lfunc_end\d+:", re.MULTILINE | re.DOTALL)
_SUM = re.compile(r"(sub|add) sp, sp, #(\w+)(?:, lsl #(\d+))?")
_MOVED = re.compile(r"\[sp, #(-\w+)\]!|\[sp\], #(\w+)")
_SLOT = 16
_OURS = (*(f"x{n}" for n in range(19)), *(f"v{n}" for n in (*range(8), *range(16, 32))))
_CALLERS = (*(f"x{n}" for n in range(19, 29)), *(f"v{n}" for n in range(8, 16)))
REGISTERS = frozenset((*_OURS, *_CALLERS))
"""What a block may write. Those that the caller wants back are saved, where LLVM did not."""
_DIALECT = Dialect(
    decode,
    comment=re.compile(r"\s*//.*"),
    jump=re.compile(r"(b(\.\w+)?|cbn?z|tbn?z|br|ret)\b"),
    call=re.compile(r"blr? "),
    passes=re.compile(r"b\.|[ct]bn?z "),
    returns=re.compile(r"ret$"),
    arguments=frozenset(("sp", *(f"x{n}" for n in range(8)), *(f"v{n}" for n in range(8)))),
    clobbered=frozenset((*_OURS, "x30", "flags")),
)


def rewritten(text: str, rewrite: Rewrite) -> str:
    """``text`` with ``rewrite`` applied to every block of its functions; a function stays as it is where an instruction
    is not known, or a jump goes elsewhere."""

    def function(match: re.Match[str]) -> str:
        blocks = blocks_of(match["body"], _DIALECT)
        if not is_known(blocks, _DIALECT):
            return match[0]
        before = _written(block.instructions for block in blocks)
        find_live(blocks, {"x0", "sp", "x29", "x30"} | before.intersection(_CALLERS), _DIALECT)
        _find_depths(blocks)
        _find_spare(blocks)
        for block in blocks:
            block.instructions = list(rewrite(block))
        _save(blocks, sorted((_written(block.instructions for block in blocks) - before).intersection(_CALLERS)))
        return match[0].replace(match["body"], "".join(f"{line}\n" for block in blocks for line in block.lines()))

    return _FUNCTION.sub(function, text)


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


def _find_depths(blocks: Sequence[Block]) -> None:
    """Forwards from the first; where the stack pointer moves by what is not a number, nothing is known."""
    by_label = {label: block for block in blocks for label in block.labels}
    following = dict(zip(map(id, blocks), blocks[1:], strict=False))
    blocks[0].depth = 0
    todo = [blocks[0]]
    while todo:
        block = todo.pop()
        depth = _depth_behind(block)
        label = _DIALECT.target(block)
        targets = [] if label is None else [by_label[label]]
        if _DIALECT.goes_on(block) and id(block) in following:
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
        loops = block.labels == [_DIALECT.target(block)] and _DIALECT.goes_on(block) and jumps[block.labels[0]] == 1
        if _DIALECT.goes_on(previous) and loops and block.depth is not None:
            texts = (*block.instructions, block.end)
            touched = {register for text in texts for register in (*decode(text).reads, *decode(text).writes)}
            block.spare = block.live_out & REGISTERS - touched
