"""Gated attention between neighbouring levels, in both directions (arXiv 2509.20581).

Per-channel gates are initialized near zero, so that a new path does not disturb a trained model. They are reported, so
that a path that stays closed is noticed.

Shapes: T fine tokens, G coarse tokens, S keys, D query width, H heads, E head width, C axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attention import attend
from .block import normed_rotation
from .norm import rms_norm
from .rope import Rotary
from .segments import shift_right
from .spans import Spans

if TYPE_CHECKING:
    from .causal.groups import Runs
    from .causal.keys import KeyValues
    from .causal.new_tokens import NewTokens

GATE = 0.02
"""Initial value of the gates."""


class CrossAttention(nn.Module):
    """Attention with queries from one level and keys and values from its neighbour."""

    def __init__(self, dim: int, kv_dim: int, heads: int, axes: int, theta: float, backend: str) -> None:
        super().__init__()
        self.heads, self.width, self.backend = heads, dim // heads, backend
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(kv_dim, 2 * dim, bias=False)
        self.q_gain = nn.Parameter(torch.empty(heads, 1))
        self.out = nn.Linear(dim, dim, bias=False)
        self.gate_D = nn.Parameter(torch.empty(dim))
        self.rotary = Rotary(self.width, axes, theta)
        # Not self.reset_parameters(): that of a subclass also needs what its constructor has not made yet.
        CrossAttention.reset_parameters(self)

    def reset_parameters(self) -> None:
        """Reinitializes the parameters that this module owns directly."""
        nn.init.ones_(self.q_gain)
        nn.init.constant_(self.gate_D, GATE)

    def rope(self, coords_TC: Tensor, unit_C: Tensor) -> Tensor:
        """Rotations of tokens at these coordinates, (T, 1, F)."""
        return self.rotary.rotations(coords_TC, unit_C, self.query.weight)

    def queries(self, x_TD: Tensor, rope: Tensor) -> Tensor:
        """Normalized and rotated queries, (T, H, E)."""
        q_THE = self.query(rms_norm(x_TD)).unflatten(-1, (self.heads, self.width))
        return (normed_rotation(q_THE, rope) * self.q_gain).to(q_THE.dtype)

    def keys_values(self, source: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized and rotated keys, and values, (S, H, E) each."""
        # (S, 2 * D) to (S, 2 * H, E): the first H heads are keys, the others values.
        k_SHE, v_SHE = self.key_value(rms_norm(source)).unflatten(-1, (2 * self.heads, self.width)).chunk(2, 1)
        return normed_rotation(k_SHE, rope).to(v_SHE.dtype), v_SHE

    def gated(self, out_THE: Tensor) -> Tensor:
        """Output projection and gate, (T, D)."""
        mixed_TD: Tensor = self.out(out_THE.flatten(1)) * self.gate_D
        return mixed_TD

    def within(
        self,
        x_TD: Tensor,
        coords_TC: Tensor,
        q_spans: Spans,
        source: Tensor,
        source_coords: Tensor,
        k_spans: Spans,
        unit_C: Tensor,
    ) -> Tensor:
        """Attention of the queries of run i to the keys of run i.

        Args:
            x_TD: tokens of the query level.
            coords_TC: their coordinates.
            q_spans: their runs.
            source: tokens of the key level.
            source_coords: their coordinates.
            k_spans: their runs.
            unit_C: level-0 units per coordinate unit of the attention.

        Returns:
            (T, D), gated.
        """
        q_THE = self.queries(x_TD, self.rope(coords_TC, unit_C))
        k_SHE, v_SHE = self.keys_values(source, self.rope(source_coords, unit_C))
        return self.gated(attend(q_THE, k_SHE, v_SHE, q_spans, k_spans, backend=self.backend))


