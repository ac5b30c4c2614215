"""How a group becomes one token: a registry of poolings, and a measure of what each one loses."""

from .attention import AttentionPooling
from .base import POOLINGS, Pooling, PoolingGroups, PoolingSpec, register_pooling
from .haar import HaarPooling, decompose, reconstruct
from .recovery import recovery
from .reductions import ConvPooling, MaxPooling, MeanPooling, SelectPooling

__all__ = [
    "POOLINGS",
    "AttentionPooling",
    "ConvPooling",
    "HaarPooling",
    "MaxPooling",
    "MeanPooling",
    "Pooling",
    "PoolingGroups",
    "PoolingSpec",
    "SelectPooling",
    "decompose",
    "reconstruct",
    "recovery",
    "register_pooling",
]
