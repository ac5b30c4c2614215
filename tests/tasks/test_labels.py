from __future__ import annotations

import math

import pytest
import torch

from hrt_mm.tasks.labels import class_counts, macro_f1


def reference(guess: list[int], target: list[int], classes: int) -> float:
    scores = []
    for label in range(classes):
        pairs = [(g, t) for g, t in zip(guess, target, strict=True) if t != -1]
        hits = sum(g == t == label for g, t in pairs)
        true, guessed = sum(t == label for _, t in pairs), sum(g == label for g, _ in pairs)
        if true:
            scores.append(2 * hits / (true + guessed))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_that_of_all_batches_together(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(-1, 4, (57,), generator=generator)
    guess = torch.randint(0, 4, (57,), generator=generator)
    counts = class_counts(guess[:20], target[:20], 4) + class_counts(guess[20:], target[20:], 4)
    assert macro_f1(counts) == pytest.approx(reference(guess.tolist(), target.tolist(), 4))


def test_a_majority_guess_is_worth_little() -> None:
    target = torch.tensor([0] * 98 + [1, 2])
    counts = class_counts(torch.zeros(100, dtype=torch.int64), target, 3)
    assert macro_f1(counts) == pytest.approx(2 * 98 / 198 / 3)


def test_without_true_samples_there_is_no_score() -> None:
    assert math.isnan(macro_f1(class_counts(torch.tensor([1]), torch.tensor([-1]), 3)))
