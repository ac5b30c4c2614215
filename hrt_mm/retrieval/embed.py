"""Vectors from a trained run: of values, of their pieces, and of queries.

Shapes: N values, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadSample, ConfigError, UserError
from ..core.levels import HierarchyConfig
from ..core.pyramid import Pyramid
from ..data.capabilities import Showable, Stretch, positions_at, read_file
from ..data.files import check_regular
from ..data.modality import Modality
from ..data.registry import modalities
from ..data.tokenizer import Tokenizer
from ..inference.trained import TrainedRun, load_task
from ..tasks.contrastive import Contrastive
from ..tasks.contrastive_views import ViewHeads
from ..tasks.joint import JointTokenizer
from ..train.build import carried_groups
from ..train.precision import numerics
from .passages import Passages, joined, owned, placed
from .rows import Model

log = logging.getLogger(__name__)

BATCH = 128
SHORTEST_SHOWN = 0.3
"""Seconds under which a piece has no file of its own to be shown by."""


@dataclass(frozen=True)
class Embedder:
    """A trained run that embeds.

    Args:
        run: with its weights.
        model: which model that is.
    """

    run: TrainedRun
    model: Model

    @classmethod
    def of(cls, folder: Path, which: str | int = "best", overrides: Sequence[str] = ()) -> Embedder:
        """The best weights of a run.

        Raises:
            ConfigError: its task gives no vectors to compare.
            CheckpointError: it has no such checkpoint.
        """
        run = load_task(Path(folder), which, overrides=overrides, inputs="files")
        if not isinstance(run.task, Contrastive):
            raise ConfigError(f"{folder} was trained on task {run.config.task.type}; embedding needs task contrastive")
        files = run.checkpoint.state["files"]
        weights = files.get("ema.safetensors") or files["model.safetensors"]
        return cls(run, Model(weights["sha256"], run.task.dim, str(Path(folder).resolve())))

    @property
    def task(self) -> Contrastive:
        """The model."""
        assert isinstance(self.run.task, Contrastive)
        return self.run.task

    @property
    def towers(self) -> tuple[str, ...]:
        """The parts that it can embed."""
        return self.task.towers

    def modality(self, tower: str) -> type[Modality]:
        """The modality of a tower.

        Raises:
            UserError: there is no such tower; names those there are.
        """
        assert self.run.config.towers is not None
        if tower not in self.run.config.towers:
            raise UserError(f"the model has no {tower!r}; it reads {', '.join(self.towers)}")
        return modalities()[self.run.config.towers[tower].modality.type]

    def suffixes(self, tower: str) -> tuple[frozenset[str] | None, frozenset[str]]:
        """Suffixes of the files that a tower reads, ``None`` for all; and of those that only other modalities read.

        Raises:
            UserError: there is no such tower.
        """
        own = self.modality(tower)
        if own.suffixes is not None:
            return own.suffixes, frozenset()
        return None, frozenset().union(*(other.suffixes or () for other in modalities().values()))

    def tokenizer(self, tower: str) -> Tokenizer:
        """The tokenizer of a tower.

        Raises:
            UserError: there is no such tower.
        """
        self.modality(tower)
        assert isinstance(self.run.tokenizer, JointTokenizer)
        return self.run.tokenizer.towers[tower]

    def levels(self, tower: str) -> dict[str, int]:
        """The levels whose pieces can be embedded, coarse to fine, and the view that compares each.

        These are the levels that training compared with another tower. One that several views read goes by the first
        that compares given pieces, then by that of whole samples, then by those of ``task.also`` in their order.
        """
        names = self.config(tower).levels
        found: dict[int, int] = {}
        for place, view in sorted(enumerate(self.task.views), key=lambda own: not own[1].pieces):
            if tower in view.levels:
                found.setdefault(view.levels[tower], place)
        return {names[level].name: found[level] for level in sorted(found, reverse=True)}

    def config(self, tower: str) -> HierarchyConfig:
        """The hierarchy of a tower."""
        return self.task.encoder_of(tower).hierarchy.config

    def vectors(self, tower: str, values: Sequence[Any]) -> np.ndarray:
        """(N, D) vectors of raw values.

        Raises:
            BadSample: a value cannot be used.
            UserError: there is no such tower.
        """
        return self.embedded(tower, values)[0]

    def embedded(
        self, tower: str, values: Sequence[Any], levels: Sequence[str] = ()
    ) -> tuple[np.ndarray, list[list[Passages]]]:
        """Vectors of raw values, and of their pieces.

        Args:
            tower: which.
            values: raw ones.
            levels: of the pieces, some of :meth:`levels`.

        Returns:
            (N, D) vectors, and of each value the pieces at each of the levels, coarse to fine.

        Raises:
            BadSample: a value cannot be used.
            UserError: there is no such tower.
        """
        vectors = [np.zeros((0, self.model.dim), np.float32)]
        passages: list[list[Passages]] = []
        for pyramid in self._pyramids(tower, values):
            vectors.append(self._query(0, tower, pyramid))
            columns = [
                self._passages(tower, pyramid, level, view)
                for level, view in self.levels(tower).items()
                if level in levels
            ]
            passages += [list(own) for own in zip(*columns, strict=True)] if columns else [[]] * len(vectors[-1])
        return np.concatenate(vectors), passages

    @torch.no_grad()
    def stretched(
        self, tower: str, stretches: Iterable[Stretch], levels: Sequence[str] = (), *, media: bool = False
    ) -> tuple[Any, np.ndarray, list[Passages]]:
        """The vector of a long sample, and its pieces, from stretches that are encoded one after another.

        Args:
            tower: which.
            stretches: of the sample; one at least.
            levels: of the pieces, some of :meth:`levels`.
            media: keep with each piece what a page can show of it.

        Returns:
            The raw value of the first stretch, the (D,) vector, and the pieces at each of the levels, coarse to fine.

        Raises:
            BadSample: a stretch cannot be used.
            UserError: there is no such tower.
        """
        config, whole = self.config(tower), self.task.views[0].levels[tower]
        chosen = {level: view for level, view in self.levels(tower).items() if level in levels}
        parts: dict[str, list[Passages]] = {level: [] for level in chosen}
        beginning, sum_1D, count = None, torch.zeros(1, config.levels[whole].dim), 0
        for stretch in stretches:
            value = self.run.config.data.prepare(tower, stretch.value)
            beginning = value if beginning is None else beginning
            (pyramid,) = self._pyramids(tower, [value])
            ((x_ND, edges_N2A),) = placed(pyramid, config, whole)
            kept = owned(edges_N2A + stretch.first, stretch.own)
            sum_1D, count = sum_1D + x_ND[kept].sum(0).float(), count + len(kept)
            for level, view in chosen.items():
                (own,) = self._passages(tower, pyramid, level, view)
                edges_N2A = own.edges_N2A + stretch.first
                kept = owned(edges_N2A, stretch.own)
                edges_N2A = edges_N2A[kept].clamp(*stretch.own)
                shown = self.shown(tower, value, edges_N2A - stretch.first) if media else ()
                parts[level].append(Passages(level, own.vectors_ND[kept.numpy()], edges_N2A, shown))
        vector_D = self._heads(0).mapped(tower, sum_1D / count)[0].numpy()
        return beginning, vector_D, [joined(own) for own in parts.values()]

    @torch.no_grad()
    def _query(self, view: int, tower: str, pyramid: Pyramid) -> np.ndarray:
        found: np.ndarray = self._heads(view).query(tower, pyramid).numpy()
        return found

    @torch.no_grad()
    def _passages(self, tower: str, pyramid: Pyramid, level: str, view: int) -> list[Passages]:
        config = self.config(tower)
        return [
            Passages(level, self._heads(view).mapped(tower, x_ND).numpy(), edges_N2A)
            for x_ND, edges_N2A in placed(pyramid, config, config.index(level))
        ]

    def shown(self, tower: str, value: Any, edges_N2A: Tensor) -> tuple[tuple[str, bytes] | None, ...]:
        """Of each piece what a page can show; of very short ones nothing."""
        modality, tokenizer = self.modality(tower), self.tokenizer(tower)
        if not issubclass(modality, Showable):
            return (None,) * len(edges_N2A)
        spans = [positions_at(tokenizer, value, edges_2A[:, 0].tolist()) for edges_2A in edges_N2A]
        return tuple(
            modality.shown(value, (first, last)) if last - first >= SHORTEST_SHOWN else None for first, last in spans
        )

    def _heads(self, view: int) -> ViewHeads:
        heads = self.task.heads[view]
        assert isinstance(heads, ViewHeads)
        return heads

    def _pyramids(self, tower: str, values: Sequence[Any]) -> Iterator[Pyramid]:
        tokenizer, options = self.tokenizer(tower), self.run.config.train
        for first in range(0, len(values), BATCH):
            with torch.no_grad(), numerics(torch.device("cpu"), options.num_threads):
                pyramid = self.task.encoder_of(tower)(tokenizer(list(values[first : first + BATCH])))
            yield pyramid

    def query(self, tower: str, source: str | Path) -> np.ndarray:
        """(D,) the vector of a text, or of a file.

        Raises:
            BadSample: the file cannot be read, or is of another modality.
            UserError: there is no such tower.
        """
        return self.vectors(tower, [self.read(tower, source)])[0]

    def queries(self, tower: str, source: str | Path, part: str) -> dict[str, np.ndarray]:
        """By level of a part, the (D,) vector of a query that its pieces are compared with; ``""`` for whole samples.

        Levels that training did not compare with the query's tower are left out.

        Raises:
            BadSample: the query cannot be read.
            UserError: there is no such tower.
        """
        (pyramid,) = self._pyramids(tower, [self.read(tower, source)])
        found = {"": self._query(0, tower, pyramid)[0]}
        for level, view in self.levels(part).items():
            if tower in self.task.views[view].levels:
                found[level] = self._query(view, tower, pyramid)[0]
        return found

    def read(self, tower: str, source: str | Path) -> Any:
        """A text, or what a file holds, as the run's data has it.

        Raises:
            BadSample: the text is empty, or the file is missing, no regular file, or none of the tower's modality.
            UserError: there is no such tower, or its model has groups that come with the data alone.
        """
        modality = self.modality(tower)
        if carried := carried_groups(self.run.config, self.run.tokenizer).get(tower):
            raise ConfigError(
                f"the model of {tower} groups by {', '.join(map(repr, carried))}, which come with the data and are in "
                "no bare file; train one with fixed or learned groups"
            )
        if isinstance(source, Path):
            size_of(source)
            return self.run.config.data.prepare(tower, read_file(modality, source, self.tokenizer(tower)))
        if not source.strip():
            raise BadSample("the query", "is empty; type some words")
        return self.run.config.data.prepare(tower, source)


def size_of(path: Path) -> int:
    """Bytes of a regular file.

    Raises:
        BadSample: it is missing, or a folder, FIFO or device.
    """
    try:
        return check_regular(path, str(path)).st_size
    except FileNotFoundError as error:
        raise BadSample(str(path), "no such file") from error
    except OSError as error:
        raise BadSample(str(path), f"cannot be read: {error.strerror}") from error
