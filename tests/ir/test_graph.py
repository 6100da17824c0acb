"""Padding: the shapes around and inside it."""

from __future__ import annotations

import pytest

from mnv2c.ir.graph import Padding


def test_a_map_grows_by_the_zeros_around_it() -> None:
    zeros = Padding(top=1, left=2, bottom=3, right=4)
    assert zeros.around((5, 10, 20, 7)) == (5, 14, 26, 7)
    assert zeros.inside((5, 14, 26, 7)) == (5, 10, 20, 7)
    assert Padding().around((5, 10, 20, 7)) == Padding().inside((5, 10, 20, 7)) == (5, 10, 20, 7)


def test_sides_are_top_left_bottom_right() -> None:
    assert Padding(top=1, left=2, bottom=3, right=4).sides == (1, 2, 3, 4)


@pytest.mark.parametrize("side", ["top", "left", "bottom", "right"])
def test_one_side_makes_a_padding_true(side: str) -> None:
    assert Padding(**{side: 1})
    assert not Padding()
