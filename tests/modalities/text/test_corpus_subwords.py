"""Windows of a corpus under subwords: whole characters, each predicted once."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from hrt_modalities.text import ByteTokenizer
from hrt_modalities.text.corpus import Corpus, CorpusConfig
from hrt_modalities.text.subwords import SubwordTokenizer, train_subwords
from hrt_modalities.text.text import Text, char_start, decoded, marked
from hrt_modalities.text.tokenizer import _in_tokens

CHINESE = "人工智能是研究和开发用于模拟、延伸和扩展人的智能的理论。\n深度学习是机器学习的分支。" * 3
HINDI = "हिन्दी विश्व की एक प्रमुख भाषा है और भारत की राजभाषा है।\nनमस्ते दुनिया। " * 3
DOCUMENTS = [CHINESE.encode(), HINDI.encode(), "mixed 文字 and 😀🎉 emoji".encode(), b"x", "😀".encode()]
BROKEN = [
    b"\x80\x80\x80\x80\x80\x80ab\xe4\xb8",
    b"\x80\xbf\xff\xf0\x9f\x98",
    b"\xe4",
    b"\xb8\xad\xf4tail",
    b"\x80" * 50,
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SubwordTokenizer:
    file = tmp_path_factory.mktemp("subwords") / "t.json"
    train_subwords([CHINESE, HINDI], 330, file)
    return SubwordTokenizer(file)


def corpus(root: Path, documents: list[bytes], context: int, *, training: bool = False) -> Corpus:
    root.mkdir(exist_ok=True)
    for index, document in enumerate(documents):
        (root / f"{index:03}.txt").write_bytes(document)
    config = CorpusConfig(type="corpus", files=(root,), val_files=(root,), test=None, context=context)
    return config.build("train" if training else "val")


def predicted(tokenizer: SubwordTokenizer, found: Corpus) -> list[list[bytes | None]]:
    """What each window predicts: the bytes of its tokens after the first, with none for a separator."""
    ids = [tokenizer([found[index].value]).x.tolist() for index in range(len(found))]
    return [[None if token == tokenizer.separator else tokenizer.raw(token) for token in item[1:]] for item in ids]


def glued(pieces: list[bytes | None]) -> list[bytes]:
    """The documents of tokens."""
    whole = b"".join(b"\xfe" if piece is None else piece for piece in pieces)
    return whole.split(b"\xfe")


@pytest.mark.parametrize("context", [2, 3, 4, 5, 7, 16, 61, 100, 5000])
@pytest.mark.parametrize("documents", [DOCUMENTS, BROKEN, [*BROKEN, *DOCUMENTS]], ids=["text", "broken", "both"])
def test_every_character_is_predicted_once(
    tokenizer: SubwordTokenizer, documents: list[bytes], context: int, tmp_path: Path
) -> None:
    windows = predicted(tokenizer, corpus(tmp_path / "d", documents, context))
    assert glued(list(chain(*windows))) == [decoded(document)[1].encode() for document in documents]


@pytest.mark.parametrize("context", [16, 61])
def test_no_window_cuts_a_character(tokenizer: SubwordTokenizer, context: int, tmp_path: Path) -> None:
    for training in (False, True):
        torch.manual_seed(0)
        result = corpus(tmp_path / "d", DOCUMENTS, context, training=training)
        for index in range(len(result)):
            ids = tokenizer([result[index].value]).x.tolist()
            for part in glued([None if token == tokenizer.separator else tokenizer.raw(token) for token in ids[1:]]):
                part.decode()
            assert ids[0] == tokenizer.separator or b"\xef\xbf\xbd".find(tokenizer.raw(ids[0])) < 0
            assert len(ids) <= context + 3


def test_the_first_token_is_the_end_of_the_character_before(tokenizer: SubwordTokenizer, tmp_path: Path) -> None:
    result = corpus(tmp_path / "d", [CHINESE.encode()], 16)
    text = CHINESE.encode()
    for index in range(1, len(result)):
        first = tokenizer([result[index].value]).x[0]
        end = char_start(text, index * 15)
        last = text[:end].decode()[-1].encode()
        assert int(first) == tokenizer.encode(last)[0][-1]


def test_windows_of_bytes_stay_as_they_are(tmp_path: Path) -> None:
    result, text = corpus(tmp_path / "d", [CHINESE.encode()], 16), CHINESE.encode()
    for index in range(1, len(result)):
        assert bytes(ByteTokenizer()([result[index].value]).x.tolist()) == text[index * 15 - 1 :][:16]


@pytest.mark.parametrize("boundary", ["spaces", "lines", "words"])
def test_boundaries_lie_where_they_do_in_the_document(
    boundary: str, tokenizer: SubwordTokenizer, tmp_path: Path
) -> None:
    """All starts are at tokens; the rules that look at neighbours find in a window what they find in the whole."""
    text = HINDI.encode()
    wanting = SubwordTokenizer(tokenizer.file)
    wanting = wanting.with_boundaries({boundary})
    result = corpus(tmp_path / "d", [text], 61)
    for index in range(1, len(result)):
        tokens = wanting([result[index].value])
        starts = tokens.boundaries[boundary]
        assert starts.shape == tokens.x.shape and starts[0] and not starts.all()
        if boundary != "words":
            before = torch.cat([torch.tensor([-1]), tokens.x[:-1]])
            assert starts.tolist() == wanting.starts(boundary, before, tokens.x).tolist()


def test_places_that_the_data_carries_move_along() -> None:
    around = ("中".encode()[:2], "国".encode()[1:])
    content = "中".encode()[2:] + b"ab c" + "国".encode()[:1]
    text = Text(content, boundaries={"own": (0, 2, 4)}, around=around)
    whole = marked(text, "a", 100).whole()
    assert whole.content == "中ab c国".encode() and whole.lead == 3
    assert whole.boundaries["own"].tolist() == [2, 4, 6]
    assert marked(Text(content), "a", 100).whole().content == content


def test_as_many_tokens_as_bytes_are_not_taken_for_the_bytes() -> None:
    """A replaced byte may be three tokens, which a subword of three bytes makes up for."""
    starts = np.array([True, True, False, False])
    assert _in_tokens(starts, np.array([0, 0, 0, 1])).tolist() == [True, False, False, True]
