from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hrt_mm.analysis.report.groups import draw_runs
from hrt_mm.analysis.report.style import panels
from hrt_mm.analysis.report.view import View
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import FixedGroups, HierarchyConfig, Level
from hrt_mm.data.sample import Sample
from hrt_modalities.text import ByteTokenizer, Text, TextModality, TextTokenizer
from hrt_modalities.text.subwords import SubwordTokenizer, train_subwords


def drawn(
    tokenizer: TextTokenizer, text: str | bytes | Text, width: float = 8
) -> tuple[list[tuple[str, float]], float]:
    """The signs with their places, and how many tokens are shown."""
    figure, grid = panels(1, 1, width=width, height=1)
    axes = grid[0, 0]
    View(tokenizer, tokenizer([text]), TextModality.figures()).draw(axes)
    figure.canvas.draw()
    return [(text.get_text(), text.get_position()[0]) for text in axes.texts], axes.get_xlim()[1]


def test_each_character_stands_over_its_bytes() -> None:
    assert drawn(ByteTokenizer(), "aé\n") == ([("a", 0.5), ("é", 2.0), ("↵", 3.5)], 4)


def test_separators_take_a_cell() -> None:
    assert drawn(ByteTokenizer(), Text("ab", (0, 1, 2))) == ([("a", 1.5), ("b", 3.5)], 5)


def test_characters_of_a_subword_share_its_cell(tmp_path: Path) -> None:
    train_subwords(["the the the"], 300, tmp_path / "t.json")
    tokenizer = SubwordTokenizer(tmp_path / "t.json")
    signs, shown = drawn(tokenizer, "the the")
    assert shown == 2
    assert [sign for sign, _ in signs] == list("the the")
    assert [int(index) for _, index in signs] == [0, 0, 0, 1, 1, 1, 1]


def test_what_the_font_lacks_and_what_is_no_text_is_drawn_too() -> None:
    signs, _ = drawn(ByteTokenizer(), "\0世$x$\u202e".encode() + b"\xff")
    assert [sign for sign, _ in signs] == ["00", "□", "$", "x", "$", "□", "ff"]


def test_a_long_text_is_shown_as_far_as_it_can_be_read() -> None:
    signs, wide = drawn(ByteTokenizer(), "x" * 5000)
    assert 60 < wide < 200 and len(signs) == wide
    _, narrow = drawn(ByteTokenizer(), "x" * 5000, width=2)
    assert narrow < wide / 2


@pytest.mark.parametrize("length", [10, 5000])
def test_the_levels_under_it_end_where_it_does(length: int) -> None:
    fine = Level(name="bytes", dim=8, heads=2, depth=0, group=FixedGroups(stride=4))
    hierarchy = Hierarchy(HierarchyConfig(levels=(fine, Level(name="coarse", dim=8, heads=2, depth=0))))
    tokenizer = ByteTokenizer()
    tokens = tokenizer(["x" * length])
    with torch.no_grad():
        pyramid = hierarchy(tokens.with_x(torch.randn(length, 8)))
    view = View(tokenizer, tokens, TextModality.figures())
    figure = draw_runs([(Sample("x" * length), view, pyramid)])
    above, below = figure.axes
    assert above.get_xlim() == below.get_xlim()
    assert len(below.patches) < 400
