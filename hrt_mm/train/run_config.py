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

FORMS = ("modality", "model", "towers")
"""Sections of which a run has the first two, or the last."""


class TowerConfig(Component):
    """One of the towers of a task over several modalities."""

    modality: SerializeAsAny[TokenizerConfig]
    """How raw samples become tokens."""
    model: HierarchyConfig
    """The hierarchy."""


TowerName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class RunConfig(Component):
    """Everything a run needs, nested as the modules are: one ``modality`` and ``model``, or several ``towers``."""

    modality: SerializeAsAny[TokenizerConfig] | None = None
    """How raw samples become tokens."""
    model: HierarchyConfig | None = None
    """The hierarchy."""
    towers: Annotated[dict[TowerName, TowerConfig], Field(min_length=2)] | None = None
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

    @model_validator(mode="after")
    def _one_form(self) -> RunConfig:
        if self.towers is not None and (self.modality is not None or self.model is not None):
            raise ValueError("give towers, or modality and model, not both")
        if self.towers is None and (self.modality is None or self.model is None):
            raise ValueError("give modality and model, or towers")
        return self

    @model_serializer(mode="wrap")
    def _one_form_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {name: value for name, value in written.items() if name not in FORMS or value is not None}

    @property
    def single(self) -> TowerConfig:
        """The modality and the model of a run over one of each.

        Raises:
            ConfigError: there are several towers.
        """
        if self.modality is None or self.model is None:
            raise ConfigError(
                f"this needs one modality and model, but the configuration has towers: {', '.join(self.towers or ())}"
            )
        return TowerConfig(modality=self.modality, model=self.model)

    @property
    def by_tower(self) -> dict[str, TowerConfig]:
        """The towers by name; a run with ``modality`` and ``model`` has one, named ``""``."""
        return {SINGLE: self.single} if self.towers is None else dict(self.towers)

    @property
    def models(self) -> dict[str, HierarchyConfig]:
        """The models by the path that leads to them: ``model``, or ``towers.NAME.model``."""
        return {f"towers.{name}.model" if name else "model": tower.model for name, tower in self.by_tower.items()}

    @property
    def level_names(self) -> list[str]:
        """Names of the levels of all towers, one after another; behind the tower's name where there are several."""
        return [
            f"{name}.{level.name}" if name else level.name
            for name, tower in self.by_tower.items()
            for level in tower.model.levels
        ]
