from __future__ import annotations

import numpy as np
import pytest
import torch

from hrt_mm.data.time_span import TimeSpan
from hrt_mm.tasks.ctc import greedy
from hrt_mm.tasks.ctc.words import GreedyStream, WordJoiner


@pytest.mark.parametrize("size", [1, 3, 50])
def test_runs_are_those_of_greedy_decoding(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = (3 * torch.randn(50, 4, generator=generator)).log_softmax(-1)
    first = np.arange(50) * 2
    stream = GreedyStream("abc", 0.5)
    result: list[TimeSpan] = []
    for at in range(0, 50, size):
        chunk = slice(at, at + size)
        result += stream.feed(scores[chunk], first[chunk], first[chunk] + 2)
    result += stream.flush()
    assert [one.label for one in result] == ["abc"[index] for index in greedy(scores)]
    path = scores.argmax(-1).tolist()
    for one in result:
        steps = range(int(one.start), int(one.end))
        assert {path[step] for step in steps} == {"abc".index(one.label)}
        assert one.score == pytest.approx(float(scores[list(steps)].amax(-1).mean().exp()))
    assert stream.flush() == []


def test_a_symbol_is_given_once_another_step_has_ended_it() -> None:
    stream = GreedyStream("a", 0.1)
    certain = torch.tensor([[0.0, -9.0], [-9.0, 0.0]])
    assert stream.feed(certain[:1], np.array([0]), np.array([1])) == []
    assert stream.feed(certain[:1], np.array([1]), np.array([2])) == []
    (one,) = stream.feed(certain[1:], np.array([2]), np.array([3]))
    assert (one.label, one.start, one.end) == ("a", 0.0, 0.2)
    assert stream.flush() == []


def test_characters_spell_words() -> None:
    spelled = WordJoiner()
    letters = [TimeSpan(at, at + 0.5, letter, 0.5 + at / 8) for at, letter in enumerate("no  so")]
    result = [word for letter in letters for word in spelled.feed([letter])]
    assert result == [TimeSpan(0, 1.5, "no", 0.5625)]
    assert spelled.flush() == [TimeSpan(4, 5.5, "so", 1.0625)]
    assert spelled.flush() == []
