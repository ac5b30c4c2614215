"""Answers as HTML: all that an index says is shown as text, and pictures and sounds travel within the page.

Nothing is served from the disk, so no name in an index can lead to a file outside it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from hrt_mm.retrieval.index import Hit

KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".wav": "audio/wav", ".mp4": "video/mp4"}
"""What is shown; other files are not."""
MAX_MEDIA_BYTES = 8 << 20
STYLE = """
.answers {display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 12px}
.answer {border: 1px solid #8884; border-radius: 8px; padding: 10px; overflow-wrap: anywhere}
.answer img, .answer video {width: 100%; height: 120px; object-fit: contain; background: white}
.answer img {image-rendering: pixelated}
.answer svg {width: 100%; height: 120px; background: white}
.answer svg image {image-rendering: pixelated}
.answer svg rect {fill: none; stroke: #d9480f; stroke-width: 2; vector-effect: non-scaling-stroke}
.answer audio {width: 100%}
.answer .score {float: right; opacity: .7; font-variant-numeric: tabular-nums}
.answer .first {font-weight: 600}
.answer .bar {height: 4px; background: #4a7fd4; border-radius: 2px; margin: 4px 0}
.answer .inside video, .answer .inside img, .answer .inside svg {height: 70px}
.answer .inside {margin: 6px 0 0 10px; padding-left: 6px; border-left: 2px solid #4a7fd4; font-size: 90%}
"""


def page(hits: Sequence[Hit]) -> str:
    """All answers, best first."""
    if not hits:
        return note("Nothing was found: the index holds nothing of this kind.")
    return f'<div class="answers">{"".join(card(number, hit) for number, hit in enumerate(hits, 1))}</div>'


def note(text: str) -> str:
    """A message."""
    return f'<p class="note">{escape(text)}</p>'


def card(place: int, hit: Hit) -> str:
    """One answer."""
    words = list(dict.fromkeys(hit.row.info.values())) or [hit.row.parent or hit.row.id]
    if hit.row.level:
        words.append(f"{hit.row.level} {span(hit)}")
    lines = [
        f'<div class="{"first" if number == 0 else "more"}">{escape(word)}</div>' for number, word in enumerate(words)
    ]
    score = f'<span class="score">{place} · {hit.score:.3f}</span>'
    bar = f'<div class="bar" style="width: {100 * min(max(hit.score, 0), 1):.0f}%"></div>'
    return f'<div class="answer">{media(hit)}{score}{bar}{"".join(lines)}{inside(hit)}</div>'


def inside(hit: Hit) -> str:
    """The pieces within an answer, a step to the right for each level."""
    return "".join(
        f'<div class="inside">{escape(inner.row.level)} {span(inner)} · {inner.score:.3f}<br>'
        f"{escape(next(iter(inner.row.info.values()), ''))}{media(inner)}{inside(inner)}</div>"
        for inner in hit.inside
    )


def span(hit: Hit) -> str:
    """Where a piece lies."""
    return "-".join(f"{edge:g}" for edge in hit.row.span or hit.row.box or ())


def media(hit: Hit) -> str:
    """The picture or the player of an answer, where it has one that a page can show."""
    path = hit.media
    kind = KINDS.get(path.suffix.lower()) if path is not None else None
    if path is None or kind is None or path.stat().st_size > MAX_MEDIA_BYTES:
        return ""
    source = f"data:{kind};base64,{b64encode(path.read_bytes()).decode()}"
    if kind.startswith("image"):
        boxes = [result.row.box for result in (hit, *hit.inside) if result.row.box]
        return framed(path, source, boxes, hit.row.id) if boxes else f'<img src="{source}" alt="{escape(hit.row.id)}">'
    tag = kind.split("/")[0]
    return f'<{tag} controls preload="none" src="{source}"></{tag}>'


def framed(path: Path, source: str, boxes: Sequence[tuple[float, float, float, float]], name: str) -> str:
    """A picture with frames around regions of it.

    Args:
        path: the picture, for its size.
        source: the same as a URL.
        boxes: left, top, right and bottom in pixels.
        name: what it is called.
    """
    with Image.open(path) as picture:
        width, height = picture.size
    frames = "".join(
        f'<rect x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}"/>'
        for left, top, right, bottom in boxes
    )
    image = f'<image href="{source}" width="{width}" height="{height}"/>'
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">{image}{frames}</svg>'
