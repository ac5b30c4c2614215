from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_modalities.text import ByteTokenizer, Text, TextConfig, TextTokenizer
from hrt_modalities.text.subwords import SubwordTokenizer, train_subwords
from hrt_modalities.text.tokenizer import TextEmbedding

TEXTS = [
    "Grüße, 世界!\n\nMr. Smith can't come.",
    "a",
    "def f(x):\n    return x + 1\n",
    "नमस्ते दुनिया। ठीक है।",
    "\0\0 nul",
]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = tmp_path_factory.mktemp("subwords") / "tokenizer.json"
    count = train_subwords(["the cat sat on the mat, the rat ran. " * 20, *TEXTS], 300, result)
    assert 257 < count <= 300
    return result


@pytest.fixture(params=["bytes", "subwords"])
def tokenizer(request: pytest.FixtureRequest, file: Path) -> TextTokenizer:
    return ByteTokenizer() if request.param == "bytes" else SubwordTokenizer(file)


def test_texts_come_back_as_they_were(tokenizer: TextTokenizer) -> None:
    tokens = tokenizer(TEXTS)
    assert tokenizer.restore(tokens) == [text.encode() for text in TEXTS]
    assert [int(item.sum()) for item in tokens.spans.split(tokenizer.num_bytes(tokens.x))] == [
        len(text.encode()) for text in TEXTS
    ]
    assert int(tokens.x.max()) < tokenizer.separator < tokenizer.vocabulary


def test_strings_and_their_bytes_are_the_same(tokenizer: TextTokenizer) -> None:
    assert torch.equal(tokenizer(TEXTS).x, tokenizer([text.encode() for text in TEXTS]).x)


def test_text_is_written_character_by_character(tokenizer: TextTokenizer) -> None:
    write = tokenizer.writer()
    pieces = [write(token) for token in tokenizer([TEXTS[0]]).x.tolist()]
    assert "".join(pieces) == TEXTS[0]
    write = tokenizer.writer()
    (half,) = tokenizer(["é"]).split()
    assert write(int(half[0])) in ("", "é")
    assert "�" in (write(tokenizer.separator) or "�")


def test_separators_stand_before_documents(tokenizer: TextTokenizer) -> None:
    whole = tokenizer(["\n\nab"]).x.tolist()
    (ids,) = tokenizer([Text("\n\nab", (0, 2, 4))]).split()
    marks = (ids == tokenizer.separator).nonzero().flatten().tolist()
    assert [token for token in ids.tolist() if token != tokenizer.separator] == whole
    assert tokenizer.restore(Tokens.pack([ids[: marks[1]], ids[marks[1] :]])) == [b"\n\n", b"ab"]
    assert marks[0] == 0 and marks[-1] == len(ids) - 1 and len(marks) == 3


def test_offsets_count_characters_of_strings_and_bytes_of_bytes() -> None:
    tokenizer = ByteTokenizer()
    (strings,) = tokenizer([Text("éa", (1,))]).split()
    (raw,) = tokenizer([Text("éa".encode(), (2,))]).split()
    assert strings.tolist() == raw.tolist() == [0xC3, 0xA9, 256, ord("a")]


def test_only_wanted_boundaries_are_found(tokenizer: TextTokenizer) -> None:
    assert not tokenizer(TEXTS).boundaries
    tokenizer = tokenizer.with_boundaries({"words", "sentences"})
    tokens = tokenizer(TEXTS)
    assert set(tokens.boundaries) == {"words", "sentences"}
    words, sentences = tokens.boundaries["words"], tokens.boundaries["sentences"]
    assert (words | ~sentences).all(), "a word starts wherever a sentence does"
    first = tokens.spans.host[:-1]
    assert words[first].all() and sentences[first].all()


def test_carried_boundaries_stand_in_for_found_ones() -> None:
    tokenizer = ByteTokenizer().with_boundaries({"words", "sentences"})
    tokens = tokenizer([Text("aé bc", boundaries={"words": (0, 3)})])
    assert tokens.boundaries["words"].nonzero().flatten().tolist() == [0, 4]
    assert tokens.boundaries["sentences"].nonzero().flatten().tolist() == [0]


def test_a_group_that_starts_inside_a_subword_starts_with_it(file: Path) -> None:
    tokenizer = SubwordTokenizer(file)
    tokenizer = tokenizer.with_boundaries({"words"})
    tokens = tokenizer(["the cat"])
    pieces = [tokenizer.raw(token) for token in tokens.x.tolist()]
    assert b" cat" in pieces, pieces
    assert tokens.boundaries["words"].tolist() == [index in (0, pieces.index(b" cat")) for index in range(len(pieces))]


