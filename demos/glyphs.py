"""Glyph search: train, embed, index, search page, with one command: ``python -m demos.glyphs``, or ``make demo``.

Find a symbol by words ("black chess knight"), by a picture or a drawing, or the words for a picture. Nothing is
downloaded. What was done already is not done again.
"""

from __future__ import annotations

from hrt_mm.retrieval.search import Searcher

from .command import Demo, Query, main
from .questions import answered, questions, ways


def tell(searcher: Searcher) -> None:
    """Prints how many of the plain questions are answered by vectors, by words and by both."""
    plain = [question for question in questions() if question.set == "plain"]
    for way, search in ways(searcher).items():
        print(f"plain questions by {way}: {answered(plain, search)}")


DEMO = Demo(
    name="glyphs",
    title="Glyph search",
    config="retrieval/symbols",
    queries=(Query("text", "white chess queen", "image"), Query("text", "black heart suit", "image")),
    tell=tell,
)

if __name__ == "__main__":
    raise SystemExit(main(DEMO, __doc__))
