from __future__ import annotations

from typing import Literal

import pytest

from hrt_mm.config.sections import builtin_modalities
from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import DatasetConfig
from hrt_mm.data.registry import types_of


class Two(DatasetConfig):
    type: Literal["one", "two"]


class One(DatasetConfig):
    type: Literal["one"]


class Untyped(DatasetConfig):
    pass


def test_a_component_may_stand_for_several_types() -> None:
    assert types_of(Two) == ("one", "two")


def test_a_component_without_a_type_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Untyped must fix its type: type: Literal\['name'\]"):
        types_of(Untyped)


def test_vision_is_built_in() -> None:
    assert "vision" in builtin_modalities()
