"""Fusion: what is known of a sample through several modalities, brought into one vector; any of them may be missing."""

from __future__ import annotations

from .config import Fusion
from .heads import FusionHead, build_head
from .streams import TowerStream

__all__ = ["Fusion", "FusionHead", "TowerStream", "build_head"]
