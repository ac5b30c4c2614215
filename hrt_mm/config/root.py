"""Loads a run's configuration from its file and overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..component import Component
from ..modality import modalities
from .allowed import Allowed
from .interpolation import interpolate
from .layers import find_config, load_layers
from .messages import Problem, fail, one_of, show
from .nodes import Node
from .overrides import apply
from .schema import compose
from .sections import RunConfig, datasets, section_component, tasks, tokenizers
from .validation import Validator


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads, merges and validates a configuration.

    Args:
        source: a path, or the name of a packaged configuration such as ``vision/digits``.
        overrides: each ``a.b.c=value``, the value in YAML.

    Raises:
        ConfigError: lists every mistake with its line, its path, the value and what is allowed.
    """
    problems: list[Problem] = []
    layers = load_layers(find_config(str(source)), problems)
    root = interpolate(apply(layers, overrides, problems), problems)
    sections = _sections(root, problems)
    fail(problems)
    return RunConfig(**sections)


def _sections(root: Node, problems: list[Problem]) -> dict[str, Any]:
    """The validated sections by name; those with mistakes are left out."""
    installed = modalities()
    modality = _type(root, "modality")
    chosen = modality if modality in installed else None
    validator = Validator(root, Allowed(compose(installed, chosen)), problems)
    options: dict[str, Mapping[str, type[Component]]] = {
        "modality": tokenizers(installed),
        "task": tasks(),
        "data": datasets(installed[chosen]) if chosen else {},
    }
    assert isinstance(root.value, dict)
    for name in root.value:
        if name not in RunConfig.model_fields:
            validator.add((name,), validator.allowed.unknown_key((name,), validator.data))
    found: dict[str, Any] = {}
    for name, field in RunConfig.model_fields.items():
        if name not in root.value and field.is_required():
            validator.add((name,), f"the section is missing; expected {field.description}")
        elif name not in options:
            found[name] = validator.section(name, section_component(name))
        elif name != "data" or chosen:
            component = _component(name, root, options[name], validator)
            found[name] = validator.section(name, component) if component else None
    return found


def _type(root: Node, section: str) -> str | None:
    node = root.find((section, "type"))[0]
    return node.value if isinstance(node.value, str) else None


def _component(
    section: str, root: Node, options: Mapping[str, type[Component]], validator: Validator
) -> type[Component] | None:
    """The component that a section's ``type`` names; says what is wrong where it names none."""
    node = root.child(section)
    assert node is not None
    name = _type(root, section)
    if isinstance(node.value, dict) and name is not None and name in options:
        return options[name]
    known = ", ".join(options)
    if not isinstance(node.value, dict):
        hint = f"; write {{type: {name}}}" if name in options else ""
        validator.add((section,), f"got {show(node.data())}; expected a map with a type (one of {known}){hint}")
    elif "type" not in node.value:
        validator.add((section, "type"), f"the key is missing; expected one of {known}")
    else:
        word = node.value["type"].data()
        foreign = _foreign(word, _type(root, "modality"), list(options)) if section == "data" else None
        validator.add((section, "type"), foreign or one_of(word, list(options), f"{section} type"))
    return None


def _foreign(word: object, modality: str | None, options: Sequence[str]) -> str | None:
    """Why a dataset of another modality will not do."""
    owners = [name for name, plugin in modalities().items() if word in datasets(plugin)]
    if not owners:
        return None
    return (
        f"{show(word)} is a dataset of the modality {' and '.join(owners)}, but modality.type is {modality}; "
        f"expected one of {', '.join(options)}"
    )
