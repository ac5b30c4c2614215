"""One token at a time through a causal hierarchy, equal to its forward pass over all of them.

A token runs through the blocks of its level. Where it starts a group, the group before it is complete and becomes a
token of the next level, for which the same holds; where the pooling takes a group's first token alone, the new group
becomes one at once. What the coarse level makes of its newest token comes back to all tokens until the next.

Shapes: B samples, A active ones, D width of a level, E of the next one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ...core.block import Block
from ...core.cross_scale import CausalDown
from ...core.hierarchy import Hierarchy, Stage
from ...core.levels import FixedGroups, GivenGroups
from ...core.norm import rms_norm
from ...core.plan import Groups
from ...core.segments import segment_mean
from ...core.smoothing import smooth_step
from ...core.spans import Spans
from ...core.transition import TopDown, Transition
from .cache import Cache, LevelCache
from .keys import KeyValues, Rows

Flags = Mapping[str, np.ndarray]


@torch.no_grad()
def step(hierarchy: Hierarchy, x_BD: Tensor, cache: Cache, starts: Flags | None = None) -> Tensor:
    """Advances every sample by a token.

    Args:
        hierarchy: a causal one.
        x_BD: the new token of each sample, embedded.
        cache: what it remembers; changed in place.
        starts: by name, (B,) bool on the host, whether a given group starts at the new token.

    Returns:
        (B, D) the tokens of level 0, normed as in a pyramid.
    """
    if not len(cache):
        return rms_norm(x_BD)
    rows = Rows(np.arange(len(cache)), len(cache), cache.device)
    # In float64, as the forward pass has positions that lie far out.
    place_A = torch.from_numpy(cache.first_B + cache.levels[0].count_B).to(cache.device)
    return rms_norm(_Stepper(hierarchy, cache).advance(0, x_BD, rows, place_A, starts or {}))


class _Stepper:
    """A step of a hierarchy.

    Args:
        hierarchy: the model.
        cache: what it remembers.
    """

    def __init__(self, hierarchy: Hierarchy, cache: Cache) -> None:
        self.hierarchy, self.cache = hierarchy, cache

    def advance(self, index: int, x_AD: Tensor, rows: Rows, place_A: Tensor, starts: Flags) -> Tensor:
        """A token a row through a level and all above it, (A, D).

        Args:
            index: place of the level.
            x_AD: the tokens.
            rows: the samples that they belong to.
            place_A: where they lie, in level-0 steps.
            starts: by name, (A,) whether a given group starts there.
        """
        level, stage = self.cache.levels[index], self.hierarchy.stages[index]
        assert isinstance(stage, Stage)
        at_A = level.count_B[rows.places]
        unit_C = self.cache.steps[index]
        rope = stage.rotary.rotations(place_A[:, None], unit_C, x_AD)
        for block, kept in zip(stage.encoder, level.encoder, strict=True):
            x_AD = _block(block, x_AD, rope, kept, rows, at_A)
        if level.open is not None:
            self._group(index, x_AD, rows, place_A, starts)
            x_AD = self._descend(index, x_AD, rows, place_A)
            for block, kept in zip(stage.decoder, level.decoder, strict=True):
                x_AD = _block(block, x_AD, rope, kept, rows, at_A)
        level.count_B[rows.places] += 1
        return x_AD

    def _group(self, index: int, x_AD: Tensor, rows: Rows, place_A: Tensor, starts: Flags) -> None:
        """Puts the tokens into their groups, and what became a token of the next level there."""
        level, transition = self.cache.levels[index], self.hierarchy.transitions[index]
        assert isinstance(transition, Transition) and level.open is not None
        begins_A, chance_A = self._begins(transition, level, x_AD, rows, starts)
        if begins_A.any():
            begun = rows.among(begins_A)
            if not transition.inclusive:
                self._complete(index, begun)
            if level.open.chance_B is not None:
                assert chance_A is not None
                begun.put(level.open.chance_B, _chosen(chance_A, begins_A))
            if transition.inclusive:
                above = {
                    name: flags[begun.places] | starts[name][begins_A] for name, flags in level.open.started.items()
                }
                own = Spans.from_lengths([1] * len(begun.places), x_AD.device)
                self._push(index, begun, _chosen(x_AD, begins_A), own, _chosen(place_A, begins_A), above)
            level.groups_B[begun.places] += 1
            level.open.size_B[begun.places] = 0
            for flags in level.open.started.values():
                flags[begun.places] = False
        for name, flags in level.open.started.items():
            flags[rows.places] |= starts[name] & ~begins_A if transition.inclusive else starts[name]
        level.open.append(x_AD, place_A, rows)

    def _begins(
        self, transition: Transition, level: LevelCache, x_AD: Tensor, rows: Rows, starts: Flags
    ) -> tuple[np.ndarray, Tensor | None]:
        """(A,) whether a group starts at each token, and with learned groups how likely that was."""
        assert level.open is not None
        size_A = level.open.size_B[rows.places]
        first_A = level.count_B[rows.places] == 0
        group = transition.group
        if isinstance(group, FixedGroups):
            return first_A | (size_A == (group.stride if isinstance(group.stride, int) else group.stride[0])), None
        if isinstance(group, GivenGroups):
            return first_A | starts[group.boundary] | (size_A == (group.max or -1)), None
        assert transition.router is not None and level.open.before_BD is not None
        before_AD = rms_norm(rows.of(level.open.before_BD))
        chance_A = transition.router.between(before_AD, rms_norm(x_AD))
        chance_A = chance_A.masked_fill(torch.from_numpy(first_A).to(chance_A.device), 1.0)
        return (chance_A > 0.5).cpu().numpy() | (size_A == group.max), chance_A

    def _complete(self, index: int, begun: Rows) -> None:
        """Makes tokens of the groups that lie before the new ones; before a sample's first there is none."""
        level = self.cache.levels[index]
        assert level.open is not None
        whole_A = level.groups_B[begun.places] > 0
        if not whole_A.any():
            return
        done = begun.among(whole_A)
        sizes = level.open.size_B[done.places]
        longest = int(sizes.max())
        x_ASD, place_AS = done.of(level.open.x_BSD)[:, :longest], done.of(level.open.place_BS)[:, :longest]
        if (sizes == longest).all():
            x_TD, place_T = x_ASD.flatten(0, 1), place_AS.flatten()
        else:
            real = torch.from_numpy(np.arange(longest) < sizes[:, None]).to(x_ASD.device)
            x_TD, place_T = x_ASD[real], place_AS[real]
        above = {name: flags[done.places] for name, flags in level.open.started.items()}
        self._push(index, done, x_TD, Spans.from_lengths(torch.from_numpy(sizes), x_TD.device), place_T, above)

    def _push(self, index: int, rows: Rows, x_TD: Tensor, spans: Spans, place_T: Tensor, starts: Flags) -> None:
        """Groups become tokens of the next level, and what that makes of them comes back from now on.

        Args:
            index: place of the level that they are groups of.
            rows: the samples that they belong to.
            x_TD: their tokens.
            spans: which are whose.
            place_T: where these lie.
            starts: by name, (A,) whether a given group starts at the new tokens.
        """
        level, transition = self.cache.levels[index], self.hierarchy.transitions[index]
        assert isinstance(transition, Transition)
        groups = Groups(spans, spans.singletons, transition.group_size)
        x_AE = transition.pooled(x_TD, groups, place_T[:, None] / self.cache.steps[index])
        place_A = segment_mean(place_T[:, None], spans)[:, 0]
        x_AE = self.advance(index + 1, x_AE, rows, place_A, starts)
        if level.back_BD is not None:
            top_down = self.hierarchy.top_down[index]
            assert isinstance(top_down, TopDown)
            back_AD = top_down.project(x_AE)
            if level.open is not None and level.open.chance_B is not None:
                back_AD = smooth_step(back_AD, rows.of(level.open.chance_B), rows.of(level.back_BD))
            rows.put(level.back_BD, back_AD.to(level.back_BD.dtype))
        if level.down is not None:
            down = self._down(index)
            k_AHE, v_AHE = down.keys_values(x_AE, self._rope_down(index, place_A, rows))
            level.down.append(k_AHE, v_AHE, rows, level.groups_B[rows.places])

    def _descend(self, index: int, x_AD: Tensor, rows: Rows, place_A: Tensor) -> Tensor:
        """Adds what comes back from the next level."""
        level = self.cache.levels[index]
        if level.down is not None:
            down = self._down(index)
            q_AHE = down.queries(x_AD, self._rope_down(index, place_A, rows))
            seen_AHE = level.down.attend(q_AHE, rows, level.groups_B[rows.places] - 1)
            x_AD = x_AD + down.gated(seen_AHE)
        return x_AD if level.back_BD is None else x_AD + rows.of(level.back_BD)

    def _rope_down(self, index: int, place_A: Tensor, rows: Rows) -> Tensor:
        """The turns of what looks at the next level, or is looked at; counted from the null key, if there is one."""
        down = self._down(index)
        if down.null_key is not None:
            place_A = place_A - torch.from_numpy(self.cache.first_B[rows.places]).to(place_A.device)
        return down.rope(place_A[:, None], self.cache.steps[index])

    def _down(self, index: int) -> CausalDown:
        down = self.hierarchy.down[index]
        assert isinstance(down, CausalDown)
        return down


def _chosen(x_A: Tensor, chosen_A: np.ndarray) -> Tensor:
    """Some of the rows."""
    return x_A if chosen_A.all() else x_A[torch.from_numpy(np.flatnonzero(chosen_A)).to(x_A.device)]


def _block(block: nn.Module, x_AD: Tensor, rope: Tensor, kept: KeyValues, rows: Rows, at_A: np.ndarray) -> Tensor:
    """A token a row through a block, (A, D)."""
    assert isinstance(block, Block)
    attention = block.attention
    q_AHE, k_AKE, v_AKE = attention.queries_keys_values(rms_norm(x_AD), rope)
    seen_AHE = kept.step(q_AHE, k_AKE, v_AKE, rows, at_A)
    x_AD = x_AD + attention.out(seen_AHE.flatten(1))
    return x_AD + block.mlp(rms_norm(x_AD))
