"""The state of a causal hierarchy between calls: key-value caches and open groups of every level.

Shapes: B samples, D width of the level.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..cross_scale import CausalDown
from ..errors import UserError
from ..hierarchy import Hierarchy
from ..levels import GivenGroups
from ..source import SourceMemory
from .groups import OpenGroup
from .keys import KeyValues


class LevelMemory:
    """The state of one level.

    Args:
        hierarchy: the model.
        index: index of the level.
        names: names of the given boundaries.
        batch: B.
        like: a tensor with the device and the dtype.
    """

    def __init__(self, hierarchy: Hierarchy, index: int, names: list[str], batch: int, like: Tensor) -> None:
        stage = hierarchy.stages[index]
        level = stage.level
        window, heads = level.window_tokens, level.kv_heads or level.heads
        self.count_B = np.zeros(batch, dtype=np.int64)
        """Number of tokens of each sample."""
        self.encoder = [KeyValues(batch, heads, level.head_dim, window, like) for _ in stage.encoder]
        self.decoder = [KeyValues(batch, heads, level.head_dim, window, like) for _ in stage.decoder]
        self.groups_B = np.zeros(batch, dtype=np.int64)
        """Number of groups of each sample, including the open one."""
        self.open: OpenGroup | None = None
        self.down: KeyValues | None = None
        """For ``cross_scale.down``, the keys of the next level; key g is the last one that group g sees."""
        self.back_BD: Tensor | None = None
        """For ``top_down``, the row of the next level that is added to tokens of the open group."""
        if index + 1 == len(hierarchy.stages):
            return
        transition = hierarchy.transitions[index]
        self.open = OpenGroup(transition, names, batch, like)
        if len(hierarchy.down):
            down = hierarchy.down[index]
            assert isinstance(down, CausalDown)
            # Tokens see as many groups back as the coarse level does.
            self.down = KeyValues(batch, down.heads, down.width, transition.coarse.window_tokens, like)
            if down.null_key is not None:
                # The null key comes first, which delays all others by one group.
                self.down.k_BKSE[:, :, 0], self.down.v_BKSE[:, :, 0] = down.null_key.detach()
        if len(hierarchy.top_down):
            top_down = hierarchy.top_down[index]
            # A sample begins as if a group had ended before it whose row is the learned one.
            lead = like.new_zeros(level.dim) if top_down.lead is None else top_down.lead.detach().to(like.dtype)
            self.back_BD = lead.expand(batch, -1).clone()

    @property
    def nbytes(self) -> int:
        """Allocated bytes on the device."""
        total = sum(layer.nbytes for layer in self.layers)
        total += self.back_BD.nbytes if self.back_BD is not None else 0
        if self.open is not None:
            tensors = (self.open.x_BSD, self.open.position_BS, self.open.before_BD, self.open.prob_B)
            total += sum(tensor.nbytes for tensor in tensors if tensor is not None)
        return total

    @property
    def layers(self) -> list[KeyValues]:
        """The caches of all layers."""
        return [*self.encoder, *self.decoder, *([self.down] if self.down is not None else [])]

    def select(self, rows: Tensor, rows_host: np.ndarray) -> None:
        """Keeps only these samples, in this order."""
        self.count_B, self.groups_B = self.count_B[rows_host], self.groups_B[rows_host]
        for layer in self.layers:
            layer.select(rows)
        if self.open is not None:
            self.open.select(rows, rows_host)
        self.back_BD = None if self.back_BD is None else self.back_BD.index_select(0, rows)


class Memory:
    """The state of a causal hierarchy for a batch, whose samples may have different lengths.

    Its dtype is that of the model's parameters, also under autocast.

    Args:
        hierarchy: the model.
        batch: B.
        source: what blocks read of another hierarchy, of as many samples.

    Raises:
        UserError: the hierarchy is not causal, or has several axes.
    """

    def __init__(self, hierarchy: Hierarchy, batch: int, source: SourceMemory | None = None) -> None:
        if not hierarchy.config.causal or hierarchy.axes != 1:
            raise UserError("only a causal hierarchy over one axis can step; set model.causal: true")
        like, levels = hierarchy.like, hierarchy.config.levels
        self.device = like.device
        self.source = source
        self.first_B = np.zeros(batch, dtype=np.float64)
        """Position of each sample's first token."""
        self.names = tuple(level.name for level in levels)
        self.given = [level.group.boundary for level in levels if isinstance(level.group, GivenGroups)]
        """Names of the boundaries that the levels group by."""
        self.levels = [LevelMemory(hierarchy, index, self.given, batch, like) for index in range(len(levels))]
        # Typical group sizes multiply: the unit of a level is that of the one below times its stride.
        unit = [1.0]
        for transition in hierarchy.transitions:
            unit.append(unit[-1] * transition.stride[0])
        self.unit_1 = [torch.tensor([size], device=like.device) for size in unit]
        """Level-0 units per token of each level."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.levels[0].count_B)

    @property
    def nbytes(self) -> int:
        """Allocated bytes, including room for further tokens."""
        source = self.source.nbytes if self.source is not None else 0
        return source + sum(level.nbytes for level in self.levels)

    def select(self, samples: list[int]) -> None:
        """Keeps only these samples, in this order.

        Raises:
            UserError: there is no such sample.
        """
        if wrong := [sample for sample in samples if not 0 <= sample < len(self)]:
            raise UserError(f"there is no sample {wrong[0]}; the cache holds {len(self)}, counted from 0")
        rows_host = np.array(samples, dtype=np.int64)
        # Counts are on the host and states on the device, so both kinds of index are needed.
        self.first_B = self.first_B[rows_host]
        rows = torch.from_numpy(rows_host).to(self.device)
        for level in self.levels:
            level.select(rows, rows_host)
        if self.source is not None:
            self.source = self.source.select(rows_host)
