"""The keys and values of one layer, kept for the tokens to come: a ring where there is a window, else growing.

Shapes: B samples, A active ones, H query heads, K key heads, S slots, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_ROOM = 256
"""Slots that a growing cache starts with; it doubles when it is full."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The samples of a batch that take a step at a level.

    Args:
        places: (A,) int64 on the host, ascending.
        batch: B.
        device: where the tokens live.
    """

    places: np.ndarray
    batch: int
    device: torch.device

    @property
    def all(self) -> bool:
        """Whether every sample does."""
        return len(self.places) == self.batch

    @cached_property
    def index(self) -> Tensor:
        """(A,) on the device."""
        return torch.from_numpy(self.places).to(self.device, non_blocking=True)

    def of(self, x: Tensor) -> Tensor:
        """The rows of a (B, ...) tensor."""
        return x if self.all else x.index_select(0, self.index)

    def put(self, x: Tensor, rows: Tensor) -> None:
        """Writes (A, ...) rows into a (B, ...) tensor."""
        if self.all:
            x.copy_(rows)
        else:
            x.index_copy_(0, self.index, rows.to(x.dtype))

    def among(self, chosen: np.ndarray) -> Rows:
        """Those for which ``chosen`` (A,) is true."""
        return self if chosen.all() else Rows(self.places[chosen], self.batch, self.device)


class KeyValues:
    """Keys and values of a layer for every sample of a batch, in the precision of the model's parameters.

    Under autocast they are computed in less and kept as they are, so that a cache may be read with autocast or without.

    Args:
        batch: B.
        heads: key heads K.
        width: of a head.
        window: tokens behind itself that a query sees; all when absent.
        like: gives device and precision.
    """

    def __init__(self, batch: int, heads: int, width: int, window: int | None, like: Tensor) -> None:
        self.ring = window is not None
        slots = _ROOM if window is None else window + 1
        self.k_BKSE = like.new_zeros(batch, heads, slots, width)
        self.v_BKSE = like.new_zeros(batch, heads, slots, width)

    @property
    def slots(self) -> int:
        """Tokens that there is room for."""
        return self.k_BKSE.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.k_BKSE.nbytes + self.v_BKSE.nbytes

    def step(self, q_AHE: Tensor, k_AKE: Tensor, v_AKE: Tensor, rows: Rows, at_A: np.ndarray) -> Tensor:
        """Takes in one key a row, and attends to what is seen.

        Args:
            q_AHE: queries.
            k_AKE: keys of the same tokens.
            v_AKE: their values.
            rows: the samples that these belong to.
            at_A: tokens of each row before this one.

        Returns:
            (A, H, E).
        """
        self.append(k_AKE, v_AKE, rows, at_A)
        return self.attend(q_AHE, rows, at_A)

    def append(self, k_AKE: Tensor, v_AKE: Tensor, rows: Rows, at_A: np.ndarray) -> None:
        """Takes in one key and value a row, as number ``at_A`` of its sample."""
        self.make_room(int(at_A.max()) + 1)
        slot_A = at_A % self.slots
        first = int(slot_A[0])
        if rows.all and (slot_A == first).all():
            self.k_BKSE[:, :, first] = k_AKE
            self.v_BKSE[:, :, first] = v_AKE
            return
        slots = torch.from_numpy(slot_A).to(k_AKE.device, non_blocking=True)
        self.k_BKSE[rows.index, :, slots] = k_AKE.to(self.k_BKSE.dtype)
        self.v_BKSE[rows.index, :, slots] = v_AKE.to(self.v_BKSE.dtype)

    def attend(self, q_AHE: Tensor, rows: Rows, at_A: np.ndarray) -> Tensor:
        """(A, H, E) of queries that see the keys up to number ``at_A`` of their sample, their own."""
        count = min(int(at_A.max()) + 1, self.slots)
        k_AKSE, v_AKSE = (rows.of(x[:, :, :count]).to(q_AHE.dtype) for x in (self.k_BKSE, self.v_BKSE))
        mask = None
        if (at_A + 1 < count).any():
            seen_AS = np.arange(count) <= at_A[:, None]
            mask = torch.from_numpy(seen_AS).to(q_AHE.device, non_blocking=True)[:, None, None]
        grouped = q_AHE.shape[1] != k_AKSE.shape[1]
        out = scaled_dot_product_attention(q_AHE[:, :, None], k_AKSE, v_AKSE, attn_mask=mask, enable_gqa=grouped)
        return out[:, :, 0]

    def fill(self, sample: int, k_TKE: Tensor, v_TKE: Tensor) -> None:
        """Takes in all keys and values of one sample so far."""
        count = len(k_TKE)
        self.make_room(count)
        first = max(0, count - self.slots)
        slots = torch.arange(first, count, device=k_TKE.device) % self.slots
        self.k_BKSE[sample, :, slots] = k_TKE[first:].transpose(0, 1).to(self.k_BKSE.dtype)
        self.v_BKSE[sample, :, slots] = v_TKE[first:].transpose(0, 1).to(self.v_BKSE.dtype)

    def select(self, rows: Tensor) -> None:
        """Keeps some samples alone, in this order."""
        self.k_BKSE, self.v_BKSE = self.k_BKSE.index_select(0, rows), self.v_BKSE.index_select(0, rows)

    def make_room(self, count: int) -> None:
        """Makes room for that many tokens."""
        if self.ring or count <= self.slots:
            return
        more = max(count, 2 * self.slots) - self.slots
        self.k_BKSE, self.v_BKSE = (
            torch.cat([x, x.new_zeros(*x.shape[:2], more, x.shape[3])], 2) for x in (self.k_BKSE, self.v_BKSE)
        )
