from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hrt_mm.data.time_span import TimeSpan
from hrt_mm.tasks.ctc import Hypothesis, greedy
from hrt_mm.tasks.ctc.beam import beam_search
from hrt_mm.tasks.ctc.lexicon import Lexicon
from hrt_modalities.speech.utterances import LONGEST_S, UtteranceStream, spelling_lengths

SYMBOLS = ("a", "b", "n")


def said(text: str) -> Tensor:
    """Steps of which each is nearly sure of its letter; ``-`` is the blank."""
    rows = torch.full((len(text), 4), -5.0)
    for step, letter in enumerate(text):
        rows[step, "abn-".index(letter)] = 0.0
    return rows.log_softmax(-1)


def streamed(stream: UtteranceStream, steps: Tensor, size: int) -> list[list[TimeSpan]]:
    first = np.arange(len(steps))
    parts = []
    for at in range(0, len(steps), size):
        chunk = slice(at, at + size)
        parts.append(stream.feed(steps[chunk], first[chunk], first[chunk] + 1))
    return [*parts, stream.flush()]


def plain(log_probs: Tensor) -> Hypothesis:
    return Hypothesis(tuple(greedy(log_probs)), 0.0)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_utterances_are_decoded_when_a_pause_has_ended_them(size: int) -> None:
    steps = said("-----ab-n------bb--nn-a----")
    parts = streamed(UtteranceStream(plain, SYMBOLS, 0.1), steps, size)
    result = [one for part in parts for one in part]
    assert [one.label for one in result] == list("abnbna")
    assert [(round(one.start, 1), round(one.end, 1)) for one in result[:4]] == [
        (0.5, 0.6),
        (0.6, 0.7),
        (0.8, 0.9),
        (1.5, 1.7),
    ]
    assert all(one.score is not None and 0.9 < one.score <= 1 for one in result)
    if size == 1:
        # Three blanks after the first utterance, long before the second one.
        assert [len(part) for part in parts[:13]] == [0] * 11 + [3, 0]


def test_speech_without_pauses_is_cut_where_a_blank_is_likeliest() -> None:
    steps = said("ab" * 300)
    steps[150, 3] = -0.7
    decoded: list[int] = []

    def decode(log_probs: Tensor) -> Hypothesis:
        decoded.append(len(log_probs))
        return plain(log_probs)

    parts = streamed(UtteranceStream(decode, SYMBOLS, 0.1), steps, 1)
    assert "".join(one.label for part in parts for one in part) == "ab" * 300
    assert decoded[0] == 151 and max(decoded) <= LONGEST_S / 0.1 + 1
    stream = UtteranceStream(plain, SYMBOLS, 0.1)
    assert not any(streamed(stream, said("-" * 500), 7)) and len(stream._log_probs_NK) == 0


def test_words_of_a_lexicon() -> None:
    lexicon = Lexicon([("ban", (1, 0, 2)), ("an", (0, 2)), ("an", (0, 0, 2)), ("b", (1,))])
    stream = UtteranceStream(lambda steps: beam_search(steps, 8, lexicon), SYMBOLS, 0.1, lexicon)
    result = [one for part in streamed(stream, said("b-aan----a-an-b---"), 4) for one in part]
    assert [(one.label, round(one.start, 1), round(one.end, 1)) for one in result] == [
        ("ban", 0.0, 0.5),
        ("an", 0.9, 1.3),
        ("b", 1.4, 1.5),
    ]


def test_spellings_are_told_apart() -> None:
    lexicon = Lexicon([("x", (0,)), ("x", (0, 1)), ("y", (1, 2)), ("y", (2,))], space=None)
    assert spelling_lengths((0, 1, 2), ("x", "y"), lexicon) in ([1, 2], [2, 1])
    assert spelling_lengths((0, 1, 1, 2), ("x", "y"), lexicon) == [2, 2]
    parted = Lexicon([("ab", (0, 1)), ("b", (1,))], space=3)
    assert spelling_lengths((0, 1, 3, 1), ("ab", "b"), parted) == [2, 1]
