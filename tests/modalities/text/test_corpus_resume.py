"""A corpus goes on at the exact window, with and without workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hrt_mm.tasks.batch import Batch
from hrt_mm.tasks.language import LanguageConfig
from hrt_mm.train.data import TrainStream
from hrt_mm.train.sampler import Position, Sampler
from hrt_mm.train.samples import BadSamples, BatchMaker
from hrt_modalities.text import ByteTokenizer
from hrt_modalities.text.corpus import Corpus, CorpusConfig


def corpus(root: Path) -> Corpus:
    return CorpusConfig(type="corpus", files=(root,), val=0.1, test=0.1, context=32).build("train")


def stream(root: Path, start: Position, workers: int) -> TrainStream:
    result = corpus(root)
    maker = BatchMaker(result, LanguageConfig(type="language").collator({}, {"": ByteTokenizer()}, None), seed=3)
    return TrainStream(
        maker, Sampler(len(result), seed=3, batch_size=4), start, BadSamples("train", len(result), 0.1), workers=workers
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corpus_goes_on_at_the_exact_window(tmp_path: Path, workers: int) -> None:
    for index in range(12):
        (tmp_path / f"{index}.txt").write_text(f"Dokument {index} ist größer. " * (index + 2))
    whole = stream(tmp_path, Position(), 0)
    per_epoch = len(corpus(tmp_path)) // 4
    batches: list[tuple[Batch, Position]] = [(next(whole), whole.position) for _ in range(2 * per_epoch + 2)]
    assert not torch.equal(batches[0][0].tokens.x, batches[per_epoch][0].tokens.x), "epochs differ"
    for number in (0, 2, per_epoch - 1, per_epoch):
        rest = stream(tmp_path, batches[number][1], workers)
        for expected, position in batches[number + 1 : number + 4]:
            batch = next(rest)
            assert torch.equal(batch.tokens.x, expected.tokens.x) and batch.names == expected.names
            assert rest.position == position
        rest.close()
