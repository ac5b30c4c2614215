"""Lexical controls of retrieval: a text finds pictures by the training pictures of similar texts."""

from __future__ import annotations

import pytest
import torch

from benchmarks.lexical_controls import WAYS, Controls, fused
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.sample import Sample

SHAPES = ("top", "left", "diagonal")


def picture(shape: str, seed: int) -> torch.Tensor:
    """A noisy picture of a shape."""
    pixels = torch.zeros(1, 16, 16)
    if shape == "top":
        pixels[:, :8] = 200
    elif shape == "left":
        pixels[:, :, :8] = 200
    else:
        pixels[:, torch.arange(16), torch.arange(16)] = 200
    return pixels + torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed)) * 20


class Shapes(Dataset):
    """Pictures of shapes with texts."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.rows = [(shape, f"{word} {shape}") for word in words for shape in SHAPES]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        shape, text = self.rows[index]
        return Sample({"image": picture(shape, index), "text": text}, shape, text)


@pytest.mark.parametrize("name", WAYS)
def test_texts_find_pictures_by_similar_texts_and_the_reverse(name: str) -> None:
    pytest.importorskip("bm25s")
    controls = Controls(Shapes(("red", "blue")), Shapes(("green",)), "image")
    by_way = controls.similarities(WAYS[name])
    assert set(by_way) == {"text_to_image", "image_to_text"}
    for scores_QN in by_way.values():
        assert controls.ranked(scores_QN)["R@1"] == 1
    assert controls.scores()[f"{name}: text_to_image/R@1"] == 1


def test_texts_without_a_known_word_find_nothing() -> None:
    pytest.importorskip("bm25s")
    controls = Controls(Shapes(("red",)), Shapes(("red",)), "image")
    assert not WAYS["BM25 of words"](["?!", "zzz"], ["red top"]).any()
    assert controls.ranked(torch.zeros(3, 3))["R@1"] == 0


def test_fusion_is_by_rank() -> None:
    first, second = torch.tensor([[9.0, 5.0, 1.0]]), torch.tensor([[0.1, 0.3, 0.2]])
    expected = [1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62]
    assert fused(first, second)[0].tolist() == pytest.approx(expected)
