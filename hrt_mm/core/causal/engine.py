"""The incremental forward pass of a causal hierarchy: one engine for prompts, decoding steps and streams.

New tokens of a level run through its blocks and attend to cached keys. The groups that they complete become new tokens
of the next level, recursively, whose output is added to the tokens that may see it. The result equals that of the full
forward pass, for any division of the input into calls.

A prompt is a call with an empty memory, a decoding step a call with one token per sample, and a stream a call with a
chunk of one sample.

Shapes: N new tokens of a level, C new tokens of the next one, D width of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..cross_scale import CausalDown
from ..hierarchy import Hierarchy
from ..plan import Groups
from ..smoothing import smooth
from ..spans import Spans
from .groups import Flags, Runs, boundaries
from .memory import Memory
from .new_tokens import NewTokens, by_sample


@dataclass(frozen=True, eq=False)
class LevelTokens:
    """New tokens of a level.

    Args:
        x_ND: the tokens, before the last pass up (``cross_scale.up``).
        position_N: float64, their coordinates in level-0 units.
    """

    x_ND: Tensor
    position_N: Tensor

    @classmethod
    def concat(cls, parts: Sequence[LevelTokens]) -> LevelTokens:
        """Concatenates the tokens of several calls, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(torch.cat([part.x_ND for part in parts]), torch.cat([part.position_N for part in parts]))


