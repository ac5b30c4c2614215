"""Collections of vectors: of the samples of a split, and of files.

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
from ..data.capabilities import BoxLocating, Divisible, Showable, Textual, positions_at
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
"""Seconds of a long video that are encoded at once; about as long as what models are trained on."""
MAX_SHOWN = 2_000
"""Characters of a text that a search shows."""
MAX_INFO = 32_768
"""Bytes of all texts that a search shows of a sample; a row of a collection has about twice as many at most."""
MAX_ID = 8_192
"""Bytes of the id of a sample."""
MAX_NAMED = 20
"""Files that are left out and named; of more their number is said."""


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
    dataset.limit(embedder.run.tokenizer)
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
    left_out: list[str] = []
    with writing(folder, embedder.model) as writer:
        for file in files:
            own = Listed.of(file) if isinstance(file, Path) else file
            try:
                found = _found(embedder, part, own, levels, window, media)
                _add(embedder, writer, part, found, media)
            except BadSample as error:
                left_out.append(str(own.path))
                if len(left_out) <= MAX_NAMED:
                    log.warning("left out: %s: %s", shown(str(own.path)), error.reason)
        count = writer.counts[part]
    if len(left_out) > MAX_NAMED:
        log.warning("left out %d of %d files: %s", len(left_out), len(files), by_suffix(left_out))
    if not count:
        raise UserError(f"none of {len(files)} files can be embedded as {part}")
    return count


def _found(embedder: Embedder, part: str, file: Listed, levels: Sequence[str], window: float, media: bool) -> Found:
    with suppress(OSError):  # what is missing is for the reader to say
        check_regular(file.path, str(file.path))
    modality = embedder.modality(part)
    stretches = None
    if issubclass(modality, Divisible):
        stretches = modality.stretches(file.path, embedder.tokenizer(part), window)
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
        try:
            found = Found(sample.name or f"sample {index}", sample.value[part], info, vector_D, own)
            _add(embedder, writer, part, found, media)
        except BadSample as error:
            log.warning("left out: %s", error)


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

    def __post_init__(self) -> None:
        if (size := len(self.name.encode("utf-8", "replace"))) > MAX_ID:
            raise BadSample(f"{self.name[:80]}...", f"its id has {size:,} bytes; it may have {MAX_ID:,}")

    def vectors(self) -> list[np.ndarray]:
        """(N, D) the one of the whole, and those of the pieces at each level."""
        return [self.vector_D[None], *(own.vectors_ND for own in self.passages)]


def _add(embedder: Embedder, writer: Writer, part: str, found: Found, media: bool) -> None:
    """Writes a sample, and a row for each of its pieces; all of them or none.

    Raises:
        BadSample: a vector is not finite.
    """
    if reason := next(filter(None, (not_comparable(own)[1] for own in found.vectors())), ""):
        raise BadSample(f"{found.name:.80}", f"a vector of it {reason}")
    modality, tokenizer = embedder.modality(part), embedder.tokenizer(part)
    piece = modality.shown(found.value) if media and issubclass(modality, Showable) else None
    file = writer.media(*piece) if piece else ""
    info = _short(_text(modality, found.value) | dict(found.info), found.name)
    every, names = [Row(found.name, part, file=file, info=info)], [found.name]
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
                if not isinstance(tokenizer, BoxLocating):
                    raise ConfigError(f"{type(tokenizer).__name__} reads no pictures")
                box = tokenizer.box(found.value, edges_2A.flatten().tolist())
                rows.append(replace(row, box=box, file=file))
                continue
            first, last = positions_at(tokenizer, found.value, edges_2A[:, 0].tolist())
            text = _text(modality, found.value, (first, last))
            piece = files[number] if files else None
            kept = writer.media(*piece) if piece else ""
            rows.append(replace(row, span=(round(first, 4), round(last, 4)), info=text, file=kept))
        every += rows
        names = [row.id for row in rows]
    writer.add(np.concatenate(found.vectors()), every)


def _short(info: Mapping[str, str], name: str) -> dict[str, str]:
    """What is shown of a sample, so short that a row can hold it; says what is cut."""
    found: dict[str, str] = {}
    left, cut = MAX_INFO, []
    for column, text in info.items():
        # JSON writes a control character as six bytes.
        size = len(json.dumps(column)) + len(json.dumps(text))
        if size > left:
            cut.append(column)
            if left < MAX_SHOWN or len(column) > MAX_SHOWN:
                continue
            text = f"{text[: min(MAX_SHOWN, left // 8)]}..."
        found[printable(column)] = printable(text)
        left -= len(json.dumps(column)) + len(json.dumps(text))
    if cut:
        log.warning("%s: too long to be kept whole: %s", name, ", ".join(map(repr, cut[:5])))
    return found


def _text(modality: type[Modality], value: Any, span: tuple[float, float] | None = None) -> dict[str, str]:
    """What is shown of a text; nothing of other samples."""
    if not issubclass(modality, Textual):
        return {}
    passage = modality.passage(value, span)
    return {"text": passage if len(passage) <= MAX_SHOWN else f"{passage[:MAX_SHOWN]}..."}
