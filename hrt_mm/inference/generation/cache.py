"""What a causal hierarchy remembers of the tokens so far, level by level.

Shapes: B samples, D width of the level, E width of the coarser one, S tokens of an open group.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...core.cross_scale import CausalDown
from ...core.errors import UserError
from ...core.hierarchy import Hierarchy, Stage
from ...core.levels import FixedGroups, Groups, LearnedGroups, Level
from ...core.transition import TopDown, Transition
from .keys import KeyValues, Rows

_OPEN = 16
"""Tokens of an open group that there is room for at first, where nothing bounds it."""


def bound(level: Level) -> int | None:
    """The window that bounds what is remembered of a level; all is when absent."""
    return level.window if level.window is None or isinstance(level.window, int) else math.prod(level.window)


def usual_room(config: Groups) -> int:
    """Tokens of an open group that there is room for from the start."""
    longest = config.stride if isinstance(config, FixedGroups) else config.max
    if longest is None:
        return _OPEN
    return longest if isinstance(longest, int) else math.prod(longest)


class OpenGroup:
    """The group of a level that is not complete yet, for every sample.

    Args:
        transition: what makes tokens of groups.
        names: of given boundaries.
        batch: B.
        like: gives device and precision.
    """

    def __init__(self, transition: Transition, names: list[str], batch: int, like: Tensor) -> None:
        self.keeps = not transition.inclusive
        config = transition.group
        room, dim = usual_room(config), transition.fine.dim
        self.x_BSD = like.new_zeros(batch, room if self.keeps else 0, dim)
        self.place_BS = torch.zeros(batch, self.x_BSD.shape[1], dtype=torch.float64, device=like.device)
        self.size_B = np.zeros(batch, dtype=np.int64)
        self.before_BD = like.new_zeros(batch, dim) if isinstance(config, LearnedGroups) else None
        self.chance_B: Tensor | None = None
        if isinstance(config, LearnedGroups) and config.smooth:
            self.chance_B = like.new_ones(batch, dtype=torch.promote_types(like.dtype, torch.float32))
        self.started = {name: np.zeros(batch, dtype=bool) for name in names}

    def put(self, sample: int, x_SD: Tensor, place_S: Tensor, started: dict[str, bool]) -> None:
        """Sets the open group of one sample."""
        self.make_room(len(x_SD))
        self.size_B[sample] = len(x_SD)
        for name, flag in started.items():
            self.started[name][sample] = flag
        if self.before_BD is not None:
            self.before_BD[sample] = x_SD[-1]
        if self.keeps:
            self.x_BSD[sample, : len(x_SD)] = x_SD
            self.place_BS[sample, : len(x_SD)] = place_S

    def append(self, x_AD: Tensor, place_A: Tensor, rows: Rows) -> None:
        """Adds a token to the open group of each row."""
        size_A = self.size_B[rows.places]
        if self.keeps:
            self.make_room(int(size_A.max()) + 1)
            slot_A = torch.from_numpy(size_A).to(x_AD.device, non_blocking=True)
            self.x_BSD[rows.index, slot_A] = x_AD.to(self.x_BSD.dtype)
            self.place_BS[rows.index, slot_A] = place_A
        self.size_B[rows.places] += 1
        if self.before_BD is not None:
            rows.put(self.before_BD, x_AD)

    def make_room(self, count: int) -> None:
        """Makes room for that many tokens."""
        room = self.x_BSD.shape[1]
        if not self.keeps or count <= room:
            return
        more = max(count, 2 * room) - room
        self.x_BSD = torch.cat([self.x_BSD, self.x_BSD.new_zeros(len(self.x_BSD), more, self.x_BSD.shape[2])], 1)
        self.place_BS = torch.cat([self.place_BS, self.place_BS.new_zeros(len(self.place_BS), more)], 1)

    def select(self, rows: Tensor, rows_host: np.ndarray) -> None:
        """Keeps some samples alone, in this order."""
        self.x_BSD, self.place_BS = self.x_BSD.index_select(0, rows), self.place_BS.index_select(0, rows)
        self.before_BD = None if self.before_BD is None else self.before_BD.index_select(0, rows)
        self.chance_B = None if self.chance_B is None else self.chance_B.index_select(0, rows)
        self.size_B = self.size_B[rows_host]
        self.started = {name: flags[rows_host] for name, flags in self.started.items()}


class LevelCache:
    """What one level remembers.

    Args:
        hierarchy: the model.
        place: of the level.
        names: of given boundaries.
        batch: B.
        like: gives device and precision.
    """

    def __init__(self, hierarchy: Hierarchy, place: int, names: list[str], batch: int, like: Tensor) -> None:
        stage = hierarchy.stages[place]
        assert isinstance(stage, Stage)
        level = stage.level
        window = bound(level)
        heads = level.kv_heads or level.heads
        self.count_B = np.zeros(batch, dtype=np.int64)
        self.encoder = [KeyValues(batch, heads, level.head_dim, window, like) for _ in stage.encoder]
        self.decoder = [KeyValues(batch, heads, level.head_dim, window, like) for _ in stage.decoder]
        self.groups_B = np.zeros(batch, dtype=np.int64)
        self.open: OpenGroup | None = None
        self.down: KeyValues | None = None
        self.back_BD: Tensor | None = None
        if place + 1 == len(hierarchy.stages):
            return
        transition = hierarchy.transitions[place]
        assert isinstance(transition, Transition)
        self.open = OpenGroup(transition, names, batch, like)
        if len(hierarchy.down):
            down = hierarchy.down[place]
            assert isinstance(down, CausalDown)
            coarse = hierarchy.config.levels[place + 1]
            self.down = KeyValues(batch, down.heads, down.width, bound(coarse), like)
            if down.null_key is not None:
                self.down.k_BKSE[:, :, 0], self.down.v_BKSE[:, :, 0] = down.null_key.detach()
        if len(hierarchy.top_down):
            top_down = hierarchy.top_down[place]
            assert isinstance(top_down, TopDown)
            lead = like.new_zeros(level.dim) if top_down.lead is None else top_down.lead.detach().to(like.dtype)
            self.back_BD = lead.expand(batch, -1).clone()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = sum(kept.nbytes for kept in self._kept())
        held += self.back_BD.nbytes if self.back_BD is not None else 0
        if self.open is not None:
            held += self.open.x_BSD.nbytes + self.open.place_BS.nbytes
            held += sum(kept.nbytes for kept in (self.open.before_BD, self.open.chance_B) if kept is not None)
        return held

    def select(self, rows: Tensor, rows_host: np.ndarray) -> None:
        """Keeps some samples alone, in this order."""
        self.count_B, self.groups_B = self.count_B[rows_host], self.groups_B[rows_host]
        for kept in self._kept():
            kept.select(rows)
        if self.open is not None:
            self.open.select(rows, rows_host)
        self.back_BD = None if self.back_BD is None else self.back_BD.index_select(0, rows)

    def _kept(self) -> list[KeyValues]:
        return [*self.encoder, *self.decoder, *([self.down] if self.down is not None else [])]


class Cache:
    """What a causal hierarchy remembers of a batch, each sample at a place of its own.

    It is kept in the precision of the model's parameters, under autocast too.

    Args:
        hierarchy: the model.
        batch: B.

    Raises:
        UserError: the hierarchy is not causal, or has several axes.
    """

    def __init__(self, hierarchy: Hierarchy, batch: int) -> None:
        if not hierarchy.config.causal or hierarchy.axes != 1:
            raise UserError("only a causal hierarchy over one axis can step; set model.causal: true")
        like = hierarchy.like
        given = [
            level.group.boundary for level in hierarchy.config.levels if level.group and level.group.type == "given"
        ]
        places = range(len(hierarchy.stages))
        self.device = like.device
        self.first_B = np.zeros(batch, dtype=np.float64)
        """Where the first token of each sample lies."""
        self.names = tuple(level.name for level in hierarchy.config.levels)
        self.levels = [LevelCache(hierarchy, place, given, batch, like) for place in places]
        step = [1.0]
        for transition in hierarchy.transitions:
            assert isinstance(transition, Transition)
            step.append(step[-1] * transition.stride[0])
        self.steps = [torch.tensor([size], device=like.device) for size in step]

    def __len__(self) -> int:
        """The samples."""
        return len(self.levels[0].count_B)

    @property
    def nbytes(self) -> int:
        """Bytes held, room for tokens to come included."""
        return sum(level.nbytes for level in self.levels)

    def select(self, samples: list[int]) -> None:
        """Keeps some samples alone, in this order; the others are forgotten.

        Raises:
            UserError: there is no such sample.
        """
        if wrong := [sample for sample in samples if not 0 <= sample < len(self)]:
            raise UserError(f"there is no sample {wrong[0]}; the cache holds {len(self)}, counted from 0")
        rows_host = np.array(samples, dtype=np.int64)
        self.first_B = self.first_B[rows_host]
        rows = torch.from_numpy(rows_host).to(self.device)
        for level in self.levels:
            level.select(rows, rows_host)
