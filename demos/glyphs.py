"""Glyph search: train, embed, index, search page, with one command: ``python -m demos.glyphs``, or ``make demo``.

Find a symbol by words ("black chess knight"), by a picture or a drawing, or the words for a picture. Nothing is
downloaded. What was done already is not done again.
"""

from __future__ import annotations

from .command import Demo, Query, main

DEMO = Demo(
    name="glyphs",
    title="Glyph search",
    config="retrieval/symbols",
    queries=(Query("text", "white chess queen", "image"), Query("text", "black heart suit", "image")),
)

if __name__ == "__main__":
    raise SystemExit(main(DEMO, __doc__))
