"""The packaged configurations, listed without reading them."""

from __future__ import annotations

from pathlib import Path

import hrt_mm


def config_root() -> Path:
    """The folder of the packaged configurations: in the package if installed from a wheel, else in the source tree."""
    package = Path(hrt_mm.__file__).parent
    inside = package / "_configs"
    return inside if inside.is_dir() else package.parent / "configs"


def packaged_configs() -> list[str]:
    """Names of the packaged configurations, such as ``vision/digits``."""
    root = config_root()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))
