"""Files of Hugging Face ``tokenizers`` in many styles: texts come back as they were, or the file is refused."""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from hrt_mm.core.errors import ConfigError
from hrt_modalities.text import Text, TextConfig
from hrt_modalities.text.subwords import SubwordTokenizer, train_subwords

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEXTS = [
    "The quick brown fox can't jump over 12345 lazy dogs.\n\n    def f(x):\n\treturn x\r\n",
    " leading and trailing  ",
    "Grüße, 世界! café cafe\u0301 \u212b \ufb01 नमस्ते \U0001f469\u200d\U0001f680 đem Ġthe ▁x",
    "<|endoftext|> <mask> </s><s> a <mask> b    c",
    "\0\x01\x7f\u0085\u2028\ufeff\ufffd",
]
WORDS = ["the quick brown fox jumps over the lazy dog, isn't it? " * 20, *TEXTS]


def trained(change: Callable[[Any], object] | None = None) -> dict[str, Any]:
    """A byte-level tokenizer as the library writes it, changed by its own interface."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        WORDS, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    )
    if change is not None:
        change(library)
    result: dict[str, Any] = json.loads(library.to_str())
    return result


def split(pattern: str, behavior: str = "isolated", invert: bool = False) -> Callable[[Any], None]:
    """Split and then bytes, as most language models of today have it."""

    def change(library: Any) -> None:
        library.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior, invert),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    return change


def pre(*parts: Any) -> Callable[[Any], None]:
    return lambda library: setattr(library, "pre_tokenizer", pre_tokenizers.Sequence(list(parts)))


def both(*changes: Callable[[Any], object]) -> Callable[[Any], None]:
    def change(library: Any) -> None:
        for own in changes:
            own(library)

    return change


def template(library: Any) -> None:
    library.add_special_tokens(["<|begin|>"])
    begin = library.token_to_id("<|begin|>")
    library.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]),
        ]
    )


def added(*tokens: Any) -> Callable[[Any], None]:
    return lambda library: library.add_tokens(list(tokens))


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
NFC = normalizers.NFC()

SAME_IDS: dict[str, Callable[[Any], object]] = {
    "gpt2": both(),
    "llama3": both(split(LLAMA3), template),
    "gpt4o": split(LLAMA3, "isolated"),
    "without a regex": pre(PLAIN),
    "starcoder": pre(pre_tokenizers.Digits(individual_digits=True), BYTES),
    "falcon": pre(
        pre_tokenizers.Punctuation("contiguous"), BYTES, pre_tokenizers.Digits(), pre_tokenizers.Split("9", "isolated")
    ),
    "codegen": added(*(AddedToken(" " * count, normalized=True) for count in range(2, 9)), "\t\t"),
    "deepseek": lambda library: library.add_special_tokens(["<\uff5cend\u2581of\u2581sentence\uff5c>"]),
    "letters": added("\u0111em", "世界", "Ġfoxes", "\U0001f469\u200d\U0001f680"),
    "word alone": added(AddedToken("fox", single_word=True)),
    "no decoder": lambda library: setattr(library, "decoder", decoders.Fuse()),
}
"""Files of which nothing is left out: ids are those of the library."""
OTHER_IDS: dict[str, tuple[Callable[[Any], object], str]] = {
    "truncation": (lambda library: library.enable_truncation(2), "truncation"),
    "padding": (lambda library: library.enable_padding(length=24), "padding"),
    "prefix": (pre(pre_tokenizers.ByteLevel(add_prefix_space=True)), "add_prefix_space"),
    "lstrip": (added(AddedToken("<mask>", lstrip=True)), "lstrip of '<mask>'"),
    "rstrip": (added(AddedToken("<mask>", rstrip=True)), "rstrip of '<mask>'"),
    "dropout": (lambda library: setattr(library.model, "dropout", 0.5), "dropout 0.5"),
    "qwen": (both(split(QWEN), lambda library: setattr(library, "normalizer", NFC)), "normalizer NFC"),
    "gpt4": (split(LLAMA3, "removed", invert=True), "removal of what a split does not match"),
    "kept letters": (split(r"\p{L}+", "removed", invert=True), "removal of what a split does not match"),
}
"""Files of which something is not applied, and what the warning says."""


def saved(plain: object, folder: Path) -> Path:
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(plain))
    return file


def back(tokenizer: SubwordTokenizer, text: str) -> str:
    return tokenizer.restore(tokenizer([Text(text, (0,))]))[0].decode()


@pytest.mark.parametrize("style", SAME_IDS)
def test_texts_come_back_and_ids_are_those_of_the_library(
    style: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved(trained(SAME_IDS[style]), tmp_path)
    tokenizer = SubwordTokenizer(file)
    library = Library.from_file(str(file))
    for text in TEXTS:
        assert back(tokenizer, text) == text
        assert tokenizer([text]).x.tolist() == library.encode(text, add_special_tokens=False).ids
    assert tokenizer.vocabulary == library.get_vocab_size() + 1
    assert not caplog.messages


@pytest.mark.parametrize("style", OTHER_IDS)
def test_texts_come_back_and_a_warning_names_what_is_not_applied(
    style: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change, message = OTHER_IDS[style]
    with caplog.at_level(logging.WARNING):
        tokenizer = SubwordTokenizer(saved(trained(change), tmp_path))
    for text in TEXTS:
        assert back(tokenizer, text) == text
        assert tokenizer([text]).x.tolist() == tokenizer([text]).x.tolist(), "dropout would differ"
    (record,) = caplog.messages
    assert record.endswith(f"tokenizer.json: not applied, so that texts stay as they are: {message}")


def test_a_file_trained_here_gives_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train_subwords(WORDS, 300, tmp_path / "t.json")
    SubwordTokenizer(tmp_path / "t.json")
    assert not caplog.messages


def edited(**model: object) -> dict[str, Any]:
    plain = trained()
    plain["model"] |= model
    return plain


def without(char: str) -> dict[str, Any]:
    plain = trained()
    del plain["model"]["vocab"][char]
    plain["model"]["merges"] = []
    return plain


def token(content: str, number: int = 340) -> dict[str, object]:
    return {"id": number, "content": content, "special": False}


def normalized(normalizer: Any) -> Callable[[Any], None]:
    return lambda library: setattr(library, "normalizer", normalizer)


def llama2() -> dict[str, Any]:
    """SentencePiece: spaces are ▁, so that a text with ▁ cannot come back."""
    plain = edited(byte_fallback=True, unk_token="<unk>")
    prepend = {"type": "Prepend", "prepend": "▁"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return plain | {"normalizer": {"type": "Sequence", "normalizers": [prepend, replace]}, "pre_tokenizer": None}


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "lower case": (lambda: trained(normalized(normalizers.Lowercase())), "normalizer Lowercase, which changes texts"),
    "nfkc": (lambda: trained(normalized(normalizers.Sequence([NFC, normalizers.NFKC()]))), "normalizer NFKC"),
    "strip": (lambda: trained(normalized(normalizers.Strip())), "normalizer Strip"),
    "removed": (lambda: trained(split(r"\s+", "removed")), "Split with behavior Removed, which removes text"),
    "punctuation": (
        lambda: trained(pre(pre_tokenizers.Punctuation("removed"), BYTES)),
        "Punctuation with behavior Removed",
    ),
    "white space": (lambda: trained(pre(pre_tokenizers.WhitespaceSplit(), BYTES)), "pre-tokenizer WhitespaceSplit"),
    "scripts": (lambda: trained(pre(pre_tokenizers.UnicodeScripts(), BYTES)), "pre-tokenizer UnicodeScripts"),
    "metaspace": (lambda: trained(pre(pre_tokenizers.Metaspace(), BYTES)), "pre-tokenizer Metaspace"),
    "twice bytes": (lambda: trained(pre(BYTES, BYTES)), "turns text into bytes twice"),
    "no bytes": (lambda: trained(pre(pre_tokenizers.Digits())), "holds BPE over Digits, not ByteLevel"),
    "llama2": (llama2, "normalizer Prepend"),
    "word ends": (lambda: edited(end_of_word_suffix="</w>"), "end_of_word_suffix '</w>', which is no part of texts"),
    "word pieces": (lambda: edited(continuing_subword_prefix="##"), "continuing_subword_prefix '##'"),
    "bytes lack": (lambda: without("ÿ"), "no token for 1 of 256 bytes, the first 0xFF"),
    "two meanings": (
        lambda: trained() | {"added_tokens": [token("Ġthe", trained()["model"]["vocab"]["Ġthe"])]},
        r"added token 'Ġthe', which is also the subword of the bytes b' the'",
    ),
    "one id twice": (lambda: edited(vocab=trained()["model"]["vocab"] | {"a": 5}), "one id to two tokens"),
    "far ids": (lambda: edited(vocab=trained()["model"]["vocab"] | {"zz": 4_000_000_000}), "ids up to 4,000,000,000"),
    "strange merges": (lambda: edited(merges=[["a", "nothing"]]), "is broken"),
    "bad pattern": (
        lambda: trained() | {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}},
        "holds BPE over Split",
    ),
    "empty token": (lambda: trained() | {"added_tokens": [token("")]}, "added token '', which is no text"),
    "no flag": (lambda: edited(ignore_merges="false"), "ignore_merges must be true or false, got 'false'"),
    "unigram": (lambda: {"model": {"type": "Unigram"}, "pre_tokenizer": None}, "holds Unigram over no pre-tokenizer"),
}


@pytest.mark.parametrize("style", REFUSED)
def test_what_cannot_give_texts_back_is_refused_by_reason(style: str, tmp_path: Path) -> None:
    make, message = REFUSED[style]
    file = saved(make(), tmp_path)
    with pytest.raises(ConfigError, match=f"tokenizer.json .*{message}.*hrt-mm text subwords"):
        SubwordTokenizer(file)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"model": ' * 3000,
        b"[]",
        b"null",
        b'"text"',
        b'{"model": [], "pre_tokenizer": []}',
        b'{"model": {"type": "BPE", "vocab": [], "merges": []}, "pre_tokenizer": {"type": "ByteLevel"}}',
        b'{"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": 3}}',
        b'{"model": {"type": "BPE"}, "pre_tokenizer": {"type": ["ByteLevel"]}}',
        b'{"model": {"type": "BPE", "vocab": {}, "merges": 1' + b"0" * 5000 + b"}}",
        b"\x1f\x8b\x08\0\0",
        b"",
        "{}".encode("utf-16"),
    ],
)
def test_damaged_deep_and_foreign_files_give_one_error(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"tokenizer.json .*hrt-mm text subwords"):
        TextConfig(type="text", subwords=file).build()


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("pipe.json", "."):
        with pytest.raises(ConfigError, match="is no regular file"):
            SubwordTokenizer(tmp_path / name)


def test_old_files_without_a_type_and_with_a_mark_are_read(tmp_path: Path) -> None:
    plain = trained()
    del plain["model"]["type"], plain["model"]["ignore_merges"]
    plain["model"]["merges"] = [" ".join(merge) for merge in plain["model"]["merges"]]
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(plain), encoding="utf-8-sig")
    assert all(back(SubwordTokenizer(file), text) == text for text in TEXTS)


def test_unknown_settings_have_no_effect(tmp_path: Path) -> None:
    plain = edited(casing="lower") | {"postscript": {"type": "Lowercase"}}
    plain["pre_tokenizer"]["strip"] = True
    tokenizer = SubwordTokenizer(saved(plain, tmp_path))
    assert all(back(tokenizer, text) == text for text in TEXTS)


def test_words_are_taken_whole_where_merges_are_ignored(tmp_path: Path) -> None:
    plain = edited(ignore_merges=True)
    plain["model"]["vocab"]["Ġunmerged"] = 340
    tokenizer = SubwordTokenizer(saved(plain, tmp_path))
    assert tokenizer([" unmerged"]).x.tolist() == [340]
    assert back(tokenizer, " unmerged") == " unmerged"


def test_a_text_that_does_not_come_back_is_named_when_it_is_met(tmp_path: Path) -> None:
    tokenizer = SubwordTokenizer(saved(trained(), tmp_path))
    tokenizer._raw[tokenizer([" the"]).x.tolist()[0]] = b"other"
    with pytest.raises(ConfigError, match=r"tokenizer.json does not give the text back that begins with ' the'"):
        tokenizer([" the"])


def test_a_pattern_that_takes_too_long_is_named(tmp_path: Path) -> None:
    tokenizer = SubwordTokenizer(saved(trained(split("(a+)+b")), tmp_path))
    with pytest.raises(ConfigError, match=r"tokenizer.json cannot split a text: .*retry-limit"):
        tokenizer(["a" * 40])


def test_it_can_be_sent_to_workers(tmp_path: Path) -> None:
    tokenizer = SubwordTokenizer(saved(trained(SAME_IDS["llama3"]), tmp_path))
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy([TEXTS[0]]).x.tolist() == tokenizer([TEXTS[0]]).x.tolist()


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[SubwordTokenizer]:
    change = both(
        added("\u0111em", "    ", AddedToken("<mask>", lstrip=True, rstrip=True)), lambda lib: lib.enable_truncation(2)
    )
    styles = [SAME_IDS["gpt2"], both(split(LLAMA3), change), both(split(r"\w+", "removed", True), change)]
    return [SubwordTokenizer(saved(trained(style), tmp_path_factory.mktemp("any"))) for style in styles]


PIECES = st.sampled_from([" ", "\n", "<mask>", "đem", "the", "'s", "1", "\u0301", "é", "▁", "Ġ", "<", "\0"])


@settings(max_examples=80)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=12).map("".join)).filter(bool))
def test_any_text_comes_back(tokenizers: list[SubwordTokenizer], text: str) -> None:
    for tokenizer in tokenizers:
        assert back(tokenizer, text) == text


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=40))
def test_bytes_come_back_but_for_those_that_are_no_utf8(tokenizers: list[SubwordTokenizer], raw: bytes) -> None:
    expected = "".join(
        "\ufffd" if 0xDC80 <= ord(char) <= 0xDCFF else char for char in raw.decode("utf-8", "surrogateescape")
    )
    for tokenizer in tokenizers:
        assert tokenizer.restore(tokenizer([raw]))[0].decode() == expected


SCRAPS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 400), st.sampled_from(["BPE", "ByteLevel", "Split", "a", ""])),
    lambda own: st.one_of(
        st.lists(own, max_size=3), st.dictionaries(st.sampled_from(["type", "vocab", "a"]), own, max_size=3)
    ),
    max_leaves=6,
)
GOOD = json.dumps(trained(added("<mask>")))
KEYS = [("added_tokens",), ("pre_tokenizer",), ("normalizer",), ("model",), ("model", "vocab"), ("model", "merges")]
KEYS += [("model", "dropout"), ("pre_tokenizer", "type"), ("truncation",), ("decoder",), ("model", "ignore_merges")]


@settings(max_examples=80)
@given(st.sampled_from(KEYS), SCRAPS)
def test_a_damaged_file_is_refused_or_gives_texts_back(tmp_path: Path, key: tuple[str, ...], scrap: object) -> None:
    plain = json.loads(GOOD)
    *path, last = key
    inner = plain
    for part in path:
        inner = inner[part]
    inner[last] = scrap
    try:
        tokenizer = SubwordTokenizer(saved(plain, tmp_path))
    except ConfigError:
        return
    assert all(back(tokenizer, text) == text for text in TEXTS)
