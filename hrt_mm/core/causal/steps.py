"""Prompts at once, then a token at a time: calls of the causal pass, with what a batch has been given so far.

Shapes: B samples, D width of level 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..hierarchy import Hierarchy
from ..levels import GivenGroups
from ..norm import rms_norm
from ..plan import check_boundary
from ..pyramid import Pyramid
from ..source import SourceMemory
from ..tokens import Tokens
from .engine import CausalPass
from .groups import Flags
from .memory import Memory


@torch.no_grad()
def prefill(hierarchy: Hierarchy, tokens: Tokens, source: SourceMemory | None = None) -> tuple[Pyramid, Memory]:
    """Runs prompts through a causal hierarchy.

    Args:
        hierarchy: a causal one.
        tokens: embedded prompts of any lengths, with the boundaries that it groups by.
        source: what its blocks read of another hierarchy, of as many samples.

    Returns:
        A pyramid of level 0 alone, and the memory that :func:`step` continues from. The last group of a prompt may
        still be open, so that the levels above do not have their last token yet. Level 0 equals that of the forward
        pass up to rounding (1e-12 in float64), not bit for bit, because matrix products without that token are rounded
        differently.
    """
    hierarchy.check(tokens)
    for level in hierarchy.config.levels:
        if isinstance(level.group, GivenGroups):
            check_boundary(level, level.group, tokens.boundaries)
    memory = Memory(hierarchy, len(tokens), source)
    counts = tokens.spans.lengths.numpy().copy()
    given = counts > 0
    last_B = tokens.spans.host[1:][given] - 1
    # The next token lies a step behind the last one.
    memory.first_B[given] = tokens.coords_TC[last_B.to(tokens.device), 0].double().cpu().numpy() + 1 - counts[given]
    starts = {name: tokens.boundaries[name].numpy() for name in memory.given}
    x_TD = rms_norm(CausalPass(hierarchy, memory).feed(tokens.x, counts, starts))
    name = memory.names[0]
    return Pyramid((name,), {name: tokens.with_x(x_TD)}, {}, {name: ()}, {}, {}), memory


@torch.no_grad()
def step(hierarchy: Hierarchy, x_BD: Tensor, cache: Memory, starts: Flags | None = None) -> Tensor:
    """Advances every sample by a token.

    Args:
        hierarchy: a causal one.
        x_BD: the new token of each sample, embedded.
        cache: what it remembers; changed in place.
        starts: by name, (B,) bool on the host, whether a given group starts at the new token.

    Returns:
        (B, D) the tokens of level 0, normed as in a pyramid.
    """
    return rms_norm(CausalPass(hierarchy, cache).feed(x_BD, np.ones(len(cache), dtype=np.int64), starts or {}))
