"""A stream over a causal hierarchy: embedded tokens go in, and the tokens of every level come out as they are finished.

A token of a coarse level is finished when its group has ended, which the first token after it shows. So level 0 is
never late, and each level above waits for a token of the one below: :func:`latencies`.

Shapes: N new tokens of a level, D its width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...core.causal import CausalPass, Flags, LevelTokens, Memory
from ...core.errors import UserError
from ...core.hierarchy import Hierarchy
from ...core.levels import HierarchyConfig
from ...core.norm import rms_norm
from ...core.spans import Spans


@dataclass(frozen=True, eq=False)
class Finished:
    """Tokens of a level that are finished.

    Args:
        x_ND: tokens, normed as in a pyramid.
        first_N: the level-0 token that each begins with, int64 on the host.
        last_N: the level-0 token before which each ends.
    """

    x_ND: Tensor
    first_N: np.ndarray
    last_N: np.ndarray

    def __len__(self) -> int:
        return len(self.x_ND)

    @classmethod
    def joined(cls, parts: Sequence[Finished]) -> Finished:
        """The tokens of several chunks, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            torch.cat([part.x_ND for part in parts]),
            np.concatenate([part.first_N for part in parts]),
            np.concatenate([part.last_N for part in parts]),
        )


class HierarchyStream:
    """Runs one sample through a causal hierarchy, chunk by chunk.

    Args:
        hierarchy: in evaluation mode.
        growing: allow memory to grow with the length of the sample, for levels that attend to everything.

    Raises:
        UserError: the hierarchy is not causal, has several axes, or needs memory that grows.
    """

    def __init__(self, hierarchy: Hierarchy, *, growing: bool = False) -> None:
        config = hierarchy.config
        if not config.causal or hierarchy.axes != 1:
            raise UserError("only a causal hierarchy over one axis can stream; train with model.causal: true")
        if not growing and (reason := unbounded(config)):
            raise UserError(reason)
        self.hierarchy, self.memory = hierarchy, Memory(hierarchy, 1)
        self.names = self.memory.names
        self._joins = [_Join(hierarchy, index, self.memory.unit_1[index]) for index in range(len(config.levels) - 1)]
        self._ended = False

    @property
    def nbytes(self) -> int:
        """Bytes held between chunks."""
        return self.memory.nbytes + sum(join.nbytes for join in self._joins)

    def none_start(self, count: int) -> dict[str, np.ndarray]:
        """Boundaries for ``count`` tokens at which no given group starts."""
        return {name: np.zeros(count, dtype=bool) for name in self.memory.given}

    @torch.inference_mode()
    def feed(self, x_ND: Tensor, starts: Flags | None = None) -> dict[str, Finished]:
        """Returns the tokens of each level that the next tokens of level 0 finish.

        Args:
            x_ND: embedded tokens of level 0; may be empty.
            starts: by name, (N,) bool on the host, whether a given group starts at each.

        Raises:
            UserError: the stream has ended, or the tokens do not fit.
        """
        starts = starts or {}
        self._check(x_ND, starts)
        call = self._call()
        call.feed(x_ND, np.array([len(x_ND)]), starts)
        return self._finished(call)

    @torch.inference_mode()
    def flush(self) -> dict[str, Finished]:
        """Completes the open groups at the end of the input, and returns the tokens that this finishes."""
        call = self._call()
        call.end()
        self._ended = True
        return self._finished(call)

    def _call(self) -> CausalPass:
        if self._ended:
            raise UserError("the stream has ended; start a new one")
        return CausalPass(self.hierarchy, self.memory)

    def _check(self, x_ND: Tensor, starts: Flags) -> None:
        width = self.hierarchy.config.levels[0].dim
        if x_ND.ndim != 2 or x_ND.shape[1] != width:
            raise UserError(f"level {self.names[0]!r} takes (N, {width}) tokens, not {tuple(x_ND.shape)}")
        for name in self.memory.given:
            if name not in starts or starts[name].shape != (len(x_ND),) or starts[name].dtype != bool:
                given = f"{starts[name].dtype} {starts[name].shape}" if name in starts else "nothing"
                raise UserError(
                    f"the stream groups by boundary {name!r}: give a bool array of {len(x_ND)} values, got {given}"
                )

    def _finished(self, call: CausalPass) -> dict[str, Finished]:
        levels, origin = self.hierarchy.config.levels, self.memory.unit_1[0]
        tokens = [_concat(parts, level.dim, origin) for parts, level in zip(call.tokens, levels, strict=True)]
        last = int(self.memory.levels[0].count_B[0])
        # Level-0 tokens are never late: those of this call are the newest ones.
        first_N = np.arange(last - len(tokens[0].x_ND), last)
        done = _Done(tokens[0], first_N, first_N + 1)
        result = {}
        for index, name in enumerate(self.names):
            if index:
                done = self._joins[index - 1].add(done, tokens[index], call.group_sizes[index - 1])
            result[name] = Finished(rms_norm(done.tokens.x_ND), done.first_N, done.last_N)
        return result


def _concat(parts: Sequence[LevelTokens], dim: int, like: Tensor) -> LevelTokens:
    """The tokens of several calls, or of none."""
    return (
        LevelTokens.concat(parts)
        if parts
        else LevelTokens(like.new_zeros(0, dim), like.new_zeros(0, dtype=torch.float64))
    )


