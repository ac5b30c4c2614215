"""The partitions of a level: groups of every kind, windows, and what of the given boundaries the next level knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hrt_mm.core.errors import UserError
from hrt_mm.core.levels import FixedGroups, GivenGroups, HierarchyConfig, Level, blocks
from hrt_mm.core.plan import Groups, LevelPlan
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens


def level(**kwargs: Any) -> Level:
    return Level(name="fine", dim=8, heads=1, **kwargs)


def plan(lengths: list[int], starts: list[int] | None = None, **kwargs: Any) -> LevelPlan:
    spans = Spans.from_lengths(lengths)
    mask = torch.zeros(spans.total, dtype=torch.bool)
    mask[starts or []] = True
    tokens = Tokens(torch.zeros(spans.total, 8), spans, spans.positions[:, None].float(), boundaries={"words": mask})
    return LevelPlan.of(tokens, level(**kwargs), ())


def test_fixed_groups_do_not_cross_samples() -> None:
    groups = plan([5, 0, 4, 1]).fixed_groups(FixedGroups(stride=2))
    assert groups.spans.lengths.tolist() == [2, 2, 1, 2, 2, 1]
    assert groups.samples.lengths.tolist() == [3, 0, 2, 1]
    assert groups.position_in_group_T.tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1, 0]


def test_given_groups_start_where_they_are_told_and_with_each_sample() -> None:
    groups = plan([5, 0, 4], [2, 6]).given_groups(GivenGroups(type="given", boundary="words"))
    assert groups.spans.lengths.tolist() == [2, 3, 1, 3]
    assert groups.samples.lengths.tolist() == [2, 0, 2]


def test_given_groups_are_cut_at_the_cap() -> None:
    groups = plan([9, 4], [7]).given_groups(GivenGroups(type="given", boundary="words", max=3))
    assert groups.spans.lengths.tolist() == [3, 3, 1, 2, 3, 1]
    assert groups.group_size == 3


def test_the_taps_of_a_long_group_are_stretched_over_it() -> None:
    groups = Groups(Spans.from_lengths([8, 3]), Spans.from_lengths([2]), 4)
    assert groups.position_in_group_T.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2]


@pytest.mark.parametrize(
    ("window_type", "layer", "want"),
    [
        ("block", 0, [4, 4, 2, 3]),
        ("block", 1, [4, 4, 2, 3]),
        ("shifted", 0, [4, 4, 2, 3]),
        ("shifted", 1, [2, 4, 4, 2, 1]),
        ("sliding", 0, [10, 3]),
    ],
)
def test_windows(window_type: str, layer: int, want: list[int]) -> None:
    one = plan([10, 3], window=4, window_type=window_type)
    assert one.attention_spans(layer).lengths.tolist() == want
    assert one.sliding_window == (4 if window_type == "sliding" else None)


def test_what_others_see_of_a_level_is_bounded_by_its_windows() -> None:
    assert plan([10, 3]).cross_scale_spans().lengths.tolist() == [10, 3]
    for window_type in ("block", "shifted", "sliding"):
        assert plan([10, 3], window=4, window_type=window_type).cross_scale_spans().lengths.tolist() == [4, 4, 2, 3]


def next_words(lengths: list[int], starts: list[int], stride: int, *, ahead: bool) -> list[bool]:
    fine = plan(lengths, starts)
    groups = fine.fixed_groups(FixedGroups(stride=stride))
    coords_GC = torch.zeros(len(groups.spans), 1)
    coarse = fine.coarser(level(), groups, coords_GC, (float(stride),), gridded=False, ahead=ahead)
    result: list[bool] = coarse.boundaries["words"].tolist()
    return result


def test_a_group_starts_a_word_if_any_of_its_tokens_does() -> None:
    assert next_words([8, 3], [3, 4, 9], 2, ahead=False) == [False, True, True, False, True, False]


def test_ahead_a_start_inside_a_group_counts_for_the_next() -> None:
    # Groups start at 0, 2, 4, 6 and 8, 10; the word at 3 is not known yet at 2.
    assert next_words([8, 3], [3, 4, 9], 2, ahead=True) == [False, False, True, False, False, True]
    assert next_words([8, 3], [0, 7], 2, ahead=True) == [True, False, False, False, False, False]
    assert next_words([], [], 2, ahead=True) == []
    assert next_words([0, 1], [0], 2, ahead=True) == [True]


def test_the_grid_of_the_next_level() -> None:
    config = HierarchyConfig(
        levels=(
            Level(name="fine", dim=8, heads=1, window=4, group=FixedGroups(stride=2)),
            Level(name="mid", dim=8, heads=1, group=FixedGroups(stride=(2, 4))),
            Level(name="coarse", dim=8, heads=1),
        )
    )
    order = blocks(config, 2)
    assert order == ((2, 2), (4, 4), (4, 8))
    spans = Spans.from_lengths([35, 1])
    tokens = Tokens(torch.zeros(36, 8), spans, torch.zeros(36, 2), ((5, 7), (1, 1)))
    fine = LevelPlan.of(tokens, config.levels[0], order)
    assert fine.attention_spans(0).lengths.tolist() == [16, 12, 4, 3, 1]
    groups = fine.fixed_groups(FixedGroups(stride=2))
    assert groups.spans.lengths.tolist() == [4, 4, 4, 4, 4, 2, 4, 2, 2, 2, 2, 1, 1]
    mid = fine.coarser(config.levels[1], groups, torch.zeros(13, 2), (2.0, 2.0), gridded=True)
    assert mid.grid is not None
    assert mid.grid.shapes == ((3, 4), (1, 1))
    assert mid.grid.blocks == ((2, 2), (2, 4))
    assert mid.unit == (2.0, 2.0)
    assert mid.fixed_groups(FixedGroups(stride=(2, 4))).spans.lengths.tolist() == [8, 4, 1]


def test_one_size_for_all_axes_once_the_grid_is_gone() -> None:
    with pytest.raises(UserError, match=r"stride \(2, 2\) but its tokens are not a grid; give one number"):
        plan([4]).fixed_groups(FixedGroups(stride=(2, 2)))
