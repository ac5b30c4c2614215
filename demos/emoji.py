"""Emoji search: a picture finds its twin in another drawing style, and names in several languages find pictures.

``python -m demos.emoji`` trains, embeds, indexes and opens the search page. It reads ``HRT_MM_DATA/emoji``: pictures of
Noto and of EmojiTwo, with a table of their names, ``index.tsv``.
"""

from __future__ import annotations

from .command import Demo, Query, main

DEMO = Demo(
    name="emoji",
    title="Emoji search",
    config="retrieval/emoji",
    queries=(
        Query("text", "red heart", "noto"),
        Query("text", "lachendes Gesicht", "emojitwo"),
        Query("text", "drapeau", "noto"),
    ),
)

if __name__ == "__main__":
    raise SystemExit(main(DEMO, __doc__))
