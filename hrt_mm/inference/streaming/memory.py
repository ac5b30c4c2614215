"""What a stream remembers of each level: the keys that tokens to come will see, and the group that is still open.

Shapes: N new tokens, S kept ones, D width, K key heads, E head width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ...core.cross_scale import CausalDown
from ...core.hierarchy import Hierarchy, Stage
from ...core.transition import TopDown
from ..generation.cache import bound


class Window:
    """The newest keys and values of a layer in their order, as many as queries to come can see.

    Args:
        heads: key heads.
        width: of a head.
        keep: how many; all when absent.
        like: gives device and precision.
    """

    def __init__(self, heads: int, width: int, keep: int | None, like: Tensor) -> None:
        self.keep = keep
        self.k_SKE = like.new_zeros(0, heads, width)
        self.v_SKE = like.new_zeros(0, heads, width)

    def extended(self, k_NKE: Tensor, v_NKE: Tensor) -> tuple[Tensor, Tensor]:
        """The kept keys and values with new ones after them; of those the newest are kept."""
        k_SKE, v_SKE = torch.cat([self.k_SKE, k_NKE]), torch.cat([self.v_SKE, v_NKE])
        self.k_SKE, self.v_SKE = (newest(part, self.keep) for part in (k_SKE, v_SKE))
        return k_SKE, v_SKE

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.k_SKE.nbytes + self.v_SKE.nbytes


def newest(x_ND: Tensor, keep: int | None) -> Tensor:
    """The last rows, in memory of their own: a view would hold all that came before them."""
    return x_ND if keep is None or len(x_ND) <= keep else x_ND[len(x_ND) - keep :].clone()


class LevelMemory:
    """What one level remembers.

    Args:
        hierarchy: the model.
        place: of the level.
        names: of given boundaries.
        like: gives device and precision.
    """

    def __init__(self, hierarchy: Hierarchy, place: int, names: Iterable[str], like: Tensor) -> None:
        stage = hierarchy.stages[place]
        assert isinstance(stage, Stage)
        level = stage.level
        heads, window = level.kv_heads or level.heads, bound(level)
        self.encoder = [Window(heads, level.head_dim, window, like) for _ in stage.encoder]
        self.decoder = [Window(heads, level.head_dim, window, like) for _ in stage.decoder]
        self.open_SD = like.new_zeros(0, level.dim)
        self.place_S = torch.zeros(0, dtype=torch.float64, device=like.device)
        self.started = dict.fromkeys(names, False)
        """Whether a given group starts in the open one (after its first token, where that alone makes its token)."""
        self.chance_1 = torch.ones(1, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
        """Of groups that are smoothed, the probability of the boundary that the open one starts at."""
        self.down: Window | None = None
        self.back_1D: Tensor | None = None
        if len(hierarchy.down) > place:
            self.down = self._down(hierarchy, place, like)
        if len(hierarchy.top_down) > place:
            top_down = hierarchy.top_down[place]
            assert isinstance(top_down, TopDown)
            lead_D = like.new_zeros(level.dim) if top_down.lead is None else top_down.lead.detach().to(like.dtype)
            self.back_1D = lead_D[None]

    @staticmethod
    def _down(hierarchy: Hierarchy, place: int, like: Tensor) -> Window:
        """Keys of the next level. The open group's tokens see those of its place, and a window of them before it."""
        down, window = hierarchy.down[place], bound(hierarchy.config.levels[place + 1])
        assert isinstance(down, CausalDown)
        kept = Window(down.heads, down.width, None if window is None else window + 1, like)
        if down.null_key is not None:
            null_2HE = down.null_key.detach().to(like.dtype)
            kept.extended(null_2HE[:1], null_2HE[1:])
        return kept

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        windows = [*self.encoder, *self.decoder, *([self.down] if self.down is not None else [])]
        held = sum(window.nbytes for window in windows) + self.open_SD.nbytes + self.place_S.nbytes
        return held + (self.back_1D.nbytes if self.back_1D is not None else 0)
