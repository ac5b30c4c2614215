"""Checks of the figures of a report."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image


def pictures(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.png")}


def assert_drawn(folder: Path) -> None:
    """Every picture of the page is there, no other is, and none is blank."""
    text = (folder / "report.md").read_text()
    assert set(re.findall(r"\]\(([\w-]+)\.png\)", text)) == pictures(folder)
    for path in folder.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 100, path
        assert (pixels < 250).mean() > 0.005, path
