"""The JSON Schema of configurations, for editors and for error messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from ..core.component import Component
from ..data.modality import Modality
from ..data.registry import modalities
from ..train.run_config import RunConfig, TowerConfig
from .sections import builtin_joint, builtin_modalities, datasets, joint, section_component, tasks, tokenizers

Schema = dict[str, Any]


def json_schema(builtin_only: bool = True) -> Schema:
    """The schema of the installed modalities.

    Args:
        builtin_only: leave out modalities that other packages add.
    """
    if builtin_only:
        return compose(builtin_modalities(), None, builtin_joint(), builtin_only=True)
    return compose(modalities(), None, joint())


def compose(
    installed: Mapping[str, type[Modality]],
    modality: str | None = None,
    joint: Mapping[str, type[Component]] | None = None,
    *,
    several: bool | None = None,
    builtin_only: bool = False,
) -> Schema:
    """The schema of some modalities.

    Args:
        installed: the modalities.
        modality: the one whose datasets are allowed; each with its own when absent.
        joint: datasets of several modalities.
        several: whether there are towers; either form is allowed when absent.
        builtin_only: leave out datasets that other packages add to them.
    """
    together = list(dict.fromkeys((joint or {}).values())) if several is not False else []
    data = {name: list(dict.fromkeys(datasets(name, builtin_only=builtin_only).values())) for name in installed}
    selected = [name for name in installed if modality in (None, name) and not several]
    unions: dict[str, list[type[Component]]] = {
        "modality": list(tokenizers(dict(installed)).values()),
        "task": list(dict.fromkeys(tasks().values())),
        "data": list(dict.fromkeys([*(config for name in selected for config in data[name]), *together])),
    }
    fields = {**TowerConfig.model_fields, **RunConfig.model_fields}
    towers = fields.pop("towers")
    sections = {name: unions.get(name) or [section_component(name)] for name in fields}
    components = [component for options in sections.values() for component in options]
    # All at once, so that components share their definitions.
    refs, definitions = models_json_schema(
        [(component, "validation") for component in dict.fromkeys(components)], ref_template="#/$defs/{model}"
    )

    def ref(component: type[Component]) -> Schema:
        return dict(refs[component, "validation"])

    properties: Schema = {}
    for name, field in fields.items():
        options = [ref(component) for component in sections[name]]
        body = options[0] if len(options) == 1 else {"anyOf": options}
        properties[name] = {"description": field.description, **body}
    if several is not False:
        tower = {name: properties[name] for name in TowerConfig.model_fields}
        item = {"type": "object", "properties": tower, "required": list(tower), "additionalProperties": False}
        several_items = {"type": "object", "minProperties": 2, "additionalProperties": item}
        properties["towers"] = {"description": towers.description, **several_items}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hrt-mm run",
        "type": "object",
        "properties": {"extends": _EXTENDS, **properties},
        "additionalProperties": False,
        # A file that extends another one may omit any section.
        "if": {"not": {"required": ["extends"]}},
        "then": {
            "required": [n for n, field in RunConfig.model_fields.items() if field.is_required() and n != "towers"],
            "oneOf": [{"required": list(TowerConfig.model_fields)}, {"required": ["towers"]}],
        },
        "allOf": [
            *(_own_data(name, [ref(config) for config in data[name]]) for name in selected),
            *([_joint_data([ref(config) for config in together])] if together else []),
        ],
        "$defs": {name: _typed(definition) for name, definition in definitions["$defs"].items()},
    }


_EXTENDS: Schema = {
    "description": "Configurations that this one is laid over: paths, or packaged names such as vision/digits.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


def _typed(definition: Schema) -> Schema:
    """A component's schema with ``type`` required, as it discriminates unions in YAML even if it has a default."""
    if "const" not in definition.get("properties", {}).get("type", {}):
        return definition
    return {**definition, "required": list(dict.fromkeys(["type", *definition.get("required", [])]))}


def _own_data(modality: str, options: list[Schema]) -> Schema:
    """The condition that a modality has one of its own datasets."""
    chosen = {"properties": {"type": {"const": modality}}, "required": ["type"]}
    return {
        "if": {"properties": {"modality": chosen}, "required": ["modality"]},
        "then": {"properties": {"data": {"anyOf": options}}},
    }


def _joint_data(options: list[Schema]) -> Schema:
    """The condition that towers have a dataset of several modalities."""
    return {"if": {"required": ["towers"]}, "then": {"properties": {"data": {"anyOf": options}}}}
