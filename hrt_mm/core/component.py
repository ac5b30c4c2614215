"""The base of every configuration model: strict, frozen, and plain data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue

DEPRECATED = "x-deprecated-keys"
"""Where the JSON Schema of a component lists its deprecated keys."""


class Component(BaseModel):
    """The configuration of one component. Unknown keys are errors, and instances are immutable.

    A subclass that renames a key lists the old name in :attr:`deprecated_keys`. The old name is then accepted, with a
    warning, in YAML, in overrides, in Python and in the configurations saved by earlier runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    deprecated_keys: ClassVar[Mapping[str, str]] = {}
    """New names of renamed keys, by their old names. Entries are kept for one release."""
    deprecated_types: ClassVar[Mapping[str, str]] = {}
    """New values of ``type``, by their old values; likewise."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        schema = handler(source)
        if cls.deprecated_keys or cls.deprecated_types:
            model: Any = handler.resolve_ref_schema(schema)
            while model["type"] != "model":  # under its validators
                model = model["schema"]
            # Python input is validated in lax mode, and renamed here. YAML is renamed before, and validated as strict
            # JSON; behind a function it would count as Python input, where a list is no tuple in strict mode.
            fields = model["schema"]
            rename = {"type": "no-info", "function": cls._rename_deprecated_keys}
            renamed = {"type": "function-before", "function": rename, "schema": fields}
            model["schema"] = {"type": "lax-or-strict", "lax_schema": renamed, "strict_schema": fields}
        return schema

    @classmethod
    def _rename_deprecated_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for old, new in cls.deprecated_keys.items():
            if old in data:
                if new in data:
                    raise ValueError(f"{old} is the former name of {new}; give {new} alone")
                warnings.warn(f"{cls.__name__}.{old} is deprecated; use {new}", FutureWarning, stacklevel=3)
        data = {cls.deprecated_keys.get(key, key): value for key, value in data.items()}
        if (kind := data.get("type")) in cls.deprecated_types:
            new = cls.deprecated_types[kind]
            warnings.warn(f"{cls.__name__}.type {kind!r} is deprecated; use {new!r}", FutureWarning, stacklevel=3)
            data["type"] = new
        return data

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        if cls.deprecated_keys:
            handler.resolve_ref_schema(described)[DEPRECATED] = dict(cls.deprecated_keys)
        return described


def all_deprecated_keys() -> set[str]:
    """The former keys of all components that are imported."""
    return {old for component in _subclasses(Component) for old in component.deprecated_keys}


def all_deprecated_types() -> dict[str, str]:
    """The new values of ``type`` of all components that are imported, by their old values."""
    return {old: new for component in _subclasses(Component) for old, new in component.deprecated_types.items()}


def _subclasses(component: type[Component]) -> Iterator[type[Component]]:
    for subclass in component.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def with_current_keys(saved: Any, config: Any) -> Any:
    """Renames the deprecated keys of a saved configuration, so that it can be compared with one of this version.

    Args:
        saved: what ``model_dump`` gave in an earlier version.
        config: the configuration to compare with; its components tell which keys of ``saved`` were renamed.
    """
    if isinstance(saved, dict):
        renamed = config.deprecated_keys if isinstance(config, Component) else {}
        current = {renamed.get(key, key): value for key, value in saved.items()}
        if isinstance(config, Component):
            if current.get("type") in config.deprecated_types:
                current["type"] = config.deprecated_types[current["type"]]
            return {key: with_current_keys(value, getattr(config, key, None)) for key, value in current.items()}
        values = config if isinstance(config, Mapping) else {}
        return {key: with_current_keys(value, values.get(key)) for key, value in current.items()}
    if isinstance(saved, list) and isinstance(config, list | tuple):
        missing = [None] * (len(saved) - len(config))
        return [with_current_keys(value, other) for value, other in zip(saved, [*config, *missing], strict=False)]
    return saved
