"""Results of a search as the page shows them: JSON of texts and links, without names of files on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from hrt_mm.retrieval.index import Hit, Index
from hrt_mm.retrieval.qdrant import QdrantIndex
from hrt_mm.retrieval.rows import key_of

from .media import Media

SYMBOL = "character"
"""Name of the text that is shown large, with a button to copy it."""

AnyIndex = Index | QdrantIndex


def answers(hits: Sequence[Hit], index: AnyIndex, media: Media, first_rank: int = 1) -> list[dict[str, Any]]:
    """JSON-serializable answers.

    Args:
        hits: of a search, best first.
        index: that was searched.
        media: takes the files that the page may load.
        first_rank: rank of the first hit.
    """
    return [answer(hit, index, media, rank) for rank, hit in enumerate(hits, first_rank)]


def answer(hit: Hit, index: AnyIndex, media: Media, rank: int) -> dict[str, Any]:
    """One answer: its texts, the file to load and the moments to mark on its time line."""
    row, whole = hit.row, whole_of(index, hit)
    info = {**whole.row.info, **row.info}
    symbol = info.pop(SYMBOL, "")
    title = next(iter(info.values()), "") or whole.row.id
    source = shown(hit, whole, media)
    timed = source is not None and source["kind"] in ("audio", "video")
    return {
        "rank": rank,
        "id": row.id,
        "tower": row.tower,
        "level": row.level,
        "title": title,
        "symbol": symbol,
        "fields": [[name, value] for name, value in info.items() if value != title],
        "media": source,
        "moments": moments(hit) if timed else [],
    }


def whole_of(index: AnyIndex, hit: Hit) -> Hit:
    """The sample that a piece is of, or the hit itself."""
    while hit.row.level:
        key = key_of(hit.row.tower, hit.row.parent)
        rows = list(index.rows_with([key]))
        if not rows:
            break
        hit = Hit(hit.score, rows[0], index.media(key))
    return hit


def shown(hit: Hit, whole: Hit, media: Media) -> dict[str, Any] | None:
    """The file to load: for a moment, the whole film or recording if it is kept, and else the moment's own."""
    for source in (whole, hit):
        path = source.media
        if path is None or not (kind := media.kind(path)):
            continue
        entry = {"kind": kind, "url": media.link(path), "whole": source is whole}
        if kind == "image":
            size = size_of(path)
            boxes = [inner.row.box for inner in (hit, *hit.inside) if inner.row.box is not None]
            entry |= {"width": size[0], "height": size[1], "boxes": boxes}
        return entry
    return None


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture; 0 if it cannot be read."""
    try:
        with Image.open(path) as picture:
            return picture.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return 0, 0


def moments(hit: Hit) -> list[dict[str, Any]]:
    """What is marked on a time line: the hit itself if it is a piece, and the pieces within it, coarse to fine."""
    inner = [moment for piece in hit.inside for moment in moments(piece)]
    if not hit.row.level or hit.row.span is None:
        return inner
    start, end = hit.row.span
    moment = {"level": hit.row.level, "start": start, "end": end, "text": next(iter(hit.row.info.values()), "")}
    return [moment, *inner]
