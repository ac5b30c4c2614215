"""The picture of the hierarchy is the one that its script draws."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ASSETS = Path(__file__).parents[2] / "docs" / "assets"


def test_pictures_are_current() -> None:
    spec = importlib.util.spec_from_file_location("draw_hierarchy", ASSETS / "draw_hierarchy.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, theme in script.THEMES.items():
        path = ASSETS / f"hierarchy-{name}.svg"
        assert path.read_text(encoding="utf-8") == script.drawing(theme), "run: python docs/assets/draw_hierarchy.py"
