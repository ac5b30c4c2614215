"""When the page doubts its answers: where no text of the index matches the words of a question.

Similarities of vectors cannot tell, because nonsense is as near to something as a good question is. The match by words
can: the part of a question's words, weighted by how rare they are, that the best text has.
``python -m benchmarks.glyph_questions`` measures how often good questions and nonsense are doubted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hrt_mm.retrieval.index import Hit

WEAK = 0.35
"""Best match by words below which the page doubts its answers. It lies between the lowest match of a good question to
the symbols (0.40) and the highest of names with shuffled letters (0.33)."""
VOCABULARY = 50
"""Different words that texts have at least if they are descriptions. Others, such as the names of a few films, say
nothing about what a question can find."""
NOTICE = "No text in the index matches these words well, so the answers may have nothing to do with them."


def describes(hits: Sequence[Hit]) -> bool:
    """Whether the texts of rows are descriptions, which the words of a question can be expected to match."""
    words = {word for hit in hits for text in hit.row.info.values() for word in re.findall(r"[^\W\d_]{2,}", text)}
    return len(words) >= VOCABULARY


def match(hits: Sequence[Hit]) -> float:
    """The best match by words of the answers to a question; 0 if none of their texts has anything of it."""
    return max((hit.ranks.words_score or 0.0 for hit in hits if hit.ranks is not None), default=0.0)


def notice(hits: Sequence[Hit]) -> str:
    """What stands above the answers to a question in words; empty if they are not to be doubted."""
    return NOTICE if hits and match(hits) < WEAK else ""