@pytest.mark.parametrize("boundary", ["spaces", "lines"])
def test_decoding_finds_the_same_starts(boundary: str, tokenizer: TextTokenizer) -> None:
    tokenizer = tokenizer.with_boundaries({boundary})
    for text in [*TEXTS, Text("one two\nthree", (0, 4, 13))]:
        tokens = tokenizer([text])
        ids = tokens.x
        before = torch.cat([torch.tensor([-1]), ids[:-1]])
        result = tokenizer.starts(boundary, before, ids)
        assert result.tolist() == tokens.boundaries[boundary].tolist(), text


def test_an_embedding_sees_itself_and_the_few_before_it() -> None:
    torch.manual_seed(0)
    embedding = TextEmbedding(257, 8, recent=3).double()
    ids = torch.randint(257, (9,))
    spans = Spans.from_lengths([5, 4])

    def embedded(x: torch.Tensor) -> torch.Tensor:
        return embedding(Tokens(x, spans, spans.positions[:, None].float())).x

    base = embedded(ids)
    for index in range(9):
        other = ids.clone()
        other[index] = (other[index] + 1) % 257
        changed = (embedded(other) != base).any(-1).nonzero().flatten().tolist()
        end = 5 if index < 5 else 9
        assert changed == list(range(index, min(index + 3, end)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", r"text 1 of the batch: is empty"),
        (b"", r"is empty"),
        (3, r"is int, not text; give str, bytes or Text"),
        ("a\ud800b", r"lone surrogate .* at character 1, .*errors='replace'"),
        ("x" * 101, r"has 101 bytes, more than modality.max_bytes 100; raise it or cut it"),
        (Text("abc", (2, 1)), r"documents start at 1 after 2; offsets must rise"),
        (Text("abc", (4,)), r"documents start at 4, outside the text; the last place is 3"),
        (Text("abc", boundaries={"words": (3,)}), r"boundary 'words' start at 3, outside the text"),
    ],
)
def test_bad_texts_are_named(value: object, message: str) -> None:
    with pytest.raises(BadSample, match=message):
        ByteTokenizer(max_bytes=100)(["fine", value])


def test_invalid_bytes_stay_bytes_and_become_replacements_in_subwords(file: Path) -> None:
    raw = b"the \xff\xc3 cat \xe4\xb8"
    tokenizer = ByteTokenizer().with_boundaries({"words"})
    tokens = tokenizer([raw])
    assert tokenizer.restore(tokens) == [raw]
    assert tokens.boundaries["words"].nonzero().flatten().tolist() == [0, 7]
    subwords = SubwordTokenizer(file)
    subwords = subwords.with_boundaries({"words"})
    tokens = subwords([raw])
    assert subwords.restore(tokens)[0].decode() == raw.decode("utf-8", "surrogateescape").translate(
        dict.fromkeys(range(56448, 56576), "�")
    )
    assert tokens.boundaries["words"].sum() == 2


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "ab " * 3_000_000, "עברית English عربي 123 " * 20_000], ids=["one word", "9 MB", "mixed"]
)
def test_large_texts_take_no_quadratic_time(text: str) -> None:
    # A quadratic search would take hours, and end at the time limit of a test.
    tokenizer = ByteTokenizer().with_boundaries({"words", "sections", "spaces"})
    tokens = tokenizer([text])
    assert tokens.spans.total == len(text.encode())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", r"cannot be read.*hrt-mm text subwords"),
        (b"not json", r"is no tokenizer.json"),
        (b"{}", r"is no tokenizer.json \(KeyError\('model'\)\)"),
        (b'{"model": {"type": "WordPiece"}, "pre_tokenizer": {"type": "Whitespace"}}', r"WordPiece over Whitespace"),
        (b'{"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel"}}', r"is broken"),
    ],
)
def test_a_file_that_holds_no_subwords_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        TextConfig(type="text", subwords=file).build()
    with pytest.raises(ConfigError, match=r"missing.json cannot be read"):
        SubwordTokenizer(tmp_path / "missing.json")


def test_a_vocabulary_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no room beside 256 bytes; take 258 or more"):
        train_subwords(["abab"], 257, tmp_path / "t.json")
    with pytest.raises(ConfigError, match="too few"):
        train_subwords([], 300, tmp_path / "t.json")
    assert not list(tmp_path.iterdir())


def test_subwords_are_shorter_than_bytes(file: Path) -> None:
    text = "the cat ran on the mat " * 5
    assert SubwordTokenizer(file)([text]).spans.total < 0.6 * len(text)
    assert np.array_equal(SubwordTokenizer(file)([text]).x, SubwordTokenizer(file)([text]).x)
