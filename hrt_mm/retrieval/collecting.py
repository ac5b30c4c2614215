"""Writing collections: the vectors of the samples of a split, or of files.

Shapes: D width.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import BadSample, ConfigError, UserError, printable
from ..data.capabilities import BoxLocating, Divisible, Renderable, Textual, positions_at
from ..data.dataset import Dataset
from ..data.files import check_regular, shown
from ..data.folders import by_suffix
from ..data.modality import Modality
from ..data.sample import Sample
from .collection import Writer, writing
from .embed import BATCH, Embedder
from .listing import Listed
from .passages import Passages, parents
from .rows import Row, not_comparable

log = logging.getLogger(__name__)

WINDOW = 8.0
"""Seconds of a long video that are encoded at once; about as long as the videos that models are trained on."""
MAX_TEXT = 2_000
"""Maximum characters of a text to display."""
MAX_INFO = 32_768
"""Maximum bytes of all texts to display of a sample, about half of the maximum size of a row."""
MAX_ID = 8_192
"""Maximum bytes of a sample's id."""
MAX_NAMED = 20
"""Maximum number of skipped files to name in warnings."""


def check_levels(embedder: Embedder, towers: Sequence[str], levels: Sequence[str]) -> None:
    """Checks that at least one tower has pieces of each level.

    Raises:
        UserError: names the level, and those available.
    """
    available = {tower: list(embedder.levels(tower)) for tower in towers}
    for level in levels:
        if all(level not in names for names in available.values()):
            listed = "; ".join(f"{tower}: {', '.join(names) or 'none'}" for tower, names in available.items())
            raise UserError(
                f"there are no pieces of level {level!r} ({listed}); training compares the levels of task.level and "
                "task.also alone"
            )


def embed_split(
    embedder: Embedder,
    split: str,
    towers: Sequence[str],
    folder: Path,
    *,
    media: bool = False,
    levels: Sequence[str] = (),
) -> dict[str, int]:
    """Writes a collection of the samples of a split.

    Args:
        embedder: the model.
        split: of the run's data.
        towers: towers whose values to embed.
        folder: of the collection; must not exist.
        media: save images and sounds of the samples, to display them in search results.
        levels: to embed the pieces of too, for towers that have them.

    Returns:
        The number of vectors of each tower.

    Raises:
        UserError: a tower is unknown, or no sample can be read.
    """
    check_levels(embedder, towers, levels)
    dataset = embedder.run.config.data.plain(split)
    dataset.limit_towers(embedder.run.tokenizers)
    with writing(folder, embedder.model) as writer:
        samples = _samples(dataset)
        while block := list(islice(samples, BATCH)):
            for tower in towers:
                items = [item for item in block if item[1].value.get(tower) is not None]
                _write(embedder, writer, tower, items, media, levels)
        counts = dict(writer.counts)
    if not counts:
        raise UserError(f"none of the {len(dataset)} samples of the {split} split can be embedded")
    return counts


def embed_files(
    embedder: Embedder,
    tower: str,
    files: Sequence[Path] | Sequence[Listed],
    folder: Path,
    *,
    media: bool = False,
    levels: Sequence[str] = (),
    window: float = WINDOW,
) -> int:
    """Writes a collection of files. Those that cannot be read are skipped with a warning.

    Args:
        embedder: the model.
        tower: the tower that reads the files.
        files: to embed.
        folder: of the collection; must not exist.
        media: save images and sounds, to display them in search results.
        levels: to embed the pieces of too, if the tower has them.
        window: seconds of a long video that are encoded at once.

    Returns:
        The number of vectors.

    Raises:
        UserError: no file can be read, the tower or a level is unknown, or the window is not positive.
    """
    if not 0 < window < math.inf:
        raise UserError(f"a window of {window:g} seconds cannot be encoded; give more than 0, such as {WINDOW:g}")
    check_levels(embedder, [tower], levels)
    left_out: list[str] = []
    with writing(folder, embedder.model) as writer:
        for file in files:
            entry = Listed.of(file) if isinstance(file, Path) else file
            try:
                sample = _embed_file(embedder, tower, entry, levels, window, media)
                _add(embedder, writer, tower, sample, media)
            except BadSample as error:
                left_out.append(str(entry.path))
                if len(left_out) <= MAX_NAMED:
                    log.warning("left out: %s: %s", shown(str(entry.path)), error.reason)
        count = writer.counts[tower]
    if len(left_out) > MAX_NAMED:
        log.warning("left out %d of %d files: %s", len(left_out), len(files), by_suffix(left_out))
    if not count:
        raise UserError(f"none of {len(files)} files can be embedded as {tower}")
    return count


