"""The memory of a causal model as named tensors and back, for files without pickle.

Shapes: B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.causal import KeyValues, Memory
from ...core.causal.groups import OpenGroup
from ...core.causal.memory import LevelMemory
from ...core.errors import UserError
from ...core.hierarchy import Hierarchy
from ...train.weights import refuse


@dataclass(frozen=True)
class _Growth:
    """How a tensor grows that has room for more than it holds.

    Args:
        axis: the axis that grows.
        used: length in use along it.
        counter: name of the entry that counts the used length of each sample.
        make_room: makes room for a given length.
    """

    axis: int
    used: int
    counter: str
    make_room: Callable[[int], None]


@dataclass(frozen=True, eq=False)
class _Entry:
    """A tensor of a cache, without a copy.

    Args:
        name: begins with the name of the level.
        value: the whole tensor, unused room included.
        growth: how it grows, if it does.
        absent: value to fill it with when an older file lacks it.
        narrow: lower precision in which older files have it.
    """

    name: str
    value: Tensor
    growth: _Growth | None = None
    absent: float | None = None
    narrow: torch.dtype | None = None

    def first(self, saved: Tensor) -> Tensor:
        """The part of the tensor that a saved one fills."""
        return self.value if self.growth is None else self.value.narrow(self.growth.axis, 0, _length(self, saved))

    def fits(self, saved: Tensor) -> bool:
        """Whether a saved tensor has this shape; along the axis that grows any length fits."""
        shape = list(self.value.shape)
        if self.growth is not None and saved.ndim == len(shape):
            shape[self.growth.axis] = _length(self, saved)
        return shape == list(saved.shape)


def cache_state(cache: Memory) -> dict[str, Tensor]:
    """The tensors of a cache by name, without unused room. They share memory with the cache."""
    return {
        entry.name: entry.value if entry.growth is None else entry.value.narrow(entry.growth.axis, 0, entry.growth.used)
        for entry in _entries(cache)
    }


def cache_of(hierarchy: Hierarchy, state: Mapping[str, Tensor], source: str = "the cache") -> Memory:
    """Builds a cache from the tensors of :func:`cache_state`.

    Args:
        hierarchy: the model that the cache belongs to.
        state: tensors by name, on any device.
        source: name of the cache in error messages.

    Raises:
        UserError: the tensors belong to another model, or contradict each other.
    """
    counts = state.get(f"{hierarchy.config.levels[0].name}.count")
    cache = Memory(hierarchy, len(counts) if counts is not None and counts.ndim == 1 else 1)
    entries = {entry.name: entry for entry in _entries(cache)}
    # Entries that older files lack get their default, unless the file has them.
    older = {
        name: torch.full_like(entry.value, entry.absent) for name, entry in entries.items() if entry.absent is not None
    }
    state = older | dict(state)
    refuse(_differing(entries, state), source)
    for entry in entries.values():
        if entry.growth is not None:
            length, counted = _length(entry, state[entry.name]), state[entry.growth.counter].max()
            if length < counted:
                raise UserError(f"{source} is damaged: {entry.name} has {length} of {counted} ({entry.growth.counter})")
            entry.growth.make_room(length)
    # Listed anew, as making room replaced the tensors.
    for entry in _entries(cache):
        entry.first(state[entry.name]).copy_(state[entry.name])
    return cache


def _length(entry: _Entry, saved: Tensor) -> int:
    assert entry.growth is not None
    return saved.shape[entry.growth.axis]


def _entries(cache: Memory) -> Iterator[_Entry]:
    yield _Entry("first", torch.from_numpy(cache.first_B), absent=0.0)
    for name, level in zip(cache.names, cache.levels, strict=True):
        yield from _level(name, level)


def _level(name: str, level: LevelMemory) -> Iterator[_Entry]:
    yield _Entry(f"{name}.count", torch.from_numpy(level.count_B))
    yield _Entry(f"{name}.groups", torch.from_numpy(level.groups_B))
    # Only the used part is saved: a growing cache has up to twice the room.
    longest, most = int(level.count_B.max(initial=0)), int(level.groups_B.max(initial=0))
    for part, layers in (("encoder", level.encoder), ("decoder", level.decoder)):
        for index, keys in enumerate(layers):
            yield from _keys(f"{name}.{part}.{index}", keys, longest, f"{name}.count")
    if level.down is not None:
        # A learned key may precede that of the first group.
        yield from _keys(f"{name}.down", level.down, most + 1, f"{name}.groups")
    if level.back_BD is not None:
        yield _Entry(f"{name}.back", level.back_BD)
    if level.open is not None:
        yield from _open(f"{name}.open", level.open)


def _keys(name: str, keys: KeyValues, count: int, counter: str) -> Iterator[_Entry]:
    growth = None if keys.ring else _Growth(2, min(count, keys.slots), counter, keys.make_room)
    yield _Entry(f"{name}.keys", keys.k_BKSE, growth)
    yield _Entry(f"{name}.values", keys.v_BKSE, growth)


def _open(name: str, group: OpenGroup) -> Iterator[_Entry]:
    yield _Entry(f"{name}.size", torch.from_numpy(group.size_B))
    used = int(group.size_B.max(initial=0))
    growth = _Growth(1, used, f"{name}.size", group.make_room) if group.keeps_tokens else None
    yield _Entry(f"{name}.tokens", group.x_BSD, growth)
    # Names of entries are those of the first version, whatever the attributes are called now.
    yield _Entry(f"{name}.places", group.position_BS, growth, narrow=torch.float32)
    if group.before_BD is not None:
        yield _Entry(f"{name}.before", group.before_BD)
    if group.prob_B is not None:
        yield _Entry(f"{name}.chance", group.prob_B)
    for boundary, flags in group.started.items():
        yield _Entry(f"{name}.started.{boundary}", torch.from_numpy(flags))


def _differing(entries: Mapping[str, _Entry], state: Mapping[str, Tensor]) -> list[str]:
    wrong = [f"{name} is missing" for name in entries if name not in state]
    wrong += [f"{name} is unknown" for name in state if name not in entries]
    for name, entry in entries.items():
        saved = state.get(name)
        if saved is None:
            continue
        if not entry.fits(saved):
            wrong.append(f"{name} has shape {tuple(saved.shape)}, not {tuple(entry.value.shape)}")
        elif saved.dtype not in (entry.value.dtype, entry.narrow):
            wrong.append(f"{name} is {saved.dtype}, not {entry.value.dtype}".replace("torch.", ""))
        elif not saved.is_floating_point() and saved.numel() and int(saved.min()) < 0:
            wrong.append(f"{name} is damaged: it counts {int(saved.min())}")
    return wrong
