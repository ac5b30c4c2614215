"""The sections of a run's configuration, and the components that may stand in each: what is installed decides."""

from __future__ import annotations

from importlib.metadata import entry_points

from ..core.component import Component
from ..data.modality import Modality
from ..data.registry import GROUP, JOINT_GROUP, datasets_of, joint_datasets, modalities, names_of_ours
from ..tasks import TASKS
from ..train.run_config import RunConfig, TowerConfig


def section_component(name: str) -> type[Component]:
    """The component of a section that has one for all runs."""
    component = (TowerConfig.model_fields | RunConfig.model_fields)[name].annotation
    assert isinstance(component, type) and issubclass(component, Component)
    return component


def builtin_modalities() -> dict[str, type[Modality]]:
    """The modalities that come with this distribution, without plug-ins."""
    return {name: modality for name, modality in modalities().items() if name in names_of_ours(GROUP)}


def tokenizers(installed: dict[str, type[Modality]]) -> dict[str, type[Component]]:
    """Tokenizer configurations by modality."""
    return {name: modality.tokenizer for name, modality in installed.items()}


def datasets(modality: str, *, builtin_only: bool = False) -> dict[str, type[Component]]:
    """Dataset configurations of an installed modality by type.

    Args:
        modality: its name.
        builtin_only: leave out those that other packages add to it.
    """
    added = {entry.name for entry in entry_points(group=f"{JOINT_GROUP}.{modality}")}
    left_out = added - names_of_ours(f"{JOINT_GROUP}.{modality}") if builtin_only else set()
    return {name: dataset for name, dataset in datasets_of(modality).items() if name not in left_out}


def joint() -> dict[str, type[Component]]:
    """Configurations of the installed datasets of several modalities by type."""
    return dict(joint_datasets())


def builtin_joint() -> dict[str, type[Component]]:
    """Those of them that come with this distribution."""
    return {name: dataset for name, dataset in joint_datasets().items() if name in names_of_ours(JOINT_GROUP)}


def tasks() -> dict[str, type[Component]]:
    """Task configurations by type."""
    return dict(TASKS)
