from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hrt_mm.core.errors import BadSample, UserError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.pyramid import Pyramid
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.time_span import TimeSpan
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.tasks import CTC, CTCConfig
from hrt_mm.tasks.ctc import Lexicon
from hrt_modalities.speech.aligning import align, close_gaps, spot_keyword

Make = Callable[..., HierarchyConfig]
SYMBOLS = ("a", "b", "c")


def reader(hierarchy: Make, rows: Tokenizer, **options: Any) -> CTC:
    """A task whose steps are pairs of rows that say what they are."""
    task = CTCConfig.model_validate({"type": "ctc", **options}).build(hierarchy(1), rows, SYMBOLS).eval()
    nn.init.zeros_(task.head.weight)
    with torch.no_grad():
        task.head.weight[:4, :4] = 6 * torch.eye(4)
        if task.finer is not None:
            nn.init.zeros_(task.finer.head.weight)
            task.finer.head.weight[:4, :4] = 6 * torch.eye(4)
    return task


def spoken(*texts: str) -> Pyramid:
    rows = [nn.functional.pad(torch.eye(4)[["abc-".index(sign) for sign in text]], (0, 4)) for text in texts]
    return Pyramid(("a",), {"a": Tokens.pack(rows)})


def stretches(timed: list[TimeSpan]) -> list[tuple[str, float, float]]:
    return [(one.label, one.start, one.end) for one in timed]


def test_symbols_get_their_times(hierarchy: Make, rows: Tokenizer) -> None:
    task = reader(hierarchy, rows)
    one, other = align(task, spoken("-aab--c", "b"), [["a", "b", "c"], ["b"]], pause=0)
    assert stretches(one["words"]) == [("a", 1, 3), ("b", 3, 4), ("c", 6, 7)]
    assert all(span.score is not None and 0.9 < span.score <= 1 for span in one["words"])
    assert stretches(other["words"]) == [("b", 0, 1)]


def test_times_are_seconds_where_tokens_are(hierarchy: Make, rows: Tokenizer) -> None:
    task = reader(hierarchy, rows)
    task.seconds_per_token = 0.02
    (tiers,) = align(task, spoken("-aab--c"), [["a", "b", "c"]])
    assert stretches(tiers["words"]) == [
        ("a", 0.02, 0.06),
        ("b", 0.06, pytest.approx(0.10)),
        ("c", pytest.approx(0.10), pytest.approx(0.14)),
    ]


def test_only_short_gaps_are_split() -> None:
    timed = [TimeSpan(0, 1, "a", 0), TimeSpan(2, 3, "b", 0), TimeSpan(5, 6, "c", 0), TimeSpan(6, 7, "d", 0)]
    assert stretches(close_gaps(timed, 1.5)) == [("a", 0, 1.5), ("b", 1.5, 3), ("c", 5, 6), ("d", 6, 7)]
    assert close_gaps([], 1) == []


def test_words_lie_where_their_symbols_do(hierarchy: Make, rows: Tokenizer) -> None:
    lexicon = Lexicon([("ab", (0, 1)), ("ca", (2, 0))])
    (tiers,) = align(
        reader(hierarchy, rows, unit="phonemes"), spoken("-ab-ccaa-"), [["ab", "ca"]], lexicon=lexicon, pause=0
    )
    assert stretches(tiers["words"]) == [("ab", 1, 3), ("ca", 4, 8)]
    assert [part.label for part in tiers["phonemes"]] == ["a", "b", "c", "a"]


def test_a_space_is_no_part_of_words(hierarchy: Make, rows: Tokenizer) -> None:
    lexicon = Lexicon([("a", (0,)), ("b", (1,))], space=2)
    (tiers,) = align(
        reader(hierarchy, rows, unit="characters"), spoken("aaccb"), [["a", "b"]], lexicon=lexicon, pause=0
    )
    assert stretches(tiers["words"]) == stretches(tiers["characters"]) == [("a", 0, 2), ("b", 4, 5)]


def test_a_finer_level_is_aligned_where_there_is_one(hierarchy: Make, rows: Tokenizer) -> None:
    spellings = {"a": "X Y", "b": "Y", "c": "Z X"}
    task = reader(hierarchy, rows, finer={"level": "a", "unit": "phonemes", "spellings": spellings})
    (tiers,) = align(task, spoken("-aab-bcca"), [["a", "b", "c"]], pause=0)
    assert stretches(tiers["words"]) == [("a", 1, 4), ("b", 5, 6), ("c", 6, 9)]
    assert stretches(tiers["phonemes"])[0] == ("X", 1, 3)


@pytest.mark.parametrize(
    ("labels", "message"), [(["a", "dog"], "'dog' is not one"), (["a", "b", "a"], "3 symbols do not fit")]
)
def test_what_cannot_be_aligned_is_a_bad_sample(
    hierarchy: Make, rows: Tokenizer, labels: list[str], message: str
) -> None:
    with pytest.raises(BadSample, match=rf"s7: .*{message}"):
        align(reader(hierarchy, rows), spoken("ab"), [labels], names=["s7"])


def test_words_that_the_lexicon_lacks_are_a_bad_sample(hierarchy: Make, rows: Tokenizer) -> None:
    with pytest.raises(BadSample, match="the lexicon lacks 'dog'"):
        align(reader(hierarchy, rows), spoken("ab"), [["dog"]], lexicon=Lexicon([("ab", (0, 1))]))


def test_keywords_are_spotted_with_times(hierarchy: Make, rows: Tokenizer) -> None:
    task = reader(hierarchy, rows)
    one, other = spot_keyword(task, spoken("-aab--c", "bbab"), "a b")
    assert stretches(one) == [("a b", 1, 4)]
    assert stretches(other) == [("a b", 2, 4)]
    assert one[0].score is not None and one[0].score > 0.9
    (letters, _) = spot_keyword(reader(hierarchy, rows, unit="characters"), spoken("-aab--c", "b"), "ab")
    assert stretches(letters) == [("ab", 1, 4)]
    with pytest.raises(UserError, match="'dog', which is not one of the words"):
        spot_keyword(task, spoken("a"), "a dog")


def test_keywords_are_spotted_by_what_they_are_spelled_with(hierarchy: Make, rows: Tokenizer) -> None:
    spellings = {"a": "X Y", "b": "Y", "c": "Z X"}
    task = reader(hierarchy, rows, finer={"level": "a", "unit": "phonemes", "spellings": spellings})
    (result,) = spot_keyword(task, spoken("-aab-bcca"), "c", finer=True)
    assert stretches(result) == [("c", 6, 9)]
    with pytest.raises(UserError, match="the task has none"):
        spot_keyword(reader(hierarchy, rows), spoken("a"), "a", finer=True)


def test_a_prior_lengthens_what_is_said(hierarchy: Make, rows: Tokenizer) -> None:
    """Steps that are a little likelier blank are the symbol's once the blank's usual share is taken off."""
    lengths = []
    for prior in (0.0, 1.0):
        task = reader(hierarchy, rows, prior=prior)
        if task.prior is not None:
            task.prior.usual_K.copy_(torch.tensor([0.02, 0.02, 0.02, 0.94]))
        rows_TD = torch.zeros(5, 8)
        rows_TD[:, 3] = 1.0
        rows_TD[1:4, 0] = torch.tensor([0.8, 1.2, 0.8])
        ((one,),) = [
            list(tiers["words"]) for tiers in align(task, Pyramid(("a",), {"a": Tokens.pack([rows_TD])}), [["a"]])
        ]
        lengths.append(one.end - one.start)
    assert lengths == [1, 3]
