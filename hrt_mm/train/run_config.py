"""A run's configuration: its sections, nested as the modules are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, SerializerFunctionWrapHandler, model_serializer, model_validator

from ..core.component import Component
from ..core.errors import ConfigError
from ..core.levels import HierarchyConfig
from ..data.dataset import DatasetConfig
from ..data.tokenizer import SINGLE, TokenizerConfig
from ..tasks.base import TaskConfig
from .config import OptimConfig, RunFolder, TrainConfig

SHORT_FORM = ("modality", "model")
"""Sections that a run over one modality may have in place of ``towers``."""


class TowerConfig(Component):
    """A modality and the hierarchy that reads it."""

    modality: SerializeAsAny[TokenizerConfig]
    """How raw samples become tokens."""
    model: HierarchyConfig
    """The hierarchy."""


TowerName = Annotated[str, Field(pattern="^([a-z][a-z0-9_]*)?$")]


class RunConfig(Component):
    """Everything a run needs, nested as the modules are.

    A run over one modality may give ``modality`` and ``model`` in place of ``towers``, and is written in this form.
    """

    towers: dict[TowerName, TowerConfig]
    """A modality and a model by name, in place of ``modality`` and ``model``, for tasks over several modalities."""
    task: SerializeAsAny[TaskConfig]
    """What the model learns."""
    data: SerializeAsAny[DatasetConfig]
    """The samples."""
    train: TrainConfig
    """The training loop."""
    optim: OptimConfig = OptimConfig()
    """The optimizer and its schedule."""
    run: RunFolder = RunFolder()
    """Where the results go."""

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.keys().isdisjoint(SHORT_FORM):
            return data
        if "towers" in data:
            raise ValueError("give towers, or modality and model, not both")
        sections = dict(data)
        tower = {name: sections.pop(name) for name in SHORT_FORM if name in data}
        return {"towers": {SINGLE: tower}, **sections}

    @model_serializer(mode="wrap")
    def _to_short_form(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {**written.pop("towers")[SINGLE], **written} if SINGLE in self.towers else written

    @model_validator(mode="after")
    def _one_or_several(self) -> RunConfig:
        if (len(self.towers) == 1) != (SINGLE in self.towers):
            raise ValueError("give towers by name, two or more, or one modality and model")
        return self

    @property
    def sections(self) -> dict[str, Any]:
        """The sections by name, in the form in which they are written."""
        sections = dict(self)
        return {**dict(sections.pop("towers")[SINGLE]), **sections} if SINGLE in self.towers else sections

    @property
    def single(self) -> TowerConfig:
        """The modality and the model of a run over one of each.

        Raises:
            ConfigError: there are several towers.
        """
        if SINGLE not in self.towers:
            raise ConfigError(
                f"this needs one modality and model, but the configuration has towers: {', '.join(self.towers)}"
            )
        return self.towers[SINGLE]

    def with_model(self, model: HierarchyConfig) -> RunConfig:
        """A copy of a run over one modality, with another model.

        Raises:
            ConfigError: there are several towers.
        """
        return self.model_copy(update={"towers": {SINGLE: self.single.model_copy(update={"model": model})}})

    @property
    def modalities(self) -> dict[str, TokenizerConfig]:
        """The modalities by tower."""
        return {name: tower.modality for name, tower in self.towers.items()}

    @property
    def models(self) -> dict[str, HierarchyConfig]:
        """The models by tower."""
        return {name: tower.model for name, tower in self.towers.items()}

    @property
    def level_names(self) -> list[str]:
        """Names of the levels of all towers, one after another; behind the tower's name where there are several."""
        return [
            f"{name}.{level.name}" if name else level.name
            for name, tower in self.towers.items()
            for level in tower.model.levels
        ]
