"""Cycles that a core needs for straight-line code: by a model of ours in order, by LLVM's (llvm-mca) out of order.

What comes in: runs of instructions, a core. What goes out: cycles, once for each run or together for each function.
Every run is taken as the body of a loop, as inner loops are; caches, branch prediction and what lies before a run are
not modelled.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mnv2c.cost.code import Run
from mnv2c.cost.cores import CORES
from mnv2c.cost.llvm import find_tool, run_tool
from mnv2c.errors import ToolError
from mnv2c.instructions import a32, a64, inorder
from mnv2c.instructions.operations import Operation

_ITERATIONS = 50
MODELLED_AS = {("cortex-a76", "aarch64"): "neoverse-n1", ("cortex-a76", "armv7l"): "cortex-a57"}
"""LLVM 19 schedules for the A76 as for the A57; the Neoverse N1 is the same core with a model of its own, of 64-bit
code alone. By core and architecture, where they differ."""


@dataclass(frozen=True)
class FunctionCost:
    """All runs of one function together. ``unknown`` counts those instructions, by mnemonic, which the model does not
    know and takes for slow ones."""

    instructions: int
    cycles: float
    unknown: Counter[str]


def cycles(bodies: Sequence[Sequence[str]], core: str, triple: str) -> list[float]:
    """Cycles for one run of each of ``bodies``, instructions as ``code.disassemble`` gives them, on ``core``."""
    distinct = list(dict.fromkeys(map(tuple, bodies)))
    found = _in_order(distinct, core, triple) if core in inorder.PIPELINES else _by_mca(distinct, core, triple)
    at_peak = [_at_peak(body, core, triple) for body in distinct]
    by_body = dict(zip(distinct, map(max, found, at_peak), strict=True))
    return [by_body[tuple(body)] for body in bodies]


def _in_order(bodies: Sequence[Sequence[str]], core: str, triple: str) -> list[float]:
    return [inorder.cycles([decode(text, triple) for text in body], inorder.PIPELINES[core]) for body in bodies]


def _by_mca(bodies: Sequence[Sequence[str]], core: str, triple: str) -> list[float]:
    regions = ["# LLVM-MCA-BEGIN\n{}\n# LLVM-MCA-END".format("\n".join(body)) for body in bodies]
    command = (
        find_tool("llvm-mca"),
        f"-mtriple={triple}",
        f"-mcpu={_modelled_as(core, triple)}",
        f"-iterations={_ITERATIONS}",
        "--all-views=0",
        "--summary-view",
        "--json",
    )
    answer = json.loads(run_tool(command, feed="\n".join(regions) + "\n"))
    totals = [region["SummaryView"]["TotalCycles"] / _ITERATIONS for region in answer["CodeRegions"]]
    if len(totals) != len(bodies):
        raise ToolError(f"llvm-mca answered for {len(totals)} of {len(bodies)} runs of instructions")
    return totals


def _at_peak(body: Sequence[str], core: str, triple: str) -> float:
    """What the body's arithmetic takes at least: LLVM lets an A72 compute twice its width in 32-bit code."""
    operations = (decode(text, triple) for text in body)
    bits = sum(one.bits for one in operations if one.kind in ("multiply-add", "arithmetic"))
    return bits / 32 / CORES[core].macs_per_cycle if core in CORES else 0.0


def function_costs(runs: Sequence[Run], core: str, triple: str) -> dict[str, FunctionCost]:
    """What each function's ``runs`` cost together."""
    costs: dict[str, FunctionCost] = {}
    for run, once in zip(runs, cycles([run.instructions for run in runs], core, triple), strict=True):
        before = costs.get(run.function, FunctionCost(0, 0.0, Counter()))
        costs[run.function] = FunctionCost(
            before.instructions + run.count * len(run.instructions),
            before.cycles + run.count * once,
            before.unknown + _unknown(run, core, triple),
        )
    return costs


def model_name(core: str, triple: str) -> str:
    """Whose model of ``core`` it is, e.g. ``llvm-mca 19.1.7, cortex-a72``."""
    if core in inorder.PIPELINES:
        return f"mnv2c in order {inorder.VERSION}, {core}"
    found = re.search(r"version (\S+)", run_tool((find_tool("llvm-mca"), "--version")))
    return f"llvm-mca {found[1] if found else '?'}, {_modelled_as(core, triple)}"


def _unknown(run: Run, core: str, triple: str) -> Counter[str]:
    """llvm-mca refuses what it does not know."""
    if core not in inorder.PIPELINES:
        return Counter()
    unknown = Counter(text.split()[0] for text in run.instructions if decode(text, triple).kind == "unknown")
    return Counter({mnemonic: run.count * number for mnemonic, number in unknown.items()})


def _modelled_as(core: str, triple: str) -> str:
    return MODELLED_AS.get((core, triple.split("-")[0]), core)


def decode(text: str, triple: str) -> Operation:
    """One instruction of code for ``triple``."""
    return a64.decode(text) if triple.startswith("aarch64") else a32.decode(text)
