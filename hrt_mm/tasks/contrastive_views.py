"""What of several towers is compared: whole samples, tokens of a level that the similarity aligns, or given pieces.

Shapes: n samples, T tokens of a level, D the common width, N rows of this rank, M of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.component import Component
from ..core.errors import ConfigError
from ..core.levels import HierarchyConfig
from ..core.linear import InitLinear
from ..core.pyramid import Pyramid
from ..core.ranks import gathered
from ..core.segments import segment_mean
from ..core.spans import Spans
from .max_sim import max_sim
from .pieces import Pieces


class LevelPair(Component):
    """Levels of two or more towers that are compared, each pair of them."""

    levels: Annotated[dict[str, str], Field(min_length=2)]
    """By tower, the level. Towers that are named together find one another's pieces: each has one vector for all."""
    align: Literal["pooled", "soft", "given"] = "pooled"
    """``pooled`` compares the levels' means. ``soft`` is MaxSim, the score of late interaction: for each token of one
    side the best product with a token of the other, and the mean of those (arXiv 2004.12832, 2111.07783). ``given``
    compares pieces, such as words, whose positions in both the data knows: the mean of the tokens in each with those of
    all others."""
    pieces: str | None = None
    """Of ``given``, which of the data's pieces: ``words``."""
    weight: PositiveFloat = 1.0
    """What this loss counts beside that of whole samples: the mean over pairs of towers."""

    @model_validator(mode="after")
    def _pieces_of_given(self) -> LevelPair:
        if self.align == "given" and not self.pieces:
            raise ValueError("align: given needs pieces: the name of those that the data gives, such as words")
        if self.align != "given" and self.pieces is not None:
            raise ValueError(f"pieces has no effect with align: {self.align}; drop it, or set align: given")
        return self

    @property
    def name(self) -> str:
        """What it is called in metrics: ``audio_words_text_words_soft``."""
        return "_".join([*(f"{tower}_{level}" for tower, level in self.levels.items()), self.align])


