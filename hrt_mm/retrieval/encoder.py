"""Encoding with a trained run: values, their pieces, and queries.

Shapes: N values, D width.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..core.errors import ConfigError, UserError
from ..core.levels import HierarchyConfig
from ..core.pyramid import Pyramid
from ..core.tokens import Tokens
from ..data.capabilities import Stretch
from ..data.dataset import Dataset
from ..data.hub import is_repository
from ..data.modality import Modality
from ..data.registry import modalities
from ..data.tokenizer import Tokenizer
from ..inference.locating import located
from ..inference.reading import TowerReader
from ..inference.trained import TrainedRun, load_task
from ..tasks.contrastive import Contrastive
from ..tasks.contrastive_views import ViewHeads
from ..train.distributed import device_named
from ..train.precision import autocast, numerics
from .passages import Passages, concatenate, within
from .pooled import PooledEncoder, PooledHeads, plain_split, pooled
from .reading import CHUNK
from .rows import Model
from .vector_encoder import VectorEncoder, no_tower

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
_COMPUTING = threading.RLock()


@dataclass(frozen=True)
class RunEncoder(VectorEncoder):
    """Computes vectors with a trained run.

    Args:
        run: the trained run, with its task on ``device``.
        model: identifies its weights.
        device: that computes.
        precision: ``fp32``, ``bf16``, or ``auto`` for bf16 where the hardware supports it. Vectors are always float32.
        pooled: the encoder, of a run that was not trained on task ``contrastive``.
    """

    run: TrainedRun
    model: Model
    device: torch.device = CPU
    precision: str = "fp32"
    pooled: PooledEncoder | None = None

    @classmethod
    def of(
        cls,
        folder: str | Path,
        which: str | int = "best",
        overrides: Sequence[str] = (),
        *,
        dim: int | None = None,
        device: str = "auto",
        precision: str = "fp32",
    ) -> Self:
        """Loads a run.

        Of a task other than ``contrastive``, over one modality, vectors are the means of the coarsest level; the tower
        is then called as the modality.

        Args:
            folder: the run folder, or a repository, ``hub:owner/name``.
            which: ``best``, ``latest`` or a step.
            overrides: changes to the run's configuration, each ``a.b.c=value``.
            dim: width of the vectors, one of ``task.matryoshka``; the whole width if absent.
            device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto`` for CUDA if there is a device.
            precision: ``fp32``, ``bf16``, or ``auto`` for bf16 where the hardware supports it.

        Raises:
            ConfigError: it has several towers and was trained on another task than ``contrastive``, or has no vectors
                of this width; the device or precision is not available.
            CheckpointError: the checkpoint is missing or damaged.
        """
        chosen = device_named(device)
        if precision not in PRECISIONS:
            raise ConfigError(f"precision {precision!r} is unknown; it is one of {', '.join(PRECISIONS)}")
        autocast(precision, chosen)
        run = load_task(folder, which, overrides=overrides, inputs="files")
        encoder: PooledEncoder | None = None
        if not isinstance(run.task, Contrastive):
            run, encoder = pooled(run)
            if dim not in (None, encoder.width):
                raise ConfigError(
                    f"{folder} has vectors of width {encoder.width} alone; train task contrastive for others"
                )
        elif dim is not None:
            run.task.narrow(dim)
        digest = run.checkpoint.digest("ema" if "ema" in run.checkpoint else "model")
        run.task.to(chosen)
        width = run.task.width if isinstance(run.task, Contrastive) else encoder.width if encoder is not None else 0
        # A search loads the model again, maybe on another machine.
        where = str(folder) if is_repository(folder) else str(Path(folder).resolve())
        return cls(run, Model(digest, width, where), chosen, precision, encoder)

    @property
    def task(self) -> Contrastive | PooledEncoder:
        """The model."""
        return self.pooled if self.pooled is not None else self.contrastive

    @property
    def contrastive(self) -> Contrastive:
        """The model, which was trained to compare.

        Raises:
            ConfigError: it was trained on another task.
        """
        if not isinstance(self.run.task, Contrastive):
            raise ConfigError(
                f"{self.run.folder} was trained on task {self.run.config.task.type}; this needs task contrastive"
            )
        return self.run.task

    def dataset(self, split: str) -> Dataset:
        """The samples of a split of the run's data without augmentation, as mappings by tower.

        Raises:
            ConfigError: the split is missing.
        """
        if self.pooled is not None:
            return plain_split(self.run, split, self.towers[0])
        dataset = self.run.config.data.plain(split)
        dataset.limit_towers(self.run.tokenizers)
        return dataset

    @property
    def towers(self) -> tuple[str, ...]:
        return self.task.towers

    @property
    def shared(self) -> Mapping[str, str]:
        return self.task.shared

    def prepare(self, tower: str, value: Any) -> Any:
        return self.run.config.data.prepare(tower, value)

    def modality(self, tower: str) -> type[Modality]:
        towers = self.run.config.towers
        if tower not in towers:
            raise no_tower(tower, self.towers)
        return modalities()[towers[tower].modality.type]

    def tokenizer(self, tower: str) -> Tokenizer:
        self.modality(tower)
        return self.run.tokenizers[tower]

    def levels(self, tower: str) -> dict[str, int]:
        """The levels whose pieces can be embedded, coarse to fine, each with the index of the view that compares it.

        These are the levels that training compared with another tower. If several views compare a level, the first one
        of annotated pieces takes precedence, then that of whole samples, then those of ``task.also`` in order. Levels
        of ``task.also`` have vectors of the whole width only.
        """
        names = self.config(tower).levels
        view_of: dict[int, int] = {}
        for index, view in sorted(enumerate(self.task.views), key=lambda indexed: not indexed[1].pieces):
            if tower in view.levels and self.task.width_of(index) == self.model.dim:
                view_of.setdefault(view.levels[tower], index)
        return {names[level].name: view_of[level] for level in sorted(view_of, reverse=True)}

    def config(self, tower: str) -> HierarchyConfig:
        """The hierarchy of a tower."""
        return self.task.encoder_of(tower).hierarchy.config

    def reader(self, tower: str) -> TowerReader:
        self.modality(tower)
        return self.run.reader(tower)

    def encode(self, tower: str, tokens: Tokens, levels: Sequence[str] = ()) -> tuple[np.ndarray, list[list[Passages]]]:
        pyramid = self.pyramid(tower, tokens)
        vectors_ND = self._query(0, tower, pyramid)
        columns = [
            self._passages(tower, pyramid, level, view) for level, view in self.levels(tower).items() if level in levels
        ]
        return vectors_ND, [list(row) for row in zip(*columns, strict=True)] if columns else [[]] * len(vectors_ND)

    @torch.no_grad()
    def embed_stretches(
        self, tower: str, stretches: Iterable[Stretch], levels: Sequence[str] = (), *, media: bool = False
    ) -> tuple[Any, np.ndarray, list[Passages]]:
        config, sample_level = self.config(tower), self.task.views[0].levels[tower]
        views = {level: view for level, view in self.levels(tower).items() if level in levels}
        passages: dict[str, list[Passages]] = {level: [] for level in views}
        first_value, sum_1D, count = None, torch.zeros(1, config.levels[sample_level].dim, device=self.device), 0
        for stretch in stretches:
            value = self.prepare(tower, stretch.value)
            first_value = value if first_value is None else first_value
            (pyramid,) = self._pyramids(tower, [value])
            # Each stretch counts only for its own interval. The rest of it is context.
            ((x_ND, edges_N2A),) = located(pyramid, config, sample_level)
            inside = within(edges_N2A + stretch.first, stretch.core)
            sum_1D, count = sum_1D + x_ND[inside].sum(0).float(), count + len(inside)
            for level, view in views.items():
                (pieces,) = self._passages(tower, pyramid, level, view)
                edges_N2A = pieces.edges_N2A + stretch.first
                inside = within(edges_N2A, stretch.core)
                edges_N2A = edges_N2A[inside].clamp(*stretch.core)
                files = self.media(tower, value, edges_N2A - stretch.first) if media else ()
                passages[level].append(Passages(level, pieces.vectors_ND[inside.numpy()], edges_N2A, files))
        with self._computing():
            vector_D = _on_host(self._heads(0).mapped(tower, sum_1D / count))[0]
        return first_value, vector_D, [concatenate(stretches_of_level) for stretches_of_level in passages.values()]

    def _query(self, view: int, tower: str, pyramid: Pyramid) -> np.ndarray:
        with self._computing():
            return _on_host(self._heads(view).query(tower, pyramid))

    def _passages(self, tower: str, pyramid: Pyramid, level: str, view: int) -> list[Passages]:
        config = self.config(tower)
        with self._computing():
            return [
                Passages(level, _on_host(self._heads(view).mapped(tower, x_ND)), edges_N2A)
                for x_ND, edges_N2A in located(pyramid, config, config.index(level))
            ]

    def _heads(self, view: int) -> ViewHeads | PooledHeads:
        heads = self.task.heads[view]
        assert isinstance(heads, ViewHeads | PooledHeads)
        return heads

    def pyramid(self, tower: str, tokens: Tokens) -> Pyramid:
        """Encodes tokenized samples."""
        with self._computing():
            encoded: Pyramid = self.task.encoder_of(tower)(tokens.to(self.device))
        return encoded

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with computing(self.device, self.precision, self.run.config.train.num_threads):
            yield

    def _pyramids(self, tower: str, values: Sequence[Any]) -> Iterator[Pyramid]:
        tokenizer = self.tokenizer(tower)
        for first in range(0, len(values), CHUNK):
            yield self.pyramid(tower, tokenizer(list(values[first : first + CHUNK])))

    def query_vectors(self, tower: str, target: str | None, *, values: Sequence[Any]) -> dict[str, np.ndarray]:
        views = {"": 0}
        if target is not None:
            views |= {
                level: view for level, view in self.levels(target).items() if tower in self.task.views[view].levels
            }
        pyramids = self._pyramids(tower, values)
        blocks = [{level: self._query(view, tower, pyramid) for level, view in views.items()} for pyramid in pyramids]
        return {level: np.concatenate([block[level] for block in blocks]) for level in views}

    def query_tokens(self, tower: str, target: str, level: str, values: Sequence[Any]) -> list[np.ndarray]:
        views = {name: view for name, view in self.levels(target).items() if tower in self.task.views[view].levels}
        if level not in views:
            raise UserError(
                f"pieces of level {level!r} of {target} were not compared with {tower} in training; "
                f"{', '.join(views) or 'none'} were"
            )
        heads = self._heads(views[level])
        tokens: list[np.ndarray] = []
        for pyramid in self._pyramids(tower, values):
            with torch.no_grad():
                if heads.soft:
                    level_tokens = pyramid[heads.levels[tower]]
                    tokens += [x_TD.numpy() for x_TD in level_tokens.spans.split(heads.mapped(tower, level_tokens.x))]
                else:
                    tokens += [vector_1D.numpy() for vector_1D in heads.query(tower, pyramid).split(1)]
        return tokens


PRECISIONS = ("fp32", "bf16", "auto")


@contextmanager
def computing(device: torch.device, precision: str, num_threads: int | None) -> Iterator[None]:
    """Inside, models compute without gradients. One thread at a time may be inside.

    Args:
        device: that computes.
        precision: see :class:`RunEncoder`.
        num_threads: of the CPU; those of the process if ``None``.
    """
    # The settings are of the process, so threads must take turns.
    with _COMPUTING, torch.no_grad(), numerics(device, num_threads), autocast(precision, device)():
        yield


def _on_host(vectors_ND: Tensor) -> np.ndarray:
    """(N, D) vectors as float32 on the host."""
    array: np.ndarray = vectors_ND.float().cpu().numpy()
    return array
