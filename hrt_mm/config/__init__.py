"""Configuration: YAML files and overrides to validated, frozen components."""

from __future__ import annotations

from .check import check
from .layers import packaged_configs
from .resolved import resolved_yaml
from .root import load_config
from .schema import json_schema
from .sections import RunConfig

__all__ = ["RunConfig", "check", "json_schema", "load_config", "packaged_configs", "resolved_yaml"]
