"""Regional compilation: ``torch.compile`` on each transformer block."""

from __future__ import annotations

import torch
from torch import nn

from ..core.block import Block

GRAPHS = 128
"""Recompile limit. Blocks share code, and each width needs graphs for training and evaluation, with static and then
dynamic sizes; beyond torch's default limit of 8 they would silently run without compilation."""


def compile_regions(task: nn.Module, backend: str = "inductor") -> None:
    """Compiles each transformer block of a task, or the whole task if it has none.

    Attention is excluded: its packing depends on sequence lengths on the host, which would recompile it for each batch.

    Args:
        task: compiled in place. Its weights keep their names.
        backend: of ``torch.compile``.
    """
    blocks = [module for module in task.modules() if isinstance(module, Block)]
    if not blocks:
        task.compile(backend=backend)
        return
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    for block in blocks:
        block.compile_around_attention(backend=backend)
