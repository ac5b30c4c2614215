"""Several tokens at once through a causal hierarchy that remembers those before: a chunk of its forward pass.

The new tokens of a level run through its blocks, together with the keys of those before that they see. The groups that
they complete become new tokens of the next level, for which the same holds; what comes back from there meets the tokens
that may see it. The result equals both the forward pass and ``hrt_mm.inference.generation.step``, at any size of the
chunks.

Shapes: N new tokens, M with those of the open group, G groups, D width of a level, E of the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from ...core.block import Block
from ...core.cross_scale import CausalDown
from ...core.hierarchy import Hierarchy, Stage
from ...core.norm import rms_norm
from ...core.plan import Groups
from ...core.segments import segment_mean
from ...core.smoothing import smooth
from ...core.spans import Spans
from ...core.transition import TopDown, Transition
from .memory import LevelMemory, Window
from .runs import Flags, Runs


@dataclass(frozen=True, eq=False)
class Made:
    """New tokens of a level.

    Args:
        x_ND: tokens as they are before the next pass up.
        place_N: float64, where they lie in level-0 steps.
    """

    x_ND: Tensor
    place_N: Tensor


class Advance:
    """A chunk's way through a hierarchy.

    Args:
        hierarchy: a causal one.
        levels: what each level remembers; changed.
        steps: level-0 steps of a token of each level.
    """

    def __init__(self, hierarchy: Hierarchy, levels: Sequence[LevelMemory], steps: Sequence[Tensor]) -> None:
        self.hierarchy, self.levels, self.steps = hierarchy, levels, steps
        self.made: list[list[Made]] = [[] for _ in levels]
        self.sizes: list[list[int]] = [[] for _ in levels]
        """Tokens of the groups that ended, by level."""

    def feed(self, index: int, x_ND: Tensor, place_N: Tensor, starts: Flags) -> Tensor:
        """New tokens, one or more, through a level and all above it, (N, D).

        Args:
            index: place of the level.
            x_ND: the tokens.
            place_N: where they lie.
            starts: by name, whether a given group starts at each.
        """
        level, stage = self.levels[index], self.hierarchy.stages[index]
        assert isinstance(stage, Stage)
        rope = stage.rotary.rotations(place_N[:, None], self.steps[index], x_ND)
        for block, window in zip(stage.encoder, level.encoder, strict=True):
            x_ND = _block(block, x_ND, rope, window)
        if index + 1 < len(self.levels):
            x_ND = self._with_above(index, x_ND, place_N, starts)
            for block, window in zip(stage.decoder, level.decoder, strict=True):
                x_ND = _block(block, x_ND, rope, window)
        self.made[index].append(Made(x_ND, place_N))
        return x_ND

    def end(self) -> None:
        """Completes the open groups of all levels, as the end of the input does."""
        for index, level in enumerate(self.levels[:-1]):
            if not len(level.open_SD):
                continue
            self.sizes[index].append(len(level.open_SD))
            if not self._transition(index).inclusive:
                above = {name: np.array([flag]) for name, flag in level.started.items()}
                self._push(index, level.open_SD, level.place_S, np.zeros(1, dtype=np.int64), above)

    def _with_above(self, index: int, x_ND: Tensor, place_N: Tensor, starts: Flags) -> Tensor:
        """Puts new tokens into their groups, and adds to them what comes back from the next level."""
        level, transition = self.levels[index], self._transition(index)
        runs = Runs.of(transition, level, x_ND, starts)
        x_MD, place_M = torch.cat([level.open_SD, x_ND]), torch.cat([level.place_S, place_N])
        above = runs.above(level, starts, inclusive=transition.inclusive)
        last = int(runs.heads[-1])
        self.sizes[index] += runs.sizes[:-1].tolist()
        if transition.inclusive:
            rows = torch.from_numpy(runs.begun).to(x_MD.device)
            coarse = self._push(index, x_MD[rows], place_M[rows], np.arange(len(rows)), above)
        else:
            coarse = self._push(index, x_MD[:last], place_M[:last], runs.heads[:-1], above)
        found_ND = self._come_back(index, x_ND, place_N, runs, coarse)
        level.open_SD, level.place_S = x_MD[last:].clone(), place_M[last:].clone()
        return found_ND

    def _push(self, index: int, x_TD: Tensor, place_T: Tensor, heads: np.ndarray, above: Flags) -> Made | None:
        """Groups become tokens of the next level; gives those as they come back from there, or ``None`` for none.

        Args:
            index: place of the level that they are groups of.
            x_TD: their tokens.
            place_T: where these lie.
            heads: (G,) where each group starts.
            above: by name, whether a given group starts at each new token.
        """
        if not len(heads):
            return None
        transition = self._transition(index)
        offsets = np.append(heads, len(x_TD)).astype(np.int64)
        spans = Spans(torch.from_numpy(offsets), x_TD.device)
        groups = Groups(spans, spans.singletons, transition.group_size)
        x_GE = transition.pooled(x_TD, groups, place_T[:, None] / self.steps[index])
        place_G = segment_mean(place_T[:, None], spans)[:, 0]
        return Made(self.feed(index + 1, x_GE, place_G, above), place_G)

    def _come_back(self, index: int, x_ND: Tensor, place_N: Tensor, runs: Runs, coarse: Made | None) -> Tensor:
        """Adds to new tokens what they see of the next level."""
        level = self.levels[index]
        look_ND = self._look_up(index, x_ND, place_N, runs, coarse)
        back_ND = self._spread(index, runs, coarse)
        for part_ND in (look_ND, back_ND):
            x_ND = x_ND if part_ND is None else x_ND + part_ND
        if runs.chance_N is not None and len(runs.begun):
            place = int(runs.begun[-1]) - runs.open
            level.chance_1 = runs.chance_N[place : place + 1].clone()
        return x_ND

    def _look_up(self, index: int, x_ND: Tensor, place_N: Tensor, runs: Runs, coarse: Made | None) -> Tensor | None:
        kept = self.levels[index].down
        if kept is None:
            return None
        down, unit_C = self.hierarchy.down[index], self.steps[index]
        assert isinstance(down, CausalDown)
        new = (kept.k_SKE[:0], kept.v_SKE[:0])
        if coarse is not None:
            new = down.keys_values(coarse.x_ND, down.rope(coarse.place_N[:, None], unit_C))
        k_SHE, v_SHE = kept.extended(*new)
        q_NHE = down.queries(x_ND, down.rope(place_N[:, None], unit_C))
        groups = runs.new.to(x_ND.device)
        rows, keys = _runs_of(len(groups), len(k_SHE), x_ND.device)
        window = None if kept.keep is None else kept.keep - 1
        return down.gated(down.seen(q_NHE, k_SHE, v_SHE, groups, rows, keys, window=window))

    def _spread(self, index: int, runs: Runs, coarse: Made | None) -> Tensor | None:
        """(N, D) what ``top_down`` brings back to new tokens; notes what those of the open group get from now on."""
        level = self.levels[index]
        if level.back_1D is None:
            return None
        back_GD = level.back_1D
        if coarse is not None:
            back_GD = self._mapped(index, runs, coarse)
        first = int(self._transition(index).inclusive and not runs.open)
        level.back_1D = back_GD[-1:].clone()
        return back_GD[first:].index_select(0, runs.new.ids.to(back_GD.device))

    def _mapped(self, index: int, runs: Runs, coarse: Made) -> Tensor:
        """(1 + G, D) what came back before, and what comes back from each new group."""
        level, top_down = self.levels[index], self.hierarchy.top_down[index]
        assert isinstance(top_down, TopDown) and level.back_1D is not None
        mapped_GD = torch.cat([level.back_1D, top_down.project(coarse.x_ND).to(level.back_1D.dtype)])
        transition = self._transition(index)
        if runs.chance_N is None or not getattr(transition.group, "smooth", False):
            return mapped_GD
        begun = torch.from_numpy(runs.begun - runs.open).to(mapped_GD.device)
        prob_G = runs.chance_N[begun]
        if not transition.inclusive:
            # The groups that come back are those before the ones that begin.
            before = level.chance_1 if runs.open else prob_G[:0]
            prob_G = torch.cat([before, prob_G[:-1]])
        prob_G = torch.cat([prob_G.new_ones(1), prob_G])
        return smooth(mapped_GD, prob_G, Spans.from_lengths([len(mapped_GD)], mapped_GD.device))

    def _transition(self, index: int) -> Transition:
        transition = self.hierarchy.transitions[index]
        assert isinstance(transition, Transition)
        return transition


@lru_cache(maxsize=256)
def _runs_of(queries: int, keys: int, device: torch.device) -> tuple[Spans, Spans]:
    """One run of queries and one of keys. They hold how attention is planned over them, which takes longer than it."""
    return Spans.from_lengths([queries], device), Spans.from_lengths([keys], device)


def _block(block: nn.Module, x_ND: Tensor, rope: Tensor, window: Window) -> Tensor:
    """New tokens through a block, (N, D)."""
    assert isinstance(block, Block)
    attention = block.attention
    q_NHE, k_NKE, v_NKE = attention.queries_keys_values(rms_norm(x_ND), rope)
    k_SKE, v_SKE = window.extended(k_NKE, v_NKE)
    rows, keys = _runs_of(len(q_NHE), len(k_SKE), x_ND.device)
    seen_NHE = attention.attend(
        q_NHE, k_SKE, v_SKE, rows, keys, window=window.keep, causal=True, backend=attention.backend
    )
    x_ND = x_ND + attention.out(seen_NHE.flatten(1))
    return x_ND + block.mlp(rms_norm(x_ND))