def _embed_file(
    embedder: Embedder, tower: str, file: Listed, levels: Sequence[str], window: float, media: bool
) -> EmbeddedSample:
    with suppress(OSError):  # a missing file is reported by its reader
        check_regular(file.path, str(file.path))
    modality = embedder.modality(tower)
    stretches = None
    if issubclass(modality, Divisible):
        stretches = modality.stretches(file.path, embedder.tokenizer(tower), window)
    if stretches is not None:
        first_value, vector_D, passages = embedder.embed_stretches(tower, stretches, levels, media=media)
        return EmbeddedSample(file.name, first_value, file.info, vector_D, passages)
    value = embedder.read(tower, file.path)
    vectors, (passages,) = embedder.embed(tower, [value], levels)
    return EmbeddedSample(file.name, value, file.info, vectors[0], passages)


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
    embedder: Embedder, writer: Writer, tower: str, items: list[Item], media: bool, levels: Sequence[str]
) -> None:
    """Embeds a block of samples, or one by one if any of them is unusable."""
    if not items:
        return
    try:
        vectors, passages = embedder.embed(tower, [sample.value[tower] for _, sample, _ in items], levels)
    except BadSample as error:
        if len(items) == 1:
            log.warning("left out: %s: %s", items[0][1].name, error.reason)
            return
        for item in items:
            _write(embedder, writer, tower, [item], media, levels)
        return
    for (index, sample, info), vector_D, pieces in zip(items, vectors, passages, strict=True):
        try:
            name = sample.name or f"sample {index}"
            _add(embedder, writer, tower, EmbeddedSample(name, sample.value[tower], info, vector_D, pieces), media)
        except BadSample as error:
            log.warning("left out: %s", error)


@dataclass(frozen=True, eq=False)
class EmbeddedSample:
    """A sample with its vectors.

    Args:
        name: its id.
        value: raw value; that of the first stretch if it is long.
        info: texts to display.
        vector_D: of the sample.
        passages: its pieces, coarse to fine.
    """

    name: str
    value: Any
    info: Mapping[str, str]
    vector_D: np.ndarray
    passages: Sequence[Passages]

    def __post_init__(self) -> None:
        if (size := len(self.name.encode("utf-8", "replace"))) > MAX_ID:
            raise BadSample(f"{self.name[:80]}...", f"its id has {size:,} bytes; it may have {MAX_ID:,}")

    def vectors(self) -> list[np.ndarray]:
        """(N, D) vectors: that of the sample, and those of the pieces at each level."""
        return [self.vector_D[None], *(level.vectors_ND for level in self.passages)]


def _add(embedder: Embedder, writer: Writer, tower: str, embedded: EmbeddedSample, media: bool) -> None:
    """Writes the rows of a sample and its pieces; none of them after an error.

    Raises:
        BadSample: a vector is not finite.
    """
    if reason := next(filter(None, (not_comparable(vectors_ND)[1] for vectors_ND in embedded.vectors())), ""):
        raise BadSample(f"{embedded.name:.80}", f"a vector of it {reason}")
    modality, tokenizer = embedder.modality(tower), embedder.tokenizer(tower)
    media_file = modality.render(embedded.value) if media and issubclass(modality, Renderable) else None
    file = writer.media(*media_file) if media_file else ""
    info = _truncate(_text(modality, embedded.value) | dict(embedded.info), embedded.name)
    all_rows, names = [Row(embedded.name, tower, file=file, info=info)], [embedded.name]
    for pieces, parent_indices in zip(embedded.passages, parents(embedded.passages), strict=True):
        rows, timed = [], pieces.edges_N2A.shape[2] == 1
        files = pieces.media or (embedder.media(tower, embedded.value, pieces.edges_N2A) if media and timed else ())
        for number, (edges_2A, parent) in enumerate(zip(pieces.edges_N2A, parent_indices, strict=True)):
            row = Row(
                f"{embedded.name}/{pieces.level}/{number}",
                tower,
                level=pieces.level,
                parent=names[0] if parent is None else names[parent],
            )
            if not timed:
                if not isinstance(tokenizer, BoxLocating):
                    raise ConfigError(f"{type(tokenizer).__name__} reads no pictures")
                box = tokenizer.box(embedded.value, edges_2A.flatten().tolist())
                rows.append(replace(row, box=box, file=file))
                continue
            first, last = positions_at(tokenizer, embedded.value, edges_2A[:, 0].tolist())
            text = _text(modality, embedded.value, (first, last))
            media_file = files[number] if files else None
            piece_file = writer.media(*media_file) if media_file else ""
            rows.append(replace(row, span=(round(first, 4), round(last, 4)), info=text, file=piece_file))
        all_rows += rows
        names = [row.id for row in rows]
    writer.add(np.concatenate(embedded.vectors()), all_rows)


def _truncate(info: Mapping[str, str], name: str) -> dict[str, str]:
    """Shortens texts so that a row can hold them, with a warning."""
    truncated: dict[str, str] = {}
    remaining, cut = MAX_INFO, []
    for column, text in info.items():
        # JSON writes a control character as six bytes.
        size = len(json.dumps(column)) + len(json.dumps(text))
        if size > remaining:
            cut.append(column)
            if remaining < MAX_TEXT or len(column) > MAX_TEXT:
                continue
            text = f"{text[: min(MAX_TEXT, remaining // 8)]}..."
        truncated[printable(column)] = printable(text)
        remaining -= len(json.dumps(column)) + len(json.dumps(text))
    if cut:
        log.warning("%s: truncated, as it is too long: %s", name, ", ".join(map(repr, cut[:5])))
    return truncated


def _text(modality: type[Modality], value: Any, span: tuple[float, float] | None = None) -> dict[str, str]:
    """The text to display, for modalities of text."""
    if not issubclass(modality, Textual):
        return {}
    passage = modality.passage(value, span)
    return {"text": passage if len(passage) <= MAX_TEXT else f"{passage[:MAX_TEXT]}..."}
