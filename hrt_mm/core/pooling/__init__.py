"""Poolings, which reduce a group to one token: a registry, and a measure of the information each one loses."""

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