@dataclass(frozen=True)
class LevelView:
    """A resolved :class:`LevelPair`, or the view of whole samples.

    Args:
        levels: places of the levels by tower.
        name: what it is called in metrics; empty for whole samples.
        soft: whether tokens are compared.
        weight: of its loss.
        pieces: the tier whose pieces are compared; empty for none.
    """

    levels: Mapping[str, int]
    name: str = ""
    soft: bool = False
    weight: float = 1.0
    pieces: str = ""

    @classmethod
    def whole(cls, models: Mapping[str, HierarchyConfig], chosen: Mapping[str, str]) -> LevelView:
        """Whole samples: a level of each tower.

        Raises:
            ConfigError: a level is unknown.
        """
        return cls({tower: _place(tower, model, chosen.get(tower)) for tower, model in models.items()})

    @classmethod
    def of(cls, pair: LevelPair, models: Mapping[str, HierarchyConfig]) -> LevelView:
        """The levels of a pair.

        Raises:
            ConfigError: a tower or a level is unknown.
        """
        for tower in pair.levels:
            if tower not in models:
                raise ConfigError(f"task.also names a tower {tower!r}; the towers are {', '.join(models)}")
        level_indices = {tower: _place(tower, models[tower], level) for tower, level in pair.levels.items()}
        return cls(level_indices, pair.name, pair.align == "soft", pair.weight, pair.pieces or "")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of its towers."""
        return tuple(combinations(self.levels, 2))


def _place(tower: str, model: HierarchyConfig, level: str | None) -> int:
    try:
        return model.index(level)
    except ConfigError as error:
        raise ConfigError(f"towers.{tower}: {error}") from error


@dataclass(frozen=True, eq=False)
class Vectors:
    """What one tower comes to in a view.

    Args:
        x: (T, D) normed vectors: one a sample, or one a token.
        samples: the samples over them; of pieces each piece is one.
        groups: (n,) int64 on the host: what the samples, or pieces, are of.
    """

    x: Tensor
    samples: Spans
    groups: Tensor

    @classmethod
    def joined(cls, pieces: Sequence[Vectors], groups: Tensor) -> Vectors:
        """Chunks laid end to end."""
        if len(pieces) == 1:
            return cls(pieces[0].x, pieces[0].samples, groups)
        spans = Spans.concat([piece.samples for piece in pieces])
        return cls(torch.cat([piece.x for piece in pieces]), spans, groups)

    def everywhere(self) -> Vectors:
        """The vectors of all ranks."""
        device = self.x.device
        groups = gathered(self.groups.to(device)).cpu()
        lengths = gathered(self.samples.lengths.to(device)).cpu()
        return Vectors(gathered(self.x), Spans.from_lengths(lengths, device), groups)

    def prefix(self, width: int) -> Vectors:
        """The first components alone, normalized."""
        return Vectors(prefix(self.x, width), self.samples, self.groups)

    def similarity(self, others: Vectors, *, soft: bool) -> Tensor:
        """(N, M) similarities of samples: of their vectors, or the mean over tokens of the best on the other side."""
        if not soft:
            return self.x.float() @ others.x.float().T
        return max_sim(self.x, self.samples, others.x, others.samples)


def prefix(x_ND: Tensor, width: int) -> Tensor:
    """(N, width) the first components of vectors, normalized."""
    return F.normalize(x_ND[:, :width], dim=-1)


class ViewHeads(nn.Module):
    """A linear map for each tower of a view, to vectors of length 1.

    Args:
        view: what is read.
        models: the hierarchies by tower.
        dim: the common width.
        shared: by tower, another one whose weights it has; its map too, where both are read at the same level.
    """

    def __init__(
        self, view: LevelView, models: Mapping[str, HierarchyConfig], dim: int, shared: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.levels, self.soft, self.pieces = dict(view.levels), view.soft, view.pieces
        self.width = dim
        same = {
            tower: other for tower, other in (shared or {}).items() if self.levels.get(other) == self.levels.get(tower)
        }
        self.owners = {tower: same.get(tower, tower) for tower in self.levels}
        start = nn.init.xavier_uniform_
        self.maps = nn.ModuleDict(
            {
                tower: InitLinear(models[tower].levels[level].dim, dim, start, bias=True, now=False)
                for tower, level in view.levels.items()
                if self.owners[tower] == tower
            }
        )
        for linear in self.maps.values():
            assert isinstance(linear, InitLinear)
            linear.init_weights()

    def forward(self, tower: str, pyramid: Pyramid, pieces: Mapping[str, Pieces]) -> Vectors:
        """The vectors of a tower; what they are of is added later."""
        level = self.levels[tower]
        tokens = pyramid[level]
        if self.pieces:
            x = pieces[self.pieces].means(tokens)
            samples = Spans.from_lengths([1] * len(x), x.device)
        else:
            x = tokens.x if self.soft else pyramid.pooled(level)
            samples = tokens.spans if self.soft else tokens.spans.singletons
        return Vectors(self.mapped(tower, x), samples, torch.zeros(0, dtype=torch.int64))

    def mapped(self, tower: str, x: Tensor) -> Tensor:
        """(N, D) vectors of length 1 from rows of the tower's level, of the first :attr:`width` components."""
        return prefix(self._map(tower)(x).float(), self.width)

    def query(self, tower: str, pyramid: Pyramid) -> Tensor:
        """(n, D) a vector a sample; its product with that of one token of the other side is their similarity here."""
        level = self.levels[tower]
        if not self.soft:
            return self.mapped(tower, pyramid.pooled(level))
        return segment_mean(self.mapped(tower, pyramid[level].x), pyramid[level].spans)

    def nothing(self, tower: str) -> Vectors:
        """No vectors, on the graph all the same: other ranks may have some, and wait for this one in backward."""
        linear = self._map(tower)
        x = linear(linear.weight.new_zeros(0, linear.in_features)).float()
        return Vectors(x, Spans.from_lengths([], x.device), torch.zeros(0, dtype=torch.int64))

    def _map(self, tower: str) -> nn.Linear:
        linear = self.maps[self.owners[tower]]
        assert isinstance(linear, nn.Linear)
        return linear
