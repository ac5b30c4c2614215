"""The base of every configuration model: strict, frozen, and read as data."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Component(BaseModel):
    """A configuration of one component. Unknown keys are errors, and a built one does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
