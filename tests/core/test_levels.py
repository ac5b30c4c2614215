"""Impossible configurations are errors that name the level, the value and the fix."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import GivenGroups, HierarchyConfig, LearnedGroups, Level, blocks, extent

FIXED = {"type": "fixed", "stride": 2}
LEARNED = {"type": "learned", "target": 3, "max": 8}


def level(name: str = "fine", **kwargs: Any) -> dict[str, Any]:
    return {"name": name, "dim": 16, "heads": 2, "depth": 1} | kwargs


def config(*levels: dict[str, Any], **kwargs: Any) -> HierarchyConfig:
    return HierarchyConfig.model_validate({"levels": levels} | kwargs)


def two(fine: dict[str, Any] | None = None, coarse: dict[str, Any] | None = None, **kwargs: Any) -> HierarchyConfig:
    return config(level(group=FIXED) | (fine or {}), level("coarse") | (coarse or {}), **kwargs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "dim 16 of level 'fine' is not divisible by heads 3"),
        ({"heads": 16}, "dim/heads of level 'fine' is 1; rotary positions need it even"),
        ({"dim": 18, "heads": 6}, "dim/heads of level 'fine' is 3; rotary positions need it even"),
        ({"heads": 0}, "greater than 0"),
        ({"dim": -16}, "greater than 0"),
        ({"heads": 4, "kv_heads": 3}, "heads 4 of level 'fine' is not divisible by kv_heads 3"),
        ({"depth": -1}, "greater than or equal to 0"),
        ({"group": {"type": "fixed", "stride": 0}}, "greater than 0"),
        ({"group": {"type": "fixed", "stride": [2, 0]}}, "greater than 0"),
        ({"group": {"type": "fixed", "stride": []}}, "at least 1 item"),
        ({"group": {"type": "learned", "target": 9, "max": 8}}, "target 9 is above max=8 tokens per group"),
        ({"group": {"type": "learned", "target": 1, "max": 8}}, "greater than 1"),
        ({"group": {"type": "strided", "stride": 2}}, "'fixed', 'given', 'learned'"),
        ({"group": {"type": "given"}}, "boundary"),
        ({"window": 0}, "greater than 0"),
        (
            {"window_type": "sliding"},
            "window_type 'sliding' of level 'fine' needs a window; set window or drop window_type",
        ),
        ({"window_type": "dilated", "window": 4}, "'block', 'shifted' or 'sliding'"),
        ({"pool": "median"}, "unknown pooling 'median'; one of attention, conv, haar, max, mean, select"),
        ({"name": "2 words"}, "pattern"),
        ({"mlp_ratio": 0}, "greater than 0"),
        ({"mlp_ratio": float("nan")}, "finite"),
        ({"widow": 4}, "Extra inputs are not permitted"),
    ],
    ids=str,
)
def test_impossible_levels(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        two(change)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: config(), "at least 1 item"),
        (lambda: config(level(), level("coarse")), "level 'fine' is not the last and needs a group"),
        (lambda: two(None, {"group": FIXED}), "the last level 'coarse' has a group but no level above it"),
        (lambda: two(None, {"name": "fine"}), "level names must differ, got fine, fine"),
        (lambda: config(level(), top_down=True), "need two levels or more; drop them or add a level"),
        (lambda: config(level(), cross_scale={"up": True}), "need two levels or more; drop them or add a level"),
        (lambda: config(level(), alignment=0.1), "need two levels or more; drop them or add a level"),
        (lambda: config(level(), reconstruction=0.1), "need two levels or more; drop them or add a level"),
        (lambda: two({"window": 4}, causal=True), "level 'fine' is causal with window_type 'block'"),
        (
            lambda: two({"window": 4, "window_type": "shifted"}, causal=True),
            "level 'fine' is causal with window_type 'shifted': the first token of a block would see nothing "
            "before it; "
            "use window_type: sliding",
        ),
        (lambda: two(drop_path=1.0), "less than 1"),
        (lambda: two(alignment=-1), "greater than or equal to 0"),
        (lambda: two(backend="triton"), "'reference'"),
        (lambda: two(causl=True), "Extra inputs are not permitted"),
    ],
)
def test_impossible_hierarchies(make: Any, message: str) -> None:
    with pytest.raises(ValidationError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("fine", "axes", "message"),
    [
        ({"window": [4, 4]}, 1, "window of level 'fine' has 2 sizes (4, 4), but its tokens lie on one axis; give one"),
        (
            {"group": {"type": "fixed", "stride": [2, 2]}},
            1,
            "stride of level 'fine' has 2 sizes (2, 2), but its tokens lie on one axis; give one",
        ),
        ({"window": [4, 4, 4]}, 2, "window of level 'fine' has 3 sizes (4, 4, 4), but the modality has 2 axes"),
        ({"window": 3}, 2, "(3, 3) level-0 cells) is not a multiple of stride (2, 2) of level 'fine'"),
        ({"window": [4, 3]}, 2, "on grids windows and strides must nest"),
        ({"window": 4, "window_type": "sliding"}, 2, "window_type 'sliding' is for 1-D tokens; grids take blocks"),
        ({"window": 4, "window_type": "shifted"}, 3, "window_type 'shifted' is for 1-D tokens; grids take blocks"),
        ({"heads": 4, "dim": 16}, 3, "a head of width 4 has 2 rotary pairs for 3 axes; widen the heads"),
    ],
    ids=str,
)
def test_levels_that_do_not_fit_the_axes(fine: dict[str, Any], axes: int, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Hierarchy(two(fine), axes)
    assert message in str(error.value)


def test_sizes_for_axes_that_are_gone() -> None:
    learned = level(group=LEARNED)
    with pytest.raises(ConfigError, match=r"window of level 'coarse' has 2 sizes .* lie on one axis; give one"):
        Hierarchy(config(learned, level("coarse", window=[2, 2])), 2)
    with pytest.raises(ConfigError, match=r"stride of level 'mid' has 2 sizes .* lie on one axis; give one"):
        Hierarchy(config(learned, level("mid", group={"type": "fixed", "stride": [2, 2]}), level("coarse")), 2)
    Hierarchy(config(learned, level("coarse", window=4, window_type="sliding")), 2)


def test_usual_groups_may_have_a_size_along_each_axis() -> None:
    given = {"type": "given", "boundary": "rows", "typical": [1, 4]}
    model = Hierarchy(config(level(group=given), level("coarse")), 2)
    transition = model.transitions[0]
    assert list(transition.stride) == [1, 4]
    assert isinstance(transition.group, GivenGroups) and transition.group.typical_tokens == 4
    with pytest.raises(
        ConfigError, match=r"group.typical of level 'fine' has 2 sizes .* has 3 axes; give one size or 3"
    ):
        Hierarchy(config(level(group=given), level("coarse")), 3)


def test_nested_blocks() -> None:
    deep = config(
        level(window=8, group=FIXED),
        level("mid", window=[2, 4], group={"type": "fixed", "stride": [2, 4]}),
        level("coarse"),
    )
    assert blocks(deep, 2) == ((2, 2), (4, 8), (8, 8))
    assert blocks(config(level()), 2) == ()
    assert blocks(config(level(window=1)), 3) == ()


def test_extent() -> None:
    assert extent(3, 2, "stride") == (3, 3)
    assert extent((2, 4), 2, "stride") == (2, 4)
    with pytest.raises(ConfigError, match=r"stride has 1 sizes \(2,\), but the modality has 2 axes"):
        extent((2,), 2, "stride")


def test_levels_are_found_by_name_and_place() -> None:
    result = two()
    assert [result.index(key) for key in ("fine", "coarse", None, 0, 1, -1, -2)] == [0, 1, 1, 0, 1, 1, 0]
    with pytest.raises(ConfigError, match="unknown level 'words'; one of fine, coarse"):
        result.index("words")
    with pytest.raises(ConfigError, match="level 2 is out of range; there are 2: fine, coarse"):
        result.index(2)


def test_widths_that_follow() -> None:
    assert Level(name="a", dim=48, heads=3).head_dim == 16
    assert Level(name="a", dim=48, heads=3, mlp_ratio=2).mlp_dim == 96
    assert Level(name="a", dim=4, heads=1, mlp_ratio=0.1).mlp_dim == 8
    assert LearnedGroups(type="learned", target=8, max=8).target == 8


def test_a_built_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        two().__setattr__("causal", True)
