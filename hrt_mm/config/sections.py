"""The sections of a run's configuration, and the components that may stand in each: what is installed decides."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Literal, get_args, get_origin

from pydantic import SerializeAsAny

from ..component import Component
from ..errors import ConfigError
from ..levels import HierarchyConfig
from ..modality import GROUP, DatasetConfig, Modality, TokenizerConfig, modalities
from ..tasks import TASKS
from ..tasks.base import TaskConfig
from ..train.config import OptimConfig, RunFolder, TrainConfig

DISTRIBUTION = "hrt-mm"


class RunConfig(Component):
    """Everything a run needs, nested as the modules are."""

    modality: SerializeAsAny[TokenizerConfig]
    """How raw samples become tokens."""
    model: HierarchyConfig
    """The hierarchy."""
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


def section_component(name: str) -> type[Component]:
    """The component of a section that has one for all runs."""
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
        for name in _types(component):
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
        if _types(modality.tokenizer) != (name,):
            raise ConfigError(f"{_name(modality.tokenizer)} of the modality {name!r} must have type: Literal[{name!r}]")
    return {name: modality.tokenizer for name, modality in installed.items()}


def datasets(modality: type[Modality]) -> dict[str, type[Component]]:
    """Dataset configurations of a modality by type."""
    return by_type(modality.datasets)


def tasks() -> dict[str, type[Component]]:
    """Task configurations by type."""
    return dict(TASKS)


def _types(component: type[Component]) -> tuple[str, ...]:
    field = component.model_fields.get("type")
    if field is None or get_origin(field.annotation) is not Literal:
        raise ConfigError(f"{_name(component)} must fix its type: type: Literal['name'] = 'name'")
    return get_args(field.annotation)


def _name(component: type[Component]) -> str:
    return f"{component.__module__}.{component.__qualname__}"
