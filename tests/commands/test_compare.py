"""``mnv2c compare``: what the tables cost on paper, times of every one, and the picture."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import mnv2c, succeed_json

from mnv2c.errors import ToolError
from mnv2c.measure.compare import Comparison, Measured, Times, format_text, picture

TABLE = """\
name: {name}
width_multiplier: 1.0
classes: 10
input: {{resolution: 32}}
padding: same
batchnorm_epsilon: 1.0e-3
stem: {{c: 8, s: 2}}
bottlenecks:
  - {row}
"""
ROWS = {
    "inverted": "{t: 2, c: 16, n: 1, s: 2}",
    "separable": "{separable: {c: 16, n: 1, s: 2}}",
    "residual": "{residual: {c: 16, n: 1, s: 2}}",
}
MACS = {
    "inverted": 16 * 16 * 9 * 3 * 8 + 16 * 16 * 8 * 16 + 8 * 8 * (9 * 16 + 16 * 16) + 160,
    "separable": 16 * 16 * 9 * 3 * 8 + 8 * 8 * (9 * 8 + 8 * 16) + 160,
    "residual": 16 * 16 * (9 * 3 * 8 + 8 * 8) + 8 * 8 * (9 * 8 * 8 + 8 * 16 + 8 * 16) + 160,
}


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    for name, row in ROWS.items():
        (tmp_path / f"{name}.yaml").write_text(TABLE.format(name=name, row=row), encoding="utf-8")
    return [tmp_path / f"{name}.yaml" for name in ROWS]


def test_networks_beside_each_other(tables: list[Path], tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.svg"
    result = succeed_json("compare", *tables, "--rounds", "2", "--threads", "1,2", "--picture", drawn)
    found = {one["name"]: one for one in result["networks"]}
    assert {name: one["macs"] for name, one in found.items()} == MACS
    assert [one["blocks"] for one in found.values()] == ["inverted residual", "depthwise separable", "residual"]
    for one in found.values():
        assert one["shape"] == [1, 32, 32, 3]
        assert one["arena_bytes"] >= 16 * 16 * 8 * 4
        assert one["times"].keys() == {"1", "2"}
        assert all(0 < times["min_ms"] <= times["median_ms"] for times in one["times"].values())
    text = drawn.read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert set(re.findall(r">([a-z]+)</text>", text)) >= set(ROWS)
    assert "residual, 2 threads" in text


def test_two_of_one_name_are_refused(tables: list[Path]) -> None:
    done = mnv2c("compare", tables[0], tables[0])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mnv2c: error: two of the tables are named inverted: give each a name of its own\n"


def test_a_picture_that_cannot_be_written_is_told_before_anything_is_built(tables: list[Path], tmp_path: Path) -> None:
    done = mnv2c("compare", tables[0], "--picture", tmp_path / "nowhere" / "x.svg")
    assert (done.returncode, done.stdout) == (1, "")
    words = f"cannot write {tmp_path}/nowhere/x.svg: there is no folder {tmp_path}/nowhere"
    assert done.stderr == f"mnv2c: error: {words}\n"


SIZES = {"small": 1, "large": 3}
COMPARISON = Comparison(
    cpu="a CPU",
    instruction_set="v3",
    rounds=2,
    networks=tuple(
        Measured(name, "residual", (1, 96, 64, 3), size * 10**6, size * 10**5, size * 10**4, {1: Times(size, size + 1)})
        for name, size in SIZES.items()
    ),
)


def test_the_table_has_a_line_for_each() -> None:
    *_, small, large = format_text(COMPARISON).splitlines()
    assert small.split() == ["small", "residual", "96x64", "1.0", "0.10", "0.01", "1.000", "(2.000)"]
    assert large.split() == ["large", "residual", "96x64", "3.0", "0.30", "0.03", "3.000", "(4.000)"]


def test_the_same_picture_every_time() -> None:
    assert picture(COMPARISON) == picture(COMPARISON)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ToolError, match=re.escape("pip install 'mnv2c[picture]'")):
        picture(COMPARISON)