@dataclass(frozen=True, eq=False)
class _Done:
    """Finished tokens of a level, with the range of level-0 tokens that each covers."""

    tokens: LevelTokens
    first_N: np.ndarray
    last_N: np.ndarray


class _Join:
    """Finishes the tokens of a level once their groups have ended: the last pass up (``cross_scale.up``).

    Args:
        hierarchy: the model.
        index: of the finer level.
        unit_C: level-0 steps per token of it.
    """

    def __init__(self, hierarchy: Hierarchy, index: int, unit_C: Tensor) -> None:
        self.up = hierarchy.up[index] if len(hierarchy.up) else None
        self.unit_C = unit_C
        levels = hierarchy.config.levels
        fine, self.coarse = (_concat([], level.dim, unit_C) for level in levels[index : index + 2])
        self.fine = _Done(fine, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        self.sizes: deque[int] = deque()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.fine.tokens.x_ND.nbytes + self.coarse.x_ND.nbytes

    def add(self, fine: _Done, coarse: LevelTokens, sizes: Sequence[int]) -> _Done:
        """Returns the coarse tokens that are finished now.

        Args:
            fine: finished tokens of the finer level, since the last call.
            coarse: new tokens of the coarser level.
            sizes: tokens in each group that ended.
        """
        fine = _Done(
            LevelTokens.concat([self.fine.tokens, fine.tokens]),
            np.append(self.fine.first_N, fine.first_N),
            np.append(self.fine.last_N, fine.last_N),
        )
        coarse = LevelTokens.concat([self.coarse, coarse])
        self.sizes.extend(sizes)
        ready: list[int] = []
        # A group is ready once all of its tokens are finished, which may take several calls.
        while self.sizes and sum(ready) + self.sizes[0] <= len(fine.first_N):
            ready.append(self.sizes.popleft())
        # Finished tokens wait in order, so ready groups are the first rows on both levels.
        used, count = sum(ready), len(ready)
        assert count <= len(coarse.x_ND)
        sizes_G = np.array(ready, dtype=np.int64)
        ends_G = sizes_G.cumsum()
        done = _Done(
            # A group covers the range from its first token's beginning to its last one's end.
            self._cross_attend(fine.tokens, coarse, ready),
            fine.first_N[ends_G - sizes_G],
            fine.last_N[ends_G - 1],
        )
        self.fine = _Done(_rest(fine.tokens, used), fine.first_N[used:].copy(), fine.last_N[used:].copy())
        self.coarse = _rest(coarse, count)
        return done

    def _cross_attend(self, fine: LevelTokens, coarse: LevelTokens, sizes: list[int]) -> LevelTokens:
        x_ND, position_N = coarse.x_ND[: len(sizes)], coarse.position_N[: len(sizes)]
        if not sizes or self.up is None:
            return LevelTokens(x_ND, position_N)
        # As in Hierarchy._ascend: one query per group, against the tokens of the group.
        up, spans, used = self.up, Spans.from_lengths(sizes, x_ND.device), sum(sizes)
        cross_ND = up.within(
            x_ND,
            position_N[:, None],
            spans.singletons,
            fine.x_ND[:used],
            fine.position_N[:used, None],
            spans,
            self.unit_C,
        )
        return replace(coarse, x_ND=x_ND + cross_ND, position_N=position_N)


def _rest(tokens: LevelTokens, used: int) -> LevelTokens:
    """The rows from ``used`` on, copied so that the memory of the others is freed."""
    return LevelTokens(tokens.x_ND[used:].clone(), tokens.position_N[used:].clone())


def longest_groups(config: HierarchyConfig) -> list[int | None]:
    """Tokens in the longest group of each level but the last; ``None`` where nothing bounds them."""
    return [level.group.longest for level in config.levels[:-1] if level.group is not None]


def unbounded(config: HierarchyConfig) -> str | None:
    """The reason why a stream's memory would grow with its length, or ``None`` if it is constant."""
    for index, (level, longest) in enumerate(zip(config.levels, [*longest_groups(config), 0], strict=True)):
        # Decoder blocks have caches as well.
        has_decoder = config.top_down and index + 1 < len(config.levels)
        # Its keys are kept for the level below, even if it has no blocks of its own.
        seen = config.cross_scale.down and index > 0
        if level.window is None and (level.depth or (has_decoder and level.decoder_depth) or seen):
            what = "is seen as a whole" if seen and not level.depth else "attends to everything before"
            return (
                f"level {level.name!r} {what}, so a stream would remember ever more; train with "
                f"model.levels.{level.name}.window and window_type: sliding, or let it grow where the input is short"
            )
        if longest is None:
            return (
                f"groups of level {level.name!r} may be of any length, so a stream would remember ever more; train "
                f"with model.levels.{level.name}.group.max, or let it grow where the input is short"
            )
    return None


def latencies(config: HierarchyConfig) -> dict[str, int | None]:
    """By level, how many level-0 tokens at most pass from the end of a token until it is finished.

    ``None`` where nothing bounds it.
    """
    latency: dict[str, int | None] = {config.levels[0].name: 0}
    current: int | None = 0
    length: int | None = 1
    for level, longest in zip(config.levels[1:], longest_groups(config), strict=True):
        # The first token of the next group, one level down, must be finished itself.
        current = None if current is None or length is None else current + length
        length = None if length is None or longest is None else length * longest
        latency[level.name] = current
    return latency
