"""The key-value cache of one attention layer: a ring buffer if the layer has a window, otherwise growing.

Shapes: B samples, A of them with new tokens, N new tokens, H query heads, K key heads, S slots, E head width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..attention import attend
from ..spans import Spans
from .new_tokens import NewTokens, by_sample, runs_of

_ROOM = 256
"""Initial slots of a growing cache, which doubles when it is full."""


class KeyValues:
    """Keys and values of a layer for every sample of a batch, in the dtype of the model's parameters.

    Key i of a sample is in slot ``i % slots``. Under autocast, keys are computed in half precision and stored in the
    parameters' dtype, so that the cache can be used with and without autocast.

    Args:
        batch: B.
        heads: key heads K.
        width: width of a head.
        window: number of earlier keys that a query sees; all by default.
        like: a tensor with the device and the dtype.
    """

    def __init__(self, batch: int, heads: int, width: int, window: int | None, like: Tensor) -> None:
        self.window = window
        slots = _ROOM if window is None else window + 1
        self.k_BKSE = like.new_zeros(batch, heads, slots, width)
        self.v_BKSE = like.new_zeros(batch, heads, slots, width)

    @property
    def ring(self) -> bool:
        """Whether new keys overwrite old ones."""
        return self.window is not None

    @property
    def slots(self) -> int:
        """Allocated keys per sample."""
        return self.k_BKSE.shape[2]

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return self.k_BKSE.nbytes + self.v_BKSE.nbytes

    def attend(self, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, new: NewTokens, backend: str) -> Tensor:
        """Appends new keys and attends to all keys with the queries of the same tokens, (N, H, E).

        Args:
            q_NHE: queries.
            k_NKE: keys of the same tokens.
            v_NKE: their values.
            new: their samples.
            backend: attention backend, for more than one token per sample.
        """
        if new.single:
            self.append(k_NKE, v_NKE, new)
            return self.attend_newest(q_NHE, new)
        k_SKE, v_SKE, keys = self.extended(k_NKE, v_NKE, new)
        return attend(q_NHE, k_SKE, v_SKE, new.spans, keys, window=self.window, causal=True, backend=backend)

    def attend_newest(self, q_AHE: Tensor, new: NewTokens) -> Tensor:
        """Attention of one query per sample, at the position of the sample's newest key, (A, H, E).

        Args:
            q_AHE: queries.
            new: the appended keys; none for samples whose newest key is older.
        """
        # All stored keys are visible, in whatever order the ring has them: attention does not depend on it.
        count = min(new.longest, self.slots)
        k_AKSE, v_AKSE = (new.take(x[:, :, :count]).to(q_AHE.dtype) for x in (self.k_BKSE, self.v_BKSE))
        grouped = q_AHE.shape[1] != k_AKSE.shape[1]
        # Samples with fewer keys than others have unused slots at the end, which the mask hides.
        out = scaled_dot_product_attention(
            q_AHE[:, :, None], k_AKSE, v_AKSE, attn_mask=new.used(count), enable_gqa=grouped
        )
        return out[:, :, 0]

    def extended(self, k_NKE: Tensor, v_NKE: Tensor, new: NewTokens) -> tuple[Tensor, Tensor, Spans]:
        """Appends new keys, and returns them packed behind the stored ones of their samples.

        Returns:
            (S, K, E) keys and values in order, and the samples as runs of keys.
        """
        if not new.before.any():
            self.append(k_NKE, v_NKE, new)
            return k_NKE, v_NKE, new.spans
        if not self.ring:
            self.append(k_NKE, v_NKE, new)
            keys = runs_of(new.lengths, new.device, reused=True)
            return *self._newest(new.lengths, new.lengths, new, k_NKE.dtype), keys
        # A ring may overwrite keys that the first new queries still see, so read the old ones before appending.
        stored = np.minimum(new.before, self.slots)
        old = self._newest(stored, new.before, new, k_NKE.dtype)
        k_SKE, v_SKE = (torch.cat(pair) for pair in zip(old, (k_NKE, v_NKE), strict=True))
        if len(stored) > 1:
            order = torch.from_numpy(by_sample(np.repeat(np.arange(len(stored)), stored), new.ids)).to(new.device)
            k_SKE, v_SKE = k_SKE.index_select(0, order), v_SKE.index_select(0, order)
        self.append(k_NKE, v_NKE, new)
        return k_SKE, v_SKE, runs_of(stored + new.counts, new.device, reused=True)

    def append(self, k_NKE: Tensor, v_NKE: Tensor, new: NewTokens) -> None:
        """Stores new keys and values."""
        if not new.total:
            return
        self.make_room(new.longest)
        if new.aligned:
            # A decoding step of samples of equal length writes one slot, without an index on the device.
            slot = (new.longest - 1) % self.slots
            self.k_BKSE[:, :, slot] = k_NKE
            self.v_BKSE[:, :, slot] = v_NKE
            return
        rows, slots = new.rows, new.slots(self.slots)
        if self.ring and new.total > self.slots:
            # Only the last keys of a sample fit. Of several writes to one slot it is undefined which one wins.
            last_N = torch.from_numpy(np.flatnonzero(new.numbers >= (new.lengths - self.slots)[new.ids])).to(new.device)
            k_NKE, v_NKE, rows, slots = (x.index_select(0, last_N) for x in (k_NKE, v_NKE, rows, slots))
        self.k_BKSE[rows, :, slots] = k_NKE.to(self.k_BKSE.dtype)
        self.v_BKSE[rows, :, slots] = v_NKE.to(self.v_BKSE.dtype)

    def _newest(
        self, counts: np.ndarray, ends: np.ndarray, new: NewTokens, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """The last ``counts`` (A,) keys of each sample before key ``ends`` (A,), in order and packed, (S, K, E)."""
        if len(counts) == 1 and int(ends[0]) <= self.slots:
            # One sample whose keys have not wrapped around: a view.
            sample, first, last = int(new.samples[0]), int(ends[0] - counts[0]), int(ends[0])
            k_SKE, v_SKE = (x[sample, :, first:last].transpose(0, 1) for x in (self.k_BKSE, self.v_BKSE))
        else:
            stored = NewTokens(new.samples, counts, ends - counts, new.batch, new.device)
            slots = stored.slots(self.slots)
            # Two index tensors with a slice between them put the indexed axis first: (S, K, E).
            k_SKE, v_SKE = self.k_BKSE[stored.rows, :, slots], self.v_BKSE[stored.rows, :, slots]
        return k_SKE.to(dtype), v_SKE.to(dtype)

    def select(self, rows: Tensor) -> None:
        """Keeps only these samples, in this order."""
        self.k_BKSE, self.v_BKSE = self.k_BKSE.index_select(0, rows), self.v_BKSE.index_select(0, rows)

    def make_room(self, count: int) -> None:
        """Allocates room for ``count`` keys."""
        if self.ring or count <= self.slots:
            return
        # Doubling keeps the cost of copying constant per token.
        more = max(count, 2 * self.slots) - self.slots
        self.k_BKSE, self.v_BKSE = (
            torch.cat([x, x.new_zeros(*x.shape[:2], more, x.shape[3])], 2) for x in (self.k_BKSE, self.v_BKSE)
        )
