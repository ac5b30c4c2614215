"""Texts read by encoders of transformers, held to the library's own forward pass."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hrt_mm.core.errors import ConfigError
from hrt_modalities.text import Text, TextConfig
from hrt_modalities.text import encoders as text_encoders
from hrt_modalities.text.encoders import EncoderTokenizer, TextEncoderEmbedding
from tests.modalities.text.small_encoders import WORDS, saved

transformers = pytest.importorskip("transformers")

TEXT = "The cat  sat on the MAT. Dogs ran,\n\nand the un\u00addoing CAT\u00e9 sat."


def build(folder: Path, *boundaries: str, **stem: Any) -> tuple[EncoderTokenizer, TextEncoderEmbedding]:
    config = TextConfig.model_validate({"type": "text", "stem": {"type": "transformers", "name": str(folder)} | stem})
    tokenizer = config.build().with_boundaries(boundaries)
    module = tokenizer.embedding(16)
    assert isinstance(tokenizer, EncoderTokenizer) and isinstance(module, TextEncoderEmbedding)
    return tokenizer, module.eval()


def features(tokenizer: EncoderTokenizer, module: TextEncoderEmbedding, *values: Any) -> list[Tensor]:
    tokens = tokenizer(values)
    with torch.no_grad():
        return list(module.features(tokens).split(tokens.spans.lengths.tolist()))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra", "t5"])
def test_embeddings_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    model = saved(tmp_path, kind, positions=40)
    library = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer, module = build(tmp_path)
    texts = [TEXT, "a dog", "the cat sat on the mat .", "[SEP] the"]
    for text, result in zip(texts, features(tokenizer, module, *texts), strict=True):
        # The library reads "[SEP]" in a text as a command.
        inputs = library(text.replace("[SEP]", "[ sep ]"), return_tensors="pt")
        with torch.no_grad():
            expected = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).last_hidden_state[0]
        assert torch.allclose(result, expected[1:-1], atol=1e-5)


def test_words_and_sentences_group_subwords_where_they_begin(tmp_path: Path) -> None:
    saved(tmp_path)
    tokenizer, _ = build(tmp_path, "words", "sentences", "paragraphs")
    tokens = tokenizer([f"  {TEXT}"])
    names = [str(tokenizer._library.id_to_token(token)) for token in tokens.x.tolist()]
    words: list[str] = []
    for name, starts in zip(names, tokens.boundaries["words"].tolist(), strict=True):
        words = [*words, name] if starts else [*words[:-1], f"{words[-1]} {name}"]
    # Signs belong to the word before them. The normalizer drops the soft hyphen, accents and case.
    assert words == [
        "the",
        "cat",
        "sat",
        "on",
        "the",
        "mat .",
        "dog ##s",
        "ran ,",
        "and",
        "the",
        "un ##do ##ing",
        "[UNK]",
        "sat .",
    ]
    sentences = [name for name, starts in zip(names, tokens.boundaries["sentences"].tolist(), strict=True) if starts]
    assert sentences == ["the", "dog", "and"]
    paragraphs = [name for name, starts in zip(names, tokens.boundaries["paragraphs"].tolist(), strict=True) if starts]
    assert paragraphs == ["the", "and"]


def test_offsets_count_bytes_and_what_is_dropped_before_a_subword(tmp_path: Path) -> None:
    saved(tmp_path)
    tokenizer, _ = build(tmp_path)
    ids, offsets = tokenizer.encode("猫 é  cat".encode())
    assert [tokenizer._library.id_to_token(token) for token in ids] == ["猫", "[UNK]", "cat"]
    assert offsets.tolist() == [0, 3, 6]
    assert tokenizer.steps("猫 é  cat", [0, 4, 8]) == [0, 2, 3]
    assert tokenizer.positions("猫 é  cat", [0, 1, 2, 3]) == [0, 3, 6, 11]
    assert tokenizer.encode(b" \t ")[0].tolist() == [1] and tokenizer.encode(b"\xff cat")[1].tolist() == [0]


def test_long_documents_are_read_in_overlapping_windows(tmp_path: Path) -> None:
    model = saved(tmp_path, positions=18)
    tokenizer, module = build(tmp_path)
    assert module.window == 16
    text = " ".join(WORDS[n % 8] for n in range(40))
    (result,) = features(tokenizer, module, text)
    ids = tokenizer([text]).x
    assert len(ids) == len(result) == 40

    def window(first: int, last: int) -> Tensor:
        inputs = torch.cat([torch.tensor([2]), ids[first:last], torch.tensor([3])])[None]
        with torch.no_grad():
            hidden: Tensor = model(input_ids=inputs).last_hidden_state[0, 1:-1]
        return hidden

    # Windows start at 0, 12 and 24, and the two outputs at their inner edges are left out.
    expected = torch.cat([window(0, 16)[:14], window(12, 28)[2:14], window(24, 40)[2:]])
    assert torch.allclose(result, expected, atol=1e-5)


def test_texts_of_a_batch_do_not_affect_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, positions=12)
    tokenizer, module = build(tmp_path)
    texts = [TEXT, "a", "the cat sat on the mat", TEXT * 3]
    together = features(tokenizer, module, *texts)
    monkeypatch.setattr(text_encoders, "_BATCH", 20)
    for text, result, other in zip(texts, together, features(tokenizer, module, *texts), strict=True):
        assert torch.allclose(result, features(tokenizer, module, text)[0], atol=1e-5)
        assert torch.allclose(result, other, atol=1e-5)


def test_documents_of_a_text_are_encoded_alone(tmp_path: Path) -> None:
    saved(tmp_path)
    tokenizer, module = build(tmp_path)
    (both,) = features(tokenizer, module, Text("the cat.a dog", (0, 8)))
    first, second = features(tokenizer, module, "the cat.", "a dog")
    assert len(both) == 7 and not both[0].any() and not both[4].any()
    assert torch.allclose(both[1:4], first, atol=1e-5) and torch.allclose(both[5:], second, atol=1e-5)


def test_frozen_embeddings_are_computed_once(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    tokenizer, module = build(tmp_path / "model", freeze=True, cache={"dir": str(tmp_path / "cache")})
    texts = [TEXT, "a dog", Text("the cat.a dog", (0, 8))]
    once, again = (features(tokenizer, module, *texts[:count]) for count in (2, 3))
    cache = module.encoder.cache
    assert cache is not None and (cache.hits, cache.misses) == (2, 3)
    uncached = features(*build(tmp_path / "model"), *texts)
    for one, other in zip([*once, *again], [*uncached[:2], *uncached], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_gradients_reach_what_is_trained(tmp_path: Path) -> None:
    saved(tmp_path)
    for freeze, expected in ((True, [False, False]), (False, [True, True]), (1, [False, True])):
        tokenizer, module = build(tmp_path, freeze=freeze)
        module.train()(tokenizer(["the cat sat", "a dog"])).x.square().sum().backward()
        model: Any = module.encoder.encoder
        layers = [layer.attention.self.query.weight.grad is not None for layer in model.encoder.layer]
        assert layers == expected and module.project.weight.grad is not None


def test_subwords_can_be_written_and_sent_to_workers(tmp_path: Path) -> None:
    saved(tmp_path)
    tokenizer, _ = build(tmp_path)
    assert tokenizer.restore(tokenizer(["The dogs ran"])) == [b" the dogs ran"]
    assert tokenizer.num_bytes(torch.tensor([tokenizer.separator, 5])).tolist() == [0, 4]
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(copied([TEXT]).x, tokenizer([TEXT]).x)
    with pytest.raises(ConfigError, match="cannot be exported"):
        tokenizer.dense_axes()
    assert copied.vocabularies() == tokenizer.vocabularies()


def test_bad_encoders_are_explained(tmp_path: Path) -> None:
    saved(tmp_path / "bert")
    with pytest.raises(ConfigError, match=r"stem\.window 30: .* reads 22 subwords at most; lower it"):
        build(tmp_path / "bert", window=30)
    with pytest.raises(ConfigError, match=r"stem\.layers 3: the encoder has 2"):
        build(tmp_path / "bert", layers=3)
    with pytest.raises(ConfigError, match="there is no such folder"):
        build(tmp_path / "nothing")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    hubert = transformers.HubertConfig(**sizes, num_conv_pos_embedding_groups=1, conv_dim=(4,) * 7)
    transformers.HubertModel(hubert).save_pretrained(tmp_path / "hubert")
    with pytest.raises(ConfigError, match="this model reads sound, and the stem embeds text"):
        build(tmp_path / "hubert")
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(tmp_path / "untokenized")
    with pytest.raises(ConfigError, match=r"the folder has no tokenizer\.json"):
        build(tmp_path / "untokenized")
    weights = tmp_path / "bert" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"the weights cannot be read .* cut short or damaged"):
        build(tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer.json").write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(ConfigError, match="the tokenizer cannot be read"):
        build(tmp_path / "bert")


@pytest.mark.parametrize("key", [{"recent": 2}, {"word_vectors": "wordllama"}, {"subwords": "x.json"}])
def test_settings_of_other_tokenizers_are_refused(key: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="stem brings its own subwords and embeddings"):
        TextConfig.model_validate({"type": "text", "stem": {"type": "transformers", "name": "x"}} | key)
