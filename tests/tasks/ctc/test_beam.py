from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import ctc_loss

from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.tasks.ctc import BeamSearch, Hypothesis, Lexicon, WordModel, beam_search, collapsed, greedy
from hrt_mm.tasks.ctc.decoders import BeamConfig

EVERYTHING = 10_000


def steps(count: int, symbols: int, sharp: float = 2.0) -> Tensor:
    return (sharp * torch.randn(count, symbols + 1, dtype=torch.float64)).log_softmax(-1)


def all_labellings(log_probs_NK: Tensor) -> dict[tuple[int, ...], float]:
    """The log-probability of whatever can be said, by adding up every path."""
    count, width = log_probs_NK.shape
    result: dict[tuple[int, ...], float] = {}
    for path in product(range(width), repeat=count):
        score = math.exp(sum(float(log_probs_NK[n, k]) for n, k in enumerate(path)))
        labels = tuple(collapsed(path, width - 1))
        result[labels] = result.get(labels, 0.0) + score
    return {labels: math.log(score) for labels, score in result.items()}


@pytest.mark.parametrize(("path", "labels"), [("", ""), ("---", ""), ("aab", "ab"), ("a-ab", "aab"), ("-a--bb-", "ab")])
def test_runs_are_one_symbol_and_blanks_part_them(path: str, labels: str) -> None:
    positions = ["ab-".index(sign) for sign in path]
    assert collapsed(positions, 2) == ["ab".index(sign) for sign in labels]
    log_probs = 9 * torch.nn.functional.one_hot(torch.tensor(positions, dtype=torch.int64), 3).float().log_softmax(-1)
    assert greedy(log_probs) == collapsed(positions, 2)


@pytest.mark.parametrize("seed", range(8))
def test_a_wide_beam_finds_the_likeliest_of_all(seed: int) -> None:
    torch.manual_seed(seed)
    log_probs = steps(6, 2)
    scores = all_labellings(log_probs)
    best = max(scores, key=lambda labels: scores[labels])
    result = beam_search(log_probs, EVERYTHING)
    assert result.symbols == best
    assert result.log_prob == pytest.approx(scores[best])


def test_it_sees_what_greedy_decoding_does_not() -> None:
    """Graves' example: each step's likeliest is the blank, but all ways to say the symbol are likelier together."""
    log_probs = torch.tensor([[0.4, 0.6], [0.4, 0.6]]).log()
    assert greedy(log_probs) == []
    result = beam_search(log_probs, 4)
    assert result.symbols == (0,)
    assert result.log_prob == pytest.approx(math.log(0.64))


def test_a_narrow_beam_is_never_better_than_a_wide_one() -> None:
    for _ in range(10):
        log_probs = steps(12, 3)
        narrow, wide = (beam_search(log_probs, width) for width in (1, EVERYTHING))
        lengths = torch.tensor([12]), torch.tensor([len(wide.symbols)])
        exact = -float(ctc_loss(log_probs[:, None], torch.tensor([wide.symbols]), *lengths, blank=3, reduction="sum"))
        assert wide.log_prob == pytest.approx(exact)
        assert narrow.log_prob <= wide.log_prob + 1e-9


