"""Results of a search, as a sequence of hits that prints itself, also in notebooks."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from .segment import Hit

if TYPE_CHECKING:
    from .query import Query

SHOWN = 24
"""Maximum number of results that a notebook shows."""
THUMBNAIL = 96
"""Maximum side of a thumbnail, in pixels."""
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif"})
MAX_FILE = 16 << 20
"""Maximum size of a file to make a thumbnail of."""
MAX_SHOWN_TEXT = 200
"""Maximum characters of a text in a line of results."""


@dataclass(frozen=True, eq=False)
class Results(Sequence[Hit]):
    """The hits of a query, best first.

    Args:
        hits: of this page.
        query: that was searched for.
        tower: that was searched.
        level: of the hits; samples if empty.
        offset: number of better hits that were skipped.
        total: number of rows that were searched: those of the tower and level that the filter matches.
        recall: measured share of true neighbours that the index finds; 1 if search is exact, ``None`` if unknown.
    """

    hits: tuple[Hit, ...]
    query: Query
    tower: str = ""
    level: str = ""
    offset: int = 0
    total: int = 0
    recall: float | None = None

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...

    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        return self.hits[index]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def plain(self) -> dict[str, Any]:
        """JSON-serializable form."""
        return {
            "query": self.query.plain(),
            "tower": self.tower,
            "level": self.level,
            "offset": self.offset,
            "total": self.total,
            "recall": self.recall,
            "results": [plain_hit(hit, rank) for rank, hit in enumerate(self.hits, self.offset + 1)],
        }

    def __str__(self) -> str:
        return text_of(self.hits, self.offset) or f"no results for {printable_line(str(self.query))}"

    def _repr_html_(self) -> str:
        """A table with thumbnails, for notebooks."""
        rows = "".join(
            f"<tr><td>{rank}</td><td>{_thumbnail(hit)}</td><td>{hit.score:.3f}</td><td>{_html_texts(hit)}</td></tr>"
            for rank, hit in enumerate(self.hits[:SHOWN], self.offset + 1)
        )
        hidden = len(self.hits) - SHOWN
        more = f"<p>and {hidden:,} more</p>" if hidden > 0 else ""
        caption = f"<caption>{escape(printable_line(str(self.query)))}</caption>"
        return f"<table>{caption}<tbody>{rows}</tbody></table>{more}" if rows else f"<p>{escape(str(self))}</p>"


def text_of(hits: Sequence[Hit], offset: int = 0) -> str:
    """Hits as lines, with those inside them."""
    return "\n".join(line for rank, hit in enumerate(hits, offset + 1) for line in _lines(hit, f"{rank:>3}  "))


def plain_hit(hit: Hit, rank: int | None = None) -> dict[str, Any]:
    """A hit with those inside it, JSON-serializable."""
    value: dict[str, Any] = {} if rank is None else {"rank": rank}
    if hit.ranks is not None:
        value |= {"vector_rank": hit.ranks.vector, "words_rank": hit.ranks.words}
        value |= {"words_score": round(hit.ranks.words_score, 6)} if hit.ranks.words else {}
    value |= {"score": round(hit.score, 6), "id": hit.row.id, "tower": hit.row.tower, "info": dict(hit.row.info)}
    if hit.row.level:
        value |= {"level": hit.row.level, "span": hit.row.span, "box": hit.row.box}
    if hit.media is not None:
        value["media"] = str(hit.media)
    return value | ({"inside": [plain_hit(inner) for inner in hit.inside]} if hit.inside else {})


def printable_line(text: str) -> str:
    """Replaces unprintable characters, which could affect a terminal, and shortens the text."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= MAX_SHOWN_TEXT else f"{line[: MAX_SHOWN_TEXT - 3]}..."


def texts_of(hit: Hit) -> list[str]:
    """Distinct texts to display; the id if there are none."""
    return list(dict.fromkeys(filter(None, hit.row.info.values()))) or [hit.row.id]


def _position(hit: Hit) -> str:
    edges = hit.row.span or hit.row.box
    return f"[{hit.row.level} {'-'.join(f'{edge:g}' for edge in edges)}]" if edges else ""


def _lines(hit: Hit, lead: str) -> list[str]:
    position = _position(hit)
    words = " · ".join(dict.fromkeys(hit.row.info.values())) or ("" if position and hit.row.parent else hit.row.id)
    line = f"{lead}{hit.score:.3f}  {printable_line(' '.join(filter(None, (words, position))))}"
    return [line, *(line for inner in hit.inside for line in _lines(inner, f"{' ' * len(lead)}  "))]


def _html_texts(hit: Hit) -> str:
    texts = "<br>".join(escape(printable_line(text)) for text in texts_of(hit))
    inside = "".join(f"<li>{inner.score:.3f} {_html_texts(inner)}</li>" for inner in hit.inside)
    return f"{texts} {escape(_position(hit))}{f'<ul>{inside}</ul>' if inside else ''}"


def _thumbnail(hit: Hit) -> str:
    """A small picture within the page; empty if the hit has none, it is broken, or Pillow is not installed."""
    path = hit.media
    if path is None or path.suffix.lower() not in PICTURES:
        return ""
    data = _thumbnail_bytes(path)
    return f'<img alt="{escape(hit.row.id)}" src="data:image/png;base64,{b64encode(data).decode()}">' if data else ""


def _thumbnail_bytes(path: Path) -> bytes:
    try:
        from PIL import Image
    except ImportError:
        return b""
    try:
        if path.stat().st_size > MAX_FILE:
            return b""
        with Image.open(path) as image:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            file = BytesIO()
            image.convert("RGBA" if image.has_transparency_data else "RGB").save(file, "PNG")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return b""
    return file.getvalue()
