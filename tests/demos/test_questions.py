"""The questions that symbols are searched by, and the figures of demos that stand beside those of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import pytest

from benchmarks import glyph_questions
from demos import glyphs
from demos.command import control
from demos.doubts import NOTICE, WEAK, describes, notice
from demos.media import Media
from demos.questions import SETS, SymbolQuestion, answered, questions, ways
from demos.search_page import Question, answer
from hrt_mm.retrieval.index import Hit
from hrt_mm.retrieval.rows import Row
from hrt_mm.retrieval.search import Searcher
from hrt_mm.retrieval.segment import Ranks
from hrt_modalities.joint.fonts import characters
from hrt_modalities.joint.symbol_names import name_of


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


def test_answers_whose_texts_do_not_match_the_words_are_doubted() -> None:
    row = Row("a", "image")
    good, bad = (Hit(0.5, row, ranks=Ranks(1, 1, score)) for score in (WEAK, WEAK - 0.01))
    assert notice([bad, good]) == ""
    assert notice([bad, bad]) == notice([Hit(0.5, row)]) == NOTICE
    assert notice([]) == ""


def test_texts_with_few_words_are_no_descriptions() -> None:
    films = [Hit(0.0, Row(str(number), "video", info={"film": f"film {number}"})) for number in range(500)]
    assert not describes(films)
    assert describes([Hit(0.0, Row("a", "image", info={"name": name_of(code)})) for code in list(characters())[::40]])


def test_words_that_no_text_has_are_doubted_and_others_are_not(searcher: Searcher) -> None:
    def doubt(text: str, **options: Any) -> str:
        return answer(searcher, Media(), Question("text", text, **options), described=True)["notice"]

    assert doubt("braille pattern dots-1245") == doubt("pattern") == ""
    assert doubt("invoice") == doubt("xq") == NOTICE
    # A later page of the same answers does not repeat it, and a search by a row has no words.
    assert doubt("invoice", offset=24) == ""
    assert (
        answer(searcher, Media(), Question("image", like="U+2801 braille pattern dots-1"), described=True)["notice"]
        == ""
    )
    assert answer(searcher, Media(), Question("text", "invoice"))["notice"] == ""


@pytest.mark.skipif(find_spec("wordllama") is None, reason="the extra demo is not installed")
def test_controls_of_the_benchmark_need_no_training(searcher: Searcher) -> None:
    by_vectors = glyph_questions.by_word_vectors(searcher)
    assert by_vectors("braille pattern dots-1245")[0].row.info["name"] == "braille pattern dots-1245"
    row = glyph_questions.doubts(searcher, "some", ["braille pattern dots-1245", "invoice", "pattern"])
    scores = row.contenders["doubts"].scores
    assert scores["doubted"] == 1 and scores["highest"] == 1
    assert 0 <= (scores["lowest"] or 0) < WEAK
