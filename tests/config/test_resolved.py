from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import model_validator

from hrt_mm.config.yaml_reader import read
from hrt_mm.core.component import Component
from hrt_mm.train.resolved import _Dumper, _written


class Inner(Component):
    size: int | None = None
    fit: str = "stretch"
    rates: tuple[float, ...] = (1e-5, 3.0)

    @model_validator(mode="after")
    def _no_effect(self) -> Inner:
        if self.size is None and "fit" in self.model_fields_set:
            raise ValueError("fit has no effect without size")
        return self


class Outer(Component):
    parts: tuple[Inner, ...] = (Inner(), Inner(size=3))
    by_name: dict[str, Inner] = {"x": Inner()}
    where: Path | None = None
    word: str = "1e-3"


def test_defaults_are_written_but_for_those_that_the_component_would_refuse() -> None:
    written = _written(Outer())
    small = {"size": None, "rates": [1e-5, 3.0]}
    assert written == {
        "parts": [small, {**small, "size": 3, "fit": "stretch"}],
        "by_name": {"x": small},
        "where": None,
        "word": "1e-3",
    }
    assert Outer.model_validate(written) == Outer()


@pytest.mark.parametrize("word", ["1e-3", "no", "null", "~", "0o7", "1:30", "a: b", "# x", "", " x", "é\n", "12"])
def test_text_stays_text_and_floats_stay_floats(word: str) -> None:
    text = yaml.dump(_written(Outer(word=word)), Dumper=_Dumper)
    data = read(text, "a.yaml", []).data()
    assert data["word"] == word
    assert data["parts"][0]["rates"] == [1e-5, 3.0]


def test_what_looks_like_a_variable_is_escaped() -> None:
    assert _written(Outer(word="${HOME}", where=Path("a/${B}")))["word"] == "$${HOME}"
