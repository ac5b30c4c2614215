"""What augmentations of all modalities share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from hrt_mm.core.component import Component

Probability = Annotated[float, Field(ge=0, le=1)]


class RangedComponent(Component):
    """A component with ranges from which values are drawn."""

    ranges: ClassVar[tuple[str, ...]] = ()
    """The keys of pairs that go from the least to the largest value."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key in self.ranges:
            first, last = getattr(self, key)
            if first > last:
                raise ValueError(f"{key} goes from least to largest, got {first:g} to {last:g}; swap them")
        return self
