"""The part of a decoder that reads a source: maps of the source's levels, and the attention of the decoder's blocks.

Shapes: S tokens of the source, D width of the decoder's level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .hierarchy import Hierarchy
from .mean_removal import MeanRemoval
from .modules import TypedModuleList
from .norm import rms_norm
from .pyramid import Pyramid
from .source import LevelSource, Positions, SourceAttention, SourceMemory
from .spans import Spans


class LevelReader(nn.Module):
    """What a level of the decoder reads of a source, and the attention of each of its blocks.

    Args:
        decoder: the hierarchy that reads.
        index: its level.
        source: the hierarchy that is read.
        levels: indices of the levels that are read.
    """

    blocks: TypedModuleList[SourceAttention]

    def __init__(self, decoder: Hierarchy, index: int, source: Hierarchy, levels: Sequence[int]) -> None:
        super().__init__()
        stage = decoder.stages[index]
        level = stage.level
        names = [source.config.levels[number].name for number in levels]
        theta = 10000.0 if source.axes == 1 else 100.0
        self.maps = nn.ModuleDict(
            {
                name: nn.Linear(source.config.levels[number].dim, level.dim, bias=False)
                for name, number in zip(names, levels, strict=True)
            }
        )
        self.source_positions = nn.ModuleDict(
            {
                name: Positions(source.axes, level.dim, theta, _unit(source, number))
                for name, number in zip(names, levels, strict=True)
            }
        )
        self.means = nn.ModuleDict({name: MeanRemoval(level.dim) for name in names})
        self.positions = Positions(1, level.dim, 10000.0, _unit(decoder, index))
        self.blocks = TypedModuleList()
        for block in chain(stage.encoder, stage.decoder):
            block.reads_source = True
            self.blocks.append(SourceAttention(level.dim, level.heads))
        self.backend = decoder.config.backend

    def forward(self, pyramid: Pyramid) -> LevelSource:
        """The keys and values of all blocks, of the tokens of all levels that are read."""
        parts, ids = [], []
        for name, project in self.maps.items():
            tokens = pyramid[name]
            parts.append(rms_norm(self.means[name](project(tokens.x))) + self.source_positions[name](tokens.coords_TC))
            ids.append(tokens.spans)
        source_SD, spans = _by_sample(parts, ids)
        source_SD = rms_norm(source_SD)
        pairs = [block.keys_values(source_SD) for block in self.blocks]
        return LevelSource(list(self.blocks), self.positions, self.backend, pairs, spans)


class SourceReader(nn.Module):
    """The part of a decoder that reads a source, beside its hierarchy.

    Args:
        decoder: the hierarchy that reads.
        source: the hierarchy that is read.
        read: by index of a level of the decoder, the indices of the levels of the source that its blocks read.

    Raises:
        ConfigError: a level that reads has no blocks.
    """

    def __init__(self, decoder: Hierarchy, source: Hierarchy, read: Mapping[int, Sequence[int]]) -> None:
        super().__init__()
        self.indices = tuple(read)
        names = [decoder.config.levels[index].name for index in read]
        self.levels = nn.ModuleDict(
            {
                name: LevelReader(decoder, index, source, levels)
                for name, (index, levels) in zip(names, read.items(), strict=True)
            }
        )
        for name, level in self.levels.items():
            assert isinstance(level, LevelReader)
            if not len(level.blocks):
                raise ConfigError(f"level {name!r} has no blocks that could read; set its depth or decoder_depth")

    def forward(self, pyramid: Pyramid) -> SourceMemory:
        """The keys and values of a batch of sources."""
        levels = zip(self.indices, self.levels.values(), strict=True)
        return SourceMemory({index: level(pyramid) for index, level in levels})


def _unit(hierarchy: Hierarchy, index: int) -> tuple[float, ...]:
    """Level-0 units per token of a level, along each axis."""
    unit = (1.0,) * hierarchy.axes
    for transition in hierarchy.transitions[:index]:
        unit = tuple(size * stride for size, stride in zip(unit, transition.stride, strict=True))
    return unit


def _by_sample(parts: Sequence[Tensor], spans: Sequence[Spans]) -> tuple[Tensor, Spans]:
    """Packed tensors of the same samples as one: all rows of the first sample, then those of the second, and so on."""
    if len(parts) == 1:
        return parts[0], spans[0]
    lengths = torch.stack([part.lengths for part in spans])
    ids = torch.cat([torch.repeat_interleave(torch.arange(len(part)), part.lengths) for part in spans])
    order = ids.argsort(stable=True).to(parts[0].device)
    return torch.cat(list(parts)).index_select(0, order), Spans.from_lengths(lengths.sum(0), parts[0].device)
