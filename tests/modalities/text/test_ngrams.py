"""Vectors of hashed n-grams, against n-grams that are counted one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from hrt_mm.config import load_config
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens
from hrt_mm.inference.export import export_run
from hrt_mm.inference.generation import Session
from hrt_mm.inference.trained import evaluate_run, load_task
from hrt_mm.tasks import LanguageConfig, LanguageModel
from hrt_mm.train.loop import train
from hrt_modalities.text import TextConfig
from hrt_modalities.text.ngrams import HashedNgrams, NgramConfig

TEXTS = [b"Heart of gold, heart of stone", b"a", b"no", "ein Herz \u2665".encode()]


def embedding(**ngrams: object) -> tuple[TextConfig, torch.nn.Module]:
    config = TextConfig.model_validate({"type": "text", "ngrams": {"buckets": 1 << 20, **ngrams}})
    torch.manual_seed(0)
    module = config.build().embedding(8)
    # They start as zeros.
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return config, module


def embedded(config: TextConfig, module: torch.nn.Module, texts: list[bytes]) -> list[Tensor]:
    result: Tokens = module(config.build()(texts))
    return list(result.split())


def buckets(texts: list[bytes], sizes: tuple[int, ...], *, reads_bytes: bool = True) -> list[list[int]]:
    ngrams = HashedNgrams(NgramConfig(sizes=sizes, buckets=1 << 20), 8, reads_bytes=reads_bytes)
    tokens = TextConfig(type="text").build()(texts)
    rows: list[list[int]] = ngrams.buckets(tokens.x, tokens.spans.positions).tolist()
    return rows


def test_equal_ngrams_have_equal_rows_and_others_differ() -> None:
    rows = buckets(TEXTS, (3, 5))
    expected: dict[tuple[int, bytes], int] = {}
    index = 0
    for text in TEXTS:
        padded = b" " + text.lower()
        for end in range(len(text)):
            for column, size in enumerate((3, 5)):
                start = end + 2 - size
                row = rows[index][column]
                if start < 0:
                    assert row == 0
                else:
                    assert row == expected.setdefault((size, padded[start : end + 2]), row) != 0
            index += 1
    assert len(set(expected.values())) == len(expected), "a million rows are enough for these few n-grams"


def test_only_bytes_ignore_case_and_begin_after_a_space() -> None:
    assert buckets([b"AB ab"], (2,))[1] == buckets([b"AB ab"], (2,))[4]
    rows = buckets([b"AB ab"], (2,), reads_bytes=False)
    assert rows[0] == [0] and rows[1] != rows[4]


def test_a_batch_embeds_as_one_by_one() -> None:
    config, module = embedding(sizes=[2, 3, 6])
    together = embedded(config, module, TEXTS)
    for text, rows in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(rows, embedded(config, module, [text])[0])


def test_nothing_looks_ahead() -> None:
    config, module = embedding()
    whole = embedded(config, module, [b"one heart, two hearts"])[0]
    other = embedded(config, module, [b"one heart, ten hearts"])[0]
    assert torch.equal(whole[:12], other[:12]) and not torch.allclose(whole[12:], other[12:])


def test_the_receptive_field_is_enough_to_continue_a_text() -> None:
    config, module = embedding(sizes=[3, 9])
    field = config.build().receptive_field
    assert field == 9
    text = b"one heart, two hearts of gold"
    whole = embedded(config, module, [text])[0]
    for end in range(1, len(text) + 1):
        last = embedded(config, module, [text[max(0, end - field) : end]])[0][-1]
        torch.testing.assert_close(last, whole[end - 1])


def test_dropout_is_of_training_alone_and_keeps_the_mean() -> None:
    config, module = embedding(dropout=0.5)
    module.eval()
    plain = embedded(config, module, TEXTS[:1])[0]
    torch.testing.assert_close(embedded(config, module, TEXTS[:1])[0], plain)
    module.train()
    draws = torch.stack([embedded(config, module, TEXTS[:1])[0] for _ in range(2000)])
    assert draws.std(0).max() > 0
    torch.testing.assert_close(draws.mean(0), plain, atol=0.3, rtol=0)


def test_ngrams_before_a_text_have_no_vector_and_no_gradient() -> None:
    module = HashedNgrams(NgramConfig(sizes=(4,), buckets=8), 8, reads_bytes=True)
    tokens = TextConfig(type="text").build()([b"ab"])
    output = module(tokens)
    assert not output.any()
    output.sum().backward()
    assert module.weight.grad is None or not module.weight.grad.any()
    module.weight.data.fill_(1)
    module.reset_parameters()
    assert not module.weight.any()


@pytest.mark.parametrize(
    ("ngrams", "reason"),
    [
        ({"sizes": [3, 3]}, "sizes must rise"),
        ({"sizes": [1]}, "greater than or equal to 2"),
        ({"sizes": []}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(ngrams: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TextConfig.model_validate({"type": "text", "ngrams": ngrams})


def test_a_stem_refuses_ngrams() -> None:
    with pytest.raises(ValidationError, match="ngrams"):
        TextConfig.model_validate({"type": "text", "ngrams": {}, "stem": {"type": "transformers", "name": "bert"}})


DOCUMENTS = """\
modality: {type: text, ngrams: {buckets: 512, sizes: [3, 4]}}
model:
  levels:
    - {name: bytes, dim: 16, depth: 0, heads: 2, group: {type: given, boundary: words, max: 8, typical: 4}}
    - {name: words, dim: 16, depth: 1, heads: 2}
