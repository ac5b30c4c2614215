"""Lexical controls of retrieval between pictures and texts: words and pixels, without training.

A text finds the training samples whose texts are most like it, and then the test pictures whose pixels are most like
theirs; a picture finds texts the other way round. Nothing of a test sample is seen but the query and the answers.

Shapes: Q queries, M training samples, N answers, P pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from hrt_mm.data.dataset import Dataset
from hrt_mm.data.sample import Sample
from hrt_mm.metrics.retrieval import rank_scores
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.retrieval.hybrid import K
from hrt_mm.retrieval.lexical import words_of

SIDE = 16
"""Pixels of a picture's side."""
NEIGHBOURS = 10
"""Training samples that stand for a query."""
Similarity = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""(Q, N) similarities of texts."""


def by_bm25(queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """(Q, N) BM25 over words, by bm25s."""
    import bm25s

    index = bm25s.BM25()
    index.index([words_of(text) for text in texts], show_progress=False)
    scores_QN = np.zeros((len(queries), len(texts)), np.float32)
    for row_N, query in zip(scores_QN, queries, strict=True):
        if known := [word for word in words_of(query) if word in index.vocab_dict]:
            row_N[:] = index.get_scores(known)
    return scores_QN


def by_ngrams(queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """(Q, N) cosine of TF-IDF over character 2- to 4-grams within words, by scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))
    matrix = vectorizer.fit_transform(texts)
    similarities: np.ndarray = (vectorizer.transform(queries) @ matrix.T).toarray().astype(np.float32)
    return similarities


WAYS: Mapping[str, Similarity] = {"BM25 of words": by_bm25, "character n-grams": by_ngrams}


class Controls:
    """The controls of a dataset's texts and of one of its pictures.

    Args:
        train: samples with both, without augmentation.
        test: the same.
        picture: tower of the pictures.
        text: tower of the texts.
    """

    def __init__(self, train: Dataset, test: Dataset, picture: str, text: str = "text") -> None:
        self.picture, self.text, self._dataset = picture, text, test
        self._train, self._test = self._read(train), self._read(test)

    def scores(self) -> dict[str, float]:
        """Figures by control, direction and name: ``BM25 of words: text_to_image/R@1``."""
        figures: dict[str, float] = {}
        for name, similarity in WAYS.items():
            for way, scores_QN in self.similarities(similarity).items():
                figures |= {f"{name}: {way}/{key}": value for key, value in self.ranked(scores_QN).items()}
        return figures

    def similarities(self, similarity: Similarity) -> dict[str, Tensor]:
        """(Q, N) similarities of test samples by direction."""
        texts, pixels_MP, _ = self._train
        test_texts, test_pixels_NP, _ = self._test
        texts_QM = similarity(test_texts, texts)
        pixels_QM = test_pixels_NP @ pixels_MP.T
        to_picture_QN = _standing_for(texts_QM) @ pixels_QM.T
        to_text_QN = _standing_for(pixels_QM) @ similarity(texts, test_texts)
        return {
            f"{self.text}_to_{self.picture}": torch.from_numpy(to_picture_QN),
            f"{self.picture}_to_{self.text}": torch.from_numpy(to_text_QN),
        }

    def of_run(self, embedder: Embedder) -> dict[str, Tensor]:
        """(Q, N) similarities of the vectors of a run, by direction."""
        samples = [self._dataset[index] for index in range(len(self._dataset))]
        both = [each.value for each in samples if self._has_both(each)]
        vectors = {
            tower: torch.from_numpy(embedder.vectors(tower, [value[tower] for value in both]))
            for tower in (self.text, self.picture)
        }
        scores_QN = vectors[self.text] @ vectors[self.picture].T
        return {f"{self.text}_to_{self.picture}": scores_QN, f"{self.picture}_to_{self.text}": scores_QN.T}

    def _has_both(self, sample: Sample) -> bool:
        return all(sample.value.get(tower) is not None for tower in (self.text, self.picture))

    def _read(self, dataset: Dataset) -> tuple[list[str], np.ndarray, list[str]]:
        """Texts, (N, P) unit vectors of centred pixels, and labels of samples that have both."""
        texts, pixels, labels = [], [], []
        for sample in (dataset[index] for index in range(len(dataset))):
            if self._has_both(sample):
                small = resize(sample.value[self.picture].float(), [SIDE, SIDE], antialias=True).mean(0).flatten()
                small = small - small.mean()
                texts.append(str(sample.value[self.text]))
                pixels.append((small / small.norm().clamp(min=1e-6)).numpy())
                labels.append(str(sample.label))
        return texts, np.stack(pixels), labels

    def ranked(self, scores_QN: Tensor) -> dict[str, float]:
        """Figures of similarities of test samples, where samples of a label are right."""
        labels = self._test[2]
        numbers_N = torch.tensor([labels.index(label) for label in labels])
        return rank_scores(scores_QN, numbers_N[:, None] == numbers_N).metrics()


def fused(first_QN: Tensor, second_QN: Tensor) -> Tensor:
    """(Q, N) reciprocal rank fusion of two similarities."""
    ranks = [
        scores_QN.argsort(dim=1, descending=True, stable=True).argsort(dim=1) for scores_QN in (first_QN, second_QN)
    ]
    return sum((1 / (K + 1 + rank_QN.double()) for rank_QN in ranks), torch.zeros_like(first_QN, dtype=torch.float64))


def _standing_for(similarities_QM: np.ndarray) -> np.ndarray:
    """(Q, M) weights of the nearest training samples: their similarities, 0 for all others."""
    nearest_QK = np.argsort(-similarities_QM, 1, kind="stable")[:, :NEIGHBOURS]
    weights_QM = np.zeros_like(similarities_QM)
    np.put_along_axis(weights_QM, nearest_QK, np.take_along_axis(similarities_QM, nearest_QK, 1), 1)
    return np.maximum(weights_QM, 0)
