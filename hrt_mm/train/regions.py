"""``torch.compile`` where it pays: the transformer blocks, one by one."""

from __future__ import annotations

import torch
from torch import nn

from ..core.attention import attend
from ..core.block import Block

GRAPHS = 128
"""Graphs that the blocks' common code may have: levels of several widths, in training and evaluation, each with the
sizes it was first met with and then for any. Beyond the default of 8 torch would fall back without compiling."""


def compile_regions(task: nn.Module, backend: str = "inductor") -> None:
    """Compiles each transformer block of a task, or the whole task where it has none.

    What plans the runs of a batch, and the attention over them, goes by lengths on the host, which differ from batch to
    batch. Compiled, it would be compiled anew for each.

    Args:
        task: compiled in place; its weights keep their names.
        backend: of ``torch.compile``.
    """
    blocks = [module for module in task.modules() if isinstance(module, Block)]
    if not blocks:
        task.compile(backend=backend)
        return
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    # Were it disabled where it is defined, importing it would import the compiler.
    uncompiled = torch.compiler.disable(attend)
    for module in blocks:
        module.attention.attend = uncompiled
        module.compile(backend=backend)
