"""The benchmark of learned groups: prose and windows, and a quick run from training to tables."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import boundaries
from benchmarks.command import main
from benchmarks.results import read
from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.core.levels import FixedGroups, GivenGroups, LearnedGroups
from hrt_modalities.text.corpus import Corpus
from hrt_modalities.text.sources import Files

RUNNING = (
    "This is a paragraph of plain running text, which is long enough to be taken for one, as it has two lines\nof it."
)
SOURCE = f'''"""{RUNNING}

>>> this(1)  # is no prose, although it is longer than what a paragraph must have at the least to count
"""

def short():
    """Too short."""

class Listed:
    """
    - This is a list, of one item that is longer than what a paragraph must have at the least to count.
    """

async def more():
    """{RUNNING} It goes on."""
'''


def corpus(folder: Path) -> Corpus:
    contents = {"good.py": SOURCE.encode(), "wrong.py": b"def (", "nul.py": b"x = 1\0"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return Corpus(Files(folder, list(contents), list(map(len, contents.values()))), 64, training=False)


def test_prose_is_the_running_text_of_docstrings(tmp_path: Path) -> None:
    assert list(boundaries.prose(corpus(tmp_path))) == [RUNNING, f"{RUNNING} It goes on."]


def test_windows_hold_whole_paragraphs() -> None:
    result = list(boundaries.windows(["a" * 30, "b" * 30, "c" * 200, "d"], 70))
    assert [text.content for text in result] == [
        b"a" * 30 + b"\n\n" + b"b" * 30 + b"\n",
        b"c" * 69 + b"\n",
        b"d\n",
    ]
    assert all(text.documents == (0,) for text in result)
    assert list(boundaries.windows([], 70)) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [("uncertainty", LearnedGroups), ("difference", LearnedGroups), ("fixed", FixedGroups), ("spaces", GivenGroups)],
)
def test_contenders_differ_in_their_groups_alone(name: str, kind: type) -> None:
    options = Namespace(target=6, max=24, warmup=60)
    before = load_config(boundaries.CONFIG).single.model
    after = load_config(boundaries.CONFIG, [f"model.levels.bytes.group={boundaries.group(name, options)}"]).single.model
    group = after.levels[0].group
    assert isinstance(group, kind)
    assert isinstance(group, LearnedGroups) is (name in boundaries.LEARNED)
    if isinstance(group, LearnedGroups):
        assert (group.target, group.max, group.signal) == (6, 24, name)
        assert group.warmup == (60 if name == "difference" else 0)
    levels = tuple(level.model_copy(update={"group": None}) for level in after.levels)
    assert levels == tuple(level.model_copy(update={"group": None}) for level in before.levels)
    assert after.model_copy(update={"levels": before.levels}) == before


def test_a_quick_run_trains_cuts_and_reports(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    argv = ["--quick", "--device", "cpu", "--threads", "2", "--json", str(path)]
    assert main(boundaries.arguments(), boundaries.run, boundaries.tables, argv) == 0
    result = read(path)
    assert [row.sizes["text"] for row in result.rows] == ["Python", "English"]
    assert all(value < 1e-4 for value in result.checks.values())
    for row in result.rows:
        assert set(row.contenders) == set(boundaries.CONTENDERS)
        for measured in row.contenders.values():
            scores = {key: value for key, value in measured.scores.items() if value is not None}
            assert 0 < scores["bits_per_byte"] < 9
            assert scores["steps"] > 0
        assert row.contenders["fixed"].scores["bytes_per_group"] == pytest.approx(6, rel=0.1)
        assert row.contenders["spaces"].scores["words_f1"] > 0.6  # type: ignore[operator]
    text = boundaries.tables(result)
    for name in boundaries.LEARNED:
        for lines in result.details["cuts"][name].values():
            assert 0 < len(lines) <= boundaries.LINES
            assert np.mean(["·" in line for line in lines]) > 0
            assert lines[0] in text


def test_groups_that_cannot_reach_their_target(tmp_path: Path) -> None:
    options = boundaries.arguments().parse_args(["--quick", "--target", "9", "--max", "8"])
    options.device = torch.device("cpu")
    with pytest.raises(UserError, match="--target 9 is longer than --max 8; raise --max"):
        boundaries.run(options)