class CausalDown(CrossAttention):
    """Causal attention of fine tokens to the coarse tokens of earlier groups; with ``inclusive`` also of their own.

    The mask is a ragged staircase. It becomes one causal call by folding the tokens of a group into the heads of one
    query row, so that query rows and keys both count groups. Without ``inclusive``, the keys are shifted right by one
    behind a learned null key, so that query row g sees the null key and the groups before g. Coordinates are then
    relative to the start of the sample, which is the coordinate of the null key, so that attention depends on relative
    positions only.

    Args:
        inclusive: tokens may see the token of their own group, because it depends on the group's first token only.
    """

    def __init__(
        self, dim: int, kv_dim: int, heads: int, axes: int, theta: float, backend: str, *, inclusive: bool
    ) -> None:
        super().__init__(dim, kv_dim, heads, axes, theta, backend)
        self.null_key = None if inclusive else nn.Parameter(torch.empty(2, heads, self.width))
        self._init_null_key()

    def reset_parameters(self) -> None:
        """Reinitializes the parameters that this module owns directly."""
        super().reset_parameters()
        self._init_null_key()

    def _init_null_key(self) -> None:
        if self.null_key is not None:
            nn.init.normal_(self.null_key, std=0.02)

    def staircase(
        self,
        x_TD: Tensor,
        coords_TC: Tensor,
        groups: Spans,
        source: Tensor,
        source_coords: Tensor,
        samples: Spans,
        unit_C: Tensor,
        origin_BC: Tensor,
        *,
        window: int | None,
    ) -> Tensor:
        """Attention of fine tokens to coarse ones, (T, D), gated.

        Args:
            x_TD: fine tokens.
            coords_TC: their coordinates.
            groups: their groups.
            source: (G, ...) coarse tokens, one per group.
            source_coords: their coordinates.
            samples: the samples, in units of groups.
            unit_C: level-0 units per coordinate unit of the attention.
            origin_BC: coordinates of the start of each sample.
            window: number of earlier groups that are visible; all by default.
        """
        if self.null_key is not None:
            coords_TC = coords_TC - origin_BC[samples.ids[groups.ids]]  # token -> its group -> its sample
            source_coords = source_coords - origin_BC[samples.ids]
        q_THE = self.queries(x_TD, self.rope(coords_TC, unit_C))
        k_GHE, v_GHE = self.keys_values(source, self.rope(source_coords, unit_C))
        if self.null_key is not None:
            # Shifted keys: row g of a causal mask now ends at the key of group g - 1.
            k_GHE, v_GHE = (
                shift_right(rows, samples, null) for rows, null in zip((k_GHE, v_GHE), self.null_key, strict=True)
            )
        attended_THE = self.attend_folded(q_THE, k_GHE, v_GHE, groups, samples, samples, window=window)
        return self.gated(attended_THE)

    def attend_to(
        self,
        x_ND: Tensor,
        coords_NC: Tensor,
        source: tuple[Tensor, Tensor] | None,
        unit_C: Tensor,
        memory: KeyValues,
        new_keys: NewTokens,
        runs: Runs,
    ) -> Tensor:
        """:meth:`staircase` for new fine and coarse tokens, which follow those in a memory.

        The memory starts with the null key, if there is one, so group g attends up to key g in either case.

        Args:
            x_ND: new fine tokens.
            coords_NC: their coordinates; relative to the start of the sample if there is a null key.
            source: new coarse tokens and their coordinates, likewise.
            unit_C: level-0 units per coordinate unit of the attention.
            memory: keys and values of earlier coarse tokens, to which those of the new ones are added.
            new_keys: samples of the new coarse tokens.
            runs: groups of the new fine tokens.

        Returns:
            (N, D), gated.
        """
        q_NHE = self.queries(x_ND, self.rope(coords_NC, unit_C))
        # Without new coarse tokens, empty keys of the right shape and dtype.
        k_CHE = v_CHE = q_NHE[:0]
        if source is not None:
            k_CHE, v_CHE = self.keys_values(source[0], self.rope(source[1], unit_C))
        if runs.new.single:
            # One token per sample: its group is the newest, so it attends to all keys and needs no folding.
            memory.append(k_CHE, v_CHE, new_keys)
            return self.gated(memory.attend_newest(q_NHE, new_keys))
        k_SHE, v_SHE, keys = memory.extended(k_CHE, v_CHE, new_keys)
        return self.gated(self.attend_folded(q_NHE, k_SHE, v_SHE, runs.spans, runs.samples, keys, window=memory.window))

    def attend_folded(
        self,
        q_THE: Tensor,
        k_SHE: Tensor,
        v_SHE: Tensor,
        groups: Spans,
        rows: Spans,
        keys: Spans,
        *,
        window: int | None,
    ) -> Tensor:
        """Attention output of the queries, (T, H, E). The last group of a sample is aligned with its last key.

        Args:
            q_THE: queries.
            k_SHE: keys: one per group, possibly preceded by those of earlier groups.
            v_SHE: values.
            groups: groups of the queries; some may be empty.
            rows: the samples, in units of groups.
            keys: the samples, in units of keys.
            window: number of earlier groups that are visible; all by default.
        """
        # Fold the tokens of a group into the heads of one query row: pad each group to L tokens, the longest group's,
        # by scattering the T queries into (G * L, H, E), then move L beside the heads: (G, H * L, E). Heads stay the
        # outer factor, so that grouped-query kernels still assign L queries to each key head. Padding is computed, and
        # dropped by the gather at the end.
        longest = groups.max_seqlen
        if groups.foldable:
            # Groups of one length need no padding.
            folded = q_THE.unflatten(0, (-1, longest)).transpose(1, 2).flatten(1, 2)
            out = attend(folded, k_SHE, v_SHE, rows, keys, window=window, causal=True, backend=self.backend)
            return out.unflatten(1, (self.heads, longest)).transpose(1, 2).flatten(0, 1)
        row_T = groups.ids * longest + groups.positions
        folded = q_THE.new_zeros(len(groups) * longest, self.heads, self.width).index_copy(0, row_T, q_THE)
        folded = folded.view(len(groups), longest, self.heads, self.width).transpose(1, 2).flatten(1, 2)
        out = attend(folded, k_SHE, v_SHE, rows, keys, window=window, causal=True, backend=self.backend)
        # The same moves in reverse: (G, H * L, E) to (G * L, H, E), then back to the T queries.
        out = out.unflatten(1, (self.heads, longest)).transpose(1, 2).flatten(0, 1)
        return out.index_select(0, row_T)
