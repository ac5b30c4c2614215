"""The JSON Schema of a run's configuration, for editors and for telling users what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from ..component import Component
from ..modality import Modality, modalities
from .sections import RunConfig, builtin_modalities, datasets, section_component, tasks, tokenizers

Schema = dict[str, Any]


def json_schema(builtin_only: bool = True) -> Schema:
    """The schema of the installed modalities.

    Args:
        builtin_only: leave out modalities that other packages add.
    """
    return compose(builtin_modalities() if builtin_only else modalities())


def compose(installed: Mapping[str, type[Modality]], modality: str | None = None) -> Schema:
    """The schema of some modalities.

    Args:
        installed: the modalities.
        modality: the one whose datasets are allowed; each with its own when absent.
    """
    data = {name: list(dict.fromkeys(datasets(plugin).values())) for name, plugin in installed.items()}
    shown = [name for name in installed if modality in (None, name)]
    unions: dict[str, list[type[Component]]] = {
        "modality": list(tokenizers(dict(installed)).values()),
        "task": list(dict.fromkeys(tasks().values())),
        "data": list(dict.fromkeys(config for name in shown for config in data[name])),
    }
    sections = {name: unions.get(name) or [section_component(name)] for name in RunConfig.model_fields}
    components = [component for options in sections.values() for component in options]
    refs, definitions = models_json_schema(
        [(component, "validation") for component in dict.fromkeys(components)], ref_template="#/$defs/{model}"
    )

    def ref(component: type[Component]) -> Schema:
        return dict(refs[component, "validation"])

    properties: Schema = {}
    for name, field in RunConfig.model_fields.items():
        options = [ref(component) for component in sections[name]]
        body = options[0] if len(options) == 1 else {"anyOf": options}
        properties[name] = {"description": field.description, **body}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hrt-mm run",
        "type": "object",
        "properties": {"extends": _EXTENDS, **properties},
        "additionalProperties": False,
        # A file that extends another one may leave out whatever that one has.
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": [name for name, field in RunConfig.model_fields.items() if field.is_required()]},
        "allOf": [_own_data(name, [ref(config) for config in data[name]]) for name in shown],
        "$defs": {name: _typed(definition) for name, definition in definitions["$defs"].items()},
    }


_EXTENDS: Schema = {
    "description": "Configurations that this one is laid over: paths, or packaged names such as vision/digits.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


def _typed(definition: Schema) -> Schema:
    """A component's schema with its ``type`` required: in YAML it tells a union apart, whatever its default."""
    if "const" not in definition.get("properties", {}).get("type", {}):
        return definition
    return {**definition, "required": list(dict.fromkeys(["type", *definition.get("required", [])]))}


def _own_data(modality: str, options: list[Schema]) -> Schema:
    """The rule that a modality takes its own datasets alone."""
    chosen = {"properties": {"type": {"const": modality}}, "required": ["type"]}
    return {
        "if": {"properties": {"modality": chosen}, "required": ["modality"]},
        "then": {"properties": {"data": {"anyOf": options}}},
    }
