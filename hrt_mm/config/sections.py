"""The sections of a run's configuration, and the components that may stand in each: what is installed decides."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, SerializerFunctionWrapHandler, model_serializer, model_validator

from ..component import Component
from ..errors import ConfigError
from ..levels import HierarchyConfig
from ..modality import (
    DISTRIBUTION,
    GROUP,
    JOINT_GROUP,
    DatasetConfig,
    Modality,
    TokenizerConfig,
    joint_datasets,
    modalities,
    types_of,
)
from ..tasks import TASKS
from ..tasks.base import TaskConfig
from ..train.config import OptimConfig, RunFolder, TrainConfig


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
    def models(self) -> dict[str, HierarchyConfig]:
        """The models by the path that leads to them: ``model``, or ``towers.NAME.model``."""
        if self.towers is None:
            return {"model": self.single.model}
        return {f"towers.{name}.model": tower.model for name, tower in self.towers.items()}

    @property
    def level_names(self) -> list[str]:
        """Names of the levels of all towers, one after another; behind the tower's name where there are several."""
        if self.towers is None:
            return [level.name for level in self.single.model.levels]
        return [f"{name}.{level.name}" for name, tower in self.towers.items() for level in tower.model.levels]


FORMS = ("modality", "model", "towers")
"""Sections of which a run has the first two, or the last."""


def section_component(name: str) -> type[Component]:
    """The component of a section that has one for all runs."""
    if name == "model":
        return HierarchyConfig
    component = RunConfig.model_fields[name].annotation
    assert isinstance(component, type) and issubclass(component, Component)
    return component


def builtin_modalities() -> dict[str, type[Modality]]:
    """The modalities that come with this distribution, without plug-ins."""
    own = {entry.name for entry in entry_points(group=GROUP) if entry.dist and entry.dist.name == DISTRIBUTION}
    return {name: modality for name, modality in modalities().items() if name in own}


def by_type(components: tuple[type[Component], ...]) -> dict[str, type[Component]]:
    """Components by the values of ``type`` they stand for.

    Raises:
        ConfigError: a component does not fix its ``type``, or two share one; names them.
    """
    found: dict[str, type[Component]] = {}
    for component in components:
        for name in types_of(component):
            if name in found:
                raise ConfigError(f"{_name(component)} and {_name(found[name])} both have type {name!r}; rename one")
            found[name] = component
    return found


def tokenizers(installed: dict[str, type[Modality]]) -> dict[str, type[Component]]:
    """Tokenizer configurations by modality.

    Raises:
        ConfigError: a tokenizer's type is not its modality's name.
    """
    for name, modality in installed.items():
        if types_of(modality.tokenizer) != (name,):
            raise ConfigError(f"{_name(modality.tokenizer)} of the modality {name!r} must have type: Literal[{name!r}]")
    return {name: modality.tokenizer for name, modality in installed.items()}


def datasets(modality: type[Modality]) -> dict[str, type[Component]]:
    """Dataset configurations of a modality by type."""
    return by_type(modality.datasets)


def joint() -> dict[str, type[Component]]:
    """Configurations of the installed datasets of several modalities by type.

    Raises:
        ConfigError: one is not registered under its type.
    """
    return _joint(joint_datasets())


def builtin_joint() -> dict[str, type[Component]]:
    """Those of them that come with this distribution."""
    own = {entry.name for entry in entry_points(group=JOINT_GROUP) if entry.dist and entry.dist.name == DISTRIBUTION}
    return _joint({name: dataset for name, dataset in joint_datasets().items() if name in own})


def _joint(found: Mapping[str, type[DatasetConfig]]) -> dict[str, type[Component]]:
    for name, dataset in found.items():
        if name not in types_of(dataset):
            raise ConfigError(f"{_name(dataset)} is registered as {name!r}, so it must have type: Literal[{name!r}]")
    return dict(found)


def tasks() -> dict[str, type[Component]]:
    """Task configurations by type."""
    return dict(TASKS)


def _name(component: type[Component]) -> str:
    return f"{component.__module__}.{component.__qualname__}"
