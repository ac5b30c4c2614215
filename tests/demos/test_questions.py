"""The questions that symbols are searched by, and the figures of demos that stand beside those of vectors."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from demos import glyphs
from demos.command import control
from demos.questions import SETS, SymbolQuestion, answered, questions, ways
from demos.search_page import WEAK, _notice
from hrt_mm.retrieval.index import Hit
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.search import Searcher
from hrt_mm.retrieval.segment import Ranks
from hrt_modalities.joint.fonts import characters


def test_each_question_has_an_answer_in_the_fonts() -> None:
    counts = {name: sum(question.set == name for question in questions()) for name in SETS}
    assert counts["plain"] == 20 and counts["kept"] >= 60
    assert len({question.text for question in questions()}) == len(questions())
    known = set(map(chr, characters()))
    assert [question.text for question in questions() if not known & set(question.symbols)] == []


def test_right_answers_are_counted_first_and_among_five() -> None:
    order = {"heart": "♥♡", "euro": "$€", "skull": "abcdef"}

    def search(text: str) -> Sequence[Hit]:
        return [Hit(0.0, Row(symbol, "image", info={"character": symbol})) for symbol in order[text]]

    rights = {"heart": "♥", "euro": "€", "skull": "☠"}
    group = [SymbolQuestion("plain", "en", text, symbols) for text, symbols in rights.items()]
    result = answered(group, search)
    assert (result.first, result.among_first, result.count, result.missed) == (1, 2, 3, ("skull",))
    assert str(result) == "2 of 3 among the first 5, 1 first"


def test_words_alone_find_names_without_training(searcher: Searcher, capsys: pytest.CaptureFixture[str]) -> None:
    assert control(searcher).startswith("text to image by words alone, untrained: R@1 ")
    by_words = ways(searcher)["words"]("braille pattern dots-1245")
    assert by_words[0].row.info["name"] == "braille pattern dots-1245"
    assert ways(searcher)["both"]("braille pattern dots-1245")[0].row.id == by_words[0].row.id
    glyphs.tell(searcher)
    heads = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert heads == [f"plain questions by {way}" for way in ("vectors", "vectors of names", "words", "both")]


def test_the_page_doubts_answers_whose_words_do_not_match() -> None:
    row = Row("a", "image")
    good, bad = (Hit(0.5, row, ranks=Ranks(1, 1, score)) for score in (WEAK, WEAK - 0.01))
    assert _notice([bad, good]) == ""
    assert _notice([bad, bad]).startswith("No text in the index matches these words well")
    assert _notice([Hit(0.5, row)]) == _notice([]) == ""
