"""Vectors from a trained run: of the samples of its data, of files, and of queries.

Shapes: N values, D width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import BadSample, ConfigError, UserError
from ..levels import HierarchyConfig
from ..modality import Dataset, Modality, Stretch, Tokenizer, modalities
from ..pyramid import Pyramid
from ..sample import Sample
from ..tasks.contrastive import Contrastive
from ..tasks.contrastive_views import ViewHeads
from ..tasks.joint import JointTokenizer
from ..train.evaluate import TrainedRun, load_task
from ..train.precision import numerics
from .collection import Writer, writing
from .listing import Listed
from .passages import Passages, joined, owned, parents, placed
from .rows import Model, Row

log = logging.getLogger(__name__)

BATCH = 128
WINDOW = 8.0
"""Seconds of a long video that are encoded at once; about as long as what models are trained on."""
MAX_QUERY_BYTES = 64 << 20
"""A larger file is no query."""
SHORTEST_SHOWN = 0.3
"""Seconds under which a piece has no file of its own to be shown by."""
MAX_SHOWN = 2_000
"""Characters of a text that a search shows."""


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
        run = load_task(Path(folder), which, overrides=overrides)
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
        spans = [tokenizer.places(value, edges_2A[:, 0].tolist()) for edges_2A in edges_N2A]
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
            BadSample: the file is too large or cannot be read, or is of another modality.
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
            BadSample: it cannot be used as a query.
            UserError: there is no such tower.
        """
        modality = self.modality(tower)
        if isinstance(source, Path):
            if not source.is_file():
                raise BadSample(str(source), "no such file")
            if (size := source.stat().st_size) > MAX_QUERY_BYTES:
                raise BadSample(source.name, f"has {size:,} bytes; a query may have {MAX_QUERY_BYTES:,}")
            return self.run.config.data.prepare(tower, modality.read(source))
        if not source.strip():
            raise BadSample("the query", "is empty; type some words")
        return self.run.config.data.prepare(tower, source)


def check_levels(embedder: Embedder, parts: Sequence[str], levels: Sequence[str]) -> None:
    """Refuses levels that no part can be embedded at.

    Raises:
        UserError: names the level, and those there are.
    """
    known = {part: list(embedder.levels(part)) for part in parts}
    for level in levels:
        if all(level not in own for own in known.values()):
            there = "; ".join(f"{part}: {', '.join(own) or 'none'}" for part, own in known.items())
            raise UserError(
                f"there are no pieces of level {level!r} ({there}); training compares the levels of task.level and "
                "task.also alone"
            )


def embed_split(
    embedder: Embedder,
    split: str,
    parts: Sequence[str],
    folder: Path,
    *,
    media: bool = False,
    levels: Sequence[str] = (),
) -> dict[str, int]:
    """Writes a collection of the samples of a split.

    Args:
        embedder: the model.
        split: of the run's data.
        parts: which of their modalities.
        folder: of the collection, which must not be there.
        media: keep pictures and sounds of the samples, for search pages to show.
        levels: whose pieces get vectors too, where a part has them.

    Returns:
        How many vectors there are of each part.

    Raises:
        UserError: a part is unknown, or nothing can be read.
    """
    check_levels(embedder, parts, levels)
    dataset = embedder.run.config.data.plain(split)
    with writing(folder, embedder.model) as writer:
        samples = _samples(dataset)
        while block := list(islice(samples, BATCH)):
            for part in parts:
                items = [item for item in block if item[1].value.get(part) is not None]
                _write(embedder, writer, part, items, media, levels)
        counts = dict(writer.counts)
    if not counts:
        raise UserError(f"none of the {len(dataset)} samples of the {split} split can be embedded")
    return counts


def embed_files(
    embedder: Embedder,
    part: str,
    files: Sequence[Path] | Sequence[Listed],
    folder: Path,
    *,
    media: bool = False,
    levels: Sequence[str] = (),
    window: float = WINDOW,
) -> int:
    """Writes a collection of files; those that cannot be read are left out, with a warning.

    Args:
        embedder: the model.
        part: which modality they are of.
        files: to be read; of one that is a path alone its path is shown.
        folder: of the collection, which must not be there.
        media: keep pictures and sounds, for search pages to show.
        levels: whose pieces get vectors too, where the part has them.
        window: seconds of a long video that are encoded at once.

    Returns:
        How many vectors there are.

    Raises:
        UserError: none can be read, the part or a level is unknown, or the window has no length.
    """
    if not 0 < window < math.inf:
        raise UserError(f"a window of {window:g} seconds cannot be encoded; give more than 0, such as {WINDOW:g}")
    check_levels(embedder, [part], levels)
    with writing(folder, embedder.model) as writer:
        for file in files:
            try:
                found = _found(
                    embedder, part, Listed.of(file) if isinstance(file, Path) else file, levels, window, media
                )
            except BadSample as error:
                log.warning("left out: %s", error)
                continue
            _add(embedder, writer, part, found, media)
        count = writer.counts[part]
    if not count:
        raise UserError(f"none of {len(files)} files can be embedded as {part}")
    return count