task: {type: classification, level: words}
optim: {lr: 1.0e-2, warmup_steps: 1}
train: {steps: 30, batch_size: 8, eval_every: 30, tensorboard: false, num_threads: 1}
"""


def rows(folder: Path) -> Path:
    words = {"good": ["fine film", "a fine one", "so fine"], "bad": ["dull film", "a dull one", "so dull"]}
    entries = [
        {"text": f"{text} {number}", "label": label, "split": split}
        for label, texts in words.items()
        for text in texts
        for number, split in enumerate(["train", "train", "val", "test"])
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, entries)))
    return folder / "rows.jsonl"


def run_of(folder: Path, *overrides: str) -> Path:
    (folder / "config.yaml").write_text(DOCUMENTS)
    data = f"data={{type: documents, file: {rows(folder)}}}"
    return train(load_config(folder / "config.yaml", [data, f"run.dir={folder / 'run'}", *overrides]))


def test_a_classifier_learns_words(tmp_path: Path) -> None:
    assert evaluate_run(run_of(tmp_path), "test")["test/accuracy"] == 1


def test_a_model_with_ngrams_exports(tmp_path: Path) -> None:
    run = run_of(tmp_path, "model.levels.0.group={type: fixed, stride: 4}", "train.steps=1", "train.test=false")
    exported = export_run(load_task(run, inputs="own"), tmp_path / "model.pt2", "pt2")
    assert exported.error < 1e-4


@pytest.mark.parametrize("group", [{"type": "fixed", "stride": 3}, {"type": "given", "boundary": "spaces", "max": 5}])
def test_writing_reads_the_same_ngrams_as_training(group: dict[str, object]) -> None:
    tokenizer = TextConfig.model_validate({"type": "text", "ngrams": {"buckets": 512}}).build()
    tokenizer = tokenizer.with_boundaries(["spaces"])
    levels = [
        {"name": "bytes", "dim": 16, "depth": 1, "heads": 2, "window": 3, "window_type": "sliding", "group": group},
        {"name": "words", "dim": 16, "depth": 1, "heads": 2},
    ]
    model = HierarchyConfig.model_validate({"levels": levels, "causal": True, "top_down": True})
    torch.manual_seed(0)
    task = LanguageConfig(type="language").build(model, tokenizer, None).eval()
    assert isinstance(task, LanguageModel)
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    prompts = [b"hearts of gold", b"a"]
    session = Session(task, tokenizer.prompts(prompts))
    for byte in b"en goes on":
        logits = session.step(torch.tensor([byte, byte]))
        prompts = [prompt + bytes([byte]) for prompt in prompts]
        pyramid = task.encoder(tokenizer.prompts(prompts))
        last = pyramid[0].spans.host[1:] - 1
        torch.testing.assert_close(logits, task.logits(pyramid[0].x[last]), atol=1e-5, rtol=1e-5)