WORDS: dict[str, list[tuple[str, tuple[int, ...]]]] = {
    "shared beginnings": [("ab", (0, 1)), ("a", (0,)), ("ba", (1, 0))],
    "two spellings": [("x", (0,)), ("x", (0, 1)), ("y", (1, 1))],
    "one word": [("bab", (1, 0, 1))],
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_lexicon_finds_the_likeliest_of_its_texts(words: list[tuple[str, tuple[int, ...]]], seed: int) -> None:
    torch.manual_seed(seed)
    log_probs = steps(6, 2)
    scores = all_labellings(log_probs)
    texts = {tuple(symbol for _, item in text for symbol in item) for text in texts_of(words, 6)}
    best = max(texts & set(scores), key=lambda labels: scores[labels])
    result = beam_search(log_probs, EVERYTHING, Lexicon(words))
    assert result.symbols == best
    assert result.log_prob == pytest.approx(scores[best])
    spelled = {tuple(word for word, _ in text) for text in texts_of(words, 6) if _joined(text) == best}
    assert result.words in spelled


@pytest.mark.parametrize("seed", range(4))
def test_a_space_parts_words(seed: int) -> None:
    torch.manual_seed(seed)
    words = [("ab", (0, 1)), ("a", (0,))]
    log_probs = steps(6, 3)
    scores = all_labellings(log_probs)
    texts = {
        tuple(symbol for index, (_, item) in enumerate(text) for symbol in (*((2,) if index else ()), *item))
        for text in texts_of(words, 6)
    }
    best = max(texts & set(scores), key=lambda labels: scores[labels])
    result = beam_search(log_probs, EVERYTHING, Lexicon(words, space=2))
    assert result.symbols == best
    assert " ".join(result.words) == "".join("ab "[symbol] for symbol in best)


def texts_of(words: list[tuple[str, tuple[int, ...]]], most: int) -> Iterable[tuple[tuple[str, tuple[int, ...]], ...]]:
    for count in range(most + 1):
        for text in product(words, repeat=count):
            if len(_joined(text)) <= most:
                yield text


def _joined(text: Iterable[tuple[str, tuple[int, ...]]]) -> tuple[int, ...]:
    return tuple(symbol for _, item in text for symbol in item)


def test_a_word_score_chooses_fewer_words() -> None:
    """One long word or two short ones: the likelier is the latter, and a cost of words turns that."""
    words = [("ab", (0, 1)), ("a", (0,)), ("c", (2,))]
    log_probs = torch.tensor([[0.9, 0.05, 0.04, 0.01], [0.01, 0.4, 0.58, 0.01]]).log()
    assert beam_search(log_probs, 8, Lexicon(words)).words == ("a", "c")
    result = beam_search(log_probs, 8, Lexicon(words), word_score=-1.0)
    assert result.words == ("ab",)
    assert result.log_prob == pytest.approx(math.log(0.36))
    with pytest.raises(ValueError, match="there is none"):
        BeamConfig(type="beam", word_score=-1)


@pytest.mark.parametrize("seed", range(4))
def test_a_language_model_finds_the_best_of_all_texts(seed: int) -> None:
    """Of all that the lexicon can say: what was heard, and each word after those before it, and the end."""
    torch.manual_seed(seed)
    words = [("ab", (0, 1)), ("a", (0,)), ("ba", (1, 0))]
    language = WordModel([["a", "ba", "a"], ["ab"], ["ba", "ab"]], order=2)
    log_probs = steps(6, 3)
    heard = all_labellings(log_probs)
    scores = {}
    for text in texts_of(words, 6):
        symbols = tuple(symbol for index, (_, item) in enumerate(text) for symbol in (*((2,) if index else ()), *item))
        names = tuple(word for word, _ in text)
        if symbols in heard:
            follows = sum(language.log_prob(word, names[:index]) for index, word in enumerate((*names, "</s>")))
            scores[names] = heard[symbols] - 0.5 * len(names) + 0.8 * follows
    result = beam_search(log_probs, EVERYTHING, Lexicon(words, space=2), -0.5, language, 0.8)
    assert result.words == max(scores, key=lambda names: scores[names])


def test_a_language_model_tells_words_that_sound_alike() -> None:
    """Two words are heard as likely as each other; what stands before them decides."""
    words = [("set", (0,)), ("red", (1,)), ("at", (2,))]
    log_probs = torch.tensor([[0.97, 0.01, 0.01, 0.01], [0.01, 0.01, 0.01, 0.97], [0.01, 0.48, 0.48, 0.03]]).log()
    for follows in ("red", "at"):
        language = WordModel([["set", follows], [follows, "set"]])
        assert beam_search(log_probs, 8, Lexicon(words), language=language).words == ("set", follows)


def test_an_open_word_at_the_end_is_left_out() -> None:
    """All is certain, and what is said ends in the middle of a word."""
    labels = [0, 1, 0]
    log_probs = torch.full((3, 3), -math.inf).scatter(1, torch.tensor(labels)[:, None], 0.0)
    result = beam_search(log_probs, 4, Lexicon([("ab", (0, 1))]))
    assert (result.symbols, result.words) == ((0, 1), ("ab",))


def test_steps_may_come_in_chunks() -> None:
    log_probs = steps(20, 4)
    search = BeamSearch(5)
    for chunk in log_probs.split(3):
        search.feed(chunk)
    assert search.best() == beam_search(log_probs, 5)


def test_nothing_is_said_in_no_steps() -> None:
    assert beam_search(torch.zeros(0, 3), 4) == Hypothesis((), 0.0)
    assert beam_search(torch.zeros(0, 3), 4, Lexicon([("a", (0,))])) == Hypothesis((), 0.0)


def test_a_word_list_is_read(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(";;; a dictionary\n\nbin B IH N\nbin B N\nat AE T\n")
    lexicon = Lexicon.read(path, ["AE", "B", "IH", "N", "T"], "phonemes")
    assert lexicon.spellings == {"bin": [(1, 2, 3), (1, 3)], "at": [(0, 4)]}
    assert lexicon.spell(["at", "bin"], "s") == [0, 4, 1, 2, 3]
    path.write_text("ab\nb\n")
    spaced = Lexicon.read(path, [" ", "a", "b"], "characters")
    assert spaced.spell(["ab", "b"], "s") == [1, 2, 0, 2]
    assert Lexicon.read(path, ["b", "ab"], "words").spell(["ab", "b"], "s") == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("at AE T\nbin B X\n", r"words.txt:2: 'bin' needs 'X'.*AE, B, T"),
        ("at\n", r"words.txt:1: 'at' is not spelled"),
        ("\n", "has no words"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_word_list_is_told(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "words.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Lexicon.read(path, ["AE", "B", "T"], "phonemes")


def test_words_that_the_lexicon_lacks_are_told() -> None:
    with pytest.raises(UserError, match=r"s7: the lexicon lacks 'blue', 'red'"):
        Lexicon([("bin", (0,))]).spell(["red", "bin", "blue"], "s7")