def _found(embedder: Embedder, part: str, file: Listed, levels: Sequence[str], window: float, media: bool) -> Found:
    stretches = embedder.modality(part).stretches(file.path, embedder.tokenizer(part), window)
    if stretches is not None:
        beginning, vector_D, passages = embedder.stretched(part, stretches, levels, media=media)
        return Found(file.name, beginning, file.info, vector_D, passages)
    value = embedder.read(part, file.path)
    vectors, (passages,) = embedder.embedded(part, [value], levels)
    return Found(file.name, value, file.info, vectors[0], passages)


Item = tuple[int, Sample, dict[str, str]]


def _samples(dataset: Dataset) -> Iterator[Item]:
    for index in range(len(dataset)):
        try:
            sample = dataset[index]
        except BadSample as error:
            log.warning("left out: %s", error)
            continue
        yield index, sample, dict(dataset.describe(index)) or {"name": sample.name}


def _write(
    embedder: Embedder, writer: Writer, part: str, items: list[Item], media: bool, levels: Sequence[str]
) -> None:
    """Embeds a block; one by one where a sample of it cannot be used."""
    if not items:
        return
    try:
        vectors, passages = embedder.embedded(part, [sample.value[part] for _, sample, _ in items], levels)
    except BadSample as error:
        if len(items) == 1:
            log.warning("left out: %s: %s", items[0][1].name, error.reason)
            return
        for item in items:
            _write(embedder, writer, part, [item], media, levels)
        return
    for (index, sample, info), vector_D, own in zip(items, vectors, passages, strict=True):
        found = Found(sample.name or f"sample {index}", sample.value[part], info, vector_D, own)
        _add(embedder, writer, part, found, media)


@dataclass(frozen=True, eq=False)
class Found:
    """A sample that was embedded.

    Args:
        name: its id.
        value: the raw one; of a long one its first stretch.
        info: what a search shows of it.
        vector_D: of the whole.
        passages: of its pieces, coarse to fine.
    """

    name: str
    value: Any
    info: Mapping[str, str]
    vector_D: np.ndarray
    passages: Sequence[Passages]


def _add(embedder: Embedder, writer: Writer, part: str, found: Found, media: bool) -> None:
    """Writes a sample, and a row for each of its pieces."""
    modality, tokenizer = embedder.modality(part), embedder.tokenizer(part)
    shown = modality.shown(found.value) if media else None
    file = writer.media(*shown) if shown else ""
    info = _text(modality.passage(found.value)) | dict(found.info)
    writer.add(found.vector_D[None], [Row(found.name, part, file=file, info=info)])
    names = [found.name]
    for own, inside in zip(found.passages, parents(found.passages), strict=True):
        rows, timed = [], own.edges_N2A.shape[2] == 1
        files = own.shown or (embedder.shown(part, found.value, own.edges_N2A) if media and timed else ())
        for number, (edges_2A, parent) in enumerate(zip(own.edges_N2A, inside, strict=True)):
            row = Row(
                f"{found.name}/{own.level}/{number}",
                part,
                level=own.level,
                parent=names[0] if parent is None else names[parent],
            )
            if not timed:
                box = tokenizer.box(found.value, edges_2A.flatten().tolist())
                rows.append(replace(row, box=box, file=file))
                continue
            first, last = tokenizer.places(found.value, edges_2A[:, 0].tolist())
            text = _text(modality.passage(found.value, (first, last)))
            piece = files[number] if files else None
            kept = writer.media(*piece) if piece else ""
            rows.append(replace(row, span=(round(first, 4), round(last, 4)), info=text, file=kept))
        writer.add(own.vectors_ND, rows)
        names = [row.id for row in rows]


def _text(passage: str | None) -> dict[str, str]:
    """What is shown of a text."""
    if passage is None:
        return {}
    return {"text": passage if len(passage) <= MAX_SHOWN else f"{passage[:MAX_SHOWN]}..."}
