"""Prompts through the forward pass, all tokens at once, remembered as if they had been stepped through.

Shapes: B samples, T tokens, K key heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.cross_scale import CausalDown
from ...core.hierarchy import Hierarchy, Stage
from ...core.pyramid import Pyramid
from ...core.spans import Spans
from ...core.tokens import Tokens
from ...core.transition import TopDown, Transition
from .cache import Cache, LevelCache
from .keys import KeyValues

Pair = tuple[Tensor, Tensor]


@dataclass
class _Seen:
    """What a forward pass made on one level.

    Args:
        keys: keys and values of the blocks, on the way up and then on the way down.
        down: those that the level's tokens saw of the next one.
        x_TD: tokens before they are pooled.
        coarse: tokens of the next level as they come back.
        prob_G: of groups that are smoothed, the probability of the boundary that each starts at.
    """

    keys: list[Pair] = field(default_factory=list)
    down: Pair | None = None
    x_TD: Tensor | None = None
    coarse: Tensor | None = None
    prob_G: Tensor | None = None


@torch.no_grad()
def prefill(hierarchy: Hierarchy, tokens: Tokens) -> tuple[Pyramid, Cache]:
    """Runs prompts through a causal hierarchy.

    Args:
        hierarchy: a causal one.
        tokens: embedded prompts of any lengths, with the boundaries that it groups by.

    Returns:
        What its forward pass gives, and what it remembers, for :func:`~hrt_mm.inference.generation.stepping.step`.
    """
    cache = Cache(hierarchy, len(tokens))
    with _watched(hierarchy) as seen:
        pyramid: Pyramid = hierarchy(tokens)
    kept_B = tokens.spans.lengths.numpy().copy()
    # The next token lies a step behind the last one.
    last_B = tokens.spans.host[1:] - 1
    ends_B = tokens.coords_TC[last_B[kept_B > 0].to(tokens.device), 0].double().cpu().numpy()
    cache.first_B[kept_B > 0] = ends_B + 1 - kept_B[kept_B > 0]
    for index, level in enumerate(cache.levels):
        own = pyramid[index]
        level.count_B[:] = kept_B
        for kept, pair in zip([*level.encoder, *level.decoder], seen[index].keys, strict=True):
            _fill(kept, pair, own.spans, kept_B)
        if level.open is not None:
            transition = hierarchy.transitions[index]
            assert isinstance(transition, Transition)
            name = pyramid.names[index]
            kept_B = _fill_groups(level, transition, own, pyramid.groups[name], seen[index], kept_B)
            if level.back_BD is not None:
                _fill_back(level.back_BD, hierarchy.top_down[index], pyramid[index + 1].spans, seen[index], kept_B)
    return pyramid, cache


def _fill(kept: KeyValues, pair: Pair, samples: Spans, count_B: np.ndarray) -> None:
    for sample, (first, count) in enumerate(zip(samples.host.tolist(), count_B.tolist(), strict=False)):
        kept.fill(sample, *(part[first : first + count] for part in pair))


def _fill_groups(
    level: LevelCache, transition: Transition, tokens: Tokens, groups: Spans, seen: _Seen, kept_B: np.ndarray
) -> np.ndarray:
    """The groups of a level's first ``kept_B`` tokens of each sample; returns how many the next level has of them."""
    assert level.open is not None and seen.x_TD is not None
    starts = groups.host.numpy()[:-1]
    first_group = np.searchsorted(starts, tokens.spans.host.numpy()[:-1])
    for sample, (first, count) in enumerate(zip(tokens.spans.host.tolist(), kept_B.tolist(), strict=False)):
        last_group = int(np.searchsorted(starts, first + count)) if count else int(first_group[sample])
        level.groups_B[sample] = last_group - first_group[sample]
        if not level.groups_B[sample]:
            continue
        begin, end = int(starts[last_group - 1]), first + count
        since = slice(begin + transition.inclusive, end)
        flags = {name: bool(tokens.boundaries[name][since].any()) for name in level.open.started}
        level.open.put(sample, seen.x_TD[begin:end], tokens.coords_TC[begin:end, 0], flags)
        if level.open.chance_B is not None and seen.prob_G is not None:
            level.open.chance_B[sample] = seen.prob_G[last_group - 1]
        if level.down is not None and seen.down is not None:
            own = slice(int(first_group[sample]), last_group)
            level.down.fill(sample, *(part[own] for part in seen.down))
    if transition.inclusive:
        return level.groups_B.copy()
    return np.maximum(level.groups_B - 1, 0)


def _fill_back(back_BD: Tensor, top_down: nn.Module, samples: Spans, seen: _Seen, kept_B: np.ndarray) -> None:
    assert isinstance(top_down, TopDown) and seen.coarse is not None
    back_GD = top_down.project_groups(seen.coarse, samples, seen.prob_G)
    for sample in np.flatnonzero(kept_B):
        last = int(samples.host[sample]) + int(kept_B[sample]) - 1
        back_BD[sample] = back_GD[last].to(back_BD.dtype)


@contextmanager
def _watched(hierarchy: Hierarchy) -> Iterator[list[_Seen]]:
    """Collects what a forward pass makes."""
    seen = [_Seen() for _ in hierarchy.stages]
    attending: list[tuple[Any, Callable[..., Tensor]]] = []
    hooks = []

    def watch(module: Any, keep: Callable[[Pair], None]) -> None:
        attending.append((module, module.attend))
        module.attend = partial(_kept, module.attend, keep)

    for stage, own in zip(hierarchy.stages, seen, strict=True):
        assert isinstance(stage, Stage)
        for block in [*stage.encoder, *stage.decoder]:
            watch(block.attention, own.keys.append)
    for transition, own in zip(hierarchy.transitions, seen, strict=False):
        hooks.append(transition.register_forward_pre_hook(partial(_keep_tokens, own)))
    for top_down, own in zip(hierarchy.top_down, seen, strict=False):
        hooks.append(top_down.register_forward_pre_hook(partial(_keep_coarse, own)))
    for down, own in zip(hierarchy.down, seen, strict=False):
        assert isinstance(down, CausalDown)
        watch(down, partial(setattr, own, "down"))
    try:
        yield seen
    finally:
        for module, attend in attending:
            module.attend = attend
        for hook in hooks:
            hook.remove()


def _kept(
    attend: Callable[..., Tensor],
    keep: Callable[[Pair], None],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *rest: Any,
    **options: Any,
) -> Tensor:
    keep((k, v))
    return attend(q, k, v, *rest, **options)


def _keep_tokens(seen: _Seen, module: nn.Module, args: tuple[Any, ...]) -> None:
    seen.x_TD = args[0]


def _keep_coarse(seen: _Seen, module: nn.Module, args: tuple[Any, ...]) -> None:
    seen.coarse, seen.prob_G = args[0], args[3]
