"""Texts read by the static word vectors of WordLlama."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import MissingLibrary
from hrt_mm.core.tokens import Tokens
from hrt_modalities.text import TextConfig, word_vectors
from hrt_modalities.text.word_vectors import FILES, WordVectorTokenizer

WORDS = ["\u2581", "\u2581heart", "\u2581of", "\u2581gold", "<", "s", ">"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like WordLlama with some words, and a vector of 4 dimensions for each."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    letters = sorted({letter for word in WORDS for letter in word} - {*WORDS})
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            tokens.append(word[:end])
            merges.append((word[: end - 1], word[end - 1]))
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys([*tokens, *letters]))}
    library = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges)), unk_token="<unk>", byte_fallback=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    library.decoder = decoders.ByteFallback()
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    folder = tmp_path / "wordllama"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    save_file({"embedding.weight": torch.randn(len(vocabulary), 4).half()}, folder / FILES[0])
    (folder / FILES[1]).write_text(library.to_str(), encoding="utf-8")
    spec = ModuleSpec("wordllama", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(word_vectors, "find_spec", lambda name: spec)
    word_vectors.load.cache_clear()
    return folder


@pytest.fixture(autouse=True)
def _forget() -> None:
    word_vectors.load.cache_clear()


def built() -> WordVectorTokenizer:
    tokenizer = TextConfig(type="text", word_vectors="wordllama").build()
    assert isinstance(tokenizer, WordVectorTokenizer)
    return tokenizer


@pytest.mark.parametrize("text", ["heart of gold", "\u2603 heart", "a\n  b", "<s> of", "\u041f\u0440\u0438"])
def test_texts_come_back_and_offsets_are_in_bytes(package: Path, text: str) -> None:
    tokenizer = built()
    assert tokenizer.restore(tokenizer([text])) == [text.encode()]
    ids, offsets = tokenizer.encode(text.encode())
    assert len(ids) == len(offsets) and offsets[0] == 0 and offsets[-1] < len(text.encode())
    assert (offsets[1:] >= offsets[:-1]).all()


def test_words_start_at_their_subwords(package: Path) -> None:
    tokenizer = built()
    tokenizer.requested_boundaries = frozenset({"words"})
    tokens = tokenizer(["heart of gold"])
    assert [tokenizer.raw(token) for token in tokens.x.tolist()] == [b" heart", b" of", b" gold"]
    assert tokens.boundaries["words"].tolist() == [True, True, True]


def test_vectors_are_fixed_and_only_their_map_is_learned(package: Path) -> None:
    torch.manual_seed(0)
    tokenizer = built()
    embedding = tokenizer.embedding(8)
    assert [name for name, _ in embedding.named_parameters()] == ["map.weight"]
    assert list(embedding.state_dict()) == ["map.weight"]
    tokens = tokenizer(["heart heart", "of"])
    out = embedding(tokens)
    assert isinstance(out, Tokens) and out.x.shape == (3, 8)
    assert torch.equal(out.x[0], out.x[1]) and not torch.equal(out.x[0], out.x[2])


def test_other_vectors_are_another_vocabulary(package: Path) -> None:
    before = built().vocabularies()
    assert built().vocabularies() == before
    save_file({"embedding.weight": torch.zeros_like(word_vectors.load()[1])}, package / FILES[0])
    word_vectors.load.cache_clear()
    assert built().vocabularies() != before


def test_a_package_without_its_files_is_named(package: Path) -> None:
    (package / FILES[1]).unlink()
    word_vectors.load.cache_clear()
    with pytest.raises(ConfigError, match=r"has no tokenizers/.*; install wordllama 0\.4"):
        built()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_vectors, "find_spec", lambda name: None)
    with pytest.raises(MissingLibrary, match="hrt-mm\\[demo\\]"):
        built()


@pytest.mark.parametrize("other", [{"subwords": "tokenizer.json"}, {"recent": 4}])
def test_settings_without_effect_are_refused(other: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="brings its own subwords"):
        TextConfig.model_validate({"type": "text", "word_vectors": "wordllama", **other})


@pytest.mark.skipif(find_spec("wordllama") is None, reason="the extra demo is not installed")
def test_related_words_are_near_each_other() -> None:
    tokenizer = built()
    table_VE = word_vectors.load()[1].float()

    def mean(text: str) -> torch.Tensor:
        return torch.nn.functional.normalize(table_VE[tokenizer([text]).x].mean(0), dim=0)

    skull, bones, clock = mean("skull"), mean("head of a skeleton"), mean("alarm clock")
    assert skull @ bones > skull @ clock + 0.1