class CausalPass:
    """One call: new tokens of level 0, and the tokens of the levels above that they complete.

    Args:
        hierarchy: a causal hierarchy in evaluation mode.
        memory: its state, updated in place.
    """

    def __init__(self, hierarchy: Hierarchy, memory: Memory) -> None:
        self.hierarchy, self.memory = hierarchy, memory
        self.tokens: list[list[LevelTokens]] = [[] for _ in memory.levels]
        """New tokens of each level."""
        self.group_sizes: list[list[int]] = [[] for _ in memory.levels]
        """Sizes of the completed groups of each level, sample by sample."""

    def feed(self, x_ND: Tensor, counts: np.ndarray, starts: Flags) -> Tensor:
        """Runs new tokens of level 0 through the hierarchy, and returns the output of level 0, (N, D).

        Args:
            x_ND: the tokens, packed sample by sample.
            counts: (B,) int64 number of new tokens of each sample; may be 0.
            starts: given boundaries.
        """
        memory, count_B = self.memory, self.memory.levels[0].count_B
        (samples,) = counts.nonzero()
        if not len(samples):
            return x_ND
        new = NewTokens(samples, counts[samples], count_B[samples], len(count_B), memory.device)
        # Float64, as in the forward pass for long samples.
        position_N = torch.from_numpy(memory.first_B[samples][new.ids] + new.numbers).to(memory.device)
        return self._level(0, x_ND, position_N, new, starts)

    def end(self) -> None:
        """Completes the open groups of all levels, as the end of the input does."""
        # From fine to coarse: a group that is completed may add a token to the open group above it, which is then
        # complete as well.
        for index, level in enumerate(self.memory.levels[:-1]):
            group = level.open
            assert group is not None
            samples = np.flatnonzero(group.size_B)
            sizes = group.size_B[samples]
            if not len(samples):
                continue
            self.group_sizes[index] += sizes.tolist()
            # Otherwise the group's token was computed when the group began.
            if not self.hierarchy.transitions[index].inclusive:
                above = {name: flags[samples] for name, flags in group.started.items()}
                new = self._new_above(index, samples, np.ones_like(samples))
                self._coarser(index, *group.tokens(samples), sizes, new, above)

    def _level(self, index: int, x_ND: Tensor, position_N: Tensor, new: NewTokens, starts: Flags) -> Tensor:
        """Runs new tokens through a level and, recursively, those above, (N, D).

        Args:
            index: of the level.
            x_ND: the tokens.
            position_N: their positions.
            new: their samples.
            starts: given boundaries.
        """
        level, stage = self.memory.levels[index], self.hierarchy.stages[index]
        # Computed once for all blocks of the level.
        rope = stage.rotary.rotations(position_N[:, None], self.memory.unit_1[index], x_ND)
        source = self.memory.source.levels.get(index) if self.memory.source is not None else None
        reads = source.new_reads(position_N, new) if source is not None else None
        for block, keys, read in zip(stage.encoder, level.encoder, stage.stack_reads(reads, "encoder"), strict=True):
            x_ND = block.attend_to(x_ND, rope, keys, new, read)
        if level.open is not None:
            x_ND = self._exchange(index, x_ND, position_N, new, starts)
            decoders = zip(stage.decoder, level.decoder, stage.stack_reads(reads, "decoder"), strict=True)
            for block, keys, read in decoders:
                x_ND = block.attend_to(x_ND, rope, keys, new, read)
        # Last, since blocks and groups count from the tokens before this call.
        level.count_B[new.samples] += new.counts
        self.tokens[index].append(LevelTokens(x_ND, position_N))
        return x_ND

    def _exchange(self, index: int, x_ND: Tensor, position_N: Tensor, new: NewTokens, starts: Flags) -> Tensor:
        """Groups new tokens, runs the next level on completed groups, and adds its output to tokens that may see it."""
        level, transition = self.memory.levels[index], self.hierarchy.transitions[index]
        group = level.open
        assert group is not None
        begins, prob_N = boundaries(transition, group, x_ND, new, starts)
        runs = Runs(new, begins, group.size_B[new.samples], transition.inclusive)
        above = runs.starts_above(group, starts)
        coarse = prob_C = None
        # In most decoding steps no group begins: all tokens continue their groups, and the levels above get none.
        if len(runs.begin_rows):
            if group.prob_B is not None:
                assert prob_N is not None
                prob_C = runs.probabilities(group, prob_N)
            self.group_sizes[index] += runs.ended_sizes.tolist()
            level.groups_B[new.samples] += runs.begun
            if runs.coarse_counts.any():
                new_coarse = self._new_above(index, new.samples, runs.coarse_counts).subset(runs.coarse_counts > 0)
                coarse = self._coarser(index, *runs.complete(group, x_ND, position_N), new_coarse, above)
        group.update(x_ND, position_N, new, runs)
        attended_ND = self._attend_down(index, x_ND, position_N, runs, coarse)
        unpooled_ND = self._unpool(index, runs, coarse, prob_C)
        for branch_ND in (attended_ND, unpooled_ND):
            x_ND = x_ND if branch_ND is None else x_ND + branch_ND
        return x_ND

    def _new_above(self, index: int, samples: np.ndarray, counts: np.ndarray) -> NewTokens:
        """New tokens of the next level."""
        before = self.memory.levels[index + 1].count_B[samples]
        return NewTokens(samples, counts, before, len(self.memory), self.memory.device)

    def _coarser(
        self, index: int, x_TD: Tensor, position_T: Tensor, sizes: np.ndarray, new: NewTokens, starts: Flags
    ) -> LevelTokens:
        """Complete groups to tokens of the next level, as they come back from there.

        Args:
            index: of the level that they are groups of.
            x_TD: their tokens.
            position_T: positions of those.
            sizes: (C,) tokens of each group.
            new: the samples of the groups.
            starts: (C,) given boundaries at the groups.
        """
        transition = self.hierarchy.transitions[index]
        spans = Spans.from_lengths(torch.from_numpy(sizes), x_TD.device)
        # Pooling looks at single groups, so each one may stand for a sample of its own.
        groups = Groups(spans, spans.singletons, transition.group_size)
        x_CE = transition.pooled(x_TD, groups, position_T[:, None] / self.memory.unit_1[index])
        position_C = transition.coordinates(position_T[:, None], spans)[:, 0]
        return LevelTokens(self._level(index + 1, x_CE, position_C, new, starts), position_C)

    def _attend_down(
        self, index: int, x_ND: Tensor, position_N: Tensor, runs: Runs, coarse: LevelTokens | None
    ) -> Tensor | None:
        """Attention of new tokens to the next level (``cross_scale.down``), (N, D)."""
        keys = self.memory.levels[index].down
        if keys is None:
            return None
        down = self.hierarchy.down[index]
        assert isinstance(down, CausalDown)
        # The next level has counted its new tokens already. The null key is the first one of a sample.
        samples, counts = runs.new.samples, runs.coarse_counts
        before = self.memory.levels[index + 1].count_B[samples] - counts + (down.null_key is not None)
        new_keys = NewTokens(samples, counts, before, len(self.memory), self.memory.device)
        position_C = None if coarse is None else coarse.position_N
        if down.null_key is not None:
            # Coordinates are relative to that of the null key, the start of the sample.
            position_N = position_N - self._origin(runs.new, position_N)
            position_C = None if position_C is None else position_C - self._origin(new_keys, position_C)
        source = None if coarse is None or position_C is None else (coarse.x_ND, position_C[:, None])
        return down.attend_to(x_ND, position_N[:, None], source, self.memory.unit_1[index], keys, new_keys, runs)

    def _origin(self, new: NewTokens, like: Tensor) -> Tensor:
        """(N,) coordinate of the first token of the sample of each new token."""
        return torch.from_numpy(self.memory.first_B[new.samples][new.ids]).to(like.device)

    def _unpool(self, index: int, runs: Runs, coarse: LevelTokens | None, prob_C: Tensor | None) -> Tensor | None:
        """Rows of the next level for new tokens (``top_down``), (N, D)."""
        back_BD = self.memory.levels[index].back_BD
        if back_BD is None:
            return None
        if coarse is None:
            return runs.new.spread(back_BD)
        new_CD = self.hierarchy.top_down[index].project(coarse.x_ND).to(back_BD.dtype)
        if runs.new.single and prob_C is None and len(new_CD) == len(back_BD):
            # A decoding step in which the groups of all samples end: each new token gets the new row of its sample.
            back_BD.copy_(new_CD)
            return new_CD
        rows = torch.cat([runs.new.take(back_BD), new_CD])
        if prob_C is not None:
            rows = self._smoothed(runs, rows, prob_C)
        seen_R = runs.seen_rows
        # The last run of a sample stays open.
        last_A, ids_N = (torch.from_numpy(ids).to(rows.device) for ids in (runs.offsets[1:] - 1, runs.ids))
        runs.new.put(back_BD, rows.index_select(0, seen_R.index_select(0, last_A)))
        return rows.index_select(0, seen_R.index_select(0, ids_N))

    @staticmethod
    def _smoothed(runs: Runs, rows: Tensor, prob_C: Tensor) -> Tensor:
        """Smooths the new rows of each sample with the stored one, the first A; their order does not change."""
        ids = np.arange(len(runs.coarse_counts))
        order = torch.from_numpy(by_sample(ids, np.repeat(ids, runs.coarse_counts))).to(rows.device)
        prob = torch.cat([prob_C.new_ones(len(ids)), prob_C])
        samples = Spans.from_lengths(torch.from_numpy(runs.coarse_counts + 1), rows.device)
        smoothed = smooth(rows.index_select(0, order), prob.index_select(0, order), samples)
        return torch.empty_like(smoothed).index_copy_(0, order, smoothed)
