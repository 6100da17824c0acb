"""What every kind of input has in common: how many cases there are, and what is said of those that fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import succeed
from fuzz.limits import Case, Fuzz, judge
from mini_spec import MINI
from photograph import photograph

_SHARE = 300
"""Cases of each kind where ``--cases`` does not say: some three minutes of one core for all kinds."""
_SHOWN = 5
_HEADS = ("kind", "cases", "refused", "failures", "seconds", "slowest s", "most MB")


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, tmp_path: Path, record_property: Callable[[str, object], None]) -> Fuzz:
    """``fuzz(case)`` fails where a case of the kind fails, with the command that repeats it."""
    only, count = request.config.getoption("--only"), request.config.getoption("--cases") or _SHARE
    seeds = range(count) if only is None else range(only, only + 1)

    def check(case: Case) -> None:
        verdicts = list(judge(case, seeds, tmp_path))
        failed = [verdict for verdict in verdicts if verdict.fault]
        seconds, most = [one.seconds for one in verdicts], max(one.bytes for one in verdicts)
        counts = (len(verdicts), sum(one.refused for one in verdicts), len(failed))
        record_property("fuzz", (request.node.name, *counts, sum(seconds), max(seconds), most / 1e6))
        again = f"python -m pytest '{request.node.nodeid}' --only"
        told = "\n\n".join(f"{again} {verdict.seed}\n{verdict.fault}" for verdict in failed[:_SHOWN])
        if failed:
            pytest.fail(f"{len(failed)} of {len(verdicts)} cases fail:\n\n{told}", pytrace=False)

    return check


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built directory, ``mini``, to be left as it is, and a photograph beside it, ``a.png``."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "mini.yaml").write_text(MINI, encoding="utf-8")
    succeed("build", folder / "mini.yaml", "--target", "native", "--untuned", "--out", folder / "mini")
    photograph(folder / "a.png")
    return folder / "mini"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each kind."""
    stats: dict[str, list[Any]] = terminalreporter.stats
    reports = [report for one in ("passed", "failed") for report in stats.get(one, ())]
    rows = [value for report in reports for name, value in report.user_properties if name == "fuzz"]
    if not rows:
        return
    terminalreporter.section("cases by kind: of processor time, of memory beyond what was there")
    terminalreporter.write_line(f"{_HEADS[0]:32}" + "".join(f"{head:>11}" for head in _HEADS[1:]))
    for name, cases, refused, failures, seconds, slowest, most in sorted(rows):
        numbers = f"{cases:11}{refused:11}{failures:11}{seconds:11.1f}{slowest:11.2f}{most:11.0f}"
        terminalreporter.write_line(f"{name.removeprefix('test_'):32}{numbers}")
