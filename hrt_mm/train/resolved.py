"""Writes a configuration with its defaults, so that it keeps its meaning when they change."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import ValidationError

from ..core.component import Component
from ..data.yaml_scalars import core_resolvers
from .run_config import RunConfig


def resolved_yaml(config: RunConfig, *, ascii_only: bool = False) -> str:
    """A configuration as YAML with all defaults; loading it gives an equal one.

    Args:
        config: of a run.
        ascii_only: escape other characters.
    """
    plain = config.model_dump(mode="json")
    written = {name: _plain(section, plain[name]) for name, section in config.sections.items()}
    return yaml.dump(written, Dumper=_Dumper, sort_keys=False, allow_unicode=not ascii_only)


@core_resolvers
class _Dumper(yaml.SafeDumper):
    pass


def _written(component: Component) -> dict[str, Any]:
    """A component's settings, without defaults that it would reject beside the given ones.

    A component may reject a setting that has no effect, such as how images fit a size when none is set.
    """
    kind = type(component)
    plain = component.model_dump(mode="json")
    given = {name: getattr(component, name) for name in component.model_fields_set}
    return {
        name: _plain(getattr(component, name), plain[name])
        for name in kind.model_fields
        if name in plain
        if name in given or _accepts(kind, {**given, name: getattr(component, name)})
    }


def _accepts(kind: type[Component], settings: dict[str, Any]) -> bool:
    try:
        kind(**settings)
    except ValidationError:
        return False
    return True


def _plain(value: Any, dumped: Any) -> Any:
    """A setting as plain data, from its value and what pydantic dumped for it."""
    if isinstance(value, Component):
        return _written(value)
    if isinstance(value, list | tuple):
        return [_plain(*pair) for pair in zip(value, dumped, strict=True)]
    if isinstance(value, dict):
        return {key: _plain(item, dumped[key]) for key, item in value.items()}
    # Unescaped, ${ would start an interpolation when the file is read.
    return dumped.replace("${", "$${") if isinstance(dumped, str) else dumped
