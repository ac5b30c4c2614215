"""Configuration: YAML files and overrides to validated, frozen components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import lazy_exports

if TYPE_CHECKING:
    from ..train.check import check
    from ..train.resolved import resolved_yaml
    from ..train.run_config import RunConfig
    from .packaged import packaged_configs
    from .root import load_config
    from .schema import json_schema
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "..train.check": ("check",),
            "..train.resolved": ("resolved_yaml",),
            "..train.run_config": ("RunConfig",),
            ".packaged": ("packaged_configs",),
            ".root": ("load_config",),
            ".schema": ("json_schema",),
        },
    )

__all__ = ["RunConfig", "check", "json_schema", "load_config", "packaged_configs", "resolved_yaml"]
