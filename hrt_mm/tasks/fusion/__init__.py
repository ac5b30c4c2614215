"""Fusion: several modalities of a sample, any of which may be missing, to one vector or one prediction."""

from __future__ import annotations

from .config import Fusion
from .heads import Experts, FusionHead, build_head
from .streams import TowerStream

__all__ = ["Experts", "Fusion", "FusionHead", "TowerStream", "build_head"]
