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

from ...core.causal import CausalPass, Flags, Made, Memory
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
        """Those of several chunks, in their order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            torch.cat([part.x_ND for part in parts]),
            np.concatenate([part.first_N for part in parts]),
            np.concatenate([part.last_N for part in parts]),
        )


class HierarchyStream:
    """A stream over a causal hierarchy, of one sample.

    Args:
        hierarchy: in evaluation mode.
        growing: let levels that attend to everything remember ever more.

    Raises:
        UserError: the hierarchy is not causal, has several axes, or would remember ever more.
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
        """That no given group starts at so many tokens."""
        return {name: np.zeros(count, dtype=bool) for name in self.memory.given}

    @torch.inference_mode()
    def feed(self, x_ND: Tensor, starts: Flags | None = None) -> dict[str, Finished]:
        """Takes in the next tokens of level 0, embedded, and gives what they finish on each level.

        Args:
            x_ND: the tokens; there may be none.
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
        """What the end of the input finishes: the groups that are open."""
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
                found = f"{starts[name].dtype} {starts[name].shape}" if name in starts else "nothing"
                raise UserError(
                    f"the stream groups by boundary {name!r}: give a bool array of {len(x_ND)} places, got {found}"
                )

    def _finished(self, call: CausalPass) -> dict[str, Finished]:
        levels, origin = self.hierarchy.config.levels, self.memory.unit_1[0]
        made = [_joined(parts, level.dim, origin) for parts, level in zip(call.made, levels, strict=True)]
        last = int(self.memory.levels[0].count_B[0])
        first_N = np.arange(last - len(made[0].x_ND), last)
        done = _Done(made[0], first_N, first_N + 1)
        result = {}
        for index, name in enumerate(self.names):
            if index:
                done = self._joins[index - 1].add(done, made[index], call.ended[index - 1])
            result[name] = Finished(rms_norm(done.made.x_ND), done.first_N, done.last_N)
        return result


def _joined(parts: Sequence[Made], dim: int, like: Tensor) -> Made:
    """New tokens of a level from several calls; there may be none."""
    return Made.joined(parts) if parts else Made(like.new_zeros(0, dim), like.new_zeros(0, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class _Done:
    """Tokens of a level with the level-0 tokens that they stand for."""

    made: Made
    first_N: np.ndarray
    last_N: np.ndarray


class _Join:
    """Lets the tokens of a level look at their groups once more (``cross_scale.up``), where these have ended.

    Args:
        hierarchy: the model.
        place: of the finer level.
        unit_C: level-0 steps of its tokens.
    """

    def __init__(self, hierarchy: Hierarchy, place: int, unit_C: Tensor) -> None:
        self.up = hierarchy.up[place] if len(hierarchy.up) else None
        self.unit_C = unit_C
        levels = hierarchy.config.levels
        fine, self.coarse = (_joined([], levels[at].dim, unit_C) for at in (place, place + 1))
        self.fine = _Done(fine, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        self.sizes: deque[int] = deque()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.fine.made.x_ND.nbytes + self.coarse.x_ND.nbytes

    def add(self, fine: _Done, coarse: Made, sizes: Sequence[int]) -> _Done:
        """The coarse tokens that are finished.

        Args:
            fine: new tokens of the finer level that are finished.
            coarse: new tokens of the coarser one.
            sizes: tokens of the groups that ended.
        """
        fine = _Done(
            Made.joined([self.fine.made, fine.made]),
            np.append(self.fine.first_N, fine.first_N),
            np.append(self.fine.last_N, fine.last_N),
        )
        coarse = Made.joined([self.coarse, coarse])
        self.sizes.extend(sizes)
        ready: list[int] = []
        while self.sizes and sum(ready) + self.sizes[0] <= len(fine.first_N):
            ready.append(self.sizes.popleft())
        used, count = sum(ready), len(ready)
        assert count <= len(coarse.x_ND)
        sizes_G = np.array(ready, dtype=np.int64)
        ends_G = sizes_G.cumsum()
        done = _Done(self._looked(fine.made, coarse, ready), fine.first_N[ends_G - sizes_G], fine.last_N[ends_G - 1])
        self.fine = _Done(_rest(fine.made, used), fine.first_N[used:].copy(), fine.last_N[used:].copy())
        self.coarse = _rest(coarse, count)
        return done

    def _looked(self, fine: Made, coarse: Made, sizes: list[int]) -> Made:
        x_ND, position_N = coarse.x_ND[: len(sizes)], coarse.position_N[: len(sizes)]
        if not sizes or self.up is None:
            return Made(x_ND, position_N)
        up, spans, used = self.up, Spans.from_lengths(sizes, x_ND.device), sum(sizes)
        look_ND = up.within(
            x_ND,
            position_N[:, None],
            spans.singletons,
            fine.x_ND[:used],
            fine.position_N[:used, None],
            spans,
            self.unit_C,
        )
        return replace(coarse, x_ND=x_ND + look_ND, position_N=position_N)


def _rest(made: Made, used: int) -> Made:
    """What is left, in memory of its own."""
    return Made(made.x_ND[used:].clone(), made.position_N[used:].clone())


def longest_groups(config: HierarchyConfig) -> list[int | None]:
    """Tokens of the longest group of each level but the last; ``None`` where nothing bounds them."""
    return [level.group.longest for level in config.levels[:-1] if level.group is not None]


def unbounded(config: HierarchyConfig) -> str | None:
    """Why a stream would remember ever more; ``None`` where its memory is constant."""
    for place, (level, longest) in enumerate(zip(config.levels, [*longest_groups(config), 0], strict=True)):
        comes_back = config.top_down and place + 1 < len(config.levels)
        seen = config.cross_scale.down and place > 0
        if level.window is None and (level.depth or (comes_back and level.decoder_depth) or seen):
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
    """By level, level-0 tokens after the end of one of its tokens until it is finished, at most.

    ``None`` where nothing bounds it.
    """
    found: dict[str, int | None] = {config.levels[0].name: 0}
    late: int | None = 0
    length: int | None = 1
    for level, longest in zip(config.levels[1:], longest_groups(config), strict=True):
        # The first token of the next group, one level down, must be finished itself.
        late = None if late is None or length is None else late + length
        length = None if length is None or longest is None else length * longest
        found[level.name] = late
    return found
