"""Configuration: YAML files and overrides to validated, frozen components."""

from __future__ import annotations

from ..train.check import check
from ..train.resolved import resolved_yaml
from ..train.run_config import RunConfig
from .layers import packaged_configs
from .root import load_config
from .schema import json_schema

__all__ = ["RunConfig", "check", "json_schema", "load_config", "packaged_configs", "resolved_yaml"]
