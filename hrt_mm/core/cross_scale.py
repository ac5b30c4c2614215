"""Attention between neighbouring levels, both ways, each through a per-channel gate (arXiv 2509.20581).

A gate starts near zero, so a new path does no harm, and is measured, so a path that stays shut is seen.

Shapes: T fine tokens, G coarse tokens, D query width, H heads, E head width, C axes.
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
"""What gates start at."""


class CrossAttention(nn.Module):
    """Queries from one level, keys and values from its neighbour; its output is added to the queries' level."""

    def __init__(self, dim: int, source_dim: int, heads: int, axes: int, theta: float, backend: str) -> None:
        super().__init__()
        self.heads, self.width, self.backend = heads, dim // heads, backend
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(source_dim, 2 * dim, bias=False)
        self.q_gain = nn.Parameter(torch.empty(heads, 1))
        self.out = nn.Linear(dim, dim, bias=False)
        self.gate_D = nn.Parameter(torch.empty(dim))
        self.rotary = Rotary(self.width, axes, theta)
        CrossAttention.reset_parameters(self)

    def reset_parameters(self) -> None:
        """Sets what is its own to where it starts."""
        nn.init.ones_(self.q_gain)
        nn.init.constant_(self.gate_D, GATE)

    def rope(self, coords_TC: Tensor, unit_C: Tensor) -> Tensor:
        return self.rotary.rotations(coords_TC, unit_C, self.query.weight)

    def queries(self, x_TD: Tensor, rope: Tensor) -> Tensor:
        q_THE = self.query(rms_norm(x_TD)).unflatten(-1, (self.heads, self.width))
        return (normed_rotation(q_THE, rope) * self.q_gain).to(q_THE.dtype)

    def keys_values(self, source: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        k_SHE, v_SHE = self.key_value(rms_norm(source)).unflatten(-1, (2 * self.heads, self.width)).chunk(2, 1)
        return normed_rotation(k_SHE, rope).to(v_SHE.dtype), v_SHE

    def gated(self, out_THE: Tensor) -> Tensor:
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
        """Queries of run i see the sources of run i.

        Args:
            x_TD: tokens that ask.
            coords_TC: their positions.
            q_spans: their runs.
            source: tokens of the neighbouring level.
            source_coords: their positions.
            k_spans: their runs.
            unit_C: level-0 steps that count as one step between the two levels.

        Returns:
            (T, D), gated.
        """
        q_THE = self.queries(x_TD, self.rope(coords_TC, unit_C))
        k_SHE, v_SHE = self.keys_values(source, self.rope(source_coords, unit_C))
        return self.gated(attend(q_THE, k_SHE, v_SHE, q_spans, k_spans, backend=self.backend))


class CausalDown(CrossAttention):
    """Fine tokens see the coarse tokens of the groups before their own; with ``inclusive``, of their own as well.

    The ragged staircase that this makes is one causal call: the tokens of a group fold into the heads of one query
    row, so rows and keys are both counted in groups. Without ``inclusive`` the keys are shifted by one group behind
    a null key, so that row g sees the null key and the groups before g. Positions are then counted from where
    the sample begins, which is where the null key lies, so that what is seen depends on distances alone.

    Args:
        inclusive: a group's token may be seen by its own tokens, because it was made from the first one alone.
    """

    def __init__(
        self, dim: int, source_dim: int, heads: int, axes: int, theta: float, backend: str, *, inclusive: bool
    ) -> None:
        super().__init__(dim, source_dim, heads, axes, theta, backend)
        self.null_key = None if inclusive else nn.Parameter(torch.empty(2, heads, self.width))
        self._begin()

    def reset_parameters(self) -> None:
        """Sets what is its own to where it starts."""
        super().reset_parameters()
        self._begin()

    def _begin(self) -> None:
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
        """(T, D), gated.

        Args:
            x_TD: fine tokens.
            coords_TC: their positions.
            groups: their groups.
            source: (G, ...) coarse tokens, one a group.
            source_coords: their positions.
            samples: the samples, counted in groups.
            unit_C: level-0 steps that count as one.
            origin_BC: where each sample begins.
            window: groups back that are seen; all when absent.
        """
        if self.null_key is not None:
            coords_TC = coords_TC - origin_BC[samples.ids[groups.ids]]
            source_coords = source_coords - origin_BC[samples.ids]
        q_THE = self.queries(x_TD, self.rope(coords_TC, unit_C))
        k_GHE, v_GHE = self.keys_values(source, self.rope(source_coords, unit_C))
        if self.null_key is not None:
            k_GHE, v_GHE = (
                shift_right(part, samples, null) for part, null in zip((k_GHE, v_GHE), self.null_key, strict=True)
            )
        seen_THE = self.seen(q_THE, k_GHE, v_GHE, groups, samples, samples, window=window)
        return self.gated(seen_THE)

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
        """:meth:`staircase` for new fine tokens and new coarse ones, after those that a memory holds.

        The memory holds the null key first, so that groups see the key of their own number with and without it.

        Args:
            x_ND: new fine tokens.
            coords_NC: their positions, from where the sample begins if there is a null key.
            source: new coarse tokens and their positions, counted likewise.
            unit_C: level-0 steps that count as one.
            memory: keys of the coarse tokens before; those of the new ones are added.
            new_keys: the samples of the new coarse tokens.
            runs: the groups of the new fine tokens.

        Returns:
            (N, D), gated.
        """
        q_NHE = self.queries(x_ND, self.rope(coords_NC, unit_C))
        k_CHE = v_CHE = q_NHE[:0]
        if source is not None:
            k_CHE, v_CHE = self.keys_values(source[0], self.rope(source[1], unit_C))
        if runs.new.single:
            memory.append(k_CHE, v_CHE, new_keys)
            return self.gated(memory.attend_newest(q_NHE, runs.new, new_keys.before + new_keys.counts - 1))
        k_SHE, v_SHE, keys = memory.extended(k_CHE, v_CHE, new_keys)
        return self.gated(self.seen(q_NHE, k_SHE, v_SHE, runs.spans, runs.samples, keys, window=memory.window))

    def seen(
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
        """(T, H, E): what queries see of the keys, where the last row of a sample's groups stands at its last key.

        Args:
            q_THE: queries.
            k_SHE: keys, one a group and maybe some of groups before these.
            v_SHE: their values.
            groups: of the queries; some may be empty.
            rows: the samples, counted in groups.
            keys: the samples, counted in keys.
            window: groups back that are seen; all when absent.
        """
        longest = groups.max_seqlen
        place_T = groups.ids * longest + groups.positions
        folded = q_THE.new_zeros(len(groups) * longest, self.heads, self.width).index_copy(0, place_T, q_THE)
        folded = folded.view(len(groups), longest, self.heads, self.width).transpose(1, 2).flatten(1, 2)
        out = attend(folded, k_SHE, v_SHE, rows, keys, window=window, causal=True, backend=self.backend)
        out = out.unflatten(1, (self.heads, longest)).transpose(1, 2).flatten(0, 1)
        return out.index_select(0, place_T)
